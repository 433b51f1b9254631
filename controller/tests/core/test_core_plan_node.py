"""The plan and the node: its states, its own faults, reboots, its cache."""

from core_world import (
    DATA,
    DEBIAN,
    KEY,
    OPENWRT,
    OTHER_KEY,
    World,
    at,
    desired,
    messages,
    name_of,
    one,
    settled,
    sliver_target,
)

from confine.core.model import Data, Desired

NAME = name_of(5)


# The node


def test_each_state_of_the_node_does_to_slivers_what_it_says() -> None:
    for before in ("register", "deploy", "start"):
        for set_state, expected in (("debug", "registered"), ("failure", "registered"), ("safe", "deployed")):
            world = at(before)
            asked = desired(sliver_target(5, data=DATA), set_state=set_state)
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
        made = world.plan(desired(sliver_target(5, data=DATA), set_state=set_state))
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
    assert world.plan(desired(sliver_target(5, target="register"), set_state="")).sliver_steps == {}
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
    assert world.verbs(one(target="deploy"), 5) == "stop dismiss remove"
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


def test_settings_that_do_not_say_which_node_this_is_leave_the_bridge_alone_and_have_the_firewall_watched() -> None:
    world = at("start")
    world.settings.node_id = None
    world.observed.bridge = world.observed.firewall = False  # as other settings find them
    never = Desired(None, [], False, [])
    for running in (True, False):
        world.observed.slivers[NAME].running = running
        assert [(step.driver, step.verb) for step in world.plan(never).node_steps] == [("firewall", "install")]


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
