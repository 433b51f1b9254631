"""The figures of slivers' interfaces, taken in a virtual node of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from bench import virtual
from bench.table import Figure, at_most, say

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ("tcp", "interfaces", "idle-interfaces")
DRIVE = "/tmp/network_drive.py"
LEAST_TCP = 0.9


def figures(wanted: set[str], versions: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`, of NAMES."""
    with virtual.bench() as one:
        with open(os.path.join(HERE, "network_drive.py")) as file:
            one.node.write_file(DRIVE, file.read())
        if "tcp" in wanted:
            yield tcp(_drive(one, "tcp"))
        if "interfaces" in wanted:
            found = _drive(one, "interfaces")
            yield at_most("interfaces of a sliver (3) made and removed (virtual node; best of 5, turn about)",
                          min(found["mine"]), min(found["bare"]), 1.2, "s",
                          "by hand over netlink (pyroute2)")  # fmt: skip
        if "idle-interfaces" in wanted:
            yield idle(_drive(one, "idle"))


def _drive(one: virtual.Bench, what: str) -> Any:
    say(f"  in the node: {what}")
    argv = ["env", "PYTHONPATH=/usr/lib/confine:/tmp", "python3", DRIVE, what, one.sha256]
    return json.loads(one.node.must(argv, 400).strip().splitlines()[-1])


def tcp(found: dict[str, list[float]]) -> Figure:
    """TCP through a private interface, the firewall on."""
    mine, bare = max(found["mine"]) / 125000, max(found["bare"]) / 125000
    return Figure(
        "TCP through a private interface, firewall on (virtual node; best of 5, turn about)",
        f"{mine:.0f} Mbit/s",
        f"{bare:.0f} Mbit/s: a bare veth on a bridge",
        mine / bare,
        f">= {LEAST_TCP} x",
        mine / bare >= LEAST_TCP,
    )


def idle(found: dict[str, float]) -> Figure:
    """A round that changes nothing."""
    return Figure(
        f"idle look at 32 slivers with 3 interfaces ({found['ports']} ports)",
        f"{found['processes']} processes, {found['writes']} writes, {found['seconds'] * 1000:.0f} ms",
        "",
        None,
        "no process, no write",
        found["processes"] == found["writes"] == 0,
    )
