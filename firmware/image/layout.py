"""The partition table of a node's disk: names, order, types, sizes, fixed ids.

Source: the design's A/B layout. Boot files are never written by an upgrade; the pointer says which slot is
confirmed; each slot is a kernel and a root partition, each written as a whole; the data partition is shared.
The names are what the node finds its partitions by (PARTLABEL=root-a): they are part of the firmware's contract.
The ids come from what is put on the disk, so that the same inputs give the same bytes, and two disks of different
images can be told apart: GRUB passes the id of the partition it came from, early userspace takes the root from there.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

SECTOR = 512
MIB = 1024 * 1024
SECTORS_PER_MIB = MIB // SECTOR
FIRST_MIB = 1
# The backup table needs 33 sectors at the end; a whole MiB keeps the disk's size round.
TAIL_MIB = 1

DISK_GUID = "6C0F1A5E-3B1D-4C5A-9E57-0A1B2C3D4E00"
TYPE_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
TYPE_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

DEFAULT_SIZES_MIB: Mapping[str, int] = {
    "bios": 1,
    "boot": 16,
    "pointer": 4,
    "kernel-a": 48,
    "root-a": 320,
    "kernel-b": 48,
    "root-b": 320,
    "recovery": 64,
    "data": 3072,
}
# By number: GRUB knows them by these (gpt1, gpt2, ...), the node by name.
NAMES = ("bios", "boot", "pointer", "kernel-a", "root-a", "kernel-b", "root-b", "data", "recovery")
# As they lie on the disk: data is last, so that it can be made larger.
_ORDER = ("bios", "boot", "pointer", "kernel-a", "root-a", "kernel-b", "root-b", "recovery", "data")
_TYPES = {"bios": TYPE_BIOS_BOOT, "boot": TYPE_EFI_SYSTEM}
# boot: FAT16 has at least 4085 clusters; pointer: two copies 1 MiB apart; data: room for an ext4 journal.
_MINIMUM_MIB = {"boot": 16, "pointer": 2, "data": 64}


class LayoutError(ValueError):
    """The disk cannot be laid out as asked: names the partition, what it was given and what it needs."""


@dataclass(frozen=True)
class Partition:
    """One partition. number: from 1, as GRUB and the kernel count. start, size: in MiB from the disk's start."""

    number: int
    name: str
    type_guid: str
    guid: str
    start_mib: int
    size_mib: int

    @property
    def start(self) -> int:
        """First byte on the disk."""
        return self.start_mib * MIB

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.size_mib * MIB

    @property
    def first_sector(self) -> int:
        """First 512-byte sector on the disk."""
        return self.start // SECTOR


def filesystem_uuid(name: str) -> str:
    """The fixed UUID of the file system in partition `name`; also seeds its directory hashes."""
    return f"6c0f1a5e-3b1d-4c5a-9e57-0a1b2c3d4f{NAMES.index(name) + 1:02x}"


def partitions(sizes_mib: Mapping[str, int] | None = None) -> list[Partition]:
    """The partitions of a disk, by number. sizes_mib: partition name to MiB, for those that differ from the default.

    Raises LayoutError for an unknown name or a size too small to hold what belongs there.
    """
    sizes = dict(DEFAULT_SIZES_MIB)
    for name, size in (sizes_mib or {}).items():
        if name not in sizes:
            raise LayoutError(f"there is no partition {name!r}; the disk has {', '.join(NAMES)}")
        if size < _MINIMUM_MIB.get(name, 1):
            raise LayoutError(f"partition {name}: {size} MiB is too small, at least {_MINIMUM_MIB.get(name, 1)} MiB")
        sizes[name] = size
    table = []
    start = FIRST_MIB
    for name in _ORDER:
        number = NAMES.index(name) + 1
        guid = f"{DISK_GUID[:-2]}{number:02X}"
        table.append(Partition(number, name, _TYPES.get(name, TYPE_LINUX), guid, start, sizes[name]))
        start += sizes[name]
    return sorted(table, key=lambda part: part.number)


def identified(table: list[Partition], content: str) -> list[Partition]:
    """The table with ids that only disks with this content have. content: any text that tells it from others."""
    own = str(uuid.UUID(bytes=hashlib.sha256(content.encode()).digest()[:16], version=4)).upper()
    return [replace(part, guid=f"{own[:-2]}{part.number:02X}") for part in table]


def disk_size(table: list[Partition]) -> int:
    """Bytes of the whole disk, the backup table at its end included."""
    last = max(table, key=lambda part: part.start)
    return last.start + last.size + TAIL_MIB * MIB


def sfdisk_script(table: list[Partition]) -> str:
    """The table in sfdisk's input format."""
    lines = ["label: gpt", f"label-id: {table[0].guid[:-2]}00", "unit: sectors", "first-lba: 34", ""]
    for part in table:
        lines.append(
            f"start={part.first_sector}, size={part.size // SECTOR}, type={part.type_guid}, "
            f'uuid={part.guid}, name="{part.name}"'
        )
    return "\n".join(lines) + "\n"
