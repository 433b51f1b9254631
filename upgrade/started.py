"""Says to the boot loader that this slot started well: run once, when the node is up.

    python3 -m upgrade.started

Fills up the slot's counter of starts and makes the two copies of the pointer alike again. Does nothing on a node that
GRUB did not start by our configuration, in a trial (not confirmed yet), or in a slot that a person started by hand.
"""

import os
import sys

from upgrade import counter, fat, pointer

_BLOCK_DEVICES = "/sys/class/block"
# How GRUB says that it started a confirmed slot by itself; see upgrade/boot/grub.cfg.
_BY_GRUB = ("counted", "uncounted")


class StartedError(Exception):
    """The boot loader could not be told: says what failed; the slot's starts go on being used up."""


def boot_words(command_line: str) -> "dict[str, str]":
    """The words `confine.NAME=VALUE` of a kernel's command line, name to value."""
    words = {}
    for word in command_line.split():
        name, separator, value = word.partition("=")
        if separator and name.startswith("confine."):
            words[name[len("confine.") :]] = value
    return words


def find_partition(name: str, directory: str = _BLOCK_DEVICES) -> str:
    """The device of the partition that the GPT calls `name`. Raises StartedError if there is none."""
    for device in sorted(os.listdir(directory)):
        try:
            with open(os.path.join(directory, device, "uevent"), encoding="utf-8") as file:
                if f"PARTNAME={name}" in file.read().splitlines():
                    return os.path.join("/dev", device)
        except OSError:
            continue
    raise StartedError(f"no partition is called {name}: this disk was not made by this project")


def restore_counter(slot: str) -> bool:
    """Fill up the counter of `slot` on the boot partition, which need not be mounted. True if it was written."""
    fd = os.open(find_partition("boot"), os.O_RDWR)
    try:
        return counter.restore(fd, fat.find_sector(fd, "grub/grubenv"), slot)
    finally:
        os.close(fd)


def repair_pointer() -> bool:
    """Make the pointer's copies alike. True if one was written."""
    fd = os.open(find_partition("pointer"), os.O_RDWR)
    try:
        return pointer.repair(fd)
    finally:
        os.close(fd)


def main() -> int:
    """Exit status 0, or 1 with one line for each thing that could not be done."""
    with open("/proc/cmdline", encoding="utf-8") as file:
        words = boot_words(file.read())
    slot = words.get("slot")
    if slot not in pointer.SLOTS or words.get("boot") not in _BY_GRUB:
        return 0
    status = 0
    try:
        restore_counter(slot)
    except (OSError, StartedError, counter.CounterError, fat.FatError) as error:
        print(f"started: the starts left of slot {slot} stay lowered: {error}", file=sys.stderr)
        status = 1
    try:
        repair_pointer()
    except (OSError, StartedError, pointer.PointerError) as error:
        print(f"started: the pointer stays as it is: {error}", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
