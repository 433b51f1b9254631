"""Builds the reference image: build/reference/{vmlinuz,initrd.img,root.squashfs,recovery.squashfs,versions.json}.

    python3 firmware/reference/build.py [--fresh]

Run as root: the root file system's owners are real, and its own programs run in it. Nothing is done twice that has
not changed: packages are fetched once (--fresh asks the archive for newer ones), and a change to the controller costs
one pass of mksquashfs. The same packages and sources give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.reference import initrd, recovery, root, uci
from firmware.reference.debian import BUILD, PROJECT, RELEASE, BuildError, locked, remove_tree, run, sha256_of
from package.slim import slimmed

HERE = Path(__file__).resolve().parent
OUTPUT = BUILD / "reference"
CONTROLLER = PROJECT / "controller/confine"
PACKAGE = PROJECT / "package/confine-node/files"
UPGRADE = PROJECT / "upgrade"
SLIM = [PROJECT / f"package/{name}.py" for name in ("slim", "slim_cuts", "slim_lines", "slim_names")]
PYTHON_PATH = "usr/lib/python3/dist-packages"
# As in the OpenWrt package; a link on Python's own path leads there.
CONTROLLER_PATH = "usr/lib/confine/confine"
UPGRADE_PATH = "usr/lib/confine/upgrade"
# Fast to write, and to read on an emulated CPU; level 15 would save 8 % and take four times as long.
COMPRESSION = ["-comp", "zstd", "-Xcompression-level", "5"]
FILES = ("vmlinuz", "initrd.img", "root.squashfs", "recovery.squashfs")
SECRET_FILES = {"etc/shadow"}
# Not for the node: byte code, tests, and the operator's tool upgrade/bundle/.
LEFT_OUT = {"__pycache__", "tests", "bundle", "confine-bundle"}


def source_files(*directories: Path) -> list[Path]:
    """All source files below the directories, sorted, but for what is LEFT_OUT."""
    found = []
    for directory in directories:
        for path in directory.rglob("*"):
            parts = path.relative_to(directory).parts
            if path.is_file() and path.suffix != ".pyc" and not LEFT_OUT.intersection(parts):
                found.append(path)
    return sorted(found)


def fingerprint(files: list[Path], directory: Path = PROJECT) -> str:
    """One sha256 over names (below `directory`), modes and contents of the files."""
    digest = hashlib.sha256()
    for path in files:
        executable = os.access(path, os.X_OK)
        digest.update(f"\0{path.relative_to(directory)}\0{executable}\0{sha256_of(path)}".encode())
    return digest.hexdigest()


def base_inputs() -> str:
    """The fingerprint of what the Debian part of the root is made from, but for the packages' versions."""
    return fingerprint([HERE / "root.py", HERE / "debian.py"])


def image_inputs() -> str:
    """The fingerprint of all of the image's sources."""
    sources = source_files(HERE, PROJECT / "files", PACKAGE, CONTROLLER, UPGRADE)
    return fingerprint([*SLIM, *(path for path in sources if path.suffix != ".md")])


def put(content: bytes, destination: Path, mode: int) -> None:
    """Writes a file of the root, in place of whatever is there: never through a hard link into the cached root."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.unlink(missing_ok=True)
    destination.write_bytes(content)
    destination.chmod(mode)


def put_tree(source: Path, destination: Path, slim: bool = False) -> None:
    """Copies a source directory into the root, all owned by root, with plain modes. slim: Python as packages have."""
    for path in source_files(source):
        name = path.relative_to(source)
        mode = 0o755 if os.access(path, os.X_OK) else 0o644
        if str(name) in SECRET_FILES:
            mode = 0o600
        content = path.read_bytes()
        put(slimmed(content) if slim and path.suffix == ".py" else content, destination / name, mode)


def enable_init_scripts(stage: Path) -> None:
    """Makes the links of /etc/rc.d as `enable` would for every script with a START or STOP."""
    for script in sorted((stage / "etc/init.d").iterdir()):
        for letter, word in (("S", "START"), ("K", "STOP")):
            found = re.search(rf"^{word}=(\d\d)$", script.read_text(), re.MULTILINE)
            if found:
                (stage / f"etc/rc.d/{letter}{found[1]}{script.name}").symlink_to(f"../init.d/{script.name}")


def stage_root(base: Path, libuci: Path, stage: Path) -> None:
    """Makes `stage` the whole root: a hard-linked copy of the cached Debian part, libuci, the project's own files."""
    remove_tree(stage)
    run(["cp", "--archive", "--link", base, stage])
    shutil.rmtree(stage / "boot")
    put_tree(libuci, stage)
    put_tree(HERE / "rootfs", stage)
    put_tree(PROJECT / "files/etc", stage / "etc")
    put_tree(PROJECT / "files/lib", stage / "lib")
    put_tree(PACKAGE, stage)
    put_tree(CONTROLLER, stage / CONTROLLER_PATH, slim=True)
    put_tree(UPGRADE, stage / UPGRADE_PATH, slim=True)
    (stage / PYTHON_PATH / "confine").symlink_to(f"/{CONTROLLER_PATH}")
    put((HERE / "agent.py").read_bytes(), stage / "usr/libexec/confine-agent.py", 0o644)
    put((HERE / "netifd_standin.py").read_bytes(), stage / "usr/libexec/netifd-standin.py", 0o644)
    enable_init_scripts(stage)
    root.compile_python(stage, f"/{CONTROLLER_PATH}", f"/{UPGRADE_PATH}", f"/{PYTHON_PATH}/euci")


