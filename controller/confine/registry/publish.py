"""Giving the node's overlay key to the registry, and having it sign the node's certificate, by the token of a member
who administers the node.

The only things that are ever written to a registry. The token is read from a terminal or standard input, used for
these requests, and neither kept nor shown.
"""

import json
import time

from confine.core.text import only
from confine.errors import ConfineError, RegistryError
from confine.registry import uris
from confine.registry.client import base_of
from confine.registry.sources import links
from confine.registry.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings

PUBLISH_S = 30.0
CONTROLS = "http://confine-project.eu/rel/controller/"
SIGN = "do-request-mgmt-cert"
MAX_TOKEN = 512
TOKEN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/="  # noqa: S105  # what one is made of
SAYS = {401: "the token is not known", 403: "the token is not known, or its owner may not change this node",
        404: "it has no such node"}  # fmt: skip


def publish(settings: "Settings", token: str, pubkey: str) -> str:
    """Write `pubkey` (PEM) into the node's document; gives the address it was written at.

    Addresses that the registry has for the node in the overlay stay. ConfineError says what every address said.
    """
    token = usable_token(token)
    if settings.node_id is None:
        raise ConfineError("no node id is set: id of section node in /etc/config/confine")
    refused = []
    for address in settings.registry_uris:
        if address.startswith("file:"):
            continue
        base = base_of(address)
        try:
            _write(settings, base, base + "nodes/{}/".format(settings.node_id), token, pubkey)
            return base
        except RegistryError as error:
            refused.append("{}: {}".format(base, error))
    raise ConfineError("no registry took the key: " + ("; ".join(refused) or "none with a web address is set"))


def usable_token(text: str) -> str:
    """`text` without what surrounds it. ConfineError if it can be no token; the message does not tell it."""
    token = text.strip()
    if not only(token, TOKEN) or len(token) > MAX_TOKEN:
        raise ConfineError("that is no token: it must be one word")
    return token


def certify(settings: "Settings", token: str, base: str, request: str) -> str:
    """The certificate (PEM) that the registry at `base` makes of the `request` (PEM). RegistryError: none, and why."""
    deadline = time.monotonic() + PUBLISH_S
    uri = base + "nodes/{}/".format(settings.node_id)
    transport = Transport(settings.registry_cert, {uris.origin(base)}, settings.plain_http)
    fields = {"Accept": "application/json", "Authorization": "Token " + usable_token(token),
              "Content-Type": "application/json"}  # fmt: skip
    try:
        node = transport.get(uri, {"Accept": "application/json"}, deadline, lambda _: False)
        where = links(node.head.get("link"), CONTROLS).get(SIGN)
        if where is None:
            raise RegistryError("it signs no certificates")
        if uris.origin(where) != uris.origin(base):
            raise RegistryError("it would have them signed elsewhere, at {}".format(where[:200]))
        answer = transport.send("POST", where, fields, json.dumps(request).encode(), deadline)
    finally:
        transport.close()
    try:
        doc = json.loads(answer.body)
        if answer.status in (200, 201, 202) and isinstance(doc["cert"], str):
            return str(doc["cert"])
        said = SAYS.get(answer.status) or str(doc["detail"])[:200]
    except (ValueError, KeyError, TypeError):
        said = SAYS.get(answer.status, "its answer cannot be used")
    raise RegistryError("status {}: {}".format(answer.status, said))


def _write(settings: "Settings", base: str, uri: str, token: str, pubkey: str) -> None:
    deadline = time.monotonic() + PUBLISH_S
    transport = Transport(settings.registry_cert, {uris.origin(base)}, settings.plain_http)
    fields = {"Accept": "application/json", "Authorization": "Token " + token, "Content-Type": "application/json"}
    try:
        before = transport.get(uri, {"Accept": "application/json"}, deadline, lambda _: False)
        tinc = _tinc(before.status, before.body)
        body = json.dumps({"tinc": {**tinc, "pubkey": pubkey}}).encode()
        answer = transport.send("PATCH", uri, fields, body, deadline)
    finally:
        transport.close()
    if answer.status not in (200, 202, 204):
        said = SAYS.get(answer.status) or answer.body[:200].decode("utf-8", "replace")
        raise RegistryError("status {}: {}".format(answer.status, said))


def _tinc(status: int, body: bytes) -> "dict[str, Any]":
    """What of the node's tinc member is to stay as it is."""
    if status != 200:
        raise RegistryError("status {}: {}".format(status, SAYS.get(status, "the node cannot be read")))
    try:
        doc = json.loads(body)
        tinc = doc["tinc"] or {}
        return {name: tinc[name] for name in ("name", "addresses") if name in tinc}
    except (ValueError, KeyError, TypeError):
        raise RegistryError("the node's document cannot be used")
