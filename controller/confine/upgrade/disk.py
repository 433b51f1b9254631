"""The node's disk as its partitions, by the names in the GPT: found, opened, read past every cache.

Only the disk that the running root lies on counts: another one with the same names (a stick from which a node is
flashed) is never touched.
"""

import errno
import fcntl
import hashlib
import os
import stat

from confine.upgrade.errors import UpgradeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
SLOTS = ("a", "b")
KERNEL, ROOT = "kernel", "root"
PARTS = (KERNEL, ROOT)
_ROM = "/rom"
_BLKFLSBUF = 0x1261


class Disk:
    """The disk. find: name of a partition to its path (tests have files instead); None: as the kernel tells."""

    def __init__(self, find: "Callable[[str], str] | None" = None) -> None:
        self._find = find or find_partition
        self._blocks = find is None

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open the partition `name`. For writing it must not be in use (mounted). UpgradeError says why not."""
        path = self._find(name)
        if flags & os.O_ACCMODE != os.O_RDONLY and self._blocks:
            flags |= os.O_EXCL
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise UpgradeError("partition {} ({}) cannot be opened: {}".format(name, path, error.strerror))
        if self._blocks and not stat.S_ISBLK(os.fstat(fd).st_mode):
            os.close(fd)
            raise UpgradeError("partition {}: {} is no block device and is left alone".format(name, path))
        return fd

    def size(self, name: str) -> int:
        """Bytes of the partition `name`."""
        fd = self.open(name)
        try:
            return os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)

    def path(self, name: str) -> str:
        """The device of the partition `name`, for tools that want one."""
        return self._find(name)


def find_partition(name: str, rom: str = _ROM, sys: str = "/sys") -> str:
    """The device of the partition that the GPT calls `name` on the disk of the running root (or, where no root of
    ours runs, as in a recovery system, on the only disk that has one). UpgradeError if there is none."""
    directories = _own_disk(rom, sys) or _all_devices(sys)
    found = []
    for directory in directories:
        try:
            with open(os.path.join(directory, "uevent"), encoding="utf-8") as file:
                if "PARTNAME=" + name in file.read().splitlines():
                    found.append("/dev/" + os.path.basename(directory))
        except OSError:
            continue
    if len(found) != 1:
        raise UpgradeError(
            "{} partitions are called {}: {}".format(
                len(found) or "no", name, "remove the other disk" if found else "this disk has no slots for upgrades"
            )
        )
    return found[0]


def _all_devices(sys: str) -> "list[str]":
    block = os.path.join(sys, "class/block")
    return [os.path.realpath(os.path.join(block, name)) for name in (os.listdir(block) if os.path.isdir(block) else ())]


def _own_disk(rom: str, sys: str) -> "list[str]":
    """sysfs directories of the partitions of the disk that `rom` is mounted from."""
    try:
        device = os.stat(rom).st_dev
        disk = os.path.dirname(os.path.realpath("{}/dev/block/{}:{}".format(sys, os.major(device), os.minor(device))))
        names = sorted(os.listdir(disk))
    except OSError:
        return []
    found = [os.path.join(disk, name) for name in names if os.path.exists(os.path.join(disk, name, "partition"))]
    return found if os.path.exists(os.path.join(disk, "uevent")) else []


def sha256_on_disk(disk: Disk, name: str, size: int) -> str:
    """The sha256, as hex, of the first `size` bytes of the partition `name`, as the medium gives them now.

    OSError if the medium cannot be read.
    """
    import mmap

    fd, direct = disk.open(name), False
    try:
        forget_cached(fd)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
            direct = True
        except OSError:
            pass  # a file system that knows none: what was cached is forgotten above
        digest = hashlib.sha256()
        with mmap.mmap(-1, MIB) as buffer, memoryview(buffer) as view:
            at = 0
            while at < size:
                try:
                    count = os.preadv(fd, [view], at)
                except OSError as error:
                    if error.errno != errno.EINVAL or not direct:
                        raise
                    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
                    direct = False
                    continue
                if not count:
                    raise UpgradeError("partition {} ends at {} of {} bytes".format(name, at, size))
                digest.update(view[: min(count, size - at)])
                at += count
        return digest.hexdigest()
    finally:
        os.close(fd)


def forget_cached(fd: int) -> None:
    """Have the kernel forget what it has cached of the open `fd`, as far as it is on the medium."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    except OSError:
        pass  # not a block device, or not ours to flush


def write_all(fd: int, data: "bytes | memoryview", offset: int) -> None:
    """pwrite all of it. OSError if the medium does not take it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        if not written:
            raise OSError(errno.ENOSPC, "nothing more could be written")
        view, offset = view[written:], offset + written
