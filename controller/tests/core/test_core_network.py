"""The node's own network: which UCI sections there should be, and what is refused."""

from core_world import NODE_ID, node_target, settings

from confine.core import network
from confine.core.network import BRIDGE, Device, NetworkFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.network import NetworkTarget

MGMT = "fd65:fc41:c50f"
LAN = {".type": "interface", "device": "br-lan", "proto": "static", "ipaddr": ["192.168.1.1/24"]}
BR_LAN = {".type": "device", "name": "br-lan", "type": "bridge", "ports": ["eth0"]}
WAN = {".type": "interface", "device": "eth2", "proto": "dhcp"}


def facts(**values: "Any") -> NetworkFacts:
    """A router: eth0 in br-lan, eth1 free, eth2 the uplink."""
    made: "dict[str, Any]" = {
        "devices": {
            "lo": Device(),
            "eth0": Device(master="br-lan"),
            "eth1": Device(mac="02:00:00:00:00:01"),
            "eth2": Device(),
            "br-lan": Device(BRIDGE),
        },
        "addresses": [],
        "uplinks": ["eth2"],
        "files": {"network": {"lan": dict(LAN), "cfg030f15": dict(BR_LAN), "wan": dict(WAN)}},
        "broken": {},
    }
    made.update(values)
    return NetworkFacts(**made)


def built(found: "NetworkFacts | None" = None, direct: "list[str] | None" = None, **values: "Any") -> "NetworkTarget":
    target = network.build(settings(**values), node_target(direct_ifaces=direct or []), found or facts())
    assert target is not None
    return target


def sections(target: "NetworkTarget") -> "dict[str, Any]":
    return target.sections["network"]


def wrong(target: "NetworkTarget") -> "list[tuple[str, str]]":
    return [(problem.member, problem.message) for problem in target.problems]


def test_the_slivers_bridge_and_the_nodes_addresses_are_sections_of_our_own() -> None:
    found = sections(built(mgmt_ipv6_prefix48=MGMT))
    assert sorted(found) == ["confine_internal", "confine_internal_dev", "confine_mgmt"]
    assert found["confine_internal_dev"] == {
        ".type": "device", "type": "bridge", "name": "br-confine", "bridge_empty": "1", "macaddr": "54:c0:00:2a:00:00",
    }  # fmt: skip
    assert found["confine_internal"]["ipaddr"] == ["192.168.241.126/25"]
    assert found["confine_internal"]["ip6addr"] == ["fdbd:e804:6aa9::1/64"]
    assert found["confine_mgmt"]["ip6addr"] == ["fd65:fc41:c50f:2a::2/64"]


def test_nothing_is_changed_for_a_node_without_an_id_by_hand_or_with_a_broken_file() -> None:
    node = node_target()
    assert network.build(settings(node_id=None), node, facts()) is None
    assert network.build(settings(network_manage=False), node, facts()) is None
    assert network.build(settings(), node, facts(broken={"firewall": "malformed"})) is None
    assert network.build(settings(), node, facts(files={})) is None


def test_a_change_touches_only_sections_that_differ_and_none_of_the_members() -> None:
    found = facts()
    target = built(found, ["eth1"])
    assert set(network.changes(found.files, target)) == {"network"}
    found.files["network"].update(sections(target))
    assert network.changes(found.files, target) == {}
    found.files["network"]["confine_direct_eth1"]["device"] = "eth7"
    found.files["network"]["confine_old"] = {".type": "interface"}
    found.files["network"]["lan"]["proto"] = "dhcp"
    differing = network.changes(found.files, built(found, ["eth1"]))
    assert sorted(differing["network"]) == ["confine_direct_eth1", "confine_old"]
    assert differing["network"]["confine_old"] is None


def test_a_vlan_over_a_direct_interface_is_made_and_both_are_brought_up() -> None:
    target = built(direct=["eth1", "eth1.40"])
    found = sections(target)
    assert found["confine_dev_eth1_40"] == {
        ".type": "device", "type": "8021q", "name": "eth1.40", "ifname": "eth1", "vid": "40",
    }  # fmt: skip
    assert found["confine_direct_eth1"] == {".type": "interface", "device": "eth1", "proto": "none"}
    assert found["confine_direct_eth1_40"]["device"] == "eth1.40"
    assert target.direct == ["eth1", "eth1.40"] and not target.problems
    assert ("eth1.40", None) in target.expected


