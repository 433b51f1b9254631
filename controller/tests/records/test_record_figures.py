"""Figures of slivers over time: bounded, kept with few writes, right across clock jumps, seen by those who may."""

import math
import os

import pytest
from core_world import BASE, name_of, settings
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from record_world import NAME, OTHER, Clock, state

from confine.paths import Paths
from confine.records import figures as module
from confine.records import rings
from confine.records import segments as segments_module
from confine.records.figures import Figures, Sampler
from confine.records.viewers import OPERATOR, PUBLIC, Viewer, viewer, visible


@pytest.fixture
def paths(tmp_path):
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def usage(up, memory=1000):
    """Counters of a sliver that uses half a processor and sends 100 bytes a second."""
    return {
        "cpu_usec": int(up * 500000),
        "memory_bytes": memory,
        "pids": 4,
        "sent_bytes": int(up * 100),
        "oom_kills": 0,
    }


def run(figures, clock, seconds, names=(NAME,), step=10):
    for _ in range(int(seconds // step)):
        clock.on(step)
        figures.sample({name: usage(clock.up) for name in names}, clock())


def total(rows, member):
    return sum(row[member] for row in rows)


def test_ten_seconds_minutes_and_hours_say_the_same(paths):
    clock = Clock()
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 2 * 3600 + 600)
    fine, minutes, hours = (figures.read(NAME, step=step) for step in rings.STEPS)
    assert (len(fine), len(minutes), len(hours)) == (60, 130, 2)
    assert [row["seconds"] for row in fine[-2:]] == [10, 10]
    assert minutes[-1]["seconds"] == pytest.approx(60)
    assert hours[-1]["seconds"] == pytest.approx(3600)
    assert hours[-1]["cpu_s"] == pytest.approx(1800)
    assert minutes[-1]["sent_bytes"] == pytest.approx(6000)
    assert (minutes[-1]["memory_bytes"], minutes[-1]["pids"], minutes[-1]["limit_hits"]) == (1000, 4, 0)
    assert minutes[-1]["read_bytes"] is None


def test_the_finest_rows_that_reach_back_far_enough_are_given(paths):
    clock = Clock()
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 3600)
    assert figures.read(NAME, since=clock.wall - 300)[-1]["seconds"] == 10
    assert figures.read(NAME, since=clock.wall - 3000)[-1]["seconds"] == pytest.approx(60)
    assert figures.read("nobody") == []
    assert figures.read(NAME, step=7) == []


@pytest.mark.slow
def test_a_restart_keeps_all_but_the_last_seconds_with_48_writes_a_day(paths, monkeypatch):
    clock = Clock()
    written = []

    class Counting:
        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            written.append(clock.up)
            os.fsync(handle)

    monkeypatch.setattr(segments_module, "os", Counting())
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 24 * 3600, [name_of(n) for n in range(1, 33)], step=60)
    assert len(written) in (46, 47, 48)
    figures.save(clock(), rest=True)
    assert figures.size() < 2 * 1024 * 1024
    again = Figures(paths, settings(), clock)
    assert total(again.read(NAME, step=3600), "cpu_s") == pytest.approx(24 * 1800, rel=0.01)
    assert len(again.read(NAME, step=60)) == 180
    assert again.read(NAME, step=3600)[0]["time"] == pytest.approx(figures.read(NAME, step=3600)[0]["time"], abs=1)


def test_a_killed_daemon_loses_at_most_the_last_hour(paths):
    clock = Clock()
    run(Figures(paths, settings(), clock), clock, 5 * 3600, step=60)
    kept = Figures(paths, settings(), clock).read(NAME, step=60)
    assert clock.wall - kept[-1]["time"] <= 3600 + 60


def test_a_clock_that_is_set_moves_the_rows_of_before_and_marks_what_stays_unsure(paths):
    clock = Clock(wall=1000.0, up=50.0, sure=False)
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 120)
    assert {row["time_sure"] for row in figures.read(NAME, step=10)} == {False}
    clock.wall, clock.sure = 1_763_600_000.0, True
    run(figures, clock, 10)
    rows = figures.read(NAME, step=10)
    assert [row["time"] for row in rows] == [1_763_600_010.0 - 10 * n for n in reversed(range(len(rows)))]
    assert {row["time_sure"] for row in rows} == {True}


def test_a_gap_is_a_gap_and_a_reboot_no_jump(paths):
    clock = Clock(up=50000.0)
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 600)
    figures.save(clock(), rest=True)
    clock.on(7200)
    clock.boot, clock.up = "c0c0c0c0", 20.0
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 600)
    rows = figures.read(NAME, step=60)
    assert total(rows, "seconds") == pytest.approx(1180, abs=20)
    assert max(row["cpu_s"] for row in rows) <= 31
    times = [row["time"] for row in rows]
    assert times == sorted(times)


def test_a_sliver_that_was_restarted_counts_from_nothing(paths):
    clock = Clock()
    figures = Figures(paths, settings(), clock)
    figures.sample({NAME: {"cpu_usec": 9_000_000}}, clock())
    figures.sample({NAME: {"cpu_usec": 2_000_000}}, clock.on(10)())
    assert figures.read(NAME, step=10)[-1]["cpu_s"] == 2
    figures.sample({}, clock.on(10)())
    figures.sample({NAME: {"cpu_usec": 5_000_000}}, clock.on(10)())
    assert len(figures.read(NAME, step=10)) == 1


