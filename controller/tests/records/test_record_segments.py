"""The files that records are appended to: nothing that was durable is lost, whatever is cut off, flipped or filled."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confine.records import frames
from confine.records import segments as module
from confine.records.segments import SMALLEST_SEGMENT, Segments

TOTAL = 8 * SMALLEST_SEGMENT


def series(tmp_path, total=TOTAL, **options):
    return Segments(str(tmp_path / "series"), "x", total, **options)


def numbered(first, count, size=20):
    return [b"%06d" % n + b"." * (size - 6) for n in range(first, first + count)]


def numbers(found):
    return [int(payload[:6]) for payload in found.read()]


# ---- frames -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=6), st.binary(max_size=80), st.integers(0, 6))
def test_every_frame_is_found_again_whatever_lies_between(payloads, rubbish, place):
    whole = [frames.pack(payload) for payload in payloads]
    place = min(place, len(whole))
    data = b"".join(whole[:place]) + rubbish + b"".join(whole[place:])
    found = [piece.payload for piece in frames.scan(data) if piece.payload is not None]
    rest = iter(found)
    assert all(payload in rest for payload in payloads[:place])
    # Rubbish may by itself look like the head of a frame only as far as its checksum agrees: it never does here.
    assert found[len(found) - len(payloads) + place :] == payloads[place:]


@given(st.binary(max_size=400))
def test_any_bytes_can_be_scanned_and_are_covered_without_gaps(data):
    at = 0
    for piece in frames.scan(data):
        assert piece.begin == at
        assert piece.end > piece.begin
        at = piece.end
    assert at == len(data.rstrip(b"\0"))


def test_room_set_aside_and_not_yet_written_is_no_damage():
    assert [piece.payload for piece in frames.scan(frames.pack(b"one") + bytes(5000))] == [b"one"]


# ---- damage -------------------------------------------------------------------------------------------------------

DAMAGED = numbered(0, 4, 12)


def damaged(tmp_path, change, set_aside=False):
    """A series of four records whose file was changed, opened anew."""
    made = series(tmp_path, set_aside=set_aside)
    made.append(DAMAGED, True)
    with open(made.path(1), "rb") as file:
        data = file.read().rstrip(b"\0")
    with open(made.path(1), "wb") as file:
        file.write(change(data))
    return series(tmp_path), len(data)


@pytest.mark.slow
def test_one_flipped_bit_anywhere_costs_one_record_and_is_named(tmp_path):
    size = len(b"".join(map(frames.pack, DAMAGED)))
    for bit in range(size * 8):

        def flip(data, bit=bit):
            return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]

        place = tmp_path / str(bit)
        found, _ = damaged(place, flip)
        lost = bit // 8 // (size // 4)
        assert numbers(found) == [n for n in range(4) if n != lost], bit
        assert "are damaged and passed over" in found.problems[0]


def test_a_file_cut_off_anywhere_keeps_what_is_whole_and_is_appended_to_again(tmp_path):
    size = len(b"".join(map(frames.pack, DAMAGED)))
    for cut in range(size + 1):
        found, _ = damaged(tmp_path / str(cut), lambda data, cut=cut: data[:cut])
        whole = list(range(cut // (size // 4)))
        assert numbers(found) == whole
        again = series(tmp_path / str(cut))
        again.append(numbered(9, 1), True)
        assert numbers(series(tmp_path / str(cut))) == [*whole, 9]
        torn = cut % (size // 4) != 0
        assert ["cut off" in problem for problem in again.problems] == [True] * torn


def test_a_tail_of_zeros_or_rubbish_is_cut_off_and_named(tmp_path):
    found, _ = damaged(tmp_path, lambda data: data + b"@000")
    found.append(numbered(4, 1), True)
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert "4 bytes were written in part and cut off" in found.problems[0]


def test_a_file_that_is_a_directory_or_gone_is_passed_over(tmp_path):
    made = series(tmp_path)
    made.append(numbered(0, 1), True)
    os.mkdir(os.path.join(made.directory, "x-00000000"))
    assert numbers(made) == [0]
    assert "cannot be read" in made.problems[0]


# ---- power cuts ---------------------------------------------------------------------------------------------------


class PowerCutError(BaseException):
    """The power is gone at this call."""


class CutOs:
    """`os`, with the power gone before, within or after the call number `at` of those that change something."""

    CHANGING = ("pwrite", "fsync", "truncate", "unlink", "utime", "posix_fallocate", "open")

    def __init__(self, at, when):
        self._at, self._when, self.calls = at, when, 0

    def __getattr__(self, name):
        call = getattr(os, name)
        if name not in self.CHANGING:
            return call

        def cut(*args, **options):
            self.calls += 1
            if self.calls - 1 != self._at:
                return call(*args, **options)
            if self._when == "within" and name == "pwrite":
                call(args[0], args[1][: max(1, len(args[1]) // 2)], *args[2:])
            elif self._when == "after":
                call(*args, **options)
            raise PowerCutError

        return cut


@pytest.mark.slow
@pytest.mark.parametrize("set_aside", [False, True])
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_whatever_call_the_power_is_cut_at_nothing_durable_is_lost(tmp_path, monkeypatch, when, set_aside):
    done = []

    def scenario(found):
        for first in range(0, 40, 4):  # 4 KiB a record: rotation, and the oldest dropped
            found.append(numbered(first, 4, 4000), True)
            done.append(first + 3)

    at = 0
    while True:
        done.clear()
        place = tmp_path / str(at)
        fake = CutOs(at, when)
        monkeypatch.setattr(module, "os", fake)
        try:
            scenario(series(place, 4 * SMALLEST_SEGMENT, set_aside=set_aside, segment=SMALLEST_SEGMENT))
        except PowerCutError:
            pass
        monkeypatch.setattr(module, "os", os)
        after = series(place, 4 * SMALLEST_SEGMENT, set_aside=set_aside, segment=SMALLEST_SEGMENT)
        kept = numbers(after)
        assert kept == list(range(kept[0], kept[-1] + 1)) if kept else not done
        if done:
            assert kept[-1] >= done[-1]
            assert kept[0] <= max(0, done[-1] - 6)
        after.append(numbered(50, 1, 4000), True)
        assert numbers(after)[-1] == 50
        if fake.calls <= at:
            return
        at += 1


# ---- bounds -------------------------------------------------------------------------------------------------------


def test_the_oldest_go_when_the_bound_is_reached_and_the_newest_stay(tmp_path):
    found = series(tmp_path)
    for first in range(0, 400, 10):
        found.append(numbered(first, 10, 1000), True)
        assert sum(os.stat(found.path(n)).st_size for n in found.numbers()) <= TOTAL
    kept = numbers(found)
    assert kept == list(range(kept[0], 400))
    assert len(kept) > 80


def test_what_is_older_than_the_span_goes_but_never_the_file_in_use(tmp_path):
    found = series(tmp_path)
    for first in range(0, 80, 10):
        found.append(numbered(first, 10, 1000), True)
    for number in found.numbers():
        os.utime(found.path(number), (1000, 1000))
    found.drop_aged(2000)
    assert len(found.numbers()) == 1


def test_what_was_written_without_a_confirmed_clock_gets_its_age_from_the_first_confirmed_time(tmp_path):
    found = series(tmp_path)
    for first in range(0, 80, 10):
        found.append(numbered(first, 10, 1000), False)
    before = found.numbers()
    found.drop_aged(2000)
    assert found.numbers() == before
    assert os.stat(found.path(before[0])).st_mtime > 2000


def test_two_writers_side_by_side_lose_nothing(tmp_path):
    one, other = series(tmp_path, set_aside=True), series(tmp_path, set_aside=True)
    for first in range(0, 40, 2):
        one.append(numbered(first, 1, 3000), True)
        other.append(numbered(first + 1, 1, 3000), True)
    kept = numbers(series(tmp_path))
    assert kept == list(range(kept[0], 40))


def test_a_writer_that_holds_the_record_for_long_is_an_error_with_a_reason_not_a_hang(tmp_path, monkeypatch):
    found = series(tmp_path)
    found.append(numbered(0, 1), True)
    monkeypatch.setattr(module, "LOCK_S", 0.05)
    handle = found._lock()
    try:
        with pytest.raises(OSError, match="held by another process"):
            found.append(numbered(1, 1), True)
    finally:
        os.close(handle)
    found.append(numbered(1, 1), True)
    assert numbers(found) == [0, 1]


# ---- full and failing disks ---------------------------------------------------------------------------------------


class FullOs:
    """`os` on a disk with room for `room` bytes in files of `directory`."""

    def __init__(self, directory, room):
        self._directory, self._room = directory, room

    def __getattr__(self, name):
        return getattr(os, name)

    def pwrite(self, handle, data, at):
        used = sum(os.stat(os.path.join(self._directory, name)).st_size for name in os.listdir(self._directory))
        left = self._room - used + max(0, os.fstat(handle).st_size - at)
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(handle, data[:left], at)


def test_on_a_full_disk_the_oldest_make_room_for_the_newest(tmp_path, monkeypatch):
    found = series(tmp_path)
    monkeypatch.setattr(module, "os", FullOs(found.directory, 3 * SMALLEST_SEGMENT))
    for first in range(0, 200, 5):
        found.append(numbered(first, 5, 1000), True)
    kept = numbers(series(tmp_path))
    assert kept == list(range(kept[0], 200))


def test_with_room_for_nothing_it_says_so_and_goes_on_later(tmp_path, monkeypatch):
    found = series(tmp_path)
    found.append(numbered(0, 1), True)
    monkeypatch.setattr(module, "os", FullOs(found.directory, 60))
    with pytest.raises(OSError, match="No space|no space"):
        found.append(numbered(1, 4), True)
    assert numbers(series(tmp_path))[0] == 0
    monkeypatch.setattr(module, "os", os)
    found.append(numbered(1, 4), True)
    assert sorted(set(numbers(series(tmp_path)))) == [0, 1, 2, 3, 4]


def test_after_a_failed_flush_a_new_file_is_begun(tmp_path, monkeypatch):
    found = series(tmp_path)
    found.append(numbered(0, 1), True)

    class Failing:
        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "os", Failing())
    with pytest.raises(OSError, match="Input/output"):
        found.append(numbered(1, 1), True)
    monkeypatch.setattr(module, "os", os)
    found.append(numbered(1, 1), True)
    assert found.numbers() == [1, 2]
    assert sorted(set(numbers(series(tmp_path)))) == [0, 1]
