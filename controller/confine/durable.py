"""Files that survive a power cut: temporary file, fsync, rename, fsync of the directory.

Whoever reads such a file sees the old content or the new, never a part.
"""

import errno
import hashlib
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TEMPORARY = ".tmp-"


def fsync_dir(path: str) -> None:
    """Make the names in directory `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_dir(path: str, mode: int = 0o700) -> None:
    """Make directory `path` and its missing parents, durably. One that is there keeps its mode."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip("/"))
    if parent:
        make_dir(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    fsync_dir(parent or ".")


def write_atomic(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path` as a whole or not at all. OSError (say, disk full) leaves the old file as it was."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, TEMPORARY + name)
    try:
        os.unlink(temporary)  # left by a cut; O_EXCL below so that nothing planted is followed
    except FileNotFoundError:
        pass
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(temporary, path)
    except OSError:
        _unlink_if_there(temporary)
        raise
    fsync_dir(directory or ".")


def remove(path: str) -> None:
    """Remove the file `path`, durably. Not being there is fine."""
    if _unlink_if_there(path):
        fsync_dir(os.path.dirname(path) or ".")


def write_json(path: str, doc: "Any", mode: int = 0o600) -> None:
    """`doc` as JSON with sorted members at `path`, like `write_atomic`."""
    text = json.dumps(doc, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_atomic(path, text.encode() + b"\n", mode)


def read_json(path: str) -> "Any":
    """What `write_json` wrote. None if the file is absent; ValueError if it is damaged."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply")


def checksum(content: "Any") -> str:
    """The sha256 of `content` as JSON with sorted members, as hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_checked(path: str, content: "Any") -> None:
    """`content` at `path` like `write_json`, with its checksum: what flips in it is found out."""
    write_json(path, {"content": content, "sha256": checksum(content)})


def checked(doc: "Any") -> "Any":
    """The content of a document that `write_checked` wrote. ValueError if it is damaged."""
    if not isinstance(doc, dict) or doc.get("sha256") != checksum(doc.get("content")):
        raise ValueError("its checksum is wrong")
    return doc.get("content")


def read_checked(path: str) -> "Any":
    """What `write_checked` wrote. None if the file is absent; ValueError if it is damaged."""
    return checked(read_json(path)) if os.path.lexists(path) else None


def copy_aside(path: str) -> str:
    """Keep what a damaged file holds under another name, which is returned; the file stays until it is replaced, so
    that a cut between the two does not look as if there had never been one."""
    aside = path + ".damaged"
    _unlink_if_there(aside)
    os.link(path, aside, follow_symlinks=False)
    fsync_dir(os.path.dirname(path) or ".")
    return aside


def set_aside(path: str) -> str:
    """Move a damaged file out of the way, next to itself, and return its new name. The last one set aside is kept."""
    aside = path + ".damaged"
    os.rename(path, aside)
    fsync_dir(os.path.dirname(path) or ".")
    return aside


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        written = os.write(handle, view)
        if not written:
            raise OSError(errno.ENOSPC, "nothing more could be written")
        view = view[written:]


def _unlink_if_there(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
