"""The registry state: what was read last and is good, as one JSON-ready dict, and how a round makes the next one.

    {"base": doc|None, "node": doc|None, "docs": {uri: doc}, "gone": [uri], "problems": {uri: [{"member", "message"}]},
     "date": "YYYY-MM-DD"|None, "complete": bool,
     "schema": int, "bases": [uri], "own_uri": uri|None, "links": {rel: uri}, "lists": {uri: [uri]},
     "revisions": {uri: str}}

The first line is for the core (desired.py): documents that passed their schema, by URI; slivers, slices, templates,
groups, users, servers, islands in `docs`. The rest is the registry client's own. `date` is by the clock of a registry
that proved who it is. `complete`: a node document, so a list of its slivers, was read at some time.
"""

from confine.core import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Problem

# Not part of what was read: another revision of the same content is no change, so nothing is written for it.
BOOKKEEPING = ("revisions", "links", "own_uri")


def empty(bases: "list[str]") -> "dict[str, Any]":
    """The state before anything was read, for a registry at the addresses `bases`."""
    return {
        "base": None,
        "node": None,
        "docs": {},
        "gone": [],
        "problems": {},
        "date": None,
        "complete": False,
        "schema": documents.VERSION,
        "bases": list(bases),
        "own_uri": None,
        "links": {},
        "lists": {},
        "revisions": {},
    }


def restored(value: "Any") -> "dict[str, Any] | None":
    """The state that `value`, read from the disk, is; None if it is none. An older version of this program may
    have known fewer members: they are as if nothing was read."""
    if not isinstance(value, dict) or not isinstance(value.get("bases"), list) or not value["bases"]:
        return None
    state = empty([])
    for name, sample in state.items():
        found = value.get(name, sample)
        if sample is not None and type(found) is not type(sample):
            return None
        state[name] = found
    documents_held = [*state["docs"].values(), *(state[name] for name in ("base", "node") if state[name] is not None)]
    if not all(isinstance(doc, dict) and isinstance(doc.get("uri"), str) for doc in documents_held):
        return None
    return state


def prepared(previous: "dict[str, Any] | None", bases: "list[str]") -> "dict[str, Any]":
    """`previous` ready for a round at `bases`: documents under their names there, nothing re-used that was cleaned
    by other rules."""
    if previous is None:
        return empty(bases)
    state = previous
    if state["bases"] != bases:
        state = renamed(state, state["bases"][0], bases[0])
        state["bases"] = list(bases)
        state["revisions"] = {}
    if state["schema"] != documents.VERSION:
        state = dict(state)
        state["schema"] = documents.VERSION
        state["revisions"] = {}
    return state


def renamed(value: "Any", old: str, new: str) -> "Any":
    """A copy of `value` where every text that begins with `old` begins with `new`; of keys, too."""
    if isinstance(value, str):
        return new + value[len(old) :] if value.startswith(old) else value
    if isinstance(value, list):
        return [renamed(item, old, new) for item in value]
    if isinstance(value, dict):
        return {renamed(name, old, new): renamed(item, old, new) for name, item in value.items()}
    return value


def differs(state: "dict[str, Any]", previous: "dict[str, Any] | None") -> bool:
    """Whether `state` says anything that `previous` does not."""
    if previous is None:
        return True
    return any(value != previous.get(name) for name, value in state.items() if name not in BOOKKEEPING)


class Gathering:
    """What one round found, document by document, on top of the state `previous`. Not thread-safe."""

    def __init__(self, previous: "dict[str, Any]", base_uri: str) -> None:
        self._previous = previous
        self._base_uri = base_uri
        self._last = dict(previous["docs"])
        if previous["base"] is not None:
            self._last[base_uri] = previous["base"]
        if previous["node"] is not None:
            self._last[previous["node"]["uri"]] = previous["node"]
        self._docs: dict[str, dict[str, Any]] = {}
        self._lists: dict[str, list[str]] = {}
        self._revisions: dict[str, str] = {}
        self._problems: dict[str, list[dict[str, str]]] = {}
        self._gone: set[str] = set()

    def revision(self, uri: str) -> "str | None":
        """What to ask with for `uri`: the revision that is held, or None if nothing usable is."""
        if uri in self._last or uri in self._previous["lists"]:
            revision = self._previous["revisions"].get(uri)
            return revision if isinstance(revision, str) else None
        return None

    def last(self, uri: str) -> "dict[str, Any] | None":
        """The last good version of `uri` from before this round."""
        return self._last.get(uri)

    def doc(self, uri: str) -> "dict[str, Any] | None":
        """What stands for `uri` after this round so far."""
        return self._docs.get(uri)

    def good(self, uri: str, doc: "dict[str, Any]", problems: "list[Problem]", revision: "str | None") -> None:
        """A usable version of `uri`, with the problems of single members."""
        last = self._last.get(uri)
        self._docs[uri] = last if last is not None and last == doc else doc
        if revision is not None:
            self._revisions[uri] = revision
        if problems:
            self._problems[uri] = [problem.as_doc() for problem in problems]

    def good_list(self, uri: str, items: "list[str]", revision: "str | None") -> None:
        """A usable version of the list `uri` of the documents `items`."""
        self._lists[uri] = items
        if revision is not None:
            self._revisions[uri] = revision

    def unchanged(self, uri: str) -> None:
        """The last good version of `uri` (a list with its documents) is still the newest."""
        self._keep(uri)
        for item in self._lists.get(uri, ()):
            self._keep(item)

    def failed(self, uri: str, message: str) -> None:
        """`uri` could not be had or used: its last good version stays, and what was said of it."""
        self.unchanged(uri)
        self.note(uri, message)
        if uri in self._previous["gone"]:
            self._gone.add(uri)

    def note(self, uri: str, message: str) -> None:
        """Something is wrong with `uri` as a whole."""
        self._problems[uri] = [{"member": "", "message": message}, *self._problems.get(uri, [])]

    def gone(self, uri: str) -> None:
        """The registry says there is no `uri`."""
        self._gone.add(uri)

    def keep_rest(self) -> None:
        """Keep also what this round did not come to. For a round that was cut short."""
        for uri in self._previous["lists"]:
            if uri not in self._lists:
                self.unchanged(uri)
        for uri in self._last:
            if uri not in self._docs and uri not in self._gone:
                self._keep(uri)
        for uri in self._previous["gone"]:
            if uri not in self._docs:
                self._gone.add(uri)

    def _keep(self, uri: str) -> None:
        if uri in self._last:
            self._docs[uri] = self._last[uri]
        if uri in self._previous["lists"]:
            self._lists[uri] = self._previous["lists"][uri]
        revision = self._previous["revisions"].get(uri)
        if revision is not None:
            self._revisions[uri] = revision
        of_members = [problem for problem in self._previous["problems"].get(uri, []) if problem["member"]]
        if of_members:
            self._problems[uri] = of_members

    def state(
        self, node_uri: str, date: "str | None", own_uri: "str | None", links: "dict[str, str]"
    ) -> "dict[str, Any]":
        """The state after the round."""
        node = self._docs.pop(node_uri, None)
        return {
            "base": self._docs.pop(self._base_uri, None),
            "node": node,
            "docs": {uri: self._docs[uri] for uri in sorted(self._docs)},
            "gone": sorted(self._gone),
            "problems": {uri: self._problems[uri] for uri in sorted(self._problems)},
            "date": date,
            "complete": node is not None,
            "schema": documents.VERSION,
            "bases": self._previous["bases"],
            "own_uri": own_uri,
            "links": links,
            "lists": {uri: self._lists[uri] for uri in sorted(self._lists)},
            "revisions": self._revisions,
        }
