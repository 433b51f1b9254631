"""The node's own network: what it writes into UCI, what comes up, and how it gets back what a change cut off.

Each test has a node of its own, on which slivers run. eth1 is a dummy link made by hand.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemu.following import FOLLOW_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]

RECORD = "/etc/confine/network-change.json"
GATEWAY = "192.168.241.126"
CUT = """table inet cut {
	chain out {
		type filter hook output priority 0
		oifname "eth0" meta l4proto tcp drop
	}
}
"""
ADD_PORT = "ip link add eth1 type dummy; ip link set eth1 up"


def network(testbed: Following) -> dict[str, Any]:
    """How the node's network stands, by its status."""
    found: dict[str, Any] | None = testbed.status()["node"].get("network")
    return found or {"state": "not looked at yet", "direct": []}


def wait_state(testbed: Following, state: str, timeout: float = FOLLOW_S) -> None:
    testbed.node.wait_for(f"the network is {state}", lambda: network(testbed)["state"] == state, timeout)


def wait_settled(testbed: Following) -> None:
    """As asked, and nothing to be confirmed any more."""

    def settled() -> bool:
        return network(testbed)["state"] == "as asked" and testbed.node.run(["test", "-e", RECORD]).status != 0

    testbed.node.wait_for("the network is as asked and confirmed", settled, 120)


def errors(testbed: Following) -> list[str]:
    return [error["message"] for error in testbed.status()["node"]["errors"]]


def wait_error(testbed: Following, words: str) -> str:
    found = testbed.node.wait_for(words, lambda: [text for text in errors(testbed) if words in text], FOLLOW_S)
    assert found
    return found[0]


def direct(testbed: Following, *names: str) -> None:
    testbed.set("nodes/1", direct_ifaces=list(names))


def sections(testbed: Following) -> str:
    return testbed.node.must(["uci", "show", "network"])


def reload(testbed: Following, *settings: str) -> None:
    """Change the node's own settings."""
    sections = "uci set confine.testbed=testbed; uci set confine.network=network;"
    lines = sections + "".join(f"uci set confine.{setting};" for setting in settings)
    testbed.node.sh(f"{lines} uci commit confine; /etc/init.d/confine reload")


def all_reach_the_node(testbed: Following) -> bool:
    """Whether every sliver that runs reaches its gateway."""
    names = [one["name"] for one in testbed.status()["slivers"] if one["state"] == "started"]
    command = ["lxc-attach", "-P", "/run/confine/lxc", "-n"]
    return bool(names) and all(
        testbed.node.run([*command, name, "--", "ping", "-c", "1", "-W", "2", GATEWAY]).status == 0 for name in names
    )


def heals(testbed: Following, harm: str) -> None:
    """Assert that after `harm` all slivers, the same processes with the same interfaces, reach the node again."""

    def ports() -> str:
        return testbed.node.sh("cd /sys/class/net; grep . slv-*/ifindex")

    def change() -> None:
        testbed.node.sh(harm)
        testbed.verb("look")
        testbed.node.wait_for("slivers reach the node again", lambda: all_reach_the_node(testbed), 90)

    before = ports()
    testbed.undisturbed(["1@1", "3@1"], change)
    assert ports() == before


def ours(testbed: Following) -> list[str]:
    return sorted(line for line in sections(testbed).splitlines() if line.startswith("network.confine_"))


def theirs(testbed: Following) -> list[str]:
    return [line for line in sections(testbed).splitlines() if not line.startswith("network.confine_")]


def test_the_node_writes_sections_of_its_own_and_has_them_up(following: Following) -> None:
    wait_settled(following)
    assert "network.confine_internal_dev.name='br-confine'" in sections(following)
    status = json.loads(following.node.read_file("/run/netifd-standin.json"))
    assert status["confine_internal"]["up"] and status["wan"]["up"]
    assert f"{GATEWAY}/25" in following.node.must(["ip", "addr", "show", "br-confine"])
    assert theirs(following) == [
        "network.loopback=interface", "network.loopback.device='lo'", "network.loopback.proto='static'",
        "network.loopback.ipaddr='127.0.0.1/8'", "network.wan=interface", "network.wan.device='eth0'",
        "network.wan.proto='dhcp'",
    ]  # fmt: skip


