"""What the registry's documents ask of the node's tinc overlay. Pure.

Overlay entries are the servers that have tinc addresses (registry API: there is no gateways collection any more);
hosts take part as well, so that one may connect to the node.
"""

from confine.core import addressing, rsa
from confine.core.model import Problem
from confine.core.reading import Documents, entries, mapping, reference, text, texts, whole
from confine.core.record import Record
from confine.core.text import HEX_DIGITS, only, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings

DEFAULT_PORT = 655
MAX_NAME = 64
MAX_PEERS = 256
NAME_CHARACTERS = HEX_DIGITS + "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
ADDRESS_CHARACTERS = NAME_CHARACTERS + "-.:"
BACKEND_TINC = "tinc"


class OverlayPeer(Record):
    """A server or host of the testbed.

    kind: "server" or "host". name: its name in tinc. subnet: what it routes, "fd65::2/128". key: its public key, PEM.
    addresses: [(host, port)] that this node may try, in the registry's order. others: those for other islands.
    """

    FIELDS = ("kind", "name", "subnet", "key", "addresses", "others")

    def __init__(
        self,
        kind: str,
        name: str,
        subnet: str,
        key: str,
        addresses: "list[tuple[str, int]]",
        others: "list[tuple[str, int]]",
    ) -> None:
        self.kind = kind
        self.name = name
        self.subnet = subnet
        self.key = key
        self.addresses = addresses
        self.others = others

    @property
    def connect(self) -> bool:
        """Whether the node connects to it by itself."""
        return self.kind == "server" and bool(self.addresses)


class OverlayTarget(Record):
    """What the registry says of this node's overlay.

    backend: "tinc", "native" or None (it does not say). name, key: of the node itself, None if the registry has none.
    addresses: the node's own, that others may try. prefix: of the testbed's management network, or None.
    """

    FIELDS = ("backend", "name", "key", "addresses", "prefix", "peers", "problems")

    def __init__(
        self,
        backend: "str | None",
        name: "str | None",
        key: "str | None",
        addresses: "list[tuple[str, int]]",
        prefix: "str | None",
        peers: "list[OverlayPeer]",
        problems: "list[Problem]",
    ) -> None:
        self.backend = backend
        self.name = name
        self.key = key
        self.addresses = addresses
        self.prefix = prefix
        self.peers = peers
        self.problems = problems


def is_name(name: object) -> bool:
    """What tinc takes as a name; it is also a file's."""
    return isinstance(name, str) and len(name) <= MAX_NAME and only(name, NAME_CHARACTERS)


def build(state: "dict[str, Any]", settings: "Settings") -> OverlayTarget:
    """The overlay as the last good registry state has it (see desired.build)."""
    documents = Documents(state)
    node = mapping(state, "node")
    tinc = mapping(node, "tinc")
    problems: "list[Problem]" = []
    island = _island(node.get("island"), node)
    name = text(tinc, "name")
    if name is not None and not is_name(name):
        problems.append(Problem("/tinc/name", shown(name) + " cannot be a name in tinc."))
        name = None
    prefix = settings.mgmt_ipv6_prefix48 or _prefix(mapping(state, "base"))
    peers: "list[OverlayPeer]" = []
    for kind, relation, usual in (("server", "server-list", "servers/"), ("host", "host-list", "hosts/")):
        for uri in _members(state, relation, usual):
            peer = _peer(kind, documents.find(uri) or {}, island, prefix, problems)
            if peer is not None and peer.name != name and not _known(peers, peer.name) and len(peers) < MAX_PEERS:
                peers.append(peer)
    _none_in_reach(peers, island, problems)
    addresses, others = _addresses(tinc, None)
    return OverlayTarget(
        text(mapping(node, "mgmt_net"), "backend"),
        name,
        text(tinc, "pubkey"),
        addresses + others,
        prefix,
        peers,
        problems,
    )


