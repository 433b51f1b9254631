"""Asks mirrors for files and pieces of files over http(s), or reads them from a directory (file://).

Whatever they answer is bounded in size and time and believed by nobody: signatures and sums decide. Plain http is
fine for the same reason; https is verified by the system's authorities. Mirrors are asked in an order of the node's
own, so that a thousand nodes do not all ask the first one.
"""

import functools
import hashlib
import os
import time

from confine.errors import RegistryError
from confine.registry.download import open_file, read_piece, resumed
from confine.registry.http import content_length
from confine.registry.transport import MAX_REDIRECTS, REDIRECTS, Transport, redirected
from confine.upgrade.signatures import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Pieces(Protocol):
        """Web.pieces of one file at one mirror."""

        def __call__(self, offset: int, size: "int | None", strict: bool = False) -> "Iterator[bytes]": ...

    from confine.registry.http import Connection, Head

ANSWER_S = 60.0  # for the head of an answer, and all of a small file
# A mirror that sends less in this time is left for the next one.
PACE_WINDOW_S = 60.0
PACE_BYTES = 16 * 1024
PIECE = 256 * 1024
ROUNDS = 3  # how often each mirror is asked for a part: connections break, and what came is kept


class MirrorError(BundleError):
    """A mirror does not give what was asked for: another one may."""


class NoRanges(MirrorError):
    """The mirror only gives whole files."""


class Web:
    """One way to files by URI. Not thread-safe."""

    def __init__(self, clock: "Callable[[], float]" = time.monotonic) -> None:
        self._transport = Transport(None, set(), True)
        self._clock = clock

    def small(self, uri: str, limit: int, etag: str = "") -> "tuple[bytes, str] | None":
        """(content, its ETag) of a file of at most `limit` bytes; None if it is still that of `etag`."""
        if uri.startswith("file://"):
            content = b"".join(_file(uri, 0, limit + 1))
            return _bounded(content, limit, uri), ""
        fields = {"If-None-Match": etag} if etag else {}
        deadline = time.monotonic() + ANSWER_S
        try:
            connection, head, last = self._open(uri, fields, (200, 304))
            content = b""
            for piece in connection.body(head, deadline):
                content = _bounded(content + piece, limit, uri, connection)
            self._transport.give_back(last, connection)
        except RegistryError as error:
            raise MirrorError("{}: {}".format(uri, error))
        return None if head.status == 304 else (content, head.get("etag"))

    def pieces(self, uri: str, offset: int, size: "int | None", strict: bool = False) -> "Iterator[bytes]":
        """`size` bytes (None: all there are) of the file from `offset` on, piece by piece as they come: never more,
        whatever the mirror sends. One that knows no ranges is read from the start (strict: NoRanges instead).
        MirrorError if there are fewer, or they come too slowly."""
        if uri.startswith("file://"):
            yield from _file(uri, offset, size)
            return
        try:
            yield from self._from_web(uri, offset, size, strict)
        except RegistryError as error:
            raise MirrorError("{}: {}".format(uri, error))

    def close(self) -> None:
        """Close what is idle."""
        self._transport.close()

    def _from_web(self, uri: str, offset: int, size: "int | None", strict: bool) -> "Iterator[bytes]":
        fields = {"Accept-Encoding": "identity"}
        if offset or size is not None:
            fields["Range"] = "bytes={}-{}".format(offset, "" if size is None else offset + size - 1)
        connection, head, last = self._open(uri, fields, (200, 206))
        done = False
        try:
            if head.status == 206:
                resumed(head, offset)  # raises if it is another part
                skip = 0
            elif offset and strict:
                raise NoRanges("{} cannot be had in pieces".format(uri))
            else:
                skip = offset
            yield from self._bounded(connection, head, skip, size, uri)
            done = True
        finally:
            # Whoever stops in the middle leaves a connection that cannot be asked again.
            if done:
                self._transport.give_back(last, connection)
            else:
                connection.close()

    def _bounded(
        self, connection: "Connection", head: "Head", skip: int, size: "int | None", uri: str
    ) -> "Iterator[bytes]":
        left = size if size is not None else (content_length(head) if "content-length" in head.fields else None)
        pace = _Pace(self._clock)
        for piece in connection.body(head, None):
            pace.add(len(piece), uri)
            if skip:
                piece, skip = piece[skip:], max(0, skip - len(piece))
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            if piece:
                yield piece
                pace.resume()
            if left == 0:
                return
        if left:
            raise RegistryError("the answer is truncated: {} bytes are missing".format(left))

    def _open(self, uri: str, fields: "dict[str, str]", wanted: "tuple[int, ...]") -> "tuple[Connection, Head, str]":
        deadline = time.monotonic() + ANSWER_S
        for _ in range(MAX_REDIRECTS):
            connection, head = self._transport.open(uri, fields, deadline)
            if head.status in wanted:
                return connection, head, uri
            connection.close()
            if head.status not in REDIRECTS:
                raise RegistryError("the server answered with status {}".format(head.status))
            uri = redirected(uri, head, lambda origin: True)
        raise RegistryError("more than {} redirects, the last one to {}".format(MAX_REDIRECTS - 1, uri[:200]))


