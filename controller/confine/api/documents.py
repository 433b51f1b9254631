"""What the documents of the node API say, worked out of the node's status and the registry's documents. Pure.

URIs of this node are `Own` texts, relative to the base of the API: the address is put before them when a document is
rendered, since each client calls the node by another one. Members follow the node API's own list; addresses of the
node stand without prefix length there, as existing clients read them.
"""

from confine.core.text import DECIMAL_DIGITS, only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RELATION = "http://confine-project.eu/rel/node/"
PRODUCTION = "production"
LINKS = {
    "base": ("base", "node", "sliver-list", "template-list", "do-refresh"),
    "node": ("base", "node", "do-refresh"),
    "sliver-list": ("base", "sliver-list"),
    "sliver": ("base", "node", "sliver-list"),
    "template-list": ("base", "template-list"),
    "template": ("base", "template-list"),
}
ADDRESSES = (
    "mgmt", "mgmt_host", "debug", "local_mac", "local_ipv4", "local_ipv6", "internal_ipv4", "internal_ipv6",
    "recovery_ipv4", "recovery_ipv6", "recovery_unique",
)  # fmt: skip
UPGRADE = (
    "state", "mode", "branch", "pin", "version", "running", "confirmed", "slots", "offered", "verdict", "reason", "due",
    "deferred_until", "problems", "last",
)  # fmt: skip
LISTED = ("uri", "id", "node", "slice", "state", "set_state")


class Own(str):
    """A URI of this node, relative to the base of its API ("" is the base itself)."""

    __slots__ = ()


TARGETS = {
    "base": Own(""),
    "node": Own("node/"),
    "sliver-list": Own("slivers/"),
    "template-list": Own("templates/"),
    "do-refresh": Own("node/ctl/refresh/"),
}


class Document:
    """kind: as in its profile. value: JSON-ready but for `Own`. source: where the registry has it, or None."""

    __slots__ = ("kind", "source", "value")

    def __init__(self, kind: str, value: "Any", source: "str | None" = None) -> None:
        self.kind = kind
        self.value = value
        self.source = source

    def links(self) -> "list[tuple[str, str]]":
        """(relation, URI) for the Link field."""
        found: list[tuple[str, str]] = [(RELATION + name, TARGETS[name]) for name in LINKS[self.kind]]
        if self.source is not None and _fits_a_field(self.source):
            found.append((RELATION + "source", self.source))
        return found


def absolute(value: "Any", base: str) -> "Any":
    """A copy of `value` with the base of the API, as the client calls it, before this node's own URIs."""
    if isinstance(value, Own):
        return base + value
    if isinstance(value, dict):
        return {name: absolute(item, base) for name, item in value.items()}
    if isinstance(value, list):
        return [absolute(item, base) for item in value]
    return value


def build(
    status: "dict[str, Any]", state: "dict[str, Any] | None", addresses: "dict[str, str | None]"
) -> "dict[str, Document]":
    """All documents by path below the base. addresses: those of the node's local interface (addresses.py).

    Outside of production there are no slivers and templates (node API): they are not in the result.
    """
    state = state or {}
    documents: dict[str, dict[str, Any]] = state.get("docs") or {}
    found = {"": _base(state.get("base")), "node/": _node(status, state.get("node"), addresses)}
    if status["node"].get("state") != PRODUCTION:
        return found
    slivers = _slivers(status, documents)
    found.update(slivers)
    entries = [{name: document.value[name] for name in LISTED} for document in slivers.values()]
    found["slivers/"] = Document("sliver-list", entries)
    templates = _templates(documents)
    found.update(templates)
    found["templates/"] = Document("template-list", [document.value for document in templates.values()])
    return found


def _base(asked: "dict[str, Any] | None") -> Document:
    value = {"uri": Own(""), **{name: item for name, item in (asked or {}).items() if name != "uri"}}
    return Document("base", value, (asked or {}).get("uri"))


