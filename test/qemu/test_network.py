"""What slivers reach over their private interfaces, and what they do not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qemu.sliver_node import SliverNode

GATEWAY, GATEWAY6 = "192.168.241.126", "fdbd:e804:6aa9::1"
FIRST, SECOND = "192.168.241.1", "192.168.241.2"


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from outside\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[int]:
    """Port of a web server on the host, at 10.0.2.2 for the node."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def connects(slivers: SliverNode, nr: int, address: str, port: int) -> bool:
    """Whether sliver `nr` can open a TCP connection."""
    return slivers.run(nr, f"probe connect {address} {port}").status == 0


def connects_from_node(slivers: SliverNode, address: str, port: int) -> bool:
    """Whether the node itself can open a TCP connection."""
    script = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
    return slivers.node.run(["python3", "-c", script]).status == 0


def test_a_sliver_has_the_addresses_that_follow_from_its_number_and_slice(slivers: SliverNode) -> None:
    found = slivers.must(1, "ip addr show priv")
    assert "link/ether 54:c0:00:12:01:00" in found
    assert f"inet {FIRST}/25" in found
    assert "inet6 fdbd:e804:6aa9:0:1000::1/64" in found


def test_a_sliver_reaches_the_outside_through_nat(slivers: SliverNode, outside: int) -> None:
    assert slivers.must(1, f"wget -q -T 5 -O - http://10.0.2.2:{outside}/") == "from outside\n"


def test_a_sliver_reaches_the_node_by_icmp_on_both_protocols(slivers: SliverNode) -> None:
    slivers.must(1, f"ping -c 1 -W 3 {GATEWAY}")
    slivers.node.wait_for("IPv6 answers", lambda: slivers.run(1, f"ping -c 1 -W 2 {GATEWAY6}").status == 0, 15)


def test_a_sliver_reaches_dns_on_the_node_and_no_other_service(slivers: SliverNode) -> None:
    node = slivers.node
    listening = node.sh("netstat -ltn")
    assert ":22 " in listening
    assert connects(slivers, 1, GATEWAY, 53)
    for address in (GATEWAY, "10.0.2.15", GATEWAY6):
        assert not connects(slivers, 1, address, 22)
    assert connects_from_node(slivers, "127.0.0.1", 22)


def test_slivers_do_not_reach_each_other(slivers: SliverNode) -> None:
    slivers.background(2, "probe listen 7000")
    slivers.node.wait_for("sliver 2 listens", lambda: connects_from_node(slivers, SECOND, 7000), 10)
    assert not connects(slivers, 1, SECOND, 7000)
    assert slivers.run(1, f"ping -c 2 -W 1 {SECOND}").status != 0
    # Nor by way of the node's routing.
    slivers.must(1, f"ip route add {SECOND}/32 via {GATEWAY}")
    assert not connects(slivers, 1, SECOND, 7000)


def test_a_sliver_sees_no_frames_of_its_neighbour(slivers: SliverNode) -> None:
    before = packets(slivers, 1)
    slivers.must(2, f"ping -c 4 -i 0.3 -W 1 {GATEWAY}")
    slivers.run(2, "ping -c 2 -i 0.5 -W 1 192.168.241.99")  # asks everyone
    assert packets(slivers, 1) - before <= 2


def packets(slivers: SliverNode, nr: int) -> int:
    """Frames that sliver `nr` has received."""
    return int(slivers.must(nr, "cat /sys/class/net/priv/statistics/rx_packets"))


def test_a_sliver_cannot_take_its_neighbours_address(slivers: SliverNode, outside: int) -> None:
    slivers.must(1, f"ip addr del {FIRST}/25 dev priv; ip addr add {SECOND}/25 dev priv")
    slivers.must(1, f"ip route add default via {GATEWAY}")
    assert slivers.run(1, f"ping -c 1 -W 2 {GATEWAY}").status != 0
    assert slivers.must(2, f"wget -q -T 5 -O - http://10.0.2.2:{outside}/") == "from outside\n"


def test_a_sliver_cannot_take_its_neighbours_mac_address(slivers: SliverNode, outside: int) -> None:
    slivers.must(1, "ip link set priv down; ip link set priv address 54:c0:00:12:02:00; ip link set priv up")
    slivers.run(1, f"ping -c 2 -W 1 {GATEWAY}")
    assert slivers.must(2, f"wget -q -T 5 -O - http://10.0.2.2:{outside}/") == "from outside\n"


def test_the_node_reaches_its_slivers(slivers: SliverNode) -> None:
    slivers.node.must(["ping", "-c", "1", "-W", "3", FIRST])


def test_observing_bridge_and_firewall_finds_them_in_order_and_changes_nothing(slivers: SliverNode) -> None:
    found = slivers.drive(("firewall", "install", 0))
    assert found["bridge_ok"]
    assert found["firewall_ok"]


@pytest.mark.parametrize(
    "harm",
    [
        "ip link del br-confine",
        "ip addr flush dev br-confine",
        "ip link set br-confine down",
        "ip link set br-confine address 02:00:00:00:00:09",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
        "echo 0 >/sys/class/net/slv-01-00/brport/isolated",
        "ip addr add 192.0.2.1/24 dev br-confine; ip addr del 192.168.241.126/25 dev br-confine",
    ],
)
def test_a_bridge_that_was_harmed_is_put_right(slivers: SliverNode, harm: str) -> None:
    slivers.node.sh(harm)
    assert not slivers.drive()["bridge_ok"]
    assert slivers.drive(("links", "bridge", 0))["bridge_ok"]


def test_the_firewall_notices_a_change_and_is_put_up_again(slivers: SliverNode) -> None:
    script = """
import sys, time
from confine.core.settings import Settings
from confine.drivers.firewall import Firewall
import subprocess
firewall = Firewall(Settings(node_id=0x12))
assert not firewall.ok()
firewall.install(None)
assert firewall.ok()
subprocess.run(["nft", "add", "table", "inet", "other"], check=True)
assert firewall.ok()
Popen, subprocess.Popen = subprocess.Popen, None
assert firewall.ok()
subprocess.Popen = Popen
subprocess.run(["nft", "delete", "chain", "inet", "confine", "forward"], check=True)
assert not firewall.ok()
firewall.install(None)
assert firewall.ok()
subprocess.run(["nft", "flush", "ruleset"], check=True)
assert not firewall.ok()
print("good")
"""
    assert slivers.node.must(["python3", "-c", script], 60) == "good\n"


def test_forwarding_does_not_cost_the_node_its_own_route(slivers: SliverNode) -> None:
    assert slivers.node.read_file("/proc/sys/net/ipv6/conf/eth0/accept_ra") != b"1\n"
    assert slivers.node.read_file("/proc/sys/net/ipv6/conf/all/forwarding") == b"1\n"
    assert slivers.node.read_file("/proc/sys/net/ipv6/conf/br-confine/accept_ra") == b"0\n"
