"""The cache of templates and data, by sha256, on the data partition.

`objects/<sha256>`: files as fetched, complete and checked. `partial/<sha256>`: on their way, resumable.
`trees/<sha256>/`: archives of templates, unpacked as a whole. What appears under objects/ or trees/ got there by a
rename, so it is complete; what was cut off lies under other names and is used or removed by the next try.
"""

import os
import re
import threading

from confine import durable
from confine.core.model import MIB
from confine.drivers import archives, inroot, streams
from confine.drivers.downloads import Download, NoRoom
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from confine.core.model import Step
    from confine.drivers.downloads import Fetcher
    from confine.paths import Paths

__all__ = ["Cache", "Fetcher"]

SHA256 = re.compile(r"[0-9a-f]{64}")
UNPACKING = ".tmp-"
FILES_KEPT = 64  # one in so many of the partition's inodes
WAIT_S = 0.5
SQUASHFS_HEADER = 96


class _Flight:
    """A fetch or unpacking under way: others that want the same wait for it rather than do it again."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: "StepError | None" = None
        self.called_off = False
        self.done = 0
        self.total: "int | None" = None


class Cache:
    """Driver `cache`. `keep`: sha256 of all files in use, given by the planner each round; as long as it is None
    nothing is evicted.

    max_mib: bound on everything in the cache. reserve_mib: of the data partition, left free whatever is fetched.
    template_max_mib: bound on what one template may unpack to. on_progress(subject, what, bytes done, total or
    None): while fetching and unpacking; it may raise a StepError to call the work off.
    """

    def __init__(
        self,
        paths: "Paths",
        fetcher: "Fetcher",
        max_mib: int,
        on_progress: "Callable[[str, str, int, int | None], None]",
        reserve_mib: int = 128,
        template_max_mib: int = 2048,
        data_fetcher: "Fetcher | None" = None,
    ) -> None:
        self.keep: "set[str] | None" = None
        self._fetchers = {"template": fetcher, "data": data_fetcher or fetcher}
        self._max = max_mib * MIB
        self._reserve = reserve_mib * MIB
        self._template_max = template_max_mib * MIB
        self._on_progress = on_progress
        self._objects = os.path.join(paths.cache, "objects")
        self._partials = os.path.join(paths.cache, "partial")
        self._trees = os.path.join(paths.cache, "trees")
        self._template_mounts = os.path.join(paths.mounts, "templates")
        self._lock = threading.Lock()
        self._flights: "dict[tuple[str, str], _Flight]" = {}
        self._mountable: "dict[str, bool]" = {}
        self._tree_sizes: "dict[str, int]" = {}

    # ---- steps ---------------------------------------------------------------------------------------------------

    def fetch_template(self, step: "Step") -> None:
        """Have the sliver's template in the cache. StepError: cannot be had, does not fit, is not what was promised."""
        template = step.sliver.template if step.sliver else None
        if template is None:
            raise StepError("there is no template to fetch: neither the sliver nor its slice names one")
        self._fetch(step.subject, "template", template.uri, template.sha256)

    def fetch_data(self, step: "Step") -> None:
        """Have the sliver's data in the cache, if it has any. StepError as in `fetch_template`."""
        data = step.sliver.data if step.sliver else None
        if data is not None:
            self._fetch(step.subject, "data", data.uri, data.sha256)

    def unpack_template(self, step: "Step") -> None:
        """Have the sliver's template ready to be mounted: a squashfs is as it is, an archive becomes a tree."""
        template = step.sliver.template if step.sliver else None
        if template is None:
            raise StepError("there is no template to unpack: neither the sliver nor its slice names one")
        sha256 = _checked(template.sha256)
        if os.path.isdir(self.tree(sha256)):
            return
        path = self.object(sha256)
        if not os.path.isfile(path):
            raise StepError("the template {} is not in the cache: it has to be fetched first".format(sha256))
        if streams.kind_of(path) == streams.SQUASHFS:
            fault = _squashfs_fault(path)
            if fault is not None:
                raise StepError("the template {} cannot be used: {}".format(sha256, fault))
            return
        self._share("unpack", sha256, step.subject, lambda flight: self._unpack(sha256, step.subject, flight))

    # ---- what is there -------------------------------------------------------------------------------------------

    def object(self, sha256: str) -> str:
        """Path of the file as fetched."""
        return os.path.join(self._objects, _checked(sha256))

    def tree(self, sha256: str) -> str:
        """Path of the unpacked template."""
        return os.path.join(self._trees, _checked(sha256))

    def cached(self) -> "list[str]":
        """sha256 of the files that need not be fetched: here as they are, or unpacked as a template."""
        return sorted(set(_names(self._objects)) | set(_names(self._trees)))

    def unpacked(self) -> "list[str]":
        """sha256 of the templates that are ready to be mounted."""
        ready = {sha256 for sha256 in _names(self._objects) if self._is_mountable(sha256)}
        return sorted(ready | set(_names(self._trees)))

    def _is_mountable(self, sha256: str) -> bool:
        """Whether the file is a whole squashfs. What is under a sha256 never changes: looked at once."""
        if sha256 not in self._mountable:
            path = self.object(sha256)
            try:
                self._mountable[sha256] = streams.kind_of(path) == streams.SQUASHFS and _squashfs_fault(path) is None
            except OSError:
                return False
        return self._mountable[sha256]

    # ---- fetching ------------------------------------------------------------------------------------------------

    def _fetch(self, subject: str, what: str, uri: str, sha256: str) -> None:
        if sha256 in self.cached():
            self._touch(sha256)
            return
        if not uri.startswith(("http://", "https://", "file:///")):
            raise StepError("the {}'s address {!r} is neither http(s) nor file:///".format(what, uri[:200]))
        self._share(
            "fetch", _checked(sha256), subject, lambda flight: self._download(subject, what, uri, sha256, flight)
        )

    def _download(self, subject: str, what: str, uri: str, sha256: str, flight: _Flight) -> None:
        for directory in (self._objects, self._partials):
            durable.make_dir(directory)

        def progress(done: int, total: "int | None") -> None:
            flight.done, flight.total = done, total
            self._tell(flight, subject, what, done, total)

        partial = os.path.join(self._partials, sha256)
        download = Download(uri, sha256, partial, self.object(sha256), lambda size: self._room(what, size), progress)
        try:
            download.run(self._fetchers[what])
        except OSError as error:
            raise StepError("the {} {} cannot be kept in the cache: {}".format(what, sha256, error))

    def _tell(self, flight: _Flight, subject: str, what: str, done: int, total: "int | None") -> None:
        try:
            self._on_progress(subject, what, done, total)
        except StepError:
            flight.called_off = True
            raise

    def _share(self, work: str, sha256: str, subject: str, do: "Callable[[_Flight], None]") -> None:
        """Do something for `sha256` once, however many slivers want it; each of them gets its outcome. If the one
        that does it is called off, another one goes on."""
        while True:
            with self._lock:
                flight = self._flights.get((work, sha256))
                mine = flight is None
                if flight is None:
                    flight = self._flights[(work, sha256)] = _Flight()
            if mine:
                self._lead(work, sha256, flight, do)
                return
            while not flight.ended.wait(WAIT_S):
                self._on_progress(subject, work, flight.done, flight.total)
            if flight.called_off:
                continue
            if flight.error is not None:
                raise StepError(str(flight.error))
            return

    def _lead(self, work: str, sha256: str, flight: _Flight, do: "Callable[[_Flight], None]") -> None:
        flight.error = StepError("{} of {} ended unexpectedly".format(work, sha256))
        try:
            do(flight)
            flight.error = None
        except StepError as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[(work, sha256)]
            flight.ended.set()

    # ---- unpacking -----------------------------------------------------------------------------------------------

    def _unpack(self, sha256: str, subject: str, flight: _Flight) -> None:
        if os.path.isdir(self.tree(sha256)):
            return
        durable.make_dir(self._trees)
        temporary = os.path.join(self._trees, UNPACKING + sha256)

        def progress(done: int) -> None:
            flight.done = done
            self._room("unpacked template", 0, bounded=False)
            self._tell(flight, subject, "unpack", done, None)

        _remove_tree(temporary)
        try:
            os.mkdir(temporary, 0o755)
            with inroot.Root(temporary) as root:
                archives.unpack(self.object(sha256), root, archives.Bounds(self._template_max), False, progress)
                _flush(root.fd)
            os.rename(temporary, self.tree(sha256))
            durable.fsync_dir(self._trees)
        except OSError as error:
            raise StepError("the template {} cannot be unpacked: {}".format(sha256, error))
        except StepError as error:
            if flight.called_off or isinstance(error, NoRoom):
                raise
            raise StepError("the template {} cannot be used: {}".format(sha256, error))
        finally:
            _remove_tree(temporary)

    # ---- room ----------------------------------------------------------------------------------------------------

    def evict(self, keep: "set[str]") -> None:
        """Remove what is not in `keep`, least recently used first, until the cache is within its bound; and what
        was left half-done by a cut."""
        self.keep = set(keep)
        with self._lock:
            self._remove_leftovers()
            self._make_room(0)

    def _room(self, what: str, size: int, bounded: bool = True) -> None:
        """Make room for `size` more bytes. NoRoom if that cannot be, with figures. bounded: within cache_max, too."""
        with self._lock:
            over, short = self._make_room(size)
        if _few_files_left(self._objects):
            raise NoRoom("the data partition has no room for the {}: it can hold hardly any more files".format(what))
        if over > 0 and bounded:
            raise NoRoom(
                "the cache has no room for the {}: {:.1f} MiB over its {} MiB (cache_max), all else is in use".format(
                    what, over / MIB, self._max // MIB
                )
            )
        if short > 0:
            raise NoRoom(
                "the data partition has no room for the {}: {:.1f} MiB are missing ({} MiB stay free)".format(
                    what, short / MIB, self._reserve // MIB
                )
            )

    def _make_room(self, size: int) -> "tuple[int, int]":
        """Evict until `size` bytes fit; returns by how many they do not, in the cache's bound and on the partition."""
        candidates = self._evictable()
        while True:
            over = self._used() + size - self._max
            short = size + self._reserve - _free(self._objects)
            if (over <= 0 and short <= 0) or not candidates:
                return over, short
            _remove_tree(candidates.pop(0))

    def _evictable(self) -> "list[str]":
        """Paths that may go, the first first: unused ones by age, then archives in use that are unpacked already."""
        if self.keep is None:
            return []
        busy = {sha256 for _, sha256 in self._flights}
        unused, unpacked = [], []
        for directory in (self._partials, self._objects, self._trees):
            for sha256 in _names(directory):
                path = os.path.join(directory, sha256)
                if sha256 in busy:
                    continue
                if sha256 not in self.keep and not os.path.ismount(os.path.join(self._template_mounts, sha256)):
                    unused.append((_age(path), path))
                elif directory == self._objects and os.path.isdir(self.tree(sha256)):
                    unpacked.append((_age(path), path))
        return [path for _, path in sorted(unused) + sorted(unpacked)]

    def _used(self) -> int:
        """Bytes of everything in the cache. A tree never changes: it is walked once."""
        total = 0
        for directory in (self._partials, self._objects):
            total += sum(_size(os.path.join(directory, sha256)) for sha256 in _names(directory))
        for sha256 in _names(self._trees):
            if sha256 not in self._tree_sizes:
                self._tree_sizes[sha256] = _size(self.tree(sha256))
            total += self._tree_sizes[sha256]
        return total

    def _remove_leftovers(self) -> None:
        busy = {sha256 for _, sha256 in self._flights}
        for entry in _listdir(self._trees):
            if entry.startswith(UNPACKING) and entry[len(UNPACKING) :] not in busy:
                _remove_tree(os.path.join(self._trees, entry))

    def _touch(self, sha256: str) -> None:
        """Note the use of a file, for the order of eviction."""
        for path in (self.object(sha256), self.tree(sha256)):
            try:
                os.utime(path)
            except FileNotFoundError:
                pass


