"""A node with slots in files, its own directories and settings, and mirrors to take bundles from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from typing import Any

import slot_world
from bundle_world import BOARD, Keys, make, published, some_bytes

from confine.core.settings import Settings
from confine.paths import Paths
from confine.upgrade.install import Installer, Report, report_path
from confine.upgrade.mirrors import Web
from confine.upgrade.node import Node


def root(directory: str, name: str, *sizes_and_seeds: tuple[int, int]) -> bytes:
    """A squashfs with one file of random bytes for each (size, seed)."""
    tree = os.path.join(tempfile.mkdtemp(dir=directory), name)
    os.mkdir(tree)
    for number, (size, seed) in enumerate(sizes_and_seeds):
        with open(os.path.join(tree, f"file-{number}"), "wb") as file:
            file.write(some_bytes(seed, size))
    path = tree + ".squashfs"
    argv = ["mksquashfs", tree, path, "-quiet", "-no-progress", "-noappend", "-all-root", "-all-time", "1"]
    subprocess.run([*argv, "-mkfs-time", "1", "-no-fragments", "-noI"], check=True, capture_output=True)
    with open(path, "rb") as file:
        return file.read()


def parts(directory: str, version: str, *sizes_and_seeds: tuple[int, int]) -> dict[str, bytes]:
    """Kernel and root of a bundle."""
    return {"kernel": some_bytes(7, 60_000), "root": root(directory, "root-" + version, *sizes_and_seeds)}


class World:
    """disk: directory of partitions. running: the slot that runs."""

    def __init__(self, directory: str, disk: str, keys: Keys, running: str = "a", **settings: Any) -> None:
        self.directory = directory
        self.disk = os.path.join(directory, "disk")
        shutil.copytree(disk, self.disk)
        self.paths = Paths(data=os.path.join(directory, "data"), run=os.path.join(directory, "run"))
        os.makedirs(self.paths.run)
        os.makedirs(self.paths.data)
        self.keys = keys
        self.web = os.path.join(directory, "web")
        os.makedirs(self.web)
        self.system = os.path.join(directory, "system")
        for name, text in {
            "usr/lib/confine/share/board": BOARD + "\n",
            "proc/meminfo": "MemTotal:  262144 kB\n",
            "sys/kernel/kexec_loaded": "0\n",
            "sys/class/watchdog/watchdog0/identity": "i6300ESB timer\n",
        }.items():
            path = os.path.join(self.system, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        self.keyring(keys.keyring("a", "b", "c"))
        self.settings = Settings(node_id=5, upgrade_keyring=os.path.join(directory, "keyring.json"), **settings)
        self.running = running
        self.shown: list[dict[str, Any]] = []

    def keyring(self, doc: dict[str, Any]) -> None:
        with open(os.path.join(self.directory, "keyring.json"), "w") as file:
            json.dump(doc, file)

    @property
    def node(self) -> Node:
        return Node(self.paths, self.settings, slot_world.slots(self.disk, slot=self.running), self.system)

    def bundle(self, version: str, signers: str = "ab", content: dict[str, bytes] | None = None, **members: Any) -> str:
        members.setdefault("epoch", int(float(version)))
        where = os.path.join(self.directory, "drafts-" + signers + version)
        content = content or parts(self.directory, version, (200_000, 1))
        return make(where, self.keys, signers, content, version=version, **members)

    def publish(self, source: str, web: str | None = None) -> None:
        published(web or self.web, self.keys, source)

    def install(self, source: str, auto: bool = False, web: Web | None = None) -> tuple[Any, str]:
        report = Report(report_path(self.paths.run), lambda doc: self.shown.append(dict(doc)))
        return Installer(self.node, report, auto, web).install(source)

    def turn_over(self) -> None:
        """What was written is confirmed and runs from now on."""
        slots = self.node.slots
        slot = "b" if self.running == "a" else "a"
        slots.backend.allow(slot)
        slots.backend.commit(slot)
        self.running = slot

    def written(self, slot: str, name: str, size: int) -> bytes:
        with open(os.path.join(self.disk, f"{name}-{slot}"), "rb") as file:
            return file.read(size)
