"""Early userspace over damaged disks: a configuration is mended, never thrown away; another disk is not this node's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from firmware.image import layout

HERE = Path(__file__).resolve().parent.parent
INIT = HERE / "initrd" / "init"
BOOT = HERE / "rootfs" / "etc" / "init.d" / "boot"
TOP = HERE.parent.parent
DATA = TOP / "upgrade" / "data.sh"
OVERLAY = 300 << 20  # as behind the reference root: an ext4 so large has a second superblock
STUBS = """
set -eu
losetup() { :; }
mount() { :; }
umount() { :; }
say() { echo "$*" >&2; }
overlay_offset() { echo 0; }
in_root() { echo "${1##*/} $2" >&2; "$@" >/dev/null 2>&1; }
"""


def functions(script: Path, *names: str) -> str:
    """The text of these shell functions."""
    text = script.read_text()
    found = []
    for name in names:
        start = text.index(f"\n{name}() {{\n") + 1
        found.append(text[start : text.index("\n}\n", start) + 3])
    return "".join(found)


def mounted(path: Path) -> tuple[bool, str]:
    """Has the early userspace mount the overlay in `path`: does it, and what it ran."""
    names = ("superblock", "has_file_system", "is_sound", "is_blank", "mend", "mount_overlay")
    script = STUBS + functions(INIT, *names).replace("/dev/loop0", str(path)) + f"mount_overlay {path}\n"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0, done.stderr


def kept(path: Path) -> str:
    """What the file `kept` in the overlay says."""
    return subprocess.run(["debugfs", "-R", "cat /kept", path], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """An overlay with a configuration."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "kept").write_text("mine\n")
    path = tmp_path / "overlay"
    with path.open("wb") as file:
        file.truncate(OVERLAY)
    subprocess.run(["mkfs.ext4", "-q", "-d", tmp_path / "tree", path], check=True)
    return path


def damage(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_an_overlay_in_order_is_mounted_as_it_is(overlay: Path) -> None:
    assert mounted(overlay) == (True, "")
    assert kept(overlay) == "mine\n"


def test_an_overlay_that_an_upgrade_cleared_or_nobody_made_is_made_anew(overlay: Path) -> None:
    damage(overlay, 0, bytes(65536))
    works, ran = mounted(overlay)
    assert works and "making a new overlay" in ran
    assert kept(overlay) == ""


@pytest.mark.parametrize("rubbish", [bytes(512), b"\xff" * 512, b"\xa5" * 512])
def test_an_overlay_whose_superblock_is_rubbish_is_mended_from_the_other_one(overlay: Path, rubbish: bytes) -> None:
    damage(overlay, 0, b"\1")  # not blank, whatever the superblock is
    damage(overlay, 1024, rubbish)
    works, ran = mounted(overlay)
    assert works and "mkfs" not in ran
    assert kept(overlay) == "mine\n"


def test_what_cannot_be_read_or_mended_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "overlay"
    path.write_bytes(b"\xa5" * (1 << 20))
    works, ran = mounted(path)
    assert not works and "mkfs" not in ran
    assert path.read_bytes() == b"\xa5" * (1 << 20)
    path.write_bytes(bytes(4096))  # a medium that gives no more than this
    works, ran = mounted(path)
    assert not works and "mkfs" not in ran


@pytest.mark.parametrize(
    ("content", "blank"), [(bytes(1 << 20), True), (b"", False), (bytes(4096), False), (bytes(70000) + b"x", False)]
)
def test_a_data_partition_that_cannot_be_read_is_not_a_new_one(tmp_path: Path, content: bytes, blank: bool) -> None:
    path = tmp_path / "data"
    path.write_bytes(content + bytes((1 << 20) - len(content)) if b"x" in content else content)
    script = functions(DATA, "is_blank") + f"is_blank {path}\n"
    assert (subprocess.run(["sh", "-c", script], timeout=60, check=False).returncode == 0) is blank


def test_the_data_partition_is_one_of_the_disk_that_the_root_lies_on(tmp_path: Path) -> None:
    for number, device in (("179:2", "mmcblk0/mmcblk0p2"), ("8:8", "sda/sda8"), ("8:5", "sda/sda5")):
        path = tmp_path / "devices" / device
        path.mkdir(parents=True)
        (path / "uevent").write_text("DEVTYPE=partition\nPARTNAME=" + ("root-a" if number == "8:5" else "data") + "\n")
        (path.parent / "uevent").write_text("DEVTYPE=disk\n")
        for link in (tmp_path / "block" / number, tmp_path / "class" / path.name):
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)
    script = functions(BOOT, "own_partitions", "partition") + "partition data\n"
    for there, here in (("/sys/dev/block", "block"), ("/sys/class/block", "class"), ("/proc/self/mountinfo", "mounts")):
        script = script.replace(there, str(tmp_path / here))
    for line, found in (
        ("22 1 8:5 / /rom ro - squashfs", "/dev/sda8\n"),
        ("22 1 0:5 / / rw - tmpfs", "/dev/mmcblk0p2\n"),
    ):
        (tmp_path / "mounts").write_text(line + "\n")
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == (found, "")


# partition: (what the GPT calls it, can it be pulled out, id of its disk)
DISKS = {"mmcblk0p5": ("root-a", "0", "one"), "sda5": ("root-a", "1", "two"), "sdb5": ("root-a", "0", "three")}


