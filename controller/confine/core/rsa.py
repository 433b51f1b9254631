"""RSA keys as tinc and the registry write them: enough PEM and DER to read a key's public numbers. Pure.

The same key is written in several ways (PKCS#1, PKCS#8, SubjectPublicKeyInfo, with other line ends): what counts is
`numbers()`. Nothing here encrypts or signs.
"""

import binascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Numbers(NamedTuple):
        """Modulus and public exponent, big-endian without leading zeros."""

        modulus: bytes
        exponent: bytes

else:
    from collections import namedtuple

    Numbers = namedtuple("Numbers", ("modulus", "exponent"))

MAX_PEM = 32768
LINE = 64
MIN_BITS = 1024  # what tinc made by default long ago; shorter ones are broken in a day
SEQUENCE, INTEGER, BIT_STRING, OCTET_STRING = 0x30, 0x02, 0x03, 0x04
RSA_OID = binascii.unhexlify("300d06092a864886f70d0101010500")  # AlgorithmIdentifier rsaEncryption, NULL
BEGIN, END, DASHES = "-----BEGIN ", "-----END ", "-----"
PRIVATE = ("RSA PRIVATE KEY", "PRIVATE KEY")
PUBLIC = ("PUBLIC KEY", "RSA PUBLIC KEY")


def block(text: str, labels: "tuple[str, ...]") -> "tuple[str, bytes] | None":
    """(label, content) of the first whole PEM block of one of `labels`; None if there is none."""
    label, lines = "", []  # type: tuple[str, list[str]]
    for line in text[:MAX_PEM].replace("\r", "\n").split("\n"):
        line = line.strip()
        if line.startswith(BEGIN) and line.endswith(DASHES):
            label, lines = line[len(BEGIN) : -len(DASHES)], []
        elif label and line == END + label + DASHES:
            if label in labels:
                return label, binascii.a2b_base64("".join(lines))
            label = ""
        elif label and ":" not in line:
            lines.append(line)
    return None


def without_blocks(text: str) -> "list[str]":
    """The lines of `text` that are in no PEM block, also none that was cut off."""
    kept, inside = [], False
    for line in text.replace("\r", "\n").split("\n"):
        if line.strip().startswith(BEGIN):
            inside = True
        if not inside:
            kept.append(line)
        if line.strip().startswith(END):
            inside = False
    return kept


def numbers(text: object, labels: "tuple[str, ...]" = PUBLIC) -> Numbers:
    """The public numbers of the first key in `text`. ValueError says what is wrong with it."""
    if not isinstance(text, str):
        raise ValueError("it is no text")
    try:
        found = block(text, labels)
    except ValueError:
        raise ValueError("it is not base64")
    if found is None:
        raise ValueError("it has no whole " + " or ".join(labels))
    try:
        key = _numbers(found[0], found[1])
    except (ValueError, IndexError):
        raise ValueError("it is not an RSA key in its " + found[0])
    if len(key.modulus) * 8 < MIN_BITS:
        raise ValueError("it has only " + str(len(key.modulus) * 8) + " bits")
    return key


def _numbers(label: str, der: bytes) -> Numbers:
    parts = _children(_only(der, SEQUENCE))
    if label == "PRIVATE KEY":
        parts = _children(_only(parts[2][1], SEQUENCE))
    elif label == "PUBLIC KEY":
        tag, bits = parts[1]
        if tag != BIT_STRING or bits[0] != 0:
            raise ValueError("no bit string")
        parts = _children(_only(bits[1:], SEQUENCE))
    if label in PRIVATE:
        if len(parts) < 9:  # version, n, e, d, p, q, and what is derived: all must be there
            raise ValueError("not all numbers")
        parts = parts[1:]
    if parts[0][0] != INTEGER or parts[1][0] != INTEGER or not parts[1][1]:
        raise ValueError("no integers")
    return Numbers(parts[0][1].lstrip(b"\0"), parts[1][1].lstrip(b"\0"))


def _read(der: bytes, at: int) -> "tuple[int, bytes, int]":
    """(tag, content, where the next one begins)."""
    tag, size = der[at], der[at + 1]
    at += 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 3:
            raise ValueError("length")
        size = int.from_bytes(der[at : at + count], "big")
        at += count
    if at + size > len(der):
        raise ValueError("cut off")
    return tag, der[at : at + size], at + size


def _only(der: bytes, tag: int) -> bytes:
    found, content, _ = _read(der, 0)
    if found != tag:
        raise ValueError("tag")
    return content


def _children(content: bytes) -> "list[tuple[int, bytes]]":
    found, at = [], 0
    while at < len(content):
        tag, inner, at = _read(content, at)
        found.append((tag, inner))
    return found


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    if size < 0x100:
        return bytes([tag, 0x81, size]) + content
    return bytes([tag, 0x82, size >> 8, size & 0xFF]) + content


def _integer(value: bytes) -> bytes:
    return _der(INTEGER, (b"\0" if value[0] & 0x80 else b"") + value)


def public_pem(key: Numbers) -> str:
    """The key as the registry and tinc write it: BEGIN PUBLIC KEY, ends in a line end."""
    inner = _der(SEQUENCE, _integer(key.modulus) + _integer(key.exponent))
    der = _der(SEQUENCE, RSA_OID + _der(BIT_STRING, b"\0" + inner))
    text = binascii.b2a_base64(der).decode().strip()
    lines = [text[at : at + LINE] for at in range(0, len(text), LINE)]
    return BEGIN + PUBLIC[0] + DASHES + "\n" + "\n".join(lines) + "\n" + END + PUBLIC[0] + DASHES + "\n"
