"""`make firmware` over a release that is none: what comes out, the same twice, and what it keeps apart."""

import gzip
import json
import os
import shutil
import subprocess

import pytest

from confine.upgrade import keyring
from confine.upgrade.manifest import Manifest
from firmware.image import layout
from firmware.openwrt import boards, build
from firmware.openwrt.download import sha256_of
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.tests import fake_release
from upgrade import label, pointer
from upgrade.bundle import draft

# Whole images are made and packed, on machines that may be busy with other things.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECRET = b"-----BEGIN a key that nobody else may have-----"
# The pages' translations, with LuCI's own words in the same languages.
LANGUAGES = ["luci-i18n-base-ca", "luci-i18n-confine-ca", "luci-i18n-base-es", "luci-i18n-confine-es"]
BOARD = """
name = "box"
title = "A box"
target = "x86/64"
profile = "generic"
boot = "grub"
platforms = ["i386-pc", "x86_64-efi"]
packages = ["kmod-one", "-kmod-two"]
[sizes_mib]
kernel-a = 1
kernel-b = 1
root-a = 20
root-b = 20
data = 64
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A fake release, and a repository that has this one's packages."""
    top = tmp_path_factory.mktemp("world")
    fake_release.make(top, fake_release.kernel_config())
    (top / "box.toml").write_text(BOARD)
    repository = top / "repository"
    for name in ("confine-node", "luci-app-confine", "confine"):
        (repository / "package" / name).mkdir(parents=True)
        (repository / "package" / name / "Makefile").write_text(f"# {name}\n")
    for language in ("templates", "es", "ca"):
        (repository / "package/luci-app-confine/po" / language).mkdir(parents=True)
        (repository / "package/luci-app-confine/po" / language / "confine.po").write_text("# words\n")
    run = ["git", "-c", "user.name=x", "-c", "user.email=x@example.net", "-C", str(repository)]
    subprocess.run([*run[:5], "init", "-q", str(repository)], check=True)
    subprocess.run([*run, "add", "package"], check=True)
    subprocess.run(
        [*run, "commit", "-qm", "all"], check=True, env={**os.environ, "GIT_COMMITTER_DATE": "@1760000000 +0000"}
    )
    (top / "node/etc/config").mkdir(parents=True)
    (top / "node/etc/config/confine").write_text("config node 'node'\n\toption id '0012'\n")
    (top / "node/etc/confine").mkdir()
    (top / "node/etc/confine/key").write_bytes(SECRET)
    fake_release.key(top / "anna")
    key = (top / "anna.pub").read_text().splitlines()[1]
    (top / "keyring.json").write_text(json.dumps({"serial": 1, "threshold": 1, "keys": [{"key": key, "name": "anna"}]}))
    return top


def order(world, name, **more):
    given = {
        "board": boards.load(str(world / "box.toml")), "source": str(world / "release"), "keys": str(world / "keys"),
        "keyring": str(world / "keyring.json"), "output": str(world / name),
        "cache": str(world / f"{name}-cache"), **more,
    }  # fmt: skip
    return build.Order(fake_release.VERSION, **given)


@pytest.fixture(scope="module")
def made(world):
    """The firmware, with one node's own image."""
    said = []
    return build.make(order(world, "one", nodes=(str(world / "node"),)), said.append, str(world / "repository"))


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def disk(path):
    with gzip.open(path) as file:
        return file.read()


def test_all_that_is_promised_is_there_and_its_checksums_are_right(made):
    listed = dict(reversed(line.split(" *")) for line in read(made, "sha256sums").decode().splitlines())
    assert {"box.img.gz", "bundle/manifest.json", "vmlinuz", "root.squashfs", "inputs.json", "sbom.spdx.json",
            "packages/confine-0.1.0-r1.apk"} <= set(listed)  # fmt: skip
    assert {name: sha256_of(os.path.join(made, name)) for name in listed} == listed
    assert os.path.exists(os.path.join(made, "build.log"))


def test_the_disk_starts_slot_a_and_has_kernel_and_root_where_the_node_finds_them(made):
    content = disk(os.path.join(made, "box.img.gz"))
    parts = {
        part.name: part
        for part in layout.partitions(boards.load(str(os.path.join(made, "../../../box.toml"))).sizes_mib)
    }
    assert content[parts["root-a"].start :].startswith(read(made, "root.squashfs"))
    assert pointer.parse_block(content[parts["pointer"].start :][: pointer.SECTOR]) == "a"
    end = parts["kernel-a"].start + parts["kernel-a"].size
    found = label.parse(content[end - label.SIZE : end])
    assert found["version"].startswith("25.12.2-")
    # In the kernel's partition, which is not packed: GRUB reads it there.
    assert b"a kernel that is none" in content[parts["kernel-a"].start : end]


def test_the_root_has_the_packages_the_board_asks_for_and_knows_its_board_and_keyring(made, tmp_path):
    root = str(tmp_path / "root")
    subprocess.run(["unsquashfs", "-q", "-n", "-d", root, os.path.join(made, "root.squashfs")], check=True)
    assert read(root, "packages").decode().split() == [
        "luci", "confine-node", "luci-app-confine", "confine", *LANGUAGES, "kmod-one", "-kmod-two"
    ]  # fmt: skip
    assert read(root, "usr/lib/confine/share/board") == b"box\n"
    assert keyring.load(os.path.join(root, "usr/lib/confine/share/upgrade-keyring.json"))["serial"] == 1
    assert os.access(os.path.join(root, "etc/init.d/confine-data"), os.X_OK)
    used = os.path.getsize(os.path.join(made, "root.squashfs"))
    assert used < 1 << 20, "the zeros that fill OpenWrt's image up are left out"