@pytest.mark.parametrize(
    ("disks", "identity", "found"),
    [
        (("mmcblk0p5", "sda5", "sdb5"), "two", "/dev/sda5\n"),
        (("mmcblk0p5", "sda5", "sdb5"), "three", "/dev/sdb5\n"),
        (("sda5", "sdb5"), "", "/dev/sdb5\n"),  # nobody says which: not the stick
        (("sda5",), "", "/dev/sda5\n"),
        (("sda5", "sdb5"), "gone", "/dev/sdb5\n"),  # a node starts, whatever GRUB said
        ((), "", ""),
    ],
)
def test_of_several_disks_with_a_root_the_one_that_grub_came_from_is_started(
    tmp_path: Path, disks: tuple[str, ...], identity: str, found: str
) -> None:
    (tmp_path / "class").mkdir()
    for name in disks:
        label, removable, id_ = DISKS[name]
        path = tmp_path / "devices" / name.rstrip("5").removesuffix("p") / name
        path.mkdir(parents=True)
        (path / "uevent").write_text(f"DEVTYPE=partition\nPARTNAME={label}\n")
        (path.parent / "removable").write_text(removable + "\n")
        (path.parent / "id").write_text(id_)
        (tmp_path / "class" / name).symlink_to(path)
        (tmp_path / "class" / path.parent.name).symlink_to(path.parent)
    names = ("disk_of", "partitions_called", "choose_partition", "find_device", "wait_for_device")
    script = functions(INIT, *names).replace("/sys/class/block", str(tmp_path / "class")).replace("sleep 0.1", ":")
    parts = [
        'set -eu\nsay() { echo "$*" >&2; }\nfail() { exit 1; }\n',
        f"parameter() {{ echo '{identity}'; }}\n",
        f'id_of_disk() {{ cat "{tmp_path}/devices/${{1#/dev/}}/id"; }}\n',
        script,
        "wait_for_device PARTLABEL=root-a\n",
    ]
    done = subprocess.run(["sh", "-c", "".join(parts)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == (found, 0 if found else 1)
    assert ("no disk has the id" in done.stderr) is (identity == "gone")


@pytest.mark.slow  # needs the image
def test_early_userspace_reads_the_id_of_a_disk_as_grub_gives_it(tmp_path: Path) -> None:
    table = layout.identified(layout.partitions(), "this disk")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(layout.disk_size(table))
    argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path]
    subprocess.run(argv, input=layout.sfdisk_script(table), text=True, check=True, capture_output=True)
    busybox = HERE.parent.parent / "build" / "reference" / "base" / "usr" / "bin" / "busybox"
    if not busybox.exists():
        pytest.fail("the reference image was not built: make image")
    script = functions(INIT, "id_of_disk").replace("hexdump", f"{busybox} hexdump") + f"id_of_disk {path}\n"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == table[1].guid.lower()
    assert table[1].name == "boot"
    assert layout.identified(layout.partitions(), "another disk")[1].guid.lower() != done.stdout


def whole_data(path: Path, note: Path) -> bool:
    """Whether a start of the node can use the data partition in `path`; `note`: says that it is being made."""
    script = f"set -eu\n. {DATA}\nBEING_MADE={note}\nsync() {{ :; }}\nwhole_data {path} {note}.log\n"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=120, check=False)
    return done.returncode == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data partition that was never used."""
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path


@pytest.mark.parametrize("reached", [4 << 10, 8 << 10, 1 << 20, 8 << 20])
def test_a_data_partition_whose_making_the_power_was_cut_in_is_made_again(
    tmp_path: Path, data: Path, reached: int
) -> None:
    note = tmp_path / "being-made"
    assert whole_data(data, note) and not note.exists()
    with data.open("r+b") as file:
        file.truncate(reached)
        file.truncate(64 << 20)
    note.touch()
    assert whole_data(data, note) and not note.exists()
    subprocess.run(["e2fsck", "-fn", data], check=True, capture_output=True)


def test_a_data_partition_that_was_whole_is_mended_and_never_made_again(tmp_path: Path, data: Path) -> None:
    note = tmp_path / "being-made"
    assert whole_data(data, note)
    (tmp_path / "mine").write_text("mine\n")
    subprocess.run(["debugfs", "-w", "-R", f"write {tmp_path / 'mine'} kept", data], check=True, capture_output=True)
    damage(data, 1024 + 16, b"\xff" * 8)  # free blocks and inodes: more than e2fsck -p decides by itself
    assert whole_data(data, note)
    assert kept(data) == "mine\n"
    with data.open("r+b") as file:
        file.write(b"\xa5" * (64 << 20))
    assert not whole_data(data, note), "what cannot be mended was taken for a new partition"


def test_the_data_is_there_before_the_gate_of_a_trial_and_the_record_of_one_that_failed_look_for_it() -> None:
    starts = [TOP / "firmware/openwrt/files/etc/init.d/confine-data", TOP / "files/etc/init.d/confine-upgrade"]
    numbers = [int(line[6:]) for path in starts for line in path.read_text().splitlines() if line.startswith("START=")]
    assert len(numbers) == 2 and numbers[0] < numbers[1]
