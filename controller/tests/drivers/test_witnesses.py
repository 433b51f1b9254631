"""Who answers the node before and after a change of its network, by a real kernel (witnesses_world.py)."""

import os
import shutil

import pytest
from worlds import play

pytestmark = pytest.mark.slow

SENTENCES = {
    "both_change": "two nodes that change their network at the same time are each other's witness all the same",
    "cut": "a cable that leads nowhere after the change is noticed",
    "gateway": "a gateway that nobody had to do with is asked, and has to answer anew",
    "stale_gateway": "a gateway that was dead before the change does not count, whatever the kernel remembers",
    "fixed_gateway": "a gateway whose hardware address somebody fixed stays so",
    "overlay": "a peer of the overlay that answered has to answer again",
    "own_sliver": "the node's own slivers are no witnesses",
}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nsenter") is None, reason="needs root and nsenter")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", list(SENTENCES), ids=[text.replace(" ", "-") for text in SENTENCES.values()])
def test_witnesses(scenario: str, tmp_path: "os.PathLike[str]") -> None:
    play("witnesses_world.py", scenario, tmp_path)
