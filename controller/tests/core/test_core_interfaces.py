"""What each interface of a sliver is, and what is booked for it."""

from core_world import node_target, settings, sliver_target

from confine.core import interfaces
from confine.core.booking import Ledger
from confine.core.model import Booking, Interface, Observed
from confine.core.resources import Size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.interfaces import SliverInterface
    from confine.core.model import Problem

MGMT = "fd65:fc41:c50f"


def asked(*types: str) -> "list[Interface]":
    """Interfaces numbered as registries do: one of each type."""
    numbers = {"private": 0, "management": 1, "public4": 2, "public6": 3, "debug": 4, "isolated": 5}
    return [Interface(numbers[kind], kind[:4] + "0", kind, "eth1" if kind == "isolated" else None) for kind in types]


def of(*types: str, booking: "Booking | None" = None, **values: "Any") -> "list[SliverInterface]":
    """The interfaces of sliver 5 with number 3."""
    sliver = sliver_target(5, interfaces=asked(*types))
    values.setdefault("mgmt_ipv6_prefix48", MGMT)
    found, problems = interfaces.of_sliver(sliver, booking or booked(), settings(**values))
    assert problems == [], problems
    return found


def booked(slice_id: int = 5, nr: int = 3, tag: "int | None" = None, **addresses: str) -> Booking:
    """A booking; addresses as _2="192.0.2.1/24"."""
    name = sliver_target(slice_id).name
    return Booking(str(slice_id) + "@42", name, nr, 50, 100, tag, {key[1:]: value for key, value in addresses.items()})


def why_not(sliver_values: "dict[str, Any]", booking: Booking, **values: "Any") -> "list[Problem]":
    """The problems of sliver 5."""
    return interfaces.of_sliver(sliver_target(5, **sliver_values), booking, settings(**values))[1]


def test_a_private_interface_has_the_addresses_of_the_node_api_and_goes_out_through_the_node() -> None:
    private = of("private")[0]
    assert (private.port, private.bridge, private.mac) == ("slv-03-00", "br-confine", "54:c0:00:2a:03:00")
    assert private.ipv4 == ["192.168.241.3/25"]
    assert private.ipv6 == ["fdbd:e804:6aa9:0:1000::5/64"]
    assert private.routes == [("0.0.0.0/0", "192.168.241.126", 0), ("::/0", "fdbd:e804:6aa9::1", 0)]


def test_a_public_interface_is_preferred_to_the_private_one() -> None:
    private, public = of("private", "public4", booking=booked(_2="192.0.2.9/28"), public4_proto="static",
                         public4_pool=["192.0.2.9/28"], public4_gateway="192.0.2.1")  # fmt: skip
    assert public.ipv4 == ["192.0.2.9/28"]
    assert public.routes[0][:2] == ("0.0.0.0/0", "192.0.2.1")
    assert public.routes[0][2] < private.routes[0][2]


def test_a_management_interface_lies_in_the_nodes_64_and_fits_through_the_overlay() -> None:
    management = of("private", "management")[1]
    assert management.ipv6 == [MGMT + ":2a:1001::5/64"]
    assert management.routes == [(MGMT + "::/48", MGMT + ":2a::2", 0)]
    assert (management.bridge, management.mtu) == ("br-confine", 1400)


def test_a_debug_interface_is_on_the_local_link() -> None:
    debug = of("private", "debug")[1]
    assert (debug.bridge, debug.ipv6) == ("br-local", ["fd5f:eee5:e6ad:2a:1004::5/64"])
    assert of("private", "debug", local_ifname="br-lan")[1].bridge == "br-lan"


def test_with_dhcp_no_address_is_known_before_the_server_gave_one() -> None:
    public = of("private", "public4", public4_proto="dhcp")[1]
    assert (public.dhcp, public.ipv4, public.routes) == (True, [], [])


def test_a_public6_interface_without_a_gateway_listens_to_routers() -> None:
    public = of("private", "public6", booking=booked(_3="2001:db8:1:2:1003::5/64"), public6_prefix="2001:db8:1:2")[1]
    assert (public.ipv6, public.router_adverts) == (["2001:db8:1:2:1003::5/64"], True)


def test_an_isolated_interface_is_a_vlan_of_its_slice_over_the_parent() -> None:
    isolated = of("private", "isolated", booking=booked(tag=0x123))[1]
    assert (isolated.port, isolated.vlan, isolated.bridge, isolated.mac) == ("slv-03-05", "iso-03-05", None, None)
    assert (isolated.parent, isolated.tag, isolated.mtu) == ("eth1", 0x123, 1500)


def test_a_vlan_over_a_vlan_leaves_room_for_both_tags() -> None:
    sliver = sliver_target(5, interfaces=[Interface(5, "iso0", "isolated", "eth1.40")])
    found, _ = interfaces.of_sliver(sliver, booked(tag=0x123), settings())
    assert found[0].mtu == 1496


