"""The loader's script for U-Boot under the real U-Boot, and the node's side of it through the real tools."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from confine.paths import Paths
from confine.upgrade import history
from confine.upgrade.backends import UBoot
from confine.upgrade.disk import Disk
from qemu.uboot_machine import LOADER, POWER_OFF, RESET, TOOLS, UBootMachine
from upgrade import started

pytestmark = [pytest.mark.qemu]

FRESH = {"confine_slot": "a", "confine_starts_a": "3", "confine_starts_b": "never"}
BOTH = {**FRESH, "confine_starts_b": "3"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None] + [LOADER] * (not Path(LOADER).exists())
    if missing:
        pytest.skip("not on this machine: " + ", ".join(missing))
    return tmp_path


def node_of(machine: UBootMachine) -> UBoot:
    """The node's side: the real tools, on the environment that U-Boot reads."""
    options = ["-c", str(machine.config)]
    return UBoot(["fw_printenv", *options], ["fw_setenv", *options])


def starts(said: list[str]) -> list[tuple[str, str]]:
    """Slot and boot word of each kernel that was started."""
    words = [dict(word.partition("=")[::2] for word in line.split()) for line in said if line.startswith("console=")]
    assert all(word["root"] == "PARTLABEL=root-" + word["confine.slot"] for word in words)
    assert all(word["confine.pointer"] == "environment" for word in words)
    return [(word["confine.slot"], word["confine.boot"]) for word in words]


def test_a_slot_that_dies_three_times_gives_way_to_the_other_which_becomes_the_confirmed_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paths, "upgrade", str(directory / "upgrade"))
    machine = UBootMachine(directory, {"a": RESET, "b": POWER_OFF})
    machine.keep(BOTH)
    said = machine.start()
    assert starts(said) == [("a", "counted")] * 3 + [("b", "counted")]
    assert "confine: slot a has no starts left" in said
    node = node_of(machine)
    assert (node.confirmed(), node.starts()) == ("a", {"a": "0", "b": "2"})
    files = {name: str(directory / name) for name in ("kernel-a", "kernel-b")}
    for path in files.values():
        Path(path).write_bytes(bytes(1 << 17))
    started.tell_environment("b", "a", Disk(files.__getitem__), node)
    assert (node.confirmed(), node.starts()) == ("b", {"a": "0", "b": "3"})
    assert history.read(1)[0]["event"] == "failed"
    assert starts(machine.start()) == [("b", "counted")]


def test_a_slot_without_a_kernel_counts_as_one_that_dies(directory: Path) -> None:
    machine = UBootMachine(directory, {"b": POWER_OFF})
    machine.keep({**BOTH, "confine_starts_a": "1"})
    assert starts(machine.start()) == [("b", "counted")]


def test_a_trial_is_one_start_and_a_commit_decides(directory: Path) -> None:
    machine = UBootMachine(directory, {"a": POWER_OFF, "b": RESET})
    machine.keep(FRESH)
    node = node_of(machine)
    node.start_once("b")
    assert starts(machine.start()) == [("b", "trial"), ("a", "counted")]
    assert (node.confirmed(), node.starts()) == ("a", {"a": "2", "b": "never"})
    node.allow("b")
    node.commit("b")
    assert starts(machine.start()) == [("b", "counted")] * 3 + [("a", "counted")]


def test_a_slot_that_was_never_confirmed_is_not_started_and_the_confirmed_one_is_all_the_same(directory: Path) -> None:
    machine = UBootMachine(directory, {"a": POWER_OFF, "b": POWER_OFF})
    machine.keep({**FRESH, "confine_starts_a": "0"}, confine_patience="0")
    said = machine.start()
    assert starts(said) == [("a", "uncounted")]
    assert "confine: slot a has no starts left, and slot b has none either or was never confirmed" in said
    machine.keep({**FRESH, "confine_starts_a": "0"}, confine_recovery="echo confine: in recovery; poweroff")
    said = machine.start()
    assert (starts(said), "confine: in recovery" in said) == ([], True)


def test_an_environment_that_cannot_be_saved_starts_the_confirmed_slot_and_makes_no_trial(directory: Path) -> None:
    machine = UBootMachine(directory, {"a": POWER_OFF, "b": POWER_OFF})
    machine.keep({**BOTH, "confine_once": "b"}, confine_save="false")
    said = machine.start()
    assert starts(said) == [("a", "uncounted")]
    assert "confine: the counter of starts cannot be written" in said


def test_an_environment_that_says_nothing_of_slots_starts_the_first(directory: Path) -> None:
    machine = UBootMachine(directory, {"a": POWER_OFF, "b": POWER_OFF})
    machine.keep({"confine_slot": "c", "confine_starts_a": "many", "confine_starts_b": "3"})
    assert starts(machine.start()) == [("a", "uncounted")]