def _known(peers: "list[OverlayPeer]", name: str) -> bool:
    return any(peer.name == name for peer in peers)


def _prefix(base: "dict[str, Any]") -> "str | None":
    """The management prefix as the registry serves it, for a node whose settings do not say."""
    served = text(mapping(base, "testbed_params"), "mgmt_ipv6_prefix")
    try:
        return addressing.parse_prefix48(served.lower()) if served else None
    except ValueError:
        return None


def _members(state: "dict[str, Any]", relation: str, usual: str) -> "list[str]":
    """URIs of a list's documents, in the registry's order."""
    base = text(mapping(state, "base"), "uri") or ""
    lists = mapping(state, "lists")
    uri = text(mapping(state, "links"), relation)
    return texts(lists, uri if uri is not None and uri in lists else base + usual)


def _island(value: object, doc: "dict[str, Any]") -> "int | None":
    """The id of the island that a document or an address names: {uri, id}, a bare number, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    uri, number = reference(doc, "island", "")
    if number is None and uri:
        last = uri.rstrip("/").split("/")[-1]
        number = int(last) if only(last, "0123456789") and len(last) <= 15 else None
    return number


def _addresses(tinc: "dict[str, Any]", island: "int | None") -> "tuple[list[tuple[str, int]], list[tuple[str, int]]]":
    """(addresses for nodes of `island`, those for others). One of no island is for all; a node of none tries all."""
    mine: "list[tuple[str, int]]" = []
    others: "list[tuple[str, int]]" = []
    for entry in entries(tinc, "addresses"):
        host, port = text(entry, "addr"), whole(entry, "port") or DEFAULT_PORT
        if host is None or not only(host, ADDRESS_CHARACTERS) or not 1 <= port <= 65535:
            continue
        theirs = _island(entry.get("island"), entry)
        (mine if island is None or theirs in (None, island) else others).append((host, port))
    return mine, others


def _peer(
    kind: str, doc: "dict[str, Any]", island: "int | None", prefix: "str | None", problems: "list[Problem]"
) -> "OverlayPeer | None":
    """A server or host as a peer; None if it is not in the overlay, or cannot be used (then with a problem)."""
    tinc, number = mapping(doc, "tinc"), whole(doc, "id")
    if not tinc or number is None:
        return None
    name = text(tinc, "name") or kind + "_" + str(number)
    label = "Overlay: " + kind + " " + str(number) + " is left out: "
    if not is_name(name):
        problems.append(Problem("", label + shown(name) + " cannot be a name in tinc."))
        return None
    try:
        key = rsa.public_pem(rsa.numbers(tinc.get("pubkey")))
    except ValueError as error:
        problems.append(Problem("", label + "its public key cannot be used: " + str(error) + "."))
        return None
    addr = text(mapping(doc, "mgmt_net"), "addr")
    try:
        subnet = addressing.format_ipv6(addressing.parse_ipv6(addr.lower())) if addr else _formula(kind, prefix, number)
    except ValueError as error:
        problems.append(Problem("", label + str(error) + "."))
        return None
    mine, others = _addresses(tinc, island)
    return OverlayPeer(kind, name, subnet + "/128", key, mine, others)


def _formula(kind: str, prefix: "str | None", number: int) -> str:
    if prefix is None:
        raise ValueError("it has no management address")
    if kind == "server":
        return addressing.server_management_ipv6(prefix, number)
    return addressing.host_management_ipv6(prefix, number)


def _none_in_reach(peers: "list[OverlayPeer]", island: "int | None", problems: "list[Problem]") -> None:
    """No server has an address in the node's island: better try all than be cut off."""
    servers = [peer for peer in peers if peer.kind == "server"]
    if any(peer.connect for peer in servers) or not any(peer.others for peer in servers):
        return
    for peer in servers:
        peer.addresses, peer.others = peer.others, []
    message = "No server has an address in island " + str(island) + " of this node: all their addresses are tried."
    problems.append(Problem("/island", message))
