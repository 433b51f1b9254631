"""A slot's overlay: the file system for changes behind its squashfs, in the same partition (as fstools has it).

A new root must not find the overlay of the one before it: its header is cleared. The running slot then makes a new
one with upper/sysupgrade.tgz in it, which the new root unpacks at its first start.
"""

import os
import shutil
import struct
import subprocess
import tempfile

from confine.upgrade.disk import MIB, ROOT, Disk, write_all
from confine.upgrade.errors import UpgradeError

# fstools' rule: the overlay starts at the next multiple of 64 KiB behind the squashfs's last byte.
ALIGNMENT = 64 * 1024
# Below this ext4 has no room for a journal worth having, and the node none for its configuration.
MINIMUM = 16 * MIB
MKFS_S = 300
_MAGIC = b"hsqs"
_USED = 40  # where a squashfs says how long it is
# More than any file system's superblock and its first copy of what leads to the journal.
_HEADER = ALIGNMENT


def offset(disk: Disk, slot: str) -> int:
    """Where the overlay of `slot` starts, in bytes. UpgradeError if the slot's root is no squashfs."""
    fd = disk.open(ROOT + "-" + slot)
    try:
        head = os.pread(fd, _USED + 8, 0)
        size = os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
    used = struct.unpack_from("<Q", head, _USED)[0] if head[:4] == _MAGIC and len(head) == _USED + 8 else 0
    start = -(-used // ALIGNMENT) * ALIGNMENT
    if not used or start + MINIMUM > size:
        raise UpgradeError("partition root-{} holds no root file system with room for changes behind it".format(slot))
    return int(start)


def clear(disk: Disk, slot: str) -> None:
    """Make the overlay of `slot`, whatever it holds, one that is not there; durably."""
    start = offset(disk, slot)
    fd = disk.open(ROOT + "-" + slot, os.O_RDWR)
    try:
        write_all(fd, bytes(_HEADER), start)
        os.fsync(fd)
    finally:
        os.close(fd)


def make(disk: Disk, slot: str, configuration: str, work: str) -> None:
    """Make the overlay of `slot` anew, with the file `configuration` (tar.gz) to be taken over; durably.

    work: directory in memory for a moment. UpgradeError if it cannot be made.
    """
    start = offset(disk, slot)
    size = disk.size(ROOT + "-" + slot) - start
    staged = tempfile.mkdtemp(dir=work)
    try:
        for name in ("upper", "work"):
            os.mkdir(os.path.join(staged, name), 0o755)
        shutil.copyfile(configuration, os.path.join(staged, "upper", "sysupgrade.tgz"))
        os.chmod(os.path.join(staged, "upper", "sysupgrade.tgz"), 0o600)  # it holds keys
        options = ["-q", "-F", "-b", "4096", "-m", "0", "-L", "rootfs_data", "-E", "nodiscard,offset={}".format(start)]
        _run(["mkfs.ext4", *options, "-d", staged, disk.path(ROOT + "-" + slot), str(size // 4096)])
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    fd = disk.open(ROOT + "-" + slot, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _run(argv: "list[str]") -> None:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=MKFS_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpgradeError("the new slot's overlay cannot be made: {}".format(error))
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise UpgradeError("{} failed (status {}): {}".format(argv[0], done.returncode, said))
