"""The recovery system: the reference root without what slivers need, with its kernel, as one squashfs that GRUB reads.

It is what a node starts when no slot does (upgrade/boot/grub.cfg). Its changes stay in memory; the network and the
people who may enter are those of the slots' configuration, as far as that can be read (recovery-root/).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from firmware.reference.debian import remove_tree, run
from firmware.reference.root import chroot

# gzip: GRUB knows no zstd. The lowest level: kernel and initrd, half of it, do not get any smaller.
COMPRESSION = ["-comp", "gzip", "-Xcompression-level", "1"]
# What starts there; the controller does not, `confine upgrade` works without it.
INIT_SCRIPTS = {"agent", "boot", "dropbear", "network", "rcS", "recovery", "sysntpd"}
# Not needed to reach the node and to write a slot, as patterns below the root.
UNNEEDED = [
    "etc/lxc",
    "etc/modules.d/*",
    "etc/nftables.conf",
    "etc/tinc",
    "usr/bin/lxc-*",
    "usr/bin/micropython",
    "usr/bin/mksquashfs",
    "usr/bin/openssl",
    "usr/bin/pzstd",
    "usr/bin/ss",
    "usr/bin/xz*",
    "usr/bin/zstd*",
    "usr/lib/modules/*/kernel/crypto/*",
    "usr/lib/modules/*/kernel/arch",
    "usr/lib/modules/*/kernel/drivers/block/nbd.ko",
    "usr/lib/modules/*/kernel/drivers/md",
    "usr/lib/modules/*/kernel/net/ipv4/netfilter",
    "usr/lib/modules/*/kernel/net/ipv6/netfilter",
    "usr/lib/modules/*/kernel/net/netfilter",
    "usr/lib/modules/*/kernel/net/sched",
    "usr/lib/python3/dist-packages/psutil",
    "usr/lib/python3.13/_pyrepl",
    "usr/lib/python3.13/xml",
    "usr/lib/x86_64-linux-gnu/libkrb5.so.*",
    "usr/lib/x86_64-linux-gnu/liblxc.so.*",
    "usr/lib/x86_64-linux-gnu/libmvec.so.*",
    "usr/lib/x86_64-linux-gnu/libnftables.so.*",
    "usr/lib/x86_64-linux-gnu/libstdc++.so.*",
    "usr/lib/x86_64-linux-gnu/libsystemd.so.*",
    "usr/lib/x86_64-linux-gnu/libxenlight.so.*",
    "usr/sbin/dnsmasq",
    "usr/sbin/init.lxc*",
    "usr/sbin/nft",
    "usr/sbin/tc",
    "usr/sbin/tincd",
    "usr/share/lxc",
]
# What must run all the same: nobody can mend a recovery system from afar. Programs are only loaded, not started: some
# leave files behind.
IMPORTS = "import uci, pyroute2, confine.cli, confine.upgrade.command, confine.upgrade.trial"
LOADER = "/lib64/ld-linux-x86-64.so.2"
PROGRAMS = ("bin/ip", "sbin/chronyd", "sbin/dropbear", "bin/dropbearkey", "sbin/kexec", "sbin/mkfs.ext4", "sbin/e2fsck")


def build(stage: Path, own: Path, image: Path, timestamp: int) -> None:
    """Turns `stage`, a whole root, into the recovery's and packs it as recovery.squashfs in `image`, with vmlinuz and
    initrd.img from there in /boot.

    own: directory of what only the recovery has. timestamp (s): of all files.
    """
    for pattern in UNNEEDED:
        for path in stage.glob(pattern):
            remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in sorted(own.rglob("*")):
        if path.is_file():
            target = stage / path.relative_to(own)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(path, target)
    for script in (stage / "etc/rc.d").iterdir():
        if script.name[3:] not in INIT_SCRIPTS:
            script.unlink()
    for place in ("S12", "S99"):
        (stage / f"etc/rc.d/{place}recovery").symlink_to("../init.d/recovery")
    chroot(stage, "env", "PYTHONPATH=/usr/lib/confine", "python3", "-B", "-c", IMPORTS)
    for program in PROGRAMS:
        chroot(stage, LOADER, "--list", f"/usr/{program}")
    (stage / "boot").mkdir()
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(image / name, stage / "boot" / name)
    times = ["-all-time", str(timestamp), "-mkfs-time", str(timestamp)]
    # As in build.py.
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    quiet = ["-noappend", "-no-progress", "-quiet", "-no-xattrs"]
    run(["mksquashfs", stage, image / "recovery.squashfs", *quiet, *COMPRESSION, *times], env)
