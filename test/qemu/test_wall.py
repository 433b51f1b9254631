"""The wall around slivers on the node's own kernel and with its own nft: what the tests of the driver try elsewhere."""

from __future__ import annotations

import json
import os

import pytest

from qemu.harness import Snapshot, VirtualNode
from qemu.sliver_node import SliverNode

DRIVERS = os.path.join(os.path.dirname(__file__), "..", "..", "controller", "tests", "drivers")
FILES = ("wall_frames.py", "wall_attempts.py", "wall_world.py", "wall_leases.py", "wall_lab.py")
GATEWAY = "192.168.241.126"

# From within the sliver's own network namespace: every attempt on its private interface, and its twin.
WITHIN = """
import ctypes, json, os, sys
import wall_attempts as table, wall_world as lab
os.sched_setaffinity(0, {0})
pid = int(sys.argv[1])
home = lab.Namespace()
inside = lab.Namespace()
inside.handle = os.open("/proc/%d/ns/net" % pid, os.O_RDONLY)
send, watch = lab.Tap(inside, "priv"), lab.Tap(home, "br-confine")
mac = "54:c0:00:12:01:00"
place = table.Place(
    kind="private", mac=mac, ip4="192.168.241.1", ip6="fdbd:e804:6aa9:0:1000::1", ll=lab.rules.link_local(mac),
    other_mac="54:c0:00:12:02:00", other_ip4="192.168.241.2", other_ip6="fdbd:e804:6aa9:0:1000::2",
    to_mac=lab.NODE_MAC, to_ip4=lab.GATEWAY4, to_ip6=lab.GATEWAY6,
)
found = []
for attempt in table.ATTEMPTS:
    if "private" not in attempt.kinds or "excluded" in attempt.name:
        continue
    watch.drain()
    send.send(attempt.bad(place))
    send.send(attempt.good(place))
    seen, came = watch.until(table.GOOD)
    found.append([attempt.name, any(table.BAD in frame for frame in seen), came])
print(json.dumps(found))
"""


def put_lab(node: VirtualNode) -> None:
    for name in FILES:
        with open(os.path.join(DRIVERS, name)) as file:
            node.write_file("/tmp/wall/" + name, file.read())


@pytest.mark.timeout(600)
def test_no_attempt_of_a_sliver_comes_through_on_the_nodes_kernel_and_every_twin_does(booted: Snapshot) -> None:
    with VirtualNode.from_snapshot(booted) as node:
        put_lab(node)
        environment = "PYTHONPATH=/usr/lib/confine:/tmp/wall"
        said = node.must(["sh", "-euc", f"{environment} python3 -s /tmp/wall/wall_lab.py"], 500)
        results = json.loads(said)
        assert len(results) > 220
        assert [one for one in results if not (one["stopped"] and one["twin"] and one["opened"])] == []


def test_a_real_sliver_does_not_get_through_either(slivers: SliverNode) -> None:
    put_lab(slivers.node)
    slivers.node.write_file("/tmp/wall/within.py", WITHIN)
    command = f"PYTHONPATH=/usr/lib/confine:/tmp/wall python3 -s /tmp/wall/within.py {slivers.init(1)}"
    found = json.loads(slivers.node.must(["sh", "-euc", command], 120))
    assert len(found) > 40
    assert [name for name, through, _ in found if through] == []
    assert [name for name, _, came in found if not came] == []


def test_slivers_are_silent_from_when_the_ruleset_was_flushed_until_it_is_back(slivers: SliverNode) -> None:
    node = slivers.node
    slivers.must(1, f"ping -c 1 -W 3 {GATEWAY}")
    node.sh("nft flush ruleset")
    node.wait_for("their interfaces are down", lambda: not up(node), 30)
    assert slivers.run(1, f"ping -c 1 -W 1 {GATEWAY}").status != 0
    assert not slivers.drive()["firewall_ok"]
    assert slivers.drive(("firewall", "install", 0))["firewall_ok"]
    assert up(node) == ["slv-01-00", "slv-02-00"]
    node.wait_for("it speaks again", lambda: slivers.run(1, f"ping -c 1 -W 2 {GATEWAY}").status == 0, 30)


def test_the_daemon_puts_tables_that_were_changed_by_hand_back_as_they_were(booted: Snapshot) -> None:
    with VirtualNode.from_snapshot(booted) as node:
        node.wait_for("the tables stand", lambda: "chain to_node" in listing(node), 60)
        before = listing(node)
        node.sh("nft insert rule inet confine to_node accept; nft delete table bridge confine")
        node.wait_for("they are back", lambda: listing(node) == before, 60)
        said = json.loads(node.must(["confine", "status", "--json"], 30))
        assert said["firewall"] == {"ok": True, "since": None, "said": None}


def listing(node: VirtualNode) -> str:
    """Both tables, as far as they are there."""
    return node.run(["sh", "-c", "nft -s list table inet confine; nft -s list table bridge confine"]).out


def up(node: VirtualNode) -> list[str]:
    """The node's ends of slivers' interfaces that are up."""
    script = "for port in /sys/class/net/slv-*; do echo ${port##*/} $(cat $port/flags); done"
    lines = [line.split() for line in node.sh(script).splitlines()]
    return sorted(name for name, flags in lines if int(flags, 16) & 1)
