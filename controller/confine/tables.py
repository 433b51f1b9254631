"""What the CLI prints, as pure functions from the daemon's answers to text."""

import time

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
    """What happens with a sliver now, or what is wrong with it."""
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
    lent = doc["lent"]
    lines.append(
        "lent: memory {memory_booked} of {memory_total} MiB booked, disk {disk_booked} of {disk_total} MiB".format(
            **lent
        )
    )
    for error in node.get("errors") or []:
        lines.append(paint("  " + (error["member"] + " " + error["message"]).strip(), "fail", colour))
    return lines


def _slivers(slivers: "list[dict[str, Any]]", colour: bool) -> "list[str]":
    if not slivers:
        return ["no slivers are asked for"]
    rows = [["SLIVER", "SLICE", "STATE", "ASKED", "NR", "ADDRESS", "MEMORY MiB", "CPU s", "DISK MiB", ""]]
    paints = [""]
    for sliver in slivers:
        rows.append(_row(sliver))
        paints.append(sliver["state"])
    return table(rows, paints if colour else None)


def _row(sliver: "dict[str, Any]") -> "list[str]":
    usage, limits = sliver.get("usage") or {}, sliver.get("limits") or {}
    memory = "{} / {}".format(amount(usage.get("memory_bytes")), limits.get("memory_mib", "-"))
    cpu = "{:.1f}".format(usage["cpu_usec"] / 1e6) if "cpu_usec" in usage else "-"
    return [
        sliver["id"],
        sliver.get("slice_name") or "",
        sliver["state"],
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