def test_a_direct_interface_and_a_vlan_over_it_come_up_and_go_again(following: Following) -> None:
    following.node.sh(ADD_PORT)

    def change() -> None:
        direct(following, "eth1", "eth1.40")
        following.node.wait_for("both are lent", lambda: network(following)["direct"] == ["eth1", "eth1.40"], FOLLOW_S)
        wait_settled(following)
        assert "eth1.40@eth1" in following.node.must(["ip", "-br", "link"])
        direct(following, "eth1")
        following.node.wait_for("the VLAN is gone", lambda: "eth1.40" not in following.node.must(["ip", "link"]), 60)
        wait_settled(following)

    following.undisturbed(["1@1", "2@1", "3@1"], change)
    assert all_reach_the_node(following)


def test_a_missing_a_dead_and_the_managements_own_direct_interface_are_named(following: Following) -> None:
    following.node.sh(ADD_PORT + "; echo 0 >/sys/class/net/eth1/carrier")
    direct(following, "eth0", "eth7", "eth1", "eth1.5000")
    refused = wait_error(following, "eth0 cannot be a direct interface")
    assert "default route" in refused or "interface wan" in refused
    wait_settled(following)
    wait_error(following, "Interface eth7 is not there: isolated interfaces over it wait for it.")
    wait_error(following, "Direct interface eth1 has no carrier")
    wait_error(following, "'eth1.5000' has no VLAN tag")
    assert following.wait_as_asked()["node"]["state"] == "production"
    following.node.sh("ip link add eth7 type dummy; echo 1 >/sys/class/net/eth1/carrier")
    following.verb("look")
    following.node.wait_for("both are there", lambda: not [t for t in errors(following) if "eth7" in t], FOLLOW_S)


@pytest.mark.parametrize("harm", ["ip link del br-confine", "/etc/init.d/network restart"])
def test_slivers_find_back_to_a_bridge_that_is_gone_or_made_anew(following: Following, harm: str) -> None:
    wait_settled(following)
    heals(following, harm)


def test_a_change_that_cuts_the_node_off_is_undone_by_itself(following: Following) -> None:
    wait_settled(following)
    following.node.sh(ADD_PORT)
    before = ours(following)
    cut_off(following)
    direct(following, "eth1")
    wait_state(following, "undone", 120)
    assert ours(following) == before
    assert "was undone: Cut off by the change of the network" in wait_error(following, "was undone")
    # The way is there again: somebody says so, and the change is made.
    following.node.sh("ip neigh flush all; nft delete table inet cut")
    following.node.must(["confine", "refresh"])
    following.node.wait_for("it is lent", lambda: network(following)["direct"] == ["eth1"], FOLLOW_S)
    wait_settled(following)


def cut_off(testbed: Following) -> None:
    """Have the next change of the network cut the node off: from then on nothing leaves by eth0."""
    testbed.node.write_file("/tmp/cut.nft", CUT)
    testbed.node.write_file(
        "/tmp/cut", f"while [ ! -e {RECORD} ]; do sleep 0.05; done; nft -f /tmp/cut.nft\n", mode=0o755
    )
    testbed.node.sh("nft -c -f /tmp/cut.nft; setsid sh /tmp/cut >/dev/null 2>&1 &")


def test_a_power_cut_before_a_change_is_confirmed_undoes_it_before_the_network_starts(following: Following) -> None:
    wait_settled(following)
    before = ours(following)
    cut_off(following)
    following.node.sh(ADD_PORT)
    direct(following, "eth1")
    following.node.wait_for("it is applied", lambda: b'"applied"' in following.node.read_file(RECORD), FOLLOW_S)
    assert ours(following) != before
    boot = following.node.boot_id()
    following.node.reset()
    following.node.wait_until_up(not_boot=boot)
    assert "a change that was not confirmed is undone" in following.node.serial_tail() + following.node.must(
        ["logread"]
    )
    following.wait_as_asked(150)
    wait_error(following, "Interface eth1 is not there")


