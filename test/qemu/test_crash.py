"""The daemon killed (SIGKILL) before, within and after every kind of step: the node is as asked afterwards, nothing is
left over, and slivers that are not concerned run on.

The kinds come from the table of steps: one that no change in crashing.py reaches fails here by name.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from confine.core.steps import STEPS
from qemu.crashing import BY_NAME, CONCERNED, HOME, WAY_BACK, Kind, Lab, new_seed
from qemu.harness import Snapshot
from registry.testbed import ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1200), pytest.mark.torture]
WITHIN = 2
EVERY_POINT = 40
KINDS = [pytest.param(kind, id="-".join(kind)) for kind in STEPS]


@pytest.fixture(scope="module")
def lab(settled: Snapshot, example_registry: ExampleRegistry) -> Iterator[Lab]:
    made = Lab(settled, example_registry)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_killed_at_a_step_comes_back_to_what_is_asked_and_leaks_nothing(lab: Lab, kind: Kind) -> None:
    chance = random.Random(new_seed())
    with lab.lend() as node:
        change = lab.cheapest(node, kind)
        calls = node.steps[change.name][kind]
        within = chance.sample(range(1, calls + 1), min(WITHIN, calls))
        print(f"{change.name}: {kind[0]} {kind[1]}, after calls {sorted(within)} of {calls}")
        node.bring_about(change, node.orders(kind, within))
        if change.state != "started":
            node.bring_about(BY_NAME[WAY_BACK[change.state]])


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_killed_after_any_call_of_a_step_comes_back_to_what_is_asked(lab: Lab, kind: Kind) -> None:
    """All calls of the step, one at a time; of a step with very many, EVERY_POINT of them spread evenly."""
    new_seed()
    with lab.lend() as node:
        change = lab.cheapest(node, kind)
        calls = node.steps[change.name][kind]
        points = sorted({1 + number * calls // EVERY_POINT for number in range(EVERY_POINT)} & set(range(1, calls + 1)))
        for at in ["before", *points, "after"]:
            print(f"{change.name}: {kind[0]} {kind[1]}, {at} of {calls} calls", flush=True)
            node.bring_about(change, [{"driver": kind[0], "verb": kind[1], "at": at}])
        if change.state != "started":
            node.bring_about(BY_NAME[WAY_BACK[change.state]])


def test_a_step_that_leaves_something_more_each_time_is_found_out(lab: Lab) -> None:
    """The check checked: with a `limits apply` made non-idempotent the node passes undisturbed, and fails if killed."""
    kind, change = ("limits", "apply"), BY_NAME["the slice is reset"]
    with pytest.raises(AssertionError, match=r"\+ cgroups: \S+/again-1"), lab.lend() as node:
        node.node.write_file(HOME + "/fault", " ".join(kind))
        usual = node.usual["started"]
        name = (node.sliver(CONCERNED) or {})["name"]
        node.usual = {"started": usual + Counter([f"cgroups: /sys/fs/cgroup/confine/{name}/again-0"])}
        node.bring_about(change)
        node.bring_about(change, [{"driver": kind[0], "verb": kind[1], "at": "after"}])
