"""The pointer: which slot is confirmed.

It is a partition with two copies, 1 MiB apart, each one 512-byte GRUB environment block that says
`confirmed=<slot>` and `check=<token of that slot>`. GRUB reads the blocks raw and accepts only a pair that its
configuration names literally, so a torn or flipped sector is never taken for a choice. Copy 1 rules; copy 2 is read
when copy 1 is unusable; when both are, GRUB has a fallback built in. A change writes copy 1, flushes, then copy 2:
the one sector of copy 1 decides (design: A/B slots and trials).
"""

import os

SECTOR = 512
COPY_OFFSETS = (0, 1024 * 1024)
SLOTS = ("a", "b")
SIGNATURE = b"# GRUB Environment Block\n"
# Also in upgrade/boot/slots.cfg, letter by letter: a test holds the two together. They share no long run of
# characters, so that no flip or mix of two sectors turns one into the other.
TOKENS = {
    "a": "5f1c0e7a93d84b26a6e2917d40c8b35f",
    "b": "c8247db1065ea39f1b7d04f8e95362ac",
}


class PointerError(Exception):
    """The pointer cannot be used or written: says which copy and why."""


def other(slot: str) -> str:
    """The slot that `slot` is not. Raises PointerError if there is no such slot."""
    _check_slot(slot)
    return "b" if slot == "a" else "a"


def make_block(slot: str) -> bytes:
    """The 512 bytes of one copy that confirms `slot`. Raises PointerError if there is no such slot."""
    _check_slot(slot)
    text = SIGNATURE + f"confirmed={slot}\ncheck={TOKENS[slot]}\n".encode()
    return text + b"#" * (SECTOR - len(text))


def parse_block(block: bytes) -> str | None:
    """The slot that the copy `block` confirms, or None if it is unusable. Reads the block exactly as GRUB does."""
    if len(block) != SECTOR or not block.startswith(SIGNATURE):
        return None
    values = _grub_variables(block[len(SIGNATURE) :])
    for slot in SLOTS:
        if values.get(b"confirmed") == slot.encode() and values.get(b"check") == TOKENS[slot].encode():
            return slot
    return None


def read(fd: int) -> tuple[str | None, str | None]:
    """What copy 1 and copy 2 on the open pointer partition `fd` confirm; None for a copy that is unusable.

    A copy that cannot be read (I/O error) is unusable, not an error: the other one may be good.
    """
    first, second = (_read_copy(fd, offset) for offset in COPY_OFFSETS)
    return first, second


def confirmed(copies: tuple[str | None, str | None]) -> str | None:
    """The slot that GRUB starts, by the rule: copy 1, else copy 2, else None (its built-in fallback)."""
    return copies[0] or copies[1]


def commit(fd: int, slot: str) -> None:
    """Make `slot` the confirmed one: copy 1, flush, copy 2, flush. `fd` is the pointer partition, open for writing.

    Cut off before copy 1 is on the disk, the old slot stays confirmed; after it, the new one is. Cut off while copy 1
    is torn, copy 2 still has the old. Raises PointerError if a copy reads back as something else.
    """
    block = make_block(slot)
    for number, offset in enumerate(COPY_OFFSETS, start=1):
        os.pwrite(fd, block, offset)
        os.fsync(fd)
        if _read_copy(fd, offset) != slot:
            raise PointerError(f"pointer copy {number} does not read back as slot {slot}: replace the disk")


def repair(fd: int) -> bool:
    """Make both copies say what GRUB goes by. True if something was written, False if nothing had to or could be.

    With both copies unusable nothing is written: no one here knows which slot was confirmed.
    """
    copies = read(fd)
    slot = confirmed(copies)
    if slot is None or copies[0] == copies[1]:
        return False
    commit(fd, slot)
    return True


def _grub_variables(text: bytes) -> dict[bytes, bytes]:
    """The variables of an environment block after its signature, as GRUB 2.06's envblk.c finds them.

    A line that starts with # is a comment; a name runs to the next `=`, across lines; a value runs to the end of its
    line, a backslash takes the next byte as it is; a NUL ends either; the last of equal names counts.
    """
    values = {}
    at = 0
    while at < len(text):
        if text[at : at + 1] == b"#":
            end = text.find(b"\n", at)
            at = len(text) if end < 0 else end + 1
            continue
        equals = text.find(b"=", at)
        if equals < 0:
            break
        value, end = _grub_value(text, equals + 1)
        if end >= len(text):
            break
        values[text[at:equals].split(b"\0")[0]] = value.split(b"\0")[0]
        at = end + 1
    return values


def _grub_value(text: bytes, at: int) -> tuple[bytes, int]:
    """The value that starts at `at`, and where its line ends (the length of `text` if it does not)."""
    value = b""
    while at < len(text) and text[at : at + 1] != b"\n":
        if text[at : at + 1] == b"\\":
            at += 1
        value += text[at : at + 1]
        at += 1
    return value, min(at, len(text))


def _read_copy(fd: int, offset: int) -> str | None:
    try:
        return parse_block(os.pread(fd, SECTOR, offset))
    except OSError:
        return None


def _check_slot(slot: str) -> None:
    if slot not in TOKENS:
        raise PointerError(f"there is no slot {slot!r}; slots are a and b")
