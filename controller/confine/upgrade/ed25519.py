"""Verifies Ed25519 signatures (RFC 8032), and does nothing else: no secret is ever handled here.

Why our own: OpenWrt's apk builds have no usign, python3-cryptography is larger than the controller, and a signature
must be checked where openssl's command is missing, too (recovery). Stricter than the RFC has to be: a key or point
that is not in its one canonical form, or lies in the small subgroup, and S beyond the group's order are refused, so
that nobody can turn one signature into another.
"""

import hashlib

P = (1 << 255) - 19
ORDER = (1 << 252) + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

# A point is (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z.
NEUTRAL = (0, 1, 1, 0)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of `message` by the key `public` (32 bytes)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, nonce = _point(public), _point(signature[:32])
    factor = int.from_bytes(signature[32:], "little")
    if key is None or nonce is None or factor >= ORDER or _same(_multiplied([(8, key)]), NEUTRAL):
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    # S·B - k·A = R
    x, y, z, t = key
    return _same(_multiplied([(factor, BASE), (challenge, (P - x, y, z, P - t))]), nonce)


def _point(data: bytes) -> "tuple[int, int, int, int] | None":
    """The point that 32 bytes stand for; None if they stand for none or not in the canonical way."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    # x² = (y² - 1) / (d·y² + 1)
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _add(one: "tuple[int, int, int, int]", other: "tuple[int, int, int, int]") -> "tuple[int, int, int, int]":
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = 2 * t1 * t2 * D % P
    d = 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _multiplied(terms: "list[tuple[int, tuple[int, int, int, int]]]") -> "tuple[int, int, int, int]":
    """The sum of factor·point over `terms`: one pass over the bits of all factors."""
    total = NEUTRAL
    for bit in range(max(factor.bit_length() for factor, _ in terms) - 1, -1, -1):
        total = _add(total, total)
        for factor, point in terms:
            if factor >> bit & 1:
                total = _add(total, point)
    return total


def _same(one: "tuple[int, int, int, int]", other: "tuple[int, int, int, int]") -> bool:
    return (one[0] * other[2] - other[0] * one[2]) % P == 0 and (one[1] * other[2] - other[1] * one[2]) % P == 0


def _base() -> "tuple[int, int, int, int]":
    point = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    assert point is not None  # noqa: S101  # a constant of the curve
    return point


BASE = _base()
