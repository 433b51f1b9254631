"""A bundle's parts on their way to the node, kept on the data partition until they can be written to the slot.

The old system in the other slot stays a way back until all of the new one is here and right. Of each part there is one
file with holes: only what the node does not have yet is fetched and takes room. What a cut left of it is looked at
anew, chunk by chunk, so that nothing but bytes has to be remembered.
"""

import errno
import hashlib
import os

from confine import durable
from confine.upgrade.chunks import MAX_INDEX, Index, Seed, is_right, runs
from confine.upgrade.manifest import Manifest, Part, is_sha256
from confine.upgrade.mirrors import MirrorError, Mirrors, NoRanges
from confine.upgrade.signatures import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confine.upgrade.chunks import Chunk
    from confine.upgrade.mirrors import Pieces

    Progress = Callable[[str, int, int], None]

PIECE = 256 * 1024
REQUEST = 8 * 1024 * 1024  # at most so much is asked for at once: what a cut can lose is one chunk
SPARE = 8 * 1024 * 1024  # left free on the data partition
INDEX = ".caibx"
PARTIAL = ".part"


class Staging:
    """The directory in which parts gather. progress(what, done, total): bytes; may raise to stop.

    throttle(bytes): called with what was fetched; may wait. fetched: bytes that came from mirrors.
    """

    def __init__(
        self,
        directory: str,
        mirrors: Mirrors,
        progress: "Progress",
        throttle: "Callable[[int], None]",
    ) -> None:
        self._directory = directory
        self._mirrors = mirrors
        self._progress = progress
        self._throttle = throttle
        self.fetched = 0

    def fetch(self, manifest: Manifest, seeds: "dict[str, Seed]") -> None:
        """Have all parts of `manifest` here, or in `seeds` (by the part's name). MirrorError if no mirror gives what is
        missing (what came is kept); BundleError if there is no room."""
        durable.make_dir(self._directory)
        self._forget_others(manifest)
        for part in manifest.parts.values():
            index = self.index(part.sha256, part.index)
            if index is not None and index.size != part.size:
                raise BundleError("the index of {} is of {} bytes, the part has {}".format(
                    part.name, index.size, part.size))  # fmt: skip
            if index is None:
                self._fetch_whole(part)
            else:
                self._fetch_chunks(part, index, seeds.get(part.name))

    def pieces(self, manifest: Manifest, seeds: "dict[str, Seed]") -> "Iterator[tuple[str, bytes]]":
        """(part, bytes) of all parts after `fetch()`, each chunk verified once more."""
        for part in manifest.parts.values():
            index = self.index(part.sha256, part.index)
            with open(self._path(part), "rb") as file:
                if index is None:
                    while data := file.read(PIECE):
                        yield part.name, data
                else:
                    for chunk in index:
                        yield part.name, self._chunk(file.fileno(), chunk, seeds.get(part.name), part)

    def take(self, manifest: Manifest, parts: "Iterator[tuple[str, bytes]]") -> None:
        """Keep all parts of `manifest` out of what comes (part, bytes). BundleError if they are not right, or there is
        no room."""
        durable.make_dir(self._directory)
        self._forget_others(manifest)
        self._make_room(manifest.size, "the bundle")
        check_parts(manifest, self._keeping(manifest, parts))

    def _keeping(self, manifest: Manifest, parts: "Iterator[tuple[str, bytes]]") -> "Iterator[tuple[str, bytes]]":
        done: "dict[str, int]" = {}
        for name, data in parts:
            part = manifest.parts[name]
            handle = _open(self._path(part))
            try:
                _write(handle, data, done.get(name, 0))
            except OSError as error:
                raise self._disk_error(part, error)
            finally:
                os.close(handle)
            done[name] = done.get(name, 0) + len(data)
            self.came(part, len(data), done[name])
            yield name, data

    def kept(self, manifest: Manifest) -> "Iterator[tuple[str, bytes]]":
        """(part, bytes) of all parts after `take()`."""
        for part in manifest.parts.values():
            with open(self._path(part), "rb") as file:
                while data := file.read(PIECE):
                    yield part.name, data

    def index(self, sha256: str, promised: "tuple[int, str] | None") -> "Index | None":
        """The index of the part `sha256`, from here or a mirror; None if the part has none or it cannot be had (the
        part is then fetched whole). promised: its size and sha256; None for one that is only used to look for seeds."""
        path = os.path.join(self._directory, sha256 + INDEX)
        raw = _content(path, MAX_INDEX)
        if raw is None or not _promised(raw, promised):
            try:
                raw = self._mirrors.small("parts/" + sha256 + INDEX, MAX_INDEX, lambda data: _promised(data, promised))
            except BundleError:
                return None
            self._count(len(raw))
            try:
                durable.make_dir(self._directory)
                durable.write_atomic(path, raw)
            except OSError:
                pass  # a full disk: fetched again if it is needed again
        try:
            return Index(raw)
        except BundleError:
            if promised is None:
                return None
            raise

    def empty(self, keep: "set[str]") -> None:
        """Remove all that was fetched but the indexes of the parts `keep` (sha256)."""
        for name in _names(self._directory):
            if not (name.endswith(INDEX) and name[: -len(INDEX)] in keep):
                os.unlink(os.path.join(self._directory, name))

    # ---- one part ---------------------------------------------------------------------------------------------------

    def _fetch_chunks(self, part: Part, index: Index, seed: "Seed | None") -> None:
        handle = _open(self._path(part))
        try:
            os.ftruncate(handle, part.size)
            missing, have = [], 0
            for chunk in index:
                if self._has(handle, chunk) or (seed is not None and seed.get(chunk) is not None):
                    have += chunk.size
                    self._progress(part.name, have, part.size)
                else:
                    missing.append(chunk)
            self._make_room(sum(chunk.size for chunk in missing), part.name)
            if missing:
                self._mirrors.each("parts/" + part.sha256, _Filler(self, part, handle, missing, have).fill)
            os.fsync(handle)
        except OSError as error:
            raise self._disk_error(part, error)
        finally:
            os.close(handle)

    def _fetch_whole(self, part: Part) -> None:
        handle = _open(self._path(part))
        try:
            done = os.fstat(handle).st_size
            if done > part.size:
                os.ftruncate(handle, 0)
                done = 0
            self._make_room(part.size - done, part.name)
            if done < part.size:
                self._mirrors.each("parts/" + part.sha256, _Appender(self, part, handle).fill)
            elif _sum(handle) != part.sha256:
                os.ftruncate(handle, 0)
                raise BundleError("what was kept of part {} was damaged; it was thrown away".format(part.name))
            os.fsync(handle)
        except OSError as error:
            raise self._disk_error(part, error)
        finally:
            os.close(handle)

    def _has(self, handle: int, chunk: "Chunk") -> bool:
        """Is the chunk in the file? Holes are told without reading them."""
        try:
            if os.lseek(handle, chunk.offset, os.SEEK_DATA) >= chunk.offset + chunk.size:
                return False
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes from here on
                return False
            raise
        return is_right(chunk, os.pread(handle, chunk.size, chunk.offset))

    def _chunk(self, handle: int, chunk: "Chunk", seed: "Seed | None", part: Part) -> bytes:
        data = os.pread(handle, chunk.size, chunk.offset)
        if is_right(chunk, data):
            return data
        found = seed.get(chunk) if seed is not None else None
        if found is None:
            raise BundleError("{} bytes of {} at {} are gone again: fetch the bundle anew".format(
                chunk.size, part.name, chunk.offset))  # fmt: skip
        return found

    def _make_room(self, size: int, what: str) -> None:
        there = os.statvfs(self._directory)
        free = there.f_bavail * there.f_frsize
        if free < size + SPARE:
            raise BundleError(
                "no room for {}: {:.1f} MiB are to be fetched, {:.1f} MiB are free on the data partition "
                "and {:.0f} MiB of them are kept".format(what, size / 1048576, free / 1048576, SPARE / 1048576)
            )

    def _disk_error(self, part: Part, error: OSError) -> BundleError:
        return BundleError("{} cannot be kept in {}: {}".format(part.name, self._directory, error.strerror))

    def _forget_others(self, manifest: Manifest) -> None:
        wanted = {part.sha256 for part in manifest.parts.values()}
        for name in _names(self._directory):
            if name.endswith(PARTIAL) and name[: -len(PARTIAL)] not in wanted:
                os.unlink(os.path.join(self._directory, name))

    def _path(self, part: Part) -> str:
        return os.path.join(self._directory, part.sha256 + PARTIAL)

    def _count(self, size: int) -> None:
        self.fetched += size
        self._throttle(size)

    def came(self, part: Part, size: int, done: int) -> None:
        """`size` bytes came from a mirror, `done` of the part are here."""
        self._count(size)
        self._progress(part.name, done, part.size)


