"""The firewall's figures: what 100 slivers' rules cost beside one's, and how long the node is open without rules.

Taken on this machine's kernel, in a network namespace: every ratio is of one run of one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.table import ROOT, Figure, at_most, missing

NAMES = ("firewall-packets", "firewall-change", "firewall-flush")
DRIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "firewall_drive.py")
MANY = 100
OPEN_S = 0.1
DRIVE_S = 300


def drive(what: str) -> Any:
    """What firewall_drive.py measures, in namespaces of its own."""
    environment = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "controller")}
    argv = ["unshare", "--net", "--mount", sys.executable, DRIVE, what]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DRIVE_S, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it says nothing")
    return json.loads(done.stdout)


def figures(wanted: set[str], _: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`, of NAMES."""
    if os.geteuid() != 0:
        yield missing("firewall", "it needs root")
        return
    if "firewall-packets" in wanted:
        found = drive("packets")
        yield at_most(f"a packet through the bridge's rules, {MANY} slivers (CPU for 20000; best of 9, turn about)",
                      min(found["many"]), min(found["one"]), 1.05, "s", "1 sliver")  # fmt: skip
    if "firewall-change" in wanted:
        found = drive("change")
        yield at_most(f"firewall: a sliver let through and silenced among {MANY} (best of 45, turn about)",
                      min(found["many"]), min(found["one"]), 1.5, "s", "beside 1")  # fmt: skip
    if "firewall-flush" in wanted:
        yield flush(drive("flush")["open"])


def flush(found: list[list[float]]) -> Figure:
    """The longest time: what the kernel takes to flush is in it."""
    longest, back = max(one[0] for one in found), max(one[1] for one in found)
    beside = f"put up again in {back * 1000:.0f} ms"
    return Figure(f"open after the ruleset was flushed, {MANY} interfaces (longest of 9)", f"{longest * 1000:.1f} ms",
                  beside, None, "<= 100 ms", longest <= OPEN_S)  # fmt: skip
