"""The data partition takes the rest of the disk; the power may be cut at every write, the node starts all the same."""

from __future__ import annotations

import binascii
import itertools
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slot_world import TABLE

from confine.upgrade import gpt, grow
from confine.upgrade.errors import UpgradeError
from firmware.image import layout

SECTOR = 512
OLD = layout.disk_size(TABLE) // SECTOR
NEW = OLD + 5 * 1024 * 2048 + 777  # 5 GiB and a bit more
RUBBISH = (bytes(SECTOR), b"\xff" * SECTOR, b"\xa5" * SECTOR)
HEADER = 1
SCRIPT = Path(__file__).parents[3] / "files/etc/init.d/confine-grow"

Parts = dict[str, tuple[int, int]]


class Medium:
    """A disk of `sectors` that holds little: what it holds, by sector. A grow.Device for all that matters here."""

    def __init__(self, content: dict[int, bytes], sectors: int = NEW) -> None:
        self.content = dict(content)
        self.sectors = sectors

    def read(self, sector: int, count: int) -> bytes:
        return b"".join(self.content.get(number, bytes(SECTOR)) for number in range(sector, sector + count))

    def write(self, sector: int, data: bytes) -> None:
        self.content.update(pieces(sector, data))

    def parts(self) -> Parts | None:
        """The partitions as kernel and GRUB find them: by the first table alone. None: it is damaged."""
        head = self.read(1, 1)
        size, crc = struct.unpack_from("<II", head, 12)
        at, count, length, entries_crc = struct.unpack_from("<QIII", head, 72)
        if head[:8] != b"EFI PART" or binascii.crc32(head[:16] + bytes(4) + head[20:size]) != crc:
            return None
        entries = self.read(at, count * length // SECTOR)
        if binascii.crc32(entries) != entries_crc or self.read(0, 1)[510:] != b"\x55\xaa":
            return None
        found = {}
        for start in range(0, len(entries), length):
            first, last = struct.unpack_from("<QQ", entries, start + 32)
            if first:
                found[entries[start + 56 : start + length].decode("utf-16-le").rstrip("\0")] = first, last
        return found

    def image(self, path: Path) -> Path:
        """The disk as a file, for tools."""
        with path.open("wb") as file:
            file.truncate(self.sectors * SECTOR)
            for sector, content in self.content.items():
                os.pwrite(file.fileno(), content, sector * SECTOR)
        return path


def pieces(sector: int, data: bytes) -> dict[int, bytes]:
    return {sector + at // SECTOR: data[at : at + SECTOR] for at in range(0, len(data), SECTOR)}


def sfdisk(path: Path, *options: str, script: str = "") -> tuple[str, str]:
    argv = ["/usr/sbin/sfdisk", *options, str(path)]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def flashed(tmp_path_factory: pytest.TempPathFactory) -> Medium:
    """The project's own table, as sfdisk writes it for an image, on a larger disk."""
    return lay_out(tmp_path_factory.mktemp("disk") / "disk", layout.sfdisk_script(TABLE))


def lay_out(path: Path, script: str, sectors: int = OLD) -> Medium:
    with path.open("wb") as file:
        file.truncate(sectors * SECTOR)
    sfdisk(path, "--quiet", "--no-reread", "--no-tell-kernel", script=script)
    with path.open("rb") as file:
        found = {}
        for start, length in ((0, gpt.MIB), (sectors - 33, 33)):
            found.update(pieces(start, os.pread(file.fileno(), length * SECTOR, start * SECTOR)))
    return Medium({number: content for number, content in found.items() if any(content)})


@pytest.fixture(scope="module")
def before(flashed: Medium) -> Parts:
    parts = flashed.parts()
    assert parts is not None
    return parts


@pytest.fixture(scope="module")
def after(before: Parts) -> Parts:
    return {**before, "data": (before["data"][0], (NEW - 2048) // 2048 * 2048 - 1)}


def grown(medium: Medium) -> Medium:
    made = Medium(medium.content, medium.sectors)
    grow.grow_partition(made, medium.sectors)  # type: ignore[arg-type]
    return made


def test_the_data_partition_reaches_to_the_end_and_the_others_are_as_they_were(
    flashed: Medium, before: Parts, after: Parts, tmp_path: Path
) -> None:
    made = grown(flashed)
    assert made.parts() == after
    path = made.image(tmp_path / "disk")
    said, warned = sfdisk(path, "--json")
    table = json.loads(said)["partitiontable"]
    old = json.loads(sfdisk(Medium(flashed.content, OLD).image(tmp_path / "old"), "--json")[0])["partitiontable"]
    assert table["lastlba"] == NEW - 34
    for new, was in zip(table["partitions"], old["partitions"], strict=True):
        assert {**new, "size": 0, "node": ""} == {**was, "size": 0, "node": ""}, "names, kinds, ids, places"
        assert new["size"] == was["size"] or new["name"] == "data"
    assert "corrupt" not in warned and "backup" not in warned
    assert "No errors detected" in sfdisk(path, "--verify")[0]
    assert made.read(0, 1) == flashed.read(0, 1), "GRUB's first sector"
    assert gpt.steps(made.read, NEW) == [], "once is enough"


@pytest.mark.parametrize("more", [0, 2048, 4096, gpt.ROOM - 1])
def test_a_disk_with_no_room_worth_it_is_left_as_it_is(flashed: Medium, more: int) -> None:
    assert gpt.steps(flashed.read, OLD + more) == []


def test_a_disk_that_is_made_larger_again_gives_again(flashed: Medium, after: Parts) -> None:
    made = grown(flashed)
    made.sectors += 2 * gpt.ROOM
    again = grown(made).parts()
    assert again is not None and again["data"][1] - after["data"][1] == 2 * gpt.ROOM


Groups = list[list[tuple[int, bytes]]]


def in_order(flashed: Medium) -> Groups:
    """What is written, as groups with a flush between them."""
    return [[write] for write in gpt.steps(flashed.read, NEW)]


def cuts(flashed: Medium, groups: Groups, torn: Callable[[int], bool]) -> Iterator[Medium]:
    """The disks that a cut within or after any group can leave: of the sectors that it changes each is old or new, in
    any mixture, or one of them rubbish, where `torn`."""
    medium = Medium(flashed.content)
    for group in groups:
        writes = [(number, new) for write in group for number, new in pieces(*write).items()
                  if medium.read(number, 1) != new]  # fmt: skip
        for chosen in itertools.product((False, True), repeat=len(writes)):
            yield Medium({**medium.content, **dict(itertools.compress(writes, chosen))})
        for (number, _), rubbish in itertools.product(writes, RUBBISH):
            if torn(number):
                yield Medium({**medium.content, number: rubbish})
        for write in group:
            medium.write(*write)
    yield medium


def whole(sector: int) -> bool:
    """All but the header, whose one sector is either old or new: see the test after next."""
    return sector != HEADER


def bricks(flashed: Medium, groups: Groups, fine: tuple[Parts, Parts]) -> int:
    return sum(medium.parts() not in fine for medium in cuts(flashed, groups, whole))


def test_after_a_cut_at_any_write_the_table_is_the_old_or_the_new_one_and_the_next_start_goes_on(
    flashed: Medium, before: Parts, after: Parts
) -> None:
    wanted, seen = grown(flashed), 0
    for medium in cuts(flashed, in_order(flashed), whole):
        assert medium.parts() in (before, after)
        assert grown(medium).content == wanted.content
        seen += 1
    assert seen > 40


def test_a_header_of_which_nothing_is_left_has_a_copy_at_the_disks_end(
    flashed: Medium, before: Parts, after: Parts, tmp_path: Path
) -> None:
    seen = 0
    for number, medium in enumerate(cuts(flashed, in_order(flashed), lambda sector: sector == HEADER)):
        if medium.read(1, 1) not in RUBBISH:
            continue
        said, warned = sfdisk(medium.image(tmp_path / str(number)), "--json")
        assert "backup appears OK" in warned
        parts = json.loads(said)["partitiontable"]["partitions"]
        assert {part["name"]: (part["start"], part["start"] + part["size"] - 1) for part in parts} == after
        seen += 1
    assert seen == 2 * len(RUBBISH)


def test_without_any_one_flush_that_matters_or_in_another_order_a_cut_would_leave_no_table(
    flashed: Medium, before: Parts, after: Parts
) -> None:
    groups, fine = in_order(flashed), (before, after)
    assert not bricks(flashed, groups, fine)
    for at in range(2, 5):
        joined = [*groups[:at], groups[at] + groups[at + 1], *groups[at + 2 :]]
        assert bricks(flashed, joined, fine), f"no flush after step {at}"
        swapped = [*groups[:at], groups[at + 1], groups[at], *groups[at + 2 :]]
        assert bricks(flashed, swapped, fine), f"step {at + 1} before step {at}"


def changed(medium: Medium, sector: int, at: int, content: bytes) -> Medium:
    old = medium.read(sector, 1)
    return Medium({**medium.content, sector: old[:at] + content + old[at + len(content) :]})


@pytest.mark.parametrize(
    ("sector", "at", "why"),
    [(1, 0, "has no GPT"), (1, 40, "header .* is damaged"), (3, 100, "entries .* are damaged")],
)
def test_a_damaged_table_is_not_written_to(flashed: Medium, sector: int, at: int, why: str) -> None:
    with pytest.raises(UpgradeError, match=why):
        gpt.steps(changed(flashed, sector, at, b"\x7e").read, NEW)


def own_layout(change: Callable[[list[dict[str, Any]]], None]) -> str:
    parts = [{"start": part.first_sector, "size": part.size // SECTOR, "name": part.name} for part in TABLE]
    change(parts)
    lines = [f'start={part["start"]}, size={part["size"]}, name="{part["name"]}"' for part in parts]
    return "\n".join(["label: gpt", "unit: sectors", "first-lba: 34", "", *lines]) + "\n"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda parts: parts.append({"start": OLD - 2048, "size": 100, "name": "mine"}), "behind it lies mine"),
        (lambda parts: parts.append({"start": OLD - 2048, "size": 100, "name": "data"}), "two partitions are called"),
        (lambda parts: parts[4].update(name="other"), "not laid out for slots"),
        (lambda parts: parts.append({"start": 40, "size": 100, "name": "first"}), "not laid out for slots"),
    ],
)
def test_a_disk_that_somebody_has_laid_out_otherwise_is_left_alone(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], why: str
) -> None:
    medium = lay_out(tmp_path / "disk", own_layout(change))
    with pytest.raises(UpgradeError, match=why):
        gpt.steps(medium.read, NEW)


def test_a_disk_that_does_not_keep_what_is_written_is_named_and_not_written_to_for_ever(flashed: Medium) -> None:
    class Forgetful(Medium):
        def write(self, sector: int, data: bytes) -> None:
            pass

    with pytest.raises(UpgradeError, match="replace the disk"):
        grow.grow_partition(Forgetful(flashed.content), NEW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command_line", "disk_mib", "part_mib", "fs_mib", "runs"),
    [
        ("confine.boot=counted", 130, 64, 64, True),
        ("confine.boot=counted", 130, 128, 64, True),  # cut before the file system grew
        ("confine.boot=counted", 130, 128, 128, False),
        ("confine.boot=counted", 80, 64, 64, False),  # not worth it
        ("confine.boot=trial", 130, 64, 64, False),
    ],
)
def test_python_is_started_only_when_the_partition_or_its_file_system_is_short(
    tmp_path: Path, command_line: str, disk_mib: int, part_mib: int, fs_mib: int, runs: bool
) -> None:
    here = tmp_path / "devices/vda/vda8"
    here.mkdir(parents=True)
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/vda8").symlink_to(here)
    sizes = {"../size": disk_mib, "size": part_mib, "start": 1}
    for name, mib in sizes.items():
        (here / name).write_text(f"{mib * 2048}\n")
    (here / "uevent").write_text("DEVTYPE=partition\nPARTNAME=data\n")
    with (tmp_path / "vda8").open("wb") as file:
        file.truncate(fs_mib << 20)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-b", "4096", tmp_path / "vda8"], check=True, timeout=60)
    (tmp_path / "cmdline").write_text(f"quiet {command_line} confine.slot=a\n")
    (tmp_path / "mounts").write_text("/dev/vda5 /rom squashfs ro 0 0\n/dev/vda8 /srv ext4 rw,nosuid 0 0\n")
    script = SCRIPT.read_text().replace('"/dev/$1"', f'"{tmp_path}/$1"')
    for path, ours in (("/sys/class/block", "sys"), ("/proc/cmdline", "cmdline"), ("/proc/mounts", "mounts"),
                       ("/usr/lib/confine/share/run", "run")):  # fmt: skip
        script = script.replace(path, str(tmp_path / ours))
    (tmp_path / "run").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ran\nexit 1\n')
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "script").write_text("set -eu\nlogger() { :; }\n" + script + "\nstart\n")
    subprocess.run(["sh", tmp_path / "script"], check=True, timeout=60)
    ran = (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""
    assert ran == ("confine.upgrade.grow vda8 /srv\n" if runs else "")
