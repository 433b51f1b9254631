"""What a small community network shows that works: each proof gives lines of evidence, or fails by an assertion.

Used by `make run NODES=2`, which prints them, and by test_community.py. What passed on the LAN (Lan.seen) counts more
than what a node says of itself.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from qemu.community import (
    LAN_PREFIX,
    PREFIX,
    SERVER,
    SERVER_OVERLAY,
    WHO_PORT,
    Community,
    node_address,
    overlay_address,
)
from qemu.lan import IPV4, Frame, wait_until

Proof = Callable[[Community], list[str]]

RELAY, BEACON = 1, 2  # the testbed's slices
TINC = 655
HTTP = 80
SOON_S = 60.0
OVERLAY_MTU, PING_HEADERS = 1400, 48


def overlay_stands(community: Community) -> list[str]:
    """Each node is in the overlay, with the address that its id gives it."""
    lines = []
    for number in community.nodes:
        overlay = (community.status(number) or {})["overlay"]
        server = next(peer for peer in overlay["peers"] if peer["name"] == "server_1")
        assert overlay["address"] == overlay_address(number) and overlay["interface"] and server["reachable"], overlay
        lines.append(f"node {number}: {overlay['name']} has {overlay['address']}, server_1 at {server['at']}")
    return lines


def registry_comes_through_the_overlay(community: Community) -> list[str]:
    """The registry was read, and nothing of it was to be seen on the LAN but tinc's packets."""
    asked = [path for path in community.host.registry.requests if path.startswith("/api/nodes/")]
    assert {f"/api/nodes/{number}/" for number in community.nodes} <= set(asked), asked
    clear = community.lan.seen(lambda frame: HTTP in (frame.ports or ()))
    assert not clear, [frame.ends for frame in clear]
    tinc = community.lan.seen(lambda frame: TINC in (frame.ports or ()))
    assert tinc
    total = len(community.host.registry.requests)
    return [f"{total} requests answered at [{SERVER_OVERLAY}]; on the LAN {len(tinc)} packets of tinc, none of HTTP"]


def node_api_answers_in_the_overlay(community: Community) -> list[str]:
    """The server reads each node's document at its management address, as the registry's poller does."""
    lines = []
    for number in community.nodes:
        uri = f"http://[{overlay_address(number)}]/confine/api/node/"
        doc = community.host.namespace.call(partial(fetched, uri))
        assert doc["id"] == number and doc["tinc"]["name"] == f"node_{number}", doc
        lines.append(f"{uri}: node {doc['id']} {doc['name']}, {doc['state']}")
    return lines


def fetched(uri: str) -> Any:
    """The JSON at `uri`."""
    with urllib.request.urlopen(uri, timeout=20, context=ssl.create_default_context()) as answer:
        return json.load(answer)


def slivers_reach_the_lan_by_nat(community: Community) -> list[str]:
    """A sliver's connection comes from its node's address; its own is never seen on the LAN."""
    lines = []
    for number in community.nodes:
        seen_as = community.in_sliver(number, f"nc -w 9 {SERVER} {WHO_PORT} </dev/null").strip()
        assert seen_as == node_address(number), seen_as
        lines.append(f"the sliver on node {number} is {seen_as} for {SERVER}")
    hidden = community.lan.seen(lambda frame: any(end.startswith("192.168.241.") for end in frame.ends or ()))
    assert not hidden, [frame.ends for frame in hidden]
    return lines


def management_reaches_slivers(community: Community) -> list[str]:
    """A sliver with a management interface reaches the testbed's server through the overlay, by its own address."""
    lines = []
    for number in community.nodes:
        said = community.in_sliver(number, f"nc -w 9 {SERVER_OVERLAY} {WHO_PORT} </dev/null").strip()
        assert said == f"{PREFIX}:{number:x}:1001::1", said
        lines.append(f"the sliver on node {number} is {said} for {SERVER_OVERLAY}")
    return lines


def large_packets_fit_the_overlay(community: Community) -> list[str]:
    """Packets of 1400 octets, as many as the overlay takes, and of more pass; what tinc makes of them fits the LAN."""
    lines = []
    for number in community.nodes:
        for octets in (OVERLAY_MTU, 4 * OVERLAY_MTU):
            command = f"ping -c 1 -w 9 -s {octets - PING_HEADERS} {SERVER_OVERLAY}"

            def answered(number: int = number, command: str = command) -> bool:
                return " 0% packet loss" in community.in_sliver(number, command)

            wait_until(f"the server answers {octets} octets from node {number}", answered, SOON_S)
        lines.append(f"{OVERLAY_MTU} and {4 * OVERLAY_MTU} octets from the sliver on node {number} are answered")
    parts = community.lan.seen(lambda frame: frame.kind == IPV4 and bool(frame.payload[6] & 0x3F or frame.payload[7]))
    assert not parts, [(frame.ends, len(frame.data)) for frame in parts]
    return lines


