"""A machine whose loader is the real U-Boot: QEMU's ARM board, the environment in its flash, a disk with two slots.

What U-Boot starts is a stand-in for a kernel: it prints the device tree that it was given, with the command line in
it, and resets the machine or switches it off. A machine with slots that all reset goes through all starts by itself.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from firmware.image import uboot

LOADER = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
TOOLS = ("qemu-system-aarch64", "mkimage", "fw_setenv", "sfdisk")
FLASH_SIZE = 64 << 20
FLASH_ENVIRONMENT = 0x40000  # of Debian's build for this board
# The environment lies on the disk: QEMU 7.2 does not take U-Boot's writes to this board's flash. What is in flash only
# says where; U-Boot's own import checks the sum, its own export makes it.
ENVIRONMENT_SIZE = 0x10000
ENVIRONMENT_AT = 1 << 20
_BLOCKS = f"{ENVIRONMENT_AT // 512:#x} {ENVIRONMENT_SIZE // 512:#x}"
LOADER_BOARD = {
    "bootdelay": "0",
    "bootcmd": f"virtio scan; virtio read 0x48000000 {_BLOCKS}; env import -c 0x48000000 {ENVIRONMENT_SIZE:#x}; "
    "run bootcmd",
}
BOARD = {
    "loadaddr": "0x46000000",
    "confine_if": "virtio",
    "confine_dev": "0",
    "confine_conf": "#conf-1",
    "confine_args": "console=ttyAMA0",
    "confine_save": f"env export -c -s {ENVIRONMENT_SIZE:#x} 0x48000000 && virtio write 0x48000000 {_BLOCKS}",
}
RESET, POWER_OFF = 9, 8  # PSCI's functions 0x8400000x
_SECTOR = 512
_MIB = 1 << 20
_START_S = 150
_ADDRESS = 0x44000000


def fake_kernel(end: int) -> bytes:
    """An ARM64 Image that prints what x0 points to, a device tree, on the serial port, and calls PSCI's `end`."""
    code = [
        0xD2A12001,  # mov x1, #0x09000000       the serial port
        0xB9400402,  # ldr w2, [x0, #4]          the tree's length, big endian
        0x5AC00842,  # rev w2, w2
        0x38401403,  # ldrb w3, [x0], #1
        0xB9000023,  # str w3, [x1]
        0x71000442,  # subs w2, w2, #1
        0x54FFFFA1,  # b.ne -12
        0x52B08000,  # mov w0, #0x84000000
        0x72800000 | end << 5,  # movk w0, #end
        0xD4000002,  # hvc #0
        0x14000000,  # b .
    ]
    body = b"".join(struct.pack("<I", word) for word in code)
    size = 64 + len(body)
    head = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, 0, size, 0xA, 0, 0, 0, b"ARM\x64", 0)
    return (head + body).ljust(4096, b"\0")


def _tree() -> bytes:
    """The smallest device tree: a root without anything, to which U-Boot adds what it wants to say."""
    structure = struct.pack(">I4sI", 1, b"", 2) + struct.pack(">I", 9)
    strings_at = 56 + len(structure)
    head = struct.pack(">10I", 0xD00DFEED, strings_at, 56, strings_at, 40, 17, 16, 0, 0, len(structure))
    return head + bytes(16) + structure


class UBootMachine:
    """One machine in `directory`. ends: slot to what its kernel does, RESET or POWER_OFF; a slot left out is empty."""

    def __init__(self, directory: Path, ends: Mapping[str, int]) -> None:
        self.directory = directory
        self.flash = directory / "flash"
        self.disk = directory / "disk"
        for path in (self.flash, self.disk):
            with path.open("wb") as file:
                file.truncate(FLASH_SIZE)
        table = "label: gpt\n" + "".join(f'start={4096 * at}, size=2048, name="kernel-{slot}"\n'
                                         for at, slot in enumerate("ab", 1))  # fmt: skip
        subprocess.run(["sfdisk", "-q", self.disk], input=table, text=True, check=True)
        for at, slot in enumerate("ab", 1):
            if slot in ends:
                self._fill(4096 * at * _SECTOR, fake_kernel(ends[slot]))
        self.config = directory / "fw_env.config"
        self.config.write_text(f"{self.disk} {ENVIRONMENT_AT:#x} {ENVIRONMENT_SIZE:#x}\n")
        with self.flash.open("r+b") as file:
            file.write(uboot.block(LOADER_BOARD, FLASH_ENVIRONMENT))

    def keep(self, state: Mapping[str, str], **board: str) -> None:
        """The environment anew: the loader's script, the board, the slots' state."""
        with self.disk.open("r+b") as file:
            file.seek(ENVIRONMENT_AT)
            file.write(uboot.block(uboot.variables({**BOARD, **board}, state), ENVIRONMENT_SIZE))

    def start(self) -> list[str]:
        """Run it until it switches itself off. What it says of slots, and the options of each kernel it starts."""
        argv = ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-m", "512", "-display", "none",
                "-serial", "stdio", "-monitor", "none", "-nic", "none", "-bios", LOADER,
                "-drive", f"if=pflash,unit=1,format=raw,file={self.flash}",
                "-drive", f"if=none,id=disk,format=raw,file={self.disk}",
                "-device", "virtio-blk-pci,drive=disk"]  # fmt: skip
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_START_S, check=True)
        (self.directory / "serial").write_bytes(done.stdout)
        lines = done.stdout.replace(b"\0", b"\n").replace(b"\r", b"\n").split(b"\n")
        wanted = (b"confine: ", b"console=ttyAMA0 ")
        return [line.decode() for line in lines if line.startswith(wanted)]

    def _fill(self, offset: int, kernel: bytes) -> None:
        image, raw, tree = (self.directory / name for name in ("kernel.itb", "kernel", "tree"))
        raw.write_bytes(kernel)
        tree.write_bytes(_tree())
        argv = ["mkimage", "-q", "-f", "auto", "-A", "arm64", "-O", "linux", "-T", "kernel", "-C", "none",
                "-a", hex(_ADDRESS), "-e", hex(_ADDRESS), "-n", "kernel",
                "-d", str(raw), "-b", str(tree), str(image)]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        with self.disk.open("r+b") as file:
            file.seek(offset)
            file.write(image.read_bytes())
