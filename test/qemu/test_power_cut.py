"""The node's power is cut at random moments, and a second daemon is started: all is as asked afterwards, nothing leaks.

Virtual nodes run with QEMU's cache=unsafe: what the guest has flushed is never lost and the order of writes is kept,
as on a disk that keeps its word. What was not flushed is lost, as with a real cut. Disks that lie about flushes are
not tested here.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qemu import narrate, traces
from qemu.crashing import new_seed, restore_documents
from qemu.following import BRING_UP_S, FOLLOW_S, Following
from qemu.harness import Snapshot, VirtualNode
from qemu.run import authorize
from registry.faults import html
from registry.testbed import ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1200)]
BOOT_S = 300.0
SETTLE_S = 90.0  # for hangs
CHANGE_S = 6.0  # about as long as a change takes
CUTS = int(os.environ.get("CUTS") or 25)  # in `make torture`, of each sort

# Documents to change, and where the number then stands on the node: (document of the sliver, member).
CHANGES = {
    "slices/3": ("deployment", "slice_instance_sn"),
    "slivers/3": ("allocation", "sliver_instance_sn"),
    "slices/1": ("deployment", "slice_instance_sn"),
    "slivers/2": ("allocation", "sliver_instance_sn"),
}


@pytest.fixture
def reachable(example_registry: ExampleRegistry) -> Iterator[Callable[[bool], None]]:
    """Takes the registry away and gives it back."""
    server: Any = example_registry.server
    usual = server.fault

    def set_reachable(yes: bool) -> None:
        server.fault = usual if yes else lambda path: html(503)

    yield set_reachable
    set_reachable(True)


def start_all(following: Following) -> None:
    """Have all four slivers run: what is deployed without running is not mounted again after a reboot."""
    following.set("slices/4", set_state="start")
    following.wait_state("4@1", "started", BRING_UP_S)
    following.node.must(["sync"])


def cut_power(following: Following) -> None:
    """Reset the node, and wait until it has started again."""
    boot = following.node.boot_id()
    following.node.reset()
    following.node.wait_until_up(BOOT_S, boot)


def expect_traces(following: Following, usual: Counter[str]) -> None:
    """Wait until the node has exactly what `usual` has."""

    def wrong() -> list[str]:
        return traces.difference(usual, traces.gather(following.node))

    deadline = time.monotonic() + SETTLE_S
    while found := wrong():
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.5)


def wait_without_registry(following: Following) -> None:
    """Wait until every sliver is where the last documents known want it."""

    def there() -> bool:
        slivers = following.status()["slivers"]
        return bool(slivers) and all(narrate.REACHED.get(one["set_state"]) == one["state"] for one in slivers)

    following.node.wait_for("all is as it was last asked", there, BRING_UP_S)


def is_done(following: Following, name: str, number: int) -> bool:
    """Whether the change of the document `name` to `number` has come about."""
    document, member = CHANGES[name]
    sliver = following.sliver(name.rpartition("/")[2] + "@1")
    if sliver is None or sliver["state"] != "started":
        return False
    path = f"/srv/confine/slivers/{sliver['name']}/{document}.json"
    return f'"{member}":{number},' in following.node.read_file(path).decode().replace("}", ",")


def cut_during_a_change(
    following: Following, chance: random.Random, number: int, reachable: Callable[[bool], None]
) -> None:
    """Change something, cut the power meanwhile, and see the change come about."""
    usual = traces.gather(following.node)
    name, after, gone = chance.choice(sorted(CHANGES)), chance.uniform(0, CHANGE_S), chance.random() < 0.5
    print(f"{name} instance_sn {number}, cut after {after:.2f} s, registry {'gone' if gone else 'there'}", flush=True)
    following.set(name, instance_sn=number)
    time.sleep(after)
    reachable(not gone)
    cut_power(following)
    if gone:
        wait_without_registry(following)
        reachable(True)
        following.refresh()
    following.node.wait_for("the change is done", lambda: is_done(following, name, number), BRING_UP_S)
    following.wait_as_asked(BRING_UP_S)
    expect_traces(following, usual)


def cut_during_bring_up(booted: Snapshot, settled: Snapshot, registry: ExampleRegistry, chance: random.Random) -> None:
    """Have a new node join the testbed, cut the power meanwhile, and compare it with one that was left alone."""
    restore_documents(registry)
    with VirtualNode.from_snapshot(settled) as alone:
        start_all(Following(alone, registry))
        usual = traces.gather(alone)
    after = chance.uniform(0, 20)
    print(f"bring-up, cut after {after:.2f} s", flush=True)
    with VirtualNode.from_snapshot(booted) as node:
        following = Following(node, registry)
        authorize(node, registry)
        node.must(["sync"])
        time.sleep(after)
        cut_power(following)
        following.wait_as_asked(BRING_UP_S)
        expect_traces(following, usual)


def test_after_a_power_cut_during_a_change_all_is_as_asked_and_nothing_is_left_over(
    following: Following, reachable: Callable[[bool], None]
) -> None:
    start_all(following)
    cut_during_a_change(following, random.Random(new_seed()), 1, reachable)


@pytest.mark.torture
def test_after_a_power_cut_during_bring_up_all_is_as_asked(
    booted: Snapshot, settled: Snapshot, example_registry: ExampleRegistry
) -> None:
    cut_during_bring_up(booted, settled, example_registry, random.Random(new_seed()))


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_many_power_cuts_during_changes(following: Following, reachable: Callable[[bool], None]) -> None:
    chance = random.Random(new_seed())
    start_all(following)
    for number in range(1, CUTS + 1):
        cut_during_a_change(following, chance, number, reachable)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_many_power_cuts_during_bring_up(
    booted: Snapshot, settled: Snapshot, example_registry: ExampleRegistry
) -> None:
    chance = random.Random(new_seed())
    for _ in range(CUTS):
        cut_during_bring_up(booted, settled, example_registry, chance)


def test_a_second_daemon_harms_nothing_whenever_it_is_started(following: Following) -> None:
    usual = traces.gather(following.node)
    second = "env PYTHONPATH=/usr/lib/confine python3 -P -s -m confine.daemon"

    def renew_beside_a_second_daemon() -> None:
        following.set("slivers/3", instance_sn=1)
        for _ in range(2):
            result = following.node.run(second.split())
            assert (result.status, "another daemon" in result.err) == (1, True), result.err
        following.node.wait_for("the change is done", lambda: is_done(following, "slivers/3", 1), FOLLOW_S)

    def take_over_and_be_killed() -> None:
        following.node.sh(f"kill -9 $(cat /run/confine/lock); {second} </dev/null >/dev/null 2>&1 &")
        following.node.wait_for("one daemon is there", lambda: following.status()["round"] > 0, FOLLOW_S)
        following.set("slivers/3", instance_sn=2)
        following.node.sh("kill -9 $(cat /run/confine/lock)")
        following.node.wait_for("the change is done", lambda: is_done(following, "slivers/3", 2), FOLLOW_S)
        following.node.sh("kill -9 $(cat /run/confine/lock)")
        following.node.wait_for("the supervised one is there", lambda: following.status()["round"] > 0, FOLLOW_S)

    following.undisturbed(["1@1", "2@1"], renew_beside_a_second_daemon)
    following.undisturbed(["1@1", "2@1"], take_over_and_be_killed)
    following.wait_as_asked()
    expect_traces(following, usual)
