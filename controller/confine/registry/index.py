"""The index of a node's documents: an extension of this project that makes a round without news one request.

A registry that offers it says so with a Link of its base document, rel ".../rel/registry/x-node-index"; the index of
node 27 is the document `27/` below that URI (docs/developer/registry-index.md):

    {"uri": ..., "node": {"uri", "id"}, "documents": [{"uri": ..., "revision": text or null}, ...]}

`revision` is any text that changes whenever the document does; null says that there is no such document. An index is
never believed further than it was tried: a document counts as unchanged only if it was fetched and good when its
entry said the same, what the index leaves out is asked for as ever, nothing is removed for its sake, and every
`WALK_EVERY`th round reads everything as if there were none.
"""

from confine.core.documents import MAX_NODE_ID, URI
from confine.core.schema import Int, List, Maybe, Object, Text, check, need, optional
from confine.errors import RegistryError
from confine.registry.directory import StaticSource
from confine.registry.sources import Answer, Source
from confine.registry.walk import MAX_DOCUMENTS, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.registry.uris import Names

    Entries = dict[str, str | None]  # {name of a document: its revision, None: there is none}

RELATION = "x-node-index"
WALK_EVERY = 100  # rounds: so long at most can an index that is wrong hide a change
MAX_REVISION = 200

ENTRY = Object({"uri": need(URI), "revision": need(Maybe(Text(MAX_REVISION, 1)))})
INDEX = Object(
    {
        "uri": need(URI),
        "node": need(Object({"uri": optional(Maybe(URI), None), "id": need(Int(1, MAX_NODE_ID))})),
        "documents": need(List(ENTRY, MAX_DOCUMENTS, strict=True)),
    }
)


def entries_of(value: "Any", uri: str, names: "Names", own: "str | None", node_id: int) -> "Entries":
    """What the index `value`, fetched as `uri`, says. RegistryError, with the member, if it cannot be used."""
    said = value.get("uri") if isinstance(value, dict) else None
    document = said if isinstance(said, str) and "://" in said else uri
    clean, problems = check(INDEX, value, lambda found: names.known(found, document, own))
    if clean is None:
        first = problems[0]
        raise RegistryError("the index cannot be used: {} {}".format(first.member, first.message))
    if clean["uri"] != uri:
        raise RegistryError("the index says it is {}, not the one asked for".format(clean["uri"][:200]))
    if clean["node"]["id"] != node_id:
        raise RegistryError("the index is of node {}, this is {}".format(clean["node"]["id"], node_id))
    entries: Entries = {}
    for entry in clean["documents"]:
        if entries.setdefault(entry["uri"], entry["revision"]) != entry["revision"]:
            raise RegistryError("the index says two things of {}".format(entry["uri"][:200]))
    return entries


class Indexed(Source):
    """`source`, but what `held` says is unchanged is not asked for. answered: names of what was answered.

    entries: what the index says now. held: what it said when the documents that are held were read. date: of the
    index's answer.
    """

    def __init__(self, source: Source, canonical: str, entries: "Entries", held: "Entries", date: "str | None") -> None:
        self.base = source.base
        self.answered: set[str] = set()
        self._source = source
        self._canonical = canonical
        self._entries = entries
        self._held = held
        self._date = date

    def read(self, uri: str, kind: str, revision: "str | None", deadline: float) -> Answer:
        """See `Source.read`."""
        name = self._canonical + uri[len(self.base) :]
        if name in self._held and self._held[name] == self._entries.get(name, ""):
            if self._held[name] is None:
                self.answered.add(name)
                return Answer(gone=True, date=self._date)
            if revision is not None:
                self.answered.add(name)
                return Answer(unchanged=True, revision=revision, date=self._date)
        answer = self._source.read(uri, kind, revision, deadline)
        self.answered.add(name)
        return answer


