"""What a slot that came up tells the boot loader: its starts are full again, and GRUB's way out becomes the rule."""

from __future__ import annotations

import itertools
import os

import pytest
import slot_world
from bundle_world import packed

from confine.configuration import unkept
from confine.paths import Paths
from confine.upgrade import confirm, disk, history
from confine.upgrade.disk import Disk, find_partition
from confine.upgrade.errors import UpgradeError
from upgrade import counter, started


@pytest.fixture
def fallen_back(world, monkeypatch):
    """1.0 in slot b was confirmed and did not start three times: GRUB started slot a, which is up."""
    world.manifest, _ = world.install(packed(world.bundle("1.0")))
    world.turn_over()
    world.node.slots.backend._set("b", "0")
    world.running = "a"
    monkeypatch.setattr(Paths, "upgrade", world.paths.upgrade)
    return world


def tell(world, **words):
    return started.tell({"slot": "a", "confirmed": "b", "boot": "counted", **words},
                        Disk(lambda name: os.path.join(world.disk, name)))  # fmt: skip


def test_the_slot_grub_fell_back_on_becomes_the_confirmed_one_and_upgrades_go_on(fallen_back):
    world = fallen_back
    with pytest.raises(UpgradeError, match="slot b is the confirmed one"):
        world.install(packed(world.bundle("2.0")))
    assert tell(world) == []
    assert world.node.slots.backend.copies() == ("a", "a")
    assert world.node.slots.backend.starts() == {"a": "3", "b": "0"}
    assert world.install(packed(world.bundle("3.0")))[1] == "b"


def test_a_bundle_that_did_not_start_is_known_as_failed_and_a_person_may_go_back_to_it(fallen_back):
    world = fallen_back
    assert tell(world) == []
    assert world.node.has_failed(world.manifest.id)
    assert "did not come up in three starts" in history.read(1, world.paths)[0]["why"]
    assert confirm.roll_back(world.node.slots) == "b"
    assert world.node.slots.backend.starts() == {"a": "3", "b": "3"}


@pytest.mark.parametrize(("other", "words"), [
    ("2", {}), ("never", {}), ("0", {"boot": "byhand"}), ("0", {"boot": "trial"}), ("0", {"confirmed": "a"}),
])  # fmt: skip
def test_in_any_other_case_the_confirmed_slot_stays_the_confirmed_one(fallen_back, other, words):
    fallen_back.node.slots.backend._set("b", other)
    tell(fallen_back, **words)
    assert fallen_back.node.slots.backend.copies() == ("b", "b")


def test_cut_off_after_any_write_the_slot_that_came_up_starts_again(fallen_back, monkeypatch):
    world = fallen_back
    world.node.slots.backend._set("a", "2")
    real, states = os.pwrite, []

    def pwrite(fd, data, offset):
        written = real(fd, data, offset)
        states.append((world.node.slots.backend.copies(), world.node.slots.backend.starts()))
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    tell(world)
    monkeypatch.undo()
    assert states == [
        (("b", "b"), {"a": "3", "b": "0"}), (("a", "b"), {"a": "3", "b": "0"}), (("a", "a"), {"a": "3", "b": "0"}),
    ]  # fmt: skip


def test_a_history_that_cannot_be_written_keeps_nothing_else_from_being_done(fallen_back, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history, "append", full)
    assert "No space left" in tell(fallen_back)[0]
    assert fallen_back.node.slots.backend.copies() == ("a", "a")


def devices(tmp_path, *names):
    """A sysfs with these partitions ("sda2", "boot"), the root on sda."""
    for (device, name), number in zip(names, itertools.count(1), strict=False):
        owner = device.rstrip("0123456789").removesuffix("p")
        path = tmp_path / "devices" / owner / device
        path.mkdir(parents=True)
        (path / "uevent").write_text(f"MAJOR=8\nPARTNAME={name}\n")
        (path / "partition").write_text(f"{number}\n")
        (path.parent / "uevent").write_text("MAJOR=8\n")
        (tmp_path / "class/block").mkdir(parents=True, exist_ok=True)
        (tmp_path / "class/block" / device).symlink_to(path)
    return str(tmp_path)


def test_a_partition_of_the_same_name_on_another_disk_is_never_written(tmp_path, monkeypatch, world):
    sys = devices(tmp_path, ("mmcblk0p2", "boot"), ("sda2", "boot"), ("sda5", "root-a"))
    rom = os.stat(str(tmp_path)).st_dev
    block = tmp_path / "dev/block"
    block.mkdir(parents=True)
    (block / f"{os.major(rom)}:{os.minor(rom)}").symlink_to(tmp_path / "devices/sda/sda5")
    assert find_partition("boot", str(tmp_path), sys) == "/dev/sda2"
    # What tells the boot loader goes by the same rule.
    asked = []
    monkeypatch.setattr(disk, "find_partition", lambda name: asked.append(name) or os.path.join(world.disk, name))
    world.node.slots.backend._set("a", "1")
    assert started.tell({"slot": "a", "confirmed": "a", "boot": "counted"}) == []
    assert asked and set(asked) <= {"boot", "pointer"}
    assert slot_world.slots(world.disk).backend.starts()["a"] == counter.FULL


@pytest.mark.parametrize(("other", "left"), [("3", "2"), ("1", "2"), ("0", "3"), ("never", "3")])
def test_a_slot_that_lost_its_configuration_gives_way_to_one_that_may_have_it(world, other, left):
    backend = world.node.slots.backend
    backend._set("a", "2")
    backend._set("b", other)
    disk = Disk(lambda name: os.path.join(world.disk, name))
    said = started.tell({"slot": "a", "confirmed": "a", "boot": "counted"}, disk, "its overlay cannot be used")
    assert backend.starts() == {"a": left, "b": other}
    assert [line.startswith("the starts left of slot a stay lowered") for line in said] == (
        [True] if left == "2" else []
    )


@pytest.mark.parametrize(
    ("mounted", "words", "said"),
    [
        ("tmpfs /overlay tmpfs rw", "quiet", True),
        ("tmpfs /overlay tmpfs rw", "confine.overlay=tmpfs", False),
        ("/dev/loop0 /overlay ext4 rw", "quiet", False),
        ("/dev/root / ext4 rw", "quiet", False),
    ],
)
def test_a_configuration_that_is_kept_in_memory_alone_is_said_plainly(tmp_path, mounted, words, said):
    (tmp_path / "mounts").write_text(mounted + " 0 0\n")
    (tmp_path / "cmdline").write_text(words + "\n")
    assert ("is lost at the next start" in unkept(str(tmp_path / "mounts"), str(tmp_path / "cmdline"))) is said
