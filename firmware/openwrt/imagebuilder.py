"""Has a release's ImageBuilder put kernel and root together, with this project's packages in them."""

import glob
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from firmware.image import filesystems, layout
from firmware.openwrt.boards import Board
from firmware.openwrt.download import Say
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.run import Runner

# In every image: the ImageBuilder's own list has no web pages.
COMMON = ("luci",)
_OVERLAY_MIB = 16
_PIECE = 1 << 20
_SQUASHFS_PAGE = 4096


@dataclass(frozen=True)
class Built:
    """What the ImageBuilder made. kernel: as GRUB or U-Boot starts it. root: a squashfs, or "" where the board's loader
    wants OpenWrt's own image. images: OpenWrt's own. packages: name to version, of all in the root."""

    kernel: str
    root: str
    images: tuple[str, ...]
    packages: Mapping[str, str]


def kernel_config(builder: str) -> str:
    """The .config of the kernel that the ImageBuilder has. Raises FirmwareError."""
    found = glob.glob(os.path.join(builder, "build_dir", "target-*", "linux-*", "linux-*", ".config"))
    if len(found) != 1:
        raise FirmwareError(f"{builder}: {len(found) or 'no'} kernel configurations below build_dir/, one is expected")
    with open(found[0], encoding="utf-8", errors="replace") as file:
        return file.read()


def build(
    builder: str, board: Board, names: list[str], packages: list[str], files: str, output: str, runner: Runner, say: Say
) -> Built:
    """Make the image of a board.

    names: of our packages that are installed; packages: all of ours, as files. files: a directory that is laid over the
    root. output: a directory for what is made.
    """
    _lay_in(builder, packages)
    root_mib = board.sizes_mib.get("root-a", layout.DEFAULT_SIZES_MIB["root-a"]) - _OVERLAY_MIB
    made = os.path.join(output, "openwrt")
    shutil.rmtree(made, ignore_errors=True)
    os.makedirs(made)
    wanted = " ".join([*COMMON, *names, *board.packages])
    say(f"image: profile {board.profile}, with {wanted}")
    argv = ["make", "image", f"PROFILE={board.profile}", f"PACKAGES={wanted}", f"FILES={os.path.abspath(files)}"]
    runner.run([*argv, f"BIN_DIR={os.path.abspath(made)}", f"ROOTFS_PARTSIZE={root_mib}"], builder)
    installed = _manifest(made)
    for name in names:
        if name not in installed:
            raise FirmwareError(f"the ImageBuilder's image has no package {name}: see the log")
    images = tuple(sorted(glob.glob(os.path.join(made, "*"))))
    if board.boot != "grub":
        return Built("", "", images, installed)
    kernel = _only(made, "*-kernel.bin")
    root = os.path.join(output, "root.squashfs")
    _cut_root(_only(made, "*-squashfs-rootfs.img*"), root)
    shutil.copyfile(kernel, os.path.join(output, "vmlinuz"))
    return Built(os.path.join(output, "vmlinuz"), root, images, installed)


def inputs(builder: str) -> list[str]:
    """All packages that the ImageBuilder fetched or was given, as files."""
    found = glob.glob(os.path.join(builder, "dl", "*")) + glob.glob(os.path.join(builder, "packages", "*"))
    return sorted(path for path in found if path.endswith((".apk", ".ipk")))


def _lay_in(builder: str, packages: list[str]) -> None:
    """Our packages beside those that the ImageBuilder has itself; those of an earlier build are taken away."""
    directory = os.path.join(builder, "packages")
    listed = os.path.join(builder, ".confine-packages")
    os.makedirs(directory, exist_ok=True)
    if os.path.exists(listed):
        with open(listed, encoding="utf-8") as file:
            for name in file.read().splitlines():
                if os.path.exists(os.path.join(directory, os.path.basename(name))):
                    os.unlink(os.path.join(directory, os.path.basename(name)))
    for path in packages:
        shutil.copy(path, directory)
    with open(listed, "w", encoding="utf-8") as file:
        file.write("".join(os.path.basename(path) + "\n" for path in packages))


def _only(directory: str, pattern: str) -> str:
    found = glob.glob(os.path.join(directory, pattern))
    if len(found) != 1:
        there = ", ".join(sorted(os.listdir(directory)))
        raise FirmwareError(f"the ImageBuilder made {len(found) or 'no'} {pattern}, one is expected; there are {there}")
    return found[0]


def _manifest(directory: str) -> dict[str, str]:
    """Name and version of each package in the image: lines `NAME - VERSION`."""
    packages = {}
    with open(_only(directory, "*.manifest"), encoding="utf-8") as file:
        for line in file:
            name, sign, version = line.strip().partition(" - ")
            if sign:
                packages[name] = version
    return packages


def _cut_root(source: str, target: str) -> None:
    """The squashfs in OpenWrt's root image, which is packed and filled up with zeros: as long as it says it is."""
    packed = zlib.decompressobj(wbits=47) if source.endswith(".gz") else None  # what follows the gzip is not looked at
    with open(source, "rb") as file, open(target, "wb") as out:
        while piece := file.read(_PIECE):
            out.write(packed.decompress(piece) if packed else piece)
    try:
        used = filesystems.bytes_used(target)
    except filesystems.FilesystemError as error:
        raise FirmwareError(f"{source} holds no whole squashfs: {error}") from None
    os.truncate(target, min(os.path.getsize(target), -(-used // _SQUASHFS_PAGE) * _SQUASHFS_PAGE))
