"""The health gate of a trial: what held before must hold again, each in its time, or the machine is reset.

    python3 -m confine.upgrade.gate     from the init script, first of all, when this slot is on trial

It holds the watchdog meanwhile: a trial that hangs while it runs ends as one that fails. What could not be met before
the upgrade either (a registry that was down) is no reason against a good image.
"""

import os
import subprocess
import sys
import time

from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import before, confirm, migrations, record, trial, watchdog
from confine.upgrade.disk import sha256_on_disk
from confine.upgrade.slots import Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEADLINE_S = 300
EVERY_S = 1.0
HOLD_S = 10.0  # for so long all must hold, look after look
REFRESH_S = 15.0
ALIVE_S = 120  # one look at everything takes less
PROGRAMS = "gate.d"
RUNS = "/dev/confine-gate"  # early userspace ends a trial in which nobody made this file in time
PROGRAM_S = 60
_DATA = "data"


class World:
    """What the checks look at. begun: the record of the trial, as its beginning wrote it."""

    def __init__(self, paths: Paths, slots: Slots, begun: "dict[str, Any]") -> None:
        self.paths = paths
        self.slots = slots
        self.slot: str = slots.running or ""
        self.manifest: "dict[str, Any]" = begun.get("manifest") or {}
        self.before: "dict[str, Any]" = begun.get("before") or {}
        self.options: "dict[str, Any]" = self.manifest.get("gate") or {}
        self.deadline_s = int(self.options.get("deadline_s") or DEADLINE_S)
        self.now: "dict[str, Any]" = {}
        self.programs = {name: Program(path) for name, path in programs(paths)}
        self.root_checked = False
        self.controller: "int | None" = None


# ---- the checks: "" if all is well, else what is missing yet ---------------------------------------------------------


def _root(world: World) -> str:
    if world.root_checked:
        return ""
    part = world.manifest["parts"]["root"]
    if sha256_on_disk(world.slots.disk, "root-" + world.slot, part["size"]) != part["sha256"]:
        return "the root on the disk is not the one that was written"
    world.root_checked = True
    return ""


def _data_partition(world: World) -> str:
    mounts = _mounts()
    data = world.slots.disk.path(_DATA)
    for device, where, options in mounts:
        if device == data:
            return "" if "rw" in options.split(",") else "the data partition is mounted read-only at " + where
    return "the data partition is not mounted"


def _changes(world: World) -> str:
    kinds = [device for device, where, _ in _mounts() if where == "/overlay"]
    if not kinds or kinds[-1] in ("tmpfs", "overlay"):
        return "changes of this slot stay in memory: its overlay cannot be used"
    return ""


def _configuration(world: World) -> str:
    if world.now.get("node_id") != world.before.get("node_id"):
        return "the node's id is {}, before it was {}".format(world.now.get("node_id"), world.before.get("node_id"))
    if world.now.get("problems", 0) > world.before.get("problems", 0):
        return "{} settings cannot be used, before it were {}".format(world.now["problems"], world.before["problems"])
    left = migrations.pending()
    return "migration {} is not done".format(left[0][1]) if left else ""


def _network(world: World) -> str:
    for interface, families in world.before.get("addresses", {}).items():
        missing = set(families) - set(world.now["addresses"].get(interface, ()))
        if missing:
            return "interface {} has no IPv{} address, before it had one".format(interface, min(missing))
    missing = set(world.before.get("routes", ())) - set(world.now["routes"])
    return "there is no IPv{} default route, before there was one".format(min(missing)) if missing else ""


def _daemon(world: World) -> str:
    # Whatever held before: without a controller nobody would ever upgrade this slot again.
    if not world.now["status"]:
        return "the controller does not answer"
    before, world.controller = world.controller, world.now.get("controller")
    return "" if before in (None, world.controller) else "the controller ended and was started again"


def _registry(world: World) -> str:
    return "" if world.now["registry"] or not world.before.get("registry") else "the registry cannot be read"


def _api(world: World) -> str:
    return "" if world.now["api"] or not world.before.get("api") else "the node API does not answer"


def _overlay(world: World) -> str:
    then, now = world.before.get("overlay"), world.now.get("overlay")
    if not then:
        return ""
    if not now:
        return "the management overlay does not run, before it did"
    if now["address"] != then["address"]:
        return "the node's management address is {}, before it was {}".format(now["address"], then["address"])
    return "no peer of the management overlay is reached" if then["reached"] and not now["reached"] else ""


def _slivers(world: World) -> str:
    if world.options.get("slivers") is False:
        return ""
    missing = sorted(set(world.before.get("slivers", ())) - set(world.now["slivers"]))
    return "slivers {} do not run again".format(", ".join(missing)) if missing else ""


# name, check, seconds since the gate opened by which it must be met (at most the bundle's own deadline)
CHECKS: "tuple[tuple[str, Callable[[World], str], int], ...]" = (
    ("root", _root, 120),
    ("data", _data_partition, 60),
    ("changes", _changes, 60),
    ("configuration", _configuration, 90),
    ("network", _network, 180),
    ("daemon", _daemon, 180),
    ("api", _api, 240),
    ("overlay", _overlay, 3600),
    ("registry", _registry, 3600),
    ("slivers", _slivers, 3600),
)
# What a bundle's manifest cannot leave out: without these the node would be lost, not only changed.
ALWAYS = ("root", "data", "changes", "configuration")


