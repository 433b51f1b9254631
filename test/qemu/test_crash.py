"""The daemon killed (SIGKILL) before, within, during and after every kind of step: the node is as asked afterwards,
nothing is left over, and slivers that are not concerned run on.

The kinds come from the table of steps: in `make torture`, one that no change in crashing.py reaches fails by name.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from confine.core.steps import STEPS
from qemu.crashing import BY_NAME, CHANGES, CONCERNED, HOME, REBOOT, Kind, Lab, new_seed
from qemu.harness import Snapshot
from registry.testbed import ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1200)]
POINTS = int(os.environ.get("POINTS") or 8)  # in `make torture`, of each kind: calls to kill the daemon after
KINDS = [pytest.param(kind, id="-".join(kind)) for kind in STEPS]


# In `make test`: what happens to slivers. A reboot, network and overlay take longer.
SHORT = [change for change in CHANGES if " sliver" in change.name or " slice" in change.name or "keys" in change.name]


@pytest.fixture(scope="module")
def lab(settled: Snapshot, example_registry: ExampleRegistry) -> Iterator[Lab]:
    made = Lab(settled, example_registry, CHANGES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def short_lab(settled: Snapshot, example_registry: ExampleRegistry) -> Iterator[Lab]:
    made = Lab(settled, example_registry, SHORT)
    yield made
    made.close()


@pytest.mark.parametrize("name", [change.name for change in SHORT])
def test_a_daemon_killed_once_at_each_kind_of_step_comes_back_to_what_is_asked(short_lab: Lab, name: str) -> None:
    """One point of each kind of step that slivers go through, drawn at random."""
    chance = random.Random(f"{new_seed()} {name}")
    with short_lab.lend() as node:
        change = BY_NAME[name]
        extents = node.steps[name]
        orders = [chance.choice(extents[kind].orders(kind, chance, 2, 2)) for kind in short_lab.kinds(node, change)]
        print(f"{name}: {orders}")
        node.bring_about(change, orders)
        node.go_back(change)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_killed_at_many_points_of_a_step_comes_back_to_what_is_asked_and_leaks_nothing(
    lab: Lab, kind: Kind
) -> None:
    chance = random.Random(f"{new_seed()} {kind}")
    with lab.lend() as node:
        change = lab.cheapest(node, kind)
        extent = node.steps[change.name][kind]
        rare = change.name == REBOOT  # minutes for each point
        orders = extent.orders(kind, chance, 2 if rare else POINTS, 1 if rare else POINTS // 2)
        print(f"{change.name}: {kind[0]} {kind[1]}, {extent}, at {[order['at'] for order in orders]}")
        node.bring_about(change, orders)
        node.go_back(change)


def test_a_step_that_leaves_something_more_each_time_is_found_out(short_lab: Lab) -> None:
    """The check checked: with a `limits apply` made non-idempotent the node passes undisturbed, and fails if killed."""
    kind, change = ("limits", "apply"), BY_NAME["the slice is reset"]
    with pytest.raises(AssertionError, match=r"\+ cgroups: \S+/again-1"), short_lab.lend() as node:
        node.node.write_file(HOME + "/fault", " ".join(kind))
        usual = node.usual["started"]
        name = (node.sliver(CONCERNED) or {})["name"]
        node.usual = {"started": usual + Counter([f"cgroups: /sys/fs/cgroup/confine/{name}/again-0"])}
        node.bring_about(change)
        node.settle_s = 5.0  # what leaks stays: no need to wait long
        node.bring_about(change, [{"driver": kind[0], "verb": kind[1], "at": "after"}])
