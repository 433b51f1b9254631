"""The plan: every way up, down and round again, on a model of the node that refuses steps out of order."""

from core_world import (
    DATA,
    DEBIAN,
    KEY,
    OPENWRT,
    OTHER_KEY,
    World,
    desired,
    limits,
    messages,
    name_of,
    sliver_target,
)

from confine.core import plan as plan_module
from confine.core.model import Data, Desired, Failure, SliverObserved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import SliverTarget

NAME = name_of(5)
FROM_NOTHING = "book fetch_template fetch_data allocate unpack_template format mount populate"
START_IT = "apply start verify"
TAKE_DOWN = "stop remove unmount remove"


def one(**values: "Any") -> Desired:
    """One sliver with data, asked to be started."""
    values.setdefault("data", DATA)
    return desired(sliver_target(5, **values))


def settled(asked: Desired, **values: "Any") -> World:
    """A node where `asked` is carried out."""
    world = World(**values)
    world.settle(asked)
    return world


def at(target: str, **values: "Any") -> World:
    return settled(one(target=target, **values))


def in_node_state(set_state: str, *slivers: "SliverTarget") -> Desired:
    return desired(*(slivers or (sliver_target(5, data=DATA),)), set_state=set_state)


# Up and down


def test_each_target_is_reached_from_each_other_by_just_the_steps_between() -> None:
    for before, after, verbs, state in (
        ("", "register", "", "registered"),
        ("", "deploy", FROM_NOTHING, "deployed"),
        ("", "start", FROM_NOTHING + " " + START_IT, "started"),
        ("register", "deploy", FROM_NOTHING, "deployed"),
        ("register", "start", FROM_NOTHING + " " + START_IT, "started"),
        ("deploy", "register", "remove unmount remove release", "registered"),
        ("deploy", "start", START_IT, "started"),
        ("start", "deploy", "stop remove", "deployed"),
        ("start", "register", TAKE_DOWN + " release", "registered"),
        ("register", "register", "", "registered"),
        ("deploy", "deploy", "", "deployed"),
        ("start", "start", "", "started"),
    ):
        world = at(before) if before else settled(desired())
        if before == "deploy" or before == "start":
            assert world.state(one(target=before), 5) == before + "ed"
        asked = one(target=after)
        assert world.verbs(asked, 5) == verbs, (before, after)
        world.settle(asked)
        assert world.state(asked, 5) == state, (before, after)


def test_nothing_changed_is_an_empty_plan() -> None:
    for target in ("register", "deploy", "start"):
        world = at(target)
        made = world.plan(one(target=target))
        assert made.node_steps == [] and made.sliver_steps == {} and made.boot_sn_done is None, target


def test_the_template_is_not_fetched_again_when_it_is_there() -> None:
    world = at("start")
    other = desired(sliver_target(5, data=DATA), sliver_target(6))
    assert world.verbs(other, 6) == "book allocate format mount populate apply start verify"


def test_a_template_evicted_from_the_cache_does_not_disturb_what_runs() -> None:
    world = at("start")
    world.observed.cached, world.observed.unpacked = [], []
    assert world.verbs(one(), 5) == ""


def test_every_step_says_why_in_one_sentence_and_carries_what_it_is_about() -> None:
    world = World()
    made = world.plan(one())
    for step in made.sliver_steps[NAME]:
        assert step.why.endswith(".") and step.subject == NAME
        assert step.sliver is not None and step.booking is not None and step.booking.nr == 1
    assert [step.subject for step in made.node_steps] == ["node", "node"]


# New instances


def test_a_changed_instance_of_the_sliver_is_allocated_anew_with_its_number_kept() -> None:
    for serial in (1, 7, 0):
        world = settled(desired(sliver_target(6), sliver_target(5, data=DATA, sliver_instance_sn=3)))
        nr = world.bookings[NAME].nr
        asked = desired(sliver_target(6), sliver_target(5, data=DATA, sliver_instance_sn=serial))
        world.observed.cached.remove(DATA.sha256)
        assert world.verbs(asked, 5) == TAKE_DOWN + " fetch_data allocate format mount populate " + START_IT
        world.settle(asked)
        assert world.bookings[NAME].nr == nr and world.content[NAME] == (serial, 0)


def test_a_sliver_deleted_and_made_again_is_allocated_anew() -> None:
    world = at("start")
    uri = sliver_target(5).uri.replace("/105/", "/205/")
    assert world.verbs(one(uri=uri), 5).startswith(TAKE_DOWN + " allocate")


