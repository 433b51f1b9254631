"""A node on a disk that is larger than its image: the data partition takes the rest, whatever cut it short before."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from confine.upgrade import gpt
from qemu.conftest import MakeNode
from qemu.harness import VirtualNode

GIB = 1 << 30
SIZE = 12 * GIB
LARGER = 20 * GIB
UEFI = "/usr/share/qemu/OVMF.fd"
# What is written before the file system grows; see gpt.py.
STEPS = 6
ASIDE = 4


def prepared(disk: str, directory: Path, steps: int) -> str:
    """The image on a disk of SIZE, on which growing was cut off after `steps` of its writes."""
    image = directory / "larger.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.abspath(disk), "-F", "raw", str(image), str(SIZE))
    with open(disk, "rb") as file:
        sectors = SIZE // gpt.SECTOR
        todo = gpt.steps(lambda at, count: os.pread(file.fileno(), count * gpt.SECTOR, at * gpt.SECTOR), sectors)
    assert len(todo) == STEPS
    for number, (sector, content) in enumerate(todo[:steps]):
        path = directory / f"write-{number}"
        path.write_bytes(content)
        write = f"write -s {path} {sector * gpt.SECTOR} {len(content)}"
        run("qemu-io", "-f", "qcow2", "-c", write, str(image))
    return str(image)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def data_mib(node: VirtualNode) -> tuple[int, int]:
    """MiB of the data partition as the kernel has it, and of the file system in it."""
    size = int(node.read_file("/sys/class/block/vda8/size"))
    block = node.run(["dd", "if=/dev/vda8", "bs=1024", "skip=1", "count=1"]).out_bytes
    return size // 2048, int.from_bytes(block[4:8], "little") * 4096 // (1 << 20)


def table(node: VirtualNode, size: int, path: Path) -> tuple[dict[str, dict[str, int]], str]:
    """The partitions of the node's disk, as sfdisk reads them, and what it says of the table's health."""
    read = ["dd", "if=/dev/vda", "bs=512", "iflag=direct"]
    with path.open("wb") as file:
        file.truncate(size)
        for first, count in ((0, 2048), (size // 512 - 33, 33)):
            content = node.run([*read, f"skip={first}", f"count={count}"]).out_bytes
            assert len(content) == count * 512
            os.pwrite(file.fileno(), content, first * 512)
    parts = json.loads(run("/usr/sbin/sfdisk", "--json", str(path)))["partitiontable"]["partitions"]
    return {part["name"]: part for part in parts}, run("/usr/sbin/sfdisk", "--verify", str(path))


def check_grown(node: VirtualNode, size: int, path: Path, image: str) -> None:
    """All of the disk of `size` bytes is in use, and nothing else has changed."""
    parts, health = table(node, size, path)
    assert "No errors detected" in health
    wanted = (size // 512 - 2048) // 2048 - parts["data"]["start"] // 2048
    assert parts["data"]["size"] == wanted * 2048
    assert data_mib(node) == (wanted, wanted)
    old = json.loads(run("/usr/sbin/sfdisk", "--json", image))["partitiontable"]["partitions"]
    for part in old:
        if part["name"] != "data":
            assert (parts[part["name"]]["start"], parts[part["name"]]["size"]) == (part["start"], part["size"])
    free = int(node.must(["df", "-k", "/srv"]).splitlines()[-1].split()[1])
    assert free > wanted * 1024 * 0.95
    said = node.must(["dmesg"])
    assert "EXT4-fs error" not in said and "resized filesystem" in said


@pytest.mark.timeout(600)
def test_a_cut_growth_is_ended_and_a_disk_made_larger_later_gives_more(
    make_node: MakeNode, disk: str, tmp_path: Path
) -> None:
    node = make_node(prepared(disk, tmp_path, ASIDE))
    check_grown(node, SIZE, tmp_path / "table", disk)
    node.write_file("/srv/kept", "kept\n")
    node.sh("sync")

    node.qmp("block_resize", device="disk", size=LARGER)
    before = node.boot_id()
    node.reset()
    node.wait_until_up(not_boot=before)
    check_grown(node, LARGER, tmp_path / "table", disk)
    assert node.read_file("/srv/kept") == b"kept\n"
    assert "the data partition vda8 has" in node.must(["logread"])


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("firmware", ["BIOS", "UEFI"])
@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_a_growth_cut_after_any_of_its_writes_is_ended_by_the_next_start(
    make_node: MakeNode, disk: str, tmp_path: Path, firmware: str, steps: int
) -> None:
    if firmware == "UEFI" and not os.path.exists(UEFI):
        pytest.skip(f"{UEFI} is not on this machine (Debian's package ovmf)")
    node = make_node(prepared(disk, tmp_path, steps), arguments=("-bios", UEFI) if firmware == "UEFI" else ())
    check_grown(node, SIZE, tmp_path / "table", disk)
