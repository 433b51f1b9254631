"""Writing a bundle into the slot that does not run: whole or not at all, and never over what a reset would start."""

from __future__ import annotations

import os

import pytest
from slot_world import bundle, make_disk, slots, split

from confine.upgrade import writer
from confine.upgrade.errors import UpgradeError
from upgrade import counter, fat


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("disk")
    return make_disk(str(directory)), str(directory)


@pytest.fixture
def parts(made, tmp_path):
    return split(made[0], str(tmp_path / "parts"))


@pytest.fixture
def lock(tmp_path):
    return str(tmp_path / "run" / "lock")


def install(world, slot, manifest, content, lock):
    with writer.open(slot, manifest, world, lock) as sink:
        for name in ("kernel", "root"):
            for at in range(0, len(content[name]), 10000):
                sink.write(name, content[name][at : at + 10000])
        sink.finish()


def test_a_bundle_is_written_and_the_slot_is_whole_but_not_trusted(parts, tmp_path, lock):
    world = slots(parts)
    manifest, content = bundle(str(tmp_path), "7")
    install(world, "b", manifest, content, lock)
    assert world.state() == {
        "running": "a", "confirmed": "a", "trial": False, "started": "counted", "copies": ["a", "a"],
        "slots": {
            "a": {"starts": "3", "whole": True, "version": "0", "epoch": 0, "board": None},
            "b": {"starts": "never", "whole": True, "version": "7", "epoch": 7, "board": "x86"},
        },
    }  # fmt: skip
    assert writer.check("b", world) == manifest
    for name, data in content.items():
        with open(os.path.join(parts, name + "-b"), "rb") as file:
            assert file.read(len(data)) == data


def test_the_overlay_of_the_root_before_is_not_found_by_the_new_one(parts, tmp_path, lock):
    world = slots(parts)
    manifest, content = bundle(str(tmp_path), "7")
    start = -(-len(content["root"]) // 65536) * 65536
    with open(os.path.join(parts, "root-b"), "r+b") as file:
        file.seek(start)
        file.write(b"\xee" * 70000)
    install(world, "b", manifest, content, lock)
    with open(os.path.join(parts, "root-b"), "rb") as file:
        file.seek(start)
        assert file.read(65536) == bytes(65536)


@pytest.mark.parametrize("slot", ["a", "c", "", "b/../a"])
def test_neither_the_running_slot_nor_one_that_is_none_is_written(parts, tmp_path, lock, slot):
    before = content_of(parts)
    manifest, _ = bundle(str(tmp_path), "7")
    with pytest.raises(UpgradeError):
        writer.open(slot, manifest, slots(parts), lock)
    assert content_of(parts) == before


def test_on_trial_the_confirmed_slot_is_not_written(parts, tmp_path, lock):
    manifest, _ = bundle(str(tmp_path), "7")
    with pytest.raises(UpgradeError, match="confirmed"):
        writer.open("a", manifest, slots(parts, slot="b", boot="trial"), lock)


def content_of(directory):
    found = {}
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = hash(file.read())
    return found


def test_a_symbolic_link_in_place_of_a_slot_is_not_followed(parts, tmp_path, lock):
    manifest, _ = bundle(str(tmp_path), "7")
    os.rename(os.path.join(parts, "root-b"), os.path.join(parts, "elsewhere"))
    os.symlink(os.path.join(parts, "elsewhere"), os.path.join(parts, "root-b"))
    with pytest.raises(UpgradeError, match="root-b"):
        writer.open("b", manifest, slots(parts), lock)


@pytest.mark.parametrize("fault", ["part swapped", "truncated", "endless", "unknown part", "a bit flipped"])
def test_a_part_that_is_not_the_manifests_leaves_a_slot_that_nothing_starts(parts, tmp_path, lock, fault):
    world = slots(parts)
    manifest, content = bundle(str(tmp_path), "7")
    if fault == "part swapped":
        content = {"kernel": content["root"][: len(content["kernel"])], "root": content["root"]}
    elif fault == "truncated":
        content["root"] = content["root"][:-1]
    elif fault == "endless":
        content["root"] += b"x"
    elif fault == "a bit flipped":
        content["root"] = content["root"][:99] + bytes([content["root"][99] ^ 1]) + content["root"][100:]
    with pytest.raises(UpgradeError):
        if fault == "unknown part":
            with writer.open("b", manifest, world, lock) as sink:
                sink.write("boot", b"x")
        install(world, "b", manifest, content, lock)
    state = world.state()["slots"]["b"]
    assert (state["whole"], state["starts"]) == (False, "never")
    with pytest.raises(UpgradeError, match="no whole system"):
        writer.check("b", world)


def test_parts_that_do_not_fit_are_refused_before_anything_is_changed(parts, tmp_path, lock):
    before = content_of(parts)
    manifest, _ = bundle(str(tmp_path), "7")
    for name, size in (("kernel", 1 << 20), ("root", 3 << 20), ("root", 0), ("root", True)):
        parts_given = {**manifest["parts"], name: {**manifest["parts"][name], "size": size}}
        with pytest.raises(UpgradeError, match=name):
            writer.open("b", {**manifest, "parts": parts_given}, slots(parts), lock)
    with pytest.raises(UpgradeError, match="parts"):
        writer.open("b", {**manifest, "parts": {"kernel": manifest["parts"]["kernel"]}}, slots(parts), lock)
    with pytest.raises(UpgradeError, match="kept"):
        writer.open("b", {**manifest, "notes": "x" * 70000}, slots(parts), lock)
    assert content_of(parts) == before


def test_bits_that_flipped_after_the_writing_are_found(parts, tmp_path, lock):
    world = slots(parts)
    manifest, content = bundle(str(tmp_path), "7")
    install(world, "b", manifest, content, lock)
    with open(os.path.join(parts, "root-b"), "r+b") as file:
        file.seek(200)
        flipped = file.read(1)[0] ^ 4
        file.seek(200)
        file.write(bytes([flipped]))
    with pytest.raises(UpgradeError, match="root-b has changed"):
        writer.check("b", world)


def test_an_upgrade_started_twice_is_told_so_and_the_first_goes_on(parts, tmp_path, lock):
    world = slots(parts)
    manifest, content = bundle(str(tmp_path), "7")
    with writer.open("b", manifest, world, lock) as sink:
        sink.write("kernel", content["kernel"])
        with pytest.raises(UpgradeError, match="another upgrade"):
            writer.open("b", manifest, world, lock)
        sink.write("root", content["root"])
        sink.finish()
    install(world, "b", manifest, content, lock)


def test_the_counters_are_written_in_place_and_nothing_else_of_the_boot_partition(parts):
    with open(os.path.join(parts, "boot"), "rb") as file:
        before = file.read()
        at = fat.find_sector(file.fileno(), "grub/grubenv")
    assert before[at : at + 512] == counter.make({"a": "3", "b": "never"})
    world = slots(parts)
    world.backend.allow("b")
    world.backend.start_once("b")
    with open(os.path.join(parts, "boot"), "rb") as file:
        after = file.read()
    assert after == before[:at] + counter.make({"a": "3", "b": "3", "once": "b"}) + before[at + 512 :]
    assert world.backend.starts() == {"a": "3", "b": "3"}


def test_a_boot_partition_that_is_none_is_said(parts):
    with open(os.path.join(parts, "boot"), "r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(UpgradeError, match="write it again"):
        slots(parts).state()
