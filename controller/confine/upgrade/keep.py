"""Which files a new slot takes over from the running one, and their archive: OpenWrt's own list.

Where sysupgrade is there, it names them (`sysupgrade -l`). Else the same by the same rules: what the files of
/lib/upgrade/keep.d and /etc/sysupgrade.conf name, and the packages' configuration files that were changed.
"""

import glob
import hashlib
import io
import os
import subprocess
import tarfile

from confine.upgrade.errors import UpgradeError

LIST_S = 60
_SYSUPGRADE = "sbin/sysupgrade"
_OPKG = "usr/lib/opkg/status"
MAX_BYTES = 16 << 20


def files(root: str = "/") -> "list[str]":
    """The paths, below `root` and without a slash before them, sorted. Links are taken as links."""
    if os.path.exists(os.path.join(root, _SYSUPGRADE)):
        named = _ask_sysupgrade(root)
    else:
        named = _changed_conffiles(root) + _static(root)
    found: "set[str]" = set()
    for path in named:
        for there in glob.glob(os.path.join(root, path.lstrip("/"))):
            found |= _below(there)
    return sorted(os.path.relpath(path, root) for path in found)


def pack(path: str, root: str = "/") -> int:
    """Write their archive (tar.gz) to `path`, readable for root alone; how many they are. UpgradeError, OSError."""
    names = files(root)
    if "etc/config/confine" not in names:
        raise UpgradeError("the list of files to keep has no /etc/config/confine: the new slot would not know its node")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            _add(tar, os.path.join(root, name), name)
            if file.tell() > MAX_BYTES:
                raise _too_much("/" + name)
    if os.path.getsize(path) > MAX_BYTES:
        raise _too_much("all")
    return len(names)


def _too_much(at: str) -> UpgradeError:
    return UpgradeError("the files to keep make more than {} MiB, counted up to {}: see /etc/sysupgrade.conf".format(
        MAX_BYTES >> 20, at))  # fmt: skip


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    """One file as it is at one moment: read as a whole, so that one that grows meanwhile breaks nothing."""
    try:
        tar.inodes = {}  # type: ignore[attr-defined]  # each of a file's names is kept as a file
        member = tar.gettarinfo(path, name)
        if member is None or not (member.isreg() or member.issym()):
            return
        if member.isreg():
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise _too_much("/" + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        else:
            tar.addfile(member)
    except FileNotFoundError:
        pass  # gone since it was listed


def _below(path: str) -> "set[str]":
    if os.path.islink(path) or not os.path.isdir(path):
        return {path}
    found = set()
    for directory, directories, names in os.walk(path):
        found |= {os.path.join(directory, name) for name in names}
        found |= {one for one in (os.path.join(directory, name) for name in directories) if os.path.islink(one)}
    return found


def _ask_sysupgrade(root: str) -> "list[str]":
    try:
        done = subprocess.run([os.path.join(root, _SYSUPGRADE), "-l"], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIST_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpgradeError("sysupgrade -l cannot be run: {}".format(error))
    if done.returncode != 0:
        raise UpgradeError("sysupgrade -l failed: {}".format(done.stderr.decode("utf-8", "replace").strip()))
    return [glob.escape(line) for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("/")]


def _static(root: str) -> "list[str]":
    named = []
    for path in [
        *sorted(glob.glob(os.path.join(root, "lib/upgrade/keep.d/*"))),
        os.path.join(root, "etc/sysupgrade.conf"),
    ]:
        named += [line.strip() for line in _lines(path) if line.strip().startswith("/")]
    return named


def _changed_conffiles(root: str) -> "list[str]":
    """opkg's list: below "Conffiles:" of each package lines of a path and the md5 it was installed with."""
    changed, inside = [], False
    for line in _lines(os.path.join(root, _OPKG)):
        if not line.startswith(" "):
            inside = line.startswith("Conffiles:")
            continue
        words = line.split()
        if inside and len(words) == 2 and words[0].startswith("/"):
            try:
                with open(os.path.join(root, words[0][1:]), "rb") as file:
                    now = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
            except OSError:
                continue
            if now != words[1]:
                changed.append(glob.escape(words[0]))
    return changed


def _lines(path: str) -> "list[str]":
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
