"""Load: as many slivers as there are numbers, a thousand rounds, a registry that never keeps still.

Memory and descriptors of the daemon stay what they were once it had warmed up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qemu.conftest import MakeNode
from qemu.crashing import restore_documents
from qemu.following import BRING_UP_S, FOLLOW_S, Following
from qemu.harness import NodeError
from qemu.run import authorize
from registry.testbed import ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
MANY = 125  # numbers are 1-125
EACH_MIB = 8
UP_S = 1800.0
WARM_UP = 20
# Of resident memory, KiB: the allocator's own ups and downs, far below what a leak of 1 KiB a round would come to in a
# thousand; and in a few, of 1 % of what a round reads.
PLAY_KIB, FEW_PLAY_KIB = 768, 2048
CHANGING_S = 600.0


class Figures:
    """What the daemon holds: resident memory in KiB, descriptors, threads."""

    def __init__(self, node: Any) -> None:
        self.pid = node.read_file("/run/confine/lock").decode()
        lines = node.read_file(f"/proc/{self.pid}/status").decode().splitlines()
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        self.memory_kib = int(status["VmRSS"].split()[0])
        self.threads = int(status["Threads"])
        self.descriptors = len(node.sh(f"ls /proc/{self.pid}/fd").split())

    def __str__(self) -> str:
        return f"{self.memory_kib} KiB, {self.descriptors} descriptors, {self.threads} threads"


def fewest(node: Any) -> Figures:
    """Of some moments: one in which somebody asks, or the registry is read, has a connection and threads more."""
    return min([Figures(node) for _ in range(10)], key=lambda found: (found.descriptors, found.threads))


def assert_flat(node: Any, before: Figures, play_kib: int) -> None:
    """One daemon all the time, and it comes back to holding no more than before: what leaked stays."""
    deadline = time.monotonic() + FOLLOW_S
    while True:
        after = Figures(node)
        more = after.memory_kib > before.memory_kib + play_kib
        if not (more or after.descriptors > before.descriptors or after.threads > before.threads):
            break
        assert time.monotonic() < deadline, f"before: {before}; after: {after}"
        time.sleep(0.2)
    print(f"before: {before}; after: {after}", flush=True)
    assert after.pid == before.pid


def read_once(following: Following) -> None:
    """One round: the registry is read."""
    before = following.status()["registry"]["last_read"]
    following.refresh()

    def read() -> bool:
        return bool((following.status()["registry"]["last_read"] or 0) > (before or 0))

    following.node.wait_for("the registry was read", read, FOLLOW_S, every=0.02)


def rounds_are_flat(following: Following, rounds: int, play_kib: int = PLAY_KIB) -> None:
    for _ in range(WARM_UP):
        read_once(following)
    before = fewest(following.node)
    for _ in range(rounds):
        read_once(following)
    assert_flat(following.node, before, play_kib)


def changing(following: Following, seconds: float) -> None:
    """Have the registry change something each second: keys, texts, states, instances."""
    number = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        key = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEosDgOklv3QE/d9QwhfambnWhJMnYw7ng4cdX41ar90 {number}"
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("users/2", {"auth_tokens": [key]}),
            ("slices/2", {"description": f"Text {number}"}),
            ("slivers/2", {"set_state": "deploy" if number % 8 < 4 else None}),
            ("slivers/3", {"instance_sn": number}),
        ]
        name, members = kinds[number % 4]
        following.set(name, **members)
        time.sleep(1)
    print(f"{number} changes in {seconds:.0f} s", flush=True)
    following.set("slivers/2", set_state=None)
    following.wait_as_asked(BRING_UP_S)


@pytest.fixture
def crowd(make_node: MakeNode, disk: str, example_registry: ExampleRegistry) -> Iterator[Following]:
    """A node with memory enough, that is asked for a sliver of each number there is."""
    restore_documents(example_registry)
    multiply(example_registry.documents)
    node = make_node(disk, memory_mib=3072)
    authorize(node, example_registry)
    yield Following(node, example_registry)
    restore_documents(example_registry)


def multiply(documents: str) -> None:
    """Replace the testbed's slices and slivers by MANY small ones made from the bare template."""
    for collection in ("slices", "slivers"):
        change_all(os.path.join(documents, collection), small)


def change_all(directory: str, change: Callable[[dict[str, Any], int], None]) -> None:
    with open(os.path.join(directory, "3.json")) as file:
        text = file.read()
    for number in range(1, MANY + 1):
        doc = json.loads(text)
        change(doc, number)
        with open(os.path.join(directory, f"{number}.json"), "w") as file:
            json.dump(doc, file)


def small(doc: dict[str, Any], number: int) -> None:
    if "slice" in doc:
        doc["slice"] = f"@slices/{number}"
        return
    doc["name"] = f"small-{number}"
    doc["sliver_defaults"].update(
        data_uri=None,
        data_sha256=None,
        resources=[{"name": name, "req": EACH_MIB, "unit": "MiB"} for name in ("memory", "disk")],
    )


def test_memory_and_descriptors_stay_flat_over_rounds(following: Following) -> None:
    rounds_are_flat(following, 60, FEW_PLAY_KIB)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_memory_and_descriptors_stay_flat_with_a_registry_that_changes_for_two_minutes(following: Following) -> None:
    changing(following, 30)
    before = fewest(following.node)
    changing(following, 90)
    assert_flat(following.node, before, FEW_PLAY_KIB)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_memory_and_descriptors_stay_flat_over_a_thousand_rounds(following: Following) -> None:
    rounds_are_flat(following, 1000)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_memory_and_descriptors_stay_flat_with_a_registry_that_changes_each_second(following: Following) -> None:
    changing(following, CHANGING_S / 10)
    before = fewest(following.node)
    changing(following, CHANGING_S)
    assert_flat(following.node, before, PLAY_KIB)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_a_sliver_of_each_number_there_is_runs_on_one_node(crowd: Following) -> None:
    begun = time.monotonic()

    def all_started() -> bool:
        try:
            states = [sliver["state"] for sliver in crowd.status()["slivers"]]
        except (NodeError, ValueError, AssertionError):
            return False
        return states.count("started") == MANY

    crowd.node.wait_for(f"{MANY} slivers are started", all_started, UP_S, every=2)
    print(f"{MANY} slivers started in {time.monotonic() - begun:.0f} s", flush=True)
    numbers = sorted(sliver["nr"] for sliver in crowd.status()["slivers"])
    assert numbers == list(range(1, MANY + 1))
    assert all(sliver["limits"]["held"] for sliver in crowd.status()["slivers"])
    rounds_are_flat(crowd, 50)
