"""People's decisions on disk: read by daemon and command line alike, written by the command line only.

They must be kept with the disk full, across a power cut, and while the daemon hangs. So the file is made once in its
full size and written in place from then on: two copies of the whole, each with a number and its sha256, written one
after the other; the valid one with the highest number counts. Where even that cannot be written (no data partition),
a file in memory takes the decision, which then holds until the node restarts, and whoever decided is told.

A record that is there and cannot be read means: everything stays stopped until a person has looked. A stop is never
lost to a fault.
"""

import errno
import fcntl
import hashlib
import json
import os
import time

from confine import durable
from confine.core import decisions as rules
from confine.core.decisions import ALL, Decision, Decisions, Mark
from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FILE = "decisions"
MAGIC = b"confine-decisions-1"
COPY = 256 * 1024
HEADER = 128
LOCK_S = 2.0
LOCK_POLL_S = 0.02
DAMAGED = "the record of decisions is damaged: look at what runs here, then `confine release --all` begins a new one"
HALF_DAMAGED = "{} is damaged in part: what counts is the whole copy in it; the next decision mends it"
FIRST = 1  # the number of the record in which nothing is decided yet


class DecisionBook:
    """The decisions of one node. `now()` is cheap as long as nothing changed: two short reads, no file written."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._seen: tuple[bytes, ...] | None = None
        self._decisions = Decisions()
        self._damaged: list[str] = []

    def now(self) -> Decisions:
        """All decisions as they stand. Not to be changed."""
        headers = tuple(header for path in self._files() for header in _headers(path))
        if headers != self._seen:
            self._decisions = self._read()[0]
            self._seen = headers
        return self._decisions

    def problems(self) -> "list[str]":
        """What is wrong with the record as `now()` last read it, a sentence each."""
        return list(self._damaged)

    def of(self, name: str) -> Decision:
        """What was decided about the sliver `name`."""
        return self.now().of(name)

    def prepare(self) -> None:
        """Make the file in its full size, so that later decisions need no room. OSError if it cannot be."""
        if os.path.exists(self._files()[0]):
            return
        lock = self._lock()
        if lock is None:
            raise BlockingIOError(errno.EAGAIN, "somebody else is writing the record of decisions")
        try:
            self._make()
        finally:
            os.close(lock)

    def _make(self) -> None:
        """With the lock held: else a decision made meanwhile would be written over.

        Both copies say that nothing is decided: zeros are what a disk gives for blocks it lost, and no record.
        """
        path = self._files()[0]
        durable.make_dir(self._paths.journal)
        if not os.path.exists(path):
            durable.write_atomic(path, _record(Decisions(), FIRST).ljust(COPY, b"\0") * 2)

    def change(self, edit: "Callable[[Decisions], str]") -> "tuple[str, bool]":
        """Have `edit` change the decisions, and keep them. (what `edit` said, whether a restart of the node will not
        lose it). ConfineError: `edit` refuses (its ValueError), or it can be kept nowhere at all."""
        lock = self._lock()
        try:
            decisions, number = self._read()
            try:
                said = edit(decisions)
            except ValueError as error:
                raise ConfineError(str(error))
            return said, self._write(decisions, number + 1)
        finally:
            if lock is not None:
                os.close(lock)

    # Parts

    def _files(self) -> "tuple[str, str]":
        return os.path.join(self._paths.journal, FILE), os.path.join(self._paths.run, FILE)

    def _lock(self) -> "int | None":
        """One writer at a time; but a writer that hangs must not keep people from stopping things."""
        os.makedirs(self._paths.run, mode=0o700, exist_ok=True)
        handle = os.open(os.path.join(self._paths.run, FILE + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except OSError:
                if time.monotonic() >= deadline:
                    os.close(handle)
                    return None
            time.sleep(LOCK_POLL_S)

    def _read(self) -> "tuple[Decisions, int]":
        """(decisions, their number) of the valid copy with the highest number."""
        best, number = None, 0
        damaged = []
        for path in self._files():
            for copy in _copies(path):
                found = _parse(copy)
                if found is None:
                    damaged.append(path)
                elif found[0] > number:
                    number, best = found
        self._damaged = [HALF_DAMAGED.format(path) for path in sorted(set(damaged))]
        if best is None and damaged:
            self._damaged = ["{}: {}".format(damaged[0], DAMAGED)]
            return Decisions({ALL: Mark("the node itself", "(not known)", DAMAGED)}), 0
        return rules.parse(best), number

    def _write(self, decisions: Decisions, number: int) -> bool:
        """True if the decisions are durable; False if they are in memory only."""
        content = _record(decisions, number)
        try:
            self._make()
            _write_copies(self._files()[0], content)
            return True
        except OSError as error:
            reason = error.strerror
        try:
            durable.write_atomic(self._files()[1], content.ljust(COPY, b"\0") * 2)
        except OSError as error:
            raise ConfineError(
                "the decision can be kept neither in {} ({}) nor in {} ({})".format(
                    self._files()[0], reason, self._files()[1], error.strerror
                )
            )
        return False


def _record(decisions: Decisions, number: int) -> bytes:
    """A copy: header with number, length and checksum, then the document."""
    text = json.dumps(decisions.as_doc(), sort_keys=True, separators=(",", ":")).encode()
    if len(text) > COPY - HEADER:
        raise ConfineError("there are too many decisions to be kept: clear those of slivers that are gone")
    digest = hashlib.sha256(b"%d " % number + text).hexdigest().encode()
    return (b"%s %d %d %s\n" % (MAGIC, number, len(text), digest)).ljust(HEADER) + text


def _headers(path: str) -> "list[bytes]":
    """The first bytes of both copies: they differ after each change."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [os.pread(handle, HEADER, place) for place in (0, COPY)]
    except OSError:
        return [b"unreadable"]
    finally:
        os.close(handle)


