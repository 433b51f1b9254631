"""What was done to a sliver, why and whose word it was: recorded, kept, found again."""

import errno
import json
import os
import threading
import time

import pytest
from core_world import BASE, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from record_world import NAME, OTHER, Clock, bookings, state, target

from confine.core.model import Booking, Step
from confine.paths import Paths
from confine.records import actions, owners
from confine.records import segments as segments_module
from confine.records.actions import ActionLog

GENEROUS_S = 20.0


@pytest.fixture
def paths(tmp_path):
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def log_of(paths, clock=None, **options):
    return ActionLog(paths, settings(**options), clock or Clock())


def add(log, number, **more):
    log.add("step", NAME, "registry: group 3", "containers start {}".format(number), "asked for", **more)


def whats(log, **query):
    return [record["what"] for record in log.read(**query)]


def test_an_action_is_there_after_a_restart_with_document_revision_and_time(paths):
    clock = Clock()
    log = log_of(paths, clock)
    log.add(
        "step", NAME, "registry: group 3", "storage mount", "asked for: start", BASE + "slivers/1", '"r7"', {"ms": 3}
    )
    assert log.close(GENEROUS_S)
    (record,) = log_of(paths).read()
    wanted = {"kind": "step", "subject": NAME, "document": BASE + "slivers/1", "revision": '"r7"', "more": {"ms": 3}}
    assert {name: record[name] for name in wanted} == wanted
    assert (record["time"], record["time_sure"]) == (clock.wall, True)


def test_actions_are_found_by_time_and_subject_and_before_they_are_on_the_disk(paths):
    clock = Clock()
    log = log_of(paths, clock)
    for number in range(5):
        add(log, number)
        clock.on(10)
    log.add("decision", OTHER, "ann", "stop", "complaint")
    begin = clock.wall - 50
    assert whats(log, since=begin + 10, until=begin + 20) == ["containers start 1", "containers start 2"]
    assert whats(log, subject=OTHER) == whats(log, kind="decision") == ["stop"]
    assert whats(log, limit=2) == ["containers start 4", "stop"]
    assert log.close(GENEROUS_S)


def test_times_before_the_clock_was_set_are_put_right_afterwards(paths):
    clock = Clock(wall=1000.0, up=50.0, sure=False)
    log = log_of(paths, clock)
    add(log, 1)
    clock.on(10)
    clock.wall, clock.sure = 1_763_600_000.0, True
    add(log, 2)
    assert [record["time"] for record in log.read()] == [1_763_600_000.0 - 10, 1_763_600_000.0]
    assert log.close(GENEROUS_S)


def test_adding_never_waits_for_a_disk_that_hangs_and_what_overflows_is_counted_and_recorded(paths, monkeypatch):
    let_go = threading.Event()

    class Hanging:
        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            let_go.wait(GENEROUS_S)
            os.fsync(handle)

    monkeypatch.setattr(segments_module, "os", Hanging())
    monkeypatch.setattr(actions, "WAITING", 100)
    log = log_of(paths)
    begun = time.monotonic()
    for number in range(1000):
        add(log, number)
    assert time.monotonic() - begun < 2
    assert not log.flush(0.01)
    assert log.status()["waiting"] == 100
    assert log.status()["lost"] == 900
    let_go.set()
    assert log.close(GENEROUS_S)
    assert whats(log_of(paths))[-1] == "containers start 999"
    assert sum(int(what.split()[0]) for what in whats(log_of(paths), kind="lost")) == 900


def test_a_disk_that_takes_nothing_is_named_and_all_is_written_once_it_takes_again(paths, monkeypatch):
    full = [True]

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, *args):
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.pwrite(*args)

    monkeypatch.setattr(segments_module, "os", Full())
    monkeypatch.setattr(actions, "AGAIN_S", (0.01, 0.01))
    log = log_of(paths)
    for number in range(10):
        add(log, number)
    assert not log.flush(0.2)
    assert "space" in log.status()["error"]
    full[0] = False
    assert log.close(GENEROUS_S)
    assert log.status()["error"] is None
    assert len(whats(log_of(paths))) == 10


def test_a_place_that_cannot_be_made_is_an_error_in_the_status_and_nothing_raises(tmp_path):
    (tmp_path / "data").write_text("a file")
    log = log_of(Paths(data=str(tmp_path / "data")))
    add(log, 1)
    assert not log.flush(0.2)
    assert log.status()["error"]
    assert whats(log) == ["containers start 1"]
    assert log.read(subject="x") == []
    assert not log.close(0.01)


@pytest.mark.parametrize("value", [b"bytes", 7, object(), "x" * 10000, "\ud800", None])
def test_whatever_is_added_is_recorded_as_text_and_nothing_raises(paths, value):
    log = log_of(paths)
    log.add("step", value, value, value, value, value, value, {"value": value})
    log.add("step", NAME, "me", "did", "why", more={"large": "x" * 100000, "nan": float("nan")})
    assert log.close(GENEROUS_S)
    assert len(log_of(paths).read()) == 2


def test_the_daemon_and_the_cli_record_side_by_side(paths):
    one, other = log_of(paths), log_of(paths)
    for number in range(50):
        add(one, number)
        add(other, 100 + number)
    assert one.close(GENEROUS_S)
    assert other.close(GENEROUS_S)
    assert len(whats(log_of(paths))) == 100


