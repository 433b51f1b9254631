"""What a node needs to know to join a testbed, and the join token that carries all of it. Pure.

A token is `confine-join:` and base64 (URL alphabet) of a JSON object with members of FIELDS: one word for a member to
paste. It holds no secret: what it names is public, and the pin only says which certificate to expect.
"""

import binascii
import json

from confine.core.option_values import parse_ipv6_prefix, parse_node_id, parse_uri
from confine.core.text import HEX_DIGITS, only, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "confine-join:"
MAX_TOKEN = 2048
FIELDS = ("registry", "pin", "node", "mgmt")
SCHEMES = ("https", "http")


def parse_token(text: str) -> "dict[str, str]":
    """The members of a join token. ValueError says what is wrong with it."""
    word = text.strip()
    if not word.startswith(PREFIX) or len(word) > MAX_TOKEN:
        raise ValueError("a join token begins with " + PREFIX + " and is one word; " + shown(word[:40]) + " is none")
    try:
        encoded = word[len(PREFIX) :].replace("-", "+").replace("_", "/")
        doc = json.loads(binascii.a2b_base64(encoded + "=" * (-len(encoded) % 4)).decode())
    except (ValueError, RecursionError):
        raise ValueError("the join token is damaged: was it copied as a whole?")
    if not isinstance(doc, dict) or not all(isinstance(doc.get(name, ""), str) for name in FIELDS):
        raise ValueError("the join token is damaged: it does not hold " + ", ".join(FIELDS))
    return {name: doc[name] for name in FIELDS if doc.get(name)}


def make_token(doc: "dict[str, str]") -> str:
    """The token with the members of `doc` that are in FIELDS."""
    known = {name: doc[name] for name in FIELDS if doc.get(name)}
    encoded = binascii.b2a_base64(json.dumps(known).encode()).decode().strip()
    return PREFIX + encoded.replace("+", "-").replace("/", "_").rstrip("=")


def parse_pin(text: str) -> str:
    """A SHA-256 fingerprint as 64 lower-case hex digits, with or without colons. ValueError otherwise."""
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) != 64 or not only(digits, HEX_DIGITS):
        raise ValueError(shown(text) + " is not a SHA-256 fingerprint of 64 hex digits")
    return digits


def checked(given: "dict[str, str]") -> "tuple[dict[str, Any], list[tuple[str, str]]]":
    """(what can be used, [(member, what is wrong with it)]). registry and node are needed, pin and mgmt are not."""
    found: "dict[str, Any]" = {}
    wrong = []
    parsers: "dict[str, Any]" = {
        "registry": lambda text: parse_uri(text if text.endswith("/") else text + "/", SCHEMES),
        "pin": parse_pin,
        "node": lambda text: parse_node_id(text, None),
        "mgmt": lambda text: parse_ipv6_prefix(text, None),
    }
    for name in FIELDS:
        text = given.get(name, "").strip()
        if not text:
            if name in ("registry", "node"):
                wrong.append((name, "it is not given"))
            continue
        try:
            found[name] = parsers[name](text)
        except ValueError as error:
            wrong.append((name, shown(text) + ": " + str(error)))
    return found, wrong
