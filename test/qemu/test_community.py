"""Two nodes and the testbed's server on a community LAN, booted once for all; what passed there is the evidence."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from qemu import proofs
from qemu.community import Community
from qemu.harness import KernelBoot
from registry.testbed import FILES

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(420)]

HEAL_S = 120.0


@pytest.fixture(scope="module")
def community(disk: str, image_files: dict[str, str], session_dir: str) -> Iterator[Community]:
    if not os.path.exists(os.path.join(FILES, "generic.json")):
        pytest.fail("the example templates were not built: make image")
    kernel = KernelBoot(image_files["kernel"], image_files["initrd"])
    with Community(os.path.join(session_dir, "community"), disk, kernel) as made:
        made.wait_joined()
        made.wait_as_asked()
        yield made


def tincd(community: Community, number: int) -> str:
    return community.nodes[number].read_file("/run/confine/tinc.pid").split()[0].decode()


@pytest.mark.parametrize("sentence,proof", proofs.PROOFS, ids=[proof.__name__ for _, proof in proofs.PROOFS])
def test_proof(community: Community, sentence: str, proof: proofs.Proof) -> None:
    assert proof(community), sentence


def test_a_killed_tincd_comes_back_and_no_sliver_notices(community: Community) -> None:
    pids = community.inits(1)
    old = community.nodes[1].sh("read pid rest </run/confine/tinc.pid; kill -9 $pid; echo $pid")
    community.nodes[1].wait_for("another tincd runs", lambda: tincd(community, 1) != old.strip(), HEAL_S)
    community.nodes[1].wait_for("the node is in the overlay again", lambda: community.joined(1), HEAL_S)
    assert community.inits(1) == pids


def test_a_server_that_is_dead_is_named_and_comes_back_by_itself(community: Community) -> None:
    pids = community.inits(2)
    community.host.stop_tinc()
    community.nodes[2].wait_for(
        "the node names the server", lambda: "server_1 cannot be reached" in community.errors(2), HEAL_S
    )
    community.host.start_tinc()
    community.nodes[2].wait_for("the node reaches it again", lambda: community.joined(2), HEAL_S)
    community.nodes[2].wait_for("no error is left", lambda: "server_1" not in community.errors(2), HEAL_S)
    assert community.inits(2) == pids


def test_after_a_power_cut_the_overlay_stands_before_the_registry_is_asked(community: Community) -> None:
    node, boot = community.nodes[2], community.nodes[2].boot_id()
    node.must(["sync"])
    node.reset()
    node.wait_until_up(not_boot=boot)
    node.wait_for("the node is in the overlay and read the registry", lambda: community.joined(2), HEAL_S)
    assert (community.status(2) or {})["overlay"]["published"] is True
    community.wait_as_asked()
