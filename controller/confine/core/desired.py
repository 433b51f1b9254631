"""Registry documents and the node's own settings to `Desired`: what is asked of this node. Pure.

A document that could not be read this time takes part as its last good version (`state["docs"]`). A sliver is in
the result as long as the registry lists it for this node: if its documents are not known well enough it stands
there `blocked`, so that what runs is never lost to a bad answer. It is left out, and so removed from the node, only
when the registry says so: not listed, or its slice gone or past its last day.
"""

from confine.core import keys, overlay_documents
from confine.core.addressing import MAX_NODE_ID, MAX_SLICE_ID, parse_prefix48
from confine.core.model import NODE_STATES, Desired, NodeTarget, Problem
from confine.core.reading import Documents, entries, mapping, reference, text, texts, whole
from confine.core.sliver_documents import Asked, build_sliver
from confine.core.text import is_decimal, shown
from confine.core.uris import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import SliverTarget
    from confine.core.settings import Settings


def build(state: "dict[str, Any]", settings: "Settings") -> "Desired":
    """What `state` (the last good registry state) asks of the node that `settings` describe.

    state: {"base": doc|None, "node": doc|None, "docs": {uri: doc}, "gone": [uri],
    "problems": {uri: [{"member", "message"}]}, "date": "YYYY-MM-DD"|None (a confirmed date), "complete": bool}.
    Never raises for whatever `state` holds: what cannot be used becomes a `Problem`. Slivers are in order of their
    slice's id. `node` is None if there is no usable document of this node: then nothing is to be changed.
    """
    documents = Documents(state)
    doc = mapping(state, "node")
    problems = _base_problems(mapping(state, "base"), settings)
    wrong = _not_this_node(doc, settings)
    if wrong is not None:
        if doc:
            problems.insert(0, wrong)
        return Desired(None, [], False, problems)
    node = _node(doc, documents, settings)
    node.problems.extend(problems)
    listed, all_known = _listed(doc, node, documents)
    today = state.get("date")
    built = [build_sliver(asked, node, documents, settings, today) for asked in listed]
    slivers: "list[SliverTarget]" = [sliver for sliver in built if sliver is not None]
    return Desired(node, slivers, state.get("complete") is True and all_known, [],
                   overlay_documents.build(state, settings))  # fmt: skip


def _not_this_node(doc: "dict[str, Any]", settings: "Settings") -> "Problem | None":
    """Fail closed on a document that is missing or another node's."""
    number = whole(doc, "id")
    if settings.node_id is None:
        return Problem("/id", "This node's own id is not set (node.id): nothing is done for any document.")
    if number is None or not 1 <= number <= MAX_NODE_ID or text(doc, "uri") is None:
        return Problem("/id", "The node's document has id " + shown(doc.get("id")) + " and is not used.")
    if number != settings.node_id:
        message = "The registry's document is of node " + str(number) + ", this is node " + str(settings.node_id)
        return Problem("/id", message + ": it is not used. Set registry.base_uri or node.id right.")
    return None


def _base_problems(base: "dict[str, Any]", settings: "Settings") -> "list[Problem]":
    """Prefixes that the registry serves and that are not those in force here (registry API, "Prefix trap")."""
    problems = []
    places = (
        ("testbed_params", "mgmt_ipv6_prefix", settings.mgmt_ipv6_prefix48, "Set testbed.mgmt_ipv6_prefix48 right."),
        ("confine_params", "debug_ipv6_prefix", settings.debug_ipv6_prefix48, "The node's own is used."),
        ("confine_params", "priv_ipv6_prefix", settings.priv_ipv6_prefix48, "The node's own is used."),
    )
    for group, member, own, advice in places:
        served = text(mapping(base, group), member)
        if served is None or own is None:
            continue
        try:
            same = parse_prefix48(served.lower()) == own
        except ValueError:
            same = False
        if not same:
            where = "/" + group + "/" + member
            problems.append(
                Problem(where, "The registry says " + shown(served) + ", this node " + own + "::/48. " + advice)
            )
    return problems


