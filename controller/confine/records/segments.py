"""A bounded series of files that frames are appended to: rotated by size, the oldest dropped by span and size.

Written by the daemon and, side by side, by the CLI: whoever appends holds the lock of the directory and looks first
whether somebody else has appended. A tail torn by a power cut is cut off at the next append, damage in the middle is
passed over when reading; both are named in `problems`. With a full disk the oldest segments make room for the newest.
"""

import errno
import fcntl
import os
import re
import time

from confine import durable
from confine.records import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = ".lock"
LOCK_S = 2.0
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
MAX_PROBLEMS = 20
SEGMENTS = 8  # a series is so many files: what one drop loses of it
SMALLEST_SEGMENT = 16 * 1024
UNDATED = 0  # time stamp of a segment that was closed while the clock was not confirmed


class Segments:
    """The files `<prefix>-<number>` in `directory`. Not thread-safe; other processes may read and append.

    total: bytes for all together; segment: for one (None: an eighth of it). set_aside: take a segment's disk blocks
    when it is begun, so that a disk that gets full later does not stop what is appended to it.
    """

    def __init__(
        self, directory: str, prefix: str, total: int, set_aside: bool = False, segment: "int | None" = None
    ) -> None:
        self.directory = directory
        self.problems: list[str] = []
        self.newest = 0  # number of the segment appended to last
        self._prefix = prefix
        self._name = re.compile(re.escape(prefix) + r"-([0-9]{8})\Z")
        self._total = total
        self._segment = max(SMALLEST_SEGMENT, total // SEGMENTS) if segment is None else segment
        self._set_aside = set_aside
        self._end: int | None = None  # in the newest segment, where the next frame goes; None: to be looked up
        self._spoiled = False  # a write ended in an error that leaves its segment's content unknown

    # ---- reading ------------------------------------------------------------------------------------------------

    def numbers(self) -> "list[int]":
        """The segments there are, oldest first."""
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        return sorted(int(match.group(1)) for match in map(self._name.match, names) if match)

    def path(self, number: int) -> str:
        """The file of a segment."""
        return os.path.join(self.directory, "{}-{:08d}".format(self._prefix, number))

    def read(self, numbers: "list[int] | None" = None) -> "Iterator[bytes]":
        """Every payload that can be read, oldest first; damage goes to `problems`. Never raises OSError."""
        found = self.numbers()
        for number in found if numbers is None else numbers:
            for piece in self._pieces(number):
                if piece.payload is not None:
                    yield piece.payload
                else:
                    self._problem(number, piece)

    def _pieces(self, number: int) -> "Iterator[frames.Found]":
        try:
            with open(self.path(number), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return  # dropped meanwhile
        except OSError as error:
            self._note("{} cannot be read: {}".format(self.path(number), error.strerror))
            return
        yield from frames.scan(data)

    def _problem(self, number: int, piece: "frames.Found") -> None:
        self._note(
            "{}: bytes {} to {} are damaged and passed over".format(self.path(number), piece.begin, piece.end - 1)
        )

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            del self.problems[:-MAX_PROBLEMS]

    # ---- appending ----------------------------------------------------------------------------------------------

    def append(self, payloads: "list[bytes]", sure: bool) -> None:
        """Put `payloads` at the end, durably. OSError: nothing of it may be relied on; try again with all of it.

        sure: the node's clock is confirmed; only then is anything dropped for its age.
        """
        durable.make_dir(self.directory)
        handle = self._lock()
        try:
            self._append(payloads, sure)
        except OSError as error:
            self._end = None
            self._spoiled = error.errno not in FULL
            raise
        finally:
            os.close(handle)

    def drop_aged(self, oldest: float) -> None:
        """Drop closed segments last written before `oldest` (seconds since 1970, by a confirmed clock)."""
        for number in self.numbers()[:-1]:
            try:
                written = os.stat(self.path(number)).st_mtime
                if written == UNDATED:
                    os.utime(self.path(number))  # its age counts from the first confirmed time on
                elif written < oldest:
                    os.unlink(self.path(number))
            except OSError:
                pass  # dropped by another process, or a disk that cannot be written: the next round tries again

    def size(self) -> int:
        """Bytes on disk, whole blocks."""
        return sum(_blocks(self.path(number)) for number in self.numbers())

    def drop_oldest(self, keep_newest: bool = True) -> bool:
        """Drop the oldest segment. False: none can go."""
        numbers = self.numbers()
        if not numbers or (keep_newest and len(numbers) == 1):
            return False
        os.unlink(self.path(numbers[0]))
        if numbers[0] == self.newest:
            self._end = None
        return True

    def drop(self, number: int) -> None:
        """Drop one segment, durably."""
        durable.remove(self.path(number))
        self._end = None

    def _lock(self) -> int:
        handle = os.open(os.path.join(self.directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except OSError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    raise OSError(errno.EBUSY, "the record is held by another process", self.directory)
                time.sleep(0.02)

    def _append(self, payloads: "list[bytes]", sure: bool) -> None:
        batch = b""
        room = self._segment - self._catch_up(sure)
        for payload in payloads:
            frame = frames.pack(payload)
            if len(batch) + len(frame) > room and (batch or room < self._segment):
                self._write(batch)
                self._begin(sure)
                batch, room = b"", self._segment
            batch += frame
        self._write(batch)

    def _catch_up(self, sure: bool) -> int:
        """Find the end of the newest segment, where another process, or a power cut, may have left it."""
        numbers = self.numbers()
        if not numbers or self._spoiled:
            self._begin(sure)
            return 0
        known = numbers[-1] == self.newest and self._end is not None
        if not known:
            self.newest, self._end = numbers[-1], 0
        with open(self.path(self.newest), "rb") as file:
            file.seek(self._end or 0)
            if known and file.read(1) in (b"", b"\0"):
                return self._end or 0
            file.seek(self._end or 0)
            rest = file.read()
        end = 0
        pieces = list(frames.scan(rest))
        if pieces:
            end = pieces[-1].end
            if pieces[-1].payload is None:
                end = pieces[-1].begin
                self._cut(pieces[-1])
        self._end = (self._end or 0) + end
        return self._end

    def _cut(self, tail: "frames.Found") -> None:
        path, at = self.path(self.newest), (self._end or 0) + tail.begin
        self._note("{}: the last {} bytes were written in part and cut off".format(path, tail.end - tail.begin))
        os.truncate(path, at)

    def _begin(self, sure: bool) -> None:
        """Begin a new segment; the one before is closed. Old ones go as the bound on size says."""
        numbers = self.numbers()
        if numbers:
            self._close(numbers[-1], sure)
        while sum(_size(self.path(number)) for number in numbers) + self._segment > self._total and len(numbers) > 1:
            os.unlink(self.path(numbers.pop(0)))
        number = (numbers[-1] if numbers else self.newest) + 1
        made = self._with_room(lambda: self._create(number, self._set_aside))
        if not made and not (self._set_aside and self._with_room(lambda: self._create(number, False))):
            raise OSError(errno.ENOSPC, "no space for a new segment", self.path(number))
        self.newest, self._end, self._spoiled = number, 0, False

    def _create(self, number: int, set_aside: bool) -> None:
        path = self.path(number)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if set_aside:
                os.posix_fallocate(handle, 0, self._segment)
        except OSError as error:
            if error.errno not in NO_ALLOCATION:
                os.unlink(path)
                raise
        finally:
            os.close(handle)
        durable.fsync_dir(self.directory)

    def _close(self, number: int, sure: bool) -> None:
        if number == self.newest and self._end is not None and not self._spoiled:
            os.truncate(self.path(number), self._end)
        if not sure:
            os.utime(self.path(number), (UNDATED, UNDATED))

    def _write(self, batch: bytes) -> None:
        if batch and not self._with_room(lambda: self._write_at_end(batch)):
            raise OSError(errno.ENOSPC, "no space, and nothing older left to drop", self.path(self.newest))

    def _with_room(self, write: "Callable[[], None]") -> bool:
        """Do `write`; as long as the disk is full, drop the oldest and do it again. False: nothing left to drop."""
        while True:
            try:
                write()
                return True
            except OSError as error:
                if error.errno not in FULL:
                    raise
            if not self.drop_oldest():
                return False

    def _write_at_end(self, batch: bytes) -> None:
        end = self._end or 0
        handle = os.open(self.path(self.newest), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            view = memoryview(batch)
            done = 0
            while done < len(view):
                written = os.pwrite(handle, view[done:], end + done)
                if not written:
                    raise OSError(errno.ENOSPC, "nothing more could be written")
                done += written
            os.fsync(handle)
        finally:
            os.close(handle)
        self._end = end + len(batch)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _blocks(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
