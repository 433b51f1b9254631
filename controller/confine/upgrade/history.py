"""What became of upgrades: one line of JSON for each event on the data partition, the oldest go."""

import fcntl
import json
import os
import time

from confine import durable
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "history.jsonl"
KEPT = 200
MAX_WHY = 500
REFUSED = "refused"
_MAX_BYTES = 1 << 20


def append(event: "dict[str, Any]", paths: "Paths | None" = None) -> None:
    """Keep `event` (members event, slot, version, epoch, why ...; the time is put in). OSError if it cannot be."""
    directory = (paths or Paths()).upgrade
    durable.make_dir(directory)
    # The daemon, commands and trials are processes of their own; when the oldest events go, the file is another one.
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        _append(event, directory)
    finally:
        os.close(held)


def _append(event: "dict[str, Any]", directory: str) -> None:
    path = os.path.join(directory, FILE)
    if "why" in event:
        event = {**event, "why": str(event["why"])[:MAX_WHY]}
    line = json.dumps({"time": int(time.time()), **event}, sort_keys=True).encode() + b"\n"
    lines = _lines(path)
    if event.get("event") == REFUSED and _is_last(event, lines):
        return  # the same again and again would push out what must be known, such as what failed
    if len(lines) >= 2 * KEPT:
        durable.write_atomic(path, b"".join(one + b"\n" for one in lines[-KEPT:]) + line)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # A line cut off by a power cut must not swallow this one.
        cut = lines and not _ends_with_newline(path)
        os.write(fd, b"\n" + line if cut else line)
        os.fsync(fd)
    finally:
        os.close(fd)
    durable.fsync_dir(directory)


def read(limit: int = KEPT, paths: "Paths | None" = None) -> "list[dict[str, Any]]":
    """The last events, oldest first. Lines that are damaged are left out."""
    events = []
    for line in _lines(os.path.join((paths or Paths()).upgrade, FILE)):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events[-limit:]


def _is_last(event: "dict[str, Any]", lines: "list[bytes]") -> bool:
    try:
        last = json.loads(lines[-1])
    except (IndexError, ValueError):
        return False
    return isinstance(last, dict) and {**last, "time": 0} == {**event, "time": 0}


def _lines(path: str) -> "list[bytes]":
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES).splitlines()
    except OSError:
        return []


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
