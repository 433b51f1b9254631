"""The disk is laid out as the design says, is the same for the same inputs, and starts under BIOS and UEFI."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from firmware.image import boot, compose, filesystems, layout, tools
from qemu.harness_machine import Machine, acceleration
from upgrade import counter, pointer

SMALL = {"pointer": 2, "kernel-a": 2, "root-a": 24, "kernel-b": 2, "root-b": 24, "data": 64}
# Debian's package ovmf; not needed for anything else, so the test is skipped where it is not installed.
UEFI = "/usr/share/qemu/OVMF.fd"


class Inputs:
    """A kernel and an initrd that are none, and a small root."""

    def __init__(self, directory: Path) -> None:
        self.kernel = str(directory / "vmlinuz")
        self.initrd = str(directory / "initrd.img")
        self.root = str(directory / "root.squashfs")
        self.config = str(directory / "config.tgz")
        Path(self.kernel).write_bytes(b"kernel " * 50000)
        Path(self.initrd).write_bytes(b"initrd " * 20000)
        content = directory / "root"
        content.mkdir()
        (content / "hello").write_bytes(os.urandom(100_000))
        subprocess.run(["mksquashfs", content, self.root, "-quiet", "-no-progress"], check=True, capture_output=True)
        with tarfile.open(self.config, "w:gz") as tar:
            tar.add(content / "hello", "etc/hello")

    def compose(self, output: Path, sizes: dict[str, int] | None = None) -> bool:
        return compose.compose(
            self.kernel, self.initrd, self.root, str(output), self.config, {**SMALL, **(sizes or {})}
        )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def disk(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    assert inputs.compose(path)
    return str(path)


def parts() -> dict[str, layout.Partition]:
    return {part.name: part for part in layout.partitions(SMALL)}


def read(disk: str, offset: int, length: int) -> bytes:
    with open(disk, "rb") as file:
        return os.pread(file.fileno(), length, offset)


def extract(disk: str, name: str, path: Path, skip: int = 0) -> str:
    """A partition's content (from byte `skip` on) as a file."""
    part = parts()[name]
    path.write_bytes(read(disk, part.start + skip, part.size - skip))
    return str(path)


