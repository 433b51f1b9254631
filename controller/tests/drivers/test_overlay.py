"""The overlay with real tincd on both sides, in a network namespace for each test (overlay_world.py)."""

import os
import shutil

import pytest
from worlds import play

pytestmark = pytest.mark.slow

SENTENCES = {
    "first_start": "without any file the node makes its key and starts tincd with its management address",
    "joins": "a node that reads of a server connects to it, and shows it as reachable",
    "idle_round": "a round with nothing to do starts no process and writes no file",
    "daemon_killed": "a tincd that died is started again",
    "key_changed": "a server with another key is reported by name, and reached once the registry has its new key",
    "addresses_dead": "a server with all addresses dead is reported by name, and reached again without a restart",
    "new_address": "a changed address is taken up by a reload, in the registry's order",
    "node_id_changed": "a node with another id gets another name, and its old file goes",
    "injected": "the files of an image generator are taken over as they are",
    "wrong_key_undone": "a change that cuts the node off is undone, named and not tried again",
    "changed_again": "a key that changes in the second of a reload is taken up, and others' connections stay",
    "comes_in": "a server that connects to the node finds it at the port that was set",
    "half_written": "files half written are put right, a half key is put aside",
    "another_island": "only addresses for the node's island are tried",
}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("tincd") is None, reason="needs root and tincd")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", list(SENTENCES), ids=[text.replace(" ", "-") for text in SENTENCES.values()])
def test_overlay(scenario: str, tmp_path: "os.PathLike[str]") -> None:
    play("overlay_world.py", scenario, tmp_path)
