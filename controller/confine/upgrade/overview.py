"""What `confine upgrade status`, the node API and the metrics say of upgrades."""

from confine import durable
from confine.upgrade import history, look
from confine.upgrade.errors import UpgradeError
from confine.upgrade.install import report_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.upgrade.node import Node

# What the node is at, as metrics count it.
STATES = ("idle", "checking", "fetching", "writing", "reading back", "trial", "unavailable")


def overview(node: "Node") -> "dict[str, Any]":
    """Members: state; version, running, confirmed (slot), slots (slots.state()); mode, branch, pin, deferred_until;
    progress; offered, verdict, reason, due, problems, checked of the last look; last (event)."""
    settings = node.settings
    seen = look.kept(node.paths.run) or {}
    events = history.read(1, node.paths)
    progress = _progress(node)
    doc: "dict[str, Any]" = {
        "state": progress["state"] if progress else "idle",
        "mode": settings.upgrade_mode,
        "branch": settings.upgrade_branch,
        "pin": settings.upgrade_pin,
        "deferred_until": node.deferred_until(),
        "progress": progress,
        "last": events[-1] if events else None,
        "running": None,
        "confirmed": None,
        "slots": {},
        "version": None,
    }
    for member in ("offered", "verdict", "reason", "due", "checked"):
        doc[member] = seen.get(member)
    doc["problems"] = list(seen.get("problems") or [])
    try:
        slots = node.slots.state()
    except (UpgradeError, OSError) as error:
        doc.update(state="unavailable", reason=str(error))
        return doc
    doc.update(running=slots["running"], confirmed=slots["confirmed"], slots=slots)
    doc["version"] = (slots["slots"].get(slots["running"]) or {}).get("version")
    if slots["trial"] and doc["state"] == "idle":
        doc["state"] = "trial"
    return doc


def unavailable(reason: str) -> "dict[str, Any]":
    """The overview of a machine without slots."""
    return {"state": "unavailable", "reason": reason, "running": None, "slots": {}, "version": None, "problems": []}


def _progress(node: "Node") -> "dict[str, Any] | None":
    """How far an upgrade under way is; None if there is none."""
    if not node.is_locked():
        return None
    try:
        doc = durable.read_json(report_path(node.paths.run))
    except (OSError, ValueError):
        doc = None
    if isinstance(doc, dict) and doc.get("state") in STATES:
        return doc
    return {"state": "checking", "version": None, "part": None, "done": 0, "total": 0}
