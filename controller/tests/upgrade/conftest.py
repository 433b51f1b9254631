"""A node with slots, its keys and a mirror, for the tests that need all of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import slot_world
from bundle_world import Keys
from mirror_world import Mirror
from node_world import World


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(str(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("disk")
    return slot_world.split(slot_world.make_disk(str(made)), str(made / "parts"))


@pytest.fixture
def world(disk: str, keys: Keys) -> Iterator[World]:
    # In memory where that can be: much is flushed here, and it is not the medium that is tested.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield World(directory, disk, keys)


@pytest.fixture
def mirror(world: World) -> Iterator[Mirror]:
    made = Mirror(world.web)
    world.settings.upgrade_mirrors = [made.uri]
    yield made
    made.close()
