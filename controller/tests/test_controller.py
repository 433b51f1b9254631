"""One life of the daemon: it begins whatever it finds, and leaves nothing behind when another one follows."""

import os

import pytest

from confine import controller as controller_module
from confine import durable
from confine.controller import Controller
from confine.core.model import Step
from confine.core.settings import Settings
from confine.crew import Job
from confine.errors import StepError
from confine.log import Log
from confine.machine import Machine
from confine.paths import Paths

NAME = "000000000005_0001"
ALLOCATED = {"key": "5@1", "name": NAME, "nr": 7, "memory_mib": 64, "disk_mib": 128}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes controllers of a machine to which nothing is done."""
    monkeypatch.setattr(Machine, "do", lambda self, step: None)
    places = {name: str(tmp_path / name) for name in ("data", "run", "etc", "uci", "cgroup", "share", "tinc")}
    for place in places.values():
        os.mkdir(place)
    settings = Settings(api_enabled=False, watchdog_s=0, data_dir=places["data"])
    return lambda: Controller(Paths(**places), settings, [], Log(None))


def once(controller):
    """A life that ends as soon as it has begun."""
    controller.stop()
    controller.run()
    return [error["message"] for error in controller._board.status()["node"]["errors"]]


def pipes():
    found = set()
    for handle in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink("/proc/self/fd/" + handle)
        except OSError:
            continue  # of the listing itself
        found |= {where} if where.startswith("pipe:") else set()
    return found


def test_a_reload_leaves_no_descriptors_behind(make):
    once(make())
    before = pipes()
    controllers = [make() for _ in range(3)]  # kept: it is not the collector who closes
    for controller in controllers:
        once(controller)
        controller.look()  # a signal that comes late does no harm
    assert pipes() == before


def test_a_first_look_that_fails_is_told_and_tried_again(make, monkeypatch):
    controller = make()
    observe = controller._machine.observe

    def broken():
        raise StepError("interface br-confine is there but no bridge: rename or remove it")

    controller._machine.observe = broken
    assert "br-confine is there but no bridge" in once(controller)[0]
    controller = make()
    controller._machine.observe = broken
    controller._turn()
    controller._machine.observe = observe
    assert controller._board.status()["round"] == 0
    controller._turn()
    assert controller._board.status()["round"] == 1
    once(controller)


def test_bookings_that_are_recovered_and_cannot_be_written_hold_and_it_is_told(make, monkeypatch):
    controller = make()
    found = controller._machine.observe()
    found.slivers = {NAME: type("Found", (), {"allocation": ALLOCATED})()}
    controller._machine.observe = lambda: found

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(durable, "write_checked", read_only)
    once(controller)
    assert controller._journal.bookings()[NAME].nr == 7
    assert "Read-only file system" in controller._own_problems[-1].message


@pytest.fixture
def busy(make, monkeypatch):
    """(controller that has a job under way, seconds that it rested); `end()` ends another job."""
    controller, rests = make(), []
    rest = controller._asked.wait
    monkeypatch.setattr(controller._asked, "wait", lambda seconds: (rests.append(seconds), rest(seconds)))
    controller._crew.jobs = lambda: {NAME: job()}
    yield controller, rests
    once(controller)


def job():
    return Job(NAME, [Step("storage", "format", NAME, "test")])


def test_while_jobs_go_on_turns_take_a_third_of_the_time_at_most(busy):
    controller, rests = busy
    for took in (0.01, 0.1, 60.0):
        controller._took_s = took
        controller._finished(job(), None, None)
        controller._sleep()
    assert rests == [0.02, 0.2, controller_module.LONGEST_REST_S]


@pytest.mark.parametrize("who", ["look", "reader", "firewall", "verb", "last job"])
def test_nobody_who_asks_waits_for_jobs(busy, monkeypatch, who):
    controller, rests = busy
    monkeypatch.setattr(controller_module, "LONGEST_REST_S", 3600.0)
    controller._took_s = 3600.0
    asks = {
        "look": controller.look,
        "reader": controller._reader._on_read,
        "firewall": controller._machine.firewall._wake,
        "verb": lambda: controller._verb("look", {}),
        "last job": lambda: last_job(controller),
    }
    controller._finished(job(), None, None)
    asks[who]()
    controller._sleep()  # an hour, if it was not heard
    assert rests == [3600.0]
    controller._watch.sleep = lambda seconds: rests.append("slept")
    controller._sleep()
    assert rests == [3600.0, "slept"], "what was heard wakes once"


def last_job(controller):
    jobs = controller._crew.jobs
    controller._crew.jobs = dict
    controller._finished(job(), None, None)
    controller._crew.jobs = jobs


def test_without_jobs_there_is_no_rest(busy):
    controller, rests = busy
    controller._crew.jobs = dict
    controller._took_s = 60.0
    controller.look()
    controller._sleep()
    assert rests == []