class Program:
    """An executable of /etc/confine/gate.d or /usr/lib/confine/gate.d: status 0 is well; run again until it is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process: "subprocess.Popen[bytes] | None" = None
        self._begun = 0.0
        self._well = False

    def check(self) -> str:
        """ "" if it once said that all is well, else what is missing."""
        if self._well:
            return ""
        if self._process is None:
            self._begun = time.monotonic()
            try:
                self._process = subprocess.Popen([self._path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                 stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            except OSError as error:
                return "{} cannot be run: {}".format(self._path, error.strerror)
        status = self._process.poll()
        if status is None:
            if time.monotonic() - self._begun < PROGRAM_S:
                return "{} has not ended".format(self._path)
            os.killpg(self._process.pid, 9)
            self._process.wait()
            status = -1
        self._process = None
        self._well = status == 0
        return "" if self._well else "{} says no (status {})".format(self._path, status)


def programs(paths: Paths) -> "list[tuple[str, str]]":
    """The node's own checks, (name, path)."""
    found = []
    for directory in (os.path.dirname(paths.share), paths.etc):
        directory = os.path.join(directory, PROGRAMS)
        for name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                found.append((name, path))
    return found


def open_questions(world: World) -> "dict[str, tuple[str, int]]":
    """What is missing now: name to (words, seconds by which it must be there)."""
    world.now = before.look(world.paths)
    skipped = [name for name in world.options.get("skip", ()) if name not in ALWAYS]
    found = {}
    for name, check, seconds in CHECKS:
        if name in skipped:
            continue
        try:
            missing = check(world)
        except (OSError, ConfineError, KeyError, ValueError) as error:
            missing = "{}: {}".format(type(error).__name__, error)
        if missing:
            found[name] = (missing, min(seconds, world.deadline_s))
    for name, program in world.programs.items():
        missing = program.check()
        if missing:
            found[name] = (missing, world.deadline_s)
    return found


def watch(world: World, alive: "Callable[[], None]", say: "Callable[[str], None]") -> str:
    """Look until all was well for a while, or something is not in its time. "" if all is well, or a person has
    confirmed the slot; else the reason to go back."""
    begun = asked = time.monotonic()
    well: "float | None" = None  # since when
    told: "dict[str, str]" = {}
    while True:
        missing = open_questions(world)
        if "registry" in missing and time.monotonic() - asked >= REFRESH_S:
            asked = time.monotonic()
            refresh(world.paths)
        for name, (words, _) in missing.items():
            if told.get(name) != words:
                say("{}: not yet: {}".format(name, words))
        told = {name: words for name, (words, _) in missing.items()}
        now = time.monotonic()
        well = None if missing else now if well is None else well
        if (well is not None and now - well >= HOLD_S) or not world.slots.on_trial:
            return ""
        passed = now - begun
        late = ["{}: {}".format(name, words) for name, (words, seconds) in missing.items() if passed > seconds]
        if late:
            return "{} ({} s after it started)".format("; ".join(late), int(passed))
        alive()
        time.sleep(EVERY_S)


def refresh(paths: Paths) -> None:
    """Have the registry read again: after a first read that came too early the next may be an hour, or a day, away."""
    try:
        ask(paths.control, "refresh")
    except (ConfineError, OSError, ValueError):
        pass  # the daemon's own check says so


def main() -> int:
    """Exit status 0: this slot is the confirmed one now. Otherwise the machine is reset."""
    from confine.configuration import read_settings

    guard = watchdog.Guard(ALIVE_S)
    _last_to_be_killed()
    _take_over()
    paths, slots = Paths(), Slots()
    if not slots.on_trial:
        guard.close()
        return 0
    why = "the gate broke off"
    try:
        settings, _ = read_settings(paths)
        paths.data = settings.data_dir
        begun = record.read(paths)
        if begun is None or begun.get("slot") != slots.running:
            why = "nothing is known of this trial: it was not begun from this disk"
        else:
            world = World(paths, slots, begun)
            why = watch(world, guard.beat, _say)
    except Exception as error:  # whatever it is, the slot that can say nothing about itself is not confirmed
        why = "the gate failed: {}: {}".format(type(error).__name__, error)
    if not why:
        try:
            if slots.on_trial:
                confirm.confirm(slots)
        except (OSError, ConfineError) as error:
            why = "it cannot be confirmed: {}".format(error)
    if not why:
        _confirmed(paths, slots)
        guard.close()
        return 0
    _say("this trial is given up: " + why)
    record.say_why(paths, why)
    trial.leave(False)
    return 1


def _confirmed(paths: Paths, slots: Slots) -> None:
    """From here on nothing is a reason to go back."""
    _say("slot {} is confirmed".format(slots.running))
    try:
        record.after(paths, slots)
    except (OSError, ConfineError) as error:
        _say("the history cannot be written: {}".format(error))


def _mounts() -> "list[tuple[str, str, str]]":
    with open("/proc/mounts", encoding="utf-8", errors="replace") as file:
        rows = [line.split() for line in file]
    return [(row[0], row[1], row[3]) for row in rows if len(row) > 3]


def _take_over() -> None:
    """From here on the gate ends a trial that gets nowhere."""
    try:
        with open(RUNS, "w"):
            pass
    except OSError as error:
        _say("{} cannot be made, this trial will be ended: {}".format(RUNS, error.strerror))


def _last_to_be_killed() -> None:
    """When memory runs out, everything else goes first: somebody must be left to give up."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        pass


def _say(text: str) -> None:
    """Into the kernel's log: it is on the console, and there even before the system log is."""
    try:
        with open("/dev/kmsg", "w") as file:
            file.write("confine: trial: {}\n".format(text))
    except OSError:
        sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
