"""The file systems on the disk: the kernel partition's, the root's overlay and the data partition's.

The kernel partition is an uncompressed squashfs with `vmlinuz` and `initrd.img`. Of what GRUB can read, it is the one
file system that every node's kernel has anyway (its root is one), so that an upgrade can be looked into before it is
started; it cannot be changed in place, only written as a whole; its bytes depend on its content alone; and it needs
no room for later changes. It is uncompressed because the kernel and the initrd are compressed already, and GRUB's
squashfs reader knows no zstd.
"""

import os
import shutil
import struct

from firmware.image import tools
from firmware.image.layout import MIB, Partition, filesystem_uuid
from upgrade import label

# fstools' rule: the overlay starts at the next multiple of 64 KiB behind the squashfs's last byte.
OVERLAY_ALIGNMENT = 64 * 1024
# Below this ext4 has no room for a journal worth having, and the node none for its configuration.
_OVERLAY_MINIMUM = 16 * MIB
_SQUASHFS_MAGIC = b"hsqs"
_SQUASHFS_BYTES_USED = 40


class FilesystemError(ValueError):
    """A file system does not fit its partition, or an input is not what it should be."""


def write_kernel(path: str, part: Partition, kernel: str, initrd: str | None, work: str, epoch: int) -> None:
    """Make the content of kernel partition `part` as the file `path`, from a kernel and an initrd, if it needs one."""
    content = os.path.join(work, "kernel")
    os.mkdir(content)
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd.img")):
        if source is None:
            continue
        target = os.path.join(content, name)
        shutil.copyfile(source, target)
        os.chmod(target, 0o644)
        os.utime(target, (epoch, epoch))
    os.chmod(content, 0o755)
    os.utime(content, (epoch, epoch))
    plain = ["-noI", "-noD", "-noF", "-noX", "-no-fragments", "-b", "1M"]
    same = ["-noappend", "-all-root", "-no-xattrs", "-no-exports", "-processors", "1"]
    tools.run(["mksquashfs", content, path, *plain, *same, "-quiet", "-no-progress"], epoch)
    if os.path.getsize(path) > part.size - label.SIZE:
        raise FilesystemError(
            f"kernel and initrd need {os.path.getsize(path) // MIB + 1} MiB, "
            f"partition {part.name} has {part.size_mib}: make it larger"
        )


def overlay_offset(root: str) -> int:
    """Where the overlay of the squashfs file `root` starts, in bytes. Raises FilesystemError if it is no squashfs."""
    return -(-bytes_used(root) // OVERLAY_ALIGNMENT) * OVERLAY_ALIGNMENT


def bytes_used(root: str) -> int:
    """How long the squashfs in the file `root` says it is. Raises FilesystemError if it is none, or cut short."""
    with open(root, "rb") as file:
        head = file.read(_SQUASHFS_BYTES_USED + 8)
    if head[:4] != _SQUASHFS_MAGIC or len(head) < _SQUASHFS_BYTES_USED + 8:
        raise FilesystemError(f"{root} is no squashfs: build the reference image again")
    used: int = struct.unpack_from("<Q", head, _SQUASHFS_BYTES_USED)[0]
    if used > os.path.getsize(root):
        raise FilesystemError(f"{root} is cut short: {os.path.getsize(root)} of {used} bytes; build it again")
    return used


def write_overlay(path: str, part: Partition, root: str, config_tar: str | None, work: str, epoch: int) -> None:
    """Make the overlay that follows the squashfs `root` in root partition `part` as the file `path`.

    It holds upper/ and work/, and with `config_tar` (a tar.gz of files to restore) upper/sysupgrade.tgz, which the
    early userspace unpacks at the first start, as fstools does.
    """
    size = part.size - overlay_offset(root)
    if size < _OVERLAY_MINIMUM:
        raise FilesystemError(
            f"partition {part.name}: {size // 1024} KiB left for the overlay behind {root}, at least "
            f"{_OVERLAY_MINIMUM // 1024} are needed: make it larger"
        )
    _mkfs_ext4(path, size, "rootfs_data", filesystem_uuid(part.name), epoch)
    commands = ["mkdir upper", "mkdir work"]
    if config_tar is not None:
        staged = os.path.join(work, "sysupgrade.tgz")
        shutil.copyfile(config_tar, staged)
        # It may hold keys.
        os.chmod(staged, 0o600)
        commands += ["cd upper", f"write {staged} sysupgrade.tgz"]
    # debugfs and not mkfs.ext4 -d: that copies the change times and owners of the files it is given.
    said = tools.run(["debugfs", "-w", "-f", "-", path], epoch, stdin="\n".join(commands) + "\n")
    listing = tools.run(["debugfs", "-R", "ls -p /upper" if config_tar else "ls -p /", path], epoch)
    if ("sysupgrade.tgz" if config_tar else "/work/") not in listing:
        raise FilesystemError(f"the overlay of {part.name} could not be filled: debugfs said {said!r}")


def check_recovery(path: str, part: Partition) -> None:
    """FilesystemError unless the file `path` is a whole squashfs that fits partition `part`."""
    overlay_offset(path)
    if os.path.getsize(path) > part.size:
        raise FilesystemError(
            f"{path} needs {os.path.getsize(path) // MIB + 1} MiB, partition {part.name} has {part.size_mib}: "
            "make it larger"
        )


def write_data(path: str, part: Partition, epoch: int) -> None:
    """Make the data partition as the file `path`: an empty ext4."""
    _mkfs_ext4(path, part.size, "data", filesystem_uuid(part.name), epoch)


def _mkfs_ext4(path: str, size: int, label: str, uuid: str, epoch: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
    # No blocks kept for root: everything here is root's own. Discarding a fresh file keeps it sparse and tells mkfs
    # that it reads as zeros, so neither mkfs nor later the node's kernel writes the inode tables.
    options = ["-q", "-F", "-b", "4096", "-m", "0", "-L", label, "-U", uuid, "-E", f"discard,hash_seed={uuid}"]
    tools.run(["mkfs.ext4", *options, path], epoch)
