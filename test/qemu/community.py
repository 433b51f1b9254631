"""A small community network: nodes and the testbed's server on one LAN, the registry reached through the overlay alone.

    with Community(work, disk, numbers=[1, 2]) as community:
        community.wait_joined()
        community.nodes[1].must(["confine", "overlay"])
        community.lan.seen(lambda frame: frame.vlan == 261)

    LAN 172.24.0.0/24         the server .1: tinc, registry, a service that says who asks; node N .10+N, its sliver's
                              public address .100+N
    overlay fd65:fc41:c50f    the server ::1, node N has N::2; the registry is served at http://[fd65:fc41:c50f::1]/api/

Each node has eth0 (its uplink) and eth1 (for slivers' VLANs) on the LAN. It is given what an image generator injects:
who it is, the server's file and a ConnectTo. It makes its key by itself; `admit` does what an operator does with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from qemu import narrate
from qemu.harness import KernelBoot, NodeError, VirtualNode
from qemu.lan import Lan, Namespace, wait_until
from registry.documents import Testbed
from registry.server import ROOT, Registry, Server
from registry.testbed import FILES

SOURCE = os.path.join(ROOT, "test", "registry", "community")
CONTROL = "/run/confine/control.sock"
PREFIX = "fd65:fc41:c50f"
LAN_PREFIX = "172.24.0"
SERVER = LAN_PREFIX + ".1"
SERVER_OVERLAY = PREFIX + "::1"
WHO_PORT = 7000
JOIN_S = 180.0

NETWORK = """
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	list ipaddr '127.0.0.1/8'

config device 'wan_dev'
	option type 'bridge'
	option name 'br-wan'
	list ports 'eth0'

config interface 'wan'
	option device 'br-wan'
	option proto 'static'
	list ipaddr '{prefix}.{host}/24'
	option gateway '{server}'
	list dns '{server}'
"""

CONFINE = """
config node 'node'
	option id '{number:04x}'
	option mac_prefix16 '54:c0'
	option priv_ipv4_prefix24 '192.168.241'
	option local_ifname 'br-wan'
	list rd_if_iso_parents 'eth1'
	option public_ipv4_avail '1'
	option sl_public_ipv4_proto 'static'
	list sl_public_ipv4_addrs '{lan}.{public}/24'
	option sl_public_ipv4_gw '{server}'

config registry 'registry'
	list base_uri 'http://[{registry}]/api/'
	option plain_http '1'
	option interval '10'

config testbed 'testbed'
	option mgmt_ipv6_prefix48 '{mgmt}::/48'

config policy 'policy'
	option disk_reserve '64'
"""

TINC_UP = """#!/bin/sh
set -eu
ip link set dev "$INTERFACE" mtu 1400 up
ip -6 address replace {address}/48 dev "$INTERFACE" nodad
"""


def node_address(number: int) -> str:
    """Node `number` on the LAN."""
    return f"{LAN_PREFIX}.{10 + number}"


def overlay_address(number: int) -> str:
    """Node `number` in the overlay."""
    return f"{PREFIX}:{number:x}::2"


class Who(socketserver.BaseRequestHandler):
    """Says to who connects what address that came from, as seen here."""

    def handle(self) -> None:
        """One line, then the end."""
        self.request.sendall((str(self.client_address[0]).removeprefix("::ffff:") + "\n").encode())


class WhoServer(socketserver.ThreadingTCPServer):
    """On all of the server's addresses, in the LAN and in the overlay."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


