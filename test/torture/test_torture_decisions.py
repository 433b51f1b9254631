"""People's decisions on disk, damaged anywhere: a stop is never lost, and the record can be written again."""

import os
from pathlib import Path
from typing import Any

import pytest

from torture import mutate, seeds

decisions = pytest.importorskip("confine.decisions", reason="there are no decisions in this version")

from confine.paths import Paths  # noqa: E402  # after it is known that there is something to test

SHARE, ALL = 300, 20_000
STOPPED, OTHER = "000000000001_0001", "000000000002_0001"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def stopped_once(paths: Paths) -> "tuple[str, bytes]":
    """(the file, its content) after one sliver was stopped."""
    book = decisions.DecisionBook(paths)
    mark = decisions.mark("too loud", {"USER": "operator"})
    book.change(lambda kept: kept.stop(STOPPED, mark))
    path = os.path.join(paths.journal, decisions.FILE)
    return path, Path(path).read_bytes()


def holds(paths: Paths, path: str, content: bytes) -> Any:
    """What a node that starts with this file makes of it: the stop stands."""
    Path(path).write_bytes(content)
    book = decisions.DecisionBook(paths)
    assert book.of(STOPPED).stop is not None
    return book


def test_one_copy_damaged_at_any_bit_changes_nothing(paths: Paths) -> None:
    path, good = stopped_once(paths)
    used = len(good[: decisions.COPY].rstrip(b"\0"))
    for place in (0, decisions.COPY):
        for position in range(used):
            bad = mutate.flipped(good, place + position, position % 8)
            assert holds(paths, path, bad).of(OTHER).stop is None


def test_both_copies_damaged_stop_everything_until_somebody_has_looked(paths: Paths) -> None:
    path, good = stopped_once(paths)
    for position in range(0, len(good[: decisions.COPY].rstrip(b"\0")), 3):
        bad = mutate.flipped(mutate.flipped(good, position, 0), decisions.COPY + position, 0)
        book = holds(paths, path, bad)
        if book.of(OTHER).stop is not None:
            book.change(lambda kept: kept.release(decisions.ALL))
            assert decisions.DecisionBook(paths).of(STOPPED).stop is None


def test_a_file_cut_off_anywhere_loses_no_stop(paths: Paths) -> None:
    path, good = stopped_once(paths)
    for size in [*range(1, 600), decisions.COPY - 1, decisions.COPY, decisions.COPY + 1, decisions.COPY + 300, 0]:
        holds(paths, path, good[:size])


def random_damage(paths: Paths, count: int) -> None:
    path, good = stopped_once(paths)
    for number in seeds.numbers(count):
        with seeds.example("decisions", number) as dice:
            bad = good
            for place in dice.choice([(0,), (decisions.COPY,), (0, decisions.COPY)]):
                copy = mutate.damaged(bad[place : place + 600], dice)[:600].ljust(600, b"\0")
                bad = bad[:place] + copy + bad[place + 600 :]
            holds(paths, path, bad)


def test_random_damage_loses_no_stop(paths: Paths) -> None:
    random_damage(paths, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_very_much_random_damage_loses_no_stop(paths: Paths) -> None:
    random_damage(paths, ALL)
