"""Builds the example testbed's template archives from Debian packages, and a sample of a researcher's data.

    python3 test/registry/templates.py [--fresh]

Run as root: owners in the archives are real. Into build/templates/, each with `<name>.json` beside it
({"file", "sha256", "size" in bytes, "type", "packages", "inputs"}):

debian      debian.squashfs     type debian   Debian trixie: sysvinit, bash, iproute2, ping, dropbear
openwrt     openwrt.tar.gz      type openwrt  OpenWrt's habits: /etc/config, /etc/rc.d, keys in /etc/dropbear
generic     generic.tar.zst     type generic  one static busybox: its init, shell and httpd; no log-in
data-hello  data-hello.tar.gz   type data     a page for the web server that all three run: /srv/www, port 80

Contract with whoever runs them as slivers:
- init is /sbin/init. It mounts nothing (it may have no CAP_SYS_ADMIN): /proc, /sys, /dev and /dev/pts come from LXC.
  Host name and addresses come from LXC, too. When all is up, init says "<host name>: up" on /dev/console.
- Halt: SIGPWR ends all three (sysvinit: `powerfail` in its inittab; busybox init: built in); SIGUSR2 ends "openwrt",
  too, as it would a genuine one (procd: power off). All are down within 5 s, by reboot(2), which needs CAP_SYS_BOOT
  in the sliver's user namespace.
- Console: a root shell on /dev/console, for the node's administrators.
- Log-in: dropbear on port 22, keys only, from /root/.ssh/authorized_keys (debian) or
  /etc/dropbear/authorized_keys (openwrt). Host keys are made at the first start.

The same packages and sources give the same bytes; nothing is built twice that has not changed (--fresh asks the
Debian archive for newer packages).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.reference.debian import BUILD, Archive, BuildError, Deb, locked, remove_tree, run, sha256_of, unpack

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "template_files"
OUTPUT = BUILD / "templates"
TIME = 1_735_689_600  # of every file: 2025-01-01, so that the same packages give the same bytes

DEBIAN = (
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "dropbear-bin",
    "iproute2",
    "iputils-ping",
    "sysvinit-core",
)
# Dependencies that only serve the installation of packages.
DROPPED = {
    "debconf", "debianutils", "dpkg", "gcc-14-base", "init-system-helpers", "initscripts", "insserv", "libdb5.3t64",
    "libdebconfclient0", "liblzma5", "libmd0", "libbz2-1.0", "libperl5.40", "mawk", "mount", "perl", "perl-base",
    "startpar", "sysv-rc", "sysvinit-utils", "tar",
}  # fmt: skip
UNNEEDED = (
    "etc/apt", "etc/dpkg", "etc/init.d/*", "etc/insserv*", "etc/rc?.d", "etc/rc.*", "etc/default", "usr/include",
    "usr/lib/systemd", "usr/lib/*/gconv", "usr/lib/*/audit", "usr/lib/tmpfiles.d", "usr/share/doc", "usr/share/man",
    "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/bash-completion", "usr/share/perl5",
    "usr/share/base-files", "usr/share/common-licenses", "usr/share/info", "usr/share/menu", "usr/share/debconf",
    "usr/share/libc-bin", "usr/share/initscripts", "usr/share/sysvinit", "usr/games", "usr/local",
)  # fmt: skip
DIRECTORIES = (
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "srv/www",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/log",
    "var/empty",
)


@dataclass(frozen=True)
class Target:
    """One archive: its file's name, its template type, the packages it takes (with what they depend on), how its
    root is put together, and how that is packed."""

    name: str
    file: str
    type: str
    packages: tuple[str, ...]
    fill: Callable[[Path, list[Deb]], None]
    pack: Callable[[Path, Path], None]


# ---- roots -----------------------------------------------------------------------------------------------------------


def base(root: Path) -> None:
    """Directories with their modes that every root has."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    (root / "tmp").chmod(0o1777)