def _checked(sha256: str) -> str:
    """`sha256`, which becomes a file's name, if it is one."""
    if not SHA256.fullmatch(sha256):
        raise StepError("the sha256 {!r} is not 64 lower-case hex digits".format(sha256[:80]))
    return sha256


def _listdir(directory: str) -> "list[str]":
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _names(directory: str) -> "list[str]":
    return [entry for entry in _listdir(directory) if SHA256.fullmatch(entry)]


def _age(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: str) -> int:
    """Bytes on disk of a file, or of a tree with all that is in it."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    total = found.st_blocks * 512
    if os.path.isdir(path) and not os.path.islink(path):
        for directory, directories, files in os.walk(path):
            for name in directories + files:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def nearest(path: str) -> str:
    """The directory `path`, or the nearest one above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _free(directory: str) -> int:
    """Bytes free on the file system that `directory` lies on or will lie on."""
    found = os.statvfs(nearest(directory))
    return found.f_bavail * found.f_frsize


def _few_files_left(directory: str) -> bool:
    """Whether the file system is about to run out of inodes: others must be able to write, too. Some count none."""
    found = os.statvfs(nearest(directory))
    return found.f_favail < found.f_files // FILES_KEPT


def _remove_tree(path: str) -> None:
    """Remove a file, or a directory with all below it, without following links. Not being there is fine."""
    import shutil

    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path)


def _flush(descriptor: int) -> None:
    from confine.drivers import syscalls

    syscalls.syncfs(descriptor)


def _squashfs_fault(path: str) -> "str | None":
    """What is wrong with a squashfs: another version than 4, or cut short (the kernel would find out while reading)."""
    with open(path, "rb") as file:
        header = file.read(SQUASHFS_HEADER)
    if len(header) < SQUASHFS_HEADER or int.from_bytes(header[28:30], "little") != 4:
        return "it is no squashfs of version 4"
    used = int.from_bytes(header[40:48], "little")
    size = os.path.getsize(path)
    if used > size:
        return "it is cut short: it has {} of {} bytes".format(size, used)
    return None
