"""Virtual nodes for the tests below this directory: how the disk is made, how nodes are lent and taken back."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from firmware.image.compose import compose
from qemu import openwrt
from qemu.following import example_registry, following, settled  # noqa: F401  # fixtures of the tests of the whole
from qemu.harness import Hardware, Snapshot, VirtualNode
from qemu.harness_machine import QEMU
from qemu.sliver_node import prepared, slivers  # noqa: F401  # fixtures of the tests with slivers

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_REFERENCE = os.path.join(_ROOT, "build", "reference")
_BUILD = os.path.join(_ROOT, "build", "test")
_INPUTS = {"kernel": "vmlinuz", "initrd": "initrd.img", "root": "root.squashfs", "recovery": "recovery.squashfs"}
_NODE_FIXTURES = {"node", "fresh_node", "make_node", "booted", "disk"}
# Setting a node up can wait for a processor on a loaded machine; a test with its own limit keeps it.
_TIMEOUT_S = 180

MakeNode = Callable[..., VirtualNode]


class Given(dict[str, str]):
    """The files of an image that was given; a case that asks for one it has not is skipped by name."""

    def __missing__(self, name: str) -> str:
        pytest.skip(f"this image has no {name}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with virtual nodes are marked `qemu`, and bounded in time."""
    for item in items:
        if os.path.dirname(__file__) != str(item.path.parent):
            continue
        if _NODE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("qemu")
        if item.get_closest_marker("qemu") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed test shows what its nodes said on their serial ports."""
    report = yield
    if report.when == "call" and report.failed:
        for node in _nodes_of(item):
            report.sections.append((f"serial port of {node.name}", node.serial_tail()))
    return report


@pytest.fixture(scope="session")
def session_dir() -> Iterator[str]:
    """A directory for this session's image, disk and snapshot; those of sessions that were killed are removed.

    What others may make anew while this session runs is linked into it, so that a session sees one state of it all.
    """
    os.makedirs(_BUILD, exist_ok=True)
    for name in os.listdir(_BUILD):
        kind, _, pid = name.partition("-")
        if kind == "session" and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(os.path.join(_BUILD, name), ignore_errors=True)
    path = os.path.join(_BUILD, f"session-{os.getpid()}")
    os.mkdir(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def image_files(session_dir: str) -> dict[str, str]:
    """The reference image: paths of kernel, initrd, root and recovery system. Or the image of `make test-openwrt`."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not on this machine")
    if "OPENWRT_KERNEL" in os.environ:
        given = {name: os.environ.get(f"OPENWRT_{name.upper()}") for name in _INPUTS}
        return Given({name: path for name, path in given.items() if path})
    files = {}
    for name, file in _INPUTS.items():
        built = os.path.join(_REFERENCE, file)
        if not os.path.exists(built):
            pytest.fail(f"{os.path.relpath(built, _ROOT)} was not built: make image")
        files[name] = os.path.join(session_dir, file)
        os.link(built, files[name])
    return files


@pytest.fixture(scope="session")
def disk(image_files: dict[str, str], session_dir: str) -> str:
    """The disk of a node without a configuration of its own. Not to be written to: nodes run on overlays."""
    if "OPENWRT_KERNEL" in os.environ:
        files = image_files["kernel"], image_files["root"], image_files.get("initrd")
        return openwrt.make_disk(*files, session_dir, openwrt.CASES_NETWORK)
    made = os.path.join(_BUILD, "disk.img")
    path = os.path.join(session_dir, "disk.img")
    with _alone():
        compose(image_files["kernel"], image_files["initrd"], image_files["root"], made,
                recovery=image_files["recovery"])  # fmt: skip
        os.link(made, path)
        os.link(made + ".json", path + ".json")
    return path


@pytest.fixture(scope="session")
def booted(disk: str, session_dir: str) -> Snapshot:
    """A node that was started cold, once for all tests, and for later sessions as long as nothing changed."""
    kept = os.path.join(_BUILD, f"booted-{_snapshot_key(disk)}")
    mine = os.path.join(session_dir, "booted")
    with _alone():
        if not os.path.isdir(kept):
            for old in glob.glob(os.path.join(_BUILD, "booted-*")):
                shutil.rmtree(old)
            with VirtualNode(disk) as node:
                node.wait_for("it has its address", lambda: "default" in node.must(["ip", "route"]), 60)
                fresh = node.save(mine)
            # Relative, so that links to these files in another session's directory find that session's disk.
            subprocess.run(["qemu-img", "rebase", "-u", "-b", "../disk.img", "-F", "raw", fresh.disk], check=True)
            os.rename(mine, kept)
        # Links of our own: the files may be made anew while this session runs.
        shutil.copytree(kept, mine, copy_function=os.link)
    return Snapshot(mine, Hardware())


@contextmanager
def _alone() -> Iterator[None]:
    """One session at a time makes what sessions share."""
    with open(os.path.join(_BUILD, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _snapshot_key(disk: str) -> str:
    """Everything a snapshot depends on: the disk's recipe, QEMU, and how nodes are made here."""
    here = os.path.dirname(os.path.abspath(__file__))
    digest = hashlib.sha256(str(os.stat(str(shutil.which(QEMU))).st_mtime_ns).encode())
    for path in (disk + ".json", *sorted(glob.glob(os.path.join(here, "harness*.py")))):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


@pytest.fixture
def node(request: pytest.FixtureRequest, booted: Snapshot) -> Iterator[VirtualNode]:
    """A started node of the test's own, from the session's snapshot."""
    with VirtualNode.from_snapshot(booted) as one:
        _nodes_of(request.node).append(one)
        yield one


@pytest.fixture
def fresh_node(make_node: MakeNode, disk: str) -> VirtualNode:
    """A node that was started cold, through GRUB, for this test alone."""
    return make_node(disk)


@pytest.fixture
def make_node(request: pytest.FixtureRequest, disk: str) -> Iterator[MakeNode]:
    """Makes and starts nodes, by VirtualNode's arguments; all are gone after the test."""
    with ExitStack() as stack:

        def make(image: str = disk, **options: Any) -> VirtualNode:
            one = VirtualNode(image, **options)
            _nodes_of(request.node).append(one)
            return stack.enter_context(one)

        yield make


def _nodes_of(item: pytest.Item) -> list[VirtualNode]:
    nodes: list[VirtualNode] = item.__dict__.setdefault("_virtual_nodes", [])
    return nodes