class Host:
    """The testbed's server: on the LAN, in the overlay, with the registry."""

    def __init__(self, work: str, lan: Lan, say: Callable[[str], None]) -> None:
        self.documents = os.path.join(work, "documents")
        shutil.rmtree(self.documents, ignore_errors=True)
        shutil.copytree(SOURCE, self.documents)
        self.tinc = os.path.join(work, "tinc")
        shutil.rmtree(self.tinc, ignore_errors=True)
        self._lan = lan
        self._say = say
        self.namespace = Namespace()
        self._stack = ExitStack()
        self.key = ""

    def __enter__(self) -> Host:
        with self._stack:
            self._stack.enter_context(self.namespace)
            self._lan.attach(self.namespace, "lan", SERVER + "/24")
            self._make_tinc()
            self.start_tinc()
            self._stack.callback(self.stop_tinc)
            wait_until("the server's overlay interface is there", self._in_overlay, 20)
            registry = Registry(Testbed(self.documents, FILES), self._say, index=True)
            self.registry = self.namespace.call(lambda: Server(registry, "::", 80))
            self._stack.enter_context(self.registry)
            self._serve_who()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the document `name` ("slices/1") as a person would."""
        path = os.path.join(self.documents, name + ".json")
        with open(path, encoding="utf-8") as file:
            doc = json.load(file)
        change(doc)
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(doc, file, indent=2)
        os.replace(path + ".new", path)

    def admit(self, number: int, pubkey: str) -> None:
        """What an operator does with a node's key: the registry gets it, and the server's tinc."""

        def change(doc: dict[str, Any]) -> None:
            doc["tinc"] = {"name": f"node_{number}", "pubkey": pubkey, "addresses": []}

        self.edit(f"nodes/{number}", change)
        self._write(f"hosts/node_{number}", f"Subnet = {PREFIX}:{number:x}::/64\n{pubkey}")
        self._tincd.send_signal(signal.SIGHUP)

    def start_tinc(self) -> None:
        """Start the server's tincd."""
        command = self.namespace.command("tincd", "-D", "-c", self.tinc, "-n", "server", "-d1",
                                         f"--pidfile={self.tinc}/pid")  # fmt: skip
        with open(os.path.join(self.tinc, "log"), "ab") as log:
            self._tincd = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log,
                                           stdin=subprocess.DEVNULL)  # fmt: skip

    def stop_tinc(self) -> None:
        """Kill it."""
        self._tincd.kill()
        self._tincd.wait()

    def _in_overlay(self) -> bool:
        return SERVER_OVERLAY in self.namespace.run("ip", "-6", "address")

    def _make_tinc(self) -> None:
        os.makedirs(os.path.join(self.tinc, "hosts"))
        self._write("tinc.conf", f"Name = server_1\nInterface = overlay\nBindToAddress = {SERVER} 655\n")
        self._write("tinc-up", TINC_UP.format(address=SERVER_OVERLAY), 0o755)
        subprocess.run(["tincd", "-c", self.tinc, "-K2048"], stdin=subprocess.DEVNULL, capture_output=True, check=True)
        private = os.path.join(self.tinc, "rsa_key.priv")
        made = subprocess.run(["openssl", "rsa", "-in", private, "-pubout"], capture_output=True, text=True, check=True)
        self.key = made.stdout
        self._write("hosts/server_1", self.host_file())
        self.edit("servers/1", lambda doc: doc["tinc"].update(pubkey=self.key))

    def host_file(self) -> str:
        """The server's file as nodes have it."""
        return f"Address = {SERVER} 655\nSubnet = {SERVER_OVERLAY}/128\n{self.key}"

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = os.path.join(self.tinc, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, mode)

    def _serve_who(self) -> None:
        server = self.namespace.call(lambda: WhoServer(("::", WHO_PORT), Who))
        threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)


