"""The plan for what is asked: every way up, down and round again, on a node that refuses steps out of order."""

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
    settled,
    sliver_target,
)

from confine.core.model import Data, Failure, SliverObserved

NAME = name_of(5)
FROM_NOTHING = "book fetch_template fetch_data allocate unpack_template format mount populate"
START_IT = "apply admit start verify"
TAKE_DOWN = "stop dismiss remove unmount remove"


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
        ("start", "deploy", "stop dismiss remove", "deployed"),
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
    world.observed.cached = []
    assert world.verbs(other, 6) == "book allocate format mount populate apply admit start verify"


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
        assert world.verbs(asked, 5) == "stop dismiss remove unmount undeploy format mount populate " + START_IT
        world.settle(asked)
        assert world.content[NAME] == (0, serial)


def test_a_deployment_of_an_earlier_allocation_is_not_taken_for_the_present_one() -> None:
    world = at("deploy")
    deployment = world.observed.slivers[NAME].deployment
    assert deployment is not None
    deployment["sliver_instance_sn"] = 7
    assert world.verbs(one(target="deploy"), 5) == "unmount undeploy format mount populate"


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
    assert world.verbs(one(keys=[OTHER_KEY]), 5) == "mount keys apply admit start verify"


def test_keys_of_a_blocked_sliver_stay_as_they_are() -> None:
    world = at("start")
    assert world.verbs(one(keys=[], blocked=True), 5) == ""


# After a reboot, crashes, remains


def test_after_a_reboot_slivers_are_mounted_limited_and_started() -> None:
    world = at("start")
    world.reboot()
    world.observed.bridge = world.observed.firewall = True
    assert world.verbs(one(), 5) == "mount apply admit start verify"
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
    assert world.verbs(one(), 5) == "apply admit start verify"


def test_a_sliver_whose_limits_do_not_hold_is_stopped_first() -> None:
    world = at("start")
    found = world.observed.slivers[NAME]
    found.limits_held, found.limited = False, False
    assert world.state(one(), 5) == "fail_start"
    assert "do not hold" in world.messages(one(), 5)
    assert world.verbs(one(), 5) == "stop dismiss remove apply admit start verify"
    assert world.plan(one()).sliver_steps[NAME][0].who == "the node's daemon", "nobody asked for that"
    world.failures[NAME] = Failure("limits", "verify", "it is broken", 1, world.now + 10)
    assert world.verbs(one(), 5) == "stop dismiss remove"
    assert world.verbs(one(blocked=True), 5) == "stop dismiss remove"


def test_what_a_stopped_container_left_is_cleared_away() -> None:
    world = at("start")
    world.observed.slivers[NAME].running, world.observed.slivers[NAME].limits_held = False, None
    assert world.verbs(one(target="deploy"), 5) == "stop dismiss remove"
    assert world.verbs(one(target="register"), 5) == TAKE_DOWN + " release"


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
    again = world.observed.slivers[name_of(6)].allocation
    assert again is not None and again["nr"] == 2


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


def test_a_running_sliver_that_the_firewall_does_not_know_as_it_is_is_admitted_again() -> None:
    world = at("start")
    world.observed.slivers[NAME].admitted = []
    assert world.verbs(one(target="start"), 5) == "admit"
    world.observed.firewall = False
    assert "admit" not in world.verbs(one(target="start"), 5)
