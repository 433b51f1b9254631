"""As many slivers as a node may have, with four interfaces each."""

from __future__ import annotations

import json
import os

import pytest

from qemu.harness import VirtualNode

HERE = os.path.dirname(os.path.abspath(__file__))
WORLD = """
ip() { /usr/sbin/ip "$@"; }
/etc/init.d/confine stop
for bridge in br-confine br-local; do ip link add $bridge type bridge || true; ip link set $bridge up; done
ip link add eth1 type veth peer name other
ip link set eth1 up
ip link set other up
"""


def crowd(node: VirtualNode, count: int) -> None:
    """Have `count` slivers' interfaces made, looked at and removed."""
    node.sh(WORLD, 60)
    with open(os.path.join(HERE, "crowd_drive.py")) as file:
        node.write_file("/tmp/crowd_drive.py", file.read())
    argv = ["env", "PYTHONPATH=/usr/lib/confine", "python3", "/tmp/crowd_drive.py", str(count)]
    found = json.loads(node.must(argv, timeout=60 + 20 * count).splitlines()[-1])
    assert (found["ports"], found["vlans"]) == (4 * count, count)
    assert found["again"] == []
    assert found["left"] == []


def test_some_slivers_with_four_interfaces_each_are_made_found_and_removed(node: VirtualNode) -> None:
    crowd(node, 3)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_125_slivers_with_four_interfaces_each_are_made_found_and_removed(node: VirtualNode) -> None:
    crowd(node, 125)
