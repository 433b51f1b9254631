"""Changes of the node's network: confirmed or undone, and what they never hold up."""

from core_world import World, node_target, one, settings
from test_core_network import facts

from confine.core import network, network_change
from confine.core.model import Failure
from confine.core.network_change import NetworkObserved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.network_change import NetworkPlan


def observed(**values: "Any") -> NetworkObserved:
    return NetworkObserved(values.pop("facts", None) or facts(), **values)


def planned(found: NetworkObserved, failure: "Failure | None" = None, now: float = 0.0) -> "NetworkPlan":
    return network_change.plan(settings(), node_target(), found, failure, now)


def record(state: str, **values: "Any") -> "dict[str, Any]":
    doc = {"state": state, "wanted": {}, "previous": {}, "before": {}, "reason": "Cut off.", "cut": 0}
    doc.update(values)
    return doc


def verbs(found: NetworkObserved, failure: "Failure | None" = None) -> "list[str]":
    return [step.verb for step in planned(found, failure).steps]


def settled() -> NetworkObserved:
    """All as asked, and up."""
    found = facts()
    target = network.build(settings(), node_target(), found)
    assert target is not None
    found.files["network"].update(target.sections["network"])
    found.addresses = [(device, address) for device, address in target.expected if address is not None]
    found.devices["br-confine"] = network.Device(network.BRIDGE)
    return NetworkObserved(found)


def test_a_difference_is_configured_and_what_is_as_asked_is_left_alone() -> None:
    made = planned(observed())
    assert [step.verb for step in made.steps] == ["configure"]
    assert "network.confine_internal" in made.steps[0].why
    assert made.steps[0].target is not None and "confine_internal" in made.steps[0].target["network"]
    made = planned(settled())
    assert (made.steps, made.problems, made.state) == ([], [], network_change.AS_ASKED)


def test_a_change_waits_until_it_is_known_whether_the_registry_answers() -> None:
    assert verbs(observed(ready=False)) == []


def test_a_change_after_which_all_answers_is_confirmed() -> None:
    assert verbs(observed(change=record("applied"), remaining_s=30.0)) == ["confirm"]


def test_a_change_that_cut_the_node_off_is_undone_in_time_and_not_before() -> None:
    lost = ["no default gateway answers by IPv4"]
    assert verbs(observed(change=record("applied"), lost=lost, remaining_s=5.0)) == []
    made = planned(observed(change=record("applied"), lost=lost, remaining_s=0.0))
    assert [step.verb for step in made.steps] == ["undo"]
    assert "no default gateway answers by IPv4" in made.steps[0].why


def test_a_change_that_was_cut_off_half_way_is_undone_whatever_answers() -> None:
    assert verbs(observed(change=record("written"), remaining_s=30.0)) == ["undo"]


def test_what_was_undone_is_not_tried_again_until_it_is_time_or_another_change_is_asked_for() -> None:
    wanted = planned(observed()).steps[0].target
    made = planned(observed(change=record("undone", wanted=wanted)))
    assert made.steps == [] and made.state == "undone"
    assert "was undone: Cut off." in made.problems[0].message
    assert verbs(observed(change=record("undone", wanted=wanted), retry=True)) == ["configure"]
    assert verbs(observed(change=record("undone", wanted={"network": {}}))) == ["configure"]


def test_a_file_that_cannot_be_read_is_reported_and_nothing_is_changed() -> None:
    made = planned(observed(facts=facts(broken={"network": "/etc/config/network is malformed"})))
    assert made.steps == [] and made.state == network_change.BROKEN
    assert "It is left as it is" in made.problems[0].message


def test_a_failed_step_is_shown_and_waits_while_undoing_does_not() -> None:
    failure = Failure("network", "configure", "no space left", 1, 100.0)
    made = planned(observed(), failure)
    assert made.steps == [] and made.problems[-1].message == "network configure failed: no space left"
    assert verbs(observed(change=record("written")), failure) == ["undo"]
    assert [step.verb for step in planned(observed(), failure, 101.0).steps] == ["configure"]


def test_a_failure_is_forgotten_when_all_is_as_asked() -> None:
    failure = Failure("network", "configure", "no space left", 1, 100.0)
    assert planned(settled(), failure, 101.0).overcome
    assert not planned(observed(), failure, 101.0).overcome


def test_undoing_leaves_what_is_not_ours_alone_whatever_the_record_says() -> None:
    files = {"network": {"lan": {".type": "interface"}, "confine_x": {".type": "interface"}}}
    back = {"network": {"lan": None, "confine_x": None, "confine_y": None}}
    assert network_change.remaining(files, back) == {"network": {"confine_x": None}}


def test_the_way_back_of_a_change_is_what_stood_there() -> None:
    files = {"network": {"confine_a": {".type": "interface", "proto": "none"}}}
    wanted = {"network": {"confine_a": None, "confine_b": {".type": "interface"}}, "dhcp": {"confine_c": None}}
    assert network_change.previous(files, wanted) == {
        "network": {"confine_a": {".type": "interface", "proto": "none"}, "confine_b": None},
        "dhcp": {"confine_c": None},
    }


