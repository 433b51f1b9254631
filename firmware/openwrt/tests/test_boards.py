"""Board files: each that is shipped can be used, and one that cannot names what is wrong."""

import os

import pytest

from firmware.openwrt import boards
from firmware.openwrt.errors import FirmwareError

GOOD = """
name = "box"
title = "A box"
target = "x86/64"
profile = "generic"
boot = "grub"
platforms = ["i386-pc"]
"""


def written(tmp_path, text):
    path = tmp_path / "box.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", boards.names())
def test_each_shipped_board_can_be_used_and_is_called_as_its_file(name):
    assert boards.find(name).name == name


def test_a_board_is_found_by_its_target_or_by_a_file_of_ones_own(tmp_path):
    assert boards.of_target("armsr/armv8").name == "armsr-armv8"
    assert boards.find(written(tmp_path, GOOD)).title == "A box"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("platforms =", "platform ="), "unknown key 'platform'; did you mean platforms?"),
        (("profile =", "# profile ="), "the key 'profile' is missing"),
        (('"grub"', '"grup"'), "boot is 'grup'; did you mean grub?"),
        (('"i386-pc"', '"i386pc"'), "platforms is 'i386pc'; did you mean i386-pc?"),
        (('"x86/64"', '"x86_64"'), "target is 'x86_64': it is TARGET/SUBTARGET, as x86/64"),
        (('"A box"', "7"), "title is 7: a text is needed"),
        (('["i386-pc"]', "[]"), "boot is grub: platforms says for which"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_value(tmp_path, change, said):
    with pytest.raises(FirmwareError) as failure:
        boards.load(written(tmp_path, GOOD.replace(*change)))
    assert said in str(failure.value)
    assert "box.toml" in str(failure.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[sizes_mib]\nroot_a = 300", "sizes_mib: unknown key 'root_a'; did you mean root-a?"),
        ("[sizes_mib]\nboot = 1", "boot: 1 MiB is too small"),
        ("[sizes_mib]\ndata = true", "a whole number of MiB"),
        ('[kernel]\nMEMCG = "yes"', "MEMCG is 'yes'"),
        ('packages = ["a b"]', "packages has 'a b'"),
        ("name = ", "box.toml"),
    ],
)
def test_tables_are_checked_as_well(tmp_path, more, said):
    with pytest.raises(FirmwareError) as failure:
        boards.load(written(tmp_path, GOOD + more))
    assert said in str(failure.value)


def test_an_unknown_board_or_target_is_answered_with_those_there_are():
    with pytest.raises(FirmwareError, match=r"there is no board 'x86-46'; did you mean x86-64\?"):
        boards.find("x86-46")
    with pytest.raises(FirmwareError, match="no board file is for the target 'ath79/generic'; there are .*x86/64"):
        boards.of_target("ath79/generic")


def test_no_board_path_is_taken_for_a_name():
    with pytest.raises(FirmwareError, match="No such file"):
        boards.find(os.path.join("nowhere", "x86-64"))
