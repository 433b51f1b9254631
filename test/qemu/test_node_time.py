"""The node's own time and the resolver that slivers ask."""

from __future__ import annotations

import json

import pytest

from qemu.following import CONTROL
from qemu.harness import VirtualNode
from qemu.sliver_node import SliverNode

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]

# Answers any client with the node's own time, moved by {shift} seconds.
SERVER = """
import socket, struct, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 123))
    while True:
        query, client = server.recvfrom(512)
        seconds = time.time() + {shift} + 2208988800
        stamp = struct.pack(">II", int(seconds), int(seconds % 1 * 2**32))
        head = struct.pack(">BBBbIII", 0x24, 1, query[2], -20, 0, 0, 0x7F000001)
        server.sendto(head + stamp + query[40:48] + stamp + stamp, client)
"""


def clock(node: VirtualNode) -> dict[str, object]:
    """What the node's status says of its clock."""
    answer = json.loads(node.ask(CONTROL, b'{"verb": "status", "args": {}}\n'))
    found: dict[str, object] = answer["result"]["node"].get("clock") or {}
    return found


def serve_time(node: VirtualNode, shift: float) -> None:
    """Have a time server in the node, and the node ask it alone."""
    node.write_file("/tmp/server.py", SERVER.format(shift=shift))
    node.sh("setsid python3 /tmp/server.py >/tmp/server.log 2>&1 &")
    node.sh(
        "uci -q delete system.ntp.server; uci add_list system.ntp.server=127.0.0.1; uci commit system;"
        "/etc/init.d/sysntpd restart"
    )


def test_the_time_is_confirmed_by_the_servers_of_uci_and_reported(node: VirtualNode) -> None:
    node.wait_for("the daemon is there", lambda: node.run(["test", "-S", CONTROL]).status == 0, 60)
    node.wait_for("it has looked", lambda: clock(node) != {}, 60)
    assert clock(node) == {"confirmed": None, "error_ms": None}
    assert "nothing confirms it" in node.run(["confine", "check"]).out
    serve_time(node, 0)
    node.wait_for("the time is confirmed", lambda: clock(node)["confirmed"] == "ntp", 120)
    assert ", by NTP" in node.run(["confine", "check"]).out


def test_a_clock_that_is_far_off_is_set(node: VirtualNode) -> None:
    year = int(node.must(["date", "-u", "+%Y"]))
    node.sh("date -u -s 2001-02-03; /etc/init.d/sysntpd stop")
    now = float(node.must(["date", "-u", "+%s"]))
    serve_time(node, (year - 2001) * 365.25 * 86400)
    node.wait_for("the year is right", lambda: int(node.must(["date", "-u", "+%Y"])) in (year, year - 1, year + 1), 120)
    assert float(node.must(["date", "-u", "+%s"])) > now


def test_a_sliver_is_answered_by_the_nodes_own_resolver(slivers: SliverNode) -> None:
    assert "nameserver 192.168.241.126" in slivers.must(1, "cat /etc/resolv.conf")
    # A plain name is never passed on: the resolver itself answers that there is no such name.
    answer = slivers.run(1, "nslookup nosuchname")
    assert "NXDOMAIN" in answer.out + answer.err, answer.out + answer.err
