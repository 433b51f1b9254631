"""A running sliver's interfaces follow what is asked, without a start; what outlives it is removed."""

from core_world import World, desired, settings, sliver_target

from confine.core import interfaces, report, wiring
from confine.core.model import Booking, Failure, Interface
from confine.core.wiring import Link, Port, Wired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Desired, SliverTarget

NAME = sliver_target(5).name
PRIVATE, DEBUG = Interface(0, "priv", "private", None), Interface(4, "dbg0", "debug", None)
ISOLATED = Interface(5, "iso0", "isolated", "eth1")


def asked(*extra: Interface, **values: "Any") -> "Desired":
    """One sliver with a private interface and those."""
    return desired(sliver_target(5, interfaces=[PRIVATE] + list(extra), **values))  # noqa: RUF005


def links() -> "dict[str, Link]":
    """A node with all bridges and a direct interface."""
    return {
        "br-confine": Link(True, None, "54:c0:00:2a:00:00", True, True),
        "br-local": Link(True, None, "02:00:00:00:00:01", True, True),
        "eth1": Link(False, None, "02:00:00:00:00:02", True, True),
    }


def running(what: "Desired", **values: "Any") -> World:
    """A node where it runs, interfaces and all."""
    world = World(**values)
    world.wires = True
    world.observed.links = links()
    world.settle(what)
    return world


def test_a_sliver_whose_interfaces_are_as_asked_is_left_alone() -> None:
    what = asked(DEBUG, ISOLATED, vlan_tag=0x123, egress_kbit=1000)
    assert running(what).verbs(what, 5) == ""


def test_a_device_that_the_node_needs_itself_gets_no_vlan_of_slices_whatever_the_registry_lists() -> None:
    what = asked(ISOLATED, vlan_tag=0x123)
    world = World()
    world.wires = True
    world.observed.links = links()
    world.observed.links["eth1"].own = "the node's default route goes over it"
    world.settle(what)
    found = world.observed.slivers[NAME].wired
    assert found is not None and found.vlans == {} and list(found.ports) == ["slv-01-00"]
    assert "eth1 is never given to slivers: the node's default route goes over it" in world.messages(what, 5)
    world = running(what)
    world.observed.links["eth1"].own = "the node's default route goes over it"
    assert world.verbs(what, 5) == "attach", "it is taken from a sliver that has it"
    world.settle(what)
    assert world.observed.slivers[NAME].wired.vlans == {}  # type: ignore[union-attr]


def test_an_interface_that_is_gone_or_off_its_bridge_is_made_again_without_a_start() -> None:
    what = asked(DEBUG)
    for spoil in (
        lambda wired: wired.ports.pop("slv-01-04"),
        lambda wired: setattr(wired.ports["slv-01-04"], "bridge", None),
        lambda wired: setattr(wired.ports["slv-01-00"], "bridge", "br-lan"),
        lambda wired: setattr(wired.ports["slv-01-00"], "isolated", False),
        lambda wired: setattr(wired.ports["slv-01-04"], "mark", "half made"),
        lambda wired: wired.ports.update({"slv-01-09": Port("br-local", True, "")}),
    ):
        world = running(what)
        wired = world.observed.slivers[NAME].wired
        assert wired is not None
        spoil(wired)
        assert world.verbs(what, 5) == "attach"


def test_a_new_tag_of_the_slice_is_booked_and_moves_the_interface() -> None:
    world = running(asked(ISOLATED, vlan_tag=0x123))
    what = asked(ISOLATED, vlan_tag=0x124)
    assert world.verbs(what, 5) == "book attach"
    world.settle(what)
    assert world.observed.slivers[NAME].wired.vlans == {"iso-01-05": ("eth1", 0x124)}  # type: ignore[union-attr]


def test_a_tag_taken_from_the_slice_takes_the_interface_and_says_so() -> None:
    world = running(asked(ISOLATED, vlan_tag=0x123))
    what = asked(ISOLATED)
    world.settle(what)
    assert "slv-01-05" not in world.observed.slivers[NAME].wired.ports  # type: ignore[union-attr]
    assert "no VLAN tag" in world.messages(what, 5)
    assert world.state(what, 5) == "started"