def nothing_else_is_reached(community: Community) -> list[str]:
    """A sliver without a management interface reaches neither its node, nor the other, nor the management network, nor
    another slice's sliver."""
    lines = []
    first, second = sorted(community.nodes)[:2]
    neighbour = private_address(community, first, RELAY)
    community.in_sliver(first, "(while true; do nc -l -p 9000 </dev/null; done) >/dev/null 2>&1 &", RELAY)
    tried = [
        ("its node's shell", "192.168.241.126", 22),
        ("the same on the LAN", node_address(first), 22),
        ("its node's API", overlay_address(first), 8443),
        ("the other node's API", overlay_address(second), 8443),
        ("the registry", SERVER_OVERLAY, 80),
        ("another slice's sliver", neighbour, 9000),
    ]
    for what, where, port in tried:
        command = f"nc -w 3 {where} {port} </dev/null >/dev/null 2>&1 && echo open || echo shut"
        said = community.in_sliver(first, command, BEACON)
        assert said.strip() == "shut", f"{what} at {where} port {port}: {said}"
        lines.append(f"{what}, {where} port {port}: shut")
    return lines


def isolated_slivers_talk_in_their_vlan(community: Community) -> list[str]:
    """Two slivers of a slice reach each other over its VLAN; on the LAN each frame of theirs has its tag."""
    first, second = sorted(community.nodes)[:2]
    for number in (first, second):
        community.in_sliver(number, f"ip address add 10.77.0.{number}/24 dev iso0; ip link set iso0 up")

    def answered() -> str:
        return community.in_sliver(first, f"ping -c 1 -w 5 10.77.0.{second}")

    wait_until("the slivers reach each other", lambda: " 0% packet loss" in answered(), SOON_S)

    def theirs(frame: Frame) -> bool:
        return any(end.startswith("10.77.0.") for end in frame.ends or ())

    frames = community.lan.seen(theirs)
    assert frames and all(frame.vlans == [261] for frame in frames), [frame.vlans for frame in frames]
    ports = sorted({frame.port for frame in frames})
    assert ports == [f"node{first}.eth1", f"node{second}.eth1"], ports
    return [f"10.77.0.{first} and 10.77.0.{second}: {len(frames)} frames, all with tag 261, from {' and '.join(ports)}"]


def public_addresses_are_held(community: Community) -> list[str]:
    """A sliver that asked for one has an address of the LAN and is reached there, without translation."""
    lines = []
    for number in community.nodes:
        address = public_address(community, number)
        said = community.in_sliver(number, f"nc -w 9 {SERVER} {WHO_PORT} </dev/null", BEACON).strip()
        assert said == address, said
        lines.append(f"the sliver on node {number} is {said} for {SERVER}")
    return lines


def private_address(community: Community, number: int, slice_id: int) -> str:
    """The private IPv4 address of a slice's sliver on a node."""
    slivers = {sliver["id"]: sliver for sliver in (community.status(number) or {})["slivers"]}
    return str(slivers[f"{slice_id}@{number}"]["address"]).partition("/")[0]


def public_address(community: Community, number: int) -> str:
    """The public address of a sliver on a node."""
    slivers = (community.status(number) or {})["slivers"]
    found = [entry for sliver in slivers for entry in sliver["interfaces"] if entry["type"] == "public4"]
    assert found and found[0]["ipv4_addr"], slivers
    address = str(found[0]["ipv4_addr"]).partition("/")[0]
    assert address.startswith(LAN_PREFIX + "."), address
    return address


# What is said, and how it is found out, in the order in which it is shown.
PROOFS: list[tuple[str, Proof]] = [
    ("the nodes are in the overlay", overlay_stands),
    ("they read the registry through it", registry_comes_through_the_overlay),
    ("the testbed's server reads the nodes' documents through it", node_api_answers_in_the_overlay),
    ("slivers reach the LAN by NAT", slivers_reach_the_lan_by_nat),
    ("slivers of one slice talk across nodes, over their VLAN", isolated_slivers_talk_in_their_vlan),
    ("slivers that asked for one hold an address of the LAN", public_addresses_are_held),
    ("slivers' management interfaces are in the overlay", management_reaches_slivers),
    ("packets as large as the overlay takes pass through it, and larger ones", large_packets_fit_the_overlay),
    ("nothing else is reached", nothing_else_is_reached),
]
