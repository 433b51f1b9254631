"""The early userspace: busybox, the kernel modules that lead to the root, and firmware/reference/initrd/init."""

from __future__ import annotations

import gzip
from pathlib import Path

from firmware.reference.root import initrd_modules

INIT = Path(__file__).with_name("initrd") / "init"
MODULES = ["virtio_blk", "loop", "squashfs", "overlay"]
DIRECTORIES = ["bin", "dev", "modules", "overlay", "proc", "rom", "root", "sys"]
APPLETS = [
    "cat", "chroot", "dd", "grep", "head", "hexdump", "insmod", "losetup", "mkdir", "mount", "mv", "rm", "sh", "sleep",
    "switch_root", "sync", "tar", "tr", "umount", "wc",
]  # fmt: skip

DIRECTORY = 0o040755
PROGRAM = 0o100755
LINK = 0o120777
# /dev/console, for messages before devtmpfs is mounted: a character device, 5:1.
CONSOLE = 0o020600


def entry(inode: int, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a cpio archive in the kernel's "newc" format: owner root, time 0."""
    encoded = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return padded(header + encoded) + padded(content)


def padded(data: bytes) -> bytes:
    """`data`, filled up with zeros to a multiple of four bytes."""
    return data + b"\0" * (-len(data) % 4)


def build(base: Path, output: Path) -> None:
    """Writes the initrd for the kernel and busybox in `base`: gzip, the same bytes for the same input."""
    modules = initrd_modules(base, MODULES)
    members: list[tuple[str, int, bytes, tuple[int, int]]] = [(name, DIRECTORY, b"", (0, 0)) for name in DIRECTORIES]
    members.append(("dev/console", CONSOLE, b"", (5, 1)))
    members.append(("bin/busybox", PROGRAM, (base / "usr/bin/busybox").read_bytes(), (0, 0)))
    members += [(f"bin/{name}", LINK, b"busybox", (0, 0)) for name in APPLETS]
    members += [(f"modules/{path.name}", PROGRAM, path.read_bytes(), (0, 0)) for path in modules]
    order = "".join(f"{path.name}\n" for path in modules)
    members.append(("modules/order", PROGRAM, order.encode(), (0, 0)))
    members.append(("init", PROGRAM, INIT.read_bytes(), (0, 0)))
    archive = b"".join(entry(number, *member) for number, member in enumerate(members, 1))
    archive += entry(0, "TRAILER!!!", 0)
    output.write_bytes(gzip.compress(archive, compresslevel=6, mtime=0))
