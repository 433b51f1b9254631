"""The files that are slivers' disks: every block allocated, an ext4 in them.

Pure files: what is mounted of them is layers.py's business.
"""

import fcntl
import os
import subprocess
import time

from confine.core.model import MIB
from confine.errors import StepError

# ext4 (kernel documentation, "The Super Block"): at byte 1024, magic 0xEF53 56 bytes into it.
SUPERBLOCK = 1024
MAGIC_OFFSET = SUPERBLOCK + 56
MAGIC = b"\x53\xef"
# nodiscard: else mkfs punches holes into the image. No lazy inits: the kernel would write zeros later, in the sliver's
# time. Nothing is reserved for root: root is the sliver's own.
MKFS_EXTENDED = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
MKFS = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", MKFS_EXTENDED)
MKFS_TIMEOUT_S = 300.0


def fill(handle: int, size: int) -> None:
    """Allocate every block of the file, and count that they are there: some file systems say yes and do nothing."""
    try:
        os.posix_fallocate(handle, 0, size)
        os.fsync(handle)
    except OSError as error:
        raise StepError("a disk of {} MiB cannot be allocated: {}".format(size // MIB, error.strerror))
    found = os.fstat(handle).st_blocks * 512
    if found < size:
        raise StepError(
            "only {} of {} bytes are really allocated: the file system cannot hold disks".format(found, size)
        )


def refill(image: str) -> None:
    """Have every block of the image allocated again, should something have punched holes; what is in it stays."""
    found = os.stat(image)
    if found.st_blocks * 512 >= found.st_size:
        return
    handle = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fill(handle, found.st_size)
    finally:
        os.close(handle)


def forget(image: str) -> None:
    """Throw the file system in the image away, if there is one; its blocks stay allocated."""
    if not has_file_system(image):
        return
    handle = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(handle, bytes(SUPERBLOCK * 3), 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def has_file_system(image: str) -> bool:
    """Whether mkfs came to its end: it writes the superblock last."""
    try:
        handle = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.pread(handle, 2, MAGIC_OFFSET) == MAGIC
    finally:
        os.close(handle)


def make_file_system(image: str) -> None:
    """An empty ext4. The image is locked while mkfs runs, also one that outlived its daemon: two would garble it."""
    handle = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _lock(handle, image)
        if not has_file_system(image):
            _mkfs(image, handle)
    finally:
        os.close(handle)


def _lock(handle: int, image: str) -> None:
    deadline = time.monotonic() + MKFS_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StepError("an earlier mkfs.ext4 of {} still runs after {} s".format(image, MKFS_TIMEOUT_S))
        time.sleep(0.05)


def _mkfs(image: str, lock: int) -> None:
    try:
        done = subprocess.run(
            [*MKFS, image], stdin=subprocess.DEVNULL, capture_output=True, timeout=MKFS_TIMEOUT_S, pass_fds=(lock,)
        )
    except OSError as error:
        raise StepError("mkfs.ext4 cannot be started: {}: is e2fsprogs there?".format(error))
    except subprocess.TimeoutExpired:
        raise StepError("mkfs.ext4 of {} took over {} s".format(image, MKFS_TIMEOUT_S))
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise StepError("mkfs.ext4 of {} failed with status {}: {}".format(image, done.returncode, said))
