"""Power cuts during an upgrade: the real code's writes and flushes, recorded; every disk a cut can leave, judged.

The model of the disk: what was flushed is there. Of each 512-byte sector written since then, a cut leaves the old
content, the new, or (it was being written) rubbish; whichever, sector by sector, in any order. A flush of one partition
says nothing about another's: their pages may still be in memory. At a kexec, what is still in memory is lost likewise.

The judge of what starts is the shipped grub.cfg in GRUB itself (grub-emu), over the disk's own boot and pointer
partitions; the judge of what a slot holds compares its sectors with what was meant to be there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from slot_world import TABLE, bundle, make_disk, slots, split

from confine.upgrade import confirm, overlay, writer
from confine.upgrade.slots import other
from firmware.image import layout
from upgrade import counter, fat, label, pointer

SECTOR = 512
# What a sector that was being written may hold.
RUBBISH = (bytes(SECTOR), b"\xff" * SECTOR, b"\xa5" * SECTOR)
READ, FINISHED, KEXEC, CONFIRMED = "read back", "finished", "kexec", "confirmed"
GRUB_S = 60

Place = tuple[str, int]  # partition, sector
Sectors = dict[Place, bytes]


@dataclass(frozen=True)
class Event:
    """One thing the upgrade did. kind: write (place, content), flush (of partition `where`, "*" for all), mark."""

    kind: str
    where: str
    place: Place = ("", 0)
    content: bytes = b""
    step: str = ""


class Recorder:
    """Records what goes to the partitions (files below `directory`) through os.pwrite, os.fsync and os.sync."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.events: list[Event] = []
        self._step = ""

    def mark(self, what: str) -> None:
        self.events.append(Event("mark", what))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        real = os.pwrite, os.fsync, os.sync, overlay._run
        os.pwrite, os.fsync, os.sync = self._pwrite, self._fsync, self._sync
        overlay._run = self._tool
        self._real = real
        read = writer.sha256_on_disk
        writer.sha256_on_disk = lambda *given: (self.mark(READ), read(*given))[1]
        try:
            yield
        finally:
            writer.sha256_on_disk = read
            os.pwrite, os.fsync, os.sync, overlay._run = real

    def _name(self, fd: int) -> str:
        path = os.readlink(f"/proc/self/fd/{fd}")
        return os.path.basename(path) if os.path.dirname(path) == self.directory else ""

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        name = self._name(fd)
        assert name, "an upgrade writes nowhere but into partitions"
        written: int = self._real[0](fd, data, offset)
        first, last = offset // SECTOR, (offset + written - 1) // SECTOR
        content = os.pread(fd, (last + 1 - first) * SECTOR, first * SECTOR)
        for number in range(first, last + 1):
            self._write(name, number, content[(number - first) * SECTOR :][:SECTOR])
        return written

    def _write(self, name: str, sector: int, content: bytes) -> None:
        self.events.append(Event("write", name, (name, sector), content))

    def _fsync(self, fd: int) -> None:
        self.events.append(Event("flush", self._name(fd)))

    def _sync(self) -> None:
        self.events.append(Event("flush", "*"))

    def _tool(self, argv: list[str]) -> None:
        """A tool that writes a partition by itself: what it changed, as writes; its own flushes do not count."""
        path = next(word for word in argv if os.path.dirname(word) == self.directory)
        before = contents(path)
        self._real[3](argv)
        after = contents(path)
        for at in range(0, len(after), SECTOR):
            if after[at : at + SECTOR] != before[at : at + SECTOR]:
                self._write(os.path.basename(path), at // SECTOR, after[at : at + SECTOR])


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@dataclass
class World:
    """A disk before an upgrade from slot `old` to `new`, and what the upgrade meant to write."""

    directory: str
    old: str
    new: str
    table: list[layout.Partition] = field(default_factory=lambda: TABLE)
    before: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    overlay_at: int = 0
    grubenv: int = 0


def record(directory: str, old: str = "a") -> World:
    """Make a small disk on which both slots were confirmed once, and upgrade it from `old` to the other."""
    image = make_disk(directory)
    configuration = os.path.join(directory, "configuration.tgz")
    with open(configuration, "wb") as file:
        file.write(os.urandom(3000))
    second = os.path.join(directory, "second.tgz")
    with open(second, "wb") as file:
        file.write(os.urandom(3000))
    bundles = bundle(directory, "1"), bundle(directory, "2", os.urandom(9000))
    partitions = split(image, os.path.join(directory, "parts"))
    return record_upgrade(World(partitions, old, other(old)), bundles, (configuration, second), directory)


def record_upgrade(world: World, bundles: Any, configurations: tuple[str, str], directory: str) -> World:
    """Bring the first of `bundles` (manifest, parts) into the new slot as it was once confirmed; then record how the
    second one is. configurations: what the slot takes over each time."""
    old, new, partitions = world.old, world.new, world.directory
    disk = slots(partitions, slot=old)
    if old != "a":
        disk.backend.allow(old)
        disk.backend.commit(old)
    configuration = configurations[0]
    manifest, parts = bundles[0]
    install(disk, new, manifest, parts, directory)
    overlay.make(disk.disk, new, configuration, directory)
    disk.backend.allow(new)
    changed = ("boot", "pointer", "kernel-" + new, "root-" + new)
    world.before = {name: contents(os.path.join(partitions, name)) for name in changed}
    with open(os.path.join(partitions, "boot"), "rb") as file:
        world.grubenv = fat.find_sector(file.fileno(), "grub/grubenv") // SECTOR

    world.manifest, world.parts = bundles[1]
    configuration = configurations[1]
    recorder = Recorder(partitions)
    with recorder.recording():
        install(disk, new, world.manifest, world.parts, directory)
        recorder.mark(FINISHED)
        overlay.make(disk.disk, new, configuration, directory)
        recorder.mark(KEXEC)
        trial = slots(partitions, slot=new, boot="trial")
        write_as_the_trial_does(partitions, new, overlay.offset(trial.disk, new))
        confirm.confirm(trial)
        recorder.mark(CONFIRMED)
    world.overlay_at = overlay.offset(disk.disk, new) // SECTOR
    world.events = named(world, recorder.events)
    return world


def install(disk: Any, slot: str, manifest: dict[str, Any], parts: dict[str, bytes], directory: str) -> None:
    with writer.open(slot, manifest, disk, os.path.join(directory, "lock")) as sink:
        for name in ("kernel", "root"):
            for at in range(0, len(parts[name]), 3 * SECTOR):
                sink.write(name, parts[name][at : at + 3 * SECTOR])
        sink.finish()


def write_as_the_trial_does(partitions: str, slot: str, start: int) -> None:
    """A slot on trial unpacks its configuration and lets migrations change it: some blocks of its overlay."""
    fd = os.open(os.path.join(partitions, "root-" + slot), os.O_RDWR)
    for number in range(3):
        os.pwrite(fd, os.urandom(SECTOR), start + 8 * 1024 * 1024 + number * 4096)
    os.close(fd)


def named(world: World, events: list[Event]) -> list[Event]:
    """The events, each write with the name of its step."""
    found, kexec, started = [], False, 0
    label_at = len(world.before["kernel-" + world.new]) - label.SIZE
    for event in events:
        kexec = kexec or event.where == KEXEC
        if event.kind == "write":
            name, sector = event.place
            if name == "boot":
                step = "allow" if kexec else "forbid"
            elif name == "pointer":
                step = "copy 1" if sector == 0 else "copy 2"
            elif name.startswith("kernel"):
                step = "kernel" if sector < label_at // SECTOR else "label" if started else "no label"
                started += step == "kernel"
            elif kexec:
                step = "trial"
            elif sector < world.overlay_at:
                step = "root"
            else:
                # The header is written twice: cleared with the root, made anew with the file system.
                step = "overlay" if any(one.where == FINISHED for one in found) else "no overlay"
            event = Event(event.kind, event.where, event.place, event.content, step)
        found.append(event)
    return found


def units(events: list[Event]) -> list[list[Event]]:
    """The steps of an upgrade in order: the writes of one step with the flushes behind them; a mark is one, too."""
    found: list[list[Event]] = []
    for event in events:
        flushed = bool(found) and found[-1][-1].kind != "write"
        same = bool(found) and event.kind == "write" and found[-1][0].step == event.step and not flushed
        if same or (event.kind == "flush" and found and found[-1][0].kind == "write"):
            found[-1].append(event)
        else:
            found.append([event])
    return found


class Grub:
    """The shipped configuration under grub-emu, over a copy of the disk; each different input once."""

    def __init__(self, world: World, image: str) -> None:
        self._image = image
        self._world = world
        self._known: dict[tuple[bytes, ...], dict[str, str]] = {}
        starts = {part.name: part.start for part in world.table}
        self._places = [
            starts["boot"] + world.grubenv * SECTOR,
            *(starts["pointer"] + offset for offset in pointer.COPY_OFFSETS),
        ]
        self._map = image + ".map"
        with open(self._map, "w") as file:
            file.write(f"(hd0) {image}\n")

    @property
    def runs(self) -> int:
        return len(self._known)

    def choose(self, counters: bytes, first: bytes, second: bytes) -> dict[str, str]:
        """What GRUB says: slot, confirmed, pointer, boot, left."""
        key = (counters, first, second)
        if key not in self._known:
            with open(self._image, "r+b") as file:
                for place, content in zip(self._places, key, strict=True):
                    os.pwrite(file.fileno(), content, place)
            self._known[key] = self._run()
        return self._known[key]

    def _run(self) -> dict[str, str]:
        argv = ["grub-emu", "-m", self._map, "-r", "hd0,gpt2", "-d", "/grub"]
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
        )
        assert process.stdout is not None
        said, deadline = b"", time.monotonic() + GRUB_S
        try:
            while not (found := re.search(rb"confine: (slot=.*left=\S*)\r?\n", said)):
                assert time.monotonic() < deadline, said
                if select.select([process.stdout], [], [], 1)[0]:
                    more = os.read(process.stdout.fileno(), 65536)
                    assert more, f"GRUB ended: {said!r}"
                    said += more
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        return dict(pair.split("=", 1) for pair in found[1].decode().split())


