"""GRUB itself, over many made-up pointers and counters, chooses the slot that the rule says.

One QEMU runs GRUB with the real upgrade/boot/slots.cfg; it chooses once for each case and says what on the serial port.
The rule: only a pair named literally counts; copy 1, else copy 2, else the fallback; a start is written down before
it happens; a slot without starts left gives way to the other if that was ever confirmed, else nothing starts.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firmware.image import compose, layout
from qemu.harness_machine import Machine, acceleration
from upgrade import counter, pointer

pytestmark = pytest.mark.qemu

SIZES = {"pointer": 2, "kernel-a": 1, "root-a": 20, "kernel-b": 1, "root-b": 1, "data": 64}
A = pointer.make_block("a")
B = pointer.make_block("b")
FULL = {"a": "3", "b": "3"}
UNREADABLE = b""
# GRUB reads 64 sectors at a time: a bad one takes its neighbours with it. On the disk the copies are 1 MiB apart.
APART = 64


@dataclass
class Case:
    """What GRUB finds, and what the rule says it makes of it. starts: of slots a and b, None: no such line."""

    name: str
    copies: tuple[bytes, bytes]
    starts: dict[str, str | None] = field(default_factory=lambda: dict(FULL))
    counts: str = "file"
    once: str = ""
    chosen: dict[str, str] = field(default_factory=dict)


def small_disk(directory: str) -> str:
    """A disk with the real layout and GRUB, a kernel that GRUB cannot start and an empty root."""
    for name in ("kernel", "initrd"):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(b"not a kernel\n" * 100)
    empty = os.path.join(directory, "empty")
    os.mkdir(empty)
    root = os.path.join(directory, "root.squashfs")
    subprocess.run(["mksquashfs", empty, root, "-quiet", "-no-progress"], check=True, capture_output=True)
    path = os.path.join(directory, "disk.img")
    compose.compose(os.path.join(directory, "kernel"), os.path.join(directory, "initrd"), root, path, sizes=SIZES)
    return path


def on_boot_partition(disk: str) -> str:
    """mtools' name of the disk's boot partition."""
    return f"{disk}@@{layout.partitions(SIZES)[1].start}"


def copy_in(disk: str, files: list[str], folder: str) -> None:
    subprocess.run(["mcopy", "-o", "-i", on_boot_partition(disk), *files, f"::{folder}"], check=True)


def torn_and_flipped() -> Iterator[Case]:
    """Every way one sector of a commit can end up, with the other copy still whole."""
    for old, new, name in ((A, B, "a to b"), (B, A, "b to a")):
        yield Case(f"{name}: nothing written", (old, old))
        yield Case(f"{name}: copy 1 written", (new, old))
        yield Case(f"{name}: both written", (new, new))
        for length in range(24, 90, 6):
            torn = new[:length] + old[length:]
            yield Case(f"{name}: copy 1 torn after {length}", (torn, old))
            yield Case(f"{name}: copy 2 torn after {length}", (new, torn))
        for filler in (b"\0", b"\xff", b"#"):
            yield Case(f"{name}: copy 1 full of {filler!r}", (filler * 512, old))
        yield Case(f"{name}: copy 1 unreadable", (UNREADABLE, old))
        yield Case(f"{name}: copy 2 unreadable", (new, UNREADABLE))
    yield Case("both unreadable", (UNREADABLE, UNREADABLE))
    yield Case("both empty", (bytes(512), bytes(512)))
    end = A.index(b"##")
    chance = random.Random(1)
    for at in range(end):
        flipped = bytearray(A)
        flipped[at] ^= 1 << chance.randrange(8)
        yield Case(f"copy 1 flipped at {at}", (bytes(flipped), B))


def strange_blocks() -> Iterator[Case]:
    """Blocks nobody writes; GRUB and upgrade/pointer.py must read them alike."""
    token = pointer.TOKENS["a"]
    texts = {
        "token of the other slot": f"confirmed=b\ncheck={token}\n",
        "no token": "confirmed=a\n",
        "no slot": f"check={token}\n",
        "a third slot": f"confirmed=c\ncheck={token}\n",
        "twice, the last one counts": f"confirmed=b\ncheck={token}\nconfirmed=a\n",
        "other variables": f"x=y\nconfirmed=a\nz=\ncheck={token}\n",
        "carriage returns": f"confirmed=a\r\ncheck={token}\r\n",
        "backslashes": f"confirmed=\\a\ncheck={token}\n",
        "a NUL": f"confirmed=a\0b\ncheck={token}\n",
        "a line without =": f"junk\nconfirmed=a\ncheck={token}\n",
        "comments between": f"# hello\nconfirmed=a\n#\ncheck={token}\n",
        "upper case": f"confirmed=A\ncheck={token.upper()}\n",
        "spaces": f"confirmed=a \ncheck={token}\n",
        "a slash": f"confirmed=a/{token}\ncheck=\n",
        "words of GRUB's script": "confirmed=$(reboot); ! ( -n\ncheck=' \" ] }\n",
    }
    for name, text in texts.items():
        block = (pointer.SIGNATURE + text.encode()).ljust(512, b"#")
        yield Case(name, (block, B))
    unfinished = (pointer.SIGNATURE + b"confirmed=a\ncheck=").ljust(480, b"#") + token.encode()
    yield Case("the last line without its end", (unfinished, B))


def counters() -> Iterator[Case]:
    """Each pair of counters, with either slot confirmed."""
    values: list[str | None] = [*counter.VALUES, "4", None]
    for confirmed, block in (("a", A), ("b", B)):
        for first in values:
            for second in values:
                yield Case(f"{confirmed} confirmed, starts {first} {second}", (block, block), {"a": first, "b": second})
    for counts in ("missing", "garbage", "read-only", "write error"):
        yield Case(f"counter {counts}", (B, B), counts=counts)
    for once in ("a", "b", "c", "ab"):
        yield Case(f"slot {once} once", (A, A), {"a": "3", "b": "never"}, once=once)
    yield Case("slot b once, from a file that cannot be written", (A, A), counts="read-only once")
    yield Case("no pointer, slot a never confirmed", (UNREADABLE, UNREADABLE), {"a": "never", "b": "2"})


def rule(case: Case) -> dict[str, str]:
    """The rule in Python: what GRUB has to say for `case`."""
    named = [pointer.parse_block(copy) for copy in case.copies]
    confirmed = named[0] or named[1] or "a"
    source = "copy1" if named[0] else "copy2" if named[1] else "fallback"
    said = {"confirmed": confirmed, "pointer": source, "slot": confirmed, "boot": "uncounted", "left": ""}
    if case.once in ("a", "b"):
        return {**said, "slot": case.once, "boot": "trial"}
    starts = {} if case.counts in ("missing", "garbage") else case.starts
    mine, others = starts.get(confirmed), starts.get(pointer.other(confirmed))
    if mine in ("0", "never"):
        said["slot"] = pointer.other(confirmed) if others in ("1", "2", "3") else ""
        mine = others
    if mine in ("1", "2", "3") and case.counts == "file":
        said.update(boot="counted", left=str(int(mine) - 1))
    return said


def environment(starts: dict[str, str | None], once: str = "") -> bytes:
    """A counter file as a test wants it, possible or not."""
    lines = "".join(f"starts_{slot}={value}\n" for slot, value in starts.items() if value is not None)
    lines += f"once={once}\n" if once else ""
    return (counter.SIGNATURE + lines.encode()).ljust(512, b"#")


class Grub:
    """Runs cases through GRUB in one machine.

    hd0 is what it starts from, hd1 has the pointers, hd2 and hd3 a counter file each that cannot be written.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.disk = small_disk(directory)

    def run(self, cases: list[Case]) -> None:
        """Fill in `chosen` of each case."""
        script = ["serial --unit=0", "terminal_output serial", "source $prefix/slots.cfg"]
        os.mkdir(os.path.join(self.directory, "counts"))
        files = []
        bad_sectors = []
        with open(os.path.join(self.directory, "pointers.img"), "wb") as pointers:
            for number, case in enumerate(cases):
                for copy, block in enumerate(case.copies):
                    sector = APART * (2 * number + copy)
                    script.append(f'set copy{copy + 1}="(hd1){sector}+1"')
                    pointers.seek(sector * layout.SECTOR)
                    pointers.write(block or bytes(512))
                    if block == UNREADABLE:
                        bad_sectors.append(sector)
                counts, file = self._counts(case, number)
                files += file
                script.append(f'set counts="{counts}"')
                script.append("choose_slot")
                said = " ".join(f"{name}=${name}" for name in ("slot", "confirmed", "pointer", "boot", "left"))
                script.append(f'echo "case={number} {said} ."')
            pointers.truncate(APART * 2 * (len(cases) + 1) * layout.SECTOR)
        self._write("grub.cfg", "\n".join([*script, 'echo "all cases done"', "sleep 1000"]).encode())
        copy_in(self.disk, [os.path.join(self.directory, "grub.cfg")], "/grub/")
        subprocess.run(["mmd", "-i", on_boot_partition(self.disk), "::/counts"], check=True)
        copy_in(self.disk, files, "/counts/")
        with Machine("grub", self._arguments(bad_sectors), work=self.directory) as machine:
            log = machine.wait_for_serial("all cases done", timeout=60)
        for found in re.finditer(r"case=(\d+) (.*) \.", log):
            cases[int(found[1])].chosen = dict(pair.split("=", 1) for pair in found[2].split(" "))

    def counter_after(self, number: int) -> bytes:
        """What the counter file of a case holds after GRUB ran."""
        argv = ["mtype", "-i", on_boot_partition(self.disk), f"::/counts/{number}"]
        return subprocess.run(argv, check=True, capture_output=True).stdout

    def _counts(self, case: Case, number: int) -> tuple[str, list[str]]:
        fixed = {
            "own": "$prefix/grubenv",
            "missing": "$prefix/missing",
            "read-only": "(hd2)/grubenv",
            "read-only once": "(hd2)/once",
            "write error": "(hd3)/grubenv",
        }
        if case.counts in fixed:
            return fixed[case.counts], []
        content = b"\xff" * 512 if case.counts == "garbage" else environment(case.starts, case.once)
        return f"/counts/{number}", [self._write(os.path.join("counts", str(number)), content)]

    def _write(self, name: str, content: bytes) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def _arguments(self, bad_sectors: list[int]) -> list[str]:
        counts = os.path.join(self.directory, "counts.img")
        self._write("counts.img", bytes(4 * layout.MIB))
        subprocess.run(["mkfs.fat", counts], check=True, capture_output=True)
        self._write("grubenv", environment(dict(FULL)))
        self._write("once", environment(dict(FULL), "b"))
        files = [os.path.join(self.directory, name) for name in ("grubenv", "once")]
        subprocess.run(["mcopy", "-i", counts, *files, "::/"], check=True)
        argv = ["-M", "q35", *acceleration(), "-m", "128"]
        argv += ["-drive", f"file={self.disk},if=none,id=hd0,format=raw,cache=unsafe"]
        faults = [{"event": "read_aio", "errno": 5, "sector": sector} for sector in bad_sectors]
        argv += self._faulty("hd1", os.path.join(self.directory, "pointers.img"), faults)
        argv += ["-drive", f"file={counts},if=none,id=hd2,format=raw,readonly=on"]
        argv += self._faulty("hd3", counts, [{"event": "write_aio", "errno": 5}])
        for number in range(4):
            argv += ["-device", f"virtio-blk-pci,drive=hd{number},bootindex={number}"]
        return argv

    @staticmethod
    def _faulty(name: str, path: str, faults: list[dict[str, object]]) -> list[str]:
        image = {"driver": "file", "filename": path, "locking": "off"}
        error = {"driver": "blkdebug", "image": image, "inject-error": faults}
        return ["-blockdev", json.dumps({"driver": "raw", "node-name": name, "file": error})]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grub, list[Case]]:
    """All cases, after one run of GRUB."""
    grub = Grub(str(tmp_path_factory.mktemp("grub")))
    cases = [*torn_and_flipped(), *strange_blocks(), *counters()]
    cases += [Case("start after start", (A, A), counts="own") for _ in range(5)]
    grub.run(cases)
    return grub, cases


