"""Slivers' disks in a real kernel: the whole way up and down, cut off anywhere, and limits that hold on both sides."""

import errno
import fcntl
import io
import os
import signal
import stat
import subprocess
import time

import pytest

from confine import durable
from confine.core import keys
from confine.core.addressing import id_base
from confine.drivers import inroot, layers, loops, mounts, storage, syscalls
from confine.drivers.cache import Cache
from confine.drivers.storage import Storage
from confine.errors import StepError
from confine.paths import Paths
from tests.drivers.storage_support import (
    OneFile,
    archive_of,
    directory,
    make_step,
    member,
    needs_root,
    private_mounts,  # noqa: F401  # fixture
    sha256,
    symlink,
)

pytestmark = [pytest.mark.root, needs_root]
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
def bench(private_mounts):  # noqa: F811
    if not os.path.exists(loops.CONTROL):
        pytest.skip("no loop devices: " + loops.CONTROL)
    return Bench(private_mounts)


def owner(path):
    found = os.lstat(path)
    return found.st_uid - BASE, found.st_gid - BASE


# ---- the way up ------------------------------------------------------------------------------------------------------


def test_each_step_up_is_observed_and_nothing_more(bench):
    step = bench.step()
    seen = []
    for verb in ("allocate", "format", "mount", "populate"):
        getattr(bench.storage, verb)(step)
        found = bench.observe()
        seen.append((found.allocation is not None, found.formatted, found.mounted, found.deployment is not None))
    assert seen == [(True, False, False, False), (True, True, False, False), (True, True, True, False), (True,) * 4]


def test_every_step_up_can_be_done_twice(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w"):
        pass
    before = bench.observe()
    for verb in ("allocate", "format", "mount", "populate", "keys"):
        getattr(bench.storage, verb)(step)
    assert bench.observe() == before
    assert os.path.exists(bench.root(1, "mark"))


def test_a_document_that_changed_damaged_or_went_between_rounds_is_seen(bench):
    step = bench.step()
    bench.storage.allocate(step)
    path = bench.paths.sliver(step.subject, "allocation.json")
    first = bench.observe().allocation
    assert bench.observe().allocation == first
    durable.write_checked(path, {**first, "nr": first["nr"] + 1})  # of the same size
    assert bench.observe().allocation["nr"] == first["nr"] + 1
    with open(path, "w") as file:
        file.write("{")
    assert (bench.observe().allocation, len(bench.observe().damaged)) == ({}, 1)
    os.unlink(path)
    assert (bench.observe().allocation, bench.observe().damaged) == (None, [])
    durable.write_checked(path, first)
    assert bench.observe().allocation == first


def test_the_allocation_says_what_was_set_aside_and_the_deployment_what_was_put_there(bench):
    bench.up(sliver_sn=3, slice_sn=7)
    found = bench.observe()
    allocation = found.allocation
    assert (allocation["key"], allocation["nr"], allocation["disk_mib"], allocation["memory_mib"]) == ("1@2", 1, 16, 32)
    assert (allocation["sliver_instance_sn"], allocation["template"]["sha256"]) == (3, bench.template)
    assert found.deployment == {
        "sliver_instance_sn": 3, "slice_instance_sn": 7, "hostname": "000000000001_0002",
        "keys_digest": keys.digest([KEY]), "reset": 0,
    }  # fmt: skip


def test_the_root_belongs_to_the_slivers_range_and_what_is_written_stays_in_it(bench):
    bench.up()
    assert owner(bench.root()) == (0, 0)
    assert owner(bench.root(1, "bin", "su")) == (0, 0)
    assert owner(bench.root(1, "home", "mail")) == (1000, 8)
    with open(bench.root(1, "home", "mail"), "a") as file:
        file.write("more")
    assert owner(bench.root(1, "home", "mail")) == (1000, 8)
    assert "idmapped" in mounts.read()[bench.root().replace("/root", "/lower")].options


def test_no_devices_work_in_a_slivers_root_and_no_set_uid_programs_in_the_layers_below(bench):
    bench.up()
    table = mounts.read()
    assert "nodev" in table[bench.root()].options
    for layer in ("lower", "disk"):
        assert {"nodev", "nosuid"} <= set(table[bench.root().replace("/root", "/" + layer)].options)
    assert {"ro", "nodev", "nosuid"} <= set(table[str(bench.place / "run/mounts/templates" / bench.template)].options)


def test_two_slivers_share_the_template_and_nothing_else(bench):
    bench.up(1)
    bench.up(2)
    with open(bench.root(1, "etc", "own"), "w") as file:
        file.write("of one")
    assert not os.path.exists(bench.root(2, "etc", "own"))
    assert os.stat(bench.root(2)).st_uid == id_base(2)
    templates = [point for point in mounts.read() if "/templates/" in point and point.startswith(str(bench.place))]
    assert len(templates) == 1


def test_a_squashfs_template_is_mounted_as_it_is(private_mounts):  # noqa: F811
    release = [int(part) for part in os.uname().release.split(".")[:2]]
    if release < [6, 6]:
        pytest.skip("squashfs cannot be id-mapped before Linux 6.6, this is " + os.uname().release)
    tree = private_mounts / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "issue").write_text("squashed")
    image = private_mounts / "t.squashfs"
    argv = ["mksquashfs", str(tree), str(image), "-quiet", "-no-progress", "-comp", "gzip"]
    subprocess.run(argv, check=True, capture_output=True)
    bench = Bench(private_mounts, image.read_bytes())
    bench.up()
    assert bench.read("etc", "issue") == "squashed"
    assert owner(bench.root(1, "etc", "issue")) == (0, 0)
    bench.storage.remove(bench.step())
    assert bench.traces() == []