class Judge:
    """Says what is wrong with a disk that a cut left, if anything is."""

    def __init__(self, world: World, grub: Grub) -> None:
        self._world = world
        self._grub = grub
        self._targets: dict[str, Sectors] = {"parts": {}, "overlay": {}, "made": {}}
        for event in world.events:
            if event.kind == "write" and event.step in ("kernel", "root"):
                self._targets["parts"][event.place] = event.content
            elif event.kind == "write" and event.step in ("overlay", "trial"):
                self._targets["overlay"][event.place] = event.content
                if event.step == "overlay":
                    self._targets["made"][event.place] = event.content
        kernel = "kernel-" + world.new
        at = (len(world.before[kernel]) - label.SIZE) // SECTOR
        self._label = [(kernel, at + number) for number in range(label.SIZE // SECTOR)]
        self._superblock = ("root-" + world.new, world.overlay_at + 2)
        self._memo: dict[tuple[str, int], bool] = {}

    def problem(self, state: State, passed: set[str]) -> str:
        """The first rule that the disk `state` breaks; "" if none. passed: the marks before the cut."""
        world = self._world
        if any(name in ("kernel-" + world.old, "root-" + world.old) for name, _ in state.touched):
            return "the slot that runs was written to"
        known = self._label_of(state)
        if known == "new" and not self._has(state, "parts"):
            return "the label says that the slot is whole, and it is not"
        if known == "new" and self._stale(state):
            return "the new root would find the overlay of the one before it"
        if known == "old" and not self._untouched(state):
            return "the old label says that the slot is whole, and it is overwritten"
        if READ in passed and not self._has(state, "parts"):
            return "what is read back is not on the medium yet"
        if FINISHED in passed and known != "new":
            return "what was said to be written lost its label"
        if KEXEC in passed and not self._has(state, "made"):
            return "the trial finds another overlay than was made for it"
        return self._starts(state, known, passed)

    def _starts(self, state: State, known: str, passed: set[str]) -> str:
        world = self._world
        block = state.at(("boot", world.grubenv))
        copies = [state.at(("pointer", offset // SECTOR)) for offset in pointer.COPY_OFFSETS]
        said = self._grub.choose(block, *copies)
        if said["pointer"] == "fallback":
            return f"GRUB finds no pointer: {said}"
        if said["slot"] != said["confirmed"]:
            return f"GRUB does not start the confirmed slot: {said}"
        whole = self._has(state, "parts") and self._has(state, "overlay")
        if said["slot"] == world.new and not whole:
            return f"GRUB starts a slot that is not whole and configured: {said}"
        if CONFIRMED in passed and copies != [pointer.make_block(world.new)] * 2:
            return "the confirmation is not in both copies of the pointer"
        starts = counter.parse(block)
        if len(starts) < 2:
            return ""
        failed = self._grub.choose(counter.make({**starts, said["slot"]: "0"}), *copies)
        if failed["slot"] == world.new and not (
            (known == "new" and whole) or (known == "old" and self._untouched(state))
        ):
            return f"when the confirmed slot fails, GRUB starts one that is not whole: {failed}"
        return ""

    def _label_of(self, state: State) -> str:
        found = label.parse(b"".join(state.at(place) for place in self._label))
        return "" if found is None else "new" if found == self._world.manifest else "old"

    def _has(self, state: State, what: str) -> bool:
        return self._memoised(
            what, state, lambda: all(state.at(place) == wanted for place, wanted in self._targets[what].items())
        )

    def _stale(self, state: State) -> bool:
        old = state.old(self._superblock)
        return old != bytes(SECTOR) and state.at(self._superblock) == old

    def _untouched(self, state: State) -> bool:
        """Is the new slot's partition still what it was before, but for its label?"""
        places = {**self._targets["parts"], **self._targets["overlay"]}
        return self._memoised("old", state, lambda: all(state.at(place) == state.old(place) for place in places))

    def _memoised(self, what: str, state: State, check: Callable[[], bool]) -> bool:
        key = (what, state.slot_id)
        if key not in self._memo:
            self._memo[key] = check()
        return self._memo[key]


class State:
    """A disk as a cut left it: sectors over what was there before the upgrade."""

    def __init__(self, world: World, durable: Sectors, chosen: Sectors, ids: Callable[[Place, bytes], int]) -> None:
        self._before = world.before
        self._durable = durable
        self._chosen = chosen
        self._ids = ids
        self._slot = ("kernel-" + world.new, "root-" + world.new)

    def at(self, place: Place) -> bytes:
        found = self._chosen.get(place) or self._durable.get(place)
        return self.old(place) if found is None else found

    def old(self, place: Place) -> bytes:
        name, sector = place
        return self._before[name][sector * SECTOR : (sector + 1) * SECTOR]

    @property
    def touched(self) -> Iterator[Place]:
        yield from self._durable
        yield from self._chosen

    def sectors(self) -> Sectors:
        return {**self._durable, **self._chosen}

    @property
    def id(self) -> int:
        """The same for the same disk."""
        return self._id(lambda place: True)

    @property
    def slot_id(self) -> int:
        return self._id(lambda place: place[0] in self._slot)

    def _id(self, wanted: Callable[[Place], bool]) -> int:
        found = 0
        for place, content in self.sectors().items():
            if wanted(place) and content != self.old(place):
                found ^= self._ids(place, content)
        return found


class Ids:
    """A number for each content of a place; a disk's is the exclusive or of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Place, bytes], int] = {}

    def __call__(self, place: Place, content: bytes) -> int:
        key = (place, content)
        if key not in self._known:
            digest = hashlib.blake2b(repr(place).encode() + content, digest_size=16).digest()
            self._known[key] = int.from_bytes(digest, "big")
        return self._known[key]


def cuts(
    world: World, events: list[Event], chance: random.Random, each: int, wanted: set[int] | None = None
) -> Iterator[tuple[State, set[str], str]]:
    """Disks that a cut can leave: after every event, none, all and `each` random choices of what was not flushed.

    Gives the disk, the marks before the cut, and words for where it was. wanted: only after these events (numbers).
    """
    ids = Ids()
    durable: Sectors = {}
    pending: list[Event] = []
    passed: set[str] = set()
    for number, event in enumerate(events):
        if event.kind == "write":
            pending.append(event)
        elif event.kind == "flush":
            durable = dict(durable)
            durable.update((one.place, one.content) for one in pending if event.where in ("*", one.where))
            pending = [one for one in pending if event.where not in ("*", one.where)]
        else:
            passed = passed | {event.where}
        where = f"after event {number} ({event.kind} {event.step or event.where} {event.place[1]})"
        for chosen in choices(pending, chance, each) if wanted is None or number in wanted else ():
            yield State(world, durable, chosen, ids), passed, where
        if event.kind == "mark" and event.where == KEXEC:
            # The old kernel's memory is gone, and with it what it had not written.
            pending = []


def choices(pending: list[Event], chance: random.Random, each: int) -> Iterator[Sectors]:
    """Which of the sectors under way a cut leaves: none, all, and others by chance, some of them as rubbish."""
    yield {}
    if not pending:
        return
    yield {one.place: one.content for one in pending}
    for _ in range(each):
        kept, torn = chance.choice((0.1, 0.5, 0.9)), chance.choice((0.0, 0.0, 0.2, 0.9))
        chosen: Sectors = {}
        for one in pending:
            if chance.random() < kept:
                chosen[one.place] = one.content
            elif chance.random() < torn:
                chosen[one.place] = chance.choice(RUBBISH)
        yield chosen
