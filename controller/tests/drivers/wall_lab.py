"""What slivers try in the world of wall_world.py: all attempts, each with its twin.

    python3 wall_lab.py [PART]      as root, anywhere with a kernel that has nftables for bridges; JSON on stdout:
    [{"name", "kind", "stopped", "twin", "opened", "seen": hex of what arrived once the rule was out}, ...]

stopped: the attempt did not arrive. twin: the same packet, honestly addressed, did. opened: the attempt arrives once
the rule that stops it is taken out. Frames are seen by packet sockets where they would arrive.
"""

import json
import select
import struct
import sys
import time

import wall_attempts as table
from wall_frames import UDP, eth, ip4, ip6, tcp, udp
from wall_leases import leases
from wall_world import (
    DEADLINE_S,
    LAN_MAC,
    LOCAL_MAC,
    MGMT,
    NODE_MGMT,
    OUT_MAC,
    SERVER,
    UP_MAC,
    Trial,
    World,
    load,
    opened,
    tried,
)


def attempts(world):
    def trials():
        for attempt in table.ATTEMPTS:
            for kind in attempt.kinds:
                place, send = world.place(1, kind), world.taps[1, kind]
                watch = world.taps["node" if kind in table.INNER else "lan"]
                bad, good = attempt.bad(place), attempt.good(place)
                yield Trial(world, attempt.name, kind, send, watch, bad, good, attempt.opened)

    return tried(trials())


def routes(world):
    return tried(_routes(world))