def _copies(path: str) -> "list[bytes]":
    try:
        with open(path, "rb") as file:
            content = file.read(2 * COPY)
    except FileNotFoundError:
        return []
    except OSError:
        return [b"unreadable"]
    return [content[:COPY], content[COPY:]] if content else [b"truncated"]


def _parse(copy: bytes) -> "tuple[int, Any] | None":
    """(number, document) of a copy; None if it is damaged."""
    words = copy[:HEADER].split()
    try:
        magic, number, length, digest = words
        text = copy[HEADER : HEADER + int(length)]
        if magic != MAGIC or hashlib.sha256(number + b" " + text).hexdigest().encode() != digest:
            return None
        return int(number), json.loads(text)
    except (ValueError, RecursionError):
        return None


def _write_copies(path: str, content: bytes) -> None:
    """Write over the older copy, and once that is durable over the other."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        numbers = []
        for place in (0, COPY):
            found = _parse(os.pread(handle, COPY, place))
            numbers.append((found[0] if found is not None else -1, place))
        for _, place in sorted(numbers):
            if os.pwrite(handle, content, place) != len(content):
                raise OSError(28, "nothing more could be written")
            os.fsync(handle)
    finally:
        os.close(handle)


def mark(why: str, environ: "Mapping[str, str]", **more: "Any") -> Mark:
    """The mark of a decision made now by whoever has this environment."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Mark(_plain(who(environ)), when, _plain(why), **more)


def who(environ: "Mapping[str, str]") -> str:
    """Whose command this is, as far as that can be known: user, key (as dropbear tells), address."""
    name = environ.get("SUDO_USER") or environ.get("LOGNAME") or environ.get("USER") or _login()
    key = environ.get("SSH_PUBKEYINFO")
    address = environ.get("SSH_CONNECTION", "").partition(" ")[0]
    return name + (" with key " + key if key else "") + (" from " + address if address else "")


def _login() -> str:
    import pwd  # lazy: only where the environment says nothing

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "user {}".format(os.getuid())


def _plain(text: str) -> str:
    """One line that can be shown anywhere, at most as long as a decision keeps."""
    return "".join(char if char.isprintable() else " " for char in text)[: rules.MAX_TEXT]
