"""One round through the registry's documents, as the node needs them, into the registry state.

The way: base -> node -> its group, slivers, islands -> the slivers' slices and templates -> the slices' groups and
templates -> the groups' users; and the lists of servers and hosts (registry API: follow URIs and Link rels).

A document that cannot be had or used this time keeps its last good version, with a problem. A sliver is gone when the
node's list, validly read, has it no longer, and not when its own document answers 404: a registry takes a sliver, and
those of a slice that ends, from the node's list in the same moment (recorded answers 05, 12a and 12b), so that one
which lists what it denies is between two answers or in disorder. A slice is gone if a registry in good health (base
and node were read in this round) says so itself, by a 404 with {"detail"}.
"""

import threading
import time
from collections import deque

from confine.errors import RegistryError
from confine.registry.checking import Checked, check_document, check_list, own_uri
from confine.registry.http import Unreachable
from confine.registry.state import Gathering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.registry.sources import Answer, Source
    from confine.registry.uris import Names

    Found = list[tuple[str, str]]  # (URI, kind)

WORKERS = 4
MAX_DOCUMENTS = 4000
# After so many requests where the server as such failed, the rest of the round is given up.
MAX_UNREACHABLE = 3
ADMIN_ROLES = ("is_group_admin", "is_node_admin", "is_slice_admin")
LISTS = {"server-list": "server", "host-list": "host"}
# Where the documents of a kind are if no Link says otherwise.
PLACES = {"node": "nodes/", "sliver": "slivers/", "slice": "slices/", "template": "templates/", "group": "groups/",
          "user": "users/", "island": "islands/", "server": "servers/", "host": "hosts/"}  # fmt: skip