def _routes(world):
    """Where what is honestly addressed may go."""
    taps, bad, good = world.taps, table.BAD, table.GOOD
    private, management = world.place(1, "private"), world.place(1, "management")
    public4, public6 = world.place(1, "public4"), world.place(1, "public6")
    mine, managed, public = taps[1, "private"], taps[1, "management"], taps[1, "public4"]
    refused = ("to_node", "goto refused", "accept")
    outside = ("from_slivers", "ip6 saddr @management goto refused", "accept")
    mgmt = (("ipv6_own", f"meta mark & 0x07000000 != 0x2000000 ip6 daddr {MGMT}::/48 goto refused", ""),
            ("from_slivers", f"ip6 daddr {MGMT}::/48 goto refused", ""))  # fmt: skip
    to_other = ("between", 'iifname "slv-*" oifname "slv-*" drop', "")
    other4 = world.place(2, "public4")

    def of(name, kind, send, watch, bad, good, *changes, twin=None):
        return Trial(world, name, kind, send, watch, bad, good, changes, twin)

    yield of(
        "another sliver by way of the node",
        "private",
        mine,
        taps[2, "private"],
        private.udp4(bad, to=private.other_ip4),
        private.udp4(good, to="198.18.0.2"),
        ("from_slivers", 'oifname "br-confine" goto refused', ""),
        twin=(mine, taps["out"]),
    )
    yield of(
        "a service of the node",
        "private",
        mine,
        mine,
        private.udp4(bad, dport=7777),
        private.udp4(good, dport=53),
        refused,
    )
    yield of(
        "a service on the node's other address",
        "private",
        mine,
        mine,
        private.udp4(bad, to="203.0.113.2", dport=7777),
        private.udp4(good, dport=53),
        refused,
    )
    yield of(
        "a service of the node by IPv6",
        "private",
        mine,
        mine,
        private.udp6(bad, dport=7777),
        private.udp6(good, dport=53),
        refused,
    )
    yield of(
        "a host outside that the member excluded",
        "private",
        mine,
        taps["out"],
        private.udp4(bad, to="10.66.0.9"),
        private.udp4(good, to="10.67.0.9"),
        ("ipv4_own", "ip daddr @excluded4 goto refused", ""),
        ("from_slivers", "ip daddr @excluded4 goto refused", ""),
    )
    yield of(
        "an IPv6 host outside that the member excluded",
        "private",
        mine,
        taps["out"],
        private.udp6(bad, to="2001:db8:66::9"),
        private.udp6(good, to="2001:db8:67::9"),
        ("ipv6_own", "ip6 daddr @excluded6 goto refused", ""),
        ("from_slivers", "ip6 daddr @excluded6 goto refused", ""),
    )
    yield of(
        "a server of the testbed without a management interface",
        "private",
        mine,
        taps["overlay"],
        private.udp6(bad, to=SERVER),
        management.udp6(good, to=SERVER),
        *mgmt,
        twin=(managed, taps["overlay"]),
    )
    yield of(
        "another node over the management network",
        "management",
        managed,
        taps["overlay"],
        management.udp6(bad, to=MGMT + ":33::2"),
        management.udp6(good, to=SERVER),
        outside,
    )
    yield of(
        "the outside over the management interface",
        "management",
        managed,
        taps["out"],
        management.udp6(bad, to="2001:db8:5::2"),
        management.udp6(good, to=SERVER),
        outside,
        twin=(managed, taps["overlay"]),
    )
    yield of(
        "a service of the node over the management interface",
        "management",
        managed,
        managed,
        management.udp6(bad, dport=7777),
        management.udp6(good, dport=53),
        refused,
    )
    yield of(
        "a service of the node over a public interface",
        "public4",
        public,
        public,
        public4.frame(
            ip4(public4.ip4, "203.0.113.2", UDP, udp(public4.ip4, "203.0.113.2", 5000, 7777, bad)), to=LOCAL_MAC
        ),
        public4.udp4(good),
        refused,
        twin=(public, taps["lan"]),
    )
    yield of(
        "a way through the node from a public interface",
        "public4",
        public,
        taps["out"],
        public4.frame(
            ip4(public4.ip4, "198.18.0.2", UDP, udp(public4.ip4, "198.18.0.2", 5000, 7000, bad)), to=LOCAL_MAC
        ),
        public4.udp4(good),
        ("forward", "meta mark & 0x07000000 != 0 goto refused", ""),
        twin=(public, taps["lan"]),
    )
    yield of(
        "another sliver on the community's bridge",
        "public4",
        public,
        taps[2, "public4"],
        public4.frame(ip4(public4.ip4, other4.ip4, UDP, udp(public4.ip4, other4.ip4, 5000, 7000, bad)), to=other4.mac),
        public4.udp4(good),
        to_other,
        twin=(public, taps["lan"]),
    )
    yield of(
        "another sliver by a frame to all",
        "public6",
        taps[1, "public6"],
        taps[2, "public6"],
        public6.advert(bad),
        public6.advert(good),
        to_other,
        twin=(taps[1, "public6"], taps["lan"]),
    )
    packet = [
        ip4("203.0.113.99", public4.ip4, UDP, udp("203.0.113.99", public4.ip4, 9, 9, text)) for text in (bad, good)
    ]
    yield of(
        "hearing what is for others",
        "public4",
        taps["lan"],
        public,
        eth(LAN_MAC, "02:00:00:00:00:55", 0x0800, packet[0]),
        eth(LAN_MAC, public4.mac, 0x0800, packet[1]),
        (
            "leaving",
            'oifname "slv-*" ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @macs drop',
            "",
        ),
    )
    loose = ip4("10.9.9.9", "203.0.113.2", UDP, udp("10.9.9.9", "203.0.113.2", 5000, 7777, bad))
    honest = ip4("203.0.113.99", "203.0.113.2", UDP, udp("203.0.113.99", "203.0.113.2", 5000, 7777, good))
    yield of(
        "the node by an interface that lost its VLAN",
        "isolated",
        taps["loose"],
        taps["out"],
        eth("54:c0:00:12:01:05", "02:00:00:00:05:05", 0x0800, loose),
        eth(LAN_MAC, LOCAL_MAC, 0x0800, honest),
        ("input", 'iifname { "slv-*", "iso-*" } goto refused', ""),
        twin=(taps["lan"], taps["lan"]),
    )


