"""Records in a file that may be cut off or damaged anywhere: framing and finding them again. Pure.

A frame is the line `@LENGTH CRC`, both 8 hex digits, then the payload, then a line end. The checksum covers the length
and the payload. Whatever does not check is passed over up to the next frame that does.
"""

import re
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = re.compile(rb"@([0-9a-f]{8}) ([0-9a-f]{8})\n")
HEAD_SIZE = 19
OVERHEAD = HEAD_SIZE + 1


class Found:
    """A piece of a file, from byte `begin` to before `end`. payload: None where the bytes make no frame."""

    __slots__ = ("begin", "end", "payload")

    def __init__(self, begin: int, end: int, payload: "bytes | None") -> None:
        self.begin = begin
        self.end = end
        self.payload = payload


def pack(payload: bytes) -> bytes:
    """The frame that holds `payload`."""
    length = b"%08x" % len(payload)
    return b"@" + length + b" %08x\n" % _checksum(length, payload) + payload + b"\n"


def scan(data: bytes, start: int = 0) -> "Iterator[Found]":
    """All of `data` from `start`, in order, as frames and the damaged pieces between them.

    Zeros at the end are room that was set aside and not yet written: they are no damage.
    """
    end = len(data.rstrip(b"\0"))
    at = start
    while at < end:
        frame = _frame(data, at)
        if frame is None:
            sound = _next_sound(data, at + 1, end)
            yield Found(at, sound, None)
            at = sound
        else:
            yield frame
            at = frame.end


def _checksum(length: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(length))


def _frame(data: bytes, at: int) -> "Found | None":
    head = HEAD.match(data, at)
    if head is None:
        return None
    begin, size = at + HEAD_SIZE, int(head.group(1), 16)
    if begin + size >= len(data) or data[begin + size] != 0x0A:
        return None
    payload = bytes(data[begin : begin + size])
    if _checksum(head.group(1), payload) != int(head.group(2), 16):
        return None
    return Found(at, begin + size + 1, payload)


def _next_sound(data: bytes, at: int, end: int) -> int:
    for head in HEAD.finditer(data, at):
        if _frame(data, head.start()) is not None:
            return head.start()
    return end
