"""The figures taken in one virtual node: slivers brought up, beside the same by hand in the same node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import testbed
from bench.table import ROOT, Figure, at_most, missing, say
from firmware.image.compose import compose
from qemu.harness import NodeError, VirtualNode
from qemu.sliver_node import make_template
from registry.documents import Testbed
from registry.server import Registry, Server, make_certificate

REFERENCE = os.path.join(ROOT, "build", "reference")
HERE = os.path.dirname(os.path.abspath(__file__))
FLOOD = os.path.join(ROOT, "test", "qemu", "flood_drive.py")
STOPS = 7
LATEST_S = 1.0
PLANNED_S = 10  # by then what the registry said has come into the plan
DRIVE = "/tmp/bench_drive.py"  # in the node
ROW = 16
MAX_PROCESSES = 8
IMPORTS = "python3 -c 'import asyncio, ssl, http.client'"
NAMES = ("sliver", "row", "processes", "start", "stop", "memory-node")
CONFIG = """
config node 'node'
	option id '0001'
config registry 'registry'
	option base_uri '{uri}'
	option cert '/etc/confine/registry-server.crt'
	option interval '3600'
config policy 'policy'
	option memory_reserve '0'
	option disk_reserve '0'
"""


class Bench:
    """A virtual node and the registry it follows."""

    def __init__(self, node: VirtualNode, documents: str, sha256: str) -> None:
        self.node = node
        self.documents = documents
        self.sha256 = sha256

    def drive(self, what: str, timeout: float = 200) -> Any:
        """Have something measured in the node."""
        say(f"  in the node: {what}")
        out = self.node.must(["env", "PYTHONPATH=/usr/lib/confine", "python3", DRIVE, what, self.sha256], timeout)
        return json.loads(out.strip().splitlines()[-1])

    def asked(self, verb: str) -> dict[str, Any]:
        """What the daemon answers; {} while it does not."""
        try:
            answer = json.loads(self.node.ask("/run/confine/control.sock", json.dumps({"verb": verb}).encode() + b"\n"))
        except NodeError:
            return {}
        return dict(answer["result"])

    def has_settled(self) -> bool:
        """Whether the registry was read, the node's network is as asked for, and nothing is planned for the node."""
        status, plan = self.asked("status"), self.asked("plan")
        if not status or not plan or plan["node_steps"]:
            return False
        network = (status["node"].get("network") or {}).get("state")
        return status["registry"]["last_read"] is not None and network in ("as asked", "by hand")

    def started(self) -> None:
        """Start the daemon; comes back when the node has settled for good: a change of its network is no figure."""
        self.daemon("start")
        self.node.wait_for("the node has settled", self.has_settled, 120)
        time.sleep(PLANNED_S)
        self.node.wait_for("the node has settled for good", self.has_settled, 120)

    def daemon(self, action: str) -> None:
        """Start or stop the daemon."""
        self.node.must(["/etc/init.d/confine", action], timeout=60)


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """The node, started, configured, with the template in its cache and the daemon stopped."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.path.join(ROOT, "build")) as work:
        with open(make_template(work, os.path.join(REFERENCE, "root.squashfs")), "rb") as file:
            template = file.read()
        documents, files = testbed.make(os.path.join(work, "testbed"), ROW, template, "register")
        cert, key = make_certificate(os.path.join(work, "tls"), ["10.0.2.2", "127.0.0.1"])
        kernel, initrd, root = (os.path.join(REFERENCE, name) for name in ("vmlinuz", "initrd.img", "root.squashfs"))
        disk = os.path.join(work, "disk.img")
        compose(kernel, initrd, root, disk)
        with (
            Server(Registry(Testbed(documents, files), say), cert=cert, key=key) as server,
            VirtualNode(disk, work=os.path.join(work, "node"), memory_mib=1024) as node,
        ):
            sha256 = hashlib.sha256(template).hexdigest()
            node.must(["/etc/init.d/confine", "stop"], timeout=60)
            node.write_file("/srv/confine/cache/objects/" + sha256, template)
            with open(cert) as pem:
                node.write_file("/etc/confine/registry-server.crt", pem.read())
            uri = server.base.replace("127.0.0.1", "10.0.2.2")
            node.write_file("/etc/config/confine", CONFIG.format(uri=uri), 0o600)
            for name in ("bench_drive.py", "planned_drive.py"):
                with open(os.path.join(HERE, name)) as drive:
                    node.write_file("/tmp/" + name, drive.read())
            yield Bench(node, documents, sha256)


def figures(wanted: set[str], versions: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`, of NAMES; adds the node's versions to `versions`."""
    if not os.path.exists(os.path.join(REFERENCE, "root.squashfs")):
        yield missing("figures of the virtual node", "no reference image: make image")
        return
    with bench() as one:
        versions["node's kernel"] = one.node.must(["uname", "-r"]).strip()
        versions["node's Python"] = one.node.must(["python3", "-V"]).split()[1]
        versions["LXC"] = one.node.must(["lxc-start", "--version"]).strip()
        yield from measured(one, wanted)