def test_an_id_map_that_the_kernel_refuses_is_explained(bench, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    tree = mounts._clone(str(bench.place))
    monkeypatch.setattr(syscalls, "syscall", refuse)
    with pytest.raises(StepError, match="cannot id-map .* squashfs needs Linux 6.6"):
        mounts._set_attributes(tree, mounts.MOUNT_ATTR_IDMAP, 0, "/x")
    os.close(tree)


def test_a_template_that_belongs_to_nobody_in_the_slivers_range_is_a_failed_mount(bench, monkeypatch):
    real = mounts.mount_idmapped
    monkeypatch.setattr(mounts, "mount_idmapped", lambda path, target, base: real(path, target, base + 70000))
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    with pytest.raises(StepError, match="belongs to id .* instead of one of the sliver's"):
        bench.storage.mount(bench.step())


def test_an_id_map_that_does_nothing_is_a_failed_mount(bench, monkeypatch):
    monkeypatch.setattr(mounts, "mount_idmapped", lambda path, target, base: mounts.mount_tree(path, target))
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    with pytest.raises(StepError, match="without id mapping"):
        bench.storage.mount(bench.step())
    assert not bench.observe().mounted


# ---- what stands in the root -----------------------------------------------------------------------------------------


def test_host_name_hosts_and_resolver_are_written_and_links_replaced(bench):
    bench.up()
    assert bench.read("etc", "hostname") == "000000000001_0002\n"
    assert bench.read("etc", "hosts") == "127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1\t000000000001_0002\n"
    assert bench.read("etc", "resolv.conf") == "nameserver 192.168.241.126\n"
    assert not os.path.islink(bench.root(1, "etc", "resolv.conf"))


def mode_and_owner(path):
    return stat.S_IMODE(os.stat(path).st_mode), owner(path)


def test_debian_keeps_keys_in_roots_home_for_root_alone(bench):
    bench.up()
    assert bench.read("root", ".ssh", "authorized_keys") == KEY + "\n"
    assert mode_and_owner(bench.root(1, "root", ".ssh")) == (0o700, (0, 0))
    assert mode_and_owner(bench.root(1, "root", ".ssh", "authorized_keys")) == (0o600, (0, 0))


def test_openwrt_keeps_keys_with_dropbear_and_its_host_name_in_its_configuration(private_mounts):  # noqa: F811
    config = b"config system\n\toption hostname 'OpenWrt'\n\toption timezone 'UTC'\n\nconfig led\n\toption x 'y'\n"
    bench = Bench(private_mounts, archive_of(directory("root"), member("etc/config/system", config)), "openwrt")
    bench.up()
    assert bench.read("etc", "dropbear", "authorized_keys") == KEY + "\n"
    assert mode_and_owner(bench.root(1, "etc", "dropbear", "authorized_keys")) == (0o600, (0, 0))
    assert not os.path.exists(bench.root(1, "root", ".ssh"))
    assert bench.read("etc", "config", "system") == (
        "config system\n\toption hostname '000000000001_0002'\n\toption timezone 'UTC'\n\nconfig led\n\toption x 'y'\n"
    )


def test_a_template_without_a_home_for_root_gets_no_keys_and_still_is_deployed(private_mounts):  # noqa: F811
    bench = Bench(private_mounts, archive_of(directory("bin")), "generic")
    bench.up()
    assert bench.observe().deployment is not None
    assert not os.path.exists(bench.root(1, "root"))


def test_data_lies_over_the_template_with_the_slivers_owners(bench):
    data = bench.have(archive_of(member("srv/www/index.html", b"hello", uid=33, gid=33), member("var/state", b"s")))
    bench.up(data=data)
    assert bench.read("srv", "www", "index.html") == "hello"
    assert owner(bench.root(1, "srv", "www", "index.html")) == (33, 33)
    assert bench.read("run", "state") == "s"


@pytest.mark.parametrize("data,words", [
    (archive_of(member("../../../outside", b"x")), r"`\.\.`"),
    (archive_of(symlink("etc", "/"), member("x")), "would replace a directory"),
    (archive_of(member("big", os.urandom(40 * MIB))), "unpacks to 40 MiB, at most"),
    (b"<html>", "no archive of a known kind"),
], ids=["outside", "link over a directory", "too big", "no archive"])  # fmt: skip
def test_data_that_cannot_be_used_leaves_the_sliver_undeployed_and_removable(bench, data, words):
    with pytest.raises(StepError, match="data cannot be used: .*" + words):
        bench.up(data=bench.have(data))
    assert bench.observe().deployment is None
    bench.storage.remove(bench.step())
    assert bench.traces() == []


def test_a_link_planted_in_the_root_leads_nowhere_outside(bench):
    step = bench.up()
    outside = bench.place / "outside"
    outside.mkdir()
    for name in (".ssh/authorized_keys", ".ssh"):
        path = bench.root(1, "root", name)
        os.unlink(path) if os.path.isfile(path) else os.rmdir(path)
    os.symlink(str(outside), bench.root(1, "root", ".ssh"))
    with pytest.raises(StepError, match="nowhere|not a directory"):
        bench.storage.keys(step)
    assert os.listdir(outside) == []


def test_keys_follow_what_is_asked_and_their_digest_is_kept(bench):
    bench.up()
    bench.storage.keys(bench.step(keys=["ssh-ed25519 BBBB b", "ssh-ed25519 CCCC c"]))
    assert bench.read("root", ".ssh", "authorized_keys") == "ssh-ed25519 BBBB b\nssh-ed25519 CCCC c\n"
    assert bench.observe().deployment["keys_digest"] == keys.digest(["ssh-ed25519 BBBB b", "ssh-ed25519 CCCC c"])
    bench.storage.keys(bench.step(keys=[]))
    assert bench.read("root", ".ssh", "authorized_keys") == ""


def test_a_key_with_a_line_end_never_gets_into_the_file(bench):
    bench.up()
    with pytest.raises(StepError, match="control character"):
        bench.storage.keys(bench.step(keys=["ssh-ed25519 A\nssh-ed25519 B"]))
    assert bench.read("root", ".ssh", "authorized_keys") == KEY + "\n"


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


def test_keys_that_were_taken_away_go_even_from_a_sliver_that_filled_its_disk(bench, monkeypatch):
    bench.up()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StepError, match="the disk of 000000000001_0002 is full"):
        patch.setattr(inroot.Root, "_write_new", full)
        bench.storage.keys(bench.step(keys=["ssh-ed25519 BBBB b"]))
    assert not os.path.exists(bench.root(1, "root", ".ssh", "authorized_keys"))
    assert bench.observe().deployment["keys_digest"] == keys.digest([KEY])  # to be tried again
    bench.storage.keys(bench.step(keys=[]))
    assert bench.read("root", ".ssh", "authorized_keys") == ""


