"""The registry's documents as schemas (registry API, and the registry's real answers where they differ).

What is `need`ed here: members that say which object it is, and members that decide what happens to slivers
(states, sequence numbers, references, resources, interfaces). A default in their place could stop, rebuild or
shrink what runs, so a document where one is unusable is unusable as a whole and its last good version stays.
All others are `optional`.

Not declared, so dropped, because the node has no use for them and they change often: `avail` of resources,
`slivers` and `resources` of a slice, `slices` and `nodes` of a group, `group_roles`, `date_joined` and
`last_login` of a user. What does not change is not written to flash again.
"""

from confine.core.model import NODE_STATES, TARGETS
from confine.core.schema import (
    Bool,
    Choice,
    EmptyIsNull,
    Int,
    List,
    Map,
    Maybe,
    Object,
    Schema,
    Text,
    Uri,
    need,
    only,
    optional,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.schema import Checker

# Raise it with every change of a schema: cleaned documents kept from before are then read anew.
VERSION = 1

DIGITS = "0123456789"
LOWER = "abcdefghijklmnopqrstuvwxyz"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HEX = DIGITS + "abcdef"

# Slice ids take 48 bits in an address, node ids run from 0001 to fff0 (node API, addressing).
MAX_SLICE_ID = (1 << 48) - 1
MAX_NODE_ID = 0xFFF0
MAX_ID = (1 << 48) - 1
MAX_SN = (1 << 31) - 1
MAX_AMOUNT = (1 << 31) - 1
MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_number(text: str, low: int, high: int) -> bool:
    """Whether `text` is a plain decimal number from `low` to `high`, without leading zeros."""
    if not 1 <= len(text) <= 15 or not only(text, DIGITS) or (text[0] == "0" and text != "0"):
        return False
    return low <= int(text) <= high


def is_sliver_id(text: str) -> bool:
    """SLICE@NODE, both decimal (registry API)."""
    parts = text.split("@")
    return len(parts) == 2 and is_number(parts[0], 1, MAX_SLICE_ID) and is_number(parts[1], 1, MAX_NODE_ID)


def is_date(text: str) -> bool:
    """YYYY-MM-DD of a day that exists (registry API: `expires_on` is a plain date)."""
    if len(text) != 10 or text[4] != "-" or text[7] != "-":
        return False
    year, month, day = text[:4], text[5:7], text[8:]
    if not only(year + month + day, DIGITS) or not 1 <= int(month) <= 12:
        return False
    leap = int(year) % 4 == 0 and (int(year) % 100 != 0 or int(year) % 400 == 0)
    last = MONTH_DAYS[int(month) - 1] if int(month) != 2 or leap else 28
    return 1 <= int(day) <= last


def is_sha256(text: str) -> bool:
    """64 lower-case hex digits."""
    return len(text) == 64 and only(text, HEX)


def is_word(text: str) -> bool:
    """A name of a type, unit or architecture."""
    return only(text, LOWER + UPPER + DIGITS + "_-.")


def is_interface_name(text: str) -> bool:
    """`^[a-z]+[0-9]*$` (registry API)."""
    letters = text.rstrip(DIGITS)
    return letters != "" and only(letters, LOWER)


def is_device_name(text: str) -> bool:
    """What Linux allows as the name of a network device."""
    return text not in (".", "..") and only(text, LOWER + UPPER + DIGITS + "_-.@:")


def is_address(text: str) -> bool:
    """Looks like an IP address; addressing.py decides whether it is the right one."""
    return only(text, HEX + "ABCDEF:.") and (":" in text or "." in text)


def is_prefix(text: str) -> bool:
    """Looks like an IPv6 prefix with its length."""
    parts = text.split("/")
    return len(parts) == 2 and is_address(parts[0]) and is_number(parts[1], 1, 128)


class IslandRef(Schema):
    """An island in one of its three forms: {uri, id}, a bare number (server APIs), or null."""

    allowed = "an object with uri and id, a number, or null"

    def read(self, value: "Any", pointer: str, checker: "Checker") -> "Any":
        if value is None:
            return None
        if isinstance(value, dict):
            return ISLAND_OBJECT.read(value, pointer, checker)
        number = ID.read(value, pointer, checker)
        return {"uri": None, "id": number} if type(number) is int else number


def reference(id_schema: Schema) -> Object:
    """{uri, id}; old servers leave the id out."""
    return Object({"uri": need(URI), "id": optional(Maybe(id_schema), None)})


URI = Uri()
NAME = optional(Text(256), "")
DESCRIPTION = optional(Text(8192), "")
PROPERTIES = optional(Map(256, 256, 4096), {})
FLAG = optional(Bool(), False)
PEM = Maybe(Text(16384))
SN = need(Int(0, MAX_SN))
ID = Int(1, MAX_ID)
ITEM_ID = need(ID)
REF = reference(ID)
ISLAND_OBJECT = Object({"uri": optional(Maybe(URI), None), "id": optional(Maybe(ID), None)})
ISLAND_REF = optional(IslandRef(), None)
SHA256 = Text(64, 64, is_sha256, "a sha256 in lower-case hex")
DATE = Text(10, 10, is_date, "a date YYYY-MM-DD")
PREFIX = Maybe(Text(49, 4, is_prefix, "an IPv6 prefix"))
WORD = Text(64, 1, is_word, "a word")
TARGET = Choice(TARGETS)

MGMT_NET = EmptyIsNull(
    Object(
        {"addr": need(Text(45, 2, is_address, "an IP address")), "backend": need(Choice(("tinc", "native")))},
    )
)
TINC_ADDRESS = Object({"addr": need(Text(255, 1)), "port": need(Int(1, 65535)), "island": ISLAND_REF})
TINC = Maybe(
    Object(
        {
            "name": need(Text(64, 1, is_word, "a word")),
            "pubkey": need(Text(16384, 1)),
            "addresses": optional(List(TINC_ADDRESS, 64), []),
        }
    )
)
COMMUNITY = Maybe(
    Object(
        {"app_url": optional(Maybe(Uri(resolved=False)), None), "cndb_uri": optional(Maybe(Uri(resolved=False)), None)}
    )
)
REQUEST = Object({"name": need(WORD), "req": need(Int(0, MAX_AMOUNT)), "unit": need(WORD)})
OFFER = Object(
    {
        "name": need(WORD),
        "max_req": need(Maybe(Int(0, MAX_AMOUNT))),
        "dflt_req": need(Int(0, MAX_AMOUNT)),
        "unit": need(WORD),
    }
)
INTERFACE = Object(
    {
        "nr": need(Int(0, 255)),
        "name": need(Text(10, 1, is_interface_name, "lower-case letters, then digits")),
        "type": need(Choice(("private", "management", "public4", "public6", "debug", "isolated"))),
        "parent_name": optional(Maybe(Text(15, 1, is_device_name, "the name of a network device")), None),
    }
)

BASE = Object(
    {
        "uri": need(URI),
        "testbed_params": optional(Object({"mgmt_ipv6_prefix": optional(PREFIX, None)}), {"mgmt_ipv6_prefix": None}),
        "testbed_resources": optional(List(OFFER, 64), []),
        "confine_params": optional(
            Object(
                {
                    "debug_ipv6_prefix": optional(PREFIX, None),
                    "priv_ipv6_prefix": optional(PREFIX, None),
                }
            ),
            {"debug_ipv6_prefix": None, "priv_ipv6_prefix": None},
        ),
    }
)

NODE = Object(
    {
        "uri": need(URI),
        "id": need(Int(1, MAX_NODE_ID)),
        "name": NAME,
        "description": DESCRIPTION,
        "arch": optional(Text(64, 0, is_word, "a word"), ""),
        "set_state": need(Choice(NODE_STATES)),
        "boot_sn": SN,
        "group": need(REF),
        "island": ISLAND_REF,
        "properties": PROPERTIES,
        "direct_ifaces": optional(List(Text(15, 1, is_device_name, "the name of a network device"), 64), []),
        # Strict: a sliver missing from this list is a sliver to be removed.
        "slivers": need(
            List(reference(Text(32, 3, is_sliver_id, "SLICE@NODE")), 1024, strict=True),
        ),
        "resources": optional(List(OFFER, 64), []),
        "mgmt_net": optional(MGMT_NET, None),
        "tinc": optional(TINC, None),
        "api": optional(
            Maybe(
                Object(
                    {"type": optional(WORD, "node"), "base_uri": need(Uri(resolved=False)), "cert": optional(PEM, None)}
                )
            ),
            None,
        ),
        "cert": optional(PEM, None),
        "cn": optional(COMMUNITY, None),
    }
)

SLIVER_DEFAULTS = Object(
    {
        "instance_sn": SN,
        "data_uri": need(Maybe(URI)),
        "data_sha256": need(Maybe(SHA256)),
        "set_state": need(TARGET),
        "template": need(REF),
        "resources": need(List(REQUEST, 64, strict=True)),
    }
)

SLICE = Object(
    {
        "uri": need(URI),
        "id": need(Int(1, MAX_SLICE_ID)),
        "name": NAME,
        "description": DESCRIPTION,
        "expires_on": need(Maybe(DATE)),
        "instance_sn": SN,
        "allow_isolated": FLAG,
        "isolated_vlan_tag": need(Maybe(Int(0x100, 0xFFF))),
        "set_state": need(TARGET),
        "properties": PROPERTIES,
        "group": need(REF),
        "sliver_defaults": need(SLIVER_DEFAULTS),
    }
)

SLIVER = Object(
    {
        "uri": need(URI),
        "id": need(Text(32, 3, is_sliver_id, "SLICE@NODE")),
        "slice": need(REF),
        "node": need(REF),
        "description": DESCRIPTION,
        "instance_sn": SN,
        "data_uri": need(Maybe(URI)),
        "data_sha256": need(Maybe(SHA256)),
        "set_state": need(Maybe(TARGET)),
        "template": need(Maybe(REF)),
        "properties": PROPERTIES,
        "interfaces": need(List(INTERFACE, 256, strict=True)),
        "mgmt_net": optional(MGMT_NET, None),
        "resources": need(List(REQUEST, 64, strict=True)),
    }
)

TEMPLATE = Object(
    {
        "uri": need(URI),
        "id": ITEM_ID,
        "name": NAME,
        "description": DESCRIPTION,
        "type": need(WORD),
        "node_archs": optional(List(WORD, 64), []),
        "is_active": optional(Bool(), True),
        "image_uri": need(URI),
        "image_sha256": need(SHA256),
    }
)


USER = Object(
    {
        "uri": need(URI),
        "id": ITEM_ID,
        "name": NAME,
        "description": DESCRIPTION,
        "is_active": need(Bool()),
        "is_superuser": FLAG,
        # SSH keys, but certificates are tokens too; keys may end in a newline or CR LF.
        "auth_tokens": need(List(Text(16384), 128)),
    }
)

GROUP = Object(
    {
        "uri": need(URI),
        "id": ITEM_ID,
        "name": NAME,
        "description": DESCRIPTION,
        "allow_nodes": FLAG,
        "allow_slices": FLAG,
        "user_roles": need(
            List(
                Object(
                    {
                        "user": need(REF),
                        "is_group_admin": FLAG,
                        "is_node_admin": FLAG,
                        "is_slice_admin": FLAG,
                    }
                ),
                1024,
            )
        ),
    }
)

ISLAND = Object({"uri": need(URI), "id": ITEM_ID, "name": NAME, "description": DESCRIPTION})

SERVER_API = Object(
    {
        "type": need(Choice(("registry", "controller"))),
        "base_uri": need(Uri(resolved=False)),
        "cert": optional(PEM, None),
        "island": ISLAND_REF,
    }
)

SERVER = Object(
    {
        "uri": need(URI),
        "id": ITEM_ID,
        "name": NAME,
        "description": DESCRIPTION,
        "properties": PROPERTIES,
        "mgmt_net": optional(MGMT_NET, None),
        "tinc": optional(TINC, None),
        "cn": optional(COMMUNITY, None),
        "api": optional(List(SERVER_API, 64), []),
    }
)

HOST = Object(
    {
        "uri": need(URI),
        "id": ITEM_ID,
        "name": NAME,
        "description": DESCRIPTION,
        "owner": optional(Maybe(REF), None),
        "island": ISLAND_REF,
        "mgmt_net": optional(MGMT_NET, None),
        "tinc": optional(TINC, None),
    }
)

# kind (as in the profile of the Content-Type): schema
SCHEMAS = {
    "base": BASE,
    "node": NODE,
    "slice": SLICE,
    "sliver": SLIVER,
    "template": TEMPLATE,
    "user": USER,
    "group": GROUP,
    "island": ISLAND,
    "server": SERVER,
    "host": HOST,
}
