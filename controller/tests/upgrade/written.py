"""An upgrade by the real code on a small disk: its writes and flushes, recorded one by one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slot_world import TABLE, bundle, make_disk, slots, split

from confine.upgrade import confirm, overlay, writer
from confine.upgrade.slots import other
from firmware.image import layout
from upgrade import fat, label

SECTOR = 512
READ, FINISHED, KEXEC, CONFIRMED = "read back", "finished", "kexec", "confirmed"

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
