"""A virtual node with slivers on it, driven step by step: fixtures and helpers of the sliver, limits and network tests.

def test_...(slivers: SliverNode) -> None:          # slivers 1 and 2 run, each test has a node of its own
    slivers.must(1, "echo inside sliver 1")
    slivers.drive(("containers", "stop", 1))
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from qemu.harness import Result, Snapshot, VirtualNode

_HERE = os.path.dirname(os.path.abspath(__file__))
_NODE_HEX = "0012"
_CACHE = "/srv/confine/cache/objects/"
_DRIVE = "/tmp/sliver_drive.py"  # in the node
_SOCKET = "/run/sliver_drive.sock"
_UP = (("storage", "allocate"), ("storage", "format"), ("storage", "mount"), ("storage", "populate"),
       ("limits", "apply"), ("containers", "start"), ("limits", "verify"))  # fmt: skip
_APPLETS = (
    "sh cat ls dd ps ip nc ping wget sleep kill id mknod insmod tail head mkdir rm cp ln df free echo grep sync "
    "nslookup stat env date dmesg mount reboot true false yes test touch printf wc hostname trap arping ifconfig od tr"
)
_INITTAB = "::sysinit:/bin/echo booted\n::respawn:/bin/sleep 1000000\n::shutdown:/bin/echo halting\n"


class SliverNode:
    """A virtual node and the slivers 1, 2, ... on it. limits, network: by number, settings: over the defaults of
    sliver_drive.py. listening: those for whom DHCP servers are heard."""

    def __init__(self, node: VirtualNode, sha256: str) -> None:
        self.node = node
        self.sha256 = sha256
        self.type = "generic"
        self.limits: dict[int, dict[str, Any]] = {}
        self.network: dict[int, dict[str, Any]] = {}
        self.settings: dict[str, Any] = {}
        self.listening: list[int] = []

    def drive(
        self, *steps: tuple[str, str, int], observe: tuple[int, ...] = (), timeout: float = 120
    ) -> dict[str, Any]:
        """Carry out steps with the real drivers; AssertionError with the message if one fails."""
        answer = self.try_drive(*steps, observe=observe, timeout=timeout)
        assert answer["error"] is None, answer["error"]
        return answer

    def try_drive(
        self,
        *steps: tuple[str, str, int],
        observe: tuple[int, ...] = (),
        timeout: float = 120,
    ) -> dict[str, Any]:
        """As drive, for steps that fail: the message is in "error"."""
        limits = {str(nr): values for nr, values in self.limits.items()}
        request = {
            "steps": steps,
            "limits": limits,
            "type": self.type,
            "sha256": self.sha256,
            "observe": observe,
            "network": {str(nr): values for nr, values in self.network.items()},
            "settings": self.settings,
            "listen": self.listening,
        }
        line = self.node.ask(_SOCKET, json.dumps(request).encode() + b"\n", timeout)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def up(self, nr: int) -> dict[str, Any]:
        """Bring sliver `nr` up from nothing."""
        return self.drive(*((driver, verb, nr) for driver, verb in _UP), observe=(nr,))

    def set_limits(self, nr: int, **limits: int | None) -> None:
        """Change the limits of the running sliver `nr`."""
        self.limits[nr] = {**self.limits.get(nr, {}), **limits}
        self.drive(("limits", "apply", nr), ("limits", "verify", nr))

    def observed(self, nr: int) -> dict[str, Any]:
        """What the drivers observe of sliver `nr`."""
        found: dict[str, Any] = self.drive(observe=(nr,))["observed"][str(nr)]
        return found

    def usage(self, nr: int) -> dict[str, Any]:
        """What sliver `nr` uses."""
        found: dict[str, Any] = self.drive(observe=(nr,))["usage"][str(nr)]
        return found

    def name(self, nr: int) -> str:
        return f"{nr:012x}_{_NODE_HEX}"

    def cgroup(self, nr: int) -> str:
        return f"/sys/fs/cgroup/confine/{self.name(nr)}"

    def devices(self, nr: int) -> tuple[str, str]:
        """Numbers of the block devices below the sliver's disk and its template."""
        lines = [line.split() for line in self.node.read_file("/proc/self/mountinfo").decode().splitlines()]
        device = {line[4]: line[2] for line in lines}
        points = f"/run/confine/mounts/slivers/{self.name(nr)}/"
        return device[points + "disk"], device[points + "lower"]

    def attach(self, nr: int, script: str) -> list[str]:
        """The command that runs `script` as root of sliver `nr`, under all its limits."""
        return ["lxc-attach", "-P", "/run/confine/lxc", "-n", self.name(nr), "--", "/bin/sh", "-c", script]

    def run(self, nr: int, script: str, timeout: float = 30) -> Result:
        """Run `script` in sliver `nr`."""
        return self.node.run(self.attach(nr, script), timeout)

    def must(self, nr: int, script: str, timeout: float = 30) -> str:
        """Run `script`, which has to succeed, in sliver `nr`."""
        return self.node.must(self.attach(nr, script), timeout)

    def background(self, nr: int, script: str) -> None:
        """Run `script` in sliver `nr` and do not wait for it."""
        command = " ".join("'" + word.replace("'", "'\\''") + "'" for word in self.attach(nr, script))
        self.node.sh(f"{command} </dev/null >/dev/null 2>&1 &")

    def seconds(self, nr: int, script: str, timeout: float = 120) -> float:
        """How long `script` takes in sliver `nr`, in the node's own time."""
        began = float(self.node.read_file("/proc/uptime").split()[0])
        self.must(nr, script, timeout)
        return float(self.node.read_file("/proc/uptime").split()[0]) - began

    def init(self, nr: int) -> int:
        """Pid of the sliver's init in the node."""
        pid = self.observed(nr)["init_pid"]
        assert isinstance(pid, int), f"sliver {nr} does not run"
        return pid

    def status(self, pid: int) -> dict[str, str]:
        """/proc/<pid>/status."""
        lines = self.node.read_file(f"/proc/{pid}/status").decode().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def make_template(directory: str, root: str) -> str:
    """A template of busybox and the probe, as a squashfs below `directory`; `root`: the reference image's root."""
    tree = os.path.join(directory, "template")
    libraries = "usr/lib/x86_64-linux-gnu/"
    names = ["libc.so.6", "libresolv.so.2", "ld-linux-x86-64.so.2"]
    files = ["usr/bin/busybox", *(libraries + name for name in names)]
    subprocess.run(["unsquashfs", "-q", "-n", "-f", "-d", tree, root, *files], check=True, capture_output=True)
    for name in ("bin", "sbin", "lib64", "etc", "proc", "sys", "dev", "tmp", "root", "run", "mnt"):
        os.makedirs(os.path.join(tree, name))
    os.symlink("usr/lib", os.path.join(tree, "lib"))
    os.symlink("../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", os.path.join(tree, "lib64", "ld-linux-x86-64.so.2"))
    for applet in _APPLETS.split():
        os.symlink("/usr/bin/busybox", os.path.join(tree, "bin", applet))
    os.symlink("/usr/bin/busybox", os.path.join(tree, "sbin", "init"))
    probe = os.path.join(tree, "bin", "probe")
    subprocess.run(["gcc", "-static", "-O1", "-o", probe, os.path.join(_HERE, "sliver_probe.c")], check=True)
    for name, content in (("inittab", _INITTAB), ("passwd", "root:x:0:0::/root:/bin/sh\n"), ("group", "root:x:0:\n")):
        with open(os.path.join(tree, "etc", name), "w") as file:
            file.write(content)
    image = os.path.join(directory, "template.squashfs")
    options = ["-comp", "zstd", "-Xcompression-level", "1", "-all-root", "-no-progress", "-quiet"]
    subprocess.run(["mksquashfs", tree, image, *options], check=True, capture_output=True)
    return image


