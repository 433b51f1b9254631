"""cgroup v2 as the limits and containers drivers need it. Reads small files; starts no process.

Each sliver has three places in the tree:
    confine/<name>            made and limited by us; nothing runs directly in it
    confine/<name>/sliver     made by LXC, the root that the sliver sees; all its processes are in it or below
    confine-monitor/<name>    LXC's monitor of the sliver, outside its limits
"""

import os
import time

from confine.errors import StepError

SLIVERS = "confine"
MONITORS = "confine-monitor"
PIVOT = "confine-pivot"  # where LXC's monitors go to die, so that they can remove their own cgroup
INNER = "sliver"

FREEZE = "cgroup.freeze"
KILL = "cgroup.kill"

POLL_S = 0.02
READ = 4096  # most kernel files are a line; /proc gives no more than a page or so at a time


def read(path: str) -> "str | None":
    """The text of a kernel file without its last newline; None if it is not there (any more)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a round reads some files of each sliver: no file objects
    except OSError:
        return None
    try:
        content = piece = os.read(handle, READ)
        while piece:  # the kernel may give less than there is
            piece = os.read(handle, READ)
            content += piece
    except OSError:
        return None
    finally:
        os.close(handle)
    return content.decode("ascii", "replace").rstrip("\n")


def write(path: str, text: str) -> None:
    """Write `text` to a kernel file in one go. StepError with the kernel's answer if it refuses."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise StepError(f"the kernel does not take {text!r} in {path}: {error.strerror}")


def flat(text: "str | None") -> "dict[str, int]":
    """A flat keyed file ("key number" a line) as a dict; lines of other forms are left out."""
    words = [line.split() for line in (text or "").splitlines()]
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def inner_directories(path: str) -> "list[str]":
    """The cgroups directly below `path`."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def populated(path: str) -> bool:
    """Whether any process lives in the cgroup `path` or below it."""
    return flat(read(f"{path}/cgroup.events")).get("populated") == 1


def frozen(path: str) -> bool:
    """Whether the sliver's cgroup `path` was told to freeze, by itself or with all slivers."""
    return any(read(f"{place}/{FREEZE}") == "1" for place in (path, os.path.dirname(path)))


def processes(path: str) -> "list[int]":
    """Pids in the cgroup `path` and below, lowest cgroup last."""
    pids = [int(word) for word in (read(f"{path}/cgroup.procs") or "").split() if word.isdigit()]
    for inner in inner_directories(path):
        pids.extend(processes(inner))
    return pids


def of_process(pid: int) -> "str | None":
    """The cgroup v2 path of a process, "/confine/x/sliver"; None if there is no such process."""
    for line in (read(f"/proc/{pid}/cgroup") or "").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


def is_init(pid: int) -> bool:
    """Whether `pid` is process 1 of a pid namespace below ours, and not just on its way out."""
    status = read(f"/proc/{pid}/status") or ""
    innermost, alive = 0, False
    for line in status.splitlines():
        if line.startswith("State:"):
            alive = line.split()[1] not in ("Z", "X")
        elif line.startswith("NSpid:"):
            numbers = line.split()[1:]
            innermost = int(numbers[-1]) if len(numbers) > 1 else 0
            break
    return alive and innermost == 1


def find_init(path: str, known: "int | None" = None) -> "int | None":
    """The host pid of the init among the processes at or below `path`. `known`: what it was last time, tried first."""
    inside = f"{path[path.index(f'/{SLIVERS}/') :]}/"
    if known is not None and (of_process(known) or "").startswith(inside) and is_init(known):
        return known
    for pid in sorted(processes(path)):
        if is_init(pid):
            return pid
    return None


def wait_until(condition: "object", deadline: float) -> bool:
    """Poll the callable `condition` until it is true; False if `deadline` (monotonic seconds) passes first."""
    while not condition():  # type: ignore[operator]
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def kill(path: str, timeout: float) -> bool:
    """End every process at or below `path`, frozen ones too. False if any is left after `timeout` seconds."""
    if not populated(path):
        return True
    write(f"{path}/cgroup.kill", "1")
    return wait_until(lambda: not populated(path), time.monotonic() + timeout)


def remove(path: str) -> None:
    """Remove an empty cgroup and all below it, deepest first. Nothing to do if it is not there."""
    for inner in inner_directories(path):
        remove(inner)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StepError(f"cgroup {path} cannot be removed: {error.strerror}; processes in it: {processes(path)}")
