"""The partition table (GPT) of a node's disk: its last partition made longer, with one sector that decides.

The table is a header (sector 1), which says where the entries lie and what their checksum is, the entries (sectors 2
to 33), and a copy of both at the disk's end. Kernel, GRUB and firmware read the first one; without a good header there
a PC does not start, so that entries and header may never disagree. The order, with a flush after each:

    copy     entries and header at the disk's new end: nobody reads them as long as the first ones are good
    aside    the new entries, in sectors before the first partition that nothing uses
    header   one sector, which says that the entries are those aside: **this one decides**
    entries  the new ones in their usual place, which nobody reads now
    header   one sector: the entries are in their usual place

Sector 0 (GRUB's first part) is not written: its entry for old tools keeps the length that it had, which nothing heeds.
Source of the format: UEFI specification, "GUID Partition Table (GPT) Disk Layout".
"""

import binascii
import struct

from confine.upgrade.errors import UpgradeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # First sector, how many: their bytes.
    Read = Callable[[int, int], bytes]
    Write = tuple[int, bytes]

SECTOR = 512
# Sectors of a MiB: what firmware/image lays partitions out by, and what it leaves behind the last one.
MIB = 2048
# Sectors that are worth changing the table for; files/etc/init.d/confine-grow has the same.
ROOM = 16 * MIB
DATA = "data"
# Such a disk is one that firmware/image laid out; another one's gaps may hold what nobody knows of.
OURS = {"kernel-a", "root-a", DATA}

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_COUNT = 128
_LENGTH = _COUNT * _ENTRY.size // SECTOR
_HOME = 2
_ASIDE = MIB - _LENGTH


class Table:
    """The first table of a disk. UpgradeError if it is damaged, or laid out in a way that is not ours."""

    def __init__(self, read: "Read") -> None:
        head = read(1, 1)
        (
            signature, self.revision, size, crc, _, mine, self.copy, self.first, self.last, self.guid, self.at, count,
            length, entries_crc,
        ) = _HEADER.unpack_from(head)  # fmt: skip
        if signature != b"EFI PART":
            raise UpgradeError("the disk has no GPT")
        if size != _HEADER.size or mine != 1 or crc != binascii.crc32(head[:16] + bytes(4) + head[20:size]):
            raise UpgradeError("the header of the disk's partition table is damaged")
        if (count, length) != (_COUNT, _ENTRY.size) or self.at not in (_HOME, _ASIDE):
            raise UpgradeError("the disk's partition table has another layout than ours")
        self.entries = read(self.at, _LENGTH)
        if entries_crc != binascii.crc32(self.entries):
            raise UpgradeError("the entries of the disk's partition table are damaged")

    def partitions(self) -> "dict[str, tuple[int, int, int]]":
        """By name: number (from 1), first sector, the one behind the last. UpgradeError if a name comes twice."""
        found: dict[str, tuple[int, int, int]] = {}
        for number, (kind, _, first, last, _, encoded) in enumerate(_ENTRY.iter_unpack(self.entries), 1):
            name = encoded.decode("utf-16-le", "replace").rstrip("\0")
            if kind != bytes(16) and name in found:
                raise UpgradeError("two partitions are called {!r}".format(name))
            if kind != bytes(16):
                found[name] = number, first, last + 1
        return found

    def header(self, at: int, copy: bool = False) -> bytes:
        """The sector of the header that has the entries at sector `at`. copy: the one at the disk's end."""
        places = (self.copy, 1) if copy else (1, self.copy)
        crc = 0
        for _ in range(2):
            head = _HEADER.pack(
                b"EFI PART", self.revision, _HEADER.size, crc, 0, *places, self.first, self.last, self.guid, at, _COUNT,
                _ENTRY.size, binascii.crc32(self.entries),
            )  # fmt: skip
            crc = binascii.crc32(head)
        return head + bytes(SECTOR - len(head))

    def lengthen(self, number: int, end: int, sectors: int) -> None:
        """The partition `number` ends before sector `end`, on a disk of `sectors`."""
        at = (number - 1) * _ENTRY.size + 40
        self.entries = self.entries[:at] + struct.pack("<Q", end - 1) + self.entries[at + 8 :]
        self.copy, self.last = sectors - 1, sectors - _LENGTH - 2


def steps(read: "Read", sectors: int) -> "list[Write]":
    """What is to be written for the data partition to reach to the end of a disk of `sectors`, each (sector, content)
    to be flushed before the next. Nothing: it does. Also when that was cut off: then the rest. When they are done, ask
    again. UpgradeError says why it must not be lengthened."""
    table = Table(read)
    if table.at != _HOME:
        return [(_HOME, table.entries), (1, table.header(_HOME))]
    parts = table.partitions()
    if not parts.keys() >= OURS or min(first for _, first, _ in parts.values()) < MIB:
        raise UpgradeError("the disk was not laid out for slots, it has {}".format(", ".join(sorted(parts))))
    number, first, end = parts[DATA]
    wanted = (sectors - MIB) // MIB * MIB
    if wanted - end < ROOM:
        return []
    behind = sorted(name for name, part in parts.items() if name != DATA and part[2] > first)
    if behind:
        raise UpgradeError("the data partition cannot be made larger: behind it lies {}".format(", ".join(behind)))
    table.lengthen(number, wanted, sectors)
    copy = sectors - 1 - _LENGTH
    return [
        (copy, table.entries), (sectors - 1, table.header(copy, copy=True)),
        (_ASIDE, table.entries), (1, table.header(_ASIDE)),
        (_HOME, table.entries), (1, table.header(_HOME)),
    ]  # fmt: skip