def test_a_tag_freed_and_given_to_another_slice_changes_hands_in_this_order() -> None:
    both = [PRIVATE, ISOLATED]
    first, second = sliver_target(5, interfaces=both, vlan_tag=0x123), sliver_target(6, interfaces=both)
    world = running(desired(first, second))
    first, second = sliver_target(5, interfaces=both), sliver_target(6, interfaces=both, vlan_tag=0x123)
    world.settle(desired(first, second))
    tags = {name: booking.vlan_tag for name, booking in world.bookings.items()}
    assert tags == {first.name: None, second.name: 0x123}


def test_a_sliver_that_stays_keeps_its_tag_from_others_and_one_removed_gives_it_back() -> None:
    both = [PRIVATE, ISOLATED]
    first, second = sliver_target(5, interfaces=both, vlan_tag=0x123), sliver_target(6, interfaces=both, vlan_tag=0x123)
    world = running(desired(first, second))
    assert "still held by sliver " + NAME in world.messages(desired(first, second), 6)
    world.settle(desired(second))
    assert world.bookings[second.name].vlan_tag == 0x123
    assert world.messages(desired(second), 6) == ""


def test_an_interface_waits_for_what_the_node_lacks_and_the_sliver_runs_without() -> None:
    what = asked(DEBUG, ISOLATED, vlan_tag=0x123)
    for name, words in (("eth1", "eth1 is not there now"), ("br-local", "no bridge br-local now")):
        world = running(what)
        wired, lost = world.observed.slivers[NAME].wired, world.observed.links.pop(name)
        assert wired is not None
        wired.vlans.pop("iso-01-05") if name == "eth1" else setattr(wired.ports["slv-01-04"], "bridge", None)
        assert world.verbs(what, 5) == "", "its port stays"
        assert words in world.messages(what, 5)
        assert world.state(what, 5) == "started"
        world.observed.links[name] = lost
        assert world.verbs(what, 5) == "attach"
    world = running(what)
    world.observed.links["eth1"].up = False
    world.settle(what)
    assert "eth1 is down now" in world.messages(what, 5)


def test_an_interface_that_waits_and_is_asked_for_otherwise_meanwhile_goes() -> None:
    world = running(asked(ISOLATED, vlan_tag=0x123))
    world.observed.links["eth1"].up = False
    what = asked(ISOLATED, vlan_tag=0x124)
    assert world.verbs(what, 5) == "book attach", "its tag may be another slice's"
    world.settle(what)
    assert "slv-01-05" not in world.observed.slivers[NAME].wired.ports  # type: ignore[union-attr]


def test_the_port_of_the_community_bridge_is_no_direct_interface() -> None:
    world = running(asked(ISOLATED, vlan_tag=0x123))
    world.observed.links["eth1"].master = "br-local"
    what = asked(ISOLATED, vlan_tag=0x123)
    assert "never given to slivers" in world.messages(what, 5)
    assert world.verbs(what, 5) == "attach", "it is taken from the sliver"


def test_what_cannot_be_made_is_told_and_tried_again_later() -> None:
    what = asked(DEBUG)
    world = running(what)
    world.observed.slivers[NAME].wired.ports.pop("slv-01-04")  # type: ignore[union-attr]
    world.failures[NAME] = Failure("interfaces", "attach", "address taken", 1, world.now + 10)
    assert world.verbs(what, 5) == ""
    assert "address taken" in world.messages(what, 5)
    assert world.plan(what).overcome == []
    world.now += 20
    assert world.verbs(what, 5) == "attach"
    world.settle(what)
    assert world.failures == {}