def write_squashfs(stage: Path, output: Path, timestamp: int) -> None:
    """Packs `stage`; all times become `timestamp` (s)."""
    times = ["-all-time", str(timestamp), "-mkfs-time", str(timestamp)]
    # A build may run in an environment that sets this; mksquashfs then refuses the options.
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    run(["mksquashfs", stage, output, "-noappend", "-no-progress", "-quiet", "-no-xattrs", *COMPRESSION, *times], env)


def write_image(base: Path, output: Path, inputs: str) -> dict[str, object]:
    """Makes all files of the image in `output` from the cached Debian part; gives what versions.json says."""
    record = json.loads(base.with_name(base.name + ".json").read_text())
    output.mkdir(parents=True, exist_ok=True)
    fresh = output / "new"
    remove_tree(fresh)
    fresh.mkdir()
    stage_root(base, uci.build(uci.IMAGE), fresh / "root")
    write_squashfs(fresh / "root", fresh / "root.squashfs", record["newest_file"])
    initrd.build(base, fresh / "initrd.img")
    shutil.copyfile(base / f"boot/vmlinuz-{record['kernel']}", fresh / "vmlinuz")
    recovery.build(fresh / "root", HERE / "recovery-root", fresh, record["newest_file"])
    versions = {
        "release": RELEASE,
        "kernel": record["kernel"],
        "packages": record["packages"],
        "sources": uci.pins(),
        "sha256": {name: sha256_of(fresh / name) for name in FILES},
        "inputs": inputs,
    }
    (fresh / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    # versions.json last: it says that the others are whole.
    for name in (*FILES, "versions.json"):
        (fresh / name).replace(output / name)
    remove_tree(fresh)
    return versions


def built_inputs(file: Path) -> str | None:
    """What the file says it was made from; None when it is not there."""
    if not file.exists():
        return None
    inputs = json.loads(file.read_text()).get("inputs")
    return inputs if isinstance(inputs, str) else None


def ensure_base(base: Path, fresh: bool) -> None:
    """Makes the Debian part of the root unless it is there and made from the same inputs."""
    stamp = base.with_name(base.name + ".stamp.json")
    inputs = base_inputs()
    if not fresh and base.exists() and built_inputs(stamp) == inputs:
        return
    stamp.unlink(missing_ok=True)
    print("reference image: fetching and unpacking Debian packages", flush=True)
    root.build_base(base)
    stamp.write_text(json.dumps({"inputs": inputs}) + "\n")


def build(output: Path = OUTPUT, fresh: bool = False) -> None:
    """Brings the image up to date. Raises BuildError."""
    if os.geteuid() != 0:
        raise BuildError("the reference image is built as root: run this through sudo")
    with locked("reference"):
        inputs = image_inputs()
        files = [output / name for name in FILES]
        if not fresh and built_inputs(output / "versions.json") == inputs and all(file.exists() for file in files):
            return
        began = time.monotonic()
        output.mkdir(parents=True, exist_ok=True)
        ensure_base(output / "base", fresh)
        write_image(output / "base", output, inputs)
        print(f"reference image: built in {time.monotonic() - began:.1f} s: {output}", flush=True)


def main() -> int:
    """Command line. Gives the exit status."""
    parser = argparse.ArgumentParser(description="Builds the reference image from Debian packages.")
    parser.add_argument("--fresh", action="store_true", help="ask the archive for newer packages")
    try:
        build(fresh=parser.parse_args().fresh)
    except BuildError as error:
        print(f"reference image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