def test_an_interface_that_cannot_be_had_is_named_and_the_others_stand() -> None:
    sliver = sliver_target(5, interfaces=asked("private", "management", "isolated"))
    found, problems = interfaces.of_sliver(sliver, booked(), settings())
    assert [interface.type for interface in found] == ["private"]
    assert [problem.member for problem in problems] == ["/interfaces/1", "/interfaces/2"]
    assert "mgmt_ipv6_prefix48" in problems[0].message
    assert "no VLAN tag" in problems[1].message


def test_the_nodes_own_interfaces_are_refused_as_parents_by_name() -> None:
    for parent in ("eth0", "br-local", "br-confine", "slv-01-00", "tinc0", "", None):
        wrong = interfaces.parent_refused(parent, settings(local_ifname="eth0"))
        assert wrong is not None, parent
    assert interfaces.parent_refused("eth1", settings(local_ifname="eth0")) is None
    assert "rd_if_iso_parents" in str(interfaces.parent_refused("eth1", settings(isolated_parents=["eth2"])))


def test_two_isolated_interfaces_of_one_sliver_on_one_parent_are_one_too_many() -> None:
    both = [Interface(5, "iso0", "isolated", "eth1"), Interface(6, "iso1", "isolated", "eth1")]
    problems = why_not({"interfaces": both}, booked(tag=0x123))
    assert [problem.message for problem in problems] == ["iso1: iso0 is on eth1 already, with this tag."]


def test_no_more_than_sixteen_interfaces_are_made() -> None:
    many = [Interface(nr, "a" + str(nr), "debug", None) for nr in range(17)]
    assert [problem.member for problem in why_not({"interfaces": many}, booked())] == ["/interfaces/16"]


# Booking


def book(sliver: "Any", booking: Booking, others: "list[Booking]", **values: "Any") -> "tuple[Booking, str, str]":
    """The booking and all that was said, refused and waiting."""
    made, refused, waiting = interfaces.book(sliver, booking, others, settings(**values))
    return made, " ".join(p.message for p in refused), " ".join(p.message for p in waiting)


def test_the_tag_of_the_slice_is_taken_over_and_given_up_with_it() -> None:
    sliver = sliver_target(5, interfaces=asked("private", "isolated"), vlan_tag=0x200)
    made, _, waiting = book(sliver, booked(), [])
    assert (made.vlan_tag, waiting) == (0x200, "")
    made, _, waiting = book(sliver_target(5, interfaces=asked("private", "isolated")), made, [])
    assert made.vlan_tag is None
    assert "no VLAN tag" in waiting


def test_a_tag_out_of_range_is_not_used() -> None:
    for tag in (1, 0xFF, 0x1000):
        made, _, waiting = book(sliver_target(5, interfaces=asked("isolated"), vlan_tag=tag), booked(), [])
        assert made.vlan_tag is None
        assert "0x100-0xfff" in waiting


def test_a_tag_given_to_another_slice_waits_for_the_sliver_that_still_has_it() -> None:
    sliver = sliver_target(6, interfaces=asked("private", "isolated"), vlan_tag=0x200)
    made, _, waiting = book(sliver, booked(6, 4), [booked(5, 3, 0x200)])
    assert made.vlan_tag is None
    assert sliver_target(5).name in waiting
    assert book(sliver, booked(6, 4), [booked(5, 3)])[0].vlan_tag == 0x200


def test_a_public_address_stays_with_its_sliver_and_none_is_given_twice() -> None:
    pool = {"public4_proto": "static", "public4_pool": ["192.0.2.1/24", "192.0.2.2/24"]}
    sliver = sliver_target(5, interfaces=asked("private", "public4"))
    first = book(sliver, booked(), [], **pool)[0]
    assert first.addresses == {"2": "192.0.2.1/24"}
    second = book(sliver, booked(6, 4), [first], **pool)[0]
    assert second.addresses == {"2": "192.0.2.2/24"}
    assert book(sliver, second, [], **pool)[0] == second
    assert "all 2 public" in book(sliver, booked(7, 5), [first, second], **pool)[1]


def test_a_node_lends_no_more_public_addresses_than_its_member_says() -> None:
    sliver = sliver_target(5, interfaces=asked("public4"))
    values = {"public4_proto": "static", "public4_pool": ["192.0.2.1/24"], "public4_avail": 0}
    assert book(sliver, booked(), [], **values)[0].addresses == {}


def test_a_sliver_that_asks_for_public_addresses_is_not_let_in_where_there_are_none() -> None:

    ledger = Ledger({}, Observed({}, [], [], True, True, 0, 0, 0))
    sliver = sliver_target(5, interfaces=asked("private", "public4"))
    booking, problems = ledger.admit(sliver, node_target(), settings(), Size(1000, 1000))
    assert booking is None
    assert "sl_public_ipv4_proto" in problems[0].message
