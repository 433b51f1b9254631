"""What the tests of storage share: a driver below a directory of its own, on a real kernel."""

import errno
import os

import pytest

from confine.core.addressing import id_base
from confine.drivers import loops, mounts
from confine.drivers.cache import Cache
from confine.drivers.storage import Storage
from confine.paths import Paths
from tests.drivers.storage_support import (
    OneFile,
    archive_of,
    directory,
    make_step,
    member,
    sha256,
    symlink,
)

MIB = 1024 * 1024
BASE = id_base(1)
KEY = "ssh-ed25519 AAAA admin@x"
TEMPLATE = archive_of(
    directory("./"),
    directory("etc"),
    directory("root", 0o700),
    directory("run"),
    directory("bin"),
    member("bin/su", b"elf", mode=0o4755),
    member("etc/hosts", b"127.0.0.1 localhost\n10.0.0.1 other\n"),
    symlink("etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
    symlink("var", "/run"),
    member("home/mail", b"letter", uid=1000, gid=8),
)


class Bench:
    """A storage driver below a directory of its own, with a template and data in its cache."""

    def __init__(self, place, template=TEMPLATE, kind="debian"):
        self.place = place
        self.paths = Paths(data=str(place / "data"), run=str(place / "run"))
        self.cache = Cache(self.paths, OneFile(), 64, lambda *_: None, 0)
        self.storage = Storage(self.paths, self.cache, lambda: "nameserver 192.168.241.126\n")
        self.template = self.have(template)
        self.kind = kind
        self.cache.unpack_template(self.step())

    def have(self, content):
        path = self.cache.object(sha256(content))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return sha256(content)

    def step(self, nr=1, **what):
        return make_step(nr=nr, **{"template": self.template, "template_type": self.kind, "keys": [KEY], **what})

    def up(self, nr=1, **what):
        step = self.step(nr, **what)
        for verb in ("allocate", "format", "mount", "populate"):
            getattr(self.storage, verb)(step)
        return step

    def observe(self, nr=1):
        self.storage.snapshot()
        return self.storage.observe(self.step(nr).subject)

    def root(self, nr=1, *parts):
        return os.path.join(self.storage.root(self.step(nr).subject), *parts)

    def read(self, *parts):
        with open(self.root(1, *parts)) as file:
            return file.read()

    def image(self, nr=1):
        return self.paths.sliver(self.step(nr).subject, "disk.img")

    def traces(self):
        """Mounts, mount points, loop devices and slivers' files that are there."""
        found = [point for point in mounts.read() if point.startswith(str(self.place) + "/run")]
        for top, directories, files in os.walk(self.place / "run" / "mounts"):
            found += [os.path.join(top, name) for name in directories + files if name not in ("slivers", "templates")]
        for name in os.listdir("/sys/block"):
            backing = loops.backing_file(device_of(name)) if name.startswith("loop") else None
            found += [backing] if backing and backing.startswith(str(self.place)) else []
        return found + self.storage.names()


def device_of(name):
    with open("/sys/block/{}/dev".format(name)) as file:
        return file.read().strip()


@pytest.fixture
def bench(private_mounts):
    if not os.path.exists(loops.CONTROL):
        pytest.skip("no loop devices: " + loops.CONTROL)
    return Bench(private_mounts)


def owner(path):
    found = os.lstat(path)
    return found.st_uid - BASE, found.st_gid - BASE


def fill(path):
    """Write to `path` until nothing more goes in; bytes written."""
    written = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    written += os.write(handle, b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
        os.fsync(handle)
    finally:
        os.close(handle)
    return written
