"""Slots in a whole node: a start is counted and given back, another slot takes over, a failed one gives way."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from firmware.image import filesystems
from firmware.image.compose import compose
from qemu.conftest import MakeNode
from qemu.harness import VirtualNode
from upgrade import counter, pointer

BOOT, POINTER, KERNEL_A, ROOT_A, KERNEL_B, ROOT_B = (f"/dev/vda{number}" for number in (2, 3, 4, 5, 6, 7))


def python(node: VirtualNode, code: str) -> str:
    """Run Python in the node with the node's own upgrade package."""
    return node.must(["env", "PYTHONPATH=/usr/lib/confine", "python3", "-c", code])


def counters(node: VirtualNode) -> dict[str, str]:
    """The counters as they stand on the node's boot partition."""
    node.sh(f"mkdir -p /tmp/boot; mount -t vfat -o ro {BOOT} /tmp/boot")
    content = node.read_file("/tmp/boot/grub/grubenv")
    node.sh("umount /tmp/boot")
    return counter.parse(content)


def write_counters(node: VirtualNode, starts: dict[str, str]) -> None:
    node.sh(f"mkdir -p /tmp/boot; mount -t vfat -o rw,sync {BOOT} /tmp/boot")
    python(node, f"from upgrade import counter as c; c.overwrite('/tmp/boot/grub/grubenv', c.make({starts!r}))")
    node.sh("umount /tmp/boot")


def copies(node: VirtualNode) -> list[str | None]:
    """What the two copies of the node's pointer confirm."""
    found = []
    for offset in pointer.COPY_OFFSETS:
        dd = f"dd if={POINTER} bs={pointer.SECTOR} skip={offset // pointer.SECTOR} count=1 2>/dev/null"
        found.append(pointer.parse_block(node.run(["sh", "-c", dd]).out_bytes))
    return found


def fill_slot_b(node: VirtualNode, root_size: int) -> None:
    """Slot b gets slot a's kernel and root, as an upgrade to the same firmware would leave it."""
    node.sh(f"cat {KERNEL_A} >{KERNEL_B}; head -c {root_size} {ROOT_A} >{ROOT_B}; sync", timeout=120)


def restart(node: VirtualNode) -> dict[str, str]:
    """Press the reset button; gives the command line of what starts."""
    before = node.boot_id()
    node.reset()
    node.wait_until_up(not_boot=before)
    return node.command_line()


def test_a_node_that_came_up_has_all_its_starts_again(node: VirtualNode) -> None:
    assert node.command_line()["confine.boot"] == "counted"
    assert counters(node) == {"a": "3", "b": "never"}


@pytest.mark.timeout(300)
def test_a_confirmed_slot_b_starts_and_when_it_fails_slot_a_does(
    node: VirtualNode, image_files: dict[str, str]
) -> None:
    fill_slot_b(node, filesystems.overlay_offset(image_files["root"]))
    write_counters(node, {"a": "3", "b": "3"})
    python(node, f"import os; from upgrade import pointer as p; p.commit(os.open('{POINTER}', os.O_RDWR), 'b')")
    # As if the power had gone while copy 1 was written.
    node.sh(f"dd if=/dev/zero of={POINTER} bs=100 count=1 conv=notrunc 2>/dev/null; sync")
    assert copies(node) == [None, "b"]

    words = restart(node)
    assert (words["confine.slot"], words["confine.confirmed"], words["confine.root"]) == ("b", "b", "PARTLABEL=root-b")
    assert words["confine.pointer"] == "copy2"
    assert f"{ROOT_B} /rom squashfs" in node.read_file("/proc/mounts").decode()
    assert copies(node) == ["b", "b"], "a node that came up makes the pointer's copies alike"
    assert counters(node) == {"a": "3", "b": "3"}

    write_counters(node, {"a": "3", "b": "1"})
    node.sh(f"dd if=/dev/zero of={KERNEL_B} bs=64k count=1 conv=notrunc 2>/dev/null; sync")
    words = restart(node)
    assert (words["confine.slot"], words["confine.confirmed"], words["confine.boot"]) == ("a", "b", "counted")
    assert counters(node) == {"a": "3", "b": "0"}
    assert copies(node) == ["a", "a"], "what GRUB fell back on and came up is the confirmed one from then on"


def test_a_disk_of_another_image_beside_it_is_not_what_the_node_starts_from(
    disk: str, image_files: dict[str, str], make_node: MakeNode, tmp_path: Path
) -> None:
    other, own = str(tmp_path / "other.img"), str(tmp_path / "own.qcow2")
    compose(image_files["kernel"], image_files["initrd"], image_files["root"], other, options="confine.other=1")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", own], check=True)
    # The other one comes first, as far as the kernel goes.
    drive = ("-drive", f"file={own},if=none,id=own,format=qcow2,cache=unsafe")
    node = make_node(other, arguments=(*drive, "-device", "virtio-blk-pci,drive=own,bootindex=0"))
    assert "confine.other" not in node.command_line()
    assert len(node.sh("ls /sys/class/block/*/partition").split()) == 2 * 9
    mounts = {line.split()[1]: line.split()[0] for line in node.read_file("/proc/mounts").decode().splitlines()}
    assert (mounts["/rom"], mounts["/srv"]) == ("/dev/vdb5", "/dev/vdb8")
