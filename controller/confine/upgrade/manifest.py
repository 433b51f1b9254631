"""The manifest of a bundle: what is in it, for which nodes, and what it asks for. docs/developer/bundle.md.

It is canonical JSON, and signed as the bytes it is: whoever makes one gets the same bytes for the same content. A
signed manifest with any member that cannot be used is refused as a whole: half of a signed wish is nobody's wish.
"""

import hashlib
import json
import time
from calendar import timegm

from confine.core import schema
from confine.core.schema import Bool, Int, List, Maybe, Object, Text, need, only, optional
from confine.upgrade.signatures import BundleError, parse_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
MAX_BYTES = 40 * 1024  # with its signatures it is kept in the label of the slot, which has 63 KiB
MAX_PART = 1 << 32
DATE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
DAY_FORMAT = "%Y-%m-%d"
PARTS = ("kernel", "root")
HEX = "0123456789abcdef"
NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-"


def is_name(text: str) -> bool:
    """Whether `text` can be a version, branch or board: it becomes part of a file name."""
    return only(text, NAME) and text[0] not in "._-"


def is_sha256(text: str) -> bool:
    """64 hex digits in lower case."""
    return len(text) == 64 and only(text, HEX)


def seconds(text: str) -> int:
    """Seconds since 1970 of a date (UTC), "2026-11-20T10:00:00Z" or "2026-11-20". ValueError if it is none."""
    return timegm(time.strptime(text, DAY_FORMAT if len(text) == 10 else DATE_FORMAT))


def _is_time(text: str) -> bool:
    return len(text) == 20 and _is_date(text)


def _is_date(text: str) -> bool:
    try:
        return seconds(text) >= 0
    except ValueError:
        return False


def _is_key(text: str) -> bool:
    try:
        parse_key(text)
    except BundleError:
        return False
    return True


WORD = Text(64, 1, is_name, "a name of letters, digits and . _ + ~ -")
# Heads are published under their version, the newest one as "latest" too.
VERSION = Text(64, 1, lambda text: is_name(text) and text != "latest", "a version of letters, digits and . _ + ~ -")
SHA256 = Text(64, 64, is_sha256, "64 hex digits")
DAY = Text(10, 10, _is_date, "a date like 2026-11-20")
NUMBER = Text(16, 16, lambda text: only(text, HEX), "the number of a key, 16 hex digits")
FILE = Object({"size": need(Int(1, MAX_PART)), "sha256": need(SHA256)})
PART = Object({"size": need(Int(1, MAX_PART)), "sha256": need(SHA256), "index": optional(Maybe(FILE), None)})
KEYRING = Object(
    {
        "serial": need(Int(1, 1 << 31)),
        "threshold": need(Int(1, 32)),
        "keys": need(
            List(
                Object(
                    {
                        "key": need(Text(128, 40, _is_key, "a public key in signify's base64")),
                        "name": optional(Text(64), ""),
                        "from": optional(Maybe(DAY), None),
                        "until": optional(Maybe(DAY), None),
                    }
                ),
                32,
                strict=True,
            )
        ),
        "revoked": optional(List(NUMBER, 256, strict=True), []),
    }
)
GATE = Object(
    {
        "deadline_s": optional(Int(30, 3600), 300),
        "skip": optional(List(WORD, 16, strict=True), []),
        "slivers": optional(Bool(), True),
    }
)
# The members are declared one by one below: a need this node does not know is one it cannot meet.
NEEDS = Object({"memory_mib": optional(Int(0, 1 << 20), 0), "epoch": optional(Int(0, 1 << 31), 0)})
MANIFEST = Object(
    {
        "format": need(Int(FORMAT, FORMAT)),
        "version": need(VERSION),
        "epoch": need(Int(0, 1 << 31)),
        "board": need(WORD),
        "branch": need(WORD),
        "published": need(Text(20, 20, _is_time, "a time like 2026-11-20T10:00:00Z")),
        "priority_days": optional(Int(0, 365), 0),
        "needs": optional(NEEDS, {"memory_mib": 0, "epoch": 0}),
        "parts": need(Object({name: need(PART) for name in PARTS})),
        "gate": optional(GATE, {"deadline_s": 300, "skip": [], "slivers": True}),
        "notes": optional(Text(8192), ""),
        "keyring": optional(Maybe(KEYRING), None),
        "revoked": optional(List(NUMBER, 256, strict=True), []),
    }
)


