"""Where no slot has starts left and nothing else can be started: the shipped grub.cfg, whole, under grub-emu."""

from __future__ import annotations

import os
import re
import subprocess

import grub_emu
import pytest
import slot_world

from upgrade import counter, fat

# grub-emu can start nothing: what GRUB would start is said, and fails.
OPTIONS = """set patience=1
function linux {
  echo "would start: $@"
  false
}
"""
TRIED, MENU = "trying again in 2 s", "Nothing can be started by itself"


@pytest.fixture
def said(tmp_path):
    """Runs GRUB over a disk without a recovery system, with these counters, until it says one of `ends`; all of it."""
    image = slot_world.make_disk(str(tmp_path))
    boot = next(part.start for part in slot_world.TABLE if part.name == "boot")
    (tmp_path / "options.cfg").write_text(OPTIONS)
    subprocess.run(["mcopy", "-o", "-i", f"{image}@@{boot}", tmp_path / "options.cfg", "::/grub"], check=True)

    def run(starts, *ends):
        slot_world.split(image, str(tmp_path / "parts"))
        with open(tmp_path / "parts/boot", "rb") as file:
            place = boot + fat.find_sector(file.fileno(), "grub/grubenv")
        with open(image, "r+b") as file:
            os.pwrite(file.fileno(), counter.make(starts), place)
        return grub_emu.said(grub_emu.disk_map(image), *ends)

    return run


def test_the_confirmed_slot_is_tried_again_and_no_person_waited_for(said):
    text = said({"a": "0", "b": "never"}, TRIED, MENU)
    assert "slot a is started all the same in 1 s" in text
    assert "the kernel of slot a cannot be started" in text  # grub-emu starts none


def test_a_slot_that_was_never_confirmed_is_not_started_by_itself(said):
    text = said({"a": "never", "b": "never"}, TRIED, MENU)
    assert "the kernel of slot" not in text


def started(text):
    """The words of the first kernel that GRUB would start; its console breaks lines, in the middle of words, too."""
    joined = text[text.index("would start: ") :].replace("\r", "").replace("\n", "")
    return joined[: joined.index("confine: ")].split()[2:]


@pytest.mark.parametrize("starts", [{"a": "0", "b": "never"}, {"a": "0", "b": "0"}, {"a": "never", "b": "never"}])
def test_where_no_slot_may_start_the_recovery_system_is_what_grub_starts_first(said, starts):
    text = said(starts, TRIED, MENU)
    words = started(text)
    assert words[0] == "(hd0,gpt9)/boot/vmlinuz"
    assert {"confine.boot=recovery", "confine.root=PARTLABEL=recovery", "confine.overlay=tmpfs"} <= set(words)
    assert text.index("confine: recovery: slot a has no starts left") < text.index("would start: ")


def test_what_grub_starts_is_told_the_id_of_the_disk_it_came_from(said):
    words = started(said({"a": "3", "b": "never"}, TRIED))
    assert words[0] == "(hd0,gpt4)/vmlinuz"
    (disk,) = (word for word in words if word.startswith("confine.disk="))
    assert re.fullmatch("confine.disk=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{10}02", disk)
