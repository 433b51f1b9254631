"""Mounts: reading the kernel's table of them, making and undoing them, id-mapping.

Only system calls; the one process ever started lives for some milliseconds and lends its user namespace to an
id-mapped mount. How a sliver's root is put together is storage.py's business.
"""

import errno
import os
import struct
import subprocess
import time

from confine.drivers import loops, syscalls
from confine.errors import StepError

# mount(2), umount2(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_BIND = 4096
MS_PRIVATE = 1 << 18
UMOUNT_NOFOLLOW = 8

# open_tree(2), move_mount(2), mount_setattr(2)
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_IDMAP = 0x00100000

ID_COUNT = 65536
UNMOUNT_WAIT_S = 5.0
HOLDER_WAIT_S = 5.0


class Mount:
    """One line of /proc/self/mountinfo. device: "major:minor"; root: the directory of the file system that is
    mounted; options: those of the mount, not of the file system."""

    def __init__(self, device: str, root: str, point: str, options: "list[str]", fstype: str, source: str) -> None:
        self.device = device
        self.root = root
        self.point = point
        self.options = options
        self.fstype = fstype
        self.source = source


def parse(text: str) -> "dict[str, Mount]":
    """mountinfo's text as {mount point: Mount}; of several mounts on one point the last (the visible) one."""
    found: "dict[str, Mount]" = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(tail) < 2:
            continue
        mount = Mount(
            fields[2], _unescape(fields[3]), _unescape(fields[4]), fields[5].split(","), tail[0], _unescape(tail[1])
        )
        found[mount.point] = mount
    return found