class _Filler:
    """Fills the holes of a part's file, chunk by chunk; goes on with the next mirror where the last one failed."""

    def __init__(self, staging: Staging, part: Part, handle: int, missing: "list[Chunk]", done: int) -> None:
        self._staging = staging
        self._part = part
        self._handle = handle
        self._missing = missing
        self._done = done

    def fill(self, pieces: "Pieces") -> None:
        try:
            for run in list(runs(self._missing, REQUEST)):
                size = run[-1].offset + run[-1].size - run[0].offset
                self._receive(pieces(run[0].offset, size, True), run[0].offset, size, run)
        except NoRanges:
            self._receive(pieces(0, self._part.size), 0, self._part.size, list(self._missing))

    def _receive(self, pieces: "Iterator[bytes]", position: int, size: int, chunks: "list[Chunk]") -> None:
        """Keep `chunks` (in order) out of the `size` bytes that come, which begin at `position` of the part."""
        pending = b""
        left = iter(chunks)
        chunk = next(left, None)
        for piece in pieces:
            self._staging.came(self._part, len(piece), self._done)
            pending += piece
            size -= len(piece)
            while chunk is not None:
                useless = min(len(pending), chunk.offset - position)
                pending, position = pending[useless:], position + useless
                if position < chunk.offset or len(pending) < chunk.size:
                    break
                self._keep(chunk, pending[: chunk.size])
                pending, position = pending[chunk.size :], position + chunk.size
                chunk = next(left, None)
            if chunk is None and size:
                return  # the rest is of no use, and there may be hundreds of MiB of it
        if chunk is not None:
            raise MirrorError(
                "the answer ended before byte {} of {}".format(chunk.offset + chunk.size, self._part.name)
            )

    def _keep(self, chunk: "Chunk", data: bytes) -> None:
        if not is_right(chunk, data):
            raise MirrorError("{} bytes of {} at {} are not what the index names".format(
                chunk.size, self._part.name, chunk.offset))  # fmt: skip
        _write(self._handle, data, chunk.offset)
        self._missing.remove(chunk)
        self._done += chunk.size
        self._staging.came(self._part, 0, self._done)


