"""Ends all slivers because the whole node goes down: `python3 -m confine.halt`, from the init script's shutdown.

All are asked at once; those that have not halted after STOP_S are ended by force. Needs neither daemon nor registry,
and changes nothing that the next start of the node reads: what ran before runs again.
"""

import fcntl
import os
import sys
import time

from confine.drivers import cgroups
from confine.drivers.containers import STOP_S, ask_to_halt
from confine.errors import ConfineError
from confine.paths import Paths

KILL_S = 5
DAEMON_S = 35  # procd kills a daemon that was told to end after 30


def await_daemon(run: str, patience: float = DAEMON_S) -> bool:
    """Whether the daemon has ended, or does within `patience` seconds: procd only tells it to, and a step that is under
    way may still start a sliver. The lock stays ours for as long as this process lives, so that no other one begins."""
    try:
        handle = os.open(os.path.join(run, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    return cgroups.wait_until(lambda: _locked(handle), time.monotonic() + patience)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def halt_all(root: str, patience: float = STOP_S) -> int:
    """Halt the slivers whose cgroups lie in `root`, waiting up to `patience` seconds. Gives how many had to be forced.

    StepError if a process does not even end when killed.
    """
    slivers = [path for path in cgroups.inner_directories(root) if cgroups.populated(path)]
    asked = []
    for path in slivers:
        init = cgroups.find_init(path)
        if init is not None and not cgroups.frozen(path) and ask_to_halt(init, path):
            asked.append(path)
    cgroups.wait_until(lambda: not any(cgroups.populated(path) for path in asked), time.monotonic() + patience)
    forced = [path for path in slivers if cgroups.populated(path)]
    for path in forced:
        cgroups.kill(path, KILL_S)
    return len(forced)


def main() -> int:
    """Exit status: 0 all have ended, 1 some could not be told to."""
    paths = Paths()
    if not await_daemon(paths.run):
        sys.stderr.write("confine: the daemon did not end in {} s; slivers are halted all the same\n".format(DAEMON_S))
    try:
        forced = halt_all(os.path.join(paths.cgroup, cgroups.SLIVERS))
    except ConfineError as error:
        sys.stderr.write("confine: {}\n".format(error))
        return 1
    if forced:
        sys.stderr.write("confine: slivers that did not halt in {} s, ended by force: {}\n".format(STOP_S, forced))
    return 0


if __name__ == "__main__":
    sys.exit(main())