def read() -> "dict[str, Mount]":
    """The mounts this process sees, by mount point."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(os.fsdecode(file.read()))


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blank, tab, newline and backslash."""
    if "\\" not in field:
        return field
    parts = field.split("\\")
    out = [parts[0]]
    for part in parts[1:]:
        if len(part) >= 3 and all(digit in "01234567" for digit in part[:3]):
            out.append(chr(int(part[:3], 8)) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def make_point(path: str, mode: int = 0o755) -> None:
    """Make the directory `path` as a mount point, with its parents."""
    os.makedirs(path, mode=mode, exist_ok=True)


def mount_image(path: str, target: str, fstype: str, readonly: bool, data: str = "") -> None:
    """Mount the file `path` through a loop device: no devices, no set-uid programs, no access times."""
    direct = not readonly  # templates are shared: their page cache is what makes them fast
    handle, device = loops.attach(path, readonly, direct=direct)
    try:
        flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (MS_RDONLY if readonly else 0)
        syscalls.mount(device, target, fstype, flags, data)
    except OSError as error:
        raise StepError("{} cannot be mounted as {}: {}".format(path, fstype, error.strerror))
    finally:
        os.close(handle)


def mount_tree(path: str, target: str) -> None:
    """Show the directory `path` at `target`, read-only, without devices and set-uid programs."""
    tree = _clone(path)
    try:
        _set_attributes(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, path)
        _attach_tree(tree, target)
    finally:
        os.close(tree)


def mount_idmapped(path: str, target: str, id_base: int) -> None:
    """Show the mount at `path` at `target` with the ids 0-65535 in its files seen as id_base ... id_base + 65535.

    Read-only. StepError where the kernel cannot id-map that kind of file system (squashfs before Linux 6.6).
    """
    attributes = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    namespace = _user_namespace(id_base)
    try:
        tree = _clone(path)
        try:
            _set_attributes(tree, attributes, namespace, path)
            _attach_tree(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(namespace)


def mount_overlay(lower: str, upper: str, work: str, target: str) -> None:
    """Mount the overlay of `upper` over `lower` at `target`. Set-uid programs work: whose ids they may take is a
    matter of the sliver's range. Redirects and metadata-only copies are off, whatever the kernel's default: a
    template could carry such marks that lead elsewhere."""
    for path in (lower, upper, work):
        if any(mark in path for mark in ",:\\"):
            raise StepError(
                "the path {} cannot stand in an overlay's options: it has a comma, colon or backslash".format(path)
            )
    data = "lowerdir={},upperdir={},workdir={},metacopy=off,redirect_dir=nofollow,index=off".format(lower, upper, work)
    try:
        syscalls.mount("overlay", target, "overlay", MS_NODEV | MS_NOATIME, data)
    except OSError as error:
        raise StepError("the overlay {} cannot be mounted: {}".format(target, error.strerror))


def unmount(target: str) -> None:
    """Unmount what is at `target`. Waits a little for the last user to go; StepError if one stays."""
    deadline = time.monotonic() + UNMOUNT_WAIT_S
    while True:
        try:
            syscalls.umount2(target, UMOUNT_NOFOLLOW)
            return
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return  # not mounted
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise StepError(
                    "{} cannot be unmounted: {}{}".format(target, error.strerror, _users_note(target, error))
                )
        time.sleep(0.05)


def users(target: str) -> "list[int]":
    """Processes whose root, working directory or open files lie at or below `target`. Costs a walk through /proc."""
    found = []
    below = target + "/"
    for entry in os.listdir("/proc"):
        if entry.isdigit() and any(link == target or link.startswith(below) for link in _links_of(entry)):
            found.append(int(entry))
    return found


def _links_of(pid: str) -> "list[str]":
    links = []
    base = "/proc/" + pid
    try:
        paths = [base + "/root", base + "/cwd"] + [base + "/fd/" + fd for fd in os.listdir(base + "/fd")]
    except OSError:
        return []  # it has ended
    for path in paths:
        try:
            links.append(os.readlink(path))
        except OSError:
            pass
    return links


def _users_note(target: str, error: OSError) -> str:
    if error.errno != errno.EBUSY:
        return ""
    pids = users(target)
    if not pids:
        return "; something still uses it"
    return "; used by process " + ", ".join(str(pid) for pid in pids[:5])


def _clone(path: str) -> int:
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC
    try:
        return syscalls.syscall(syscalls.OPEN_TREE, path, AT_FDCWD, os.fsencode(path), flags)
    except OSError as error:
        raise StepError("{} cannot be cloned as a mount: {}".format(path, error.strerror))


def _set_attributes(tree: int, attributes: int, namespace: int, path: str) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    wanted = bytearray(struct.pack("=QQQQ", attributes, 0, MS_PRIVATE, namespace))
    try:
        syscalls.syscall(syscalls.MOUNT_SETATTR, path, tree, b"", AT_EMPTY_PATH, wanted, len(wanted))
    except OSError as error:
        if error.errno == errno.EINVAL and attributes & MOUNT_ATTR_IDMAP:
            raise StepError(
                "the kernel cannot id-map the file system of {}: squashfs needs Linux 6.6, this is {}".format(
                    path, os.uname().release
                )
            )
        raise StepError("the mount of {} does not take its attributes: {}".format(path, error.strerror))


def _attach_tree(tree: int, target: str) -> None:
    try:
        arguments = (tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
        syscalls.syscall(syscalls.MOVE_MOUNT, target, *arguments)
    except OSError as error:
        raise StepError("nothing can be mounted at {}: {}".format(target, error.strerror))


def _user_namespace(id_base: int) -> int:
    """Descriptor of a user namespace that maps 0-65535 to id_base and up, for users and groups.

    A namespace is born with a process; `cat` waits in it until its input is closed.
    """
    holder = subprocess.Popen(
        ["unshare", "-U", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        base = "/proc/{}".format(holder.pid)
        _await_namespace(holder, base)
        for name in ("uid_map", "gid_map"):
            with open(base + "/" + name, "w") as file:
                file.write("0 {} {}\n".format(id_base, ID_COUNT))
        return os.open(base + "/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StepError("no user namespace for ids from {}: {}".format(id_base, error))
    finally:
        holder.kill()
        holder.wait()
        if holder.stdin is not None:
            holder.stdin.close()


def _await_namespace(holder: "subprocess.Popen[bytes]", base: str) -> None:
    own = os.readlink("/proc/self/ns/user")
    deadline = time.monotonic() + HOLDER_WAIT_S
    while os.readlink(base + "/ns/user") == own:
        if holder.poll() is not None or time.monotonic() > deadline:
            raise StepError("`unshare -U` gives no user namespace: does the kernel have USER_NS?")
        time.sleep(0.002)
