"""What the node shows of itself and its slivers."""

import json

from core_world import DATA, NODE_ID, World, desired, limits, name_of, node_target, sliver_target

from confine.core import report, rsa
from confine.core.model import Desired, Interface, Problem
from confine.core.overlay import OverlayFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = name_of(5)
INTERFACES = [
    Interface(0, "priv", "private", None),
    Interface(1, "mgmt0", "management", None),
    Interface(4, "dbg0", "debug", None),
    Interface(5, "iso0", "isolated", "eth1"),
]


def sliver_doc(world: World, asked: Desired, name: str = NAME) -> "dict[str, Any]":
    made = world.plan(asked)
    doc = report.sliver(name, asked, made, world.observed, world.bookings, world.settings)
    decoded: "dict[str, Any]" = json.loads(json.dumps(doc))
    assert decoded == doc
    return doc


def node_doc(world: World, asked: Desired) -> "dict[str, Any]":
    doc = report.node(asked, world.plan(asked), world.observed, world.bookings, world.settings)
    decoded: "dict[str, Any]" = json.loads(json.dumps(doc))
    assert decoded == doc
    return doc


def test_a_started_sliver_shows_its_number_addresses_and_sizes() -> None:
    world = World(mgmt_ipv6_prefix48="fdc0:7246:b03f")
    asked = desired(sliver_target(5, data=DATA, interfaces=INTERFACES, vlan_tag=0x101))
    world.settle(asked)
    doc = sliver_doc(world, asked)
    assert (doc["id"], doc["name"], doc["state"], doc["set_state"], doc["nr"]) == ("5@42", NAME, "started", "start", 1)
    assert doc["address"] == "192.168.241.1/25" and doc["errors"] == []
    private, management, debug, isolated = doc["interfaces"]
    assert private["ipv6_addr"] == "fdbd:e804:6aa9:0:1000::5/64" and private["mac_addr"] == "54:c0:00:2a:01:00"
    assert management["ipv6_addr"] == "fdc0:7246:b03f:2a:1001::5/64" and management["ipv4_addr"] is None
    assert debug["ipv6_addr"] == "fd5f:eee5:e6ad:2a:1004::5/64"
    assert isolated["vlan_tag"] == 0x101 and isolated["mac_addr"] is None and isolated["parent_name"] == "eth1"
    assert doc["resources"][0] == {"name": "disk", "req": 100, "unit": "MiB", "alloc": 100}
    assert doc["limits"]["memory_mib"] == 50 and doc["limits"]["held"] is True
    assert doc["template"]["name"] == "Debian" and doc["data_sha256"] == DATA.sha256


def test_a_sliver_that_is_refused_shows_why_and_has_no_addresses() -> None:
    world = World()
    doc = sliver_doc(world, desired(sliver_target(5, limits=limits(9000))))
    assert (doc["state"], doc["nr"], doc["address"]) == ("fail_allocate", None, None)
    assert doc["errors"][0]["member"] == "/resources" and "9000" in doc["errors"][0]["message"]
    assert doc["resources"][1] == {"name": "memory", "req": 9000, "unit": "MiB", "alloc": None}
    assert doc["limits"]["held"] is None


def test_what_was_allocated_is_shown_beside_what_is_asked_now() -> None:
    world = World()
    world.settle(desired(sliver_target(5)))
    doc = sliver_doc(world, desired(sliver_target(5, limits=limits(60, 200))))
    assert doc["resources"][0] == {"name": "disk", "req": 200, "unit": "MiB", "alloc": 100}
    assert doc["limits"]["disk_mib"] == 100


def test_a_sliver_that_is_being_removed_is_still_shown() -> None:
    world = World()
    world.settle(desired(sliver_target(5)))
    doc = sliver_doc(world, desired())
    assert (doc["id"], doc["state"], doc["set_state"], doc["nr"]) == ("5@42", "started", None, 1)
    assert doc["slice_name"] is None and doc["limits"]["disk_mib"] == 100


def test_a_target_that_is_not_known_is_not_made_up() -> None:
    world = World()
    unknown = sliver_target(
        5, sliver_instance_sn=-1, template=None, blocked=True, problems=[Problem("", "Unreadable.")]
    )
    doc = sliver_doc(world, desired(unknown))
    assert doc["set_state"] is None and doc["instance_sn"] is None
    assert doc["errors"] == [{"member": "", "message": "Unreadable."}]


def test_the_node_shows_state_addresses_and_what_can_still_be_lent() -> None:
    world = World(memory=1064, disk=5128, mgmt_ipv6_prefix48="fdc0:7246:b03f")
    asked = desired(sliver_target(5))
    world.settle(asked)
    doc = node_doc(world, asked)
    assert (doc["id"], doc["state"], doc["set_state"], doc["message"]) == (NODE_ID, "production", "production", "")
    assert doc["addrs"]["mgmt"] == "fdc0:7246:b03f:2a::2/64" and doc["addrs"]["internal_ipv4"] == "192.168.241.126/25"
    assert doc["addrs"]["recovery_ipv6"] == "fdbd:e804:6aa9:1::2/64"
    assert [(entry["name"], entry["avail"]) for entry in doc["resources"]] == [("disk", 4900), ("memory", 950)]
    assert report.lent(world.observed, world.bookings, world.settings) == {
        "memory_booked": 50, "memory_total": 1000, "disk_booked": 100, "disk_total": 5000,
    }  # fmt: skip


def test_a_node_that_was_never_read_shows_what_it_knows() -> None:
    world = World()
    doc = node_doc(world, Desired(None, [], False, []))
    assert (doc["id"], doc["state"], doc["set_state"], doc["name"]) == (NODE_ID, "debug", None, None)
    assert doc["message"] != "" and doc["addrs"]["mgmt"] is None
    world.settings.node_id = None
    assert node_doc(world, Desired(None, [], False, []))["id"] is None


def test_each_error_is_shown_once() -> None:
    world = World()
    twice = Desired(node_target(problems=[Problem("/x", "Odd."), Problem("/x", "Odd.")]), [], True, [])
    world.settle(twice)
    assert node_doc(world, twice)["errors"] == [{"member": "/x", "message": "Odd."}]


def test_the_node_shows_the_tinc_key_that_it_really_has() -> None:
    world = World(mgmt_ipv6_prefix48="fd65:fc41:c50f", overlay=True)
    key = rsa.Numbers(b"\xc3" * 256, b"\1\0\1")
    asked = desired(sliver_target(5))
    assert node_doc(world, asked)["tinc"] is None
    world.observed.overlay = OverlayFound(key=key, pid=1)
    assert node_doc(world, asked)["tinc"] == {"name": "node_42", "pubkey": rsa.public_pem(key)}
