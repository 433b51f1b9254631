"""What the node puts into a sliver's root, and where nothing in it may lead."""

import errno
import os
import stat

import pytest

from confine import durable
from confine.core import keys
from confine.drivers import inroot, syscalls
from confine.errors import StepError
from tests.drivers.storage_bench import KEY, MIB, Bench, owner
from tests.drivers.storage_support import (
    archive_of,
    directory,
    member,
    needs_root,
    symlink,
)

pytestmark = [pytest.mark.root, needs_root]


def test_host_name_hosts_and_resolver_are_written_and_links_replaced(bench):
    bench.up()
    assert bench.read("etc", "hostname") == "000000000001_0002\n"
    assert bench.read("etc", "hosts") == "127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1\t000000000001_0002\n"
    assert bench.read("etc", "resolv.conf") == "nameserver 192.168.241.126\n"
    assert not os.path.islink(bench.root(1, "etc", "resolv.conf"))


def mode_and_owner(path):
    return stat.S_IMODE(os.stat(path).st_mode), owner(path)


def test_all_of_a_root_is_on_the_disk_before_it_counts_as_deployed_with_one_sync(bench, monkeypatch):
    step = bench.step()
    for verb in ("allocate", "format", "mount"):
        getattr(bench.storage, verb)(step)
    done = []
    for module, name in ((os, "fsync"), (syscalls, "syncfs"), (durable, "write_checked")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real: (done.append(name), real(*a))[1])
    bench.storage.populate(step)
    assert done[:2] == ["syncfs", "write_checked"]


def test_debian_keeps_keys_in_roots_home_for_root_alone(bench):
    bench.up()
    assert bench.read("root", ".ssh", "authorized_keys") == KEY + "\n"
    assert mode_and_owner(bench.root(1, "root", ".ssh")) == (0o700, (0, 0))
    assert mode_and_owner(bench.root(1, "root", ".ssh", "authorized_keys")) == (0o600, (0, 0))


def test_openwrt_keeps_keys_with_dropbear_and_its_host_name_in_its_configuration(private_mounts):
    config = b"config system\n\toption hostname 'OpenWrt'\n\toption timezone 'UTC'\n\nconfig led\n\toption x 'y'\n"
    bench = Bench(private_mounts, archive_of(directory("root"), member("etc/config/system", config)), "openwrt")
    bench.up()
    assert bench.read("etc", "dropbear", "authorized_keys") == KEY + "\n"
    assert mode_and_owner(bench.root(1, "etc", "dropbear", "authorized_keys")) == (0o600, (0, 0))
    assert not os.path.exists(bench.root(1, "root", ".ssh"))
    assert bench.read("etc", "config", "system") == (
        "config system\n\toption hostname '000000000001_0002'\n\toption timezone 'UTC'\n\nconfig led\n\toption x 'y'\n"
    )


def test_a_template_without_a_home_for_root_gets_no_keys_and_still_is_deployed(private_mounts):
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


def test_a_link_put_where_a_directory_is_just_being_made_changes_nothing_outside(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    victim = tmp_path / "victim"
    victim.mkdir()
    os.chmod(victim, 0o770)
    mkdir = os.mkdir

    def overtaken(name, *args, **options):
        """What root in a running sliver may do in between."""
        mkdir(name, *args, **options)
        if name == ".ssh":
            os.rmdir(tmp_path / "root/.ssh")
            os.symlink(victim, tmp_path / "root/.ssh")

    monkeypatch.setattr(os, "mkdir", overtaken)
    with inroot.Root(str(tmp_path / "root"), 1000000) as root, pytest.raises(OSError):
        root.make_directory(".ssh", 0o755)
    found = os.stat(victim)
    assert (found.st_mode & 0o7777, found.st_uid) == (0o770, os.getuid())


def test_a_directory_that_is_made_is_the_slivers_own_with_the_mode_asked_for(tmp_path):
    (tmp_path / "root").mkdir()
    with inroot.Root(str(tmp_path / "root"), 1000000) as root:
        root.make_directory("a/b", 0o750)
    found = os.stat(tmp_path / "root/a/b")
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o750, 1000000, 1000000)
