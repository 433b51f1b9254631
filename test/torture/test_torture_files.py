"""The node's own files, damaged anywhere: named, set aside, built anew from what is found. Nothing raises.

Small files with each bit flipped and cut off at each byte, larger ones at random.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core_world import sliver_target

from confine import durable
from confine.core.model import Booking, Step
from confine.drivers.storage import Storage
from confine.journal import Journal
from confine.paths import Paths
from confine.registry import store
from confine.registry.state import prepared
from torture import corpus, mutate, seeds

SHARE, ALL = 200, 20_000
SLIVER_FILES = ("allocation.json", "deployment.json")
BOOKED = {
    "000000000001_0001": Booking("1@1", "000000000001_0001", 1, 64, 64),
    "000000000002_0001": Booking("2@1", "000000000002_0001", 7, 32, 32),
}
ALLOCATED = {name: booking.as_doc() for name, booking in BOOKED.items()}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    # What is written here need not survive a power cut.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def kept(paths: Paths) -> Journal:
    journal = Journal(paths)
    for booking in BOOKED.values():
        journal.book(Step("journal", "book", booking.name, "test", booking=booking))
    journal.record_boot_sn(17)
    return journal


def every_damage(content: bytes) -> "Iterator[bytes]":
    """Each bit flipped; cut off at, and zero from, each byte on."""
    for position in range(len(content)):
        for bit in range(8):
            yield mutate.flipped(content, position, bit)
        yield content[:position]
        yield content[:position] + b"\0" * (len(content) - position)


def put(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def bookings_hold(paths: Paths, path: str, bad: bytes) -> None:
    put(path, bad)
    journal = Journal(paths)
    before = journal.bookings()
    assert before in (BOOKED, {}), before
    if before == {}:
        assert path in journal.problems[0]
        assert os.path.exists(path + ".damaged") and not os.path.exists(path)
    journal.recover(ALLOCATED)
    assert journal.bookings() == BOOKED
    assert Journal(paths).bookings() == BOOKED
    assert journal.boot_sn_done == 17


def boot_holds(paths: Paths, path: str, bad: bytes) -> None:
    put(path, bad)
    journal = Journal(paths)
    assert journal.boot_sn_done in (17, None)
    if journal.boot_sn_done is None:
        assert path in journal.problems[0]
        assert os.path.exists(path + ".damaged")
        journal.record_boot_sn(17)
    assert Journal(paths).boot_sn_done == 17
    assert journal.bookings() == BOOKED


def of_sliver(paths: Paths) -> "tuple[Storage, Step]":
    """The driver, and a step of a sliver whose documents are written as they are after it was deployed."""
    name = next(iter(BOOKED))
    step = Step("storage", "mend", name, "test", sliver_target(1, name=name, keys=[]), BOOKED[name])
    storage = Storage(paths, None, lambda: "", 0)  # type: ignore[arg-type]  # no template is asked for
    durable.make_dir(paths.sliver(name))
    for file in SLIVER_FILES:
        put(paths.sliver(name, file), b"damaged")
    storage.mend(step)
    return storage, step


def sliver_holds(paths: Paths, path: str, bad: bytes) -> None:
    """What the document said or, said, nothing of use; then it is written as it was."""
    storage, step = of_sliver(paths)
    good = storage.observe(step.subject)
    assert not good.damaged and good.allocation and good.deployment
    put(path, bad)
    found = storage.observe(step.subject)
    if found.damaged:
        assert path in found.damaged[0] and {} in (found.allocation, found.deployment)
        storage.mend(step)
        assert Path(path + ".damaged").read_bytes() == bad
        found = storage.observe(step.subject)
    assert found == good


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SLIVER_FILES)
def test_a_document_of_a_sliver_damaged_at_any_place_is_named_set_aside_and_written_anew(
    paths: Paths, name: str
) -> None:
    _, step = of_sliver(paths)
    path = paths.sliver(step.subject, name)
    for number, bad in enumerate(every_damage(Path(path).read_bytes())):
        if number % 7 == 0:
            sliver_holds(paths, path, bad)


FILES: "dict[str, Callable[[Paths, str, bytes], None]]" = {
    "bookings.json": bookings_hold,
    "boot.json": boot_holds,
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_journal_file_damaged_at_any_place_is_named_set_aside_and_built_anew(paths: Paths, name: str) -> None:
    kept(paths)
    path = os.path.join(paths.journal, name)
    good = Path(path).read_bytes()
    for bad in every_damage(good):
        FILES[name](paths, path, bad)


def state_holds(paths: Paths, state: "dict[str, Any]", bad: bytes) -> None:
    """The last good state or, said, none; never another."""
    path = os.path.join(paths.journal, store.FILE)
    put(path, bad)
    found, problem = store.load(paths)
    if found is None:
        assert problem is not None and path in problem
        assert os.path.exists(path + ".damaged") and not os.path.exists(path)
    else:
        assert (found, problem) == (state, None)
        prepared(found, found["bases"])


def random_damage(paths: Paths, tmp_path: Path, count: int) -> None:
    (tmp_path / "files").mkdir()
    state = corpus.example(str(tmp_path / "files")).state
    store.save(paths, state)
    kept(paths)
    contents = {name: Path(paths.journal, name).read_bytes() for name in (store.FILE, *FILES)}
    _, step = of_sliver(paths)
    contents.update({name: Path(paths.sliver(step.subject, name)).read_bytes() for name in SLIVER_FILES})
    for number in seeds.numbers(count):
        with seeds.example("files", number) as dice:
            name = dice.choice(sorted(contents))
            bad = mutate.damaged(contents[name], dice)
            if name == store.FILE:
                state_holds(paths, state, bad)
            elif name in SLIVER_FILES:
                sliver_holds(paths, paths.sliver(step.subject, name), bad)
            else:
                FILES[name](paths, os.path.join(paths.journal, name), bad)


def test_larger_files_damaged_at_random_are_the_same_or_named_and_set_aside(paths: Paths, tmp_path: Path) -> None:
    random_damage(paths, tmp_path, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_files_damaged_at_random_very_many_times_are_the_same_or_named(paths: Paths, tmp_path: Path) -> None:
    random_damage(paths, tmp_path, ALL)


@pytest.mark.parametrize("name", ["bookings.json", "boot.json", store.FILE])
def test_something_else_in_a_files_place_stops_nothing(paths: Paths, name: str) -> None:
    """A directory, a dangling link, a device: whatever a repair of the file system or a person left."""
    durable.make_dir(paths.journal)
    path = os.path.join(paths.journal, name)
    for make in (os.mkdir, lambda where: os.symlink("/nowhere/at/all", where), lambda where: os.symlink(where, where)):
        make(path)
        Journal(paths).recover(ALLOCATED)
        store.load(paths)
        for left in (path, path + ".damaged"):
            if os.path.islink(left) or os.path.isfile(left):
                os.unlink(left)
            elif os.path.isdir(left):
                os.rmdir(left)


def test_the_damage_is_such_that_files_are_lost(tmp_path: Path) -> None:
    """The test's own tools: most damage changes a file."""
    dice = random.Random(1)
    good = b'{"a": [1, 2, 3]}' * 20
    assert sum(mutate.damaged(good, dice) != good for _ in range(100)) > 90
