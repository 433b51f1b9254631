"""Who may see which figures. Pure.

- The node's admins, and the operator at the node itself, see every sliver's.
- The people of a slice (its group's slice and group admins) see those of its slivers.
- Everyone else sees sums over all slivers, no single one.
A sum is only shown if at least LEAST slivers that the viewer may not see are in it, or none: otherwise it would tell
of a single one. Rows are shown as they are: what they contain is figures, no traffic and no content.
"""

from confine.core import addressing, keys
from confine.core.reading import entries, reference
from confine.core.text import shown
from confine.errors import ConfineError
from confine.records.rings import LEVELS, SECONDS, SUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEAST = 3


class Viewer:
    """node_admin: of this node. slices: ids of the slices whose people they are among."""

    def __init__(self, node_admin: bool = False, slices: "list[int] | None" = None) -> None:
        self.node_admin = node_admin
        self.slices = frozenset(slices or ())


PUBLIC = Viewer()
OPERATOR = Viewer(node_admin=True)


def viewer(state: "dict[str, Any] | None", user_uri: str) -> Viewer:
    """What the registry state says a user may see here. An unknown or inactive user is the public."""
    docs = (state or {}).get("docs") or {}
    if (docs.get(user_uri) or {}).get("is_active") is not True:
        return PUBLIC
    node = (state or {}).get("node") or {}
    node_admin = _has_role(docs, node, user_uri, (keys.NODE_ADMIN, keys.GROUP_ADMIN))
    slices = [
        doc["id"]
        for doc in docs.values()
        if "sliver_defaults" in doc and _has_role(docs, doc, user_uri, (keys.SLICE_ADMIN, keys.GROUP_ADMIN))
    ]
    return Viewer(node_admin, slices)


def known_viewer(state: "dict[str, Any] | None", user: str) -> Viewer:
    """What the user of this name or URI may see. ConfineError: the node knows of none, or of several."""
    docs = (state or {}).get("docs") or {}
    found = [uri for uri, doc in docs.items() if "auth_tokens" in doc and user in (uri, doc.get("name"))]
    if len(found) != 1:
        words = "the node knows of {} users {}: give the URI of one who has a slice here"
        raise ConfineError(words.format(len(found) or "no", shown(user)))
    return viewer(state, found[0])


def visible(figures: "dict[str, list[dict[str, Any]]]", who: Viewer) -> "dict[str, Any]":
    """{"slivers": {name: rows} that `who` may see, "total": the sums of all slivers' newest rows, or None}."""
    own = {name: rows for name, rows in figures.items() if may_see(name, who)}
    others = len(figures) - len(own)
    total = _total(list(figures.values())) if others == 0 or others >= LEAST else None
    return {"slivers": own, "total": total}


def may_see(name: str, who: Viewer) -> bool:
    """Whether `who` may see the figures of the sliver `name`."""
    parsed = addressing.parse_hostname(name)
    return who.node_admin or (parsed is not None and parsed[0] in who.slices)


def _total(figures: "list[list[dict[str, Any]]]") -> "dict[str, Any]":
    newest = [rows[-1] for rows in figures if rows]
    total: dict[str, Any] = {"slivers": len(newest)}
    for field in (*SUMS, *LEVELS):
        total[field] = round(sum(row.get(field) or 0 for row in newest), 3)
    total[SECONDS] = max((row.get(SECONDS) or 0 for row in newest), default=0)
    return total


def _has_role(docs: "dict[str, Any]", doc: "dict[str, Any]", user_uri: str, roles: "tuple[str, ...]") -> bool:
    group_uri = reference(doc, "group", str(doc.get("uri", "")))[0] or ""
    return any(
        reference(entry, "user", group_uri)[0] == user_uri and any(entry.get(role) is True for role in roles)
        for entry in entries(docs.get(group_uri), "user_roles")
    )
