"""Kernel options that a node stands on, checked in the .config of the very kernel that goes into the image.

OpenWrt's own kernels have them (24.10 and 25.12, x86 and ARM); a build of somebody's own may not, and then slivers
would fail on the node with messages that nobody understands.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from firmware.openwrt.errors import FirmwareError

# On every board. y: built in; m: as a module, too.
EVERYWHERE: Mapping[str, tuple[str, str]] = {
    "SQUASHFS": ("y", "the root"),
    "OVERLAY_FS": ("y", "changes to the root, slivers' roots"),
    "CGROUPS": ("y", "slivers' limits"),
    "MEMCG": ("y", "slivers' memory limits"),
    "CGROUP_PIDS": ("y", "slivers' limits of processes"),
    "CPUSETS": ("y", "slivers' processors"),
    "FAIR_GROUP_SCHED": ("y", "slivers' shares of the processor"),
    "CFS_BANDWIDTH": ("y", "slivers' limits of the processor"),
    "CGROUP_BPF": ("y", "slivers' devices"),
    "NAMESPACES": ("y", "slivers"),
    "USER_NS": ("y", "slivers without privileges"),
    "PID_NS": ("y", "slivers"),
    "NET_NS": ("y", "slivers' own networks"),
    "UTS_NS": ("y", "slivers' names"),
    "IPC_NS": ("y", "slivers"),
    "SECCOMP_FILTER": ("y", "what slivers may call"),
    "VLAN_8021Q": ("m", "isolated interfaces"),
    "BRIDGE": ("m", "slivers' networks"),
    "BRIDGE_VLAN_FILTERING": ("y", "isolated interfaces"),
    "NF_TABLES": ("m", "the firewall"),
    "VETH": ("m", "slivers' interfaces"),
    "TUN": ("m", "the overlay"),
    "BLK_DEV_LOOP": ("m", "slivers' disks"),
    "EXT4_FS": ("m", "slivers' disks"),
}


@dataclass(frozen=True)
class Finding:
    """An option that is not as it should be. wanted: y, m, or "" for one that is only worth having."""

    option: str
    wanted: str
    found: str
    why: str


def parse(text: str) -> dict[str, str]:
    """A kernel's .config: option, without CONFIG_, to its value; those that are off are left out."""
    options = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and name.startswith("CONFIG_"):
            options[name[7:]] = value.strip('"')
    return options


def check(text: str, needed: Mapping[str, str], wanted: Mapping[str, str]) -> list[Finding]:
    """What the .config `text` lacks, of EVERYWHERE, `needed` and `wanted` (see boards.py). Raises FirmwareError if
    it is no kernel configuration at all."""
    options = parse(text)
    if len(options) < 100:
        raise FirmwareError(f"this is no kernel configuration: {len(options)} options are set in it")
    asked = {**EVERYWHERE, **{option: (value, "this board") for option, value in needed.items()}}
    found = []
    for option, (value, why) in asked.items():
        if options.get(option) not in (("y",) if value == "y" else ("y", "m")):
            found.append(Finding(option, value, options.get(option, "off"), why))
    for option, lost in wanted.items():
        if options.get(option) not in ("y", "m"):
            found.append(Finding(option, "", "off", lost))
    return found


def demand(findings: list[Finding]) -> list[str]:
    """The lines for what is only wanted. Raises FirmwareError that lists what has to be on and is not."""
    missing = [f"CONFIG_{f.option} is {f.found}, has to be {f.wanted} ({f.why})" for f in findings if f.wanted]
    if missing:
        raise FirmwareError(
            "the kernel cannot run a node:\n  " + "\n  ".join(missing) + "\n"
            "Use a kernel of OpenWrt's release, or switch them on (make kernel_menuconfig) and build again"
        )
    return [f"CONFIG_{f.option} is off: {f.why}" for f in findings]
