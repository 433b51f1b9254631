"""Power cuts during an upgrade, booted: what GRUB was said to start does start, whole, with the node's configuration.

The cuts are those of controller/tests/upgrade/cuts.py, here of a real system onto a disk of real size.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import cuts
import pytest
import written

from firmware.image import compose, layout
from qemu import bundles
from qemu.conftest import MakeNode
from upgrade import pointer

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SIZES = {"root-a": 96, "root-b": 96, "data": 128}
BOOTS = 4
MANY_BOOTS = 200


def configuration(path: str, name: str) -> str:
    """An archive of what makes a node `name`."""
    with tarfile.open(path, "w:gz") as tar:
        for file, text in (("etc/config/system", f"config system\n\toption hostname '{name}'\n"),
                           ("etc/config/confine", "config node 'node'\n\toption id '0007'\n")):  # fmt: skip
            member = tarfile.TarInfo(file)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="module")
def recorded(image_files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[written.World, str]:
    """An upgrade of the reference image to another, and the disk before it."""
    work = str(tmp_path_factory.mktemp("cuts"))
    maker = bundles.Maker(os.path.join(work, "bundles"), image_files)
    given = configuration(os.path.join(work, "a.tgz"), "kept")
    image = os.path.join(work, "disk.img")
    compose.compose(image_files["kernel"], image_files["initrd"], image_files["root"], image, given, SIZES)
    table = layout.partitions(SIZES)
    partitions = os.path.join(work, "parts")
    os.mkdir(partitions)
    for part in table:
        subprocess.run(["dd", f"if={image}", f"of={partitions}/{part.name}", "bs=1M", "conv=sparse", "status=none",
                        f"skip={part.start_mib}", f"count={part.size_mib}"], check=True)  # fmt: skip
        os.truncate(os.path.join(partitions, part.name), part.size)
    both = []
    for version in ("1.1", "1.2"):
        manifest, files = maker.good(version)
        both.append((manifest, {name: written.contents(path) for name, path in files.items()}))
    world = written.World(partitions, "a", "b", table)
    old = configuration(os.path.join(work, "old.tgz"), "not-this-one")
    written.record_upgrade(world, both, (old, given), work)
    with open(image, "r+b") as file:
        for part in table:
            if part.name in world.before:
                file.seek(part.start)
                file.write(world.before[part.name])
    subprocess.run(["fallocate", "--dig-holes", image], check=False)
    return world, image


def chosen(world: written.World, count: int) -> Iterator[tuple[cuts.State, str]]:
    """`count` disks: spread over the upgrade, and more where it is decided."""
    chance = random.Random(SEED)
    writes = [number for number, event in enumerate(world.events) if event.kind == "write"]
    deciding = [number for number in writes if world.events[number].step in ("allow", "copy 1", "copy 2", "trial")]
    last = len(world.events) - 1
    wanted = {last, *chance.sample(deciding, min(len(deciding), count // 2))}
    wanted |= set(chance.sample(writes, count - len(wanted))) if len(wanted) < count else set()
    left: dict[str, dict[int, cuts.State]] = {}
    for state, _, where in cuts.cuts(world, world.events, chance, 12, wanted):
        left.setdefault(where, {})[state.id] = state
    for where, states in left.items():
        decides = any(f"write {step} " in where for step in ("allow", "copy 1", "copy 2", "trial"))
        for one in chance.sample(sorted(states), min(len(states), max(1, count // 20) if decides else 1)):
            yield states[one], where


def boot(world: written.World, image: str, state: cuts.State, make_node: MakeNode, where: str, work: str) -> str:
    """Start a node from the disk as the cut left it; which slot it runs. AssertionError if it is not as meant."""
    disk = os.path.join(work, "cut.img")
    subprocess.run(["cp", "--sparse=always", image, disk], check=True)
    starts = {part.name: part.start for part in world.table}
    with open(disk, "r+b") as file:
        for (name, sector), content in state.sectors().items():
            os.pwrite(file.fileno(), content, starts[name] + sector * written.SECTOR)
    copies = [pointer.parse_block(state.at(("pointer", offset // written.SECTOR))) for offset in pointer.COPY_OFFSETS]
    slot = copies[0] or copies[1]
    node = make_node(disk)
    try:
        assert node.command_line()["confine.slot"] == slot, where
        assert node.must(["uci", "get", "system.@system[0].hostname"]).strip() == "kept", where
        assert node.must(["uci", "get", "confine.node.id"]).strip() == "0007", where
        version = node.run(["cat", "/etc/confine-version"]).out.strip()
        assert version == ("1.2" if slot == "b" else ""), where
        node.wait_for("the controller answers", lambda: node.must(["confine", "status"], timeout=60), 120, 1.0)
    finally:
        node.stop()
    return str(slot)


def boot_all(recorded: tuple[written.World, str], make_node: MakeNode, count: int, work: str) -> set[str]:
    world, image = recorded
    slots = set()
    for done, (state, where) in enumerate(chosen(world, count)):
        print(f"SEED={SEED} {done}: {where}", flush=True)
        slots.add(boot(world, image, state, make_node, where, work))
    shutil.rmtree(work, ignore_errors=True)
    return slots


@pytest.mark.torture
def test_after_a_cut_the_node_starts_with_its_configuration(
    recorded: tuple[written.World, str], make_node: MakeNode, tmp_path: object
) -> None:
    assert boot_all(recorded, make_node, BOOTS, str(tmp_path)) == {"a", "b"}


@pytest.mark.torture
@pytest.mark.timeout(14400)
def test_after_two_hundred_cuts_the_node_starts_with_its_configuration(
    recorded: tuple[written.World, str], make_node: MakeNode, tmp_path: object
) -> None:
    assert boot_all(recorded, make_node, MANY_BOOTS, str(tmp_path)) == {"a", "b"}
