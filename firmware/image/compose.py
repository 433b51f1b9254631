"""Puts a node's disk together: partition table, GRUB, pointer, slot a, an empty slot b, recovery, data.

    python3 -m firmware.image.compose --kernel vmlinuz --initrd initrd.img --root root.squashfs --output disk.img

Needs no root and no loop devices; the result is a sparse raw image, and the same inputs give the same bytes.
If the output was made from the same inputs already, nothing is done.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence

from firmware.image import boot, filesystems, layout, tools
from firmware.image.layout import Partition
from upgrade import counter, label, pointer

# 2026-01-01; any fixed time will do, and SOURCE_DATE_EPOCH in the environment replaces it.
_DEFAULT_EPOCH = 1767225600
_HERE = os.path.dirname(os.path.abspath(__file__))
_UPGRADE = os.path.join(_HERE, "..", "..", "upgrade")


def compose(
    kernel: str,
    initrd: str | None,
    root: str,
    output: str,
    config_tar: str | None = None,
    sizes: Mapping[str, int] | None = None,
    options: str = "",
    version: str = "0",
    *,
    platforms: Sequence[str] = boot.PC,
    grub: str = "",
    recovery: str | None = None,
) -> bool:
    """Make the disk image `output`. True if it was made, False if it was there already from the same inputs.

    kernel, initrd, root: files of slot a (root: a squashfs; no initrd: the kernel mounts it itself).
    config_tar: tar.gz that the node unpacks over / at its first start.
    sizes: partition name to MiB, for those that differ from layout.DEFAULT_SIZES_MIB.
    options: further words for the kernel's command line. version: of the system, as slot a's label says it.
    platforms: GRUB's names of what it is for. grub: a directory with lib/grub and bin/grub-mkimage, if not the host's.
    recovery: a squashfs for when no slot starts, with /boot/vmlinuz and /boot/initrd.img that GRUB can read; without
    one GRUB stops then.
    Slot b is empty, and its counter says that it was never confirmed, so GRUB never starts it.
    Raises LayoutError, BootError, FilesystemError or ToolError, and then leaves `output` as it was.
    """
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", _DEFAULT_EPOCH))
    table = layout.partitions(sizes)
    files = {"kernel": kernel, "root": root}
    if initrd is not None:
        files["initrd"] = initrd
    if config_tar is not None:
        files["config_tar"] = config_tar
    if recovery is not None:
        files["recovery"] = recovery
    loader = boot.Loader(tuple(platforms), grub)
    recipe = {**_recipe(files, table, options, epoch), "version": version, "loader": [*platforms, grub]}
    content = {name: recipe[name] for name in ("inputs", "sizes", "options", "version")}
    table = layout.identified(table, json.dumps(content, sort_keys=True))
    directory = os.path.dirname(os.path.abspath(output))
    os.makedirs(directory, exist_ok=True)
    # Two at once (tests side by side) must not write the same image: the second waits and finds it made.
    with open(output + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_made(output, recipe):
            return False
        with tempfile.TemporaryDirectory(prefix=".compose-", dir=directory) as work:
            unfinished = os.path.join(work, "disk.img")
            _write_disk(unfinished, work, table, files, options, epoch, version, loader)
            if os.path.exists(output + ".json"):
                os.unlink(output + ".json")
            os.replace(unfinished, output)
        _say_made(output, recipe)
    return True


def _write_disk(
    path: str, work: str, table: list[Partition], files: Mapping[str, str], options: str, epoch: int, version: str,
    loader: boot.Loader,
) -> None:  # fmt: skip
    parts = {part.name: part for part in table}
    with open(path, "wb") as disk:
        disk.truncate(layout.disk_size(table))
    tools.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path], epoch, stdin=layout.sfdisk_script(table))
    with open(path, "r+b") as disk:
        if loader.is_bios:
            first, core = boot.bios_images(work, parts["bios"], epoch, loader)
            os.pwrite(disk.fileno(), first, 0)
            os.pwrite(disk.fileno(), core, parts["bios"].start)

        made = os.path.join(work, "boot")
        starts = {"a": counter.FULL, "b": counter.NEVER}
        boot.write_boot_partition(made, parts["boot"], work, starts, options, epoch, loader)
        copy_sparse(made, disk.fileno(), parts["boot"].start)

        for offset in pointer.COPY_OFFSETS:
            os.pwrite(disk.fileno(), pointer.make_block("a"), parts["pointer"].start + offset)

        made = os.path.join(work, "kernel-a")
        filesystems.write_kernel(made, parts["kernel-a"], files["kernel"], files.get("initrd"), work, epoch)
        copy_sparse(made, disk.fileno(), parts["kernel-a"].start)
        described = {name: {"size": os.path.getsize(path), "sha256": _sha256(path)}
                     for name, path in (("kernel", made), ("root", files["root"]))}  # fmt: skip
        written = label.make({"version": version, "epoch": 0, "parts": described})
        os.pwrite(disk.fileno(), written, parts["kernel-a"].start + parts["kernel-a"].size - label.SIZE)

        root = parts["root-a"]
        made = os.path.join(work, "overlay")
        filesystems.write_overlay(made, root, files["root"], files.get("config_tar"), work, epoch)
        copy_sparse(files["root"], disk.fileno(), root.start)
        copy_sparse(made, disk.fileno(), root.start + filesystems.overlay_offset(files["root"]))

        if "recovery" in files:
            filesystems.check_recovery(files["recovery"], parts["recovery"])
            copy_sparse(files["recovery"], disk.fileno(), parts["recovery"].start)

        made = os.path.join(work, "data")
        filesystems.write_data(made, parts["data"], epoch)
        copy_sparse(made, disk.fileno(), parts["data"].start)


def copy_sparse(source: str, target: int, offset: int) -> None:
    """Copy the file `source` to byte `offset` of the open file `target`, its holes left out.

    What lies in the target where the source has holes stays: the target must read as zeros there.
    """
    with open(source, "rb") as file:
        at = 0
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < at:
                content = os.pread(file.fileno(), min(at - start, 4 * layout.MIB), start)
                os.pwrite(target, content, offset + start)
                start += len(content)


def _recipe(files: Mapping[str, str], table: list[Partition], options: str, epoch: int) -> dict[str, object]:
    """Everything the image's bytes depend on; also the tools, as far as their files tell."""
    own = [os.path.join(_HERE, name) for name in sorted(os.listdir(_HERE)) if name.endswith(".py")]
    own += [os.path.join(boot.CONFIG_DIR, name) for name in boot.CONFIG_FILES]
    own += [os.path.join(_UPGRADE, name) for name in ("counter.py", "label.py", "pointer.py")]
    used: dict[str, object] = {}
    for tool in ("sfdisk", "grub-mkimage", "mkfs.fat", "mcopy", "mkfs.ext4", "debugfs", "mksquashfs"):
        path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        used[tool] = os.stat(path).st_mtime_ns if path else None
    return {
        "inputs": {name: _sha256(path) for name, path in files.items()},
        "code": {os.path.basename(path): _sha256(path) for path in own},
        "tools": used,
        "sizes": {part.name: part.size_mib for part in table},
        "options": options,
        "epoch": epoch,
    }


