"""A node's own image: its files come from TOML, a directory or an archive, and what is wrong with them is named."""

import os
import tarfile

import pytest

from firmware.openwrt import personal
from firmware.openwrt.errors import FirmwareError

TOML = """
name = "mill-roof"
[confine.node]
id = "0012"
sync_node_admins = true
[confine.registry]
base_uri = ["https://registry.example.org/api/"]
[files]
"/etc/confine/registry-server.crt" = "registry.crt"
"/etc/tinc/confine/tinc-up" = { source = "tinc-up", mode = "0755" }
"""
# As an existing image generator writes it.
INJECTED = """
config node 'node'
\toption id '0012'
\toption local_ifname 'br-lan'
\toption mac_prefix16 '54:c0'
\toption sl_public_ipv4_proto 'none'
\toption state 'prepared'

config registry 'registry'
\tlist base_uri 'https://registry.example.org/api/'

config testbed 'testbed'
\toption mgmt_ipv6_prefix48 'fd65:fc41:c50f::/48'
"""


def toml(tmp_path, text=TOML):
    (tmp_path / "registry.crt").write_text("certificate")
    (tmp_path / "tinc-up").write_text("#!/bin/sh\n")
    path = tmp_path / "node.toml"
    path.write_text(text)
    return str(path)


def injected(tmp_path):
    files = {"config/confine": INJECTED, "tinc/confine/rsa_key.priv": "secret", "uhttpd.key": "secret"}
    for name, text in files.items():
        path = tmp_path / "node-0012/etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "node-0012"


def test_a_toml_file_becomes_uci_and_files(tmp_path):
    node = personal.load(toml(tmp_path))
    assert node.name == "mill-roof"
    assert personal.parse_uci(node.files["etc/config/confine"][0].decode()) == {
        "node": {".type": "node", "id": "0012", "sync_node_admins": "1"},
        "registry": {".type": "registry", "base_uri": ["https://registry.example.org/api/"]},
    }
    assert node.files["etc/confine/registry-server.crt"] == (b"certificate", 0o600)
    assert node.files["etc/tinc/confine/tinc-up"][1] == 0o755


def test_what_an_image_generator_injects_is_taken_as_it_is_from_a_directory_or_an_archive(tmp_path):
    directory = injected(tmp_path)
    with tarfile.open(tmp_path / "node-0012.tar.gz", "w:gz") as tar:
        tar.add(directory / "etc", "./etc")
    one, other = personal.load(str(directory)), personal.load(str(tmp_path / "node-0012.tar.gz"))
    assert one == other
    assert one.files["etc/tinc/confine/rsa_key.priv"] == (b"secret", 0o600)


def test_the_archive_is_roots_alone_and_the_same_every_time(tmp_path):
    node = personal.load(toml(tmp_path))
    for name in ("one.tgz", "other.tgz"):
        personal.archive(node, str(tmp_path / name))
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "other.tgz").read_bytes()
    assert os.stat(tmp_path / "one.tgz").st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "one.tgz") as tar:
        assert sorted(tar.getnames()) == sorted(node.files)
        assert {(member.uid, member.gid) for member in tar} == {(0, 0)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[confine.registry]", "[confine.registri]"), "did you mean 'registry'?"),
        (("sync_node_admins", "sync_node_admin"), "did you mean 'sync_node_admins'?"),
        (('"0012"', '"12345"'), "confine/node/id"),
        (('name = "mill-roof"', 'nmae = "mill-roof"'), "unknown key 'nmae'; did you mean name?"),
        (('name = "mill-roof"', 'name = "../mill"'), "cannot be a file's"),
        (("/etc/tinc/confine/tinc-up", "/usr/sbin/confine"), "usr/sbin/confine is not below etc/"),
        (("/etc/tinc/confine/tinc-up", "/etc/../usr/x"), "is not below etc/"),
        (("/etc/tinc/confine/tinc-up", "/etc/shadow"), "etc/shadow is the shared image's"),
        (('"registry.crt"', '"absent.crt"'), "absent.crt"),
        (('"0755"', '"4755"'), "the mode of /etc/tinc/confine/tinc-up is '4755'"),
        (("true", "1.5"), "sync_node_admins is 1.5"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, change, said):
    assert change[0] in TOML
    with pytest.raises(FirmwareError) as failure:
        personal.load(toml(tmp_path, TOML.replace(*change)))
    assert said in str(failure.value)
    assert "node.toml" in str(failure.value)


def test_a_link_or_a_missing_configuration_is_refused(tmp_path):
    directory = injected(tmp_path)
    for name, target in (("dropbear", "/etc"), ("uhttpd.crt", "/etc/shadow")):
        (directory / "etc" / name).symlink_to(target)
        with pytest.raises(FirmwareError, match=f"etc/{name} is no plain file"):
            personal.load(str(directory))
        (directory / "etc" / name).unlink()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FirmwareError, match="etc/config/confine is not there"):
        personal.load(str(empty))


@pytest.mark.parametrize("text", ["config node 'node", "option id '1'", "config node", "import x y z"])
def test_a_half_written_uci_file_names_its_line(text):
    with pytest.raises(FirmwareError, match="etc/config/confine, line 1"):
        personal.parse_uci(text)


def test_a_quote_in_a_value_stays_in_the_value(tmp_path):
    node = personal.load(toml(tmp_path, TOML.replace('"0012"', '"0012"\nlocal_ifname = "br-lan"')))
    assert "br-lan" in node.files["etc/config/confine"][0].decode()
    assert personal.parse_uci(personal._uci({"node": {"x": "it's"}}))["node"]["x"] == "it's"
