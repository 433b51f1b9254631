"""The record of people's decisions: it survives what a disk and a power cut can do to it."""

import errno
import os

import pytest

from confine import decisions
from confine.core.decisions import ALL, Mark
from confine.decisions import COPY, DecisionBook, mark, who
from confine.errors import ConfineError
from confine.paths import Paths

NAME = "000000000005_0001"


@pytest.fixture
def paths(tmp_path):
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def stopped(book, scope=NAME):
    return book.change(lambda found: found.stop(scope, Mark("ann", "now", "attack")))


def file_of(paths):
    return os.path.join(paths.journal, decisions.FILE)


def damage(path, place, data=b"\xff"):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def test_a_decision_is_seen_by_everybody_at_once_and_after_a_restart(paths):
    reader = DecisionBook(paths)
    assert reader.of(NAME).stop is None
    assert stopped(DecisionBook(paths)) == ("stopped: 5@1", True)
    assert reader.of(NAME).stop.why == "attack"
    assert DecisionBook(paths).of(NAME).stop.who == "ann"


def test_looking_without_a_change_opens_nothing_for_writing(paths, monkeypatch):
    book = DecisionBook(paths)
    stopped(book)
    first = book.now()
    times = os.stat(file_of(paths))
    assert book.now() is first
    assert os.stat(file_of(paths)).st_mtime_ns == times.st_mtime_ns


def test_a_refused_change_changes_nothing(paths):
    book = DecisionBook(paths)
    with pytest.raises(ConfineError, match="not stopped"):
        book.change(lambda found: found.release(NAME))
    assert not os.path.exists(file_of(paths))


def test_the_file_has_its_full_size_before_the_first_decision_and_never_another(paths):
    book = DecisionBook(paths)
    book.prepare()
    status = os.stat(file_of(paths))
    assert status.st_size == 2 * COPY and status.st_blocks * 512 >= 2 * COPY
    stopped(book)
    after = os.stat(file_of(paths))
    assert (after.st_ino, after.st_size) == (status.st_ino, status.st_size), "written in place"


@pytest.mark.parametrize("place", [0, 20, 130, COPY, COPY + 20, COPY + 130])
def test_one_damaged_copy_loses_nothing(paths, place):
    stopped(DecisionBook(paths))
    damage(file_of(paths), place)
    assert DecisionBook(paths).of(NAME).stop.why == "attack"
    stopped(DecisionBook(paths), "000000000006_0001")
    assert set(DecisionBook(paths).now().stops) == {NAME, "000000000006_0001"}


@pytest.mark.parametrize("cut", [1, 60, 128, 140])
def test_a_write_that_a_power_cut_tears_leaves_the_decisions_before_it(paths, monkeypatch, cut):
    stopped(DecisionBook(paths))
    real = os.pwrite

    def torn(handle, content, place):
        real(handle, content[:cut], place)
        raise OSError(errno.EIO, "power")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        DecisionBook(paths).change(lambda found: found.release(NAME))
    os.unlink(os.path.join(paths.run, decisions.FILE))  # what is in memory is gone, too
    assert DecisionBook(paths).of(NAME).stop is not None


def test_two_power_cuts_in_a_row_lose_only_what_was_being_written(paths, monkeypatch):
    real, calls = os.pwrite, []

    def cut_at(number):
        def pwrite(handle, content, place):
            calls.append(place)
            if len(calls) == number:
                real(handle, content[:60], place)
                raise OSError(errno.EIO, "power")
            return real(handle, content, place)

        calls.clear()
        monkeypatch.setattr(os, "pwrite", pwrite)

    for number, scope in ((2, NAME), (1, "000000000006_0001")):
        cut_at(number)
        stopped(DecisionBook(paths), scope)
        os.unlink(os.path.join(paths.run, decisions.FILE))
    monkeypatch.setattr(os, "pwrite", real)
    assert list(DecisionBook(paths).now().stops) == [NAME]


