"""Documents as bytes. Each is rendered once for each form it is asked in, and again only when it says something new.

What is kept is bounded (limits.PAGES): the least recently used goes first. Whoever calls the node by thousands of
addresses makes it render more often, not grow.
"""

import hashlib
import json
import time
import zlib

from confine.api import browser, limits
from confine.api.documents import PRODUCTION, Document, absolute, build
from confine.api.negotiate import GZIP_ENDING
from confine.api.transport import field_lines, http_date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from confine.api.view import NodeView

PREFIX = "/confine/api/"
PROFILE = "http://confine-project.eu/schema/node/v1/"
OVERHEAD = 1024  # what a page costs besides its bytes


class Page:
    """A rendered document. etag: unquoted, of the plain form. fields: all header lines of a 200; of a 304: `still`."""

    __slots__ = ("body", "etag", "fields", "modified", "still")

    def __init__(self, etag: str, modified: str, fields: bytes, still: bytes, body: bytes) -> None:
        self.etag = etag
        self.modified = modified
        self.fields = fields
        self.still = still
        self.body = body

    def size(self) -> int:
        """Bytes it takes in memory, about."""
        return len(self.body) + len(self.fields) + len(self.still) + OVERHEAD


class Pages:
    """What the node says now, and its renderings. Belongs to one thread."""

    def __init__(self, view: "NodeView", addresses: "Callable[[], dict[str, str | None]]") -> None:
        self._view = view
        self._addresses = addresses
        self._revision: Hashable = None
        self._checked = float("-inf")
        self._documents: dict[str, Document] = {}
        self._production = False
        self._pages: dict[tuple[str, str, bool, bool], Page] = {}
        self._size = 0
        # path: (digest of what it says, since when)
        self._modified: dict[str, tuple[str, str]] = {}

    def production(self) -> bool:
        """Whether there are slivers and templates to be shown."""
        self._look()
        return self._production

    def page(self, path: str, origin: str, html: bool, gzip: bool) -> "Page | None":
        """The document at `path` (below the base) for a client that calls the node `origin`; None: there is none."""
        self._look()
        document = self._documents.get(path)
        if document is None:
            return None
        key = (path, origin, html, gzip)
        page = self._pages.pop(key, None)
        if page is None:
            page = self._render(document, path, origin, html, gzip)
            self._size += page.size()
        self._pages[key] = page  # at the end: the most recently used
        self._make_room()
        return page

    def _look(self) -> None:
        """Take over what the node says, if it may be something new, and not more often than once a second."""
        now = time.monotonic()
        if now - self._checked < limits.STATUS_S:
            return
        self._checked = now
        revision = self._view.revision()
        if revision == self._revision and self._documents:
            return
        status = self._view.status()
        documents = build(status, self._view.registry_state(), self._addresses())
        before, self._documents = self._documents, documents
        for path, old in before.items():
            if not same(old, documents.get(path)):
                self._forget(path)
        self._production = status["node"].get("state") == PRODUCTION
        self._revision = revision

    def _forget(self, path: str) -> None:
        for key in [key for key in self._pages if key[0] == path]:
            self._size -= self._pages.pop(key).size()
        if path not in self._documents:
            self._modified.pop(path, None)

    def _make_room(self) -> None:
        while self._size > limits.PAGES and len(self._pages) > 1:
            oldest = next(iter(self._pages))
            self._size -= self._pages.pop(oldest).size()

    def _render(self, document: Document, path: str, origin: str, html: bool, gzip: bool) -> Page:
        base = origin + PREFIX
        value = absolute(document.value, base)
        links = [(relation, absolute(uri, base)) for relation, uri in document.links()]
        if html:
            body, kind = browser.render(PREFIX + path, value, named(links)), "text/html; charset=utf-8"
        else:
            body, kind = to_json(value), json_type(document.kind)
        etag = hashlib.sha256(body).hexdigest()[:32]
        packed = compressed(body) if gzip else None
        modified = self._since(path, document)
        still: list[tuple[str, Any]] = [
            ("ETag", '"' + etag + (GZIP_ENDING if packed is not None else "") + '"'),
            ("Last-Modified", modified),
            ("Vary", "Accept, Accept-Encoding"),
            ("Cache-Control", "no-cache"),
        ]
        fields = [("Content-Type", kind), ("Link", link_field(links)), *still, ("X-Content-Type-Options", "nosniff")]
        if html:
            fields.append(("Content-Security-Policy", browser.POLICY))
        if packed is not None:
            fields.append(("Content-Encoding", "gzip"))
        return Page(etag, modified, field_lines(fields), field_lines(still), body if packed is None else packed)

    def _since(self, path: str, document: Document) -> str:
        """Since when the document says what it says, as far as anybody looked."""
        digest = hashlib.sha256(to_json(document.value)).hexdigest()
        known = self._modified.get(path)
        if known is None or known[0] != digest:
            known = self._modified[path] = (digest, http_date(time.time()))
        return known[1]


def same(old: Document, new: "Document | None") -> bool:
    """Whether both say the same."""
    return new is not None and old.value == new.value and old.source == new.source


def to_json(value: "Any") -> bytes:
    """JSON in one line, ASCII alone."""
    return json.dumps(value, separators=(", ", ": ")).encode("ascii") + b"\n"


def json_type(kind: str) -> str:
    """The Content-Type of a document of this kind."""
    return f'application/json; profile="{PROFILE}{kind}"'


def link_field(links: "list[tuple[str, str]]") -> str:
    """The Link field (RFC 8288)."""
    return ", ".join(f'<{uri}>; rel="{relation}"' for relation, uri in links)


def named(links: "list[tuple[str, str]]") -> "list[tuple[str, str]]":
    """Links for people: the last word of the relation, without what only POST can do."""
    words = [(relation.rsplit("/", 1)[1], uri) for relation, uri in links]
    return [(word, uri) for word, uri in words if not word.startswith("do-")]


def compressed(body: bytes) -> "bytes | None":
    """`body` as gzip; None if it is not worth it."""
    if len(body) < limits.COMPRESSED_FROM:
        return None
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
