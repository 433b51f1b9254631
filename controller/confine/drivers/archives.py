"""Unpacking of archives that strangers made: templates into a tree of their own, data into a sliver's root.

What an archive may do (issue: no path outside, no device nodes, no surprise set-uid owner):
- names are relative and without `..`; anything else refuses the whole archive. Links may point anywhere: they are
  never followed out of the root (inroot.py).
- hard links only to files inside the root. Device nodes and FIFOs: a template's are left out, since LXC makes /dev;
  in data they refuse the archive.
- owners are 0-65535, the ids a sliver has; a set-uid bit is kept, as its owner is one of them.
- extended attributes are dropped, file capabilities among them: they hold for one user namespace, which an archive
  cannot know. `ping` then works through net.ipv4.ping_group_range or set-uid.
- bounds: total size, number of members, length and depth of names, ratio (streams.py).
"""

import errno
import os
import stat

from confine.drivers import inroot, streams, tars
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ID = 65535
MAX_NAME = 255
MAX_PATH = 1024
MAX_DEPTH = 64
MAX_LINK = 4095
MAX_MEMBERS = 300_000
MAX_TIME = 2**32 - 1  # every file system can hold it
REPORT_BYTES = 4 * 1024 * 1024
MEMBER_BYTES = 4096  # what a member takes besides its content, an empty one too


class Bounds:
    """How much one archive may unpack to: bytes of files' content and MEMBER_BYTES for each member, and members of any
    kind."""

    def __init__(self, size: int, members: int = MAX_MEMBERS) -> None:
        self.size = size
        self.members = members


def unpack(
    path: str,
    root: "inroot.Root",
    bounds: Bounds,
    merge: bool,
    on_bytes: "Callable[[int], None]",
) -> int:
    """Unpack the archive `path` (recognised by content) below `root`, owners shifted by root.shift.

    merge: there is something in the root already (a sliver's template): directories that exist keep owner and mode,
    and a device node refuses the archive. on_bytes(total so far, counted as Bounds.size): called now and then; may
    raise to stop.
    Returns the bytes of content written. StepError says which member of the archive is to blame.
    """
    kind = streams.kind_of(path)
    if kind is None or kind == streams.SQUASHFS:
        raise StepError("the file is no archive of a known kind: tar.gz, tar.xz or tar.zst are")
    with streams.Stream(path, kind) as stream:
        unpacker = _Unpacker(tars.Reader(stream), root, bounds, merge, on_bytes)
        unpacker.run()
        return unpacker.size