def _is_made(output: str, recipe: dict[str, object]) -> bool:
    try:
        with open(output + ".json", encoding="utf-8") as file:
            made = json.load(file)
        return bool(made == {"recipe": recipe, "file": _identity(output)})
    except (OSError, ValueError):
        return False


def _say_made(output: str, recipe: dict[str, object]) -> None:
    with open(output + ".json", "w", encoding="utf-8") as file:
        json.dump({"recipe": recipe, "file": _identity(output)}, file, indent=1)


def _identity(path: str) -> list[int]:
    """Tells whether the image was written to since (nobody should: nodes run on overlays)."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="compose", description="Put a node's disk image together.")
    for name in ("kernel", "root", "output"):
        parser.add_argument(f"--{name}", required=True, metavar="FILE")
    parser.add_argument("--initrd", metavar="FILE", help="without one the kernel mounts the root itself")
    parser.add_argument("--config", metavar="TGZ", help="files that the node unpacks over / at its first start")
    parser.add_argument("--recovery", metavar="SQUASHFS", help="the system for when no slot starts")
    parser.add_argument("--size", action="append", default=[], metavar="PARTITION=MIB")
    parser.add_argument("--version", default="0", help="the system's, as the slot's label says it")
    parser.add_argument("--options", default="", help="further words for the kernel's command line")
    args = parser.parse_args(argv)
    try:
        sizes = {name: int(mib) for name, _, mib in (size.partition("=") for size in args.size)}
        made = compose(args.kernel, args.initrd, args.root, args.output, args.config, sizes, args.options,
                       args.version, recovery=args.recovery)  # fmt: skip
    except (OSError, ValueError, tools.ToolError) as error:
        print(f"compose: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {'made' if made else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