def test_what_outlives_a_sliver_is_removed_with_it() -> None:
    what = asked(ISOLATED, vlan_tag=0x123, egress_kbit=1000)
    world = running(what)
    assert world.verbs(desired(), 5) == "stop dismiss remove detach unmount remove release"
    world.observed.slivers[NAME].running = False
    world.observed.slivers[NAME].wired.ports = {}  # type: ignore[union-attr]
    assert "detach" in world.verbs(desired(sliver_target(5, target="deploy")), 5)


def test_bounds_are_even_parts_of_a_total_and_read_back() -> None:
    sliver = sliver_target(5, egress_kbit=2000)
    own = wiring.shape(sliver, settings())
    assert own == {"up": {"rate": 2000, "ceil": 2000, "total": None}, "down": None}
    shared = wiring.shape(sliver, settings(egress_total_kbit=12500, ingress_total_kbit=1000))
    assert shared["up"] == {"rate": 100, "ceil": 2000, "total": 12500}
    assert shared["down"] == {"rate": 8, "ceil": 1000, "total": 1000}
    world = running(asked(egress_kbit=2000))
    world.observed.slivers[NAME].wired.rates = {"up": (1000, 1000, None)}  # type: ignore[union-attr]
    assert world.verbs(asked(egress_kbit=2000), 5) == "attach"


def test_a_mark_stands_for_all_that_is_asked_for() -> None:
    def marks(sliver: "SliverTarget", tag: int) -> "list[str]":
        booking = Booking(sliver.key, NAME, 1, 1, 1, tag)
        made = interfaces.of_sliver(sliver, booking, settings())[0]
        return [wiring.mark(one, wiring.shape(sliver, settings())) for one in made]

    sliver = sliver_target(5, interfaces=[PRIVATE, ISOLATED])
    before = marks(sliver, 0x123)
    assert before[0] == "" and before[1] != ""
    assert marks(sliver, 0x123) == before
    assert marks(sliver, 0x124)[1] != before[1]
    bounded = marks(sliver_target(5, interfaces=[PRIVATE, ISOLATED], ingress_kbit=100), 0x123)
    assert bounded[0] != "" and bounded[1] != before[1]


def test_what_was_never_looked_at_is_not_changed() -> None:
    world = World()
    world.settle(asked(DEBUG))
    assert world.verbs(asked(DEBUG), 5) == ""
    assert Wired() == Wired({}, {}, {})


def test_the_slivers_document_says_what_is_bounded_and_whether_it_holds() -> None:
    what = asked(egress_kbit=2000)
    world = running(what)

    def shown() -> "dict[str, Any]":
        return report.sliver(NAME, what, world.plan(what), world.observed, world.bookings, world.settings)["bandwidth"]

    assert shown() == {"egress": {"kbit": 2000, "held": True}, "ingress": {"kbit": None, "held": None}}
    world.observed.slivers[NAME].wired.rates = {}  # type: ignore[union-attr]
    assert shown()["egress"] == {"kbit": 2000, "held": False}


def test_the_slivers_document_has_the_addresses_of_its_interfaces_as_they_are_known() -> None:
    public = Interface(2, "pub0", "public4", None)
    what = asked(public, ISOLATED, vlan_tag=0x123)
    world = running(what, public4_proto="dhcp")

    def shown(nr: int) -> "dict[str, Any]":
        doc = report.sliver(NAME, what, world.plan(what), world.observed, world.bookings, world.settings)
        return [entry for entry in doc["interfaces"] if entry["nr"] == nr][0]

    assert (shown(5)["mac_addr"], shown(5)["vlan_tag"]) == ("02:00:00:00:00:02", 0x123)
    assert shown(2)["ipv4_addr"] is None
    assert "no DHCP server" in world.messages(what, 5)
    world.observed.slivers[NAME].wired.leases = {"slv-01-02": "198.51.100.77"}  # type: ignore[union-attr]
    assert shown(2)["ipv4_addr"] == "198.51.100.77"
    assert "no DHCP server" not in world.messages(what, 5)
    world.observed.slivers[NAME].wired.unleased = {"slv-01-02": "taken by another"}  # type: ignore[union-attr]
    assert "taken by another" in world.messages(what, 5)
