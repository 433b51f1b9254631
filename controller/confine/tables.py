"""What the CLI prints, as pure functions from the daemon's answers to text."""

import time

from confine.core.decisions import spoken
from confine.core.text import several
from confine.log import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BAR = 10
COLOURS = {"started": "32", "production": "32", "deployed": "36", "allocated": "36", "safe": "36", "registered": "37"}
FAILED = "31"


def paint(text: str, state: str, colour: bool) -> str:
    """`text` in the colour of `state`; red for failures."""
    if not colour:
        return text
    code = FAILED if state.startswith("fail") or state == "debug" else COLOURS.get(state, "37")
    return "\x1b[{}m{}\x1b[0m".format(code, text)


def ago(moment: "float | None", now: float) -> str:
    """How long ago `moment` was, for a person."""
    if moment is None:
        return "never"
    seconds = max(0, int(now - moment))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return "{} {} ago".format(seconds // size, unit)
    return "{} s ago".format(seconds)


def amount(size: "int | None") -> str:
    """Bytes as MiB, for a person."""
    if size is None:
        return "-"
    return "{:.1f}".format(size / 1048576) if size < 10 * 1048576 else "{:.0f}".format(size / 1048576)


def bar(done: int, total: "int | None") -> str:
    """A progress bar, or the bytes so far where the total is not known."""
    if not total:
        return amount(done) + " MiB"
    filled = min(BAR, done * BAR // total)
    return "[{}{}] {:3d}%".format("#" * filled, "." * (BAR - filled), min(100, done * 100 // total))


def doing(sliver: "dict[str, Any]") -> str:
    """What happens with a sliver now, what people decided about it, or what is wrong with it."""
    decided = " ".join(sliver.get("decisions") or [])
    if decided:
        return decided
    progress = sliver.get("progress")
    if progress:
        text = str(progress["step"])
        return text + " " + bar(progress["done"], progress["total"]) if progress["done"] else text
    errors = sliver.get("errors") or []
    return "; ".join((error["member"] + " " + error["message"]).strip() for error in errors)


def table(rows: "list[list[str]]", paints: "list[str] | None" = None) -> "list[str]":
    """Rows in columns as wide as they need, the last one free. `paints`: a colour code's state for each row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell + " " * (width - len(cell)) for cell, width in zip(row, widths)]  # noqa: B905  # last is free
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    if paints:
        lines = [paint(line, state, True) if state else line for line, state in zip(lines, paints, strict=True)]
    return lines


def status(doc: "dict[str, Any]", colour: bool, now: "float | None" = None) -> str:
    """The whole status as a person reads it."""
    now = time.time() if now is None else now
    return "\n".join([*_head(doc, colour, now), "", *_slivers(doc["slivers"], colour)]) + "\n"


def slivers(docs: "list[dict[str, Any]]", colour: bool) -> str:
    """The slivers' part of the status."""
    return "\n".join(_slivers(docs, colour)) + "\n"


def _head(doc: "dict[str, Any]", colour: bool, now: float) -> "list[str]":
    node, registry = doc["node"], doc["registry"]
    name = "node {} {}".format("{:04x}".format(node["id"]) if node.get("id") else "(no id)", node.get("name") or "")
    state = node["state"]
    asked = node.get("set_state")
    wanted = "" if asked in (None, state) else " (asked: {})".format(asked)
    lines = ["{}  {}{}".format(name.strip(), paint(state, state, colour), wanted)]
    where = ", ".join(registry["uris"]) or "none set"
    lines.append("registry {}  read {}".format(where, ago(registry["last_read"], now)))
    if registry["error"]:
        lines.append(paint("  " + registry["error"], "fail", colour))
    overlay = doc.get("overlay")
    if overlay and overlay["asked"]:
        reached = ", ".join(peer["name"] for peer in overlay["peers"] if peer["reachable"])
        lines.append("overlay {}  {}".format(overlay["address"], "reaches " + reached if reached else "reaches nobody"))
    lent = doc["lent"]
    lines.append(
        "lent: memory {memory_booked} of {memory_total} MiB booked, disk {disk_booked} of {disk_total} MiB".format(
            **lent
        )
    )
    for error in node.get("errors") or []:
        lines.append(paint("  " + (error["member"] + " " + error["message"]).strip(), "fail", colour))
    return lines


def overlay(doc: "dict[str, Any]", colour: bool, now: "float | None" = None) -> str:
    """The overlay, its peers, and what is to be done with the node's key."""
    now = time.time() if now is None else now
    if not doc["asked"]:
        return "no overlay is asked for (overlay.enabled, or the node's mgmt_net in the registry)\n"
    running = "runs" if doc["running"] else "does not run"
    lines = ["overlay {}  {}  tincd {}".format(doc["name"] or "(no name)", doc["address"] or "", running)]
    rows = [["peer", "state", "since", "at"]]
    for peer in doc["peers"]:
        state = "reachable" if peer["reachable"] else ("away" if peer["connect"] else "not connected")
        where = peer["at"] or ", ".join(peer["addresses"]) or "-"
        rows.append(
            [peer["name"], state, ago(peer["since"], now), where + (": " + peer["said"] if peer["said"] else "")]
        )
    lines += table(rows) if len(rows) > 1 else ["no peers are known: neither the registry's servers nor given ones"]
    lines += ["", doc["pubkey"] or "There is no key yet."]
    if doc["published"]:
        lines.append("The registry has this key.")
    elif doc["pubkey"]:
        lines.append("Give this key to the registry: `confine overlay --publish` with the token of a member who")
        lines.append("administers the node; or have an operator put it into the node's tinc member.")
    return "\n".join(lines) + "\n"


def _slivers(slivers: "list[dict[str, Any]]", colour: bool) -> "list[str]":
    if not slivers:
        return ["no slivers are asked for"]
    rows = [["SLIVER", "SLICE", "STATE", "ASKED", "NR", "ADDRESS", "MEMORY MiB", "CPU s", "DISK MiB", ""]]
    paints = [""]
    for sliver in slivers:
        rows.append(_row(sliver))
        paints.append(sliver["state"])
    return table(rows, paints if colour else None)


def state_words(sliver: "dict[str, Any]") -> str:
    """The state, and whether people hold it."""
    held = "stopped" if sliver.get("stopped") else "paused" if sliver.get("paused") else ""
    return str(sliver["state"]) + (", " + held if held else "")


def _row(sliver: "dict[str, Any]") -> "list[str]":
    usage, limits = sliver.get("usage") or {}, sliver.get("limits") or {}
    memory = "{} / {}".format(amount(usage.get("memory_bytes")), limits.get("memory_mib", "-"))
    cpu = "{:.1f}".format(usage["cpu_usec"] / 1e6) if "cpu_usec" in usage else "-"
    return [
        sliver["id"],
        sliver.get("slice_name") or "",
        state_words(sliver),
        sliver.get("set_state") or "-",
        "{:02x}".format(sliver["nr"]) if sliver.get("nr") else "-",
        sliver.get("address") or "-",
        memory,
        cpu,
        str(limits.get("disk_mib", "-")),
        doing(sliver),
    ]


def plan(doc: "dict[str, Any]") -> str:
    """What would be done and why."""
    lines = []
    for step in doc["node_steps"]:
        lines.append("node  {driver} {verb}: {why}".format(**step))
    for name, found in sorted(doc["slivers"].items()):
        if found["under_way"]:
            lines.append("{}  under way: {}".format(found["key"], found["under_way"]))
        for number, step in enumerate(found["steps"], 1):
            lines.append("{}  {}. {driver} {verb}: {why}".format(found["key"] or name, number, **step))
        if found["waiting"]:
            lines.append("{}  {}".format(found["key"] or name, found["waiting"]))
    return "\n".join(lines or ["nothing to do: everything is as asked"]) + "\n"


def sliver(doc: "dict[str, Any]") -> str:
    """All about one sliver as a person reads it."""
    usage, limits = doc.get("usage") or {}, doc.get("limits") or {}
    template = doc.get("template") or {}
    held = {True: "held", False: "NOT held", None: "not running"}[limits.get("held")]
    rows = [
        ["sliver", "{}  {}".format(doc["id"], doc["name"])],
        ["slice", doc.get("slice_name") or "-"],
        ["state", "{} (asked: {})".format(state_words(doc), doc.get("set_state") or "-")],
        ["number", "{:02x}".format(doc["nr"]) if doc.get("nr") else "-"],
        ["template", "{} ({})".format(template["name"], template["type"]) if template else "-"],
        ["memory", "{} of {} MiB".format(amount(usage.get("memory_bytes")), limits.get("memory_mib", "-"))],
        ["disk", "{} MiB".format(limits.get("disk_mib", "-"))],
        ["limits", held],
        ["init", str(doc.get("init_pid") or "-")],
    ]
    for interface in doc.get("interfaces") or []:
        tag = interface.get("vlan_tag")
        where = "VLAN {:#x} of {}".format(tag, interface.get("parent_name")) if tag else None
        parts = [interface["type"], where, *(interface.get(key) for key in ("mac_addr", "ipv4_addr", "ipv6_addr"))]
        rows.append(["interface", interface["name"] + "  " + "  ".join(part for part in parts if part)])
    for direction, bound in (doc.get("bandwidth") or {}).items():
        if bound["kbit"]:
            holds = {True: "held", False: "NOT held", None: "not running"}[bound["held"]]
            rows.append([direction, "{} kbit/s at most, {}".format(bound["kbit"], holds)])
    rows += [["decision", text] for text in doc.get("decisions") or []]
    rows += [["error", (error["member"] + " " + error["message"]).strip()] for error in doc.get("errors") or []]
    if doc.get("progress"):
        rows.append(["now", doing({"progress": doc["progress"]})])
    return "\n".join(table(rows)) + "\n"


def check(findings: "list[dict[str, str]]", colour: bool) -> str:
    """What `confine check` found: a line each, what to do below it."""
    shades = {"ok": "started", "warn": "allocated", "fail": "fail"}
    lines = []
    width = max([len(finding["what"]) for finding in findings], default=0)
    for finding in findings:
        mark = paint("{:4}".format(finding["state"]), shades[finding["state"]], colour)
        lines.append("{}  {}  {}".format(mark, finding["what"].ljust(width), finding["said"]).rstrip())
        if finding["todo"] and finding["state"] != "ok":
            lines.append(" " * (width + 8) + "-> " + finding["todo"])
    failed = sum(finding["state"] == "fail" for finding in findings)
    lines.append("all is well" if not failed else "{} to put right".format(failed))
    return "\n".join(lines) + "\n"


def settings(doc: "dict[str, Any]") -> str:
    """The settings in force, then what cannot be used."""
    rows = [[name, _value(value)] for name, value in sorted(doc["settings"].items())]
    wrong = ["{} {}".format(one["member"], one["message"]).strip() for one in doc["problems"]]
    return "\n".join([*table(rows), *wrong]) + "\n"


def _value(value: "Any") -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def stops(doc: "dict[str, Any]", whole: bool) -> str:
    """What is stopped, and what it was doing. whole: all of the evidence, not only a line of it."""
    lines = []
    for scope, mark in sorted(doc["stops"].items()):
        why = ": " + mark["why"] if mark["why"] else ""
        deed = "processes ended" if mark["kill"] else "frozen"
        lines.append("{} stopped by {} at {}{} ({})".format(spoken(scope), mark["who"], mark["when"], why, deed))
    for name, found in sorted(doc["evidence"].items()):
        if found is None:
            lines.append("{}  no evidence: it did not run".format(spoken(name)))
            continue
        counts = ((len(found["processes"]), "process", "es"), (len(found["connections"]), "connection", "s"),
                  (len(found["console"].splitlines()), "line", "s"))  # fmt: skip
        lines.append("{}  {}, {}, {} of console".format(spoken(name), *(several(*count) for count in counts)))
        lines += _evidence(found) if whole else []
    return "\n".join(lines or ["nothing is stopped"]) + "\n"


def _evidence(found: "dict[str, Any]") -> "list[str]":
    lines = ["", "processes"]
    for one in found["processes"]:
        lines.append("  {} {} {}".format(one["pid"], one.get("State", "?"), printable(one["command"])))
    lines += ["", "connections", *("  " + printable(line) for line in found["connections"])]
    for kind, rows in sorted(found["sockets"].items()):
        if len(rows) > 1:
            lines += ["", "sockets, " + kind, *("  " + printable(row) for row in rows)]
    lines += ["", "interfaces (seen from the node: rx is what the sliver sent)"]
    for port, counts in sorted(found["interfaces"].items()):
        lines.append("  {} {}".format(port, " ".join("{}={}".format(*pair) for pair in sorted(counts.items()))))
    lines += ["", "cgroup"]
    for file, text in sorted(found["cgroup"].items()):
        lines.append("  {}: {}".format(file, " ".join((text or "-").split())))
    return [*lines, "", "console", *("  " + printable(line) for line in found["console"].splitlines())]


def traced(found: "list[dict[str, Any]]") -> str:
    """Whose traffic it was, the surest first."""
    lines = []
    for one in found:
        own = one.get("slice") or {}
        head = (one["certainty"], one.get("key") or one["sliver"], own.get("name") or "(slice not recorded)")
        lines.append("{}: sliver {} of slice {}".format(*head))
        for person in one["people"]:
            roles = ", ".join(person.get("roles") or [])
            lines.append("  {}  {}".format(person.get("name") or person.get("uri") or person.get("id"), roles).rstrip())
        if one["why"]:
            lines.append("  (" + one["why"] + ")")
        lines += ["  " + _flow(flow) for flow in one["flows"]]
    return "\n".join(lines or ["nothing is recorded of this address at that time"]) + "\n"


def _flow(flow: "dict[str, Any]") -> str:
    from confine.records.trace import PROTOCOLS  # lazy: of one verb

    begin = time.strftime("%H:%M:%S", time.gmtime(flow["begin"]))
    ends = [flow.get("inside"), flow.get("inside_port"), flow.get("remote"), flow.get("remote_port")]
    words = ["-" if end is None else str(end) for end in ends]
    protocol = [name for name, number in PROTOCOLS.items() if number == flow["protocol"]]
    text = "{} {} {}:{} - {}:{}".format(begin, (protocol or ["protocol {}".format(flow["protocol"])])[0], *words)
    sent = flow.get("bytes_out")  # not known of a connection that is still open
    return text if sent is None else text + ", {} bytes out".format(sent)
