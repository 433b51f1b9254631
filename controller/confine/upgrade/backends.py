"""Boot loaders behind one small interface: which slot is confirmed, which may be started, one start of another.

Each change is one that decides by one sector: see upgrade/pointer.py, upgrade/counter.py and, for U-Boot, its own
redundant environment, which fw_setenv writes as a whole.
"""

import os
import subprocess

from confine.upgrade.disk import SLOTS, Disk
from confine.upgrade.errors import UpgradeError
from upgrade import counter, fat, pointer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TOOL_S = 30
# What U-Boot's script says it read the pointer from, in the boot words; GRUB names a copy.
ENVIRONMENT = "environment"


def of_words(words: "dict[str, str]", disk: Disk) -> "Grub | UBoot":
    """The loader that started the running kernel, by its boot words; a disk that none of ours started has GRUB's."""
    return UBoot() if words.get("pointer") == ENVIRONMENT else Grub(disk)


class Grub:
    """GRUB: the pointer partition, and the counters' sector on the boot partition."""

    name = "grub"

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def copies(self) -> "tuple[str | None, str | None]":
        """What the pointer's two copies confirm; None for one that cannot be used."""
        fd = self._disk.open("pointer")
        try:
            return pointer.read(fd)
        finally:
            os.close(fd)

    def confirmed(self) -> "str | None":
        """The slot that a reset starts."""
        return pointer.confirmed(self.copies())

    def commit(self, slot: str) -> None:
        """Make `slot`, which may be started, the confirmed one: one sector decides. UpgradeError, OSError."""
        fd = self._disk.open("pointer", os.O_RDWR)
        try:
            pointer.commit(fd, slot)
        except pointer.PointerError as error:
            raise UpgradeError(str(error))
        finally:
            os.close(fd)

    def starts(self) -> "dict[str, str]":
        """Slot to starts left, "never" for one that must not be started; a slot left out is one nobody knows of."""
        fd, offset = self._open_counters(os.O_RDONLY)
        try:
            return counter.parse(os.pread(fd, counter.SECTOR, offset))
        finally:
            os.close(fd)

    def forbid(self, slot: str) -> None:
        """`slot` holds nothing that was ever confirmed: it is not to be started, whatever becomes of the other."""
        self._set(slot, counter.NEVER)

    def allow(self, slot: str) -> None:
        """`slot` started well: it has all its starts."""
        self._set(slot, counter.FULL)

    def start_once(self, slot: str) -> None:
        """The next start, and no other, is one of `slot`: GRUB takes it back before it starts anything."""
        fd, offset = self._open_counters(os.O_RDWR)
        try:
            starts = counter.parse(os.pread(fd, counter.SECTOR, offset))
            self._overwrite(fd, offset, counter.make({**_known(starts), counter.ONCE: slot}))
        finally:
            os.close(fd)

    def _set(self, slot: str, value: str) -> None:
        fd, offset = self._open_counters(os.O_RDWR)
        try:
            old = os.pread(fd, counter.SECTOR, offset)
            new = counter.make({**_known(counter.parse(old)), slot: value})
            if new != old:
                self._overwrite(fd, offset, new)
        finally:
            os.close(fd)

    def _overwrite(self, fd: int, offset: int, block: bytes) -> None:
        os.pwrite(fd, block, offset)
        os.fsync(fd)
        if os.pread(fd, counter.SECTOR, offset) != block:
            raise UpgradeError("the counters on the boot partition do not read back: replace the disk")

    def _open_counters(self, flags: int) -> "tuple[int, int]":
        fd = self._disk.open("boot", flags)
        try:
            return fd, fat.find_sector(fd, "grub/grubenv")
        except fat.FatError as error:
            os.close(fd)
            raise UpgradeError(str(error))


def _known(starts: "dict[str, str]") -> "dict[str, str]":
    """Counters for both slots: one of which nothing is known must not be started unasked."""
    return {slot: starts.get(slot, counter.NEVER) for slot in SLOTS}


class UBoot:
    """U-Boot of a router with two images, through its environment. The loader's script must heed three variables:

    confine_slot        a or b: the confirmed slot
    confine_starts_a/b  3, 2, 1, 0 or never: lowered before each start of that slot
    confine_once        a or b: start this one once; deleted, and saved, before that start
    """

    name = "u-boot"

    def __init__(self, printenv: "Sequence[str]" = ("fw_printenv",), setenv: "Sequence[str]" = ("fw_setenv",)) -> None:
        """The two tools, with options if any (tests: a configuration of their own)."""
        self._printenv, self._setenv = list(printenv), list(setenv)

    def copies(self) -> "tuple[str | None, str | None]":
        """U-Boot hides its two copies and gives the good one."""
        slot = self.confirmed()
        return slot, slot

    def confirmed(self) -> "str | None":
        slot = self._read().get("confine_slot")
        return slot if slot in SLOTS else None

    def commit(self, slot: str) -> None:
        self._write("confine_slot", _checked(slot))
        if self.confirmed() != slot:
            raise UpgradeError("U-Boot's environment does not read back as slot {}".format(slot))

    def starts(self) -> "dict[str, str]":
        found = self._read()
        values = {slot: found.get("confine_starts_" + slot, "") for slot in SLOTS}
        return {slot: value for slot, value in values.items() if value in counter.VALUES}

    def forbid(self, slot: str) -> None:
        self._write("confine_starts_" + _checked(slot), counter.NEVER)

    def allow(self, slot: str) -> None:
        self._write("confine_starts_" + _checked(slot), counter.FULL)

    def start_once(self, slot: str) -> None:
        self._write("confine_once", _checked(slot))

    def _read(self) -> "dict[str, str]":
        lines = self._run(self._printenv).splitlines()
        return {name: value for name, sign, value in (line.partition("=") for line in lines) if sign}

    def _write(self, name: str, value: str) -> None:
        """One variable: the tool writes the whole environment to the copy that does not count, and then that does.

        One at a time, as words of the command: the two tools there are disagree on how a script of them looks.
        """
        if self._read().get(name) != value:
            self._run([*self._setenv, name, value])

    def _run(self, argv: "list[str]") -> str:
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_S,
                                  check=False)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UpgradeError("{} cannot be run: {}".format(argv[0], error))
        if done.returncode != 0:
            raise UpgradeError("{} failed (status {}): {}".format(argv[0], done.returncode, done.stderr.strip()))
        return done.stdout


def _checked(slot: str) -> str:
    if slot not in SLOTS:
        raise UpgradeError("there is no slot {!r}: slots are a and b".format(slot))
    return slot