def test_a_record_that_cannot_be_read_at_all_stops_everything_until_somebody_looked(paths):
    stopped(DecisionBook(paths))
    damage(file_of(paths), 0, b"rubbish")
    damage(file_of(paths), COPY, b"rubbish")
    book = DecisionBook(paths)
    assert "damaged" in book.of("000000000009_0001").stop.why
    book.change(lambda found: found.release(ALL))
    assert DecisionBook(paths).now().stops == {}


def test_a_record_overwritten_with_zeros_is_no_record_in_which_nothing_is_decided(paths):
    DecisionBook(paths).prepare()
    assert DecisionBook(paths).now().stops == {}
    assert DecisionBook(paths).problems() == []
    damage(file_of(paths), 0, bytes(2 * COPY))
    book = DecisionBook(paths)
    assert ALL in book.now().stops
    assert file_of(paths) in book.problems()[0] and "release --all" in book.problems()[0]


def test_a_record_damaged_in_part_is_named_until_the_next_decision_mends_it(paths):
    stopped(DecisionBook(paths))
    damage(file_of(paths), COPY + 140)
    book = DecisionBook(paths)
    assert book.of(NAME).stop is not None
    assert file_of(paths) in book.problems()[0]
    stopped(book, "000000000006_0001")
    book.now()
    assert book.problems() == []


def test_a_truncated_record_counts_as_damaged(paths):
    stopped(DecisionBook(paths))
    os.truncate(file_of(paths), 0)
    assert ALL in DecisionBook(paths).now().stops


def test_without_a_data_partition_the_decision_holds_in_memory_and_that_is_said(paths, monkeypatch):
    def full(path, content, mode=0o600):
        if path.startswith(paths.data):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, mode)

    real = decisions.durable.write_atomic
    monkeypatch.setattr(decisions.durable, "write_atomic", full)
    assert stopped(DecisionBook(paths)) == ("stopped: 5@1", False)
    assert DecisionBook(paths).of(NAME).stop is not None
    monkeypatch.setattr(decisions.durable, "write_atomic", real)
    _said, durable = DecisionBook(paths).change(lambda found: found.release(NAME))
    assert durable and DecisionBook(paths).of(NAME).stop is None


def test_a_writer_that_hangs_does_not_keep_people_from_stopping(paths, monkeypatch):
    monkeypatch.setattr(decisions, "LOCK_S", 0.05)
    book = DecisionBook(paths)
    held = book._lock()
    assert stopped(DecisionBook(paths))[1] is True
    os.close(held)


def test_the_mark_says_who_it_was_as_far_as_can_be_known():
    assert who({"SUDO_USER": "ann", "USER": "root"}) == "ann"
    seen = who({"USER": "root", "SSH_PUBKEYINFO": "ann@example.org", "SSH_CONNECTION": "10.0.0.9 1 10.0.0.1 22"})
    assert seen == "root with key ann@example.org from 10.0.0.9"
    assert who({})


def test_what_people_write_is_one_line_and_bounded():
    made = mark("first\nsecond\x1b[31m" + "x" * 500, {"USER": "a\nb"})
    assert "\n" not in made.why and "\x1b" not in made.why and len(made.why) == 200
    assert made.who == "a b"
    assert made.when.endswith("Z")


def test_to_prepare_never_writes_over_a_decision_that_is_just_being_made(paths, monkeypatch):
    """The daemon prepares while the command line decides: it waits for the other, and then finds the record there."""
    monkeypatch.setattr(decisions, "LOCK_S", 0.1)
    daemon, person = DecisionBook(paths), DecisionBook(paths)

    def stop(found):
        with pytest.raises(BlockingIOError):
            daemon.prepare()
        return found.stop(NAME, Mark("ann", "now", "attack"))

    person.change(stop)
    daemon.prepare()
    assert daemon.of(NAME).stop.why == "attack"
