"""System calls that Python's os module does not offer, through ctypes.

Only what the drivers need: mount calls (see mounts.py), openat2, syncfs and a prctl. ctypes is imported on first
use: a daemon that has nothing to mount never pays for it. Every call raises OSError with the kernel's errno.
"""

import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Calls that came after Linux 5.0 have the same number everywhere, MIPS adds the base of its ABI.
OPEN_TREE = 428
MOVE_MOUNT = 429
OPENAT2 = 437
MOUNT_SETATTR = 442

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

PR_CAPBSET_DROP = 24
CAP_SYS_MODULE = 16

_libc: "Any" = None


def _library() -> "Any":
    """The C library of this process, loaded once."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
        _libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
        _libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
        _libc.syncfs.argtypes = [ctypes.c_int]
        _libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
    return _libc


def _checked(status: int, subject: str) -> int:
    if status < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
    return status


def number(generic: int, machine: str, wide: bool) -> int:
    """The number of the call that is `generic` on most machines. machine: as uname says; wide: 64-bit pointers."""
    if machine.startswith("mips"):
        return generic + (5000 if wide else 4000)
    return generic


def syscall(generic: int, subject: str, *arguments: "int | bytes | bytearray") -> int:
    """Make the call `generic`; `subject` is the path that an OSError names. Writable buffers as bytearray."""
    import ctypes

    values: "list[Any]" = []
    for argument in arguments:
        if isinstance(argument, int):
            values.append(ctypes.c_long(argument))
        elif isinstance(argument, bytearray):
            values.append((ctypes.c_char * len(argument)).from_buffer(argument))
        else:
            values.append(ctypes.c_char_p(argument))
    call = ctypes.c_long(number(generic, os.uname().machine, sys.maxsize > 2**32))
    return _checked(int(_library().syscall(call, *values)), subject)


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2)."""
    status = _library().mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode() or None)
    _checked(int(status), target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _checked(int(_library().umount2(target.encode(), flags)), target)


def setns(descriptor: int, kind: int) -> None:
    """Have this thread in the namespace `descriptor` stands for. (os.setns came with Python 3.12.)"""
    _checked(int(_library().setns(descriptor, kind)), "setns")


def syncfs(descriptor: int) -> None:
    """Write everything of the file system that `descriptor` lies on to its device; errors of the past included."""
    _checked(int(_library().syncfs(descriptor)), "syncfs")


def open_in_root(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as a process with its root directory at descriptor `root` would: no `..`, absolute name or
    symbolic link leads out of it, nor into another mount. Linux 5.6."""
    how = bytearray(
        struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)
    )
    return syscall(OPENAT2, os.fsdecode(path), root, path, how, len(how))


def leave_modules_alone() -> None:
    """What this thread starts from now on cannot load kernel modules (prctl(2), the thread's bounding set). The kernel
    still loads those it needs by itself. Nothing changes where it is not allowed."""
    _library().prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0)
