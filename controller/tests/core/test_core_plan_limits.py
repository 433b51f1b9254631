"""The plan where something stands against it: unusable documents, admission, failures."""

from core_world import (
    DATA,
    DEBIAN,
    OPENWRT,
    OTHER_KEY,
    World,
    at,
    desired,
    limits,
    messages,
    name_of,
    one,
    sliver_target,
)

from confine.core import plan as plan_module
from confine.core.model import Failure

NAME = name_of(5)
TAKE_DOWN = "stop dismiss remove unmount remove"


# Documents that cannot be used


def test_a_blocked_sliver_is_not_taken_down_and_goes_no_further_up() -> None:
    for target, changes in (
        ("start", {}),
        ("start", {"sliver_instance_sn": 8}),
        ("start", {"slice_instance_sn": 8}),
        ("start", {"uri": "https://registry.example.org/api/slivers/999/"}),
        ("start", {"sliver_instance_sn": -1, "slice_instance_sn": -1, "template": None}),
    ):
        world = at(target)
        assert world.verbs(one(blocked=True, **changes), 5) == "", changes
        assert world.state(one(blocked=True, **changes), 5) == "started"
    world = World()
    assert world.verbs(one(blocked=True), 5) == ""
    assert world.state(one(blocked=True), 5) == "fail_allocate"
    world = at("deploy")
    assert world.verbs(one(blocked=True, template=None, sliver_instance_sn=-1), 5) == ""


def test_a_blocked_sliver_goes_down_when_it_is_asked_to() -> None:
    world = at("start")
    assert world.verbs(one(blocked=True, target="deploy"), 5) == "stop dismiss remove"
    assert world.verbs(one(blocked=True, target="register"), 5) == TAKE_DOWN + " release"


def test_a_sliver_that_ran_runs_again_after_a_reboot_though_its_template_was_withdrawn() -> None:
    world = at("start")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    for changes in (
        {},
        {"sliver_instance_sn": 8},
        {"slice_instance_sn": 8},
        {"sliver_instance_sn": 8, "template": OPENWRT},
    ):
        asked = one(blocked=True, **changes)
        assert world.verbs(asked, 5) == "mount apply admit start verify", changes
        assert world.plan(asked).working[NAME].template == DEBIAN


# Admission


def test_over_the_maximum_is_refused_and_nothing_is_clipped() -> None:
    world = World()
    asked = one(limits=limits(50, 1001))
    assert world.verbs(asked, 5) == "" and world.state(asked, 5) == "fail_allocate"
    assert "1001" in world.messages(asked, 5) and "1000" in world.messages(asked, 5)
    assert world.verbs(one(limits=limits(500, 1000)), 5) != ""


def test_a_lowered_maximum_leaves_what_is_allocated_alone() -> None:
    world = at("start")
    lowered = desired(sliver_target(5, data=DATA), resources={"disk": (10, 5), "memory": (10, 5)})
    assert world.verbs(lowered, 5) == "" and world.state(lowered, 5) == "started"
    world.reboot()
    world.settle(lowered)
    assert world.state(lowered, 5) == "started"


def test_what_does_not_fit_is_refused_and_the_others_go_on() -> None:
    world = World(memory=64 + 120)
    asked = desired(*[sliver_target(number) for number in (5, 6, 7)])
    world.settle(asked)
    assert [world.state(asked, number) for number in (5, 6, 7)] == ["started", "started", "fail_allocate"]
    assert "not yet lent" in world.messages(asked, 7) and "20 MiB" in world.messages(asked, 7)
    world.settle(desired(sliver_target(6), sliver_target(7)))
    assert world.state(desired(sliver_target(6), sliver_target(7)), 7) == "started"


def test_a_later_sliver_does_not_push_an_earlier_one_out() -> None:
    world = World(memory=64 + 60)
    world.settle(desired(sliver_target(7)))
    asked = desired(sliver_target(5), sliver_target(7))
    world.settle(asked)
    assert world.state(asked, 7) == "started" and world.state(asked, 5) == "fail_allocate"


def test_a_new_instance_may_take_the_place_of_the_old_one() -> None:
    world = World(memory=64 + 60)
    world.settle(one())
    asked = one(sliver_instance_sn=1, limits=limits(60, 100))
    world.settle(asked)
    assert world.state(asked, 5) == "started" and world.bookings[NAME].memory_mib == 60


def test_a_new_instance_that_is_refused_holds_nothing() -> None:
    world = at("start")
    asked = one(sliver_instance_sn=1, limits=limits(9000, 100))
    world.settle(asked)
    assert world.bookings == {} and world.state(asked, 5) == "fail_allocate"


