"""The part of the reference root that comes from Debian packages: chosen, unpacked, stripped, byte-compiled.

It changes only with the packages and with this file, so it is kept, and the controller is added to a copy of it.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from firmware.reference.debian import Archive, BuildError, Deb, remove_tree, run, unpack

# What is asked for, and why; what these depend on comes along.
PACKAGES = {
    "base-files": "the links /bin, /lib, /lib64 and /sbin",
    "busybox-static": "init, shell and small tools of the root and of the early userspace",
    "ca-certificates": "registries and template servers with public certificates",
    "chrony": "the node's own time",
    "dnsmasq-base": "the node's resolver",
    "dropbear-bin": "remote shell",
    "e2fsprogs": "file systems of overlay, data and slivers",
    "iproute2": "addresses, bridges, VLANs",
    "kexec-tools": "trials start by kexec",
    "kmod": "modprobe for compressed modules and their dependencies",
    "linux-image-cloud-amd64": "the kernel",
    "lxc": "slivers",
    "micropython": "the core's tests on the device",
    "netbase": "names of protocols and services",
    "nftables": "firewall",
    "openssl": "keys and certificates",
    "python3": "the controller",
    "python3-pyroute2": "slivers' interfaces, in a worker; the stand-in for netifd",
    "squashfs-tools": "templates",
    "tinc": "management overlay",
    "xz-utils": "template archives",
    "zstd": "template archives",
}

# Dependencies that only serve package installation, systemd, or what busybox does here.
DROPPED = {
    "adduser", "base-passwd", "coreutils", "cpio", "debconf", "dpkg", "dracut-install", "init-system-helpers",
    "initramfs-tools", "initramfs-tools-bin", "initramfs-tools-core", "klibc-utils", "libdb5.3t64", "libdebconfclient0",
    "libklibc", "libpam-modules", "libpam-modules-bin", "libpam0g", "libproc2-0", "libsemanage-common", "libsemanage2",
    "libsystemd-shared", "libtext-charwidth-perl", "libtext-wrapi18n-perl", "linux-base", "login.defs", "lsb-base",
    "mawk", "media-types", "mount", "passwd", "perl-base", "procps", "sensible-utils", "systemd", "sysvinit-utils",
    "tar", "tzdata", "ucf", "udev",
}  # fmt: skip

# Files nobody needs on a node, as patterns below the root.
UNNEEDED = [
    "boot/System.map-*",
    "etc/cron.*",
    "etc/default/*",
    "etc/dpkg",
    "etc/init.d/*",
    "etc/initramfs-tools",
    "etc/kernel",
    "etc/logcheck",
    "etc/modprobe.d/*",
    "etc/network",
    "etc/pam.d",
    "etc/rc?.d",
    "etc/systemd",
    "etc/udev",
    "etc/update-motd.d",
    "usr/games",
    "usr/include",
    "usr/lib/python3*/*/test",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/lib-dynload/_dbm.*",
    "usr/lib/python3*/lib2to3",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/test",
    "usr/lib/python3*/tkinter",
    "usr/lib/python3*/turtledemo",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/sbin/arpd",
    "usr/share/apport",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/gcc",
    "usr/share/gdb",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/perl5",
    "usr/share/pixmaps",
    "usr/share/zsh",
    "var/*",
]

# Kernel modules that go in, with what they depend on, as patterns below kernel/.
MODULES = [
    "arch/x86/crypto/*",
    "crypto/*",
    "drivers/block/loop.ko",
    "drivers/block/nbd.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/hw_random/virtio-rng.ko",
    "drivers/firmware/qemu_fw_cfg.ko",
    "drivers/md/dm-delay.ko",
    "drivers/md/dm-flakey.ko",
    "drivers/md/dm-log-writes.ko",
    "drivers/md/dm-verity.ko",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
    "drivers/net/macvlan.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/net/virtio_net.ko",
    "drivers/net/vrf.ko",
    "drivers/net/vxlan/*",
    "drivers/virtio/virtio_balloon.ko",
    "drivers/watchdog/i6300esb.ko",
    "drivers/watchdog/softdog.ko",
    "fs/fat/*",
    "fs/fuse/fuse.ko",
    "fs/nls/nls_ascii.ko",
    "fs/nls/nls_cp437.ko",
    "fs/nls/nls_iso8859-1.ko",
    "fs/nls/nls_utf8.ko",
    "fs/overlayfs/*",
    "fs/squashfs/*",
    "net/8021q/*",
    "net/bridge/*",
    "net/bridge/netfilter/*",
    "net/ipv4/*",
    "net/ipv4/netfilter/*",
    "net/ipv6/*",
    "net/ipv6/netfilter/*",
    "net/netfilter/*",
    "net/sched/*",
]

# Applets of busybox that would stand in for things this image means not to have.
APPLETS_LEFT_OUT = {"dpkg", "dpkg-deb", "rpm", "rpm2cpio", "busybox"}


def build_base(root: Path) -> None:
    """Makes the directory `root` anew from Debian packages, and `root`.json beside it, which records them.

    Raises BuildError when a package cannot be had.
    """
    fresh = root.with_name(root.name + ".new")
    remove_tree(fresh)
    debs = [deb for deb in Archive().fetch(list(PACKAGES)) if deb.name not in DROPPED]
    # base-files first: the others' /bin, /lib and /sbin then go through its links.
    for deb in sorted(debs, key=lambda deb: (deb.name != "base-files", deb.name)):
        unpack(deb, fresh)
    newest = newest_time(fresh)
    kernel = only_modules(fresh)
    write_system_files(fresh)
    link_applets(fresh)
    strip(fresh)
    compile_python(fresh, "/usr/lib/python3.13")
    remove_tree(root)
    fresh.rename(root)
    record = {"kernel": kernel, "newest_file": newest, "packages": [package_record(deb) for deb in debs]}
    root.with_name(root.name + ".json").write_text(json.dumps(record, indent=2) + "\n")


def package_record(deb: Deb) -> dict[str, str]:
    """What versions.json says of a package."""
    record = asdict(deb)
    del record["path"]
    return record


def newest_time(root: Path) -> int:
    """The newest modification time below `root`, in seconds: the packages' age, the same on every machine.

    Directories do not count: unpacking changes theirs.
    """
    times = [path.lstat().st_mtime for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return int(max(times))


def chroot(root: Path, *argv: str) -> str:
    """Runs a program of the root itself."""
    return run(["chroot", root, *argv], env={"PATH": "/usr/sbin:/usr/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C"})


def only_modules(root: Path) -> str:
    """Keeps only MODULES and what they need, uncompressed: the image has its own compression. Gives the version."""
    (directory,) = (root / "usr/lib/modules").iterdir()
    chroot(root, "depmod", directory.name)
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    wanted = {
        module for module in needs for pattern in MODULES if Path(module.removesuffix(".xz")).match("kernel/" + pattern)
    }
    keep = wanted.union(*(needs[module] for module in wanted))
    for module in needs:
        path = directory / module
        if module in keep:
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    chroot(root, "depmod", directory.name)
    return directory.name


def initrd_modules(root: Path, names: list[str]) -> list[Path]:
    """The files of the kernel modules `names` and of what they need, in the order in which they can be loaded."""
    (directory,) = (root / "usr/lib/modules").iterdir()
    order: list[Path] = []
    for line in (directory / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        if Path(module).stem in names:
            # depmod names the nearest dependency first, and all of them.
            for needed in [*reversed(others.split()), module]:
                if directory / needed not in order:
                    order.append(directory / needed)
    missing = set(names) - {path.stem for path in order}
    if missing:
        raise BuildError(f"the kernel has no module {', '.join(sorted(missing))}")
    return order


def write_system_files(root: Path) -> None:
    """What the packages' install scripts would have made, and the links that OpenWrt has."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text().rstrip("\n") + "\n" for path in certificates))
    remove_tree(root / "usr/share/ca-certificates")
    links = {
        "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
        "etc/resolv.conf": "/tmp/resolv.conf",
        "etc/mtab": "/proc/mounts",
        "root/.ssh/authorized_keys": "/etc/dropbear/authorized_keys",
    }
    for name, target in links.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name in ("rom", "overlay", "srv", "etc/rc.d", "etc/uci-defaults"):
        (root / name).mkdir(parents=True, exist_ok=True)


