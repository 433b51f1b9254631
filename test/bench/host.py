"""The figures taken on this machine, without a virtual node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from bench.table import ROOT, Figure, at_most, missing, say
from package import slim

HERE = os.path.dirname(os.path.abspath(__file__))
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
WORLD_S = 150
MAX_IDLE_MS = 30
FEW, SOME, MANY = 1, 32, 100
MAX_KIB, MAX_BOTH_KIB = 150, 220
# A package of its own.
UPGRADE = ("usr/lib/confine/confine/upgrade", "usr/lib/confine/upgrade",
           "etc/init.d/confine-upgrade", "etc/init.d/confine-grow", "etc/init.d/confine-started")  # fmt: skip
FAKED = "faked: LXC, cgroups, mounts"
# What the Makefiles below package/ install, and where to; and what of it they do not.
PACKAGE = {"controller/confine": "usr/lib/confine/confine", "files": "", "package/confine-node/files": "",
           "upgrade": "usr/lib/confine/upgrade"}  # fmt: skip
NOT_INSTALLED = ("usr/lib/confine/upgrade/bundle", "usr/lib/confine/upgrade/confine-bundle")
NAMES = ("idle", "scale", "change", "memory", "start-host", "package")


def world(slivers: int, *also: str) -> dict[str, Any]:
    """What world.py measures with so many slivers; also: change, start."""
    say(f"  in a namespace: {slivers} slivers {' '.join(also)}")
    argv = [*UNSHARE, sys.executable, os.path.join(HERE, "world.py"), str(slivers), *also]
    where = os.path.join(ROOT, "build", "uci", "host", "python")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WORLD_S, check=False,
                          env={**os.environ, "PYTHONPATH": where})  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def figures(wanted: set[str], _: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`, of NAMES."""
    if "package" in wanted:
        yield from package()
    if wanted & {"idle", "scale", "memory", "start-host"}:
        some = world(SOME, *(["start"] if "start-host" in wanted else []))
        yield from of_some(some, wanted)
    if wanted & {"scale", "change"}:
        many = world(MANY, *(["change"] if "change" in wanted else []))
        if "scale" in wanted:
            yield scale(world(FEW), some, many)
        if "change" in wanted:
            yield change(many["change"])


def of_some(found: dict[str, Any], wanted: set[str]) -> Iterator[Figure]:
    """What is measured with SOME slivers."""
    if "idle" in wanted:
        yield idle(found)
    if "memory" in wanted:
        yield at_most(f"memory, PSS, {SOME} slivers idle (namespace; {FAKED})", found["pss_kib"],
                      found["bare_pss_kib"], 1.4, "KiB", "python3 with asyncio, ssl, http.client")  # fmt: skip
    if "start-host" in wanted:
        yield at_most(f"daemon's start to its first plan, {SOME} slivers running (namespace; best of 5; {FAKED})",
                      found["start_s"], found["bare_start_s"], 2, "s",
                      "python3 -c 'import asyncio, ssl, http.client'")  # fmt: skip


def idle(found: dict[str, Any]) -> Figure:
    """A round in which nothing changed."""
    words = [
        f"{found['cpu_ms']:.1f} ms CPU",
        f"{found['requests']:.0f} requests, {found['conditional']:.0f} of them 304",
    ]
    words.append("processes started" if found["processes"] else "no process")
    words.append(f"wrote {found['written']}" if found["written"] else "no file")
    clean = not found["processes"] and not found["written"] and found["requests"] == found["conditional"]
    return Figure(
        f"idle round, {SOME} slivers (namespace; {FAKED})",
        ", ".join(words),
        f"{MAX_IDLE_MS} ms",
        found["cpu_ms"] / MAX_IDLE_MS,
        "<= 30 ms CPU, no process, no file, conditional only",
        clean and found["cpu_ms"] <= MAX_IDLE_MS,
    )


def scale(few: dict[str, Any], some: dict[str, Any], many: dict[str, Any]) -> Figure:
    """CPU of an idle round for each sliver, as they get more."""
    each = [found["cpu_ms"] / count for found, count in ((few, FEW), (some, SOME), (many, MANY))]
    totals = ", ".join(f"{found['cpu_ms']:.1f}" for found in (few, some, many))
    return Figure(
        f"idle round, CPU for each sliver, {FEW}, {SOME}, {MANY} slivers (namespace; {FAKED})",
        f"{each[0]:.2f}, {each[1]:.2f}, {each[2]:.2f} ms (in all {totals})",
        f"{each[1]:.2f} ms each of {SOME}",
        each[2] / each[1],
        "constant (to 10 %) or falling",
        each[1] <= each[0] * 1.1 and each[2] <= each[1] * 1.1,
    )


def change(found: dict[str, Any]) -> Figure:
    """One sliver of MANY gets other keys."""
    return Figure(
        f"steps after a change of one sliver among {MANY} (namespace; {FAKED})",
        f"{found['steps']} of it, {found['others']} of others; {found['read']} documents read anew",
        "",
        None,
        "only that sliver's steps",
        found["steps"] > 0 and found["others"] == 0,
    )


def package() -> Iterator[Figure]:
    """What the OpenWrt packages install, packed as OpenWrt packs its root: without what upgrades, and all of it."""
    if shutil.which("mksquashfs") is None:
        yield missing("package, without the Python runtime", "no mksquashfs")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        root = os.path.join(work, "root")
        for source, target in PACKAGE.items():
            slim.copy(os.path.join(ROOT, source), os.path.join(root, target))
        remove(root, NOT_INSTALLED)
        whole = packed(root, os.path.join(work, "whole"))
        remove(root, UPGRADE)
        node = packed(root, os.path.join(work, "node"))
    for name, size, most in (("node package", node, MAX_KIB), ("node and upgrade packages", whole, MAX_BOTH_KIB)):
        yield Figure(f"{name}, without the Python runtime, squashfs-xz (as installed)", f"{size:.0f} KiB",
                     f"{most} KiB", size / most, f"<= {most} KiB", size <= most)  # fmt: skip


def remove(root: str, names: tuple[str, ...]) -> None:
    """Remove files and directories below `root`."""
    for path in (os.path.join(root, name) for name in names):
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)


def packed(root: str, image: str) -> float:
    """KiB of the directory as a squashfs."""
    subprocess.run(["mksquashfs", root, image, "-comp", "xz", "-b", "256K", "-all-root", "-no-xattrs", "-nopad",
                    "-no-progress", "-quiet"], check=True, capture_output=True)  # fmt: skip
    return os.path.getsize(image) / 1024