def test_the_registry_at_another_address_changes_nothing() -> None:
    world = at("start")
    moved = sliver_target(5).uri.replace("https://registry.example.org/api/", "http://[fd00::2]/confine/")
    assert world.verbs(one(uri=moved), 5) == ""


def test_a_changed_instance_of_the_slice_is_deployed_anew() -> None:
    for serial in (1, 5, 0):
        world = at("start", slice_instance_sn=3)
        asked = one(slice_instance_sn=serial)
        assert world.verbs(asked, 5) == "stop remove unmount undeploy format mount populate " + START_IT
        world.settle(asked)
        assert world.content[NAME] == (0, serial)


def test_other_changes_wait_for_a_new_instance() -> None:
    world = at("start")
    for changes in (
        {"template": OPENWRT},
        {"data": None},
        {"data": Data("https://x/", "e5" * 32)},
        {"limits": limits(60, 200)},
        {"interfaces": []},
    ):
        asked = one(**changes)
        assert world.verbs(asked, 5) == "", changes
        working = world.plan(asked).working[NAME]
        assert working.template == DEBIAN and working.data == DATA and working.limits == limits(), changes
        assert working.interfaces == sliver_target(5).interfaces


def test_after_a_reboot_a_sliver_runs_as_it_was_allocated() -> None:
    world = at("start")
    world.reboot()
    asked = one(template=OPENWRT, limits=limits(60, 200))
    world.observed.unpacked = []
    world.observed.cached = []
    made = world.plan(asked)
    assert [step.verb for step in made.node_steps] == ["bridge", "install"]
    world.settle(asked)
    assert world.state(asked, 5) == "started"
    assert ("storage", "format", NAME) not in world.done[-12:]


# Keys


def test_changed_keys_are_brought_in_without_a_restart() -> None:
    world = at("start")
    asked = one(keys=[OTHER_KEY])
    assert world.verbs(asked, 5) == "keys"
    world.settle(asked)
    assert world.verbs(asked, 5) == ""


def test_changed_keys_of_a_deployed_sliver_are_brought_in_before_it_starts() -> None:
    world = at("deploy")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    assert world.verbs(one(target="deploy", keys=[OTHER_KEY]), 5) == "mount keys"
    assert world.verbs(one(keys=[OTHER_KEY]), 5) == "mount keys apply start verify"


def test_keys_of_a_blocked_sliver_stay_as_they_are() -> None:
    world = at("start")
    assert world.verbs(one(keys=[], blocked=True), 5) == ""


# After a reboot, crashes, remains


def test_after_a_reboot_slivers_are_mounted_limited_and_started() -> None:
    world = at("start")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    assert world.verbs(one(), 5) == "mount apply start verify"
    assert world.state(one(), 5) == "deployed"


def test_a_deployed_sliver_is_left_unmounted_after_a_reboot() -> None:
    world = at("deploy")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    assert world.verbs(one(target="deploy"), 5) == ""


def test_containers_start_only_when_bridge_and_firewall_are_there() -> None:
    for bridge, firewall in ((False, True), (True, False)):
        world = at("start")
        world.reboot()
        world.observed.bridge, world.observed.firewall = bridge, firewall
        made = world.plan(one())
        assert len(made.node_steps) == 1 and made.node_state == "debug"
        assert made.sliver_steps == {}
        world = World()
        world.observed.bridge, world.observed.firewall = bridge, firewall
        assert world.verbs(one(), 5) == FROM_NOTHING


def test_a_sliver_that_ended_by_itself_is_started_again() -> None:
    world = at("start")
    found = world.observed.slivers[NAME]
    found.running, found.limits_held, found.init_pid = False, None, None
    assert world.verbs(one(), 5) == "apply start verify"


def test_a_sliver_whose_limits_do_not_hold_is_stopped_first() -> None:
    world = at("start")
    found = world.observed.slivers[NAME]
    found.limits_held, found.limited = False, False
    assert world.state(one(), 5) == "fail_start"
    assert "do not hold" in world.messages(one(), 5)
    assert world.verbs(one(), 5) == "stop remove apply start verify"
    world.failures[NAME] = Failure("limits", "verify", "it is broken", 1, world.now + 10)
    assert world.verbs(one(), 5) == "stop remove"
    assert world.verbs(one(blocked=True), 5) == "stop remove"


def test_a_deployment_that_was_not_finished_begins_with_an_empty_file_system() -> None:
    world = at("deploy")
    world.observed.slivers[NAME].deployment = None
    assert world.verbs(one(target="deploy"), 5) == "unmount undeploy format mount populate"
    world.observed.slivers[NAME].mounted = False
    assert world.verbs(one(target="deploy"), 5) == "undeploy format mount populate"