def overlay(root: Path, name: str) -> None:
    """The project's own files of this template over `root`; shadow is kept secret, scripts stay executable."""
    source = SOURCES / name
    for path in sorted(source.rglob("*")):
        target = root / path.relative_to(source)
        if path.is_dir():
            target.mkdir(exist_ok=True)
            continue
        target.unlink(missing_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(0o600 if path.name == "shadow" else 0o755 if os.access(path, os.X_OK) else 0o644)


def trim(root: Path) -> None:
    """Remove what a sliver never reads."""
    for pattern in UNNEEDED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def applets(root: Path, busybox: str) -> None:
    """A link for every applet of the busybox at `busybox` that nothing else provides."""
    for line in run([root / busybox, "--list-full"]).split():
        path = root / line
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink() or path.name in ("init", "linuxrc", "busybox"):
            continue
        path.symlink_to("/" + busybox)


def keep_only_libraries_of(root: Path, program: str) -> None:
    """Remove every shared library that `program` does not load, as its own loader says."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    shown = run(["chroot", root, loader, "--list", program])
    needed = {os.path.realpath(root / word.lstrip("/")) for word in shown.split() if word.startswith("/")}
    for path in (root / "usr/lib/x86_64-linux-gnu").rglob("*"):
        if not path.is_dir() and os.path.realpath(path) not in needed:
            path.unlink()
    for path in sorted((root / "usr/lib/x86_64-linux-gnu").rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def fill_debian(root: Path, debs: list[Deb]) -> None:
    """Debian's own programs, busybox for the small ones."""
    for deb in sorted(debs, key=lambda deb: (deb.name != "base-files", deb.name)):
        unpack(deb, root)
    trim(root)
    base(root)
    applets(root, "usr/bin/busybox")
    for name in ("common", "debian"):
        overlay(root, name)
    (root / "etc/dropbear").mkdir(exist_ok=True)
    shell = root / "usr/bin/sh"
    shell.unlink(missing_ok=True)
    shell.symlink_to("busybox")


def fill_openwrt(root: Path, debs: list[Deb]) -> None:
    """busybox and dropbear, laid out as OpenWrt does: directories of memory below /tmp, links in /etc/rc.d."""
    base(root)
    place_busybox(root, debs)
    for deb in debs:
        if deb.name != "busybox-static":
            unpack(deb, root)
    (root / "lib64").symlink_to("usr/lib64")
    trim(root)
    keep_only_libraries_of(root, "/usr/sbin/dropbear")
    for name in ("common", "openwrt"):
        overlay(root, name)
    for name in ("etc/dropbear", "etc/rc.d", "etc/uci-defaults"):
        (root / name).mkdir(exist_ok=True)
    for name in ("run", "lock", "log"):
        link(root, f"var/{name}", f"/tmp/{name}")
    link(root, "etc/resolv.conf", "/tmp/resolv.conf.d/resolv.conf.auto")
    link_init_scripts(root)


def fill_generic(root: Path, debs: list[Deb]) -> None:
    """busybox alone."""
    base(root)
    place_busybox(root, debs)
    for name in ("common", "generic"):
        overlay(root, name)


def fill_data(root: Path, debs: list[Deb]) -> None:
    """A web page, and a message for those who log in."""
    overlay(root, "data-hello")


def place_busybox(root: Path, debs: list[Deb]) -> None:
    """busybox as /bin/busybox, with its applets and its init."""
    package = root.with_name(root.name + ".busybox")
    unpack(next(deb for deb in debs if deb.name == "busybox-static"), package)
    (root / "bin").mkdir()
    (root / "sbin").mkdir()
    shutil.copy2(package / "usr/bin/busybox", root / "bin/busybox")
    remove_tree(package)
    applets(root, "bin/busybox")
    link(root, "sbin/init", "/bin/busybox")


def link(root: Path, name: str, target: str) -> None:
    """A symbolic link in the root, in place of whatever is there."""
    path = root / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def link_init_scripts(root: Path) -> None:
    """The links of /etc/rc.d for the START and STOP that the scripts of /etc/init.d name, as `enable` makes them."""
    for script in sorted((root / "etc/init.d").iterdir()):
        for line in script.read_text().splitlines():
            word, _, number = line.partition("=")
            if word in ("START", "STOP") and number.isdigit():
                letter = "S" if word == "START" else "K"
                (root / f"etc/rc.d/{letter}{number}{script.name}").symlink_to(f"../init.d/{script.name}")


# ---- packing ---------------------------------------------------------------------------------------------------------


def pack_squashfs(root: Path, output: Path) -> None:
    """squashfs with zstd, without extended attributes."""
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    options = ["-noappend", "-no-progress", "-quiet", "-no-xattrs", "-comp", "zstd", "-Xcompression-level", "15"]
    run(["mksquashfs", root, output, *options, "-all-time", str(TIME), "-mkfs-time", str(TIME)], env)


def tar_bytes(root: Path) -> bytes:
    """The tree as a tar archive: names sorted, one time, owners by number. Device nodes do not occur."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in [root, *sorted(root.rglob("*"))]:
            name = "./" + str(path.relative_to(root)) if path != root else "."
            member = archive.gettarinfo(str(path), name)
            member.mtime, member.uname, member.gname = TIME, "", ""
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    return buffer.getvalue()


def pack_gzip(root: Path, output: Path) -> None:
    """tar.gz."""
    output.write_bytes(gzip.compress(tar_bytes(root), 9, mtime=0))


def pack_zstd(root: Path, output: Path) -> None:
    """tar.zst, with the zstd tool."""
    argv = ["zstd", "-q", "-19", "-T1", "--no-progress", "-c"]
    done = subprocess.run(argv, input=tar_bytes(root), capture_output=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"zstd failed: {done.stderr.decode(errors='replace').strip()}")
    output.write_bytes(done.stdout)


TARGETS = (
    Target("debian", "debian.squashfs", "debian", DEBIAN, fill_debian, pack_squashfs),
    Target("openwrt", "openwrt.tar.gz", "openwrt", ("busybox-static", "dropbear-bin"), fill_openwrt, pack_gzip),
    Target("generic", "generic.tar.zst", "generic", ("busybox-static",), fill_generic, pack_zstd),
    Target("data-hello", "data-hello.tar.gz", "data", (), fill_data, pack_gzip),
)


# ---- building --------------------------------------------------------------------------------------------------------


def inputs() -> str:
    """A fingerprint of everything the archives are made from, but for the packages' versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            executable = os.access(path, os.X_OK)
            digest.update(f"\0{path.relative_to(SOURCES)}\0{executable}\0{sha256_of(path)}".encode())
    return digest.hexdigest()


def record_of(target: Target, output: Path) -> dict[str, object] | None:
    """What `<name>.json` says; None if it or the archive is missing."""
    try:
        record = json.loads((output / f"{target.name}.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and (output / target.file).is_file() else None


def build_one(target: Target, archive: Archive, output: Path, fingerprint: str) -> None:
    """Build one archive and its record; the record last, since it says that the archive is whole."""
    debs = [deb for deb in archive.fetch(target.packages) if deb.name not in DROPPED] if target.packages else []
    root = output / f"{target.name}.root"
    remove_tree(root)
    root.mkdir(parents=True)
    root.chmod(0o755)
    target.fill(root, debs)
    fresh = output / f"{target.file}.new"
    target.pack(root, fresh)
    remove_tree(root)
    (output / f"{target.name}.json").unlink(missing_ok=True)
    fresh.replace(output / target.file)
    file = output / target.file
    record = {
        "file": target.file,
        "sha256": sha256_of(file),
        "size": file.stat().st_size,
        "type": target.type,
        "packages": {deb.name: deb.version for deb in debs},
        "inputs": fingerprint,
    }
    (output / f"{target.name}.json").write_text(json.dumps(record, indent=2) + "\n")


def build(output: Path = OUTPUT, fresh: bool = False) -> None:
    """Bring all archives up to date. Raises BuildError."""
    if os.geteuid() != 0:
        raise BuildError("templates are built as root: run this through sudo")
    with locked("templates"):
        fingerprint = inputs()
        records = {target: record_of(target, output) for target in TARGETS}
        due = [target for target, record in records.items() if fresh or not record or record["inputs"] != fingerprint]
        archive = Archive()
        for target in due:
            began = time.monotonic()
            build_one(target, archive, output, fingerprint)
            size = (output / target.file).stat().st_size / 1e6
            print(f"template {target.name}: {size:.1f} MB, built in {time.monotonic() - began:.1f} s", flush=True)


def main() -> int:
    """Command line. Gives the exit status."""
    parser = argparse.ArgumentParser(description="Builds the example testbed's template archives.")
    parser.add_argument("--fresh", action="store_true", help="ask the Debian archive for newer packages")
    try:
        build(fresh=parser.parse_args().fresh)
    except BuildError as error:
        print(f"templates: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