def debugfs(image: str, command: str) -> str:
    """What debugfs says to one command on an ext4 image."""
    argv = ["/usr/sbin/debugfs", "-R", command, image]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def listed(image: str, directory: str) -> set[str]:
    """The names in a directory of an ext4 image."""
    lines = debugfs(image, f"ls -p {directory}").splitlines()
    return {line.split("/")[5] for line in lines if line.startswith("/")} - {".", ".."}


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_table_has_the_designs_partitions_in_order_each_on_a_whole_mebibyte(disk: str) -> None:
    done = subprocess.run(["/usr/sbin/sfdisk", "--json", disk], check=True, capture_output=True, text=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    assert [part["name"] for part in table["partitions"]] == [
        "bios",
        "boot",
        "pointer",
        "kernel-a",
        "root-a",
        "kernel-b",
        "root-b",
        "data",
        "recovery",
    ]
    types = [part["type"] for part in table["partitions"]]
    assert types == [layout.TYPE_BIOS_BOOT, layout.TYPE_EFI_SYSTEM, *[layout.TYPE_LINUX] * 7]
    assert all(part["start"] % layout.SECTORS_PER_MIB == 0 for part in table["partitions"])
    verified = subprocess.run(["/usr/sbin/sfdisk", "--verify", disk], check=True, capture_output=True, text=True)
    assert "No errors detected" in verified.stdout


def test_numbers_in_grubs_configuration_are_those_of_the_table() -> None:
    numbers = {part.name: part.number for part in layout.partitions()}
    config = Path(boot.CONFIG_DIR, "grub.cfg").read_text()
    assert f"($disk,gpt{numbers['pointer']})0+1" in config
    assert f"($disk,gpt{numbers['pointer']}){pointer.COPY_OFFSETS[1] // layout.SECTOR}+1" in config
    assert f'kernel="($disk,gpt{numbers["kernel-a"]})"' in config
    assert f'kernel="($disk,gpt{numbers["kernel-b"]})"' in config
    assert f'kernel="($disk,gpt{numbers["recovery"]})/boot"' in config


def test_data_lies_last_on_the_disk_so_that_it_can_be_made_larger() -> None:
    table = layout.partitions()
    assert max(table, key=lambda part: part.start).name == "data"
    assert [part.number for part in table] == list(range(1, len(table) + 1))


def test_the_recovery_system_lies_in_its_partition_and_one_that_does_not_fit_is_refused(
    inputs: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    compose.compose(inputs.kernel, inputs.initrd, inputs.root, str(path), sizes=SMALL, recovery=inputs.root)
    content = Path(inputs.root).read_bytes()
    assert read(str(path), parts()["recovery"].start, len(content)) == content
    with pytest.raises(filesystems.FilesystemError, match="partition recovery has 1: make it larger"):
        large = tmp_path / "large"
        large.write_bytes(content.ljust(2 * layout.MIB, b"\0"))
        sizes = {**SMALL, "recovery": 1}
        compose.compose(inputs.kernel, inputs.initrd, inputs.root, str(path), sizes=sizes, recovery=str(large))


def test_both_copies_of_the_pointer_confirm_slot_a_and_slot_b_is_empty(disk: str) -> None:
    for offset in pointer.COPY_OFFSETS:
        assert pointer.parse_block(read(disk, parts()["pointer"].start + offset, layout.SECTOR)) == "a"
    for name in ("kernel-b", "root-b"):
        assert not any(read(disk, parts()[name].start, parts()[name].size))


def test_the_boot_partition_holds_grub_for_both_firmwares_and_one_sector_of_counters(disk: str, tmp_path: Path) -> None:
    fat = extract(disk, "boot", tmp_path / "boot")
    counts = subprocess.run(["mtype", "-i", fat, "::/grub/grubenv"], check=True, capture_output=True).stdout
    assert len(counts) == 512
    assert counter.parse(counts) == {"a": "3", "b": "never"}
    efi = subprocess.run(["mtype", "-i", fat, "::/EFI/BOOT/BOOTX64.EFI"], check=True, capture_output=True).stdout
    assert efi[:2] == b"MZ"
    for name in boot.CONFIG_FILES:
        shown = subprocess.run(["mtype", "-i", fat, f"::/grub/{name}"], check=True, capture_output=True).stdout
        assert shown == Path(boot.CONFIG_DIR, name).read_bytes()


def test_the_kernel_partition_is_an_uncompressed_squashfs_of_kernel_and_initrd(
    disk: str, inputs: Inputs, tmp_path: Path
) -> None:
    image = extract(disk, "kernel-a", tmp_path / "kernel")
    listing = subprocess.run(["unsquashfs", "-d", tmp_path / "out", image], check=True, capture_output=True, text=True)
    assert listing.returncode == 0
    assert (tmp_path / "out" / "vmlinuz").read_bytes() == Path(inputs.kernel).read_bytes()
    assert (tmp_path / "out" / "initrd.img").read_bytes() == Path(inputs.initrd).read_bytes()
    assert Path(inputs.kernel).read_bytes() in Path(image).read_bytes()


def test_the_overlay_starts_at_the_next_64_kib_behind_the_root_and_holds_the_configuration(
    disk: str, inputs: Inputs, tmp_path: Path
) -> None:
    used = struct.unpack_from("<Q", Path(inputs.root).read_bytes(), 40)[0]
    offset = filesystems.overlay_offset(inputs.root)
    assert offset % 65536 == 0
    assert 0 <= offset - used < 65536
    overlay = extract(disk, "root-a", tmp_path / "overlay", skip=offset)
    checked = subprocess.run(["/usr/sbin/e2fsck", "-fn", overlay], check=True, capture_output=True, text=True)
    assert "rootfs_data" in checked.stdout
    assert listed(overlay, "/") >= {"upper", "work"}
    debugfs(overlay, f"dump /upper/sysupgrade.tgz {tmp_path}/tgz")
    assert sha256(tmp_path / "tgz") == sha256(inputs.config)
    status = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "stat /upper/sysupgrade.tgz", overlay], capture_output=True, text=True
    )
    assert "Mode:  0600" in status.stdout, "a configuration may hold keys"