class Community:
    """The LAN, the host, and running nodes by their numbers. say: told what happens, for a person."""

    def __init__(
        self,
        work: str,
        disk: str,
        kernel: KernelBoot | None = None,
        numbers: Sequence[int] = (1, 2),
        say: Callable[[str], None] = print,
        memory_mib: int = 384,
    ) -> None:
        os.makedirs(work, exist_ok=True)
        self.pcap = os.path.join(work, "lan.pcap")
        self.lan = Lan(self.pcap)
        self.host = Host(work, self.lan, say)
        self.nodes: dict[int, VirtualNode] = {}
        self._work, self._disk, self._kernel, self._numbers = work, disk, kernel, numbers
        self._memory_mib = memory_mib
        self._say = say
        self._stack = ExitStack()

    def __enter__(self) -> Community:
        with self._stack:
            self._stack.enter_context(self.lan)
            self._stack.enter_context(self.host)
            for number in self._numbers:
                self.nodes[number] = self._stack.enter_context(self._node(number))
            for number, node in self.nodes.items():
                node.wait_until_up()
                self.configure(number)
                self._say(f"node {number}    is up; it is given its id, the server's key and its address")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _node(self, number: int) -> VirtualNode:
        work = os.path.join(self._work, f"node{number}")
        shutil.rmtree(work, ignore_errors=True)
        uplink, direct = (self.lan.port(f"node{number}.{name}") for name in ("eth0", "eth1"))
        return VirtualNode(self._disk, f"node-{number:04x}", self._kernel, work=work, wait_until_up=False,
                           descriptors=list(self.lan.descriptors), memory_mib=self._memory_mib, uplink=uplink,
                           netdevs=[direct], mac=f"52:54:00:00:{number:02x}")  # fmt: skip

    def configure(self, number: int) -> None:
        """Give a fresh node what an image generator would have put into its image, and start it."""
        node = self.nodes[number]
        network = NETWORK.format(prefix=LAN_PREFIX, host=10 + number, server=SERVER)
        confine = CONFINE.format(number=number, registry=SERVER_OVERLAY, mgmt=PREFIX, lan=LAN_PREFIX,
                                 public=100 + number, server=SERVER)  # fmt: skip
        node.write_file("/etc/config/network", network)
        node.write_file("/etc/config/confine", confine, 0o600)
        node.write_file("/etc/tinc/confine/tinc.conf", f"Name = node_{number}\nConnectTo = server_1\n")
        node.write_file("/etc/tinc/confine/hosts/server_1", self.host.host_file())
        node.sh("/etc/init.d/network restart; /etc/init.d/confine restart </dev/null >/dev/null 2>&1", timeout=180)

    def status(self, number: int) -> dict[str, Any] | None:
        """The controller's status, or None while it does not answer."""
        node = self.nodes[number]
        try:
            answer = json.loads(node.ask(CONTROL, b'{"verb": "status"}\n', timeout=5))
        except (NodeError, ValueError):
            node.check_alive()
            return None
        result: dict[str, Any] | None = answer.get("result")
        return result

    def admit_all(self) -> bool:
        """Let those nodes into the overlay that have made their key; whether all are in."""
        waiting = 0
        for number in self.nodes:
            overlay = (self.status(number) or {}).get("overlay") or {}
            if not overlay.get("pubkey"):
                waiting += 1
            elif not os.path.exists(os.path.join(self.host.tinc, "hosts", f"node_{number}")):
                self._say(f"node {number}    has made its key; the operator lets it into the overlay")
                self.host.admit(number, overlay["pubkey"])
        return waiting == 0

    def joined(self, number: int) -> bool:
        """Whether the node reaches the server through the overlay and has read the registry there."""
        status = self.status(number) or {}
        peers = (status.get("overlay") or {}).get("peers", [])
        reached = any(peer["name"] == "server_1" and peer["reachable"] for peer in peers)
        return reached and bool((status.get("registry") or {}).get("last_read"))

    def as_asked(self, number: int) -> bool:
        """Whether all slivers of the node are as asked."""
        return narrate.as_asked(self.status(number) or NOTHING)

    def wait_joined(self, timeout: float = JOIN_S) -> None:
        """Wait until all nodes are in the overlay and have read the registry."""
        wait_until("every node has made its key", self.admit_all, timeout)
        for number, node in self.nodes.items():
            sentence = f"node {number} reads the registry through the overlay"
            node.wait_for(sentence, partial(self.joined, number), timeout)

    def wait_as_asked(self, timeout: float = JOIN_S) -> None:
        """Wait until all slivers of all nodes are as asked, and neither they nor the nodes' own network change."""
        for number, node in self.nodes.items():
            node.wait_for(f"all slivers of node {number} are as asked", partial(self.as_asked, number), timeout)
            node.wait_for(f"node {number} has settled", partial(self.settled, number), timeout)

    def settled(self, number: int) -> bool:
        """Whether the node's own network waits for nothing, and no step of a sliver is under way."""
        status = self.status(number)
        if status is None or not self.as_asked(number):
            return False
        network = (status["node"].get("network") or {}).get("state")
        return network in ("as asked", "by hand", None) and not any(one["progress"] for one in status["slivers"])

    def errors(self, number: int) -> str:
        """What the node says is wrong with it."""
        status = self.status(number) or {"node": {"errors": []}}
        return " ".join(error["message"] for error in status["node"]["errors"])

    def inits(self, number: int) -> dict[str, int]:
        """The process ids of the inits of the node's slivers."""
        return {sliver["id"]: sliver["init_pid"] for sliver in (self.status(number) or NOTHING)["slivers"]}

    def refresh(self) -> None:
        """Have all nodes read the registry now."""
        for node in self.nodes.values():
            node.ask(CONTROL, b'{"verb": "refresh"}\n')

    def in_sliver(self, number: int, script: str, slice_id: int = 1, timeout: float = 30) -> str:
        """Run a line of shell as root in the sliver of a slice on a node; gives its output, also of a failure."""
        name = f"{slice_id:012x}_{number:04x}"
        command = ["lxc-attach", "-P", "/run/confine/lxc", "-n", name, "--", "/bin/sh", "-c", script]
        return self.nodes[number].run(command, timeout).out


NOTHING: dict[str, Any] = {"registry": {"last_read": None}, "slivers": []}
