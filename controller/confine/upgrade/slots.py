"""The slots as they are now: which runs, which is confirmed, what each holds. Read from the disk and the kernel."""

import os

from confine.upgrade.backends import of_words
from confine.upgrade.disk import KERNEL, SLOTS, Disk, write_all
from confine.upgrade.errors import UpgradeError
from confine.upgrade.words import boot_words
from upgrade import label

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.upgrade.backends import Grub, UBoot

    Backend = Grub | UBoot

TRIAL = "trial"


def other(slot: str) -> str:
    """The slot that `slot` is not."""
    return "b" if slot == "a" else "a"


class Slots:
    """Both slots of the node's disk. words: the boot words of the running kernel, name to value."""

    def __init__(
        self,
        disk: "Disk | None" = None,
        backend: "Backend | None" = None,
        words: "dict[str, str] | None" = None,
    ) -> None:
        self.disk = disk or Disk()
        self.words = boot_words() if words is None else words
        self.backend = backend or of_words(self.words, self.disk)

    @property
    def running(self) -> "str | None":
        """The slot this system was started from; None if from none (recovery, another machine)."""
        slot = self.words.get("slot")
        return slot if slot in SLOTS else None

    @property
    def on_trial(self) -> bool:
        """Does an unconfirmed slot run, which a reset ends?"""
        return self.words.get("boot") == TRIAL and self.running != self.backend.confirmed()

    def state(self) -> "dict[str, Any]":
        """What there is. UpgradeError where there are no slots (not a disk of this project).

        running, confirmed: slot or None; trial: does an unconfirmed one run; started: how the boot loader says it
        started (counted, uncounted, byhand, trial); copies: what the pointer's two say; slots: for each starts
        ("3".."0", "never", None unknown), whole (it has a label), version, epoch, board (None without a label).
        """
        copies = self.backend.copies()
        starts = self.backend.starts()
        return {
            "running": self.running,
            "confirmed": copies[0] or copies[1],
            "trial": self.words.get("boot") == TRIAL and self.running != (copies[0] or copies[1]),
            "started": self.words.get("boot"),
            "copies": list(copies),
            "slots": {slot: self._slot(slot, starts.get(slot)) for slot in SLOTS},
        }

    def label(self, slot: str) -> "dict[str, Any] | None":
        """The manifest of the bundle that `slot` holds as a whole; None if it does not."""
        fd = self.disk.open(KERNEL + "-" + slot)
        try:
            return label.parse(os.pread(fd, label.SIZE, _label_offset(fd)))
        except OSError:
            return None
        finally:
            os.close(fd)

    def clear_label(self, slot: str) -> None:
        """Say, durably, that `slot` holds nothing whole. OSError if the medium does not take it."""
        self._write_label(slot, bytes(label.SECTOR))

    def write_label(self, slot: str, doc: "dict[str, Any]") -> None:
        """Say, durably, that all of `doc` is in `slot`, on the medium. OSError; ValueError if it is too long."""
        self._write_label(slot, label.make(doc))

    def check_free(self, slot: str) -> None:
        """UpgradeError if `slot` must not be written: it runs, or a reset would start it."""
        if slot not in SLOTS:
            raise UpgradeError("there is no slot {!r}: slots are a and b".format(slot))
        if slot == self.running:
            raise UpgradeError("slot {} runs: an upgrade is written to the other one".format(slot))
        confirmed = self.backend.confirmed()
        if slot == confirmed:
            raise UpgradeError(
                "slot {} is the confirmed one, on which this node falls back: end the trial first".format(slot)
            )
        if confirmed is None and self.running is None:
            raise UpgradeError("nothing says which slot is confirmed, and none runs: write the pointer first")

    def _slot(self, slot: str, starts: "str | None") -> "dict[str, Any]":
        manifest = self.label(slot)
        found = {name: (manifest or {}).get(name) for name in ("version", "epoch", "board")}
        return {"starts": starts, "whole": manifest is not None, **found}

    def _write_label(self, slot: str, content: bytes) -> None:
        fd = self.disk.open(KERNEL + "-" + slot, os.O_RDWR)
        try:
            write_all(fd, content, _label_offset(fd))
            os.fsync(fd)
        finally:
            os.close(fd)


def state() -> "dict[str, Any]":
    """This node's slots: see Slots.state."""
    return Slots().state()


def _label_offset(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_END) - label.SIZE
