"""What the recovery system does by itself.

    take              the configuration of the confirmed slot, or of the other one: network, people's keys, mirrors
    wait [SECONDS]    when so long nobody was logged in and nothing was written, try the slots again that held once

A slot may have failed for a passing reason, such as power that comes and goes: without a person beside the device it
gets its starts back after a while, if it is whole. Between two tries the node can be reached.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from confine.configuration import read_settings
from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import history, keep, overlay, trial, writer
from confine.upgrade.disk import SLOTS
from confine.upgrade.node import Node
from confine.upgrade.slots import Slots, other

WAIT_S = 900.0
LOOK_S = 5.0
TOOL_S = 60
WORK = "/run/recovery"
ARCHIVE = WORK + "/configuration.tgz"


def take(slots: Slots) -> str:
    """Unpack what a slot keeps in an upgrade over this system's own files; which slot, "" if none could be read."""
    confirmed = slots.backend.confirmed() or "a"
    for slot in (confirmed, other(confirmed)):
        for start in offsets(slots, slot):
            try:
                if with_overlay(slots.disk.path("root-" + slot), start, unpack):
                    return slot
            except (ConfineError, OSError, subprocess.SubprocessError) as error:
                say(f"slot {slot} has no configuration at byte {start}: {error}")
    return ""


def offsets(slots: Slots, slot: str) -> list[int]:
    """Where the overlay of `slot` may begin: as its root says itself, and as its label says."""
    found: list[int] = []
    try:
        found.append(overlay.offset(slots.disk, slot))
    except (ConfineError, OSError) as error:
        say(str(error))
    try:
        label: dict[str, Any] = slots.label(slot) or {}
        size = label["parts"]["root"]["size"]
        found.append(-(-size // overlay.ALIGNMENT) * overlay.ALIGNMENT)
    except (ConfineError, OSError, KeyError, TypeError):
        pass
    return sorted(set(found), key=found.index)


def with_overlay(device: str, start: int, use: Any) -> bool:
    """`use(directory)` with the overlay's file system mounted, read-only. Its journal is played back, as the slot's own
    start would: without it the last changes would be missing; if it cannot be, they are."""
    directory = os.path.join(WORK, "overlay")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    loop = run("losetup", "-f").strip()
    run("losetup", "-o", str(start), loop, device)
    try:
        try:
            run("mount", "-t", "ext4", "-o", "ro,nosuid,nodev,noexec", loop, directory)
        except subprocess.SubprocessError:
            run("mount", "-t", "ext4", "-o", "ro,noload,nosuid,nodev,noexec", loop, directory)
        try:
            return bool(use(directory))
        finally:
            run("umount", directory)
    finally:
        run("losetup", "-d", loop)


def unpack(directory: str) -> bool:
    """Take over what the overlay's file system in `directory` holds. False if it has no node's configuration."""
    upper = os.path.join(directory, "upper")
    pending = os.path.join(upper, "sysupgrade.tgz")
    if os.path.isfile(pending):  # of a slot that never came so far as to unpack it
        run("tar", "-xzf", pending, "-C", "/")
        return True
    if not os.path.isfile(os.path.join(upper, "etc/config/confine")):
        return False
    merged = os.path.join(WORK, "merged")
    os.makedirs(merged, mode=0o700, exist_ok=True)
    run("mount", "-t", "overlay", "-o", f"ro,lowerdir={upper}:/rom", "overlay", merged)
    try:
        keep.pack(ARCHIVE, merged)
    finally:
        run("umount", merged)
    run("tar", "-xzf", ARCHIVE, "-C", "/")
    os.unlink(ARCHIVE)
    return True


def wait(node: Node, seconds: float) -> int:
    """Comes back when nothing can be tried again; else with the restart."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(LOOK_S)
        if is_in_use(node):
            begun = time.monotonic()
    tried = [slot for slot in SLOTS if give_back(node.slots, slot)]
    if not tried:
        say("no slot that held once is whole: `confine upgrade install` has to write one")
        return 0
    history.append({"event": "recovered", "slot": tried[0], "why": "the slots that held once are tried again"},
                   node.paths)  # fmt: skip
    trial.reset()
    return 1


def is_in_use(node: Node) -> bool:
    """Whether somebody is logged in, or an upgrade is under way."""
    return node.is_locked() or any(name.isdigit() for name in os.listdir("/dev/pts"))


def give_back(slots: Slots, slot: str) -> bool:
    """Give the slot its starts back if it was confirmed once and is whole; whether it was."""
    if slots.backend.starts().get(slot) in (None, "never"):
        return False
    try:
        writer.check(slot, slots)
    except (ConfineError, OSError) as error:
        say(f"slot {slot} is not tried again: {error}")
        return False
    slots.backend.allow(slot)
    say(f"slot {slot} is whole: it is tried again")
    return True


def run(*argv: str) -> str:
    """A tool's output. SubprocessError if it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_S, check=False)
    if done.returncode != 0:
        raise subprocess.SubprocessError(f"{argv[0]}: {done.stderr.strip()}")
    return done.stdout


def say(text: str) -> None:
    """Into the kernel's log: it is on the console."""
    with open("/dev/kmsg", "w") as file:
        file.write(f"confine: recovery: {text}\n")


def main() -> int:
    """Exit status 0."""
    slots = Slots()
    if sys.argv[1] == "take":
        slot = take(slots)
        say(f"the configuration is that of slot {slot}" if slot else
            "no slot's configuration can be read: DHCP on the first port, entry by the console alone")  # fmt: skip
        return 0
    paths = Paths()
    settings, _ = read_settings(paths)
    paths.data = settings.data_dir
    return wait(Node(paths, settings, slots), float(sys.argv[2]) if len(sys.argv) > 2 else WAIT_S)


if __name__ == "__main__":
    sys.exit(main())
