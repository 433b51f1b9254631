"""What the tests of cache, archives and storage share: archives made by hand, steps, a place to mount in."""

import ctypes
import gzip
import hashlib
import lzma
import os
import subprocess
import tarfile

import pytest

from confine.core.addressing import hostname
from confine.core.model import Booking, Data, Interface, Limits, SliverTarget, Step, Template
from confine.drivers import mounts, syscalls

NODE_ID = 2
CLONE_NEWNS = 0x20000
MS_REC = 16384

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def member(name, content=b"", kind=tarfile.REGTYPE, mode=0o644, uid=0, gid=0, link="", size=None, pax=None):
    """One tar member: its header and content, padded."""
    info = tarfile.TarInfo()
    info.name, info.type, info.mode, info.uid, info.gid, info.linkname = name, kind, mode, uid, gid, link
    info.size = len(content) if size is None else size
    info.mtime = 1_700_000_000
    info.pax_headers = pax or {}
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return info.tobuf(form, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def directory(name, mode=0o755, uid=0, gid=0):
    return member(name, kind=tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)


def symlink(name, target):
    return member(name, kind=tarfile.SYMTYPE, link=target)


def hardlink(name, target):
    return member(name, kind=tarfile.LNKTYPE, link=target)


def tar(*members):
    return b"".join(members) + bytes(1024)


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


PACKERS = {"tar.gz": gzip.compress, "tar.xz": lzma.compress, "tar.zst": zstd}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def archive_of(*members):
    return gzip.compress(tar(*members))


def make_step(
    driver="storage", verb="x", nr=1, template=None, data=None, keys=(), disk_mib=16, sliver_sn=1, slice_sn=1,
    template_type="debian",
):  # fmt: skip
    """A step about sliver `nr`. template, data: sha256 or None."""
    name = hostname(nr, NODE_ID)
    made = Template(1, "test", template_type, "http://files/t", template, ["x86_64"]) if template else None
    target = SliverTarget(
        "{}@{}".format(nr, NODE_ID), name, "https://r/{}/".format(nr), nr, "slice", 1, NODE_ID, "", "start", sliver_sn,
        slice_sn, made, Data("http://files/d", data) if data else None, [Interface(0, "priv", "private", None)],
        Limits(32, disk_mib, None, 100, 64, None, None), list(keys), None, None, {}, [], False,
    )  # fmt: skip
    return Step(driver, verb, name, "test", target, Booking(target.key, name, nr, 32, disk_mib))


class OneFile:
    """A fetcher that has the files it is given, by URI. asked: (uri, offset) of each call."""

    def __init__(self, files=None):
        self.files = files or {}
        self.asked = []

    def fetch(self, uri, sink, offset, on_start):
        self.asked.append((uri, offset))
        content = self.files[uri]
        on_start(offset, len(content))
        for at in range(offset, len(content), 65536):
            sink(content[at : at + 65536])


@pytest.fixture
def private_mounts(tmp_path):
    """Mounts made in the test are seen by this process alone, and gone after it, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    here = os.getcwd()
    if libc.unshare(CLONE_NEWNS) != 0:
        os.close(before)
        pytest.skip("no mount namespace of its own: " + os.strerror(ctypes.get_errno()))
    try:
        syscalls.mount("none", "/", "", mounts.MS_PRIVATE | MS_REC, "")
        yield tmp_path
        left = [point for point in mounts.read() if point.startswith(str(tmp_path))]
        for point in sorted(left, reverse=True):
            syscalls.umount2(point, 2)
    finally:
        libc.setns(before, CLONE_NEWNS)
        os.close(before)
        os.chdir(here)


def small_tmpfs(path, size_kib):
    """A file system of `size_kib` at `path`."""
    os.makedirs(path, exist_ok=True)
    syscalls.mount("tmpfs", str(path), "tmpfs", 0, "size={}k".format(size_kib))