def services(world):
    """The node's API is for management interfaces; nothing comes in from outside but answers."""
    taps, private, management = world.taps, world.place(1, "private"), world.place(1, "management")

    def connects(place, tap, port, seconds=DEADLINE_S):
        tap.drain()
        tap.send(place.frame(ip6_syn(place.ip6, NODE_MGMT, port)))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for frame in tap.drain():
                if frame[12:14] == b"\x86\xdd" and frame[20] == 6 and frame[54:56] == struct.pack(">H", port):
                    return frame[67] == 0x12
            select.select([tap.socket], [], [], 0.1)
        return False

    load(world.text)
    api = connects(management, taps[1, "management"], 8443)
    stopped = not connects(private, taps[1, "private"], 8443, 1.0)
    stopped = stopped and not connects(management, taps[1, "management"], 7778, 1.0)
    load(opened(world.text, (("to_node", "goto refused", "accept"),)))
    arrives = connects(management, taps[1, "management"], 7778)
    yield {"name": "a TCP service beside the API", "kind": "management", "stopped": stopped, "twin": api,
           "opened": arrives, "seen": []}  # fmt: skip

    load(world.text)
    taps["out"].drain()
    taps[1, "private"].send(private.udp4(table.GOOD, to="198.18.0.2", sport=5055))
    frames, _ = taps["out"].until(table.GOOD)
    asked = next(frame for frame in frames if table.GOOD in frame)
    port = struct.unpack(">H", asked[34:36])[0]
    answer = ip4("198.18.0.2", "198.18.0.1", UDP, udp("198.18.0.2", "198.18.0.1", 7000, port, table.GOOD))
    unasked = ip4("198.18.0.2", private.ip4, UDP, udp("198.18.0.2", private.ip4, 7000, 5056, table.BAD))
    bad, good = eth(OUT_MAC, UP_MAC, 0x0800, unasked), eth(OUT_MAC, UP_MAC, 0x0800, answer)
    tap = taps[1, "private"]
    tap.drain()
    taps["out"].send(bad)
    taps["out"].send(good)
    seen, came = tap.until(table.GOOD)
    load(opened(world.text, (("to_slivers", "drop", "accept"),)))
    taps["out"].send(bad)
    yield {"name": "from outside, unasked", "kind": "private", "stopped": not any(table.BAD in one for one in seen),
           "twin": came, "opened": tap.until(table.BAD)[1], "seen": []}  # fmt: skip


def ip6_syn(source, destination, port):
    return ip6(source, destination, 6, tcp(source, destination, 40000 + time.monotonic_ns() % 20000, port))


def floods(world):
    """Too much of what is allowed."""
    taps = world.taps
    few, many = 20, 3000
    for kind, frame in (("public4", lambda place, n: place.arp(table.BAD, 1, target=f"203.0.{n >> 8}.{n & 255}")),
                        ("public6", lambda place, n: place.solicit(table.BAD, to=f"ff02::1:ff00:{n:x}"))):  # fmt: skip
        place, send, watch = world.place(1, kind), taps[1, kind], taps["lan"]
        found = []
        change = ("asks", "update @rates { iifname limit rate over 50/second burst 200 packets } goto flooded", "")
        for text, count in ((world.text, few), (world.text, many), (opened(world.text, (change,)), many)):
            load(text)
            watch.drain()
            begun, seen = time.monotonic(), 0
            for number in range(count):
                send.send(frame(place, number))
                seen += sum(table.BAD in one for one in watch.drain())
            send.send(place.udp(table.GOOD))
            seen += sum(table.BAD in one for one in watch.until(table.GOOD)[0])
            found.append((seen, time.monotonic() - begun))
        allowed = 200 + 50 * (found[1][1] + 1)
        yield {"name": "a flood of questions for neighbours", "kind": kind, "stopped": found[1][0] <= allowed < many,
               "twin": found[0][0] == few, "opened": found[2][0] > 2 * allowed, "seen": [str(found)]}  # fmt: skip

    place, send, watch, limit = world.place(1, "private"), taps[1, "private"], taps["out"], 16
    line = "add @connections {{ meta mark ct count over {} }} goto flooded"
    limited = opened(world.text, (("from_slivers", line.format(2048), line.format(limit)),))
    found = []
    for text, first, count in ((limited, 10000, 8), (limited, 20000, 200),
                               (opened(limited, (("from_slivers", line.format(limit), ""),)), 30000, 200)):  # fmt: skip
        load(text)
        watch.drain()
        for number in range(count):
            send.send(place.udp4(table.BAD, to="198.18.0.2", sport=first + number))
        send.send(place.frame(ip4(place.ip4, "198.18.0.2", 47, table.GOOD)) if count == 8 else place.udp4(
            table.GOOD, to="198.18.0.2", sport=first))  # fmt: skip
        found.append(sum(table.BAD in one for one in watch.until(table.GOOD)[0]))
    yield {"name": "a flood of connections", "kind": "private", "stopped": found[1] <= limit, "twin": found[0] == 8,
           "opened": found[2] == 200, "seen": [str(found)]}  # fmt: skip


PARTS = {"attempts": attempts, "routes": routes, "services": services, "floods": floods, "leases": leases}


def main(names):
    world = World()
    found = []
    for name in names or PARTS:
        for result in PARTS[name](world):
            found.append(result)
            if not (result["stopped"] and result["twin"] and result["opened"]):
                print({**result, "seen": str(result["seen"])[:200]}, file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
