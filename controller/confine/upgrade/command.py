"""`confine upgrade`: works with and without the daemon, also in a recovery system."""

import sys
import time

from confine.configuration import read_settings
from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import history, look, overview
from confine.upgrade.errors import UpgradeError
from confine.upgrade.install import Installer, Report, report_path
from confine.upgrade.mirrors import Mirrors, Web
from confine.upgrade.node import MAX_DEFER_DAYS, Node
from confine.upgrade.schedule import WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BAR = 24


def run(args: "dict[str, Any]", run_dir: str) -> int:
    """Do `args["action"]`; its exit status."""
    paths = Paths(run=run_dir)
    settings, _ = read_settings(paths)
    paths.data = settings.data_dir
    if args["branch"]:
        settings.upgrade_branch = args["branch"]
    return ACTIONS[args["action"]](Node(paths, settings), args)


def _status(node: Node, args: "dict[str, Any]") -> int:
    _show(overview.overview(node), args, status_text)
    return 0


def _check(node: Node, args: "dict[str, Any]") -> int:
    lookout = look.Lookout(node, Mirrors(node.settings.upgrade_mirrors, Web(), node.own))
    found = lookout.look({})
    look.keep(node.paths.run, found)
    _show(found, args, check_text)
    return 1 if found["problems"] and found["offered"] is None else 0


def _install(node: Node, args: "dict[str, Any]") -> int:
    bars = Bars(sys.stderr) if not args["json"] and not args["auto"] else None
    report = Report(report_path(node.paths.run), bars.show if bars else None)
    try:
        manifest, slot = Installer(node, report, args["auto"]).install(args["what"] or look.LATEST)
    finally:
        if bars is not None:
            bars.end()
    doc = {"version": manifest.version, "epoch": manifest.epoch, "slot": slot, "id": manifest.id}
    if args["trial"] and args["json"]:
        _begin_trial(node, args)  # before anything is written: one document, and only if all went well
    _show(doc, args, lambda d: "version {} is in slot {}{}\n".format(
        d["version"], d["slot"], "" if args["trial"] else "; `confine upgrade trial` starts it"))  # fmt: skip
    return _trial(node, args) if args["trial"] and not args["json"] else 0


def _trial(node: Node, args: "dict[str, Any]") -> int:
    _show(_begin_trial(node, args), args, lambda d: (
        "slot {slot}, version {version}, is started on trial: this system ends now\n".format(**d)))  # fmt: skip
    return 0


def _begin_trial(node: Node, args: "dict[str, Any]") -> "dict[str, Any]":
    from confine.upgrade import trial

    slot = node.free_slot()
    label = node.slots.label(slot)
    if label is None:
        raise UpgradeError("slot {} holds no whole system: `confine upgrade install` first".format(slot))
    node.check_fits(node.verify_label(label))
    trial.start(slot, node.paths, node.slots, bool(args["auto"]) and not node.settings.upgrade_unwatched)
    return {"slot": slot, "version": label.get("version")}


def _confirm(node: Node, args: "dict[str, Any]") -> int:
    from confine.upgrade import confirm

    confirm.confirm(node.slots)
    _show({"confirmed": node.slots.running}, args, lambda d: "slot {confirmed} is confirmed\n".format(**d))
    return 0


def _rollback(node: Node, args: "dict[str, Any]") -> int:
    from confine.upgrade import confirm, record

    left = node.slots.running
    manifest = (node.slots.label(left) if left else None) or {}
    slot = confirm.roll_back(node.slots)
    try:
        # Newer as it is, it would be taken again at once by a node that upgrades by itself.
        record.remember("failed", {"slot": left, "manifest": manifest}, node.paths, "a person went back from it")
    except OSError as error:
        sys.stderr.write("confine: the history cannot be written: {}\n".format(error))
    _show({"confirmed": slot}, args, lambda d: "slot {confirmed} runs from the next restart on\n".format(**d))
    return 0


def _history(node: Node, args: "dict[str, Any]") -> int:
    _show(history.read(paths=node.paths), args, history_text)
    return 0


def _defer(node: Node, args: "dict[str, Any]") -> int:
    text = args["what"] or ""
    if not text.isascii() or not text.isdigit() or int(text) > MAX_DEFER_DAYS:
        raise ConfineError("for how many days? `confine upgrade defer DAYS`, 0 to {}; 0 ends it".format(MAX_DEFER_DAYS))
    node.defer(int(text))
    _show({"deferred_until": node.deferred_until()}, args, lambda d: _deferred(d) or "upgrades go on\n")
    return 0


