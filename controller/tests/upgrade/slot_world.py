"""A disk of the project's own making, its partitions as files: what the tests of slots stand on.

Roots are real squashfs files, small; partitions are those of firmware/image, small.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import Any

from confine.upgrade.disk import Disk
from confine.upgrade.slots import Slots
from firmware.image import compose, layout

# The smallest that the parts below and their overlays fit into.
SIZES = {"pointer": 2, "kernel-a": 1, "root-a": 18, "kernel-b": 1, "root-b": 18, "data": 64}
TABLE = layout.partitions(SIZES)
CHUNK = 64 * 1024
EMPTY = bytes(CHUNK)


def squashfs(directory: str, name: str, text: str) -> str:
    """A root with one file in it that says `text`; gives its path."""
    tree = os.path.join(directory, name)
    os.makedirs(os.path.join(tree, "etc"))
    with open(os.path.join(tree, "etc", "version"), "w") as file:
        file.write(text)
    path = tree + ".squashfs"
    subprocess.run(["mksquashfs", tree, path, "-quiet", "-no-progress", "-noappend"], check=True, capture_output=True)
    return path


def make_disk(directory: str) -> str:
    """A disk with slot a, from small made-up parts; gives its path."""
    for name in ("vmlinuz", "initrd"):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(os.urandom(40000))
    path = os.path.join(directory, "disk.img")
    compose.compose(
        os.path.join(directory, "vmlinuz"),
        os.path.join(directory, "initrd"),
        squashfs(directory, "root-1", "1"),
        path,
        sizes=SIZES,
    )
    return path


def split(disk: str, directory: str) -> str:
    """Each partition of the disk as a file of its own below `directory`."""
    os.makedirs(directory)
    with open(disk, "rb") as source:
        for part in TABLE:
            with open(os.path.join(directory, part.name), "wb") as target:
                target.truncate(part.size)
                for at in range(0, part.size, CHUNK):
                    content = os.pread(source.fileno(), CHUNK, part.start + at)
                    if content != EMPTY:
                        os.pwrite(target.fileno(), content, at)
    return directory


def slots(directory: str, **words: str) -> Slots:
    """The slots in a directory of partitions; words: of the running kernel, slot a by default."""
    return Slots(Disk(lambda name: os.path.join(directory, name)), words={"slot": "a", "boot": "counted", **words})


def bundle(directory: str, version: str, kernel: bytes | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and parts of a bundle."""
    with open(squashfs(directory, "bundle-" + version, version), "rb") as file:
        parts = {"kernel": kernel or os.urandom(3 * 16384 + 100), "root": file.read()}
    described = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in parts.items()
    }
    return {"version": version, "epoch": int(version), "board": "x86", "parts": described}, parts