def test_the_record_stays_within_its_bound_and_keeps_the_newest(paths):
    log = log_of(paths, record_action_mib=1)
    for number in range(3000):
        add(log, number, more={"filler": "x" * 900})
        if number % 500 == 0:
            assert log.flush(GENEROUS_S)
    assert log.close(GENEROUS_S)
    assert log.size() <= 1024 * 1024
    assert whats(log_of(paths), limit=1) == ["containers start 2999"]


@effort(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["t", "n", "more"]), inner),
        max_leaves=5,
    ),
    st.sampled_from(["t", "up", "n", "boot", "run", "sure", "kind", "subject", "more", "document"]),
)
def test_no_content_of_a_record_keeps_the_others_from_being_read(tmp_path_factory, value, member):
    paths = Paths(data=str(tmp_path_factory.mktemp("data")))
    log = log_of(paths)
    add(log, 1)
    assert log.close(GENEROUS_S)
    (good,) = log.read()
    bad = {name: good[name] for name in good if not name.startswith("time")}
    bad[member] = value
    place = os.path.join(actions.directory(paths), "actions")
    segments_module.Segments(place, "actions", 1 << 20).append([json.dumps(bad).encode(), b"\xff"], True)
    assert "containers start 1" in whats(log_of(paths))


# ---- whose --------------------------------------------------------------------------------------------------------


def test_a_step_names_the_document_its_revision_and_the_group_that_asked():
    found = owners.step_record(Step("containers", "start", NAME, "asked for", target()), state(), 0.0251)
    assert found["who"] == "registry: group 3 Students, slice 5 weather"
    assert (found["document"], found["revision"]) == (BASE + "slivers/105/", '"r7"')
    assert found["more"] == {"ms": 25, "slice": {"uri": BASE + "slices/5/", "revision": '"s2"'}}


def test_a_step_on_the_owners_word_names_the_owner_and_no_document():
    step = Step("limits", "freeze", NAME, "Paused by ann", target(), who="ann from fd00::2")
    found = owners.step_record(step, state(), 0)
    assert (found["who"], found["document"], found["revision"]) == ("ann from fd00::2", None, None)
    assert found["more"]["slice"]["uri"] == BASE + "slices/5/"


def test_a_step_that_failed_says_so_and_a_removal_names_the_nodes_document():
    booking = Booking("5@42", NAME, 1, 50, 100)
    found = owners.step_record(Step("storage", "remove", NAME, "gone", None, booking), state(), 1, "disk is busy")
    assert found["what"] == "storage remove failed"
    assert found["more"] == {"ms": 1000, "nr": 1, "error": "disk is busy"}
    assert found["document"] == BASE + "nodes/42/"


def test_a_step_without_any_registry_state_can_be_recorded():
    found = owners.step_record(Step("links", "bridge", "node", "is not there"), None, 0)
    assert found["document"] is None


def test_whose_a_sliver_is_is_recorded_once_and_again_when_people_change(paths):
    log = log_of(paths)
    keeper = owners.Owners(log, settings())
    first = state()
    for _ in range(3):
        keeper.look(first, [target()], bookings())
    keeper.look(state(), [target()], bookings())
    assert len(log.read(kind="sliver")) == 1
    changed = state()
    changed["docs"][BASE + "users/2/"]["is_active"] = True
    keeper.look(changed, [target()], bookings())
    first_record, second = log.read(kind="sliver")
    assert [person["active"] for person in first_record["more"]["people"]] == [True, False]
    assert [person["active"] for person in second["more"]["people"]] == [True, True]
    assert second["more"]["people"][0]["roles"] == ["slice_admin"]
    assert second["more"]["slice"]["name"] == "weather"
    assert second["more"]["addresses"][0] == "192.168.241.1"
    assert log.close(GENEROUS_S)


def test_a_restart_records_nothing_again_and_a_released_number_is_recorded(paths):
    log = log_of(paths)
    owners.Owners(log, settings()).look(state(), [target()], bookings())
    assert log.close(GENEROUS_S)
    log = log_of(paths)
    keeper = owners.Owners(log, settings())
    keeper.look(state(), [target()], bookings())
    keeper.look(state(), [], {})
    assert [record["what"] for record in log.read(kind="sliver")] == ["held", "gone"]
    assert log.close(GENEROUS_S)


def test_each_file_of_the_record_says_whose_the_slivers_are(paths):
    log = log_of(paths, record_action_mib=1)
    keeper = owners.Owners(log, settings())
    held = state()
    for number in range(3000):
        add(log, number, more={"filler": "x" * 900})
        if number % 20 == 0:
            log.flush(GENEROUS_S)
            keeper.look(held, [target()], bookings())
    assert log.close(GENEROUS_S)
    assert log_of(paths).read()[0]["what"] != "containers start 0"
    assert log_of(paths).read(kind="sliver")


def test_documents_of_any_shape_are_borne():
    for value in (None, 7, "x", [], {}, [None], {"uri": 7}):
        found = state()
        found["docs"][BASE + "slivers/105/"] = {"slice": value}
        owners.owner(target(), 1, settings(), found)
        found = state()
        found["docs"][BASE + "groups/3/"]["user_roles"] = value
        found["docs"][BASE + "slices/5/"]["group"] = {"uri": BASE + "groups/3/"}
        owners.owner(target(), 1, settings(), found)