def test_names_of_sections_stay_different_and_legal() -> None:
    names = ["eth1.40", "eth1_40", "eth1-40", "eth140", "eth1_5f40", "eth1_.40"]
    labels = [network.label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert all(char.isalpha() or char.isdigit() or char == "_" for text in labels for char in text)


def test_the_nodes_own_way_to_the_network_is_no_direct_interface() -> None:
    cases = (
        ("eth2", "the node's default route goes over it"),
        ("eth0", "it is a port of br-lan"),
        ("br-lan", "interface lan of /etc/config/network is on it"),
        ("lo", "it is the loopback"),
        ("br-confine", "the slivers' bridge"),
        ("confine", "overlay"),
    )
    for name, why in cases:
        found = facts()
        found.files["network"]["wan"]["device"] = "eth3"
        target = built(found, [name, "eth1"])
        message = name + " cannot be a direct interface: " + why + ". Take it out of direct_ifaces."
        assert wrong(target) == [("/direct_ifaces/0", message)], wrong(target)
        assert target.direct == ["eth1"] and "confine_direct_" + network.label(name) not in sections(target)


def test_the_community_interface_is_no_direct_interface() -> None:
    target = built(direct=["eth1"], local_ifname="eth1")
    assert "it is node.local_ifname" in wrong(target)[0][1]


def test_a_direct_interface_that_cannot_be_one_is_named() -> None:
    for name in ("eth1.0", "eth1.4095", "eth1.5000", "eth1.040", ".40", "eth1 x", "a/b", "x" * 16, "", "eth1.", "é"):
        target = built(direct=[name, "eth1"])
        assert [member for member, _ in wrong(target)] == ["/direct_ifaces/0"], name
        assert target.direct == ["eth1"], name


def test_a_direct_interface_of_the_members_own_sections_is_used_and_not_defined_twice() -> None:
    found = facts()
    found.files["network"]["mine"] = {
        ".type": "device",
        "type": "8021q",
        "name": "eth1.40",
        "ifname": "eth1",
        "vid": "40",
    }
    found.files["network"]["up"] = {".type": "interface", "device": "eth1.40", "proto": "none"}
    target = built(found, ["eth1.40"])
    assert target.direct == ["eth1.40"] and "confine_dev_eth1_40" not in sections(target)


def test_the_direct_interfaces_stay_while_the_registry_was_never_read() -> None:
    found = facts()
    found.files["network"].update(sections(built(found, ["eth1.40"])))
    target = network.build(settings(), None, found)
    assert target is not None and network.changes(found.files, target) == {}
    target = network.build(settings(), node_target(direct_ifaces=[]), found)
    assert target is not None
    gone = network.changes(found.files, target)["network"]
    assert gone == {"confine_dev_eth1_40": None, "confine_direct_eth1_40": None}


# The community side


def test_a_free_port_gets_a_bridge_with_its_own_mac_and_the_recovery_addresses() -> None:
    target = built(local_ifname="eth1")
    found = sections(target)
    assert found["confine_local_dev"] == {
        ".type": "device", "type": "bridge", "name": "br-local", "ports": ["eth1"], "macaddr": "02:00:00:00:00:01",
    }  # fmt: skip
    assert found["confine_local"]["proto"] == "none" and target.local == "br-local"
    assert found["confine_recovery"]["ipaddr"] == ["192.168.241.130/25"]
    assert found["confine_recovery"]["ip6addr"] == ["fdbd:e804:6aa9:1::2/64", "fdbd:e804:6aa9:2:0:ff:fe00:1/64"]
    assert found["confine_debug"]["ip6addr"] == ["fd5f:eee5:e6ad:2a::2/64"]


def test_the_recovery_addresses_can_be_left_out() -> None:
    assert "confine_recovery" not in sections(built(local_ifname="eth1", network_recovery=False))


def test_the_members_bridge_is_used_as_it_is() -> None:
    for found in (facts(), facts(devices={"br-lan": Device(BRIDGE)}), facts(devices={})):
        target = built(found, local_ifname="br-lan")
        assert target.local == "br-lan" and "confine_local_dev" not in sections(target) and not target.problems
        assert sections(target)["confine_debug"]["device"] == "br-lan"


def test_no_bridge_is_made_over_a_port_that_is_in_use() -> None:
    target = built(local_ifname="eth2")
    assert target.local == "eth2" and "confine_local_dev" not in sections(target)
    assert wrong(target)[0][0] == "/node/local_ifname" and "no bridge" in wrong(target)[0][1]
    target = built(facts(files={"network": {}}), local_ifname="eth2")
    assert target.local == "eth2", "the default route goes over it, whoever set it up"


def test_a_port_of_the_members_bridge_and_an_absent_one_are_named() -> None:
    target = built(local_ifname="eth0")
    assert target.local is None
    assert wrong(target) == [("/node/local_ifname", "eth0 is a port of br-lan: set node.local_ifname to 'br-lan'.")]
    target = built(local_ifname="eth9")
    assert "There is no device 'eth9'" in wrong(target)[0][1]


def test_our_own_bridge_stays_once_it_is_there() -> None:
    found = facts()
    before = sections(built(found, local_ifname="eth1"))
    found.devices["eth1"].master = "br-local"
    found.devices["br-local"] = Device(BRIDGE)
    found.files["network"].update(before)
    assert sections(built(found, local_ifname="eth1")) == before


# Firewall and resolver


def test_zones_and_the_resolver_follow_where_their_files_are() -> None:
    files = {"network": {}, "firewall": {}, "dhcp": {}}
    target = built(facts(files=files))
    assert target.sections["dhcp"]["confine_internal"]["ignore"] == "1"
    zones = {section["name"]: section for section in target.sections["firewall"].values() if section[".type"] == "zone"}
    assert zones["confine_overlay"]["input"] == "REJECT"
    assert zones["confine_internal"]["network"] == ["confine_internal", "confine_mgmt"]
    assert all(name.startswith("confine_") for package in target.sections.values() for name in package)
    assert set(built(facts(files={"network": {}})).sections) == {"network"}


# What came up


def test_what_did_not_come_up_is_named() -> None:
    found = facts()
    target = built(found, ["eth1", "eth5", "eth1.40"])
    messages = [problem.message for problem in network.missing(target, found)]
    assert any("Interface br-confine is not there" in text for text in messages)
    assert any("Interface eth5 is not there: isolated" in text for text in messages)
    found.devices["br-confine"] = Device(BRIDGE)
    found.devices["eth1"] = Device(carrier=False)
    found.devices["eth1.40"] = Device(up=False)
    messages = [problem.message for problem in network.missing(target, found)]
    assert "Direct interface eth1 has no carrier: see to its cable or link." in messages
    assert any("Interface eth1.40 is down" in text for text in messages)
    assert any("Address 192.168.241.126/25 is not on br-confine" in text for text in messages)
    found.addresses = [("br-confine", "192.168.241.126/25"), ("br-confine", "fdbd:e804:6aa9::1/64")]
    assert not any("br-confine" in problem.message for problem in network.missing(target, found))


def test_another_node_id_changes_the_addresses_that_follow_from_it_and_no_more() -> None:
    found = facts()
    before = built(found, ["eth1"], mgmt_ipv6_prefix48=MGMT, local_ifname="br-lan")
    found.files["network"].update(sections(before))
    after = built(found, ["eth1"], mgmt_ipv6_prefix48=MGMT, local_ifname="br-lan", node_id=NODE_ID + 1)
    assert sorted(network.changes(found.files, after)["network"]) == [
        "confine_debug", "confine_internal_dev", "confine_mgmt",
    ]  # fmt: skip


def test_no_zone_of_ours_has_the_node_open_ports_by_what_is_written_into_ftp_and_the_like() -> None:
    target = built(facts(files={"network": {}, "firewall": {}}), local_ifname="eth1")
    zones = [section for section in target.sections["firewall"].values() if section[".type"] == "zone"]
    assert [zone["auto_helper"] for zone in zones] == ["0", "0", "0"]


def test_the_nodes_addresses_on_its_own_bridge_answer_remote_shell_and_ping_and_nothing_else() -> None:
    def local(**values: "Any") -> "Any":
        firewall = built(facts(files={"network": {}, "firewall": {}}), **values).sections["firewall"]
        return {
            name[len("confine_local") :]: part for name, part in firewall.items() if name.startswith("confine_local")
        }

    found = local(local_ifname="eth1")
    assert sorted(found) == ["", "_in", "_ping"]
    assert (found[""]["device"], found[""]["input"], found[""]["forward"]) == (["br-local"], "REJECT", "REJECT")
    assert (found["_in"]["src"], found["_in"]["dest_port"], found["_ping"]["proto"]) == ("confine_local", "22", "icmp")
    assert found["_in"]["dest_ip"] == [
        "192.168.241.130", "fdbd:e804:6aa9:1::2", "fdbd:e804:6aa9:2:0:ff:fe00:1", "fd5f:eee5:e6ad:2a::2",
    ]  # fmt: skip
    assert local(local_ifname="br-lan") == local() == {}  # the member's zone of that bridge decides


def test_peers_of_the_overlay_come_in_at_its_port_from_every_zone_unless_there_is_no_overlay() -> None:
    def peers(port: "int | None" = None, **values: "Any") -> "Any":
        target = network.build(settings(**values), None, facts(files={"network": {}, "firewall": {}}), port)
        assert target is not None
        return target.sections["firewall"].get("confine_overlay_peers")

    rule = {".type": "rule", "name": "confine: overlay peers", "target": "ACCEPT", "src": "*", "proto": ["tcp", "udp"]}
    assert peers() == dict(rule, dest_port="655")
    assert peers(overlay=True, overlay_port=7000) == dict(rule, dest_port="7000")
    assert peers(6550) == dict(rule, dest_port="6550")  # as an image generator's files have it
    assert peers(6550, overlay_port=7000) == dict(rule, dest_port="7000")
    assert peers(overlay=False) is None