ACTIONS = {
    "status": _status,
    "check": _check,
    "install": _install,
    "trial": _trial,
    "confirm": _confirm,
    "rollback": _rollback,
    "history": _history,
    "defer": _defer,
}


# ---- text -------------------------------------------------------------------------------------------------------


class Bars:
    """A progress bar for each part, on a terminal; elsewhere a line for each step."""

    def __init__(self, output: "Any") -> None:
        self._output = output
        self._live = output.isatty()
        self._line = ""

    def show(self, doc: "dict[str, Any]") -> None:
        """One report of install.Report."""
        line = " ".join(filter(None, (doc["state"], doc["part"])))
        if line != self._line:
            self.end()
            self._line = line
            if not self._live and doc["state"] != "idle":
                self._output.write(line + "\n")
        if self._live and doc["state"] != "idle":
            self._output.write("\r{:18} {}".format(line, bar(doc["done"], doc["total"])))
        self._output.flush()

    def end(self) -> None:
        """The line is done."""
        if self._live and self._line:
            self._output.write("\n")
        self._line = ""


def bar(done: int, total: int) -> str:
    """[####....]  42 %  16.1 MiB"""
    if not total:
        return ""
    filled = done * BAR // total
    return "[{}{}] {:3d} %  {:.1f} of {:.1f} MiB".format(
        "#" * filled, "." * (BAR - filled), done * 100 // total, done / 1048576, total / 1048576)  # fmt: skip


def status_text(doc: "dict[str, Any]") -> str:
    """The overview for a person."""
    lines = ["state     " + doc["state"]]
    if doc["progress"] and doc["progress"]["total"]:
        lines.append("          {} {}".format(doc["progress"]["part"], bar(
            doc["progress"]["done"], doc["progress"]["total"])))  # fmt: skip
    for slot, found in sorted((doc["slots"].get("slots") or {}).items()):
        words = [word for word, there in (("runs", doc["running"] == slot), ("confirmed", doc["confirmed"] == slot))
                 if there]  # fmt: skip
        lines.append("slot {}    {}{}".format(
            slot, found["version"] or ("an unknown version" if words else "nothing whole"),
            " (" + ", ".join(words) + ")" if words else ""))  # fmt: skip
    if doc["slots"] and doc["running"] is None:
        lines.append("runs      the recovery system: no slot starts; `confine upgrade install` writes one")
    lines.append("takes     {}, branch {}{}".format(
        doc["mode"], doc["branch"], ", pinned to " + doc["pin"] if doc["pin"] else ""))  # fmt: skip
    text = "".join(line + "\n" for line in lines)
    return text + check_text(doc) + _deferred(doc) + (_last(doc["last"]) if doc["last"] else "")


def check_text(doc: "dict[str, Any]") -> str:
    """What is offered, and what becomes of it."""
    offered = doc["offered"]
    lines = []
    if offered is not None:
        lines.append("offered   {}, published {}, {:.1f} MiB".format(
            offered["version"], offered["published"], offered["size"] / 1048576))  # fmt: skip
    if doc["reason"]:
        due = ": " + moment(doc["due"]) if doc.get("verdict") == WAIT and doc.get("due") else ""
        lines.append("          {}{}".format(doc["reason"], due))
    lines += ["problem   " + text for text in doc["problems"]]
    if doc.get("checked"):
        lines.append("looked    " + moment(doc["checked"]))
    return "".join(line + "\n" for line in lines)


def history_text(events: "list[dict[str, Any]]") -> str:
    """A line for each event."""
    return "".join(_event(event) + "\n" for event in events) or "nothing has happened yet\n"


def _event(event: "dict[str, Any]") -> str:
    words = [moment(event.get("time")), str(event.get("event"))]
    words += ["{} {}".format(name, event[name]) for name in ("version", "slot") if event.get(name) is not None]
    return "  ".join(words) + (": {}".format(event["why"]) if event.get("why") else "")


def _last(event: "dict[str, Any]") -> str:
    return "last      {}\n".format(_event(event))


def _deferred(doc: "dict[str, Any]") -> str:
    until = doc.get("deferred_until")
    return "deferred  until {}\n".format(moment(until)) if until else ""


def moment(seconds: "float | None") -> str:
    """A time for a person, UTC."""
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(seconds)) if seconds is not None else "-"


def _show(doc: "Any", args: "dict[str, Any]", text: "Any") -> None:
    from confine.cli import as_json

    sys.stdout.write(as_json(doc) if args["json"] else text(doc))
