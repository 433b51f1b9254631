"""Files below a root directory that is not ours to trust: a template being unpacked, a sliver's root.

Every name is looked up by the kernel as if that directory were "/" (openat2, RESOLVE_IN_ROOT), then used through
the descriptor of its parent without following a last link. So a link that a template, an archive or the sliver
itself planted leads at most elsewhere in the same root, however it is changed meanwhile.
"""

import errno
import os
import stat

from confine.drivers import syscalls
from confine.errors import StepError

SMALL_FILE = 64 * 1024
TEMPORARY = ".confine-tmp-"


class Root:
    """An open root directory. `shift` is added to the ids 0-65535 that the callers name: the sliver's range. sync: what
    is written is on the disk before it gets its name; without, the caller has to call syncfs when all is there."""

    def __init__(self, path: str, shift: int = 0, sync: bool = True) -> None:
        self.path = path
        self.shift = shift
        self._sync = sync
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> "Root":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def parent(self, parts: "list[str]", make: bool) -> int:
        """Descriptor of the directory that `parts` but the last name. make: missing ones are made (root's, 0755).

        FileNotFoundError if one is missing and not made; StepError if one is no directory.
        """
        names = parts[:-1]
        try:
            return self._directory(names)
        except FileNotFoundError:
            if not make:
                raise
        for count in range(1, len(names) + 1):
            self._make_one(names[:count])
        try:
            return self._directory(names)
        except FileNotFoundError:
            raise StepError("/{} is a link that leads nowhere".format("/".join(names)))

    def _directory(self, names: "list[str]") -> int:
        path = os.fsencode("/".join(names) or ".")
        try:
            return syscalls.open_in_root(self.fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            raise StepError("/{} is not a directory inside the root: {}".format("/".join(names), error.strerror))

    def _make_one(self, names: "list[str]") -> None:
        try:
            above = self._directory(names[:-1])
        except FileNotFoundError:
            raise StepError("/{} is a link that leads nowhere".format("/".join(names[:-1])))
        try:
            os.mkdir(names[-1], 0o755, dir_fd=above)
            os.chown(names[-1], self.shift, self.shift, dir_fd=above, follow_symlinks=False)
        except FileExistsError:
            pass
        finally:
            os.close(above)

    def is_directory(self, path: str) -> bool:
        """Whether `path` is a directory, through links too."""
        try:
            os.close(self._directory(_parts(path)))
        except (FileNotFoundError, StepError):
            return False
        return True

    def read(self, path: str) -> "bytes | None":
        """The regular file at `path`; None if there is none, it is a link or something else, or over 64 KiB."""
        parts = _parts(path)
        try:
            above = self.parent(parts, make=False)
        except (FileNotFoundError, StepError):
            return None
        try:
            handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
        except OSError:
            return None
        finally:
            os.close(above)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size > SMALL_FILE:
                return None
            return os.read(handle, SMALL_FILE)
        finally:
            os.close(handle)

    def make_directory(self, path: str, mode: int) -> None:
        """Make the directory `path`, root's, with `mode`. One that is there stays as it is. OSError if a running sliver
        puts something else in its place meanwhile."""
        parts = _parts(path)
        above = self.parent(parts, make=True)
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=above)
            # A running sliver may have put a link in its place by now.
            made = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            try:
                os.fchown(made, self.shift, self.shift)
                os.fchmod(made, mode)
            finally:
                os.close(made)
        except FileExistsError:
            pass
        finally:
            os.close(above)

    def write(self, path: str, content: bytes, mode: int) -> None:
        """Put a file of root's with `content` at `path`, as a whole or not at all. A link there is replaced, not
        followed. Missing directories above it are made. OSError when the sliver's disk is full."""
        parts = _parts(path)
        above = self.parent(parts, make=True)
        temporary = TEMPORARY + parts[-1]
        try:
            unlink_if_there(temporary, above)
            try:
                self._write_new(temporary, content, mode, above)
                os.rename(temporary, parts[-1], src_dir_fd=above, dst_dir_fd=above)
            except OSError:
                unlink_if_there(temporary, above)
                raise
        finally:
            os.close(above)

    def _write_new(self, name: str, content: bytes, mode: int, above: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=above)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fchown(handle, self.shift, self.shift)
            os.fchmod(handle, mode)
            if self._sync:
                os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: str) -> None:
        """Remove the file or link at `path`. Not being there is fine."""
        parts = _parts(path)
        try:
            above = self.parent(parts, make=False)
        except FileNotFoundError:
            return
        try:
            unlink_if_there(parts[-1], above)
        finally:
            os.close(above)


def unlink_if_there(name: str, above: int) -> None:
    """Remove `name` in the directory at descriptor `above`. Not being there is fine; a directory is an OSError."""
    try:
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        pass


def _parts(path: str) -> "list[str]":
    return [part for part in path.split("/") if part]
