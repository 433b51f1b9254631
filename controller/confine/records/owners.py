"""Whose a sliver is, and on whose word the daemon acts: worked out of the registry's documents, for the record.

The record of actions holds a "sliver" entry, with all that is needed to name slice and people later, whenever one of
these changes, and again in each of its files, so that the entries in force are always among those that are kept.
"""

from confine.core import addressing, keys
from confine.core.reading import entries, reference
from confine.core.text import is_decimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Booking, SliverTarget, Step
    from confine.core.settings import Settings
    from confine.records.actions import ActionLog

    State = dict[str, Any]

KIND = "sliver"
HELD = "held"
GONE = "gone"
DAEMON = "the node's daemon"
PRIVATE_INTERFACE = 0
# What may change without anything changing for people: another revision of the same content.
UNIMPORTANT = ("documents",)


def addresses(settings: "Settings", name: str, nr: int) -> "list[str]":
    """The addresses that the sliver `name` with number `nr` sends from, as far as the node gives them: private IPv4 and
    IPv6, and, where the testbed has a management network, its address there."""
    found = [addressing.sliver_private_ipv4(settings.priv_ipv4_prefix24, nr)]
    parsed = addressing.parse_hostname(name)
    if parsed is None:
        return found
    slice_id, node_id = parsed
    found.append(addressing.sliver_private_ipv6(settings.priv_ipv6_prefix48, slice_id, PRIVATE_INTERFACE))
    if settings.mgmt_ipv6_prefix48:
        for number in range(4):  # a sliver's management interface is one of its first
            found.append(addressing.sliver_management_ipv6(settings.mgmt_ipv6_prefix48, node_id, slice_id, number))
    return found


def booked_addresses(settings: "Settings", bookings: "dict[str, Booking]") -> "list[tuple[str, int, list[str]]]":
    """(name, number, addresses) of every sliver that has a booking: what FlowRecorder is to be given."""
    return [(name, found.nr, addresses(settings, name, found.nr)) for name, found in bookings.items()]


def owner(target: "SliverTarget", nr: int, settings: "Settings", state: "State") -> "dict[str, Any]":
    """The "more" of a "sliver" entry:

    {"key", "name", "nr", "addresses": [text], "slice": {"id", "name", "uri"}, "group": {"id", "name", "uri"} or None,
     "node": {"id", "name", "uri"} or None, "people": [{"id", "name", "uri", "roles": [text], "active": bool}],
     "keys_digest", "documents": {uri: revision or None}}
    """
    docs = state.get("docs") or {}
    sliver = docs.get(target.uri) or {}
    slice_uri = reference(sliver, "slice", target.uri)[0] or ""
    group_uri = reference(docs.get(slice_uri), "group", slice_uri)[0] or ""
    group = docs.get(group_uri)
    people = [_person(docs, entry, group_uri) for entry in entries(group, "user_roles")]
    revisions = state.get("revisions") or {}
    used = [target.uri, slice_uri, group_uri, *(person["uri"] for person in people)]
    return {
        "key": target.key,
        "name": target.name,
        "nr": nr,
        "addresses": addresses(settings, target.name, nr),
        "slice": {"id": target.slice_id, "name": target.slice_name, "uri": slice_uri},
        "group": _named(group),
        "node": _named(state.get("node")),
        "people": people,
        "keys_digest": keys.digest(target.keys),
        "documents": {uri: revisions.get(uri) for uri in used if uri},
    }


def step_record(step: "Step", state: "State | None", took_s: float, error: "str | None" = None) -> "dict[str, Any]":
    """The arguments of ActionLog.add for a step that was carried out, or failed with `error`. Pure."""
    found = state or {}
    docs, revisions = found.get("docs") or {}, found.get("revisions") or {}
    target = step.sliver
    document, who = None, step.who or DAEMON
    more: dict[str, Any] = {"ms": round(took_s * 1000)}
    if target is not None:
        if not step.who:  # else no document asked for it
            document, who = target.uri, _group_words(target, docs)
        slice_uri = reference(docs.get(target.uri), "slice", target.uri)[0]
        if slice_uri:
            more["slice"] = {"uri": slice_uri, "revision": revisions.get(slice_uri)}
    elif found.get("node") and not step.who:
        document = found["node"].get("uri")  # a sliver that is taken down is missing from the node's list
    if step.booking is not None:
        more["nr"] = step.booking.nr
    if error is not None:
        more["error"] = error[:500]
    what = "{} {}{}".format(step.driver, step.verb, " failed" if error is not None else "")
    return {
        "kind": "step",
        "subject": step.subject,
        "who": who,
        "what": what,
        "why": step.why,
        "document": document,
        "revision": revisions.get(document),
        "more": more,
    }


