"""A node in a network namespace, real bridges, the real firewall driver, two slivers with an interface of every kind,
and around them the community's network, the outside and the overlay; and how an attempt is tried in it. wall_lab.py
says what is tried.
"""

import ctypes
import os
import select
import shutil
import socket
import subprocess
import threading
import time

import wall_attempts as table

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
