"""A node in a network namespace, real bridges, the real firewall driver, two slivers with an interface of every kind,
and around them the community's network, the outside and the overlay; and in it all attempts, each with its twin.

    python3 wall_lab.py [PART]      as root, anywhere with a kernel that has nftables for bridges; JSON on stdout:
    [{"name", "kind", "stopped", "twin", "opened", "seen": hex of what arrived once the rule was out}, ...]

stopped: the attempt did not arrive. twin: the same packet, honestly addressed, did. opened: the attempt arrives once
the rule that stops it is taken out. Frames are seen by packet sockets where they would arrive.
"""

import ctypes
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import wall_attempts as table
from wall_frames import UDP, eth, ip4, tcp, udp

from confine.core import addressing, interfaces
from confine.core import firewall as rules
from confine.core.model import Booking, Interface, Limits, SliverTarget, Step
from confine.core.settings import Settings
from confine.drivers import nft
from confine.drivers.firewall import Firewall

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
ALL_FRAMES, OUTGOING = 3, 4
DEADLINE_S = float(os.environ.get("WALL_LAB_S", "20"))
NODE_ID = 0x12
MGMT, DEBUG = "fd65:fc41:c50f", "fd5f:eee5:e6ad"
KINDS = ("private", "management", "public4", "public6", "debug")
SETTINGS = {
    "node_id": NODE_ID, "mgmt_ipv6_prefix48": MGMT, "public4_proto": "static",
    "public4_pool": ["203.0.113.11/24", "203.0.113.12/24"], "public6_prefix": "2001:db8:1:0",
    "firewall_exclude": ["10.66.0.0/16", "2001:db8:66::/48"],
}  # fmt: skip
LAN_MAC, LAN_ADDRESSES = "02:00:00:00:00:99", {"public4": "203.0.113.99", "public6": "2001:db8:1::99",
                                                "debug": DEBUG + ":33::2"}  # fmt: skip
NODE_MAC, LOCAL_MAC = "54:c0:00:12:00:00", "02:00:00:00:00:02"
GATEWAY4, GATEWAY6, NODE_MGMT, SERVER = "192.168.241.126", "fdbd:e804:6aa9::1", MGMT + ":12::2", MGMT + ":0:2000::1"
UP_MAC, OUT_MAC, OVERLAY_MAC = "02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:01:03"
libc = ctypes.CDLL(None, use_errno=True)


def sh(text):
    """Run `text`; `ip` is iproute2's there, also where the shell has one of its own."""
    text = f'ip() {{ {shutil.which("ip")} "$@"; }}; ' + text
    subprocess.run(["sh", "-euc", text], check=True, stdout=subprocess.DEVNULL)


def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


