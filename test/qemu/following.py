"""A virtual node that follows the example registry: class and fixtures of the tests of the whole.

def test_...(following: Following) -> None:     # all slivers of the example testbed run; each test has its own node
    following.set("slices/2", set_state="deploy")
    following.wait_state("2@1", "deployed")
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qemu import narrate
from qemu.harness import Snapshot, VirtualNode
from qemu.run import CONTROL, authorize
from registry.testbed import FILES, ExampleRegistry

FOLLOW_S = 60.0
BRING_UP_S = 150.0


class Following:
    """The example registry and a node that follows it."""

    def __init__(self, node: VirtualNode, registry: ExampleRegistry) -> None:
        self.node = node
        self.registry = registry

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the document `name` ("slices/1") as a person would, and have the node look."""
        path = os.path.join(self.registry.documents, name + ".json")
        with open(path) as file:
            doc = json.load(file)
        change(doc)
        with open(path + ".new", "w") as file:
            json.dump(doc, file)
        os.replace(path + ".new", path)
        self.refresh()

    def set(self, name: str, **members: Any) -> None:
        """Set members of the document `name`, and have the node look."""
        self.edit(name, lambda doc: doc.update(members))

    def refresh(self) -> None:
        """Have the node read its registry now."""
        self.verb("refresh")

    def verb(self, verb: str, **args: Any) -> Any:
        """The daemon's answer to a verb."""
        answer = json.loads(self.node.ask(CONTROL, json.dumps({"verb": verb, "args": args}).encode() + b"\n"))
        assert answer["ok"], answer
        return answer["result"]

    def status(self) -> dict[str, Any]:
        """The daemon's status."""
        doc: dict[str, Any] = self.verb("status")
        return doc

    def sliver(self, key: str) -> dict[str, Any] | None:
        """The status of one sliver, None if the node knows none of that name."""
        found = [sliver for sliver in self.status()["slivers"] if sliver["id"] == key]
        return found[0] if found else None

    def wait_state(self, key: str, state: str, timeout: float = FOLLOW_S) -> dict[str, Any]:
        """Wait until the sliver is in `state`; gives its status."""

        def there() -> dict[str, Any] | None:
            sliver = self.sliver(key)
            return sliver if sliver is not None and sliver["state"] == state else None

        found = self.node.wait_for(f"sliver {key} is {state}", there, timeout)
        assert found is not None
        return found

    def wait_as_asked(self, timeout: float = FOLLOW_S) -> dict[str, Any]:
        """Wait until every sliver is as asked; gives the status."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            return status if narrate.as_asked(status) else None

        found = self.node.wait_for("all slivers are as asked", settled, timeout)
        assert found is not None
        return found

    def has_its_network(self) -> bool:
        """Whether no change of the node's own network is under way, which time that was skipped would undo."""
        return (self.status()["node"].get("network") or {}).get("state") in ("as asked", "by hand", None)

    def wait_restarted(self, key: str, init_before: int) -> None:
        """Wait until the sliver runs with another init than `init_before`."""

        def restarted() -> bool:
            return (self.sliver(key) or {}).get("init_pid") not in (init_before, None)

        self.node.wait_for(f"sliver {key} was started again", restarted, FOLLOW_S)

    def in_sliver(self, key: str, script: str) -> str:
        """Run a line of shell as root in a sliver; gives its output."""
        sliver = self.sliver(key)
        assert sliver is not None
        return self.node.must(["lxc-attach", "-P", "/run/confine/lxc", "-n", sliver["name"], "--", "/bin/sh", "-c",
                               script])  # fmt: skip

    def undisturbed(self, keys: list[str], change: Callable[[], Any]) -> None:
        """Assert that the slivers `keys` run on, the same processes, through `change`."""
        before = {key: self.wait_state(key, "started")["init_pid"] for key in keys}
        change()
        assert {key: self.wait_state(key, "started")["init_pid"] for key in keys} == before


@pytest.fixture(scope="session")
def example_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleRegistry]:
    if not os.path.exists(os.path.join(FILES, "debian.json")):
        pytest.fail("the example templates were not built: make image")
    with ExampleRegistry(str(tmp_path_factory.mktemp("registry"))) as registry:
        yield registry


@pytest.fixture(scope="session")
def settled(booted: Snapshot, example_registry: ExampleRegistry, session_dir: str) -> Snapshot:
    """A node that brought all slivers of the example testbed up."""
    with VirtualNode.from_snapshot(booted) as node:
        authorize(node, example_registry)
        testbed = Following(node, example_registry)
        testbed.wait_as_asked(BRING_UP_S)
        node.wait_for("the node's own network is confirmed", testbed.has_its_network, BRING_UP_S)
        return node.save(os.path.join(session_dir, "settled"))


@pytest.fixture
def following(
    settled: Snapshot, example_registry: ExampleRegistry, request: pytest.FixtureRequest
) -> Iterator[Following]:
    original = os.path.join(os.path.dirname(example_registry.documents), "original")
    shutil.rmtree(example_registry.documents)
    shutil.copytree(original, example_registry.documents)
    with VirtualNode.from_snapshot(settled) as node:
        request.node.__dict__.setdefault("_virtual_nodes", []).append(node)
        yield Following(node, example_registry)
