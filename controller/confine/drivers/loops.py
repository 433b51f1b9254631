"""Loop devices, by their ioctls (loop(4)). Every device is set to clear itself: it is gone with its last user, so a
controller killed at any point leaves none behind."""

import errno
import fcntl
import os
import struct
import time

from confine.errors import StepError

CONTROL = "/dev/loop-control"
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

# struct loop_config: fd, block size, struct loop_info64 (device, inode, rdevice, offset, size limit, number,
# encryption type and key size, flags, file name, encryption name and key, init), eight reserved words.
CONFIG = "=II" + "QQQQQ" + "IIII" + "64s64s32sQQ" + "64x"
FILE_NAME = 64
TRIES = 50
NODE_WAIT_S = 2.0


def attach(path: str, readonly: bool, offset: int = 0, direct: bool = False) -> "tuple[int, str]":
    """Put the file `path`, from byte `offset` on, behind a free loop device.

    Returns (descriptor, "/dev/loopN"). The device lives as long as the descriptor or a mount of it.
    direct: go past the page cache of the file (its content would be held twice), where the file system below can.
    A writable device never gives blocks of the file back. Needs Linux 5.8 (LOOP_CONFIGURE). StepError if there are no
    loop devices, OSError for the file itself.
    """
    backing = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for _ in range(TRIES):
            device = _free_device()
            handle = _open_node(device, readonly)
            try:
                fcntl.ioctl(handle, LOOP_CONFIGURE, _config(backing, path, readonly, offset, direct))
            except OSError as error:
                os.close(handle)
                if error.errno != errno.EBUSY:
                    raise StepError("loop device {} does not take {}: {}".format(device, path, error.strerror))
                continue  # someone else was faster with this device
            if not readonly:
                _keep_blocks(handle, device)
            return handle, device
    finally:
        os.close(backing)
    raise StepError("no free loop device for {} after {} tries".format(path, TRIES))


def _keep_blocks(handle: int, device: str) -> None:
    """Have the device refuse discards. It would punch holes into the file not only for them, but also whenever a file
    system asks for zeros (ext4 does: inode tables, small unwritten extents), and a hole is room that others take."""
    path = "/sys/block/{}/queue/discard_max_bytes".format(os.path.basename(device))
    try:
        with open(path, "w") as file:
            file.write("0")
        with open(path) as file:
            left = file.read().strip()
    except OSError as error:
        left = str(error.strerror)
    if left != "0":
        os.close(handle)
        raise StepError("{} would give blocks of its file back: {} is {}".format(device, path, left))


def backing_file(device: str) -> "str | None":
    """The file behind block device `device` ("major:minor"); None if it is no loop device in use."""
    try:
        with open("/sys/dev/block/{}/loop/backing_file".format(device), "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return None


def _config(backing: int, path: str, readonly: bool, offset: int, direct: bool) -> bytes:
    flags = LO_FLAGS_AUTOCLEAR
    if readonly:
        flags |= LO_FLAGS_READ_ONLY
    if direct:
        flags |= LO_FLAGS_DIRECT_IO
    name = os.fsencode(path)[-(FILE_NAME - 1) :]  # for people only; the end of a path says more than its start
    return struct.pack(CONFIG, backing, 0, 0, 0, 0, offset, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)


def _free_device() -> str:
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StepError("no loop devices ({}: {}): load the kernel module loop".format(CONTROL, error.strerror))
    try:
        return "/dev/loop{}".format(fcntl.ioctl(control, LOOP_CTL_GET_FREE))
    finally:
        os.close(control)


def _open_node(device: str, readonly: bool) -> int:
    """Open the device node; a fresh one may take a moment to appear."""
    deadline = time.monotonic() + NODE_WAIT_S
    while True:
        try:
            return os.open(device, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise StepError("the node {} did not appear: is devtmpfs mounted at /dev?".format(device))
            time.sleep(0.02)