def _node(status: "dict[str, Any]", asked: "dict[str, Any] | None", addresses: "dict[str, str | None]") -> Document:
    shown = status["node"]
    value: dict[str, Any] = dict(asked or {})
    value.update((name, item) for name, item in shown.items() if item is not None or name not in value)
    if shown.get("tinc"):  # addresses are the registry's to know
        value["tinc"] = {"addresses": [], **((asked or {}).get("tinc") or {}), **shown["tinc"]}
    value["uri"] = Own("node/")
    value["soft_version"] = status["version"]
    value["upgrade"] = _upgrade(status.get("upgrade"))
    known = {name: _bare(address) for name, address in (shown.get("addrs") or {}).items()}
    value["addrs"] = {**dict.fromkeys(ADDRESSES), **addresses, **known}
    for name, default in (("message", ""), ("direct_ifaces", []), ("resources", [])):
        value.setdefault(name, default)
    value["slivers"] = [
        {"uri": _own("slivers", entry.get("uri")) or entry.get("uri"), "id": entry.get("id")}
        for entry in (asked or {}).get("slivers", [])
    ]
    return Document("node", value, (asked or {}).get("uri") or shown.get("uri"))


def _upgrade(shown: "dict[str, Any] | None") -> "dict[str, Any] | None":
    """What stands about upgrades; null on a node without slots. How far one is changes too often for a document."""
    return {name: shown.get(name) for name in UPGRADE} if shown is not None else None


def _slivers(status: "dict[str, Any]", documents: "dict[str, dict[str, Any]]") -> "dict[str, Document]":
    """By path. One that the registry does not ask for any more has no number there, so no document here."""
    found = {}
    for shown in status["slivers"]:
        path = _own("slivers", shown.get("uri"))
        if path is not None:
            found[str(path)] = _sliver(path, shown, documents.get(shown["uri"]) or {}, status["node"].get("id"))
    return found


def _sliver(path: Own, shown: "dict[str, Any]", asked: "dict[str, Any]", node_id: "int | None") -> Document:
    template = shown.get("template")
    value = {
        "uri": path,
        "id": shown["id"],
        "slice": asked.get("slice") or shown.get("slice"),
        "node": {"uri": Own("node/"), "id": node_id},
        "description": shown.get("description") or "",
        "properties": shown.get("properties") or {},
        "instance_sn": shown.get("instance_sn"),
        "template": {"uri": Own(f"templates/{template['id']}/"), "id": template["id"]} if template else None,
        "data_uri": shown.get("data_uri"),
        "data_sha256": shown.get("data_sha256"),
        "mgmt_net": asked.get("mgmt_net"),
        "interfaces": shown.get("interfaces") or [],
        "resources": shown.get("resources") or [],
        "nr": shown.get("nr"),
        "state": shown.get("state"),
        "set_state": shown.get("set_state"),
        "errors": shown.get("errors") or [],
    }
    return Document("sliver", value, shown.get("uri"))


def _templates(documents: "dict[str, dict[str, Any]]") -> "dict[str, Document]":
    """Those that the registry's documents of this node's slivers name, by path."""
    found = {}
    for uri, asked in documents.items():
        path = _own("templates", uri)
        if path is not None and "image_sha256" in asked:
            found[str(path)] = Document("template", {**asked, "uri": path}, uri)
    return found


def _own(collection: str, uri: "str | None") -> "Own | None":
    """The path here of a document that the registry has as .../COLLECTION/NUMBER/ (slash or not)."""
    if not isinstance(uri, str):
        return None
    head, _, number = uri.rstrip("/").rpartition("/")
    if not head.endswith("/" + collection) or len(number) > 15 or not only(number, DECIMAL_DIGITS):
        return None
    return Own(f"{collection}/{int(number)}/")


def _bare(address: "str | None") -> "str | None":
    return address.split("/", 1)[0] if address else None


def _fits_a_field(uri: str) -> bool:
    return all("!" <= char <= "~" and char not in '<>"' for char in uri)