class _Unpacker:
    def __init__(
        self,
        reader: "tars.Reader",
        root: "inroot.Root",
        bounds: Bounds,
        merge: bool,
        on_bytes: "Callable[[int], None]",
    ) -> None:
        self._reader = reader
        self._root = root
        self._bounds = bounds
        self._merge = merge
        self._on_bytes = on_bytes
        self._reported = 0
        self._taken = 0
        self.size = 0

    def run(self) -> None:
        count = 0
        for member in self._reader:
            count += 1
            if count > self._bounds.members:
                raise StepError("the archive is refused: it has more than {} members".format(self._bounds.members))
            parts = checked_name(member.name)
            self._check(member)
            self._count(MEMBER_BYTES)
            try:
                self._put(member, parts)
            except OSError as error:
                raise StepError(_failed(member, error))
        if count == 0:
            raise StepError("the archive is empty")
        self._on_bytes(self._taken)

    def _check(self, member: "tars.Member") -> None:
        for what, number in (("user", member.uid), ("group", member.gid)):
            if not 0 <= number <= MAX_ID:
                raise StepError(
                    "{!r} belongs to {} {}: a sliver has only 0-{}".format(member.name, what, number, MAX_ID)
                )
        if self._taken + member.size > self._bounds.size:
            raise StepError(
                "the archive is refused: with {!r} it unpacks to {} MiB, at most {} MiB are allowed".format(
                    member.name, (self._taken + member.size) >> 20, self._bounds.size >> 20
                )
            )
        if member.kind == tars.DEVICE and self._merge:
            raise StepError("{!r} is a device node or FIFO: those are not allowed in data".format(member.name))
        if member.kind in (tars.SYMLINK, tars.HARDLINK) and (
            not member.link or "\0" in member.link or len(os.fsencode(member.link)) > MAX_LINK
        ):
            raise StepError("the link {!r} has an empty or overlong target".format(member.name))

    def _put(self, member: "tars.Member", parts: "list[str]") -> None:
        if member.kind == tars.DEVICE:
            return
        if not parts:
            self._put_root(member)
            return
        above = self._root.parent(parts, make=True)
        try:
            if member.kind == tars.DIRECTORY:
                self._put_directory(member, parts, above)
                return
            _clear(parts[-1], above, member)
            if member.kind == tars.FILE:
                self._put_file(member, parts[-1], above)
            elif member.kind == tars.SYMLINK:
                os.symlink(member.link, parts[-1], dir_fd=above)
                self._own_link(member, parts[-1], above)
            else:
                self._put_hardlink(member, parts[-1], above)
        finally:
            os.close(above)

    def _put_root(self, member: "tars.Member") -> None:
        if member.kind != tars.DIRECTORY:
            raise StepError("the name {!r} stands for the root itself but is a {}".format(member.name, member.kind))
        if not self._merge:
            self._own(member, self._root.fd)

    def _put_directory(self, member: "tars.Member", parts: "list[str]", above: int) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=above)
        except FileExistsError:
            found = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode) and self._root.is_directory("/".join(parts)):
                return  # /var/run -> /run: what follows goes through the link, inside the root
            if not stat.S_ISDIR(found.st_mode):
                raise StepError("the directory {!r} would replace a file of that name".format(member.name))
            if self._merge:
                return
        handle = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            self._own(member, handle)
        finally:
            os.close(handle)

    def _put_file(self, member: "tars.Member", name: str, above: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=above)
        try:
            while data := self._reader.content(streams.CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
                self.size += len(data)
                self._count(len(data))
            self._own(member, handle)
            seconds = min(max(member.mtime, 0), MAX_TIME)
            os.utime(handle, (seconds, seconds))
        finally:
            os.close(handle)

    def _put_hardlink(self, member: "tars.Member", name: str, above: int) -> None:
        target = checked_name(member.link)
        if not target:
            raise StepError("the hard link {!r} points to the root itself".format(member.name))
        try:
            beside = self._root.parent(target, make=False)
        except FileNotFoundError:
            raise StepError("the hard link {!r} points to {!r}, which is not there".format(member.name, member.link))
        try:
            found = os.stat(target[-1], dir_fd=beside, follow_symlinks=False)
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                raise StepError("the hard link {!r} points to {!r}, which is no file".format(member.name, member.link))
            os.link(target[-1], name, src_dir_fd=beside, dst_dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            raise StepError("the hard link {!r} points to {!r}, which is not there".format(member.name, member.link))
        finally:
            os.close(beside)

    def _own(self, member: "tars.Member", handle: int) -> None:
        os.fchown(handle, member.uid + self._root.shift, member.gid + self._root.shift)
        os.fchmod(handle, member.mode)  # after fchown, which clears set-uid bits

    def _own_link(self, member: "tars.Member", name: str, above: int) -> None:
        uid, gid = member.uid + self._root.shift, member.gid + self._root.shift
        os.chown(name, uid, gid, dir_fd=above, follow_symlinks=False)

    def _count(self, size: int) -> None:
        self._taken += size
        if self._taken - self._reported >= REPORT_BYTES:
            self._reported = self._taken
            self._on_bytes(self._taken)


def checked_name(name: str) -> "list[str]":
    """The components of a member's name; [] for the root itself. StepError for a name that may lead outside, or
    that is out of bounds."""
    if name.startswith("/"):
        raise StepError("the name {!r} is absolute: names in an archive must be relative".format(name[:200]))
    if "\0" in name or len(os.fsencode(name)) > MAX_PATH:
        raise StepError("the name {!r}... is over {} bytes long or has a NUL".format(name[:60], MAX_PATH))
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StepError("the name {!r} has `..` in it: an archive may not name what lies outside of it".format(name))
    if len(parts) > MAX_DEPTH or any(len(os.fsencode(part)) > MAX_NAME for part in parts):
        raise StepError(
            "the name {!r}... is over {} levels deep or has a part over {} bytes".format(name[:60], MAX_DEPTH, MAX_NAME)
        )
    return parts


def _clear(name: str, above: int, member: "tars.Member") -> None:
    """Make way for a file or link. What is in the way is unlinked, never written through; a directory stays."""
    try:
        inroot.unlink_if_there(name, above)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EPERM):
            raise StepError("the {} {!r} would replace a directory".format(member.kind, member.name))
        raise


def _failed(member: "tars.Member", error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left while unpacking {!r}".format(member.name)
    return "{!r} cannot be unpacked: {}".format(member.name, error.strerror)