def test_slivers_that_come_and_go_stay_within_the_bound(paths, monkeypatch):
    monkeypatch.setattr(module, "MAX_SLIVERS", 5)
    clock = Clock()
    figures = Figures(paths, settings(), clock)
    for number in range(1, 30):
        run(figures, clock, 20, [name_of(number)])
    assert figures.names() == [name_of(number) for number in range(25, 30)]


def test_a_disk_that_takes_nothing_is_named_and_what_is_new_is_written_later(paths, monkeypatch):
    clock = Clock()
    figures = Figures(paths, settings(), clock)

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, *args):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments_module, "os", Full())
    run(figures, clock, 2 * 3600)
    assert "cannot be written" in figures.status()["error"]
    monkeypatch.setattr(segments_module, "os", os)
    run(figures, clock, 3600)
    assert figures.status()["error"] is None
    assert len(Figures(paths, settings(), clock).read(NAME, step=3600)) >= 2


def test_one_damaged_byte_costs_one_hour_and_raises_nothing(paths):
    clock = Clock()
    figures = Figures(paths, settings(), clock)
    run(figures, clock, 5 * 3600, step=600)
    place = figures._series["hours"].path(1)
    with open(place, "rb") as file:
        data = file.read()
    good = len(Figures(paths, settings(), clock).read(NAME, step=3600))
    for at in range(0, len(data), 7):
        with open(place, "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        found = Figures(paths, settings(), clock)
        assert len(found.read(NAME, step=3600)) >= good - 1
        assert found.status()["problems"]


NUMBER = st.none() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=2) | st.booleans()


@effort(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["cpu_usec", "memory_bytes", "pids", "oom_kills", "x"]), NUMBER)))
def test_readings_of_any_kind_are_borne_and_figures_never_negative(tmp_path_factory, readings):
    clock = Clock()
    paths = Paths(data=str(tmp_path_factory.mktemp("data")))
    figures = Figures(paths, settings(), clock)
    for reading in readings:
        figures.sample({NAME: reading}, clock.on(1000)())
    figures.save(clock(), rest=True)
    again = Figures(paths, settings(), clock)
    assert len(again.read(NAME, step=3600)) == len(figures.read(NAME, step=3600))
    for row in again.read(NAME, step=3600) + again.read(NAME, step=60) + figures.read(NAME, step=10):
        assert all(row[field] is None or row[field] >= 0 for field in rings.FIELDS)


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1000)), min_size=1, max_size=300))
def test_folding_keeps_sums_and_levels_within_what_was_there(rows):
    fold, up, out = rings.Fold(60), 0.0, []
    for seconds, value in rows:
        up += seconds
        finished = fold.add(up, [seconds, *[value] * len(rings.SUMS), *[value] * len(rings.LEVELS)])
        out += [finished] if finished else []
    out.append(fold.take())
    assert math.isclose(sum(row[0] for _, row in out), sum(seconds for seconds, _ in rows))
    assert math.isclose(sum(row[1] for _, row in out), sum(value for _, value in rows), abs_tol=1e-6)
    levels = [value for _, value in rows]
    assert all(min(levels) - 1e-6 <= row[-1] <= max(levels) + 1e-6 for _, row in out)


def test_the_sampler_reads_usage_of_those_that_run_bears_failures_and_saves_at_its_end(paths):
    clock = Clock(up=120.0)
    figures = Figures(paths, settings(), clock)
    read = []

    def reading(name):
        read.append(name)
        if len(read) == 2:
            raise OSError("gone meanwhile")
        return usage(clock.on(10).up)

    sampler = Sampler(paths, figures, lambda: [(NAME, 1)], reading)
    sampler._closing.wait = lambda seconds: len(read) >= 3
    sampler._work()
    sampler.close()
    (row,) = Figures(paths, settings(), clock).read(NAME, step=60)
    assert (row["seconds"], row["cpu_s"]) == (20, 10)


# ---- who may see what ---------------------------------------------------------------------------------------------

ROW = {"cpu_s": 1.0, "memory_bytes": 10.0, "pids": 2.0}


def many(count):
    return {name_of(number): [ROW] for number in range(1, count + 1)}


def test_the_operator_sees_every_sliver():
    assert visible(many(2), OPERATOR)["slivers"] == many(2)
    assert visible(many(2), OPERATOR)["total"]["cpu_s"] == 2


def test_people_of_a_slice_see_their_own_slivers_only():
    assert list(visible(many(6), Viewer(slices=[5]))["slivers"]) == [NAME]


@pytest.mark.parametrize(("count", "shown"), [(0, True), (1, False), (2, False), (3, True)])
def test_the_public_sees_no_sliver_and_sums_only_if_they_tell_of_no_single_one(count, shown):
    found = visible(many(count), PUBLIC)
    assert found["slivers"] == {}
    assert (found["total"] is not None) is shown


def test_sums_minus_ones_own_tell_of_nobody():
    assert visible({NAME: [ROW], OTHER: [ROW], name_of(7): [ROW]}, Viewer(slices=[5]))["total"] is None


def test_roles_come_from_the_registry_and_inactive_or_unknown_people_are_the_public():
    found = state()
    ann = viewer(found, BASE + "users/1/")
    assert (ann.node_admin, ann.slices) == (False, {5})
    assert viewer(found, BASE + "users/2/").slices == viewer(found, "x").slices == viewer(None, "x").slices == set()
    found["docs"][BASE + "groups/3/"]["user_roles"][0]["is_node_admin"] = True
    assert viewer(found, BASE + "users/1/").node_admin