def test_the_bundle_is_for_this_board_and_whole(made):
    directory = os.path.join(made, "bundle")
    draft.check_parts(directory)
    with open(os.path.join(directory, "manifest.json"), "rb") as file:
        manifest = Manifest(file.read())
    assert (manifest.board, manifest.branch, manifest.keyring["serial"]) == ("box", "stable", 1)
    assert manifest.published == 1760000000


def test_a_nodes_keys_are_in_its_own_image_alone(made):
    own = os.path.join(made, "nodes", "node.img.gz")
    assert os.stat(own).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(own)).st_mode & 0o777 == 0o700
    assert os.listdir(os.path.dirname(own)) == ["node.img.gz"]
    for where, _, names in os.walk(made):
        if not where.endswith("nodes"):
            for name in names:
                content = read(where, name)
                assert SECRET not in content
                assert not name.endswith(".gz") or SECRET not in gzip.decompress(content)
    start = disk(own).find(b"\x1f\x8b")
    assert SECRET in b"".join(_gzips(disk(own), start)), "and in it they are, for the node to unpack"


def _gzips(content, start):
    """What the gzip archives in a disk unpack to."""
    import zlib

    while start >= 0:
        try:
            yield zlib.decompressobj(wbits=31).decompress(content[start:], 1 << 20)
        except zlib.error:
            pass
        start = content.find(b"\x1f\x8b\x08", start + 1)


def test_the_list_of_software_is_spdx_with_every_package_of_the_root(made):
    with open(os.path.join(made, "sbom.spdx.json")) as file:
        doc = json.load(file)
    assert doc["spdxVersion"] == "SPDX-2.3"
    assert {package["name"] for package in doc["packages"]} == {
        "confine-box", "base-files", "luci", "confine-node", "luci-app-confine", "confine", *LANGUAGES, "kmod-one"
    }  # fmt: skip
    known = {"SPDXRef-DOCUMENT", *(one["SPDXID"] for one in doc["packages"] + doc["files"])}
    for relation in doc["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= known


def test_every_input_is_named_with_its_checksum(world, made):
    with open(os.path.join(made, "inputs.json")) as file:
        doc = json.load(file)
    for name in (*fake_release.NAMES.values(),):
        assert doc["files"][name] == sha256_of(str(world / "release" / name))
    assert {"box.toml", "python3-light-3.13.apk"} <= set(doc["files"])
    assert (
        doc["commit"]
        == subprocess.check_output(
            ["git", "-c", "safe.directory=*", "-C", str(world / "repository"), "rev-parse", "HEAD"], text=True
        ).strip()
    )
    assert doc["uncommitted changes"] is False


def test_the_same_inputs_give_the_same_bytes_elsewhere(world, made):
    other = build.make(order(world, "other"), lambda line: None, str(world / "repository"))
    assert read(other, "sha256sums") == read(made, "sha256sums")


def test_a_machine_of_another_kind_gets_the_image_builders_grub_and_no_bios_code(world):
    (world / "arm.toml").write_text(BOARD.replace('"i386-pc", "x86_64-efi"', '"arm64-efi"').replace('"box"', '"arm"'))
    board = boards.load(str(world / "arm.toml"))
    arm = build.make(order(world, "arm", board=board), lambda line: None, str(world / "repository"))
    content = disk(os.path.join(arm, "arm.img.gz"))
    assert content[:440] == bytes(440)
    parts = {part.name: part for part in layout.partitions(board.sizes_mib)}
    found = content[parts["boot"].start : parts["boot"].start + parts["boot"].size]
    assert b"BOOTAA64EFI" in found and b"a GRUB that is none: -O arm64-efi" in found


def test_a_second_build_in_the_same_place_replaces_the_first_as_a_whole(world, made):
    copy = str(world / "again")
    shutil.copytree(world / "one-cache", copy + "-cache")
    again = build.make(order(world, "again", version="7"), lambda line: None, str(world / "repository"))
    build.make(order(world, "again", version="8"), lambda line: None, str(world / "repository"))
    assert json.loads(read(again, "inputs.json"))["version"] == "8"
    assert os.listdir(os.path.dirname(again)) == ["box"]


@pytest.mark.parametrize(
    ("config", "profile", "said"),
    [
        (("MEMCG",), "generic", "CONFIG_MEMCG is off"),
        ((), "genric", 'Profile "genric" does not exist!'),
    ],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(tmp_path, world, config, profile, said):
    fake_release.make(tmp_path, fake_release.kernel_config(*config))
    (tmp_path / "box.toml").write_text(BOARD.replace('"generic"', f'"{profile}"'))
    wrong = build.Order(
        fake_release.VERSION, boards.load(str(tmp_path / "box.toml")), str(tmp_path / "release"),
        str(tmp_path / "keys"), output=str(tmp_path / "out"), cache=str(tmp_path / "cache"),
    )  # fmt: skip
    with pytest.raises(FirmwareError) as failure:
        build.make(wrong, lambda line: None, str(world / "repository"))
    assert said in str(failure.value)
    assert os.listdir(tmp_path / "out" / fake_release.VERSION) == []


def test_the_command_line_says_in_one_line_what_is_wrong(capsys):
    assert build.main(["--release", "25.12.2", "--board", "x86-64", "--target", "armsr/armv8"]) == 1
    assert build.main(["--release", "25.12.2"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "firmware: BOARD=x86-64 is of the target x86/64, not armsr/armv8"
    assert said[1].startswith("firmware: TARGET= or BOARD= says for what; there are boards armsr-armv8, ")
