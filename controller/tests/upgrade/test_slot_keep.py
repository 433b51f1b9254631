"""What a new slot takes over: OpenWrt's list, and nothing that somebody only left lying about."""

from __future__ import annotations

import hashlib
import os
import tarfile

import pytest

from confine.upgrade import keep
from confine.upgrade.errors import UpgradeError


@pytest.fixture
def root(tmp_path):
    def write(path, text, mode=0o644):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    write("etc/config/confine", "config node 'node'\n")
    write("etc/config/network", "config interface 'lan'\n")
    write("etc/dropbear/key", "secret", 0o600)
    write("etc/unnamed", "x")
    write("etc/changed.conf", "new")
    write("etc/unchanged.conf", "as installed")
    write("root/notes", "mine")
    write("lib/upgrade/keep.d/base", "# a comment\n/etc/config/\n/etc/dropbear/*\n/etc/absent\n")
    write("etc/sysupgrade.conf", "/root/notes\n")
    md5 = [hashlib.md5(text.encode()).hexdigest() for text in ("old", "as installed")]
    write("usr/lib/opkg/status", f"Package: x\nConffiles:\n /etc/changed.conf {md5[0]}\n"
          f" /etc/unchanged.conf {md5[1]}\nArchitecture: all\n /etc/unnamed {md5[0]}\n")  # fmt: skip
    os.symlink("/etc/elsewhere", tmp_path / "etc/config/link")
    return tmp_path


def test_what_the_lists_name_is_kept_with_changed_configuration_files_and_nothing_else(root):
    assert keep.files(str(root)) == [
        "etc/changed.conf", "etc/config/confine", "etc/config/link", "etc/config/network", "etc/dropbear/key",
        "root/notes",
    ]  # fmt: skip


def test_the_archive_keeps_modes_and_links_and_is_nobody_elses_to_read(root, tmp_path):
    path = str(tmp_path / "kept.tgz")
    assert keep.pack(path, str(root)) == 6
    assert os.stat(path).st_mode & 0o777 == 0o600
    with tarfile.open(path) as tar:
        assert tar.getmember("etc/dropbear/key").mode == 0o600
        assert tar.getmember("etc/config/link").linkname == "/etc/elsewhere"
        assert tar.extractfile("root/notes").read() == b"mine"


def test_openwrts_own_tool_is_asked_where_it_is(root):
    tool = root / "sbin/sysupgrade"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n[ \"$1\" = -l ] && printf '/etc/config/confine\\n/etc/unnamed\\n'\n")
    tool.chmod(0o755)
    assert keep.files(str(root)) == ["etc/config/confine", "etc/unnamed"]
    tool.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(UpgradeError, match="broken"):
        keep.files(str(root))


def test_a_list_without_the_nodes_own_settings_starts_no_trial(root, tmp_path):
    os.unlink(root / "etc/config/confine")
    with pytest.raises(UpgradeError, match="would not know its node"):
        keep.pack(str(tmp_path / "kept.tgz"), str(root))


def test_each_name_of_a_file_is_kept(root, tmp_path):
    os.link(root / "etc/config/network", root / "etc/config/other")
    path = str(tmp_path / "kept.tgz")
    keep.pack(path, str(root))
    with tarfile.open(path) as tar:
        for name in ("etc/config/network", "etc/config/other"):
            assert tar.extractfile(name).read() == b"config interface 'lan'\n"


def test_what_is_too_large_to_keep_is_said_and_never_cut(root, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "MAX_BYTES", 1 << 20)
    (root / "etc/config/big").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UpgradeError, match="/etc/config/big"):
        keep.pack(str(tmp_path / "kept.tgz"), str(root))
    for number in range(40):
        (root / f"etc/config/many-{number:02}").write_bytes(os.urandom(100_000))
    os.unlink(root / "etc/config/big")
    with pytest.raises(UpgradeError, match="counted up to /etc/config/many-"):
        keep.pack(str(tmp_path / "kept.tgz"), str(root))
    assert os.path.getsize(tmp_path / "kept.tgz") < 2 << 20  # it is in memory