def measured(one: Bench, wanted: set[str]) -> Iterator[Figure]:
    """See `figures`."""
    if "start" in wanted:
        found = one.drive("start")
        yield at_most("daemon's start to its first plan (virtual node, no sliver; best of 6)", min(found["mine"]),
                      min(found["bare"]), 2, "s", IMPORTS)  # fmt: skip
    if wanted & {"sliver", "row", "processes", "stop"}:
        one.drive("network")
    if "sliver" in wanted:
        found = one.drive("one")
        steps = ", ".join(f"{verb} {seconds * 1000:.0f}" for verb, seconds in found["steps"].items())
        say(f"  ms of each step: {steps}")
        yield at_most("sliver allocated to started, squashfs template (virtual node; best of 6, turn about)",
                      min(found["mine"]), min(found["bare"]), 1, "s",
                      "by hand: mount, mke2fs, mount, mount overlay, lxc-start")  # fmt: skip
    if "processes" in wanted:
        yield processes(one.drive("processes"))
    if "stop" in wanted:
        yield from stop(one)
    if wanted & {"row", "memory-node"}:
        yield from row(one, wanted)


def processes(found: dict[str, Any]) -> Figure:
    """Processes that one sliver's steps start, the sliver's own apart."""
    mine, bare = found["mine"], found["bare"]
    return Figure(
        "processes to bring up one sliver (virtual node; forks told by the kernel, threads and what runs in the "
        "sliver apart)",
        f"{mine[0]} ({mine[1]} programs)",
        f"{bare[0]} ({bare[1]} programs): by hand",
        mine[0] / bare[0],
        f"<= {MAX_PROCESSES}",
        mine[0] <= MAX_PROCESSES,
    )


def stop(one: Bench) -> Iterator[Figure]:
    """From the command to the last packet of 64 senders, beside one nft transaction that drops everything."""
    one.started()
    with open(FLOOD) as file:
        one.node.write_file("/tmp/flood_drive.py", file.read())
    say(f"  in the node: {STOPS} stops")
    found = json.loads(one.node.must(["python3", "/tmp/flood_drive.py", str(STOPS)], 400).splitlines()[-1])
    one.daemon("stop")
    mine, bare = sorted(found["stop_s"]), sorted(found["bare_nft_s"])
    yield at_most(f"confine stop --all to the last packet of 64 senders (virtual node; median of {STOPS}, turn about)",
                  mine[STOPS // 2], bare[STOPS // 2], 1.5, "s", "nft -f: drop all")  # fmt: skip
    yield Figure(f"the same, the latest of {STOPS}", f"{mine[-1]:.4g} s", f"{bare[-1]:.4g} s: nft -f: drop all",
                 mine[-1] / bare[-1], f"<= {LATEST_S:g} s", mine[-1] <= LATEST_S)  # fmt: skip


def row(one: Bench, wanted: set[str]) -> Iterator[Figure]:
    """ROW slivers, and the daemon that has brought them up."""
    bare = one.drive("row")["bare"] if "row" in wanted else None
    one.started()
    for number in range(1, ROW + 1):
        testbed.put(one.documents, f"slices/{number}", testbed.slice_(number, "start"))
    mine = one.drive("daemon_row")["mine"]
    if bare is not None:
        yield at_most(f"{ROW} slivers, refresh to all started by the daemon (virtual node)", mine, bare, 0.8, "s",
                      f"{ROW} by hand in a row")  # fmt: skip
    if "memory-node" in wanted:
        found = one.drive("memory")
        yield at_most(f"memory, PSS, {ROW} slivers (virtual node)", found["mine"], found["bare"], 1.4, "KiB",
                      "python3 with asyncio, ssl, http.client")  # fmt: skip


if __name__ == "__main__":
    sys.exit("start test/bench/run.py")
