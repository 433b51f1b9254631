"""The part of `confine check` that looks at the machine: kernel, programs, disk and clock, with or without a daemon."""

import os
import time

from confine.check_facts import FAIL, OK, WARN, Facts, Finding
from confine.core.text import several

NFT_S = 20
MIB = 1024 * 1024

NEEDED_CONTROLLERS = ("memory", "pids")
WANTED_CONTROLLERS = {"cpu": "CPU shares", "io": "disk rates"}
# Program: the package that has it on OpenWrt.
NEEDED_TOOLS = {"nft": "nftables", "ip": "ip-tiny", "lxc-start": "lxc-start", "mkfs.ext4": "e2fsprogs"}
WANTED_TOOLS = {"lxc-attach": "lxc-attach", "lxc-console": "lxc-console", "zstd": "zstd", "unshare": "unshare"}
SQUASHFS_IDMAP = (6, 6)  # the kernel that first lets a squashfs be id-mapped


def cgroups(facts: Facts) -> "list[Finding]":
    """cgroup v2 with the controllers that hold the limits."""
    text = facts.text(facts.paths.cgroup.strip("/") + "/cgroup.controllers")
    if text is None:
        todo = "mount -t cgroup2 none {} (kernel: CONFIG_CGROUPS)".format(facts.paths.cgroup)
        return [Finding(FAIL, "cgroups", "there is no cgroup v2 at " + facts.paths.cgroup, todo)]
    there = text.split()
    found = []
    for word in NEEDED_CONTROLLERS:
        if word not in there:
            todo = "use a kernel with this controller (CONFIG_MEMCG, CONFIG_CGROUP_PIDS), not disabled at boot"
            found.append(
                Finding(FAIL, "cgroups", "no controller {}: no limit holds, no sliver starts".format(word), todo)
            )
    for word, what in WANTED_CONTROLLERS.items():
        if word not in there:
            said = "no controller {}: {} of slivers cannot be limited".format(word, what)
            found.append(Finding(WARN, "cgroups", said, "set no such limits, or use a kernel with it"))
    return found or [Finding(OK, "cgroups", "controllers " + " ".join(there))]


def kernel(facts: Facts) -> "list[Finding]":
    """What unprivileged containers on overlays need of the kernel."""
    version = facts.text("proc/sys/kernel/osrelease") or ""
    numbers = tuple(int(word) for word in version.split("-")[0].split(".")[:2] if word.isdigit())
    found = []
    if numbers >= SQUASHFS_IDMAP:
        found.append(Finding(OK, "kernel", version))
    else:
        todo = "use archives (tar) as templates, or a kernel from 6.6 on"
        found.append(Finding(WARN, "kernel", version + " cannot id-map squashfs templates", todo))
    spaces = facts.text("proc/sys/user/max_user_namespaces")
    if spaces is None or spaces == "0":
        todo = "kernel: CONFIG_USER_NS; sysctl user.max_user_namespaces above 0"
        found.append(Finding(FAIL, "user namespaces", "there are none: slivers cannot be unprivileged", todo))
    actions = facts.text("proc/sys/kernel/seccomp/actions_avail") or ""
    if "errno" not in actions.split():
        found.append(Finding(FAIL, "seccomp", "there are no filters", "kernel: CONFIG_SECCOMP_FILTER"))
    systems = (facts.text("proc/filesystems") or "").split()
    for system, module in (("overlay", "kmod-fs-overlay"), ("ext4", "kmod-fs-ext4"), ("squashfs", "kmod-fs-squashfs")):
        if system not in systems:
            todo = "modprobe {0}, or install {1}".format(system, module)
            found.append(Finding(WARN if system == "squashfs" else FAIL, system, "the kernel does not know it", todo))
    return found