def test_grub_chooses_by_the_rule_in_every_case(ran: tuple[Grub, list[Case]]) -> None:
    cases = [case for case in ran[1] if case.counts != "own"]
    wrong = [f"{case.name}: {case.chosen}, by the rule {rule(case)}" for case in cases if case.chosen != rule(case)]
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong)


def test_a_torn_or_flipped_copy_never_chooses_a_slot_that_nobody_wrote(ran: tuple[Grub, list[Case]]) -> None:
    for case in ran[1]:
        if case.name.startswith(("a to b: copy 1 torn", "b to a: copy 1 torn", "copy 1 flipped")):
            first, second = case.copies
            if first in (A, B):
                continue
            # A flip between the lines' ends and the padding may leave the pair as it was: then copy 1 stays right.
            allowed = {pointer.parse_block(first), pointer.parse_block(second)} - {None}
            assert case.chosen["slot"] in allowed, case.name


def test_a_slot_has_three_starts_then_nothing_starts_if_the_other_was_never_confirmed(
    ran: tuple[Grub, list[Case]],
) -> None:
    cases = [case for case in ran[1] if case.counts == "own"]
    assert [case.chosen["slot"] for case in cases] == ["a", "a", "a", "", ""]
    assert [case.chosen["left"] for case in cases] == ["2", "1", "0", "", ""]


