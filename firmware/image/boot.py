"""What starts the disk: GRUB for BIOS and UEFI, and the boot partition (FAT, read by both).

Our own core images, because distributions' lack `loadenv`, without which GRUB can neither read the pointer nor count
starts. The boot partition holds GRUB's configuration, the counter file and the UEFI binary; nothing of a slot.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from firmware.image import tools
from firmware.image.layout import MIB, SECTOR, Partition
from upgrade import counter

GRUB_DIR = "/usr/lib/grub"
CONFIG_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "upgrade", "boot")
CONFIG_FILES = ("grub.cfg", "slots.cfg")
# Platform, as GRUB calls it, to the name of its EFI binary; BIOS has none.
PLATFORMS = {"i386-pc": "", "x86_64-efi": "BOOTX64.EFI", "arm64-efi": "BOOTAA64.EFI"}
PC = ("i386-pc", "x86_64-efi")
_MODULES = (
    *("part_gpt", "fat", "squash4", "loadenv", "test", "true", "regexp", "normal", "configfile"),
    *("linux", "boot", "terminal", "echo", "sleep", "reboot", "probe"),
)
# An empty disk name means the disk GRUB itself was read from; 2 is the boot partition's number.
_PREFIX = "(,gpt2)/grub"
_FAT_SERIAL = "6C0F1A5E"
# Places that grub-bios-setup would fill in: see struct grub_boot_blocklist and boot.h in GRUB's sources.
_BOOT_CODE_SIZE = 440
_BOOT_KERNEL_SECTOR = 0x5C
_BOOT_DRIVE_CHECK = 0x66
_NOP_NOP = b"\x90\x90"
_CORE_BLOCKLIST_START = SECTOR - 12


class BootError(ValueError):
    """The boot files do not fit where they belong."""


@dataclass(frozen=True)
class Loader:
    """Which GRUB. platforms: of PLATFORMS. tree: where its lib/grub and bin/grub-mkimage are; "": the host's own."""

    platforms: tuple[str, ...] = PC
    tree: str = ""

    @property
    def is_bios(self) -> bool:
        """Does a BIOS start it, too?"""
        return "i386-pc" in self.platforms

    @property
    def modules(self) -> str:
        """The directory of all platforms' modules."""
        return os.path.join(self.tree, "lib", "grub") if self.tree else GRUB_DIR


def bios_images(work: str, bios: Partition, epoch: int, loader: Loader = Loader()) -> tuple[bytes, bytes]:
    """GRUB for BIOS: the 440 bytes of the first sector, and the core image for the BIOS boot partition `bios`.

    Both are told the sectors they continue at, which is all that grub-bios-setup would do.
    """
    path = os.path.join(work, "core.img")
    _mkimage("i386-pc", path, ["biosdisk", "serial", *_MODULES], epoch, loader)
    with open(path, "rb") as file:
        core = bytearray(file.read())
    if len(core) > bios.size:
        raise BootError(f"GRUB's core image has {len(core)} bytes, partition bios only {bios.size}")
    with open(os.path.join(loader.modules, "i386-pc", "boot.img"), "rb") as file:
        first = bytearray(file.read(_BOOT_CODE_SIZE))
    struct.pack_into("<Q", first, _BOOT_KERNEL_SECTOR, bios.first_sector)
    # Some BIOSes pass a wrong drive number: these two bytes take it as a hard disk's, as grub-install does.
    first[_BOOT_DRIVE_CHECK : _BOOT_DRIVE_CHECK + 2] = _NOP_NOP
    struct.pack_into("<Q", core, _CORE_BLOCKLIST_START, bios.first_sector + 1)
    return bytes(first), bytes(core)


def write_boot_partition(
    path: str, part: Partition, work: str, starts: dict[str, str], options: str, epoch: int, loader: Loader = Loader()
) -> None:
    """Make the boot partition as the file `path`.

    starts: starts left of each slot (see upgrade/counter.py). options: further words for the kernel's command line.
    """
    for word in options.split():
        if not all(char.isalnum() or char in "._-=,:/@+%" for char in word):
            raise BootError(f"kernel option {word!r}: only letters, digits and ._-=,:/@+% are possible")
    with open(path, "wb") as file:
        file.truncate(part.size)
    tools.run(["mkfs.fat", "-F", "16", "-i", _FAT_SERIAL, "-n", "CONFINE", "--invariant", path], epoch)
    files = [(os.path.join(CONFIG_DIR, name), f"::/grub/{name}") for name in CONFIG_FILES]
    files.append((_write(work, "grubenv", counter.make(dict(starts))), "::/grub/grubenv"))
    if options:
        files.append((_write(work, "options.cfg", f'set options="{options}"\n'.encode()), "::/grub/options.cfg"))
    for platform in loader.platforms:
        name = PLATFORMS[platform]
        if name:
            efi = os.path.join(work, name)
            # ARM's console is the firmware's: GRUB has no serial port of its own there.
            _mkimage(platform, efi, ["serial", *_MODULES] if platform in PC else _MODULES, epoch, loader)
            files.append((efi, f"::/EFI/BOOT/{name}"))
    tools.run(["mmd", "-i", path, "::/grub", "::/EFI", "::/EFI/BOOT"], epoch)
    for source, target in files:
        tools.run(["mcopy", "-i", path, source, target], epoch)


def _mkimage(target: str, path: str, modules: Sequence[str], epoch: int, loader: Loader) -> None:
    directory = os.path.join(loader.modules, target)
    if not os.path.isdir(directory):
        raise BootError(f"there is no GRUB for {target} at {directory}: install the packages of tools/packages.txt")
    tool = os.path.join(loader.tree, "bin", "grub-mkimage") if loader.tree else "grub-mkimage"
    argv = [tool, "-O", target, "-d", directory, "-p", _PREFIX, "-o", path]
    tools.run([*argv, *modules], epoch)
    if os.path.getsize(path) > MIB:
        raise BootError(f"GRUB for {target} has {os.path.getsize(path)} bytes: more than 1 MiB cannot be right")


def _write(work: str, name: str, content: bytes) -> str:
    path = os.path.join(work, name)
    with open(path, "wb") as file:
        file.write(content)
    return path