def tools(facts: Facts) -> "list[Finding]":
    """The programs that are started."""
    found = []
    for state, programs in ((FAIL, NEEDED_TOOLS), (WARN, WANTED_TOOLS)):
        for program, package in programs.items():
            if not on_path(program):
                found.append(Finding(state, "programs", program + " is not there", "install " + package))
    return found or [Finding(OK, "programs", "all are there")]


def on_path(program: str) -> bool:
    """Whether `program` can be started."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(os.path.join(place, program), os.X_OK) for place in places)


def nftables(facts: Facts) -> "list[Finding]":
    """The kernel takes the rules that `confine stop` would put up, and the node's own; they are only tried."""
    from confine.core import firewall as rules

    stop = ["-D", 'port="slv-*"', "-f", os.path.join(facts.paths.share, "stop.nft")]
    return _try_rules(
        stop, "", "traffic cannot be cut off", "install kmod-nft-bridge (kernel: CONFIG_NF_TABLES_BRIDGE)"
    ) or _try_rules(
        ["-f", "-"], rules.render(facts.settings), "the firewall cannot be put up, no sliver starts",
        "install kmod-nft-connlimit, kmod-nft-nat (kernel: CONFIG_NFT_CONNLIMIT, CONFIG_NFT_MASQ)",
    ) or [Finding(OK, "nftables", "traffic can be cut off, and the firewall be put up")]  # fmt: skip


def _try_rules(arguments: "list[str]", text: str, lost: str, todo: str) -> "list[Finding]":
    import subprocess

    try:
        done = subprocess.run(
            ["nft", "-c", *arguments], input=text.encode(), capture_output=True, timeout=NFT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding(FAIL, "nftables", "cannot be tried: {}".format(error), "install nftables")]
    if done.returncode == 0:
        return []
    said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
    return [Finding(FAIL, "nftables", lost + ": " + said, todo)]


def data(facts: Facts) -> "list[Finding]":
    """The data partition is there, is one of its own, and has room."""
    path = facts.settings.data_dir
    try:
        own = os.stat(path).st_dev != os.stat("/").st_dev
        room = os.statvfs(path)
    except OSError as error:
        todo = "mount the data partition at {}, or set node.data_dir".format(path)
        return [Finding(FAIL, "data", "{}: {}".format(path, error.strerror), todo)]
    free, total = room.f_bavail * room.f_frsize // MIB, room.f_blocks * room.f_frsize // MIB
    found = []
    if not own:
        todo = "mount the data partition there: slivers would be lost with the next upgrade"
        found.append(Finding(WARN, "data", path + " lies on the root file system", todo))
    if free <= facts.settings.disk_reserve_mib:
        said = "{} of {} MiB free, {} are kept: nothing new fits".format(free, total, facts.settings.disk_reserve_mib)
        found.append(Finding(WARN, "data", said, "make room, or lower policy.disk_reserve"))
    return found or [Finding(OK, "data", "{}: {} of {} MiB free".format(path, free, total))]


def confirmed_time(facts: Facts) -> "list[Finding]":
    """Slices expire only by confirmed time."""
    from confine.clock import ntp_date

    today = time.strftime("%Y-%m-%d", time.gmtime())
    if ntp_date() is not None:
        return [Finding(OK, "time", today + ", by NTP")]
    todo = "let NTP set it: uci set system.ntp.enabled=1"
    said = "the clock says {} and nothing confirms it but the registry".format(today)
    return [Finding(WARN, "time", said, todo)]


def cache(facts: Facts) -> "list[Finding]":
    """The template cache can be written and is within its bound."""
    place = os.path.join(facts.paths.cache, "objects")
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(place)]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Finding(FAIL, "template cache", "{}: {}".format(place, error.strerror), "see the data partition")]
    said = "{}, {} of {} MiB".format(several(len(sizes), "file"), sum(sizes) // MIB, facts.settings.cache_max_mib)
    if not os.access(place, os.W_OK):
        return [Finding(FAIL, "template cache", said + ", cannot be written", "see the data partition: dmesg")]
    return [Finding(OK, "template cache", said)]