class _Appender:
    """Appends to a part's file what is missing of it."""

    def __init__(self, staging: Staging, part: Part, handle: int) -> None:
        self._staging = staging
        self._part = part
        self._handle = handle

    def fill(self, pieces: "Pieces") -> None:
        before = done = os.fstat(self._handle).st_size
        for piece in pieces(done, self._part.size - done):
            _write(self._handle, piece, done)
            done += len(piece)
            self._staging.came(self._part, len(piece), done)
        if done < self._part.size:
            raise MirrorError("the answer ended after {} of {} bytes".format(done, self._part.size))
        if _sum(self._handle) != self._part.sha256:
            os.ftruncate(self._handle, 0)
            if not before:
                raise MirrorError("part {} has the wrong sha256; it was thrown away".format(self._part.name))
            self.fill(pieces)  # another mirror began it: all of it from this one


def check_parts(manifest: Manifest, parts: "Iterator[tuple[str, bytes]]") -> None:
    """BundleError if what comes (part, bytes) is not what `manifest` says. Sizes are compared by whoever gives it."""
    sums = {name: hashlib.sha256() for name in manifest.parts}
    for name, data in parts:
        sums[name].update(data)
    for name, part in manifest.parts.items():
        if sums[name].hexdigest() != part.sha256:
            raise BundleError("part {} has sha256 {}, its manifest says {}".format(
                name, sums[name].hexdigest(), part.sha256))  # fmt: skip


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _write(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _sum(handle: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(handle, PIECE, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _promised(raw: bytes, promised: "tuple[int, str] | None") -> bool:
    return promised is None or (len(raw) == promised[0] and hashlib.sha256(raw).hexdigest() == promised[1])


def _content(path: str, limit: int) -> "bytes | None":
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError:
        return None


def _names(directory: str) -> "list[str]":
    """The files that are ours."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [name for name in names if is_sha256(name.split(".", 1)[0]) and name.endswith((INDEX, PARTIAL))]