class Rounds:
    """The rounds of one node at one address, by the index where there is one. Kept in memory only: after a restart
    everything is read once, and what is unchanged says so itself."""

    def __init__(self, source: Source, names: "Names", node_id: int) -> None:
        self._source = source
        self._names = names
        self._node_id = node_id
        self._left = 0  # rounds until everything is read
        self._usable = True  # until then
        self._revision: str | None = None
        self._entries: Entries = {}
        self._held: Entries = {}
        self._state: dict[str, Any] | None = None  # what `_held` is about
        self._whole = False  # nothing of `_state` is bad or unheld
        self.error = ""

    def run(self, before: "dict[str, Any]", deadline: float) -> "tuple[dict[str, Any], bool]":
        """One round on top of the state `before`: (the new state, whether base and node were read).

        RegistryError if the registry cannot be read at this address. error: why the index that it offers was not
        followed when it was last tried, or "".
        """
        if self._left == 0:
            self._left, self._usable = WALK_EVERY, True
            self._held = {}
            before = without_revision(before, self._names.canonical)
        elif before is not self._state:
            self._held = {}
        self._left -= 1
        date, failed = None, False
        try:
            date = self._look(before, deadline)
        except RegistryError as error:
            failed = True
            self.error = str(error) if RELATION in before["links"] else ""
            self._revision, self._entries = None, {}
        if self._nothing_new(before):
            return self._dated(before, date), True
        return self._walk(before, deadline, date, failed)

    def _look(self, before: "dict[str, Any]", deadline: float) -> "str | None":
        """Read the index, if there is one, into `_entries`. Returns the day by the registry's clock, or None."""
        where = self._where(before)
        if where is None or not self._usable:
            self._revision, self._entries = None, {}
            return None
        address = self._names.at(where, self._source.base)
        answer = self._source.read(address, RELATION, self._revision, deadline)
        if answer.gone:
            raise RegistryError("the registry has no index of this node")
        if not answer.unchanged:
            self._revision, self._entries = None, {}
            self._entries = entries_of(answer.value, where, self._names, before["own_uri"], self._node_id)
            self._revision = answer.revision
        self.error = ""
        return answer.date

    def _where(self, before: "dict[str, Any]") -> "str | None":
        """The URI of this node's index, None if the registry offers none. A web host cannot say: it is tried, once
        the base document has told what the registry calls itself."""
        if before["own_uri"] is None:
            return None
        collection = before["links"].get(RELATION, "")
        if isinstance(self._source, StaticSource):
            collection = self._names.canonical + RELATION + "/"
        if not collection.startswith(self._names.canonical) or not collection.endswith("/"):
            return None
        return "{}{}/".format(collection, self._node_id)

    def _nothing_new(self, before: "dict[str, Any]") -> bool:
        """Whether a walk would ask for nothing and find nothing."""
        if before is not self._state or not self._whole:
            return False
        return all(self._entries.get(name, "") == held for name, held in self._held.items())

    def _dated(self, before: "dict[str, Any]", date: "str | None") -> "dict[str, Any]":
        if date is not None and date != before["date"]:
            self._state = {**before, "date": date}
            return self._state
        return before

    def _walk(
        self, before: "dict[str, Any]", deadline: float, date: "str | None", failed: bool
    ) -> "tuple[dict[str, Any], bool]":
        source = Indexed(self._source, self._names.canonical, self._entries, self._held, date)
        walk = Walk(source, self._names, self._node_id, before, deadline)
        found = walk.run()
        if failed and walk.healthy:
            self._usable = False  # the registry is well, so it is the index that is not
        self._state = found
        answered = source.answered.copy()  # a worker that is stuck may still add to it
        self._held = held_after(found, answered, self._entries) if walk.healthy else {}
        self._whole = bool(self._held) and answered == set(self._held) and not any(map(bad, found["problems"].values()))
        return found, walk.healthy


def bad(problems: "list[dict[str, str]]") -> bool:
    """Whether a document's problems are of the document as a whole: it could not be had or used."""
    return any(not problem["member"] for problem in problems)


def held_after(state: "dict[str, Any]", answered: "set[str]", entries: "Entries") -> "Entries":
    """Which entries speak of what `state`, just read, holds: the documents that were answered and are good."""
    held: Entries = {}
    for name in answered:
        if name not in entries or bad(state["problems"].get(name, [])):
            continue
        revision = entries[name]
        if (name in state["gone"]) if revision is None else (name in state["revisions"]):
            held[name] = revision
    return held


def without_revision(state: "dict[str, Any]", name: str) -> "dict[str, Any]":
    """`state`, but the document `name` is read in full: a 304 has no Links."""
    return {**state, "revisions": {uri: text for uri, text in state["revisions"].items() if uri != name}}