def test_what_a_sliver_put_where_keys_are_written_first_is_neither_followed_nor_in_the_way(bench):
    bench.up()
    (bench.place / "outside").write_text("untouched")
    os.symlink(str(bench.place / "outside"), bench.root(1, "root", ".ssh", inroot.TEMPORARY + "authorized_keys"))
    bench.storage.keys(bench.step(keys=[]))
    assert bench.read("root", ".ssh", "authorized_keys") == ""
    assert (bench.place / "outside").read_text() == "untouched"


# ---- the limit -------------------------------------------------------------------------------------------------------


def test_the_image_is_allocated_in_full_and_stays_so_through_mkfs(bench):
    bench.storage.allocate(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    bench.storage.format(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    assert os.path.getsize(bench.image()) == 16 * MIB


def test_holes_that_mkfs_punched_are_filled_again(bench, monkeypatch):
    monkeypatch.setattr(storage, "MKFS", storage.MKFS[:-2])  # with discards
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB


def test_an_mkfs_that_outlives_its_daemon_is_waited_for_not_run_twice(bench, monkeypatch):
    runs = bench.place / "runs"
    slow = 'echo run >>{}; sleep 1; exec mkfs.ext4 -q -F "$1"'.format(runs)
    monkeypatch.setattr(storage, "MKFS", ("sh", "-c", slow, "mkfs"))
    bench.storage.allocate(bench.step())
    daemon = os.fork()
    if daemon == 0:
        bench.storage.format(bench.step())
        os._exit(0)
    deadline = time.monotonic() + 10
    while not runs.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    bench.storage.format(bench.step())
    assert runs.read_text() == "run\n"
    subprocess.run(["e2fsck", "-f", "-n", bench.image()], check=True, capture_output=True)


def renew_free_loop_devices():
    """Free loop devices remember that they were told to refuse discards: make them anew (LOOP_CTL_REMOVE and _ADD)."""
    with open(loops.CONTROL, "rb") as control:
        for name in os.listdir("/sys/block"):
            if name.startswith("loop") and loops.backing_file(device_of(name)) is None:
                try:
                    fcntl.ioctl(control, 0x4C81, int(name[4:]))
                    fcntl.ioctl(control, 0x4C80, int(name[4:]))
                except OSError:
                    pass  # somebody uses it by now


def test_a_slivers_file_system_never_gives_blocks_back_to_the_node(bench):
    renew_free_loop_devices()
    bench.up(disk_mib=64)
    disk = bench.root().replace("/root", "/disk")
    assert subprocess.run(["fstrim", disk], capture_output=True, check=False).returncode != 0
    handle = os.open(bench.root(1, "file"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(handle, 0, 30 * MIB)
    for offset in range(0, 30 * MIB, MIB):  # ext4 writes zeros around each of these
        os.pwrite(handle, b"x" * 4096, offset)
        os.fsync(handle)
    os.close(handle)
    os.unlink(bench.root(1, "file"))
    bench.storage.unmount(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 64 * MIB


def test_a_loop_device_that_would_give_blocks_back_is_not_used(bench, monkeypatch):
    bench.storage.allocate(bench.step())
    monkeypatch.setattr(loops, "open", lambda path, *mode: io.StringIO("4294966784"), raising=False)
    with pytest.raises(StepError, match="would give blocks of its file back"):
        loops.attach(bench.image(), readonly=False)


def test_a_file_system_that_only_pretends_to_allocate_is_refused(bench, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda handle, offset, size: os.ftruncate(handle, size))
    with pytest.raises(StepError, match="really allocated"):
        bench.storage.allocate(bench.step())
    assert bench.observe().allocation is None
    assert not os.path.exists(bench.image())


def data_partition(bench, size_mib):
    """An ext4 of its own as the data partition, so that it can be filled; the cache moves along."""
    image, point = str(bench.place / "partition.img"), str(bench.place / "data")
    with open(image, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_mib * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", image], check=True, capture_output=True)
    os.rename(point, point + ".before")
    os.mkdir(point)
    mounts.mount_image(image, point, "ext4", readonly=False)
    subprocess.run(["cp", "-a", point + ".before/.", point], check=True)


def test_with_the_data_partition_full_every_sliver_still_writes_up_to_its_limit(bench):
    data_partition(bench, 96)
    for nr in (1, 2):
        bench.up(nr)
    fill(bench.paths.data + "/hog")
    assert os.statvfs(bench.paths.data).f_bavail * 4096 < MIB
    for nr in (1, 2):
        written = fill(bench.root(nr, "all"))
        assert 8 * MIB < written < 16 * MIB
        with open(bench.root(nr, "all"), "rb") as file:
            assert file.read() == b"x" * written
    for nr in (1, 2):  # what was acknowledged is really on the disk
        bench.storage.unmount(bench.step(nr))
        bench.storage.mount(bench.step(nr))
        with open(bench.root(nr, "all"), "rb") as file:
            assert file.read().count(b"x") > 8 * MIB


def test_a_sliver_that_fills_its_disk_takes_nothing_from_the_node_or_its_neighbour(bench):
    data_partition(bench, 64)
    for nr in (1, 2):
        bench.up(nr)
    before = os.statvfs(bench.paths.data).f_bavail * 4096
    assert fill(bench.root(1, "all")) < 16 * MIB
    os.sync()
    assert abs(os.statvfs(bench.paths.data).f_bavail * 4096 - before) < 4 * MIB
    with open(bench.root(2, "fine"), "wb") as file:
        file.write(bytes(4 * MIB))


def test_no_room_for_a_disk_says_how_much_is_missing_and_leaves_nothing(bench):
    data_partition(bench, 32)
    with pytest.raises(StepError, match=r"no room for a disk of 64 MiB: \d+\.\d MiB are missing"):
        bench.storage.allocate(bench.step(disk_mib=64))
    assert not os.path.exists(bench.image())
    assert bench.observe().allocation is None


def test_a_deployed_sliver_is_mounted_again_on_a_full_data_partition(bench):
    data_partition(bench, 48)
    step = bench.up()
    bench.storage.unmount(step)
    fill(bench.paths.data + "/hog")
    bench.storage.mount(step)
    assert bench.observe().mounted


def test_another_size_needs_the_sliver_removed_first_and_loses_nothing(bench):
    bench.up()
    with pytest.raises(StepError, match="cannot become 33554432: the sliver has to be removed first"):
        bench.storage.allocate(bench.step(disk_mib=32))
    assert bench.observe().deployment is not None


# ---- the way down ----------------------------------------------------------------------------------------------------


def test_unmounting_leaves_no_mount_mount_point_or_loop_device_and_keeps_the_content(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w") as file:
        file.write("kept")
    bench.storage.unmount(step)
    assert bench.traces() == [step.subject]
    bench.storage.mount(step)
    assert bench.read("mark") == "kept"


def test_the_template_stays_mounted_for_the_other_sliver(bench):
    bench.up(1)
    bench.up(2)
    bench.storage.unmount(bench.step(1))
    assert os.path.exists(bench.root(2, "bin", "su"))
    assert bench.observe(2).mounted
    assert str(bench.place / "run/mounts/templates" / bench.template) in mounts.read()
    bench.storage.unmount(bench.step(2))
    assert [point for point in mounts.read() if point.startswith(str(bench.place))] == []


def test_undeploying_throws_the_content_away_and_keeps_the_allocation(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w"):
        pass
    bench.storage.undeploy(step)
    found = bench.observe()
    assert found.allocation is not None
    assert (found.deployment, found.formatted, found.mounted) == (None, False, False)
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    bench.up()
    assert not os.path.exists(bench.root(1, "mark"))


def test_removing_leaves_nothing_at_all_and_can_be_done_without_booking_and_twice(bench):
    step = bench.up()
    step.sliver = step.booking = None
    for _ in range(2):
        bench.storage.unmount(step)
        bench.storage.undeploy(step)
        bench.storage.remove(step)
    assert bench.traces() == []


def test_a_root_in_use_is_not_unmounted_and_the_error_names_the_user(bench, monkeypatch):
    monkeypatch.setattr(mounts, "UNMOUNT_WAIT_S", 0.1)
    step = bench.up()
    holder = subprocess.Popen(["sleep", "60"], cwd=bench.root())
    try:
        with pytest.raises(StepError, match="used by process {}".format(holder.pid)):
            bench.storage.unmount(step)
    finally:
        holder.kill()
        holder.wait()
    bench.storage.unmount(step)
    assert not bench.observe().mounted


# ---- cut off ---------------------------------------------------------------------------------------------------------

CALLS = (
    (storage, "_fill"), (storage, "_run_mkfs"), (mounts, "mount_tree"), (mounts, "mount_image"),
    (mounts, "mount_idmapped"), (mounts, "mount_overlay"), (mounts, "unmount"), (syscalls, "syncfs"),
    (storage.durable, "write_json"), (storage.durable, "remove"), (layers, "_remove_empty"),
)  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test catches it."""


def killed_at(monkeypatch, count, after):
    """Make the `count`-th call of CALLS the last one: the process is gone before, or after it was done."""
    left = [count]
    for module, name in CALLS:
        real = getattr(module, name)

        def call(*args, real=real, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            result = real(*args, **kwargs)
            if left[0] == 0:
                raise Killed
            return result

        monkeypatch.setattr(module, name, call)
    return left


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_on_the_way_up_or_down_a_fresh_process_finds_all_and_cleans_it(private_mounts, after):  # noqa: F811
    template = TEMPLATE
    cuts = 0
    while True:
        place = private_mounts / str(cuts)
        bench = Bench(place, template)
        cuts += 1
        with pytest.MonkeyPatch.context() as patch:
            left = killed_at(patch, cuts, after)
            try:
                bench.up()
                for verb in ("unmount", "undeploy", "remove"):
                    getattr(bench.storage, verb)(bench.step())
            except Killed:
                pass
        if left[0] > 0:
            break
        again = Storage(bench.paths, bench.cache, lambda: "")
        again.snapshot()
        if again.observe(bench.step().subject).allocation is not None:
            assert os.path.getsize(bench.image()) == 16 * MIB, "cut {}: allocated without a disk".format(cuts)
        if bench.traces():
            assert again.names() == [bench.step().subject], "cut {}: {}".format(cuts, bench.traces())
        for verb in ("unmount", "undeploy", "remove"):
            getattr(again, verb)(bench.step())
        assert bench.traces() == [], "cut {}".format(cuts)
    assert cuts > 15


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_on_the_way_up_a_fresh_process_brings_the_sliver_up(private_mounts, after):  # noqa: F811
    cuts = 0
    while True:
        bench = Bench(private_mounts / str(cuts))
        cuts += 1
        with pytest.MonkeyPatch.context() as patch:
            left = killed_at(patch, cuts, after)
            try:
                bench.up()
            except Killed:
                pass
        if left[0] > 0:
            break
        bench.storage = Storage(bench.paths, bench.cache, lambda: "nameserver 192.168.241.126\n")
        found = bench.observe()
        if found.formatted and found.deployment is None:
            bench.storage.undeploy(bench.step())  # as the plan has it
        bench.up()
        assert bench.observe().deployment is not None, "cut {}".format(cuts)
        assert bench.read("root", ".ssh", "authorized_keys") == KEY + "\n"
        bench.storage.remove(bench.step())
        assert bench.traces() == []
    assert cuts > 8


def test_layers_of_another_life_are_taken_down_before_new_ones_are_mounted(bench):
    bench.up()
    other = archive_of(directory("etc"), member("etc/other", b"new"))
    bench.template = bench.have(other)
    bench.cache.unpack_template(bench.step())
    bench.storage.mount(bench.step())
    assert bench.read("etc", "other") == "new"
    assert not os.path.exists(bench.root(1, "bin"))


# ---- observing -------------------------------------------------------------------------------------------------------


def test_observing_starts_no_process_and_writes_nothing(bench, monkeypatch):
    bench.up()
    monkeypatch.setattr(subprocess, "Popen", None)
    before = {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(bench.place)}
    bench.storage.snapshot()
    bench.storage.names()
    bench.storage.disk_mib()
    assert bench.observe().mounted
    assert {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(bench.place)} == before


def flip(path, position, bit=0):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("name", ["allocation.json", "deployment.json"])
def test_a_document_with_any_bit_flipped_is_named_set_aside_and_written_anew(bench, name):
    step = bench.up(sliver_sn=3, slice_sn=7)
    good = bench.observe()
    path = bench.paths.sliver(step.subject, name)
    size = os.path.getsize(path)
    for position in range(0, size, max(1, size // 60)):
        flip(path, position, position % 8)
        found = bench.observe()
        assert path in found.damaged[0] and {} in (found.allocation, found.deployment), position
        bench.storage.mend(step)
        assert os.path.getsize(path + ".damaged") == size
        mended = bench.observe()
        assert (mended.allocation, mended.damaged) == (good.allocation, [])
        assert {**mended.deployment, "keys_digest": good.deployment["keys_digest"]} == good.deployment
        assert mended.mounted
        bench.storage.keys(step)
    assert bench.observe() == good


def test_mending_cut_off_after_the_damaged_file_was_set_aside_is_done_again(bench, monkeypatch):
    step = bench.up()
    path = bench.paths.sliver(step.subject, "allocation.json")
    flip(path, 20)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_checked", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StepError, match="No space left"):
            bench.storage.mend(step)
    assert bench.observe().damaged, "a file that is missing would count as never allocated"
    bench.storage.mend(step)
    assert bench.observe().damaged == []


def test_names_that_could_lead_elsewhere_are_refused(bench):
    step = bench.step()
    for name in ("..", "a/b", "", ".hidden", "x" * 64, "a\n"):
        step.subject = name
        for verb in ("allocate", "remove", "unmount", "undeploy"):
            with pytest.raises(StepError, match="cannot be a sliver's name"):
                getattr(bench.storage, verb)(step)


def test_the_disk_of_a_mounted_sliver_is_known_by_its_device(bench):
    bench.up()
    device = bench.storage.device(bench.step().subject)
    assert loops.backing_file(device) == bench.image()
    bench.storage.unmount(bench.step())
    assert bench.storage.device(bench.step().subject) is None


def test_steps_in_the_wrong_order_say_what_is_missing(bench):
    step = bench.step()
    for verb, words in (
        ("format", "allocated first"), ("mount", "allocated first"), ("populate", "not mounted"),
        ("keys", "not deployed"),
    ):  # fmt: skip
        with pytest.raises(StepError, match=words):
            getattr(bench.storage, verb)(step)
    bench.storage.allocate(step)
    bench.template = "0" * 64
    with pytest.raises(StepError, match="not in the cache"):
        bench.storage.mount(bench.step())


def test_mountinfo_with_blanks_and_stacked_mounts_is_read_right():
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 - ext3 /dev/ro\\134ot rw,errors=continue\n"
        "37 35 0:5 / /mnt\\0402 ro - tmpfs none rw\n"
        "broken line\n"
    )
    found = mounts.parse(text)
    assert list(found) == ["/mnt 2"]
    assert (found["/mnt 2"].fstype, found["/mnt 2"].device, found["/mnt 2"].options) == ("tmpfs", "0:5", ["ro"])
    assert mounts.parse(text.splitlines()[0])["/mnt 2"].source == "/dev/ro\\ot"


@pytest.mark.parametrize("machine,wide,number", [("x86_64", True, 437), ("armv7l", False, 437), ("mips", False, 4437),
                                                 ("mips64", True, 5437)])  # fmt: skip
def test_system_calls_have_the_machines_own_numbers(machine, wide, number):
    assert syscalls.number(syscalls.OPENAT2, machine, wide) == number
