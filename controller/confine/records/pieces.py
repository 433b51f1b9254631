"""A piece of a record as the payload of a frame: a line that says from when it is, then packed JSON. Pure.

    {"v": 1, "t": 1763632180.5, "up": 812.25, "boot": "1f0c9a3e", "sure": true, ...}\\n zlib

The head can be read without unpacking the rest.
"""

import json
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.records.moments import Moment

VERSION = 1
LARGEST = 1e15  # of a time in seconds: more is damage


def join(moment: "Moment", more: "dict[str, Any]", body: "Any") -> bytes:
    """The payload of `body`, with `more` in its head."""
    head = {"v": VERSION, "t": moment.wall, "up": moment.up, "boot": moment.boot, "sure": moment.sure, **more}
    return _json(head) + b"\n" + zlib.compress(_json(body), 6)


def split(payload: bytes) -> "tuple[dict[str, Any], bytes] | None":
    """(head, packed body); None if it is none."""
    line, _, packed = payload.partition(b"\n")
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(head, dict)
        or head.get("v") != VERSION
        or not all(is_time(head.get(name)) for name in ("t", "up"))
    ):
        return None
    return (head, packed) if isinstance(head.get("boot"), str) and isinstance(head.get("sure"), bool) else None


def unpack(packed: bytes, largest: int) -> "dict[str, Any]":
    """The body of at most `largest` bytes; {} if it is none."""
    try:
        found = json.loads(zlib.decompressobj().decompress(packed, largest))
    except (ValueError, RecursionError, zlib.error):
        return {}
    return found if isinstance(found, dict) else {}


def is_time(value: "Any") -> bool:
    """A number of seconds that can be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _json(value: "Any") -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
