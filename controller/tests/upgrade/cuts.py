"""Power cuts during an upgrade (written.py): every disk that a cut can leave of it, judged.

The model of the disk: what was flushed is there. Of each 512-byte sector written since then, a cut leaves the old
content, the new, or (it was being written) rubbish; whichever, sector by sector, in any order. A flush of one partition
says nothing about another's: their pages may still be in memory. At a kexec, what is still in memory is lost likewise.

The judge of what starts is the shipped grub.cfg in GRUB itself (grub-emu), over the disk's own boot and pointer
partitions; the judge of what a slot holds compares its sectors with what was meant to be there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator

from grub_emu import Grub
from written import CONFIRMED, FINISHED, KEXEC, READ, SECTOR, Event, Place, Sectors, World

from upgrade import counter, label, pointer

# What a sector that was being written may hold.
RUBBISH = (bytes(SECTOR), b"\xff" * SECTOR, b"\xa5" * SECTOR)


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
