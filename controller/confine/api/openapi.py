"""The API's description as OpenAPI 3.1, declared by hand; the tests hold it against real answers. Loaded only when
somebody asks for it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Small words for JSON Schema


def of(kind: str, words: str = "", **more: "Any") -> "dict[str, Any]":
    """A value of one JSON type, "TYPE|null" if it may be missing."""
    kinds = kind.split("|")
    schema: dict[str, Any] = {"type": kinds if len(kinds) > 1 else kind, **more}
    return {**schema, "description": words} if words else schema


def uri(words: str = "", null: bool = False) -> "dict[str, Any]":
    """A URI."""
    return of("string|null" if null else "string", words, format="uri-reference")


def listed(items: "dict[str, Any]", words: str = "") -> "dict[str, Any]":
    """A list."""
    return of("array", words, items=items)


def record(members: "dict[str, Any]", optional: "tuple[str, ...]" = (), null: bool = False) -> "dict[str, Any]":
    """An object; all `members` are there but the `optional` ones, and there may be more."""
    needed = [name for name in members if name not in optional]
    return of("object|null" if null else "object", properties=members, required=needed)


def schema(name: str) -> "dict[str, Any]":
    """A named one."""
    return {"$ref": "#/components/schemas/" + name}


TEXT, NUMBER, MAYBE_TEXT, MAYBE_NUMBER = of("string"), of("integer"), of("string|null"), of("integer|null")
STRINGS = of("object", additionalProperties=TEXT)
REF = record({"uri": uri(null=True), "id": of("integer|string|null")}, optional=("id", "uri"))
MAYBE_REF = record({"uri": uri(null=True), "id": of("integer|string|null")}, optional=("id", "uri"), null=True)
ERRORS = listed(
    record({"member": of("string", "JSON pointer into the document; empty: all of it."), "message": TEXT}),
    "What is wrong, and what to do.",
)
NODE_STATE = of("string", enum=["debug", "failure", "safe", "production"])
SLIVER_STATE = of(
    "string",
    enum=["registered", "allocated", "deployed", "started", "fail_allocate", "fail_deploy", "fail_start"],
)
TARGET = of("string|null", "The effective target.", enum=["register", "deploy", "start", None])
ADDRESS_NAMES = (
    "mgmt", "mgmt_host", "debug", "local_mac", "local_ipv4", "local_ipv6", "internal_ipv4", "internal_ipv6",
    "recovery_ipv4", "recovery_ipv6", "recovery_unique",
)  # fmt: skip
ADDRESSES = record(dict.fromkeys(ADDRESS_NAMES, MAYBE_TEXT))
OFFER = record(
    {
        "name": TEXT,
        "max_req": MAYBE_NUMBER,
        "dflt_req": NUMBER,
        "unit": TEXT,
        "avail": of("integer|null", "What can be lent now."),
    }
)
INTERFACE = record(
    {
        "nr": NUMBER, "name": TEXT, "type": TEXT, "parent_name": MAYBE_TEXT, "vlan_tag": MAYBE_NUMBER,
        "mac_addr": MAYBE_TEXT, "ipv4_addr": MAYBE_TEXT, "ipv6_addr": MAYBE_TEXT,
    }
)  # fmt: skip
SLIVER_ENTRY = {
    "uri": uri(), "id": of("string", "SLICE@NODE"), "node": REF, "slice": MAYBE_REF, "state": SLIVER_STATE,
    "set_state": TARGET,
}  # fmt: skip

SCHEMAS = {
    "Error": record({"detail": TEXT}),
    "Base": record({"uri": uri()}),
    "Node": record(
        {
            "uri": uri(),
            "id": MAYBE_NUMBER,
            "name": MAYBE_TEXT,
            "description": MAYBE_TEXT,
            "arch": MAYBE_TEXT,
            "boot_sn": MAYBE_NUMBER,
            "set_state": MAYBE_TEXT,
            "state": NODE_STATE,
            "soft_version": TEXT,
            "message": TEXT,
            "errors": ERRORS,
            "addrs": ADDRESSES,
            "direct_ifaces": listed(TEXT),
            "resources": listed(OFFER),
            "slivers": listed(REF),
            "properties": STRINGS,
            "group": MAYBE_REF,
            "island": of("object|integer|null"),
            "mgmt_net": of("object|null"),
            "tinc": of("object|null"),
            "api": of("object|null"),
            "cert": MAYBE_TEXT,
            "cn": of("object|null"),
            "network": of("object|null", "How the node's own network stands: state, local, direct."),
            "clock": of("object|null", "Who confirms the node's time: ntp, registry or null; and its error in ms."),
            "upgrade": of("object|null", "Upgrades of the node's own system; null on a node without slots."),
        },
        # what the registry alone says is missing until it was read
        optional=(
            "properties",
            "group",
            "island",
            "mgmt_net",
            "tinc",
            "api",
            "cert",
            "cn",
            "network",
            "clock",
            "addrs",
            "resources",
            "direct_ifaces",
            "message",
            "name",
            "description",
            "arch",
            "boot_sn",
            "set_state",
        ),
    ),
    "SliverEntry": record(SLIVER_ENTRY),
    "Sliver": record(
        {
            **SLIVER_ENTRY,
            "description": TEXT,
            "properties": STRINGS,
            "instance_sn": MAYBE_NUMBER,
            "template": MAYBE_REF,
            "data_uri": uri(null=True),
            "data_sha256": MAYBE_TEXT,
            "mgmt_net": of("object|null"),
            "interfaces": listed(INTERFACE),
            "resources": listed(record({"name": TEXT, "req": MAYBE_NUMBER, "unit": TEXT, "alloc": MAYBE_NUMBER})),
            "nr": of("integer|null", "The sliver's number on this node, 1 to 125."),
            "errors": ERRORS,
        }
    ),
    "Template": record(
        {
            "uri": uri(),
            "id": NUMBER,
            "name": TEXT,
            "description": TEXT,
            "type": TEXT,
            "node_archs": listed(TEXT),
            "is_active": of("boolean"),
            "image_uri": uri(),
            "image_sha256": TEXT,
        }
    ),
}

# path: (summary, name of the schema, is it a list, only in production, has it a number)
DOCUMENTS = {
    "/": ("Where to begin.", "Base", False, False, False),
    "/node/": ("The node.", "Node", False, False, False),
    "/slivers/": ("Its slivers.", "SliverEntry", True, True, False),
    "/slivers/{id}/": ("One sliver, by its number in the registry's URI.", "Sliver", False, True, True),
    "/templates/": ("The templates of its slivers.", "Template", True, True, False),
    "/templates/{id}/": ("One template.", "Template", False, True, True),
}


def _answer(words: str, media: str = "application/json", body: "dict[str, Any] | None" = None) -> "dict[str, Any]":
    return {"description": words, "content": {media: {"schema": body or schema("Error")}}}


def _document(summary: str, name: str, many: bool, production: bool, numbered: bool) -> "dict[str, Any]":
    body = listed(schema(name)) if many else schema(name)
    found = _answer(summary, body=body)
    found["content"]["text/html"] = {"schema": TEXT}
    found["headers"] = {header: {"schema": TEXT} for header in ("ETag", "Last-Modified", "Link")}
    answers = {"200": found, "304": {"description": "It still says what If-None-Match or If-Modified-Since names."}}
    if numbered:
        answers["404"] = _answer("There is none.")
    if production:
        answers["503"] = _answer("The node is not in production.")
    get: dict[str, Any] = {"summary": summary, "responses": answers}
    if numbered:
        get["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": NUMBER}]
    return {"get": get}


def _paths() -> "dict[str, Any]":
    paths = {path: _document(*row) for path, row in DOCUMENTS.items()}
    refresh = {
        "200": _answer("The registry is read now."),
        "429": _answer("That was asked for less than 60 s ago."),
    }
    paths["/node/ctl/refresh/"] = {"post": {"summary": "Read the registry now.", "responses": refresh}}
    text = _answer("Figures of the node and its slivers.", "text/plain", TEXT)
    paths["/metrics"] = {"get": {"summary": "Prometheus text, format 0.0.4.", "responses": {"200": text}}}
    itself = _answer("This description.", body=of("object"))
    paths["/openapi.json"] = {"get": {"summary": "This description.", "responses": {"200": itself}}}
    return paths


def describe(base: str, version: str) -> "dict[str, Any]":
    """The description for a client that calls the API's base `base`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "CONFINE node API", "version": version},
        "servers": [{"url": base.rstrip("/")}],
        "paths": _paths(),
        "components": {"schemas": SCHEMAS},
    }
