"""What the bench reads of processes and files on this machine."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable
from typing import Any

from confine.errors import ConfineError

CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
SETTLE_S = 30.0


def spawn_init() -> int:
    """A process that is number 1 of a pid namespace, with a network namespace of its own; gives its pid here."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID | CLONE_NEWNET) != 0:
                os._exit(1)
            grandchild = os.fork()
            if grandchild == 0:
                os.execvp("sleep", ["sleep", "3600"])
            os.write(write_end, str(grandchild).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    pid = int(os.read(read_end, 16))
    os.close(read_end)
    return pid


def wait_for(what: str, condition: Callable[[], Any], pause: float) -> Any:
    """Poll `condition` until it gives something; TimeoutError after SETTLE_S."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except ConfineError:
            pass  # the daemon does not listen yet
        time.sleep(pause)
    raise TimeoutError(f"after {SETTLE_S:.0f} s still not: {what}")


def cpu_ms(pid: int) -> float:
    """CPU time of a process, of its threads that ended too, in ms (clock_getcpuclockid(3): CPUCLOCK_SCHED)."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def ended_children(pid: int) -> int:
    """Page faults of all children it waited for: grows with each process it started."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(") ", 1)[1].split()[8])


def memory_kib(pid: int) -> tuple[int, int]:
    """(PSS, RSS) of a process and its children, KiB."""
    pss = rss = 0
    for one in [pid, *children(pid)]:
        with open(f"/proc/{one}/smaps_rollup") as file:
            text = file.read()
        pss += int(re.findall(r"^Pss: +(\d+)", text, re.M)[0])
        rss += int(re.findall(r"^Rss: +(\d+)", text, re.M)[0])
    return pss, rss


def children(pid: int) -> list[int]:
    """Processes started by any thread of `pid`."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


def newest_file(*directories: str) -> tuple[float, str]:
    """(time, path) of the file below the directories that was written last; the log apart, which is for people."""
    found = (0.0, "")
    for directory in directories:
        for where, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(where, name)
                if os.path.isfile(path):
                    found = max(found, (os.stat(path).st_mtime, path))
    return found