class Walk:
    """A round at one address: `run()` once, then `healthy` tells whether base and node were read.

    previous: the state from before (`state.prepared`). deadline: monotonic seconds.
    """

    def __init__(
        self, source: "Source", names: "Names", node_id: int, previous: "dict[str, Any]", deadline: float
    ) -> None:
        self._source = source
        self._names = names
        self._node_id = node_id
        self._deadline = deadline
        self._own: str | None = previous["own_uri"]
        self._links: dict[str, str] = previous["links"]
        self._date: str | None = previous["date"]
        self._gathered = Gathering(previous, names.canonical)
        self._unreachable = 0
        self.healthy = False
        # Shared by the workers, guarded by `_turn`:
        self._turn = threading.Condition()
        self._seen: set[str] = set()
        self._queue: deque[tuple[str, str]] = deque()
        self._busy: set[str] = set()
        self._closed = False
        self._excess = False

    def run(self) -> "dict[str, Any]":
        """Read everything and return the new state. RegistryError if the base document cannot be had or used."""
        self._read_base()
        node_uri = self._collection("node-list", "nodes/") + str(self._node_id) + "/"
        self._seen.add(node_uri)
        self.healthy = self._visit(node_uri, "node")
        with self._turn:
            self._enqueue([(self._collection(name, PLACES[kind]), name) for name, kind in LISTS.items()])
        self._crawl()
        return self._gathered.state(node_uri, self._date, self._own, self._links)

    def _read_base(self) -> None:
        uri = self._names.canonical
        self._seen.add(uri)
        answer = self._source.read(self._source.base, "base", self._gathered.revision(uri), self._deadline)
        if answer.gone:
            raise RegistryError("the registry says that its base document is not there (status 404)")
        self._date = answer.date or self._date
        if not answer.unchanged:
            self._own = own_uri(answer.value, self._source.base)
            self._links = {
                relation: self._names.known(link, self._source.base, self._own)
                for relation, link in answer.links.items()
            }
        self._take(uri, "base", answer, self._checked(uri, "base", answer))

    def _collection(self, relation: str, usual: str) -> str:
        """A collection's URI: the base document's Link, or where it usually is (directories have no Links)."""
        uri = self._links.get(relation, "")
        known = uri.startswith(self._names.canonical) and uri.endswith("/")
        return uri if known else self._names.canonical + usual

    # -- from document to document, by some workers ---------------------------------------------------------------

    def _crawl(self) -> None:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(WORKERS, len(self._queue)))]
        for thread in threads:
            thread.start()
        with self._turn:
            left = max(0.0, self._deadline - time.monotonic())
            self._turn.wait_for(lambda: not self._queue and not self._busy, left)
            # A worker that is stuck (name resolution cannot be interrupted) is left behind; it ends by itself.
            self._closed = True
            self._turn.notify_all()
            unread = sorted(self._busy) + [uri for uri, _ in self._queue]
            for uri in unread:
                self._gathered.failed(uri, "was not read before the round had to end")
            if self._excess:
                message = "the documents refer to more than {} others; the rest is not read".format(MAX_DOCUMENTS)
                self._gathered.note(self._names.canonical, message)
            if unread or self._excess:
                self._gathered.keep_rest()

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or self._queue or not self._busy)
                if self._closed or not self._queue:
                    return
                uri, kind = self._queue.popleft()
                self._busy.add(uri)
            try:
                self._visit(uri, kind)
            finally:
                with self._turn:
                    self._busy.discard(uri)
                    if not self._busy and not self._queue:
                        self._turn.notify_all()

    def _enqueue(self, found: "Found") -> None:
        """Put what was not seen yet into the queue. With `_turn` held once the workers run."""
        before = len(self._queue)
        for uri, kind in found:
            if self._misplaced(uri, kind) or uri in self._seen:
                continue
            if len(self._seen) >= MAX_DOCUMENTS:
                self._excess = True
                break
            self._seen.add(uri)
            self._queue.append((uri, kind))
        new = len(self._queue) - before
        if new:
            self._turn.notify(new + 1)  # one of those that wait is `_crawl`

    def _misplaced(self, uri: str, kind: str) -> bool:
        """Whether `uri` lies among the documents of another kind. Read as what it is not, a slice that somebody's
        sliver names as its template would be lost to its own slivers."""
        if kind in LISTS:
            return False
        for other, usual in PLACES.items():
            if other != kind and uri.startswith(self._collection(other + "-list", usual)):
                name = uri + "#" + kind
                if name not in self._seen:
                    self._seen.add(name)
                    self._gathered.note(name, "is referred to as a {}, but lies among the {}s".format(kind, other))
                return True
        return False

    # -- one document -----------------------------------------------------------------------------------------------

    def _visit(self, uri: str, kind: str) -> bool:
        """Read one document and take what came of it. False if it could not be had or used."""
        try:
            answer = self._read(uri, kind)
            checked = self._checked(uri, kind, answer)
        except Exception as error:  # also a fault of ours in one document must not lose it, nor stop the others
            message = str(error) if isinstance(error, RegistryError) else "reading it failed: " + repr(error)
            with self._turn:
                if not self._closed:
                    self._gathered.failed(uri, message)
                    self._follow(uri, kind)
            return False
        with self._turn:
            if not self._closed:
                self._take(uri, kind, answer, checked)
                self._follow(uri, kind)
        return True

    def _read(self, uri: str, kind: str) -> "Answer":
        if self._unreachable >= MAX_UNREACHABLE:
            raise RegistryError("the registry stopped answering during this round")
        where = self._names.at(uri, self._source.base)
        try:
            answer = self._source.read(where, kind, self._gathered.revision(uri), self._deadline)
        except Unreachable:
            self._unreachable += 1
            raise
        if answer.gone and not (self.healthy and kind == "slice"):
            raise RegistryError("the registry says that it is not there (status 404)")
        return answer

    def _checked(self, uri: str, kind: str, answer: "Answer") -> "list[Checked]":
        """The document in `answer`, or the documents of the list in it, held against their schema."""
        if answer.gone or answer.unchanged:
            return []
        if kind in LISTS:
            return check_list(LISTS[kind], answer.value, uri, self._names, self._own)
        checked = check_document(kind, answer.value, uri, self._names, self._own)
        if checked.doc is None:
            raise RegistryError(checked.failure)
        if checked.uri != uri:
            raise RegistryError("the document says it is {}, not the one asked for".format(checked.uri[:200]))
        if kind == "node" and checked.doc["id"] != self._node_id:
            raise RegistryError("the document is of node {}, this is {}".format(checked.doc["id"], self._node_id))
        return [checked]

    def _take(self, uri: str, kind: str, answer: "Answer", checked: "list[Checked]") -> None:
        """Keep what a usable answer says. With `_turn` held once the workers run."""
        if answer.gone:
            self._gathered.gone(uri)
        elif answer.unchanged:
            self._gathered.unchanged(uri)
        elif kind in LISTS:
            self._take_list(uri, answer, checked)
        else:
            for item in checked:
                self._gathered.good(uri, item.doc or {}, item.problems, answer.revision)

    def _take_list(self, uri: str, answer: "Answer", checked: "list[Checked]") -> None:
        """Keep a list. One with unusable items is read in full again next time, so that they stay reported."""
        usable = all(item.doc is not None for item in checked)
        self._gathered.good_list(uri, [item.uri for item in checked], answer.revision if usable else None)
        for item in checked:
            if item.doc is None:
                self._gathered.failed(item.uri, item.failure)
            else:
                self._gathered.good(item.uri, item.doc, item.problems, None)

    def _follow(self, uri: str, kind: str) -> None:
        """Queue what the document, or its last good version, refers to. With `_turn` held."""
        doc = self._gathered.doc(uri)
        if doc is None:
            return
        try:
            found = references(kind, doc)
        except (KeyError, TypeError):  # a last good version that was cleaned by an older schema
            self._gathered.keep_rest()
            return
        self._enqueue(found)


def references(kind: str, doc: "dict[str, Any]") -> "Found":
    """The documents the node needs because of `doc`, a clean document of `kind`."""
    found: Found = []
    if kind == "node":
        found = [(ref["uri"], "sliver") for ref in doc["slivers"]] + [(doc["group"]["uri"], "group")]
        found += islands([doc["island"]] + [address["island"] for address in (doc["tinc"] or NO_TINC)["addresses"]])
    elif kind == "sliver":
        found = [(doc["slice"]["uri"], "slice")]
        if doc["template"] is not None:
            found.append((doc["template"]["uri"], "template"))
    elif kind == "slice":
        found = [(doc["group"]["uri"], "group"), (doc["sliver_defaults"]["template"]["uri"], "template")]
    elif kind == "group":
        found = [(role["user"]["uri"], "user") for role in doc["user_roles"] if any(role[name] for name in ADMIN_ROLES)]
    return found


NO_TINC: "dict[str, Any]" = {"addresses": []}


def islands(refs: "list[dict[str, Any] | None]") -> "Found":
    """The islands among `refs` that have a URI (some are only numbers)."""
    return [(ref["uri"], "island") for ref in refs if ref is not None and ref["uri"] is not None]