def test_a_file_with_a_syntax_error_is_kept_reported_and_nothing_is_applied(following: Following) -> None:
    wait_settled(following)
    following.node.sh('echo "config interface \'x" >>/etc/config/network')
    content = following.node.read_file("/etc/config/network")
    following.node.sh(ADD_PORT)

    def change() -> None:
        direct(following, "eth1")
        assert "malformed" in wait_error(following, "It is left as it is, and nothing of the network is changed.")

    following.undisturbed(["1@1", "2@1", "3@1"], change)
    assert network(following)["state"] == "broken"
    assert following.node.read_file("/etc/config/network") == content


@pytest.mark.torture
def test_a_daemon_that_starts_without_settings_guards_the_wall_that_stands(following: Following) -> None:
    wait_settled(following)
    node = following.node

    def inits() -> list[Any]:
        return sorted(one["init_pid"] for one in following.status()["slivers"] if one["init_pid"])

    def listing() -> str:
        return node.run(["sh", "-c", "nft -s list table inet confine; nft -s list table bridge confine"]).out

    def guarded() -> bool:
        return following.status().get("firewall") == {"ok": True, "since": None, "said": None}

    before, stood = inits(), listing()
    node.sh(
        'echo "config node \'x" >>/etc/config/confine; /etc/init.d/confine restart </dev/null >/dev/null 2>&1',
        timeout=60,
    )
    node.wait_for("the daemon cannot read its settings", lambda: "malformed" in "".join(errors(following)), 120)
    node.wait_for("it guards what stands", guarded, 60)
    assert "its tables stand" in node.run(["confine", "check"]).out
    node.sh("nft flush ruleset")
    node.wait_for("the tables are back as they stood", lambda: listing() == stood and guarded(), 120)
    node.wait_for("slivers reach the node", lambda: all_reach_the_node(following), 90)
    assert inits() == before


def test_carrier_lost_and_back_on_the_uplink_leaves_slivers_alone(following: Following) -> None:
    wait_settled(following)

    def change() -> None:
        following.node.qmp("set_link", name="net0", up=False)
        following.node.wait_for(
            "the lease is gone", lambda: "10.0.2.15" not in following.node.must(["ip", "-4", "addr"]), 60
        )
        following.node.qmp("set_link", name="net0", up=True)
        following.node.wait_for(
            "a lease is there", lambda: "10.0.2.15" in following.node.must(["ip", "-4", "addr"]), 60
        )

    following.undisturbed(["1@1", "2@1", "3@1"], change)
    following.verb("refresh")
    wait_settled(following)


def test_another_node_id_changes_the_addresses_that_follow_from_it(following: Following) -> None:
    wait_settled(following)
    reload(following, "node.id=0009", "testbed.mgmt_ipv6_prefix48=fd65:fc41:c50f::/48")

    def changed() -> bool:
        found = following.node.must(["ip", "addr", "show", "br-confine"])
        return "54:c0:00:09:00:00" in found and "fd65:fc41:c50f:9::2/64" in found

    following.node.wait_for("the addresses have changed", changed, 90)
    assert f"{GATEWAY}/25" in following.node.must(["ip", "addr", "show", "br-confine"])


@pytest.mark.parametrize("uplink", ["static", "ipv6-only"])
def test_static_and_ipv6_only_uplinks_are_checked_by_their_own_gateway(following: Following, uplink: str) -> None:
    wait_settled(following)
    if uplink == "static":
        lines = "uci set network.wan.proto=static; uci add_list network.wan.ipaddr=10.0.2.15/24;"
        lines += "uci set network.wan.gateway=10.0.2.2;"
    else:
        lines = "uci set network.wan.proto=dhcpv6;"
    following.node.sh(lines + "uci commit; /etc/init.d/network reload; sleep 2")
    if uplink != "static":
        following.node.wait_for(
            "there is an IPv6 gateway",
            lambda: following.node.run(["sh", "-c", "ip -6 route | grep -q ^default"]).status == 0,
            60,
        )
        following.node.sh("ip -4 route del default 2>/dev/null || true")
        following.verb("refresh")
        following.node.wait_for("the registry is not read", lambda: following.status()["registry"]["error"], 120)
    theirs_before = theirs(following)
    reload(following, "node.local_ifname=eth0")
    following.node.wait_for("the change is written", lambda: "confine_recovery" in sections(following), 120)
    wait_settled(following)
    assert theirs(following) == theirs_before
    assert "192.168.241.130/25" in following.node.must(["ip", "addr", "show", "eth0"])