def test_no_fault_of_the_network_takes_a_sliver_down_or_holds_one_back() -> None:
    world = World()
    world.settle(one())
    for found in (
        observed(change=record("written")),
        observed(change=record("applied"), lost=["the registry is not read"], remaining_s=0.0),
        observed(facts=facts(broken={"network": "malformed"})),
    ):
        world.observed.network = found
        made = world.plan(one())
        assert made.sliver_steps == {} and made.node_state == "production"
        assert [step.driver for step in made.node_steps] in ([], ["network"])
    fresh = World()
    fresh.observed.network = observed(facts=facts(broken={"network": "malformed"}))
    fresh.observed.bridge = fresh.observed.firewall = True
    assert fresh.plan(one()).sliver_steps != {}


# Who has to answer again


def answers(**values: "Any") -> "dict[str, Any]":
    doc: "dict[str, Any]" = {"registry": False, "IPv4": False, "IPv6": False, "overlay": [], "neighbours": []}
    doc.update(values)
    return doc


PEER, OTHER_PEER = "fd65::1", "fd65::2"
NEIGHBOUR = ["eth1", "192.0.2.7", "02:00:00:00:00:07"]


def test_registry_and_gateways_that_answered_have_to_again() -> None:
    before = answers(registry=True, IPv4=True, IPv6=True)
    assert network_change.lost(before, before) == []
    assert network_change.lost(before, answers(IPv4=True, IPv6=True), "timed out") == [
        "the registry is not read (timed out)"
    ]
    assert network_change.lost(before, answers(registry=True, IPv6=True)) == ["no default gateway answers by IPv4"]
    assert len(network_change.lost(before, answers())) == 3


def test_where_registry_or_a_gateway_answers_no_neighbour_and_no_peer_undoes_a_change() -> None:
    for way in ("registry", "IPv4", "IPv6"):
        before = answers(overlay=[PEER], neighbours=[NEIGHBOUR], **{way: True})
        assert network_change.lost(before, answers(**{way: True})) == []
        assert network_change.lost(before, answers(overlay=[PEER], neighbours=[NEIGHBOUR])) != []


def test_one_peer_of_those_that_answered_suffices_and_neighbours_do_not_stand_in_for_it() -> None:
    before = answers(overlay=[PEER, OTHER_PEER], neighbours=[NEIGHBOUR])
    assert network_change.lost(before, answers(overlay=[OTHER_PEER])) == []
    assert network_change.lost(before, answers(overlay=["fd65::3"], neighbours=[NEIGHBOUR])) == [
        "no peer of the overlay answers that did, fd65::1 for one"
    ]


def test_a_neighbour_is_known_again_by_its_hardware_address_alone() -> None:
    before = answers(neighbours=[NEIGHBOUR, ["eth1", "192.0.2.8", "02:00:00:00:00:08"]])
    assert network_change.lost(before, answers(neighbours=[["br-local", "192.0.2.99", NEIGHBOUR[2]]])) == []
    stranger = ["eth1", NEIGHBOUR[1], "02:00:00:00:00:66"]
    assert network_change.lost(before, answers(neighbours=[stranger])) == [
        "no neighbour answers that did, 192.0.2.7 for one"
    ]


def test_where_nobody_answered_before_nothing_can_be_lost() -> None:
    assert network_change.lost(answers(), answers()) == []
    assert network_change.lost({"neighbours": [["eth0", "192.0.2.7"]]}, answers()) == []


def test_with_another_management_address_what_only_the_overlay_leads_to_does_not_count() -> None:
    def change(before: str, after: str) -> "dict[str, Any]":
        files = {"network": {"confine_mgmt": {"ip6addr": [before]}}}
        wanted = {"network": {"confine_mgmt": {"ip6addr": [after]}}}
        return network_change.without_overlay(everybody, files, wanted, node)

    everybody = answers(registry=True, IPv4=True, overlay=[PEER], neighbours=[NEIGHBOUR])
    node = settings(mgmt_ipv6_prefix48="fd65:fc41:c50f", registry_uris=["http://[fd65:fc41:c50f::1]/api/"])
    left = change("fd65:fc41:c50f:1::2/64", "fd65:fc41:c50f:9::2/64")
    assert (left["registry"], left["overlay"]) == (False, [])
    assert network_change.lost(left, answers()) == ["no default gateway answers by IPv4"]
    assert network_change.lost(left, answers(IPv4=True)) == []
    assert change("fd65:fc41:c50f:1::2/64", "fd65:fc41:c50f:1::2/64") == everybody
    for outside in ("https://registry.example/api/", "https://[2001:db8::1]/api/", "https://192.0.2.1/api/"):
        node.registry_uris = ["http://[fd65:fc41:c50f::1]/api/", outside]
        left = change("fd65:fc41:c50f:1::2/64", "fd65:fc41:c50f:9::2/64")
        assert (left["registry"], left["overlay"]) == (True, [])
    assert network_change.without_overlay(everybody, {}, {"network": {"confine_mgmt": None}}, node) == everybody
