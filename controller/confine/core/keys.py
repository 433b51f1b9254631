"""Who may log into a sliver: SSH public keys out of the users' tokens, checked and cleaned.

A key ends up in an authorized_keys file, where a stray line end or option would let others in or do more than
log in. So a key is taken apart and written anew: known type, a blob that says the same type, a harmless comment.
"""

import binascii
import hashlib

from confine.core.model import Problem
from confine.core.reading import Documents, entries, reference, text
from confine.core.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Length-prefixed fields in the blob of each type, its name included (RFC 4253, 5656, 8709; OpenSSH PROTOCOL.u2f).
TYPES = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
MAX_KEY = 8192
MAX_COMMENT = 64

GROUP_ADMIN = "is_group_admin"
SLICE_ADMIN = "is_slice_admin"
NODE_ADMIN = "is_node_admin"


def _decode(blob: str) -> bytes:
    """The bytes of strict base64; ValueError for anything else."""
    bare = blob.rstrip("=")
    if not bare or len(blob) % 4 or len(blob) - len(bare) > 2 or not all(char in BASE64 for char in bare):
        raise ValueError("its second word is not base64")
    decoded = binascii.a2b_base64(blob)
    if binascii.b2a_base64(decoded).decode().strip() != blob:
        raise ValueError("its second word is not base64 as it is usually written")
    return decoded


def _fields(decoded: bytes) -> "list[bytes]":
    """The length-prefixed fields that the blob of a key is made of."""
    fields, at = [], 0
    while at < len(decoded):
        if at + 4 > len(decoded):
            raise ValueError("its blob is cut off")
        size = int.from_bytes(decoded[at : at + 4], "big")
        at += 4
        if size > len(decoded) - at:
            raise ValueError("its blob is cut off")
        fields.append(decoded[at : at + size])
        at += size
    return fields


def _harmless(comment: str) -> str:
    return "".join(char if " " <= char <= "~" else "_" for char in comment)[:MAX_COMMENT].strip()


def parse(token: object) -> str:
    """One line "type blob comment" for authorized_keys. ValueError says what is wrong with `token`.

    Line ends around it go (registry API: they come through); line ends within, options and certificates do not.
    """
    if not isinstance(token, str) or len(token) > MAX_KEY:
        raise ValueError("it is not a text of at most " + str(MAX_KEY) + " characters")
    line = token.strip()
    if any(char < " " and char != "\t" for char in line):
        raise ValueError("it has more than one line, or control characters")
    words = line.split(None, 2)
    if len(words) < 2 or words[0] not in TYPES:
        raise ValueError("it does not begin with a known key type (options are not taken): " + shown(line, 30))
    fields = _fields(_decode(words[1]))
    if len(fields) != TYPES[words[0]] or fields[0] != words[0].encode() or not all(fields):
        raise ValueError("its blob is not a key of type " + words[0])
    comment = _harmless(words[2]) if len(words) == 3 else ""
    return words[0] + " " + words[1] + (" " + comment if comment else "")


def is_certificate(token: object) -> bool:
    """Whether `token` is a PEM certificate: users may keep those among their tokens (registry API)."""
    return isinstance(token, str) and token.strip().startswith("-----BEGIN CERTIFICATE")


def merge(lines: "list[str]") -> "list[str]":
    """Sorted, each key once whatever its comments."""
    kept: "dict[str, str]" = {}
    for line in sorted(lines):
        key = " ".join(line.split(" ", 2)[:2])
        if key not in kept:
            kept[key] = line
    return sorted(kept.values())


def of_user(user: "dict[str, Any]") -> "tuple[list[str], list[Problem]]":
    """The keys of one user document; certificates are passed over, all else unusable is a problem."""
    lines, problems = [], []
    tokens = user.get("auth_tokens")
    for index, token in enumerate(tokens if isinstance(tokens, list) else []):
        if is_certificate(token):
            continue
        try:
            lines.append(parse(token))
        except ValueError as error:
            name = text(user, "name") or text(user, "uri") or "?"
            where = "Key " + str(index + 1) + " of user " + shown(name)
            problems.append(Problem("", where + " is not used: " + str(error) + "."))
    return lines, problems


def of_group(
    documents: "Documents", group_uri: str, group: "dict[str, Any]", roles: "tuple[str, ...]"
) -> "tuple[list[str], list[Problem]]":
    """Keys of the active users who have one of `roles` in the group. Superusers have none by being that alone."""
    lines: "list[str]" = []
    problems: "list[Problem]" = []
    for entry in entries(group, "user_roles"):
        if not any(entry.get(role) is True for role in roles):
            continue
        uri, _ = reference(entry, "user", group_uri)
        user = documents.find(uri)
        if user is None:
            if not documents.is_gone(uri):
                problems.append(Problem("", "User " + str(uri) + " could not be read: their keys are not there."))
        elif user.get("is_active") is True:
            more, wrong = of_user(user)
            lines.extend(more)
            problems.extend(wrong)
    return merge(lines), problems


def digest(lines: "list[str]") -> str:
    """sha256 of the keys as they stand in the file, hex: says whether a sliver's keys are those asked for."""
    content = "".join(line + "\n" for line in lines)
    return binascii.hexlify(hashlib.sha256(content.encode()).digest()).decode()