def test_a_directory_without_an_allocation_is_allocated_over() -> None:
    world = World()
    world.observed.slivers[NAME] = SliverObserved(NAME)
    assert world.verbs(one(), 5) == FROM_NOTHING


def test_remains_of_more_than_a_directory_are_removed_first() -> None:
    for member in ("formatted", "mounted", "limited", "running"):
        world = World()
        found = SliverObserved(NAME)
        setattr(found, member, True)
        world.observed.slivers[NAME] = found
        verbs = world.verbs(one(), 5)
        assert verbs.endswith(" remove " + FROM_NOTHING), (member, verbs)
        world.settle(one())
        assert world.state(one(), 5) == "started"


def test_a_lost_booking_is_booked_again_from_the_allocation() -> None:
    world = settled(desired(sliver_target(6), sliver_target(5)))
    before = world.bookings.pop(NAME)
    asked = desired(sliver_target(6), sliver_target(5))
    assert world.verbs(asked, 5) == "book"
    world.settle(asked)
    assert world.bookings[NAME] == before


def test_a_number_that_two_slivers_claim_goes_to_the_one_that_booked_it() -> None:
    world = settled(desired(sliver_target(5), sliver_target(6)))
    asked = desired(sliver_target(5), sliver_target(6))
    six = world.observed.slivers[name_of(6)].allocation
    assert six is not None
    six["nr"] = 1
    world.settle(asked)
    assert sorted(booking.nr for booking in world.bookings.values()) == [1, 2]
    assert world.bookings[NAME].nr == 1


# What is not asked for


def test_a_sliver_that_is_no_longer_listed_is_removed_with_its_number() -> None:
    world = at("start")
    made = world.plan(desired())
    steps = made.sliver_steps[NAME]
    assert " ".join(step.verb for step in steps) == TAKE_DOWN + " release"
    assert all(step.sliver is None for step in steps) and "does not list" in steps[0].why
    world.settle(desired())
    assert world.bookings == {} and world.observed.slivers == {}


def test_nothing_is_removed_while_the_list_is_not_certain() -> None:
    world = at("start")
    unsure = desired()
    unsure.complete = False
    made = world.plan(unsure)
    assert made.sliver_steps == {} and made.states[NAME][0] == "started"
    assert DEBIAN.sha256 in made.keep


def test_remains_of_a_sliver_not_asked_for_are_cleaned_up() -> None:
    for member in ("formatted", "mounted", "limited", "running"):
        world = World()
        found = SliverObserved(NAME)
        setattr(found, member, True)
        world.observed.slivers[NAME] = found
        world.settle(desired())
        assert world.observed.slivers == {}, member


def test_what_is_not_a_sliver_of_this_node_is_left_alone_and_reported() -> None:
    for name in ("lost+found", "../etc", "000000000005_0001", "000000000005-002a", ""):
        world = World()
        world.settle(desired())
        world.observed.slivers[name] = SliverObserved(name, None, None, True, True)
        made = world.plan(desired())
        assert made.sliver_steps == {} and "left alone" in messages(made.node_problems), name


def test_a_booking_without_anything_else_is_released() -> None:
    world = settled(one(target="register"))
    world.bookings[NAME] = at("start").bookings[NAME]
    assert world.verbs(one(target="register"), 5) == "remove remove release"
    world.settle(one(target="register"))
    assert world.bookings == {}


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
    assert world.verbs(one(blocked=True, target="deploy"), 5) == "stop remove"
    assert world.verbs(one(blocked=True, target="register"), 5) == TAKE_DOWN + " release"


def test_a_sliver_that_ran_runs_again_after_a_reboot_though_its_template_was_withdrawn() -> None:
    world = at("start")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    for changes in ({}, {"sliver_instance_sn": 8}, {"slice_instance_sn": 8}, {"template": OPENWRT}):
        asked = one(blocked=True, **changes)
        assert world.verbs(asked, 5) == "mount apply start verify", changes
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
    assert world.verbs(one(target="deploy"), 5) == "stop remove"
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


# The node


def test_each_state_of_the_node_does_to_slivers_what_it_says() -> None:
    for before in ("register", "deploy", "start"):
        for set_state, expected in (("debug", "registered"), ("failure", "registered"), ("safe", "deployed")):
            world = at(before)
            asked = in_node_state(set_state)
            made = world.settle(asked)
            assert made.node_state == set_state
            assert world.state(asked, 5) == expected, (before, set_state)
            assert (NAME in world.bookings) is (expected == "deployed")
            world.settle(one())
            assert world.state(one(), 5) == "started"


