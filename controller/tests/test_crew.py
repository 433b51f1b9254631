"""Steps in order for a sliver, side by side across slivers; a long fetch blocks nobody."""

import threading
import time

import pytest

from confine.core.model import Step
from confine.crew import Cancelled, Crew
from confine.errors import StepError


class Site:
    """A crew whose steps are recorded and can be held."""

    def __init__(self, **sizes):
        self.done, self.ended, self.hold, self.errors = [], [], {}, {}
        self.lock = threading.Lock()
        self.crew = Crew(self.run, self.finished, **sizes)

    def run(self, step):
        with self.lock:
            self.done.append((step.subject, step.verb))
        if (step.subject, step.verb) in self.hold:
            assert self.hold[step.subject, step.verb].wait(5)
        if (step.subject, step.verb) in self.errors:
            raise self.errors[step.subject, step.verb]

    def finished(self, job, step, error):
        with self.lock:
            self.ended.append((job.name, step and step.verb, error and str(error)))


def steps(name, *verbs):
    return [Step("storage", verb, name, "test") for verb in verbs]


def until(condition, deadline=5.0):
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "not within the deadline"
        time.sleep(0.005)


@pytest.fixture
def site():
    site = Site(workers=2, fetchers=2)
    yield site
    for event in site.hold.values():
        event.set()
    site.crew.close(5)


def test_a_slivers_steps_run_in_order(site):
    site.crew.assign("a", steps("a", "allocate", "fetch_data", "format", "mount"))
    until(lambda: site.ended)
    assert [verb for _, verb in site.done] == ["allocate", "fetch_data", "format", "mount"]
    assert site.ended[0][2] is None


def test_slow_downloads_of_all_fetchers_hold_no_other_sliver_up(site):
    for name in ("slow1", "slow2", "slow3"):
        site.hold[name, "fetch_template"] = threading.Event()
        site.crew.assign(name, steps(name, "fetch_template", "mount"))
    site.crew.assign("quick", steps("quick", "format", "mount"))
    until(lambda: ("quick", "mount", None) in site.ended)


def test_a_sliver_has_one_job_at_a_time(site):
    site.hold["a", "mount"] = threading.Event()
    assert site.crew.assign("a", steps("a", "mount"))
    assert not site.crew.assign("a", steps("a", "unmount"))


def test_after_a_failed_step_nothing_more_is_done_for_that_sliver_and_others_go_on(site):
    site.errors["a", "format"] = StepError("disk on fire")
    site.crew.assign("a", steps("a", "format", "mount"))
    site.crew.assign("b", steps("b", "format", "mount"))
    until(lambda: len(site.ended) == 2)
    assert ("a", "format", "disk on fire") in site.ended
    assert ("a", "mount") not in site.done
    assert ("b", "mount", None) in site.ended


def test_a_fault_in_a_driver_is_that_slivers_failure_and_the_crew_lives_on(site):
    site.errors["a", "format"] = ZeroDivisionError("division by zero")
    site.crew.assign("a", steps("a", "format"))
    until(lambda: site.ended)
    assert "ZeroDivisionError" in site.ended[0][2]
    site.crew.assign("b", steps("b", "format"))
    until(lambda: len(site.ended) == 2)


def test_a_job_called_off_ends_after_the_step_it_is_at(site):
    site.hold["a", "format"] = threading.Event()
    site.crew.assign("a", steps("a", "format", "mount"))
    until(lambda: site.done)
    site.crew.cancel("a")
    site.hold["a", "format"].set()
    until(lambda: site.ended)
    assert site.done == [("a", "format")]
    assert site.ended[0][2] == "called off"


def test_a_download_called_off_ends_at_its_next_block(site):
    release = threading.Event()
    site.hold["a", "fetch_data"] = release
    site.crew.assign("a", steps("a", "fetch_data"))
    until(lambda: site.done)
    site.crew.progress("a", "data", 10, 100)
    assert (site.crew.jobs()["a"].fetched, site.crew.jobs()["a"].size) == (10, 100)
    site.crew.cancel("a")
    with pytest.raises(Cancelled):
        site.crew.progress("a", "data", 20, 100)


def test_close_waits_for_the_step_under_way_and_takes_nothing_new(site):
    site.hold["a", "format"] = threading.Event()
    site.crew.assign("a", steps("a", "format", "mount"))
    until(lambda: site.done)
    threading.Timer(0.1, site.hold["a", "format"].set).start()
    assert site.crew.close(5)
    assert site.done == [("a", "format")]
    assert not site.crew.assign("b", steps("b", "format"))


def test_an_idle_crew_has_no_threads():
    before = threading.active_count()
    Crew(lambda step: None, lambda *args: None)
    assert threading.active_count() == before