def _offers(doc: "dict[str, Any]") -> "dict[str, tuple[int | None, int]]":
    offers = {}
    for entry in entries(doc, "resources"):
        name = text(entry, "name")
        if name is not None and name not in offers:
            offers[name] = (whole(entry, "max_req"), whole(entry, "dflt_req") or 0)
    return offers


def _node(doc: "dict[str, Any]", documents: "Documents", settings: "Settings") -> "NodeTarget":
    uri = text(doc, "uri") or ""
    problems = documents.problems(uri)
    set_state = text(doc, "set_state")
    if set_state not in NODE_STATES:
        problems.append(
            Problem("/set_state", shown(doc.get("set_state")) + " is none of " + ", ".join(NODE_STATES) + ".")
        )
        set_state = ""
    boot_sn = whole(doc, "boot_sn")
    group_uri, group_id = reference(doc, "group", uri)
    lines: "list[str]" = []
    group = documents.find(group_uri)
    if settings.sync_node_admins and group is not None and group_uri is not None:
        lines, wrong = keys.of_group(documents, group_uri, group, (keys.NODE_ADMIN,))
        problems.extend(wrong)
    return NodeTarget(
        id=whole(doc, "id") or 0,
        uri=uri,
        name=text(doc, "name") or "",
        description=text(doc, "description") or "",
        arch=text(doc, "arch") or "",
        set_state=set_state or "",
        boot_sn=-1 if boot_sn is None else boot_sn,
        group_id=group_id,
        keys=lines,
        resources=_offers(doc),
        direct_ifaces=texts(doc, "direct_ifaces"),
        mgmt_addr=text(mapping(doc, "mgmt_net"), "addr"),
        problems=problems,
    )


def _parse_key(key: "str | None") -> "tuple[int, int] | None":
    """(slice id, node id) of SLICE@NODE."""
    parts = (key or "").split("@")
    if len(parts) != 2 or not all(is_decimal(part) and len(part) <= 15 for part in parts):
        return None
    slice_id, node_id = int(parts[0]), int(parts[1])
    return (slice_id, node_id) if 1 <= slice_id <= MAX_SLICE_ID and 1 <= node_id <= MAX_NODE_ID else None


def _listed(doc: "dict[str, Any]", node: "NodeTarget", documents: "Documents") -> "tuple[list[Asked], bool]":
    """The slivers that the node's document lists, by slice, and whether it is sure that these are all.

    Entries of another node are refused by name. An entry that does not say which sliver it means, or that has the id
    of one and the URI of another, makes the list unsure: what it means must not be removed.
    """
    found: "dict[int, Asked]" = {}
    all_known = isinstance(doc.get("slivers"), list) and len(entries(doc, "slivers")) == len(doc["slivers"])
    if not all_known:
        node.problems.append(Problem("/slivers", "The list of slivers cannot be read: no sliver is removed."))
    for index, entry in enumerate(entries(doc, "slivers")):
        member = "/slivers/" + str(index)
        uri = text(entry, "uri")
        absolute = join(node.uri, uri) if uri else None
        own = _parse_key(text(documents.find(absolute), "id"))
        ids = _parse_key(text(entry, "id")) or own
        if own is not None and own != ids:
            all_known = False
            message = shown(entry) + " has the URI of sliver " + str(own[0]) + "@" + str(own[1]) + ": none is removed."
            node.problems.append(Problem(member, message))
        if ids is None or absolute is None:
            all_known = False
            node.problems.append(Problem(member, shown(entry) + " does not say which sliver it is: none is removed."))
        elif ids[1] != node.id:
            node.problems.append(Problem(member, "Sliver " + str(ids[0]) + "@" + str(ids[1]) + " is of another node."))
        elif ids[0] not in found:
            found[ids[0]] = Asked(ids[0], node.id, absolute)
        elif found[ids[0]].uri != absolute:
            found[ids[0]].rivals.append(absolute)
    return [found[slice_id] for slice_id in sorted(found)], all_known