def test_the_effective_target_is_shown_after_the_nodes_state() -> None:
    world = World()
    for set_state, target in (
        ("debug", "register"),
        ("failure", "register"),
        ("safe", "deploy"),
        ("production", "start"),
    ):
        made = world.plan(in_node_state(set_state))
        assert made.targets[NAME] == target and made.working[NAME].target == target


def test_debug_removes_also_what_is_not_listed_and_when_the_list_is_unsure() -> None:
    world = at("start")
    asked = desired(set_state="debug")
    asked.complete = False
    world.settle(asked)
    assert world.observed.slivers == {} and world.bookings == {}


def test_without_any_document_of_the_node_nothing_that_runs_is_touched() -> None:
    world = at("start")
    never = Desired(None, [], False, [])
    made = world.plan(never)
    assert made.node_state == "debug" and made.sliver_steps == {} and made.states[NAME][0] == "started"
    never.complete = True
    assert world.plan(never).sliver_steps == {}


def test_the_last_good_state_is_carried_out_after_a_reboot_without_a_registry() -> None:
    world = at("start")
    world.reboot()
    world.settle(one())
    assert world.state(one(), 5) == "started"


def test_a_fault_of_the_node_holds_what_would_go_up_and_takes_nothing_down() -> None:
    for changes in ({}, {"sliver_instance_sn": 1}, {"slice_instance_sn": 1}, {"keys": [OTHER_KEY, KEY]}):
        world = at("start")
        world.settings.registry_uris = []
        asked = desired(sliver_target(5, data=DATA, **changes), sliver_target(6))
        made = world.plan(asked)
        assert made.node_state == "debug" and made.sliver_steps == {}, changes
        assert made.states[NAME][0] == "started" and made.states[name_of(6)][0] == "registered"
    assert world.verbs(one(target="deploy"), 5) == "stop remove"
    assert world.plan(desired()).sliver_steps != {}


def test_a_part_of_the_node_that_cannot_be_put_up_is_tried_again_later() -> None:
    world = World()
    world.fails = {("firewall", "install")}
    world.round(one())
    made = world.plan(one())
    assert made.node_steps == [] and made.node_state == "debug" and made.sliver_steps == {}
    assert "firewall install failed" in messages(made.node_problems)
    world.fails = set()
    world.now += 100
    assert [step.verb for step in world.plan(one()).node_steps] == ["install"]
    world.settle(one())
    assert world.failures == {} and world.state(one(), 5) == "started"


def test_the_first_boot_sn_seen_is_only_noted() -> None:
    world = World()
    made = world.round(desired(boot_sn=4))
    assert made.boot_sn_done == 4 and "reboot" not in [step.verb for step in made.node_steps]
    assert world.round(desired(boot_sn=4)).boot_sn_done is None


def test_a_grown_boot_sn_reboots_once_and_nothing_else_is_done_with_it() -> None:
    world = settled(desired(boot_sn=4))
    asked = desired(sliver_target(5), boot_sn=6)
    made = world.round(asked)
    assert [step.verb for step in made.node_steps] == ["reboot"] and made.boot_sn_done == 6
    assert made.sliver_steps == {} and world.reboots == 1
    world.settle(asked)
    assert world.reboots == 1


def test_a_lower_boot_sn_is_noted_so_that_the_next_growth_counts() -> None:
    world = settled(desired(boot_sn=4))
    world.settle(desired(boot_sn=1))
    assert world.reboots == 0 and world.boot_sn_done == 1
    world.settle(desired(boot_sn=2))
    assert world.reboots == 1


def test_a_node_reboots_in_every_state_it_is_set_to() -> None:
    for set_state in ("debug", "failure", "safe", "production"):
        world = settled(desired(boot_sn=4, set_state=set_state))
        world.settle(desired(boot_sn=5, set_state=set_state))
        assert world.reboots == 1, set_state


# The cache


def test_all_that_slivers_are_made_from_is_kept_in_the_cache() -> None:
    world = at("start")
    asked = desired(
        sliver_target(5, template=OPENWRT, data=None), sliver_target(6, target="register", data=Data("x", "9" * 64))
    )
    assert world.plan(asked).keep == sorted([DEBIAN.sha256, DATA.sha256])
    assert OPENWRT.sha256 in world.plan(desired(sliver_target(6, template=OPENWRT))).keep
    world.settle(desired())
    assert world.plan(desired()).keep == []
