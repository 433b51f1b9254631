"""Where no slot has starts left and nothing else can be started: the shipped grub.cfg, whole, under grub-emu."""

from __future__ import annotations

import os
import subprocess

import grub_emu
import pytest
import slot_world

from upgrade import counter, fat

TRIED, MENU = "trying again in 2 s", "Nothing can be started by itself"


@pytest.fixture
def said(tmp_path):
    """Runs GRUB over a disk without a recovery system, with these counters, until it says one of `ends`; all of it."""
    image = slot_world.make_disk(str(tmp_path))
    boot = next(part.start for part in slot_world.TABLE if part.name == "boot")
    (tmp_path / "options.cfg").write_text("set patience=1\n")
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
