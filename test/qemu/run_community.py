"""`make run NODES=2`: nodes on a community LAN that reach their registry through the overlay alone, watched live.

ONCE=1 ends by itself: status 0 once every proof of proofs.py holds, 1 with the first that does not.
"""

from __future__ import annotations

import os
import time

from firmware.image.compose import compose
from qemu import narrate, proofs
from qemu.community import NOTHING, PREFIX, SERVER, Community
from qemu.harness import KernelBoot, NodeError
from qemu.run import DEADLINE_S, POLL_S, REFERENCE, WORK, Screen

MOST = 8  # nodes; each takes 384 MiB and a good part of a processor while it boots
LOOK = """
All of it holds. The nodes go on running; what passes on the LAN is in {pcap} (Wireshark, tcpdump -r).
Look at them from another terminal, by the server's place on the LAN:

  {enter} sh

Change what the testbed asks for in {documents}, and watch the nodes follow.
Ctrl-C ends it all.
"""


def main(count: int, once: bool) -> int:
    """Exit status as the module says."""
    if not 2 <= count <= MOST:
        print(f"NODES={count}: there can be 1 to {MOST} nodes; the example testbed has 2")
        return 1
    screen = Screen()
    work = os.path.join(WORK, "community")
    os.makedirs(work, exist_ok=True)
    kernel, initrd, root = (os.path.join(REFERENCE, name) for name in ("vmlinuz", "initrd.img", "root.squashfs"))
    disk = os.path.join(work, "disk.img")
    compose(kernel, initrd, root, disk)
    screen.say(f"LAN       a switch, on it the testbed's server {SERVER} with the registry in the overlay, {PREFIX}::1")
    screen.say(f"nodes     {count} start, with eth0 (uplink) and eth1 (slivers' VLANs) on the LAN")
    try:
        with Community(work, disk, KernelBoot(kernel, initrd), range(1, count + 1), screen.say) as community:
            watch(screen, community)
            if not proven(screen, community):
                return 1
            if not once:
                enter = " ".join(community.host.namespace.command())
                print(LOOK.format(pcap=community.pcap, enter=enter, documents=community.host.documents), flush=True)
                follow(screen, community)
    except KeyboardInterrupt:
        screen.say("ended")
    except (NodeError, AssertionError) as error:
        screen.say(f"not as asked: {error}")
        return 1
    return 0


def watch(screen: Screen, community: Community) -> None:
    """Say what happens until all nodes are as asked."""
    seen: dict[int, dict[str, object]] = {}
    deadline = time.monotonic() + DEADLINE_S
    while True:
        community.admit_all()
        settled = True
        for number in community.nodes:
            settled &= tell(screen, community, number, seen)
        if settled:
            return
        if time.monotonic() > deadline:
            raise NodeError("; ".join(reasons(community)))
        time.sleep(POLL_S)


def tell(screen: Screen, community: Community, number: int, seen: dict[int, dict[str, object]]) -> bool:
    """Say what is new on one node; whether it is as asked."""
    status = community.status(number)
    if status is None:
        return False
    for line in narrate.changes(seen.get(number), status):
        screen.say(f"node {number}  {line}")
    peers = (status.get("overlay") or {}).get("peers", [])
    before = {peer["name"] for peer in ((seen.get(number) or {}).get("overlay") or {}).get("peers", [])  # type: ignore[attr-defined]
              if peer["reachable"]}  # fmt: skip
    for peer in peers:
        if peer["reachable"] and peer["name"] not in before:
            screen.say(f"node {number}  overlay   connected to {peer['name']} at {peer['at']}")
    seen[number] = status
    return narrate.as_asked(status) and community.joined(number)


def reasons(community: Community) -> list[str]:
    """Why not all is as asked."""
    found = []
    for number in community.nodes:
        status = community.status(number) or {**NOTHING, "node": {"errors": []}}
        found += [f"node {number}: {reason}" for reason in narrate.shortcomings(status)]
    return found or ["no node says why"]


def proven(screen: Screen, community: Community) -> bool:
    """Print each proof with its evidence; False at the first that fails."""
    for sentence, proof in proofs.PROOFS:
        try:
            lines = proof(community)
        except (AssertionError, OSError) as error:
            screen.say(f"NOT SO    {sentence}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return False
        screen.say(f"proof     {sentence}")
        for line in lines:
            screen.say(f"            {line}")
    return True


def follow(screen: Screen, community: Community) -> None:
    """Say what changes, until interrupted."""
    seen: dict[int, dict[str, object]] = {number: community.status(number) or {} for number in community.nodes}
    while True:
        for number in community.nodes:
            tell(screen, community, number, seen)
        time.sleep(POLL_S)