class Part:
    """name: kernel or root. size: bytes. sha256: hex. index: (size, sha256) of its list of chunks, or None."""

    def __init__(self, name: str, doc: "dict[str, Any]") -> None:
        self.name = name
        self.size: int = doc["size"]
        self.sha256: str = doc["sha256"]
        found = doc["index"]
        self.index: "tuple[int, str] | None" = (found["size"], found["sha256"]) if found else None


class Manifest:
    """A manifest as its bytes say it. id: the sha256 of these bytes, what the bundle is known by everywhere.

    parts: by name, in the order in which they are written. needs, gate: as declared in NEEDS and GATE.
    published: seconds since 1970. keyring, revoked: what follows the present keys; see keyring.py.
    """

    def __init__(self, raw: bytes) -> None:
        """BundleError names each member that cannot be used."""
        doc = _checked(raw)
        self.raw = raw
        self.id = hashlib.sha256(raw).hexdigest()
        self.version: str = doc["version"]
        self.epoch: int = doc["epoch"]
        self.board: str = doc["board"]
        self.branch: str = doc["branch"]
        self.published_text: str = doc["published"]
        self.published = seconds(doc["published"])
        self.priority_days: int = doc["priority_days"]
        self.needs: "dict[str, int]" = doc["needs"]
        self.gate: "dict[str, Any]" = doc["gate"]
        self.notes: str = doc["notes"]
        self.keyring: "dict[str, Any] | None" = doc["keyring"]
        self.revoked: "list[str]" = doc["revoked"]
        self.parts = {name: Part(name, doc["parts"][name]) for name in PARTS}

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts.values())

    @property
    def order(self) -> "tuple[int, int]":
        """The greater one is the newer one: epoch, then time of publication."""
        return self.epoch, self.published


def canonical(doc: "Any") -> bytes:
    """`doc` as canonical JSON: sorted members, no blanks, UTF-8, no fractions; a line end at the end."""
    text = json.dumps(doc, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _checked(raw: bytes) -> "dict[str, Any]":
    if len(raw) > MAX_BYTES:
        raise BundleError("the manifest is larger than {} KiB".format(MAX_BYTES // 1024))
    try:
        value = json.loads(raw.decode())
        same = isinstance(value, dict) and canonical(value) == raw
    except (ValueError, RecursionError) as error:
        raise BundleError("the manifest is no JSON: {}".format(error))
    if not same:
        raise BundleError("the manifest is not canonical JSON: make it with `confine-bundle make`")
    _check_needs(value.get("needs"))
    doc, problems = schema.check(MANIFEST, value)
    if doc is None or problems:
        raise BundleError("the manifest cannot be used: " + "; ".join(
            (problem.member + " " + problem.message).strip() for problem in problems[:5]))  # fmt: skip
    if doc["keyring"] is not None:
        check_threshold(doc["keyring"])
    return doc


def check_threshold(keyring: "dict[str, Any]") -> None:
    """BundleError if the keyring asks for more keys than it has: nothing could be trusted any more."""
    keys = {parse_key(entry["key"]).public for entry in keyring["keys"]}
    if len(keys) < keyring["threshold"]:
        raise BundleError("a keyring asks for {} of {} keys".format(keyring["threshold"], len(keys)))


def _check_needs(needs: object) -> None:
    if isinstance(needs, dict):
        for name in needs:
            if name not in NEEDS.members:
                raise BundleError("the bundle needs {!r}, of which this node knows nothing: it takes "
                                  "a bundle in between".format(str(name)[:40]))  # fmt: skip