@pytest.fixture(scope="session")
def prepared(booted: Snapshot, image_files: dict[str, str], session_dir: str) -> tuple[Snapshot, str]:
    """A node with bridge, firewall and the running slivers 1 and 2, and the sha256 of their template."""
    template = make_template(session_dir, image_files["root"])
    with open(template, "rb") as file:
        content = file.read()
    sha256 = hashlib.sha256(content).hexdigest()
    with VirtualNode.from_snapshot(booted) as node:
        node.sh("/etc/init.d/confine stop")  # the tests do its work
        node.write_file(_CACHE + sha256, content)
        with open(os.path.join(_HERE, "sliver_drive.py")) as file:
            node.write_file(_DRIVE, file.read())
        node.sh(f"python3 {_DRIVE} </dev/null >/dev/null 2>&1 &")
        node.wait_for("the drivers are there", lambda: node.run(["test", "-S", _SOCKET]).status == 0, 30)
        slivers = SliverNode(node, sha256)
        slivers.drive(("links", "bridge", 0), ("firewall", "install", 0))
        slivers.up(1)
        slivers.up(2)
        return node.save(os.path.join(session_dir, "slivers")), sha256


@pytest.fixture
def slivers(request: pytest.FixtureRequest, prepared: tuple[Snapshot, str]) -> Iterator[SliverNode]:
    """A node of the test's own, on which slivers 1 and 2 run."""
    snapshot, sha256 = prepared
    with VirtualNode.from_snapshot(snapshot) as node:
        request.node.__dict__.setdefault("_virtual_nodes", []).append(node)
        yield SliverNode(node, sha256)
