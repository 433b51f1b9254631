"""What `make run` says while a node brings its slivers up: pure functions from status documents to lines."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAY_UP = ["registered", "allocated", "deployed", "started"]
# The state that a target leads to.
REACHED = {"register": "registered", "deploy": "deployed", "start": "started"}


def as_asked(status: "dict[str, Any]") -> bool:
    """Is the registry read, and every sliver where it is asked to be?"""
    if status["registry"]["last_read"] is None or not status["slivers"]:
        return False
    return all(REACHED.get(sliver.get("set_state") or "") == sliver["state"] for sliver in status["slivers"])


def shortcomings(status: "dict[str, Any]") -> "list[str]":
    """Why not all is as asked, a line each."""
    reasons = [words(error) for error in status["node"].get("errors", [])]
    if status["registry"]["error"]:
        reasons.append("registry: " + status["registry"]["error"])
    for sliver in status["slivers"]:
        if REACHED.get(sliver.get("set_state") or "") != sliver["state"]:
            why = "; ".join(words(error) for error in sliver.get("errors") or [])
            line = "{} {}, asked: {}".format(sliver["id"], sliver["state"], sliver.get("set_state"))
            reasons.append(line + (": " + why if why else ""))
    return reasons or ([] if as_asked(status) else ["no sliver is asked for"])


def changes(before: "dict[str, Any] | None", after: "dict[str, Any]") -> "list[str]":
    """What happened between two status documents, a line each."""
    lines = []
    old = before or {
        "node": {"state": None, "errors": []},
        "registry": {"last_read": None, "error": None},
        "slivers": [],
    }
    if after["node"]["state"] != old["node"]["state"]:
        lines.append("node      {}".format(after["node"]["state"]))
    lines += ["node      " + words(e) for e in after["node"]["errors"] if e not in old["node"]["errors"]]
    if after["registry"]["last_read"] is not None and old["registry"]["last_read"] is None:
        lines.append("registry  read from {}".format(", ".join(after["registry"]["uris"])))
    if after["registry"]["error"] and after["registry"]["error"] != old["registry"]["error"]:
        lines.append("registry  {}".format(after["registry"]["error"]))
    known = {sliver["id"]: sliver for sliver in old["slivers"]}
    for sliver in after["slivers"]:
        lines += sliver_changes(known.pop(sliver["id"], None), sliver)
    lines += ["{:9} gone".format(key) for key in known]
    return lines


def sliver_changes(before: "dict[str, Any] | None", after: "dict[str, Any]") -> "list[str]":
    """What happened to one sliver."""
    lines = []
    head = "{:9} ".format(after["id"])
    if before is None:
        lines.append("{}{} asks for it: {}".format(head, after.get("slice_name") or "a slice", after.get("set_state")))
    elif before.get("set_state") != after.get("set_state"):
        lines.append("{}is asked to {}".format(head, after.get("set_state")))
    if before is None or before["state"] != after["state"]:
        way = passed_through(before["state"] if before else None, after["state"])
        lines.append(head + "".join(state + " → " for state in way) + state_words(after))
    old_errors = before.get("errors") or [] if before else []
    lines += [head + "  " + words(error) for error in after.get("errors") or [] if error not in old_errors]
    return lines


def passed_through(before: "str | None", after: str) -> "list[str]":
    """The states between two looks on the way up: a quick sliver passes them faster than anybody looks."""
    if before not in WAY_UP or after not in WAY_UP:
        return []
    return WAY_UP[WAY_UP.index(before) + 1 : WAY_UP.index(after)]


def state_words(sliver: "dict[str, Any]") -> str:
    """A sliver's state with what is of interest in it."""
    state, limits = sliver["state"], sliver.get("limits") or {}
    if state == "allocated":
        return "allocated  number {:02x}, {}, memory {} MiB, disk {} MiB".format(
            sliver.get("nr") or 0, sliver.get("address"), limits.get("memory_mib"), limits.get("disk_mib")
        )
    if state == "started":
        return "started    {}  {}".format(sliver.get("address"), limits_words(limits))
    return str(state)


def limits_words(limits: "dict[str, Any]") -> str:
    """The limits in force and whether the kernel, asked again, holds them."""
    parts = ["memory {memory_mib} MiB, disk {disk_mib} MiB, {pids} processes".format(**limits)]
    if limits.get("cpu_percent"):
        parts.append("CPU {} %".format(limits["cpu_percent"]))
    if limits.get("io_mib_s"):
        parts.append("I/O {} MiB/s".format(limits["io_mib_s"]))
    return ", ".join(parts) + (": read back, held" if limits.get("held") else ": NOT held")


def progress(status: "dict[str, Any]") -> str:
    """One line that says what is under way, or ''."""
    parts = []
    for sliver in status["slivers"]:
        under_way = sliver.get("progress")
        if under_way:
            total = under_way["total"]
            share = " {}%".format(under_way["done"] * 100 // total) if total else ""
            parts.append("{} {}{}".format(sliver["id"], under_way["step"], share))
    return " · ".join(parts)


def words(error: "dict[str, Any]") -> str:
    """An entry of `errors` as a sentence."""
    return "{} {}".format(error["member"], error["message"]).strip()
