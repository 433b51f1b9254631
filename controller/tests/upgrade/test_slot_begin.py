"""The beginning of a trial, up to where this system ends: what is refused leaves nothing behind to go wrong by."""

from __future__ import annotations

import os

import pytest
from bundle_world import packed

from confine.upgrade import before, history, keep, overlay, record, trial, writer
from confine.upgrade.errors import UpgradeError
from upgrade import counter


class Left(Exception):
    """This system would have ended here."""


@pytest.fixture
def begin(world, monkeypatch):
    """Begins a trial of slot b; `did`: what was done to the machine, in order, instead of doing it."""
    did = []

    def leave(by_kexec):
        did.append("leave")
        raise Left

    monkeypatch.setattr(trial, "WORK", world.directory)
    monkeypatch.setattr(trial, "can_kexec", lambda paths: True)
    monkeypatch.setattr(trial, "load", lambda slot, slots: did.append("load"))
    monkeypatch.setattr(trial, "_run", lambda argv: did.append(" ".join(argv)))
    monkeypatch.setattr(trial, "leave", leave)
    monkeypatch.setattr(before, "look", lambda paths: {})
    monkeypatch.setattr(keep, "pack", lambda path: open(path, "w").close())
    monkeypatch.setattr(overlay, "make", lambda disk, slot, configuration, work: did.append("overlay"))
    world.install(packed(world.bundle("1.0")))

    def make(guarded=False):
        trial.make("b", world.paths, world.node.slots, guarded)

    make.did = did
    return make


def test_a_trial_that_begins_is_recorded_and_its_slot_is_not_started_by_itself(world, begin):
    world.node.slots.backend.allow("b")  # the slot before, whose overlay is made anew: no way back any more
    with pytest.raises(Left):
        begin()
    assert begin.did[:3] == ["load", "overlay", "leave"]
    assert world.node.slots.backend.starts()["b"] == "never"
    assert [event["event"] for event in history.read(paths=world.paths)] == ["written", "trial"]


def refuse(slot, slots):
    raise UpgradeError("kexec -l failed (status 1): Operation not permitted")


def test_a_kernel_that_is_not_taken_is_started_once_by_the_boot_loader(world, begin, monkeypatch):
    monkeypatch.setattr(trial, "load", refuse)
    with pytest.raises(Left):
        begin()
    assert begin.did == ["overlay", "leave"]
    fd, offset = world.node.slots.backend._open_counters(os.O_RDONLY)
    assert b"\nonce=b\n" in os.pread(fd, counter.SECTOR, offset)
    os.close(fd)
    assert record.read(world.paths)["kexec"] is False
    assert "not permitted" in history.read(paths=world.paths)[-1]["why"]


def test_a_trial_that_nobody_asked_for_is_not_made_without_a_watchdog_and_costs_the_flash_nothing(
    world, begin, monkeypatch
):
    monkeypatch.setattr(trial, "load", refuse)
    world.node.slots.backend.allow("b")
    with pytest.raises(UpgradeError, match="not permitted; a start by the boot loader is not guarded"):
        begin(guarded=True)
    assert begin.did == []
    assert world.node.slots.backend.starts()["b"] == "3"


@pytest.mark.parametrize("step", ["overlay", "history"])
def test_a_trial_that_was_not_begun_is_not_taken_for_one_that_failed(world, begin, monkeypatch, step):
    def fail(*given):
        raise OSError(28, "No space left on device")

    if step == "overlay":
        monkeypatch.setattr(overlay, "make", fail)
    else:
        monkeypatch.setattr(history, "append", fail)
    with pytest.raises(OSError, match="No space left"):
        begin()
    assert begin.did[-1] == "kexec -u"
    assert record.read(world.paths) is None


def test_two_trials_at_once_are_one(world, begin):
    held = writer.hold(os.path.join(world.paths.run, "upgrade.lock"))
    with pytest.raises(UpgradeError, match="another upgrade is under way"):
        begin()
    assert begin.did == []
    os.close(held)
