"""Keys and signatures in the format that signify (OpenBSD, Debian: signify-openbsd) and usign (OpenWrt) share.

Two lines of text: a comment nobody vouches for, and base64 of "Ed", the key's number (8 bytes) and the public key
(32 bytes) or the signature (64 bytes). The number only says which key to try: it proves nothing.
"""

import binascii

from confine.upgrade import ed25519
from confine.upgrade.errors import UpgradeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Key(NamedTuple):
        """number: 16 hex digits. public: 32 bytes."""

        number: str
        public: bytes

    class Signature(NamedTuple):
        """number: of the key it claims to be by, 16 hex digits. value: 64 bytes."""

        number: str
        value: bytes

else:
    from collections import namedtuple

    Key = namedtuple("Key", ("number", "public"))
    Signature = namedtuple("Signature", ("number", "value"))

ALGORITHM = b"Ed"
COMMENT = "untrusted comment:"
NUMBER_BYTES = 8
MAX_TEXT = 2048


class BundleError(UpgradeError):
    """A bundle, or what vouches for it, cannot be used."""


def parse_key(text: str) -> Key:
    """A public key: both lines as in its file, or the second alone. BundleError if it is none."""
    raw = _payload(text, 32, "public key")
    return Key(raw[:NUMBER_BYTES].hex(), raw[NUMBER_BYTES:])


def parse_signature(text: str) -> Signature:
    """A signature as in its file. BundleError if it is none."""
    raw = _payload(text, 64, "signature")
    return Signature(raw[:NUMBER_BYTES].hex(), raw[NUMBER_BYTES:])


def is_by(signature: Signature, key: Key, message: bytes) -> bool:
    """Whether `signature` is that of `message` by `key`."""
    return signature.number == key.number and ed25519.verify(key.public, signature.value, message)


def _payload(text: str, size: int, what: str) -> bytes:
    """Key number and value, `size` bytes of it."""
    lines = text[:MAX_TEXT].strip().splitlines()
    if lines and lines[0].startswith(COMMENT):
        lines = lines[1:]
    if len(lines) != 1:
        raise BundleError("a {} is a comment and one line of base64; found {} lines".format(what, len(lines)))
    try:
        raw = binascii.a2b_base64(lines[0].strip().encode("ascii"), strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are such
        raise BundleError("the {} is no base64: {}".format(what, error))
    if raw[:2] != ALGORITHM:
        raise BundleError("the {} is by the algorithm {!r}; only Ed25519 ('Ed') is known".format(what, raw[:2]))
    if len(raw) != 2 + NUMBER_BYTES + size:
        raise BundleError("the {} has {} bytes, not {}".format(what, len(raw), 2 + NUMBER_BYTES + size))
    return raw[2:]


def counted(texts: "list[str]", numbers: "list[str]") -> "list[str]":
    """Of the signatures `texts` those that claim to be by one of the keys `numbers`, each as its line of base64."""
    found = []
    for text in texts:
        try:
            number = parse_signature(text).number
        except BundleError:
            continue  # anybody can add such to a bundle
        if number in numbers:
            found.append(text.strip().splitlines()[-1].strip())
    return found