def test_a_counter_that_cannot_be_written_or_read_starts_the_confirmed_slot_and_says_so(
    ran: tuple[Grub, list[Case]],
) -> None:
    cases = [case for case in ran[1] if case.counts in ("missing", "garbage", "read-only", "write error")]
    assert len(cases) == 4
    for case in cases:
        assert (case.chosen["slot"], case.chosen["boot"]) == ("b", "uncounted"), case.name


def test_what_grub_wrote_is_the_lowered_counter_and_nothing_else(ran: tuple[Grub, list[Case]]) -> None:
    grub, cases = ran
    for number, case in enumerate(cases):
        if case.counts != "file":
            continue
        expected = dict(case.starts)
        if case.chosen["boot"] == "counted":
            expected[case.chosen["slot"]] = case.chosen["left"]
        after = grub.counter_after(number)
        assert len(after) == 512
        assert (b"once=" in after) is bool(case.once and case.once not in ("a", "b")), case.name
        assert counter.parse(after) == {slot: value for slot, value in expected.items() if value in counter.VALUES}, (
            case.name
        )


@pytest.mark.timeout(120)
def test_a_slot_whose_kernel_cannot_be_loaded_uses_up_its_starts_and_the_node_stops_and_says_why(
    tmp_path: Path,
) -> None:
    disk = small_disk(str(tmp_path))
    argv = ["-M", "q35", *acceleration(), "-m", "128", "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    with Machine("no-kernel", argv, work=str(tmp_path)) as machine:
        log = machine.wait_for_serial("this disk has no recovery system", timeout=90)
    assert "confine: recovery: slot a has no starts left" in log
    assert log.count("the kernel of slot a cannot be started") == 3
    assert [line for line in log.splitlines() if "left=" in line][-1].endswith(
        "slot= confirmed=a pointer=copy1 boot=uncounted left="
    )
