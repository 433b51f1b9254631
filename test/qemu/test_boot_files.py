"""Pointer and counters as files: a change cut off anywhere leaves the old choice or the new one, never a third."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.image import boot
from upgrade import counter, pointer, started

slots = st.sampled_from(pointer.SLOTS)
lengths = st.integers(0, pointer.SECTOR)


def blank_pointer(path: Path, first: bytes, second: bytes) -> int:
    """An open pointer partition with these two copies."""
    path.write_bytes(first.ljust(pointer.COPY_OFFSETS[1], b"\0") + second.ljust(1024, b"\0"))
    return os.open(path, os.O_RDWR)


@given(old=slots, new=slots, first=lengths, second=lengths)
def test_a_commit_cut_off_within_any_sector_confirms_the_old_slot_or_the_new_one(
    old: str, new: str, first: int, second: int
) -> None:
    before, after = pointer.make_block(old), pointer.make_block(new)
    torn = after[:first] + before[first:]
    found = pointer.confirmed((pointer.parse_block(torn), pointer.parse_block(before)))
    assert found in (old, new)
    # Copy 2 is only written once copy 1 is whole: from then on the new slot is confirmed, whatever becomes of copy 2.
    torn = after[:second] + before[second:]
    assert pointer.confirmed((pointer.parse_block(after), pointer.parse_block(torn))) == new


@given(st.binary(max_size=600))
def test_no_bytes_make_the_pointer_reader_fail(block: bytes) -> None:
    assert pointer.parse_block(block) in (None, "a", "b")
    assert pointer.parse_block(pointer.SIGNATURE + block) in (None, "a", "b")
    assert set(counter.parse(counter.SIGNATURE + block)) <= {"a", "b"}


def test_copy_1_is_on_the_disk_before_copy_2_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = blank_pointer(tmp_path / "pointer", pointer.make_block("a"), pointer.make_block("a"))
    order: list[object] = []
    pwrite, fsync = os.pwrite, os.fsync

    def noted_write(fd: int, data: bytes, offset: int) -> int:
        order.append(offset)
        return pwrite(fd, data, offset)

    def noted_flush(fd: int) -> None:
        order.append("flush")
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", noted_write)
    monkeypatch.setattr(os, "fsync", noted_flush)
    pointer.commit(fd, "b")
    assert order == [0, "flush", 1024 * 1024, "flush"]
    assert pointer.read(fd) == ("b", "b")
    os.close(fd)


@pytest.mark.parametrize(
    ("first", "second", "repaired"),
    [("a", "a", False), ("b", "a", True), (None, "b", True), ("b", None, True), (None, None, False)],
)
def test_repair_makes_the_copies_say_what_grub_goes_by_and_invents_nothing(
    tmp_path: Path, first: str | None, second: str | None, repaired: bool
) -> None:
    blocks = [pointer.make_block(slot) if slot else b"" for slot in (first, second)]
    fd = blank_pointer(tmp_path / "pointer", blocks[0], blocks[1])
    assert pointer.repair(fd) is repaired
    expected = first or second
    assert pointer.read(fd) == (expected, expected)
    os.close(fd)


def test_a_disk_that_does_not_take_the_pointer_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = blank_pointer(tmp_path / "pointer", pointer.make_block("a"), pointer.make_block("a"))
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(pointer.PointerError, match="copy 1 does not read back as slot b"):
        pointer.commit(fd, "b")
    os.close(fd)


def test_there_is_no_third_slot() -> None:
    with pytest.raises(pointer.PointerError, match="no slot 'c'"):
        pointer.make_block("c")
    with pytest.raises(counter.CounterError, match="cannot be '4'"):
        counter.make({"a": "4", "b": "0"})


def test_grub_names_the_same_tokens_and_counter_values_as_python() -> None:
    config = Path(boot.CONFIG_DIR, "slots.cfg").read_text()
    for slot, token in pointer.TOKENS.items():
        assert config.count(f'"x{slot}/{token}"') == 1
    for value in counter.VALUES:
        assert f'"x{value}"' in config


def restore(path: Path, slot: str) -> bool:
    with open(path, "r+b") as file:
        return counter.restore(file.fileno(), 0, slot)


@pytest.mark.parametrize("value", counter.VALUES)
def test_a_slot_that_started_well_has_all_its_starts_and_the_other_keeps_its_own(tmp_path: Path, value: str) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(counter.make({"a": "1", "b": value}))
    inode = path.stat().st_ino
    assert restore(path, "a")
    assert counter.parse(path.read_bytes()) == {"a": "3", "b": value}
    assert path.stat().st_ino == inode, "GRUB's file is overwritten in place"
    assert not restore(path, "a"), "nothing to write, nothing written"


def test_garbage_in_the_counter_file_becomes_a_usable_file_that_trusts_only_what_runs(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(b"\xff" * 512)
    assert restore(path, "b")
    assert counter.parse(path.read_bytes()) == {"a": "never", "b": "3"}


def test_a_counter_file_of_another_size_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(b"#" * 1024)
    with pytest.raises(counter.CounterError, match="1024 bytes instead of 512"):
        counter.overwrite(str(path), counter.make({"a": "3", "b": "3"}))
    assert path.read_bytes() == b"#" * 1024


def test_the_kernel_command_line_says_what_grub_did() -> None:
    words = started.boot_words("quiet confine.slot=b confine.boot=counted confine.root=PARTLABEL=root-b confine.odd")
    assert words == {"slot": "b", "boot": "counted", "root": "PARTLABEL=root-b"}
