"""The figures of a trial: how long slivers are away, beside a plain restart of the same node; what a commit writes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

from bench.table import ROOT, Figure, at_most, missing, say
from firmware.image.compose import compose
from qemu import bundles, narrate
from qemu.harness import VirtualNode
from qemu.run import authorize, status_of
from registry.testbed import ExampleRegistry
from upgrade import pointer

NAMES = ("trial", "commit")
REFERENCE = os.path.join(ROOT, "build", "reference")
WAIT_S = 300.0
EVERY_S = 0.1


def figures(wanted: set[str], versions: dict[str, str]) -> Iterator[Figure]:
    """The lines of the table that are wanted."""
    if "commit" in wanted:
        yield commit()
    if "trial" in wanted:
        yield from trial()


def trial() -> Iterator[Figure]:
    """How long slivers are away."""
    image = {name: os.path.join(REFERENCE, file) for name, file in
             (("kernel", "vmlinuz"), ("initrd", "initrd.img"), ("root", "root.squashfs"))}  # fmt: skip
    if not all(os.path.exists(path) for path in image.values()):
        yield missing("slivers away during a trial", "no reference image: make image")
        return
    with tempfile.TemporaryDirectory(prefix="confine-bench-") as work:
        disk = os.path.join(work, "disk.img")
        compose(image["kernel"], image["initrd"], image["root"], disk)
        with ExampleRegistry(os.path.join(work, "testbed")) as registry, VirtualNode(disk) as node:
            authorize(node, registry)
            wait_as_asked(node)
            upgrading = bundles.Upgrading(node, bundles.Maker(os.path.join(work, "bundles"), image))
            yield from measured(node, upgrading)


def measured(node: VirtualNode, upgrading: bundles.Upgrading) -> Iterator[Figure]:
    """A plain restart first, then a trial of the same system."""
    running = started(node)
    say("  a plain restart")
    times = node.serial().count("Linux version")
    node.must(["sh", "-c", "(sleep 0.2; reboot) >/dev/null 2>&1 </dev/null &"])
    node.wait_for_serial("Linux version", WAIT_S, times + 1)
    kernel = time.monotonic()
    wait_back(node, running)
    plain = time.monotonic() - kernel
    say("  a trial")
    upgrading.install(upgrading.made.good("9.9"))
    upgrading.trial()
    while started(node) >= running:
        last = time.monotonic()
        time.sleep(EVERY_S)
    wait_back(node, running)
    away = time.monotonic() - last
    yield at_most("slivers away during a trial", away, plain, 1.1, "s", "plain restart, from its kernel's start")


def commit() -> Figure:
    """What moves the pointer."""
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * pointer.COPY_OFFSETS[1])
        for offset in pointer.COPY_OFFSETS:
            os.pwrite(file.fileno(), pointer.make_block("a"), offset)
        before = os.pread(file.fileno(), 2 * pointer.COPY_OFFSETS[1], 0)
        pointer.commit(file.fileno(), "b")
        after = os.pread(file.fileno(), 2 * pointer.COPY_OFFSETS[1], 0)
    size = pointer.SECTOR
    written = sum(before[at : at + size] != after[at : at + size] for at in range(0, len(after), size))
    return Figure("commit of a slot", f"{written} sectors", "the first decides", None, "2 sectors", written == 2)


def started(node: VirtualNode) -> set[str]:
    """The slivers that run, as far as the controller answers."""
    status = status_of(node)
    return {one["name"] for one in (status or {}).get("slivers", []) if one["state"] == "started"}


def wait_back(node: VirtualNode, running: set[str]) -> None:
    node.wait_for("the slivers run again", lambda: started(node) >= running, WAIT_S, EVERY_S)


def wait_as_asked(node: VirtualNode) -> None:
    def settled() -> bool:
        status = status_of(node)
        return status is not None and narrate.as_asked(status)

    node.wait_for("all slivers are as asked", settled, WAIT_S)
