"""The data partition takes the room that the disk has behind it: `python3 -m confine.upgrade.grow vda8 /srv`.

An image is made for the smallest disk, and a virtual machine's may be made larger later. First the table (gpt.py),
then what the kernel knows of it, then the file system, which the kernel enlarges while it is mounted, by its journal.
Cut off anywhere, the next start sees how far it came, and does the rest. Started by files/etc/init.d/confine-grow, if
there is anything to do, and not on trial.
"""

import fcntl
import mmap
import os
import struct
import sys

from confine.upgrade import gpt
from confine.upgrade.errors import UpgradeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_BLKPG, _RESIZE_PARTITION = 0x1269, 3  # linux/blkpg.h
_RESIZE_FS = 0x40086610  # EXT4_IOC_RESIZE_FS
_ROUNDS = 4


class Device:
    """A whole disk, read and written past the page cache: a page is eight sectors, and what is written with the one
    that is meant could be torn with it."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def __enter__(self) -> "Device":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        os.close(self.fd)

    def read(self, sector: int, count: int) -> bytes:
        """The content of `count` sectors. OSError if the medium does not give it."""
        with mmap.mmap(-1, count * gpt.SECTOR) as buffer:
            if os.preadv(self.fd, [buffer], sector * gpt.SECTOR) != len(buffer):
                raise OSError("sector {} cannot be read".format(sector))
            return buffer[:]

    def write(self, sector: int, content: bytes) -> None:
        """Write whole sectors, and have them on the medium. OSError if it does not take them."""
        with mmap.mmap(-1, len(content)) as buffer:
            buffer[:] = content
            if os.pwritev(self.fd, [buffer], sector * gpt.SECTOR) != len(content):
                raise OSError("sector {} cannot be written".format(sector))
        os.fsync(self.fd)


def grow_partition(disk: "Device", sectors: int) -> int:
    """Make the data partition reach to the end of a disk of `sectors`; its length then, in sectors."""
    for _ in range(_ROUNDS):
        todo = gpt.steps(disk.read, sectors)
        if not todo:
            _, first, end = gpt.Table(disk.read).partitions()[gpt.DATA]
            return end - first
        for sector, content in todo:
            disk.write(sector, content)
    raise UpgradeError("the partition table does not read back as it was written: replace the disk")


def tell_kernel(fd: int, number: int, first: int, length: int) -> None:
    """Have the kernel take partition `number` of the disk `fd` for `length` sectors long; it may be in use."""
    import ctypes

    part = struct.pack("qqi64s64s4x", first * gpt.SECTOR, length * gpt.SECTOR, number, b"", b"")
    data = ctypes.create_string_buffer(part, len(part))
    fcntl.ioctl(fd, _BLKPG, struct.pack("iiiP", _RESIZE_PARTITION, 0, len(part), ctypes.addressof(data)))


def grow_filesystem(path: str, mounted: str, length: int) -> int:
    """Make the ext4 in the device `path`, mounted at `mounted`, fill `length` sectors. Its length then, in bytes."""
    with open(path, "rb") as file:
        file.seek(1024)
        block = file.read(1024)
    if block[56:58] != b"\x53\xef":
        raise UpgradeError("{} holds no ext4".format(path))
    low, doubled, each, high = (int.from_bytes(block[at : at + 4], "little") for at in (4, 24, 32, 0x150))
    now, size = high << 32 | low, 1024 << doubled
    wanted = length * gpt.SECTOR // size
    # A group of blocks that is too short for its own tables is of no use.
    if wanted % each * size < gpt.ROOM * gpt.SECTOR:
        wanted -= wanted % each
    if wanted > now:
        fd = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _RESIZE_FS, struct.pack("Q", wanted))
        finally:
            os.close(fd)
    return max(wanted, now) * size


def grow(device: str, mounted: str, sys_block: str = "/sys/class/block", dev: str = "/dev") -> str:
    """Do all of it for the data partition `device` (vda8), mounted at `mounted`; words for the log.

    UpgradeError, OSError: why it stays as large as it is, or which part of it is done.
    """
    here = os.path.realpath(os.path.join(sys_block, device))
    whole = os.path.dirname(here)
    number, first, before = (_number(here, name) for name in ("partition", "start", "size"))
    with Device(os.path.join(dev, os.path.basename(whole))) as disk:
        if gpt.Table(disk.read).partitions().get(gpt.DATA, ())[:2] != (number, first):
            raise UpgradeError("{} is not the partition that the disk's table calls {}".format(device, gpt.DATA))
        length = grow_partition(disk, _number(whole, "size"))
        if length > before:
            tell_kernel(disk.fd, number, first, length)
    size = grow_filesystem(os.path.join(dev, device), mounted, length)
    return "the data partition {} has {} MiB now, its file system {} MiB".format(
        device, length // gpt.MIB, size // gpt.SECTOR // gpt.MIB
    )


def _number(directory: str, name: str) -> int:
    with open(os.path.join(directory, name), encoding="ascii") as file:
        return int(file.read())


def main(argv: "list[str]") -> int:
    """Exit status 0, or 1 with the reason; what was done, on standard output."""
    try:
        print(grow(*argv))
    except (UpgradeError, OSError) as error:
        print("the data partition stays as large as it is: {}".format(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