def test_what_was_booked_for_a_sliver_that_is_refused_later_is_given_back() -> None:
    world = World()
    world.fails = {("cache", "fetch_template")}
    world.round(one())
    world.round(one())
    assert NAME in world.bookings
    refused = desired(sliver_target(5), resources={"disk": (10, 5), "memory": (10, 5)})
    world.now += 1000
    world.settle(refused)
    assert world.bookings == {} and world.state(refused, 5) == "fail_allocate"
    assert world.failures == {}


def test_a_refused_slice_is_named_as_such() -> None:
    world = World(refuse_slices=[5])
    assert "refused by this node's member" in world.messages(one(), 5)
    assert world.state(one(), 5) == "fail_allocate"


# Failures


def test_a_failed_step_shows_its_state_and_waits_before_the_next_try() -> None:
    for driver, verb, state in (
        ("cache", "fetch_template", "fail_allocate"),
        ("cache", "fetch_data", "fail_allocate"),
        ("storage", "allocate", "fail_allocate"),
        ("cache", "unpack_template", "fail_deploy"),
        ("storage", "format", "fail_deploy"),
        ("storage", "mount", "fail_deploy"),
        ("storage", "populate", "fail_deploy"),
        ("limits", "apply", "fail_start"),
        ("containers", "start", "fail_start"),
    ):
        world = World()
        world.settle(desired())
        world.fails = {(driver, verb)}
        world.round(one())
        assert world.state(one(), 5) == state, verb
        assert "it is broken" in world.messages(one(), 5)
        world.round(one())
        world.round(one())
        assert world.verbs(one(), 5) == "", verb
        assert world.failures[NAME].count == 1
        world.now += 100
        assert verb in world.verbs(one(), 5) or verb == "fetch_data", verb
        assert world.state(one(), 5) == state
        world.round(one())
        assert world.failures[NAME].count == 2
        world.fails = set()
        world.now += 1000
        world.settle(one())
        assert world.state(one(), 5) == "started" and world.failures == {}


def test_while_the_way_up_waits_the_way_down_is_open() -> None:
    world = at("start")
    world.failures[NAME] = Failure("containers", "start", "it is broken", 1, world.now + 1000)
    assert world.verbs(one(target="deploy"), 5) == "stop dismiss remove"
    assert world.verbs(one(target="register"), 5) == TAKE_DOWN + " release"
    assert "stop" in " ".join(step.verb for step in world.plan(desired()).sliver_steps[NAME])


def test_a_new_instance_does_not_wait_for_the_failures_of_the_old_one() -> None:
    world = at("deploy")
    world.failures[NAME] = Failure("containers", "start", "it is broken", 5, world.now + 1000)
    assert world.verbs(one(), 5) == ""
    assert world.verbs(one(sliver_instance_sn=1), 5).endswith("start verify")


def test_a_way_down_that_failed_waits_as_well() -> None:
    world = at("start")
    world.fails = {("containers", "stop")}
    world.round(desired())
    assert world.plan(desired()).sliver_steps == {}
    assert "it is broken" in messages(world.plan(desired()).states[NAME][1])
    world.now += 100
    assert world.plan(desired()).sliver_steps != {}
    world.fails = set()
    world.now += 1000
    world.settle(desired())
    assert world.failures == {} and world.observed.slivers == {}


def test_keys_that_could_not_be_brought_in_do_not_make_a_running_sliver_a_failed_one() -> None:
    world = at("start")
    world.fails = {("storage", "keys")}
    asked = one(keys=[OTHER_KEY])
    world.round(asked)
    assert world.state(asked, 5) == "started" and "storage keys failed" in world.messages(asked, 5)


def test_a_fault_in_one_sliver_stays_there() -> None:
    world = World()
    asked = desired(
        sliver_target(5, blocked=True, template=None), sliver_target(6, limits=limits(9000)), sliver_target(7)
    )
    world.settle(asked)
    assert [world.state(asked, number) for number in (5, 6, 7)] == ["fail_allocate", "fail_allocate", "started"]


def test_the_wait_doubles_up_to_a_bound_and_is_spread() -> None:
    waits = [plan_module.next_retry(count, 0.0) for count in range(1, 12)]
    assert waits[:3] == [10.0, 20.0, 40.0] and waits[-1] == 900.0
    assert sorted(waits) == waits
    assert plan_module.next_retry(10**9, 0.999) >= 700.0
    assert 8.0 <= plan_module.next_retry(0, 0.999) < plan_module.next_retry(0, 0.5) < 10.0