def test_the_data_partition_is_a_clean_empty_ext4(disk: str, tmp_path: Path) -> None:
    data = extract(disk, "data", tmp_path / "data")
    subprocess.run(["/usr/sbin/e2fsck", "-fn", data], check=True, capture_output=True)
    assert listed(data, "/") == {"lost+found"}


def test_the_same_inputs_give_the_same_bytes_at_another_time_and_place(
    disk: str, inputs: Inputs, tmp_path: Path
) -> None:
    moved = copy.copy(inputs)
    for name in ("kernel", "initrd", "root", "config"):
        path = shutil.copy(getattr(inputs, name), tmp_path / f"{name}.moved")
        os.utime(path, (1e9, 1e9))
        setattr(moved, name, str(path))
    # File times of a second's resolution show only after one has passed.
    time.sleep(1.1)
    assert moved.compose(tmp_path / "disk.img")
    assert sha256(tmp_path / "disk.img") == sha256(disk)


def test_nothing_is_made_again_until_an_input_or_the_image_changes(inputs: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    assert inputs.compose(path)
    assert not inputs.compose(path)
    assert inputs.compose(path, {"data": 65}), "another size"
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, (1, 1))
    assert inputs.compose(path, {"data": 65}), "the image was written to"
    os.unlink(path)
    assert inputs.compose(path, {"data": 65}), "the image is gone"


def test_the_image_takes_no_more_room_than_its_content(disk: str) -> None:
    assert os.stat(disk).st_size == layout.disk_size(layout.partitions(SMALL))
    assert os.stat(disk).st_blocks * 512 < 24 * layout.MIB


def test_what_does_not_fit_is_refused_by_name_and_the_old_image_stays(inputs: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    assert inputs.compose(path)
    before = sha256(path)
    Path(tmp_path / "large").write_bytes(os.urandom(3 * layout.MIB))
    with pytest.raises(filesystems.FilesystemError, match="partition kernel-a has 2: make it larger"):
        compose.compose(str(tmp_path / "large"), inputs.initrd, inputs.root, str(path), sizes=SMALL)
    with pytest.raises(filesystems.FilesystemError, match="is no squashfs"):
        compose.compose(inputs.kernel, inputs.initrd, inputs.kernel, str(path), sizes=SMALL)
    with pytest.raises(filesystems.FilesystemError, match="left for the overlay"):
        inputs.compose(path, {"root-a": 10})
    with pytest.raises(layout.LayoutError, match="no partition 'swap'"):
        inputs.compose(path, {"swap": 1})
    with pytest.raises(layout.LayoutError, match="pointer: 1 MiB is too small"):
        inputs.compose(path, {"pointer": 1})
    with pytest.raises(boot.BootError, match="kernel option"):
        compose.compose(inputs.kernel, inputs.initrd, inputs.root, str(path), sizes=SMALL, options='quiet "; reboot')
    assert sha256(path) == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".compose")] == []


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tools.ToolError, match="mkfs.none is not on this machine"):
        tools.run(["mkfs.none"], 0)


@pytest.mark.qemu
@pytest.mark.parametrize("firmware", ["BIOS", "UEFI"])
@pytest.mark.timeout(120)
def test_grub_starts_from_the_disk(disk: str, firmware: str, tmp_path: Path) -> None:
    argv = ["-M", "q35", *acceleration(), "-m", "256", "-snapshot"]
    argv += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    if firmware == "UEFI":
        if not os.path.exists(UEFI):
            pytest.skip(f"{UEFI} is not on this machine (Debian's package ovmf)")
        argv += ["-bios", UEFI]
    with Machine("grub", argv, work=str(tmp_path / "work")) as machine:
        machine.wait_for_serial("confine: slot=a confirmed=a pointer=copy1 boot=counted left=2", timeout=60)
