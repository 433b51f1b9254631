"""The daemon killed (SIGKILL) before, within and after every kind of step: the node is as asked afterwards, nothing is
left over, and slivers that are not concerned run on.

The kinds come from the table of steps: one that no change in crashing.py reaches fails here by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from confine.core.steps import STEPS
from qemu.crashing import BY_NAME, CrashNode, Kind, Lab, new_seed
from qemu.harness import Snapshot
from registry.testbed import ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
WITHIN = 2
EVERY_POINT = 40
KINDS = [pytest.param(kind, id="-".join(kind)) for kind in STEPS]


@pytest.fixture(scope="module")
def lab(settled: Snapshot, example_registry: ExampleRegistry) -> Iterator[Lab]:
    made = Lab(settled, example_registry)
    yield made
    made.close()


@pytest.fixture
def crashes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[CrashNode]:
    with lab.lend() as node:
        request.node.__dict__.setdefault("_virtual_nodes", []).append(node.node)
        yield node


@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_killed_at_a_step_comes_back_to_what_is_asked_and_leaks_nothing(
    lab: Lab, kind: Kind
) -> None:
    chance = random.Random(new_seed())
    with lab.lend() as node:
        change = lab.cheapest(node, kind)
        calls = node.steps[change.name][kind]
        within = chance.sample(range(1, calls + 1), min(WITHIN, calls))
        print(f"{change.name}: {kind[0]} {kind[1]}, after calls {sorted(within)} of {calls}")
        node.bring_about(change, node.orders(kind, within))
        if change.state != "started":
            node.bring_about(BY_NAME["the sliver is brought up"])
