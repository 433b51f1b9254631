"""What a slot holds, written by the slot itself: a label in the last 64 KiB of its kernel partition.

One sector says `confine slot`, how long the record behind it is and its sha256; the record is canonical JSON. The
label is taken away before the first byte of a slot is written and put there when all of it is on the medium, so that
a slot with a label is a whole one. Torn anywhere, it is none. It needs no file system, and is there for a recovery
system, too.
"""

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECTOR = 512
SIZE = 64 * 1024
_MAGIC = b"confine slot 1\n"


def make(doc: "dict[str, Any]") -> bytes:
    """The label's bytes for the record `doc`. ValueError if it is too long."""
    record = json.dumps(doc, sort_keys=True, separators=(",", ":")).encode()
    if len(record) > SIZE - SECTOR:
        raise ValueError("the slot's record has {} bytes, more than {}".format(len(record), SIZE - SECTOR))
    head = _MAGIC + "{} {}\n".format(len(record), hashlib.sha256(record).hexdigest()).encode()
    padding = -len(record) % SECTOR
    return head.ljust(SECTOR, b"\0") + record + bytes(padding)


def parse(content: bytes) -> "dict[str, Any] | None":
    """The record in a label's bytes, None if they are no whole label."""
    if not content.startswith(_MAGIC):
        return None
    words = content[len(_MAGIC) : SECTOR].split(b"\n")[0].split(b" ")
    if len(words) != 2 or not words[0].isdigit() or len(words[0]) > 5:
        return None
    record = content[SECTOR : SECTOR + int(words[0])]
    if hashlib.sha256(record).hexdigest().encode() != words[1]:
        return None
    doc = json.loads(record)
    return doc if isinstance(doc, dict) else None
