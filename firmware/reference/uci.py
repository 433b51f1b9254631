"""Builds OpenWrt's libubox, libuci and `uci`, and the Python binding pyuci, from pinned sources with the host's gcc.

The C sources come from the Rust crate libuci-sys (CRATE_SHA256 pins it), the binding from PyPI
(uci/requirements.txt pins it). There are two builds: one for the reference image and its Python, and one for this
machine, so that tests can use the real thing:

    python3 firmware/reference/uci.py [--host | --image]     makes build/uci/host/{bin/uci,lib,python}
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.reference.debian import (
    BUILD,
    PROJECT,
    Archive,
    BuildError,
    locked,
    remove_tree,
    run,
    sha256_of,
    unpack,
)

PINS = Path(__file__).with_name("uci")
CRATE = "libuci-sys-1.0.5"
CRATE_SHA256 = "544c17966d9131e80b3616783974a31b526197ca5b56948bb130eeb6c04fbaf1"
BINDING = "pyuci-0.10.3"
IMAGE_HEADERS = "libpython3.13-dev"
VENV_PYTHON = PROJECT / ".venv/bin/python"

# As in the CMakeLists.txt of each.
UBOX_SOURCES = [
    "avl", "avl-cmp", "base64", "blob", "blobmsg", "kvlist", "md5", "runqueue", "safe_list", "ulog", "uloop", "usock",
    "ustream", "ustream-fd", "utils", "vlist",
]  # fmt: skip
UCI_SOURCES = ["blob", "delta", "file", "libuci", "parse", "util"]
BINDING_SOURCES = ["ucimodule", "pyuci", "pyhelper"]


@dataclass(frozen=True)
class Target:
    """Where a build goes below a root: the directories of program, libraries and Python modules.

    rpath: where the libraries are looked for besides the system's own directories; empty for nowhere.
    """

    program: str
    libraries: str
    python: str
    rpath: str


IMAGE = Target("usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib/python3/dist-packages", "")
HOST = Target("bin", "lib", "python", "$ORIGIN/../lib")


def inputs() -> str:
    """The fingerprint of pins and recipe."""
    files = [Path(__file__), PINS / "Cargo.toml", PINS / "requirements.txt"]
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


def pins() -> list[dict[str, str]]:
    """What versions.json says of the sources: name and version, sha256 of the archive."""
    binding = re.search(r"--hash=sha256:(\w+)", (PINS / "requirements.txt").read_text())
    if not binding:
        raise BuildError(f"{PINS} does not pin {BINDING} by checksum")
    return [{"name": CRATE, "sha256": CRATE_SHA256}, {"name": BINDING, "sha256": binding[1]}]


def sources(directory: Path) -> tuple[Path, Path]:
    """Fetches crate and binding below `directory`, checked against their pins; gives where their sources lie."""
    crates = directory / "crates"
    if not crates.exists():
        fresh = directory / "crates.new"
        remove_tree(fresh)
        wish = directory / "crates.wish"  # cargo writes its lock beside the manifest: not into our sources
        remove_tree(wish)
        shutil.copytree(PINS, wish)
        manifest = wish / "Cargo.toml"
        run(["cargo", "vendor", "--quiet", "--versioned-dirs", "--manifest-path", manifest, fresh])
        found = json.loads((fresh / CRATE / ".cargo-checksum.json").read_text())["package"]
        if found != CRATE_SHA256:
            raise BuildError(f"crate {CRATE} has sha256 {found}, not {CRATE_SHA256}: it is not used")
        fresh.rename(crates)
    downloads = directory / "python"
    if not downloads.exists():
        fresh = directory / "python.new"
        remove_tree(fresh)
        python = str(VENV_PYTHON) if VENV_PYTHON.exists() else sys.executable
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wanted = [
            "--no-deps",
            "--no-binary",
            ":all:",
            "--require-hashes",
            "--requirement",
            str(PINS / "requirements.txt"),
        ]
        run([*pip, "download", *wanted, "--dest", str(fresh)])
        archive = fresh / f"{BINDING}.tar.gz"
        run(["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", fresh])
        fresh.rename(downloads)
    return crates / CRATE, downloads / BINDING


def gcc(output: Path, inputs: list[Path], flags: list[str]) -> None:
    """Compiles and links in one go; the same bytes wherever the sources lie."""
    output.parent.mkdir(parents=True, exist_ok=True)
    common = ["-Os", "-std=gnu99", "-D_GNU_SOURCE", "-DNDEBUG", "-w", f"-ffile-prefix-map={BUILD}=.", "-s"]
    run(["gcc", *common, "-o", output, *inputs, *flags])


def compile_all(crate: Path, binding: Path, headers: list[Path], root: Path, target: Target) -> None:
    """Compiles libraries, program and binding into `root`. `headers`: the include directories of the Python."""
    libraries = root / target.libraries
    # The crate keeps the headers as uci wants them: <libubox/….h>. uci's configuration switches on nothing.
    (crate / "uci/uci_config.h").write_text("")
    include = [f"-I{crate}", f"-I{crate}/uci"]
    shared = ["-shared", "-fPIC"]
    rpath = [f"-Wl,-rpath,{target.rpath}"] if target.rpath else []
    link = [f"-L{libraries}", "-luci", "-lubox", *rpath]
    ubox = [crate / f"libubox/{name}.c" for name in UBOX_SOURCES]
    gcc(libraries / "libubox.so", ubox, [*include, *shared, "-Wl,-soname,libubox.so"])
    uci = [crate / f"uci/{name}.c" for name in UCI_SOURCES]
    options = ['-DUCI_PREFIX="/usr"', f"-L{libraries}", "-lubox", *rpath]
    gcc(libraries / "libuci.so", uci, [*include, *shared, "-Wl,-soname,libuci.so", *options])
    # The program alone holds its libraries: init scripts start it often, and finding libraries is most of its time.
    alone = ["-static", "-ffunction-sections", "-Wl,--gc-sections", '-DUCI_PREFIX="/usr"']
    gcc(root / target.program / "uci", [crate / "uci/cli.c", *uci, *ubox], [*include, *alone])
    sources = [binding / f"{name}.c" for name in BINDING_SOURCES]
    gcc(root / target.python / "uci.so", sources, [*include, *(f"-I{path}" for path in headers), *shared, *link])
    for path in sorted((binding / "euci").glob("*.py")):
        destination = root / target.python / "euci" / path.name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)


def image_headers(directory: Path) -> list[Path]:
    """The include directories of the image's Python, from its package, unpacked below `directory`."""
    unpacked = directory / "headers"
    if not unpacked.exists():
        fresh = directory / "headers.new"
        remove_tree(fresh)
        (deb,) = Archive().fetch([IMAGE_HEADERS], dependencies=False)
        unpack(deb, fresh)
        fresh.rename(unpacked)
    (version,) = (unpacked / "usr/include").glob("python3.*")
    return [version, unpacked / "usr/include"]


