"""Confirming a trial and going back after one: what moves the pointer, and in which order.

All that the slot has written is on the medium before GRUB may start it; GRUB may start it before the pointer says it
shall. Cut off anywhere, a reset starts the old slot or the new one, each whole, and never asks a third.
"""

import os

from confine.upgrade import writer
from confine.upgrade.errors import UpgradeError
from confine.upgrade.slots import Slots, other


def confirm(slots: Slots) -> None:
    """Make the running slot, on trial, the confirmed one. UpgradeError if none is on trial or it cannot be written."""
    slot = slots.running
    if slot is None or not slots.on_trial:
        raise UpgradeError("no slot is on trial: there is nothing to confirm")
    os.sync()
    slots.backend.allow(slot)
    slots.backend.commit(slot)


def roll_back(slots: Slots) -> str:
    """Make the slot before the confirmed one the confirmed one again, for the next start; which one that is.

    UpgradeError if it was never confirmed, or is not whole any more: the node stays as it is.
    """
    if slots.on_trial:
        raise UpgradeError("a trial runs: a restart of the node ends it and goes back")
    slot = other(slots.running or "")
    if slots.running is None:
        raise UpgradeError("no slot runs: there is nothing to go back from")
    if slots.backend.starts().get(slot) in (None, "never"):
        raise UpgradeError("slot {} holds nothing that was ever confirmed: there is nothing to go back to".format(slot))
    writer.check(slot, slots)
    slots.backend.allow(slot)
    slots.backend.commit(slot)
    return slot