class _Pace:
    """Gives up a source that dawdles. What the receiver takes for itself (a rate limit) is not counted."""

    def __init__(self, clock: "Callable[[], float]") -> None:
        self._clock = clock
        self._waited = 0.0
        self._since = clock()
        self._bytes = 0

    def add(self, size: int, uri: str) -> None:
        self._waited += self._clock() - self._since
        self._bytes += size
        if self._waited >= PACE_WINDOW_S:
            if self._bytes < PACE_BYTES:
                raise MirrorError("{} comes too slowly: {} bytes in {:.0f} s".format(uri, self._bytes, self._waited))
            self._waited, self._bytes = 0.0, 0
        self._since = self._clock()

    def resume(self) -> None:
        self._since = self._clock()


class Mirrors:
    """The mirrors of a testbed, one after the other. uris: their bases, each with a final slash."""

    def __init__(self, uris: "list[str]", web: Web, own: str) -> None:
        """own: what tells this node from others."""
        self._uris = sorted(uris, key=lambda uri: hashlib.sha256((own + uri).encode()).digest())
        self._web = web
        self.errors: "list[str]" = []

    def head(self, path: str, limit: int, seen: "dict[str, tuple[str, bytes]]") -> "list[bytes]":
        """What the mirrors have at `path`, each different content once, in order. seen: what each (by URI) had the
        last time, with its ETag; brought up to date. It stands for a mirror that says that nothing changed, and for
        one that does not answer. `errors` says what failed. MirrorError if none answered."""
        found: "list[bytes]" = []
        self.errors = []
        for uri in self._uris:
            try:
                answer = self._web.small(uri + path, limit, seen[uri][0] if uri in seen else "")
            except BundleError as error:
                self.errors.append(str(error))
            else:
                if answer is not None:
                    seen[uri] = (answer[1], answer[0])
            if uri in seen and seen[uri][1] not in found:
                found.append(seen[uri][1])
        if self._uris and len(self.errors) == len(self._uris):
            raise MirrorError("no mirror answered: " + "; ".join(self.errors))
        return found

    def small(self, path: str, limit: int, is_right: "Callable[[bytes], bool]") -> bytes:
        """The file at `path` from the first mirror that has the right one. MirrorError if none has."""
        errors = []
        for uri in self._uris:
            try:
                answer = self._web.small(uri + path, limit)
                if answer is not None and is_right(answer[0]):
                    return answer[0]
                errors.append("{}{} is not what the manifest names".format(uri, path))
            except BundleError as error:
                errors.append(str(error))
        raise MirrorError("; ".join(errors) or "there are no mirrors: set upgrade.mirror")

    def each(self, path: str, fetch: "Callable[[Pieces], None]") -> None:
        """Have `fetch(pieces)` done with the first mirror that lets it end; what a mirror began, the next one may go on
        with. MirrorError, with what each said last, if none did."""
        errors: "dict[str, str]" = {}
        for uri in self._uris * ROUNDS:
            try:
                fetch(functools.partial(self._web.pieces, uri + path))
                return
            except MirrorError as error:
                errors[uri] = str(error)
        raise MirrorError("; ".join(errors.values()) or "there are no mirrors: set upgrade.mirror")


def _bounded(content: bytes, limit: int, uri: str, connection: "Connection | None" = None) -> bytes:
    if len(content) > limit:
        if connection is not None:
            connection.close()
        raise MirrorError("{} is larger than {} bytes".format(uri, limit))
    return content


def _file(uri: str, offset: int, size: "int | None") -> "Iterator[bytes]":
    path = uri[len("file://") :]
    if ".." in path.split("/"):
        raise MirrorError("{} leads out of its directory".format(uri))
    try:
        with open_file(path) as file:
            file.seek(offset)
            left = os.fstat(file.fileno()).st_size - offset if size is None else size
            while left > 0:
                piece = read_piece(file, path, min(left, PIECE))
                if not piece:
                    return
                left -= len(piece)
                yield piece
    except (RegistryError, OSError) as error:
        raise MirrorError(str(error))
