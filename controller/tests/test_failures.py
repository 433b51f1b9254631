"""What failed is tried again with growing pauses; a sliver that keeps ending by itself is no exception."""

from confine.core.model import Observed, SliverObserved, Step
from confine.failures import STEADY_S, Failures

STEP = Step("storage", "mount", "a", "test")


def seen(**running):
    slivers = {name: SliverObserved(name, running=runs) for name, runs in running.items()}
    return Observed(slivers, [], [], True, True, 0, 0, 0)


def test_pauses_grow_with_each_failure_in_a_row():
    failures = Failures()
    pauses = []
    for now in (0.0, 100.0, 200.0):
        failures.failed("a", STEP, OSError("no"), now)
        pauses.append(failures.all()["a"].retry_at - now)
    assert pauses[0] < pauses[1] < pauses[2]


def test_another_step_begins_with_a_short_pause_again():
    failures = Failures()
    for _ in range(5):
        failures.failed("a", STEP, OSError("no"), 0.0)
    failures.failed("a", Step("containers", "start", "a", "test"), OSError("no"), 0.0)
    assert failures.all()["a"].count == 1


def test_a_sliver_that_ends_by_itself_has_failed_to_start():
    failures = Failures()
    failures.look(seen(a=True), set(), 0.0)
    assert failures.look(seen(a=False), set(), 7.0) == ["a"]
    failure = failures.all()["a"]
    assert (failure.driver, failure.verb) == ("containers", "start")
    assert "after 7 s" in failure.message


def test_a_sliver_that_vanished_altogether_has_failed_too():
    failures = Failures()
    failures.look(seen(a=True), set(), 0.0)
    assert failures.look(seen(), set(), 1.0) == ["a"]


def test_a_sliver_stopped_on_purpose_or_being_worked_on_has_not_failed():
    failures = Failures()
    failures.look(seen(a=True, b=True), set(), 0.0)
    failures.stopped("a")
    assert failures.look(seen(a=False, b=False), {"b"}, 1.0) == []


def test_one_that_keeps_ending_is_started_ever_more_rarely_until_it_runs_steadily():
    failures = Failures()
    now, pauses = 0.0, []
    for _ in range(3):
        failures.look(seen(a=True), set(), now)
        failures.overcome(["a"], now)
        failures.look(seen(a=False), set(), now + 1)
        pauses.append(failures.all()["a"].retry_at - now)
        now += 1000
    assert pauses[0] < pauses[1] < pauses[2]
    failures.look(seen(a=True), set(), now)
    failures.overcome(["a"], now + STEADY_S + 1)
    assert failures.all() == {}


def test_other_failures_are_forgotten_as_soon_as_they_are_overcome():
    failures = Failures()
    failures.failed("a", STEP, OSError("no"), 0.0)
    failures.look(seen(a=True), set(), 1.0)
    failures.overcome(["a"], 1.0)
    assert failures.all() == {}


def test_the_next_try_is_waited_for_no_longer_than_it_takes():
    failures = Failures()
    assert failures.due_in(0.0) is None
    failures.failed("a", STEP, OSError("no"), 0.0)
    due = failures.due_in(0.0)
    assert due == failures.all()["a"].retry_at
    assert failures.due_in(1e9) is None
