"""A testbed of any number of slivers on node 1, as files for the example registry."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

FILE = "bench"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEosDgOklv3QE/d9QwhfambnWhJMnYw7ng4cdX41ar90"
MEMORY_MIB, DISK_MIB = 24, 24
MAX_SLIVERS = 125


def make(directory: str, slivers: int, template: bytes, set_state: str = "start") -> tuple[str, str]:
    """Write documents and files below `directory`: slices 1 ... `slivers` with a sliver each, all of group 1; group 2
    has another member. `template`: content of the one template. Gives (documents, files)."""
    documents, files = os.path.join(directory, "documents"), os.path.join(directory, "files")
    os.makedirs(files)
    with open(os.path.join(files, FILE + ".squashfs"), "wb") as file:
        file.write(template)
    sha256 = hashlib.sha256(template).hexdigest()
    record = {"file": FILE + ".squashfs", "sha256": sha256, "size": len(template), "type": "generic"}
    put(files, FILE, record)
    put(documents, "base", BASE)
    put(documents, "nodes/1", NODE)
    put(documents, "templates/1", TEMPLATE)
    for number in (1, 2):
        put(documents, f"groups/{number}", group(number))
        put(documents, f"users/{number}", user(number))
    for number in range(1, slivers + 1):
        put(documents, f"slices/{number}", slice_(number, set_state))
        put(documents, f"slivers/{number}", sliver(number))
    return documents, files


def put(directory: str, name: str, doc: Any) -> None:
    """Write one document, whole."""
    path = os.path.join(directory, name + ".json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(doc, file)
    os.replace(path + ".new", path)


def group(number: int) -> dict[str, Any]:
    """A group with one member, who sees to its slices."""
    role = {"user": f"@users/{number}", "is_group_admin": True, "is_node_admin": False, "is_slice_admin": True}
    return {"name": f"group {number}", "description": "", "allow_nodes": True, "allow_slices": True,
            "user_roles": [role]}  # fmt: skip


def user(number: int) -> dict[str, Any]:
    """A person with a key."""
    return {"username": f"user{number}", "name": "", "description": "", "is_active": True, "is_superuser": False,
            "date_joined": None, "auth_tokens": [f"{KEY} {number}"]}  # fmt: skip


def slice_(number: int, set_state: str) -> dict[str, Any]:
    """A slice of small slivers."""
    resources = [{"name": "memory", "req": MEMORY_MIB, "unit": "MiB"}, {"name": "disk", "req": DISK_MIB, "unit": "MiB"}]
    defaults = {"instance_sn": 0, "data_uri": None, "data_sha256": None, "set_state": "start",
                "template": "@templates/1", "resources": resources}  # fmt: skip
    return {"name": f"slice {number}", "description": "", "expires_on": "@days/60", "instance_sn": 0,
            "allow_isolated": False, "isolated_vlan_tag": None, "set_state": set_state, "properties": {},
            "group": "@groups/1", "sliver_defaults": defaults, "resources": []}  # fmt: skip


def sliver(number: int) -> dict[str, Any]:
    """The sliver of slice `number` on node 1."""
    interface = {"nr": 0, "name": "priv", "type": "private", "parent_name": None}
    return {"slice": f"@slices/{number}", "node": "@nodes/1", "description": "", "instance_sn": 0, "data_uri": None,
            "data_sha256": None, "set_state": None, "template": None, "properties": {}, "interfaces": [interface],
            "mgmt_net": None, "resources": []}  # fmt: skip


BASE = {"testbed_params": {"mgmt_ipv6_prefix": "fd65:fc41:c50f::/48"}, "testbed_resources": [],
        "confine_params": {"debug_ipv6_prefix": "fd5f:eee5:e6ad::/48",
                           "priv_ipv6_prefix": "fdbd:e804:6aa9::/48"}}  # fmt: skip
NODE = {"name": "bench", "description": "", "arch": "x86_64", "set_state": "production", "boot_sn": 0,
        "group": "@groups/1", "island": None, "properties": {}, "direct_ifaces": [], "resources": [],
        "mgmt_net": {}, "tinc": None, "api": None, "cert": None, "cn": None}  # fmt: skip
TEMPLATE = {"name": "bench", "description": "", "type": "generic", "node_archs": ["x86_64"], "is_active": True,
            "image_uri": "@files/" + FILE}  # fmt: skip
