"""The counters of starts left, one for each slot, in the environment file `grubenv` on the boot partition.

GRUB lowers `starts_<slot>` before it starts that slot; the running system puts it back when it is up. A slot whose
counter is 0 has failed too often; one that says `never` holds no system that was ever confirmed. The file is one
512-byte sector, allocated once and only ever overwritten in place, so that GRUB can write it without knowing the file
system, and a power cut leaves the old sector or the new one (design: failed starts are counted by GRUB).
"""

import os

SECTOR = 512
SIGNATURE = b"# GRUB Environment Block\n"
FULL = "3"
NEVER = "never"
VALUES = (NEVER, "0", "1", "2", FULL)
SLOTS = ("a", "b")
# `once=<slot>`: start this slot for a trial, once. GRUB takes it back, in this very sector, before it does.
ONCE = "once"


class CounterError(Exception):
    """The file cannot be used: says which file, what was found and what to do."""


def make(starts: "dict[str, str]") -> bytes:
    """The file's 512 bytes. starts: slot to one of VALUES, for both slots, and perhaps ONCE to a slot.
    Raises CounterError for anything else."""
    text = SIGNATURE
    for slot in SLOTS:
        value = starts.get(slot)
        if value not in VALUES:
            raise CounterError(f"starts left of slot {slot} cannot be {value!r}: one of {', '.join(VALUES)}")
        text += f"starts_{slot}={value}\n".encode()
    if starts.get(ONCE):
        if starts[ONCE] not in SLOTS:
            raise CounterError(f"slot {starts[ONCE]!r} cannot be started once: slots are a and b")
        text += f"{ONCE}={starts[ONCE]}\n".encode()
    return text + b"#" * (SECTOR - len(text))


def parse(block: bytes) -> "dict[str, str]":
    """Slot to starts left; a slot whose value is missing or unusable is left out."""
    starts: "dict[str, str]" = {}
    if len(block) != SECTOR or not block.startswith(SIGNATURE):
        return starts
    for line in block[len(SIGNATURE) :].split(b"\n"):
        for slot in SLOTS:
            for value in VALUES:
                if line == f"starts_{slot}={value}".encode():
                    starts[slot] = value
    return starts


def restore(fd: int, offset: int, slot: str) -> bool:
    """Say that `slot` started well: its counter is full again. True if the sector had to be written.

    fd, offset: the open boot partition and where the file lies in it. The other slot's counter is kept; if it is
    unusable, it becomes `never`, so that a slot of which nothing is known is not started unasked.
    """
    old = os.pread(fd, SECTOR, offset)
    starts = parse(old)
    starts.setdefault("b" if slot == "a" else "a", NEVER)
    starts[slot] = FULL
    new = make(starts)
    if new == old:
        return False
    os.pwrite(fd, new, offset)
    os.fsync(fd)
    return True


def overwrite(path: str, block: bytes) -> None:
    """Write the one sector of the mounted file `path` in place and flush it. Never by a temporary file and rename:
    GRUB's file must stay where it is. Raises CounterError if the file is not one sector long."""
    fd = os.open(path, os.O_WRONLY)
    try:
        size = os.fstat(fd).st_size
        if size != SECTOR or len(block) != SECTOR:
            raise CounterError(f"{path} has {size} bytes instead of {SECTOR}: write the boot partition again")
        os.pwrite(fd, block, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