class Namespace:
    """A network namespace, entered by `with`."""

    def __init__(self, home=None):
        if home is None:
            self.handle = os.open("/proc/self/ns/net", os.O_RDONLY)
            self.home = self.handle
            return
        self.home = home.handle
        unshare(CLONE_NEWNET)
        self.handle = os.open("/proc/self/ns/net", os.O_RDONLY)
        sh("ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
        libc.setns(self.home, CLONE_NEWNET)

    @property
    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.handle}"

    def __enter__(self):
        if libc.setns(self.handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def __exit__(self, *_):
        libc.setns(self.home, CLONE_NEWNET)


class Tap:
    """Sends and sees frames on one device."""

    def __init__(self, namespace, device):
        with namespace:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
            self.socket.bind((device, ALL_FRAMES))
        self.socket.setblocking(False)
        # the kernel keeps an outer VLAN tag apart from the frame: PACKET_AUXDATA is not needed to find our marks

    def send(self, frame):
        self.socket.send(frame)

    def drain(self):
        found = []
        while True:
            try:
                frame, sender = self.socket.recvfrom(65536)
            except BlockingIOError:
                return found
            if sender[2] != OUTGOING:
                found.append(frame)

    def until(self, text, seconds=DEADLINE_S):
        """Frames up to the first with `text`; (frames, whether it came)."""
        found, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            found += self.drain()
            if any(text in frame for frame in found):
                return found, True
            select.select([self.socket], [], [], 0.2)
        return found, False


def target(nr):
    asked = [Interface(index, f"e{index}", kind, None) for index, kind in enumerate(KINDS)]
    limits = Limits(10, 10, None, 100, None, None, None)
    return SliverTarget(f"{nr}@18", addressing.hostname(nr, NODE_ID), "", nr, "", 1, NODE_ID, "", "start", 1, 1, None,
                        None, asked, limits, [], None, None, {}, [], False)  # fmt: skip


class World:
    """The node and what is around it."""

    def __init__(self):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # frames keep their order
        unshare(CLONE_NEWNET | CLONE_NEWNS)
        sh("mount --make-rprivate / && mount -t sysfs none /sys && ip link set lo up")
        self.node = Namespace()
        self.lan, self.out, self.overlay = Namespace(self.node), Namespace(self.node), Namespace(self.node)
        self.slivers = {nr: Namespace(self.node) for nr in (1, 2)}
        self._bridges()
        self._outside()
        self.firewall = Firewall(Settings(**SETTINGS))
        self.firewall.install(None)
        self.ports, self.taps = {}, {}
        for nr in self.slivers:
            self._sliver(nr)
        self._loose_port()
        self.taps.update(
            node=Tap(self.node, "br-confine"), lan=Tap(self.lan, "lan1"), out=Tap(self.out, "out1"),
            overlay=Tap(self.overlay, "over1"),
        )  # fmt: skip
        self._services()
        self.text = self.firewall._whole()

    def _bridges(self):
        sh(f"""
            echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter
            for file in /proc/sys/net/bridge/bridge-nf-call-*; do test ! -e $file || echo 0 >$file; done
            for name in br-confine br-local; do
                ip link add $name type bridge stp_state 0 mcast_snooping 0
            done
            ip link set br-confine address {NODE_MAC} up; ip link set br-local address {LOCAL_MAC} up
            ip addr add {GATEWAY4}/25 dev br-confine; ip addr add {GATEWAY6}/64 dev br-confine nodad
            ip addr add {NODE_MGMT}/64 dev br-confine nodad
            ip addr add 203.0.113.2/24 dev br-local; ip addr add 2001:db8:1::2/64 dev br-local nodad
        """)

    def _pair(self, namespace, mine, theirs, mac, extra=""):
        sh(f"ip link add {mine} type veth peer name {theirs}; ip link set {theirs} netns {namespace.path}; {extra}"
           f" ip link set {mine} up")  # fmt: skip
        with namespace:
            sh(f"ip link set {theirs} address {mac} up")

    def _outside(self):
        self._pair(self.lan, "lan0", "lan1", LAN_MAC, "ip link set lan0 master br-local;")
        self._pair(self.out, "up0", "out1", OUT_MAC, f"ip link set up0 address {UP_MAC};")
        self._pair(self.overlay, "confine", "over1", OVERLAY_MAC)
        sh(f"""
            ip addr add 198.18.0.1/24 dev up0; ip addr add 2001:db8:5::1/64 dev up0 nodad
            ip neigh add 198.18.0.2 lladdr {OUT_MAC} dev up0; ip neigh add 2001:db8:5::2 lladdr {OUT_MAC} dev up0
            ip route add default via 198.18.0.2; ip -6 route add default via 2001:db8:5::2
            ip neigh add fe80::9 lladdr {OVERLAY_MAC} dev confine; ip -6 route add {MGMT}::/48 via fe80::9 dev confine
            ip neigh add 203.0.113.99 lladdr {LAN_MAC} dev br-local
        """)

    def _sliver(self, nr):
        booking = Booking(f"{nr}@18", target(nr).name, nr, 10, 10, None,
                          {"2": f"203.0.113.1{nr}/24", "3": f"2001:db8:1:0:1003::{nr}/64"})  # fmt: skip
        self.firewall.admit(Step("firewall", "admit", target(nr).name, "", target(nr), booking))
        made, problems = interfaces.of_sliver(target(nr), booking, Settings(**SETTINGS))
        assert not problems, problems
        for one in made:
            bridge = f"ip link set {one.port} master {one.bridge};"
            self._pair(self.slivers[nr], one.port, one.name, one.mac, bridge)
            self.ports[nr, one.type] = one
            self.taps[nr, one.type] = Tap(self.slivers[nr], one.name)
            for address in one.ipv4 + one.ipv6:
                sh(f"ip neigh add {address.split('/')[0]} lladdr {one.mac} dev {one.bridge}")

    def _loose_port(self):
        """A port of a sliver that is on no bridge, as that of an isolated interface whose VLAN is gone."""
        self._pair(
            self.slivers[1], "slv-01-05", "e5", "54:c0:00:12:01:05", "ip link set slv-01-05 address 02:00:00:00:05:05;"
        )
        self.taps["loose"] = Tap(self.slivers[1], "e5")

    def _services(self):
        """The node answers UDP on 53 and 7777 and takes TCP connections on 8443 and 7778."""
        sockets = []
        for port in (53, 7777):
            sockets.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            sockets[-1].bind(("::", port))
        self.listening = [socket.create_server(("::", port), family=socket.AF_INET6) for port in (8443, 7778)]

        def answer():
            while True:
                for one in select.select(sockets, [], [])[0]:
                    text, sender = one.recvfrom(2048)
                    try:
                        one.sendto(text, sender)
                    except OSError:
                        pass  # there is no way back: then nobody is answered

        threading.Thread(target=answer, daemon=True).start()

    def place(self, nr, kind):
        me, other = self.ports[nr, kind], self.ports[3 - nr, kind]

        def first(addresses):
            return addresses[0].split("/")[0] if addresses else None

        inner = kind in table.INNER
        to_ip4, to_ip6 = (GATEWAY4, GATEWAY6) if inner else (LAN_ADDRESSES["public4"], LAN_ADDRESSES["public6"])
        if not inner and ":" in LAN_ADDRESSES[kind]:
            to_ip6 = LAN_ADDRESSES[kind]
        return table.Place(
            kind=kind, mac=me.mac, ip4=first(me.ipv4), ip6=first(me.ipv6), ll=rules.link_local(me.mac),
            other_mac=other.mac, other_ip4=first(other.ipv4), other_ip6=first(other.ipv6),
            to_mac=NODE_MAC if inner else LAN_MAC,
            to_ip4=to_ip4, to_ip6=NODE_MGMT if kind == "management" else to_ip6,
        )  # fmt: skip


def opened(text, changes):
    """The tables as text, with lines of chains replaced. Each has to be there."""
    for chain, line, instead in changes:
        family = "inet" if chain in ("forward", "from_slivers", "to_slivers", "input", "to_node") else "bridge"
        start = text.index(f"\tchain {chain} {{", text.index(f"\ntable {family} confine {{"))
        end = text.index("\n\t}\n", start)
        body = text[start:end].split("\n")
        assert "\t\t" + line in body, f"chain {chain} has no line: {line}"
        at = body.index("\t\t" + line)
        body[at : at + 1] = ["\t\t" + instead] if instead else []
        text = text[:start] + "\n".join(body) + text[end:]
    return text


loaded = [""]


def reinstall(world):
    """As the driver has it."""
    world.firewall.install(None)
    loaded[0] = ""


def load(text):
    """Have the kernel hold these tables."""
    if loaded[0] != text:
        nft.run(["-f", "-"], text)
        loaded[0] = text
    for bridge in ("br-confine", "br-local"):  # what was let through before may have taught it something wrong
        with open(f"/sys/class/net/{bridge}/bridge/flush", "w") as file:
            file.write("1")


class Trial:
    """One attempt. send, watch: taps. twin: (send, watch) of the honest one, where they are others."""

    def __init__(self, world, name, kind, send, watch, bad, good, changes, twin=None):
        self.text = world.text
        self.opened = opened(world.text, changes)
        self.send, self.watch, self.bad, self.good = send, watch, bad, good
        self.twin = twin or (send, watch)
        self.result = {"name": name, "kind": kind}

    def closed(self):
        """With the rules as they are."""
        sends, watches = self.twin
        load(self.text)
        self.watch.drain()
        watches.drain()
        self.send.send(self.bad)
        sends.send(self.good)
        seen, came = watches.until(table.GOOD)
        if watches is not self.watch:
            seen = self.watch.until(table.BAD, 0.3)[0]
        self.result["stopped"] = not any(table.BAD in frame for frame in seen)
        self.result["twin"] = came

    def open(self):
        """With the rule out."""
        load(self.opened)
        self.watch.drain()
        self.send.send(self.bad)
        seen, self.result["opened"] = self.watch.until(table.BAD)
        self.result["seen"] = [frame.hex() for frame in seen if table.BAD in frame][:1]


def tried(trials):
    """The results. The rules are changed as seldom as can be."""
    trials = list(trials)
    for one in trials:
        one.closed()
    for one in sorted(trials, key=lambda one: one.opened):
        one.open()
    return [one.result for one in trials]


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

    def connects(place, tap, port):
        tap.drain()
        tap.send(place.frame(ip6_syn(place.ip6, NODE_MGMT, port)))
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            for frame in tap.drain():
                if frame[12:14] == b"\x86\xdd" and frame[20] == 6 and frame[54:56] == struct.pack(">H", port):
                    return frame[67] == 0x12
            select.select([tap.socket], [], [], 0.1)
        return False

    load(world.text)
    api = connects(management, taps[1, "management"], 8443)
    stopped = not connects(private, taps[1, "private"], 8443) and not connects(management, taps[1, "management"], 7778)
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
    from wall_frames import ip6

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


def leases(world):
    """A port that asks by DHCP says nothing else until it was given an address."""
    mac = "54:c0:00:12:03:02"
    world.slivers[3] = Namespace(world.node)
    world._pair(world.slivers[3], "slv-03-02", "e2", mac, "ip link set slv-03-02 master br-local;")
    tap, lan = Tap(world.slivers[3], "e2"), world.taps["lan"]
    reinstall(world)
    world.firewall._become(3, [rules.Port("slv-03-02", "public4", 3, mac, [], [], True)])
    world.text = world.firewall._whole()
    place = table.Place(kind="public4", mac=mac, ip4="203.0.113.77", ip6=None, to_mac=LAN_MAC, to_ip4="203.0.113.99",
                        other_ip4="203.0.113.11")  # fmt: skip

    def one(*arguments):
        return tried([Trial(world, *arguments)])

    def discover(who, text, source="0.0.0.0"):
        to = "255.255.255.255"
        body = udp(source, to, 68, 67, table.dhcp(1) + text)
        return eth(who.mac, "ff:ff:ff:ff:ff:ff", 0x0800, ip4(source, to, UDP, body))

    yield from one(
        "an address nobody gave it",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD),
        discover(place, table.GOOD),
        (table.FROM4,),
    )
    reinstall(world)
    world.firewall.lease("slv-03-02", place.ip4, 600)
    world.text = world.firewall._whole()
    yield from one(
        "another address than it was given",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD, source="203.0.113.78"),
        place.udp4(table.GOOD),
        (table.FROM4,),
    )
    yield from one(
        "an ARP answer for another address than it was given",
        "DHCP",
        tap,
        lan,
        place.arp(table.BAD, 2, sender="203.0.113.78"),
        place.arp(table.GOOD, 2),
        (table.ARP_END,),
    )
    reinstall(world)
    world.firewall.lease("slv-03-02", "203.0.113.80", 600)
    world.text = world.firewall._whole()
    yield from one(
        "the address before the last one",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD),
        place.udp4(table.GOOD, source="203.0.113.80"),
        (table.FROM4,),
    )
    static = world.place(1, "public4")
    yield from one(
        "a DHCP question with an address of its own",
        "public4",
        world.taps[1, "public4"],
        lan,
        discover(static, table.BAD),
        static.udp4(table.GOOD),
        (table.FROM4,),
    )


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
