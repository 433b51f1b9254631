"""Says to the boot loader that this slot started well: run once, when the node is up.

    python3 -m upgrade.started

Fills up the slot's counter of starts and makes the two copies of the pointer alike again; a slot that GRUB fell back
on, because the confirmed one had no starts left, becomes the confirmed one. Does nothing on a node that our loaders'
scripts did not start, in a trial (not confirmed yet), or in a slot that a person started by hand. A slot whose own
configuration cannot be used does not get its starts back from GRUB where the other one could start: after three of them
that one takes over.
"""

import os
import sys

from confine.configuration import unkept
from confine.errors import ConfineError
from confine.upgrade.backends import ENVIRONMENT, UBoot
from confine.upgrade.disk import Disk
from upgrade import counter, fat, pointer

# How the loader says that it started a confirmed slot by itself; see upgrade/boot/.
_BY_LOADER = ("counted", "uncounted")


def boot_words(command_line: str) -> "dict[str, str]":
    """The words `confine.NAME=VALUE` of a kernel's command line, name to value."""
    words = {}
    for word in command_line.split():
        name, separator, value = word.partition("=")
        if separator and name.startswith("confine."):
            words[name[len("confine.") :]] = value
    return words


def restore_counter(disk: Disk, slot: str) -> bool:
    """Fill up the counter of `slot` on the boot partition, which need not be mounted. True if it was written."""
    fd = _open(disk, "boot")
    try:
        return counter.restore(fd, fat.find_sector(fd, "grub/grubenv"), slot)
    finally:
        os.close(fd)


def repair_pointer(disk: Disk) -> bool:
    """Make the pointer's copies alike. True if one was written."""
    fd = _open(disk, "pointer")
    try:
        return pointer.repair(fd)
    finally:
        os.close(fd)


def take_over(disk: Disk, slot: str, failed: str) -> bool:
    """Make `slot`, which GRUB fell back on and which came up, the confirmed one in place of `failed`, if that has no
    starts left. True if it was done; the history then says so.

    Without this neither slot could ever be written again: one runs, the other is the confirmed one. The counter of
    `slot` is full before: cut off anywhere, GRUB starts `slot`.
    """
    starts = _starts(disk)
    if starts.get(failed) != "0" or starts.get(slot) != counter.FULL:
        return False
    fd = _open(disk, "pointer")
    try:
        if pointer.confirmed(pointer.read(fd)) == slot:
            return False
        pointer.commit(fd, slot)
    finally:
        os.close(fd)
    return True


def _starts(disk: Disk) -> "dict[str, str]":
    fd = _open(disk, "boot")
    try:
        return counter.parse(os.pread(fd, counter.SECTOR, fat.find_sector(fd, "grub/grubenv")))
    finally:
        os.close(fd)


def _other_may_start(disk: Disk, slot: str) -> bool:
    return any(starts in ("1", "2", counter.FULL) for name, starts in _starts(disk).items() if name != slot)


def _open(disk: Disk, name: str) -> int:
    # Not as an upgrade opens it: the boot partition may be mounted, and one sector of it is written all the same.
    return os.open(disk.path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


def tell(words: "dict[str, str]", disk: "Disk | None" = None, lost: str = "") -> "list[str]":
    """Tell the boot loader what the boot words of the running kernel ask for; what could not be done. lost: what is to
    be said of a configuration that cannot be used, "" if it can."""
    slot, confirmed = words.get("slot"), words.get("confirmed")
    if slot not in pointer.SLOTS or words.get("boot") not in _BY_LOADER:
        return []
    disk = disk or Disk()
    if words.get("pointer") == ENVIRONMENT:
        return tell_environment(slot, confirmed, disk, UBoot())
    problems = []
    try:
        if lost and _other_may_start(disk, slot):
            return [f"the starts left of slot {slot} stay lowered, so that the other one gets its turn: {lost}"]
        restore_counter(disk, slot)
    except (OSError, ConfineError, counter.CounterError, fat.FatError) as error:
        problems.append(f"the starts left of slot {slot} stay lowered: {error}")
    try:
        if confirmed in pointer.SLOTS and confirmed != slot and take_over(disk, slot, confirmed):
            problems += _remember(disk, confirmed)
        repair_pointer(disk)
    except (OSError, ConfineError, fat.FatError, pointer.PointerError) as error:
        problems.append(f"the pointer stays as it is: {error}")
    return problems


def tell_environment(slot: str, confirmed: "str | None", disk: Disk, backend: UBoot) -> "list[str]":
    """The same where U-Boot counts: first the starts, then the pointer, as `take_over` has it."""
    try:
        backend.allow(slot)
        if confirmed != slot and backend.confirmed() == confirmed and backend.starts().get(confirmed or "") == "0":
            backend.commit(slot)
            return _remember(disk, confirmed or "")
    except (OSError, ConfineError) as error:
        return [f"U-Boot's environment stays as it is: {error}"]
    return []


def _remember(disk: Disk, failed: str) -> "list[str]":
    """Put into the history that the bundle in slot `failed` did not start: it is not taken again by itself."""
    from confine.configuration import read_settings
    from confine.paths import Paths
    from confine.upgrade import record
    from confine.upgrade.slots import Slots

    paths = Paths()
    try:
        paths.data = read_settings(paths)[0].data_dir
        manifest = Slots(disk).label(failed) or {}
        record.remember("failed", {"slot": failed, "manifest": manifest}, paths,
                        "it did not come up in three starts; the slot before is the confirmed one again")  # fmt: skip
    except (OSError, ConfineError) as error:
        return [f"the history does not say that slot {failed} did not come up: {error}"]
    return []


def main() -> int:
    """Exit status 0, or 1 with one line for each thing that could not be done."""
    with open("/proc/cmdline", encoding="utf-8") as file:
        problems = tell(boot_words(file.read()), lost=unkept())
    for problem in problems:
        print("started: " + problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