def host_headers() -> list[Path]:
    """The include directories of the Python that runs the tests."""
    question = "import sysconfig; print(sysconfig.get_path('include'))"
    headers = Path(run([VENV_PYTHON, "-c", question]).strip())
    if not (headers / "Python.h").exists():
        raise BuildError(f"{headers}/Python.h is not there: install python3-dev")
    return [headers]


def build(target: Target, directory: Path = BUILD / "uci") -> Path:
    """Brings the build for IMAGE or HOST up to date; gives its root. Raises BuildError."""
    root = directory / ("host" if target is HOST else "image")
    stamp = directory / f"{root.name}.json"
    with locked("uci"):
        made_from = inputs()
        if stamp.exists() and json.loads(stamp.read_text()) == made_from and root.exists():
            return root
        stamp.unlink(missing_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        crate, binding = sources(directory)
        fresh = directory / f"{root.name}.new"
        remove_tree(fresh)
        headers = host_headers() if target is HOST else image_headers(directory)
        compile_all(crate, binding, headers, fresh, target)
        remove_tree(root)
        fresh.rename(root)
        stamp.write_text(json.dumps(made_from))
    return root


def main() -> int:
    """Command line. Gives the exit status."""
    parser = argparse.ArgumentParser(description="Builds libuci, uci and pyuci from pinned sources.")
    parser.add_argument("--host", action="store_true", help="for this machine's tests (the default)")
    parser.add_argument("--image", action="store_true", help="for the reference image")
    wanted = parser.parse_args()
    try:
        print(f"libuci and its Python binding: {os.path.relpath(build(IMAGE if wanted.image else HOST))}")
    except BuildError as error:
        print(f"uci: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
