"""One file on its way into the cache: resumed where the last try ended, checked while it streams in."""

import errno
import hashlib
import os
import time

from confine import durable
from confine.errors import RegistryError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Fetcher(Protocol):
        """What brings a file's bytes, HTTP or local."""

        def fetch(
            self,
            uri: str,
            sink: "Callable[[bytes], None]",
            offset: int,
            on_start: "Callable[[int, int | None], None]",
        ) -> None:
            """Bring the file at `uri` from byte `offset` on: first on_start(offset really begun at, whole size or
            None), then sink(bytes) as they come. An offset the source cannot serve means from the start, offset 0.
            RegistryError if the file cannot be had; errors of the sink go through."""


CHUNK = 256 * 1024
REPORT_BYTES = 256 * 1024
# A source slower than this is given up for this time: what came is kept, and the reason is seen.
PACE_WINDOW_S = 60.0
PACE_BYTES = 16 * 1024


class NoRoom(StepError):
    """The file does not fit."""


class Download:
    """Fetches `uri` into the file `partial`, to be renamed to `target` once its sha256 is right.

    room(bytes): makes that much room or raises NoRoom; called with what is still to come as soon as that is known,
    and now and then while it comes. progress(done, total or None): bytes; may raise to stop.
    """

    def __init__(
        self,
        uri: str,
        sha256: str,
        partial: str,
        target: str,
        room: "Callable[[int], None]",
        progress: "Callable[[int, int | None], None]",
        clock: "Callable[[], float]" = time.monotonic,
    ) -> None:
        self._uri = uri
        self._sha256 = sha256
        self._partial = partial
        self._target = target
        self._room = room
        self._progress = progress
        self._clock = clock
        self._hash = hashlib.sha256()
        self._done = 0
        self._total: "int | None" = None
        self._reported = 0
        self._window_end = 0.0
        self._window_bytes = 0
        self._handle = -1

    def run(self, fetcher: "Fetcher") -> None:
        """Fetch what is missing. StepError if it cannot be had (what came is kept for the next try), does not fit
        or has the wrong sha256 (both: thrown away)."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._partial, flags, 0o600)
        try:
            self._hash_what_is_there()
            if self._done == 0 or self._hash.hexdigest() != self._sha256:
                self._fetch(fetcher)
            self._check_sum()
            os.fsync(self._handle)
        except NoRoom:
            os.unlink(self._partial)
            raise
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise StepError("{} cannot be kept: {}".format(self._uri, error))
            os.unlink(self._partial)
            raise NoRoom("the disk is full: {}".format(self._missing()))
        finally:
            os.close(self._handle)
        os.rename(self._partial, self._target)
        durable.fsync_dir(os.path.dirname(self._target))

    def _hash_what_is_there(self) -> None:
        while data := os.read(self._handle, CHUNK):
            self._hash.update(data)
            self._done += len(data)
            self._progress(self._done, None)

    def _fetch(self, fetcher: "Fetcher") -> None:
        self._window_end = self._clock() + PACE_WINDOW_S
        self._window_bytes = 0
        try:
            fetcher.fetch(self._uri, self._sink, self._done, self._start)
        except RegistryError as error:
            said = str(error)
            raise StepError(said if self._uri in said else "{} cannot be fetched: {}".format(self._uri, said))

    def _start(self, offset: int, total: "int | None") -> None:
        if offset not in (0, self._done):
            raise StepError("{} starts at byte {} instead of {}".format(self._uri, offset, self._done))
        if offset == 0:
            self._hash = hashlib.sha256()
            self._done = 0
            os.ftruncate(self._handle, 0)
        os.lseek(self._handle, offset, os.SEEK_SET)
        self._total = total
        self._reported = self._done
        self._room(total - self._done if total is not None else 0)
        self._progress(self._done, total)

    def _sink(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]
        self._hash.update(data)
        self._done += len(data)
        if self._total is not None and self._done > self._total:
            raise StepError("{} is longer than the {} bytes it was said to have".format(self._uri, self._total))
        self._keep_pace(len(data))
        if self._done - self._reported >= REPORT_BYTES:
            self._reported = self._done
            self._room(0)
        self._progress(self._done, self._total)

    def _keep_pace(self, size: int) -> None:
        self._window_bytes += size
        if self._clock() < self._window_end:
            return
        if self._window_bytes < PACE_BYTES:
            raise StepError(
                "{} comes too slowly: {} bytes in {:.0f} s; what came is kept for the next try".format(
                    self._uri, self._window_bytes, PACE_WINDOW_S
                )
            )
        self._window_end = self._clock() + PACE_WINDOW_S
        self._window_bytes = 0

    def _check_sum(self) -> None:
        if self._total is not None and self._done < self._total:
            raise StepError("{} ended after {} of {} bytes".format(self._uri, self._done, self._total))
        found = self._hash.hexdigest()
        if found != self._sha256:
            os.unlink(self._partial)
            raise StepError(
                "{} has the wrong sha256: {} was promised, {} came ({} bytes); it was thrown away".format(
                    self._uri, self._sha256, found, self._done
                )
            )

    def _missing(self) -> str:
        if self._total is None:
            return "no room after {} bytes of {}".format(self._done, self._uri)
        missing = (self._total - self._done) / 1048576
        return "{:.1f} MiB of {} are still to come".format(missing, self._uri)