class Owners:
    """Keeps the "sliver" entries of the record up to date. For one thread."""

    def __init__(self, actions: "ActionLog", settings: "Settings") -> None:
        self._actions = actions
        self._settings = settings
        self._segment: int | None = None
        self._written: dict[str, dict[str, Any]] = {}
        self._to_say_again: set[str] = set()
        self._seen: tuple[object, list[tuple[str, int]]] | None = None

    def look(self, state: "State | None", slivers: "list[SliverTarget]", bookings: "dict[str, Booking]") -> None:
        """Record whose the booked slivers are, where that changed. Nothing changed: next to no work. Never raises.

        state: the registry state (`reader.state`), slivers: `desired.slivers` made of it, bookings: the journal's.
        """
        booked = sorted((name, found.nr) for name, found in bookings.items())
        segment = self._actions.segment()
        if self._seen is not None and self._seen[0] is state and self._seen[1] == booked and segment == self._segment:
            return
        if self._segment is None:
            self._recall()
        elif segment != self._segment and self._segment > 0:
            self._to_say_again = set(self._written)
        self._segment, self._seen = segment, (state, booked)
        targets = {target.name: target for target in slivers}
        for name, nr in booked:
            if state is not None and name in targets:
                self._note(owner(targets[name], nr, self._settings, state), targets[name].uri)
        for name in [name for name in self._written if name not in bookings]:
            gone = self._written.pop(name)
            self._add(name, GONE, gone, None)

    def _recall(self) -> None:
        """What the file that is written to now says already: a restart writes nothing twice."""
        for record in self._actions.newest_segment():
            if record["kind"] == KIND and record["subject"] and record["more"]:
                if record["what"] == GONE:
                    self._written.pop(record["subject"], None)
                else:
                    self._written[record["subject"]] = record["more"]

    def _note(self, found: "dict[str, Any]", uri: str) -> None:
        name = found["name"]
        if name in self._to_say_again or _important(self._written.get(name)) != _important(found):
            self._add(name, HELD, found, uri)
            self._written[name] = found
            self._to_say_again.discard(name)

    def _add(self, name: str, what: str, found: "dict[str, Any]", uri: "str | None") -> None:
        group = found.get("group") or {}
        who = "registry: group {} {}".format(group.get("id"), group.get("name")) if group else DAEMON
        why = "whose the sliver is, from now on" if what == HELD else "its number and addresses are free again"
        revision = (found.get("documents") or {}).get(uri) if uri else None
        self._actions.add(KIND, name, who, what, why, uri, revision, found)


def _important(found: "dict[str, Any] | None") -> "dict[str, Any] | None":
    return found and {name: value for name, value in found.items() if name not in UNIMPORTANT}


def _named(doc: "Any") -> "dict[str, Any] | None":
    if not isinstance(doc, dict):
        return None
    return {"id": _id(doc), "name": doc.get("name"), "uri": doc.get("uri")}


def _id(doc: "dict[str, Any]") -> "Any":
    """The id; group and user documents of some registries have it only as the end of their URI."""
    last = str(doc.get("uri", "")).rstrip("/").rsplit("/", 1)[-1]
    return doc.get("id") if doc.get("id") is not None else int(last) if is_decimal(last) and len(last) < 16 else None


def _person(docs: "dict[str, Any]", entry: "dict[str, Any]", group_uri: str) -> "dict[str, Any]":
    uri = reference(entry, "user", group_uri)[0] or ""
    user = docs.get(uri) or {}
    roles = [name[3:] for name in (keys.GROUP_ADMIN, keys.SLICE_ADMIN, keys.NODE_ADMIN) if entry.get(name) is True]
    return {
        "id": _id({**user, "uri": uri}),
        "name": user.get("name"),
        "uri": uri,
        "roles": roles,
        "active": user.get("is_active") is True,
    }


def _group_words(target: "SliverTarget", docs: "dict[str, Any]") -> str:
    slice_uri = reference(docs.get(target.uri), "slice", target.uri)[0] or ""
    group = docs.get(reference(docs.get(slice_uri), "group", slice_uri)[0] or "") or {}
    name = " " + str(group["name"]) if group.get("name") else ""
    return "registry: group {}{}, slice {} {}".format(target.group_id, name, target.slice_id, target.slice_name)