def link_applets(root: Path) -> None:
    """Links each applet of busybox under its name, where no package brings a tool of that name."""
    for applet in chroot(root, "busybox", "--list-full").split():
        name = Path(applet).name
        places = [root / "usr/bin" / name, root / "usr/sbin" / name]
        if name in APPLETS_LEFT_OUT or any(os.path.lexists(place) for place in places):
            continue
        place = places[1] if "sbin" in applet.split("/") else places[0]
        place.symlink_to("/usr/bin/busybox")
    init = root / "usr/sbin/init"
    if not os.path.lexists(init):
        init.symlink_to("/usr/bin/busybox")


def strip(root: Path) -> None:
    """Removes what UNNEEDED names; /var becomes /tmp, as on OpenWrt."""
    for pattern in UNNEEDED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "var").rmdir()
    (root / "var").symlink_to("tmp")


def compile_python(root: Path, *directories: str) -> None:
    """Byte-compiles Python below `directories` of the root with its own interpreter.

    Unchecked hashes instead of times: the byte code depends on the source alone, and importing needs no comparison.
    """
    for directory in directories:
        for old in (root / directory.lstrip("/")).rglob("*.pyc"):
            old.unlink()
    chroot(
        root, "/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash",
        *directories,
    )  # fmt: skip
