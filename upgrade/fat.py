"""Where a small file lies on the boot partition (FAT12 or FAT16, as mkfs.fat makes it), found without mounting it.

The counters' file is one sector that is only ever overwritten in place. Writing that sector and nothing else, no
directory entry and no "dirty" mark, leaves a power cut nothing to break.
"""

import os
import struct

SECTOR = 512
_ENTRY = 32
_LONG_NAME = 0x0F
_DIRECTORY = 0x10
_MAX_ENTRIES = 4096


class FatError(Exception):
    """The partition is no FAT file system that this can read, or the file is not there: says which and what to do."""


def find_sector(fd: int, path: str) -> int:
    """The offset, in bytes from the start of the open partition `fd`, of the one-sector file `path` ("grub/grubenv").

    Names are of the short kind (8.3), upper and lower case alike. Raises FatError.
    """
    boot = os.pread(fd, SECTOR, 0)
    if len(boot) != SECTOR or boot[510:] != b"\x55\xaa":
        raise FatError("the boot partition holds no FAT file system: write it again")
    per_sector, per_cluster, reserved, fats, entries = struct.unpack_from("<HBHBH", boot, 11)
    (fat_sectors,) = struct.unpack_from("<H", boot, 22)
    if per_sector != SECTOR or not per_cluster or not fat_sectors or not entries:
        raise FatError("the boot partition is of a kind of FAT that nobody made here: write it again")
    root = (reserved + fats * fat_sectors) * SECTOR
    data = root + entries * _ENTRY
    where, length = root, min(entries, _MAX_ENTRIES) * _ENTRY
    words = path.split("/")
    for word in words[:-1]:
        cluster, _ = _entry(os.pread(fd, length, where), word, True, path)
        # A directory's first cluster: more files than fit there were never made.
        where, length = data + (cluster - 2) * per_cluster * SECTOR, per_cluster * SECTOR
    cluster, size = _entry(os.pread(fd, length, where), words[-1], False, path)
    if size != SECTOR:
        raise FatError(f"{path} has {size} bytes instead of {SECTOR}: write the boot partition again")
    return int(data + (cluster - 2) * per_cluster * SECTOR)


def _entry(directory: bytes, name: str, is_directory: bool, path: str) -> "tuple[int, int]":
    """First cluster and size of `name` in the bytes of a directory."""
    stem, _, extension = name.upper().partition(".")
    wanted = stem.encode().ljust(8) + extension.encode().ljust(3)
    for at in range(0, len(directory), _ENTRY):
        entry = directory[at : at + _ENTRY]
        if entry[:1] == b"\0":
            break
        if entry[11] == _LONG_NAME or entry[:11] != wanted or bool(entry[11] & _DIRECTORY) is not is_directory:
            continue
        cluster, size = struct.unpack_from("<HI", entry, 26)
        if cluster >= 2:
            return int(cluster), int(size)
    raise FatError(f"the boot partition has no {path}: write it again")
