"""Connections to registries and web hosts: kept open, verified, bounded in time and size.

`Transport.get()` fetches a whole document; `Transport.open()` hands out an answer to be read piece by piece
(downloads). Plain http has to be allowed by the configuration; unverified TLS cannot be had.
"""

import os
import threading
import time
import zlib

from confine.core.uris import join
from confine.errors import RegistryError
from confine.registry import uris
from confine.registry.http import Connection, Head, Unreachable, dial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from socket import socket
    from typing import NamedTuple

    from confine.registry.tls import Trust

    class Response(NamedTuple):
        """status, header fields, body (decoded), and the URI it came from at last."""

        status: int
        head: Head
        body: bytes
        uri: str

else:
    from collections import namedtuple

    Response = namedtuple("Response", ("status", "head", "body", "uri"))

MAX_DOCUMENT = 2 * 1024 * 1024
MAX_REDIRECTS = 4
REDIRECTS = (301, 302, 303, 307, 308)
IDLE_CONNECTIONS = 4  # kept open for each server


class Transport:
    """Connections by origin. Thread-safe; each connection is used by one thread at a time.

    trust_path: PEM file for the servers in `pinned` (origins), None: the system's CAs for them, too.
    plain_http: whether http:// may be used at all. closed(host, port, address): it is not connected to.
    """

    def __init__(
        self,
        trust_path: "str | None",
        pinned: "set[str]",
        plain_http: bool,
        closed: "Callable[[str, int, str], bool] | None" = None,
    ) -> None:
        self._closed = closed
        self._trust_path = trust_path
        self._pinned = pinned
        self._plain_http = plain_http
        self._idle: dict[str, list[Connection]] = {}
        self._trusts: dict[bool, tuple[int, Trust]] = {}
        self._lock = threading.Lock()

    def get(self, uri: str, fields: "dict[str, str]", deadline: float, may_go: "Callable[[str], bool]") -> Response:
        """The whole answer for `uri`, redirects followed, gzip undone, at most `MAX_DOCUMENT` bytes.

        may_go: whether a redirect to that origin is allowed. deadline: monotonic seconds, for all of it.
        RegistryError with the reason otherwise; `Unreachable` if the server as such is at fault.
        """
        for _ in range(MAX_REDIRECTS):
            connection, head = self.open(uri, fields, deadline)
            try:
                body = collected(head, connection.body(head, deadline))
            except RegistryError:
                connection.close()
                raise
            self.give_back(uri, connection)
            if head.status not in REDIRECTS:
                return Response(head.status, head, body, uri)
            uri = redirected(uri, head, may_go)
        raise RegistryError("more than {} redirects, the last one to {}".format(MAX_REDIRECTS - 1, uri[:200]))

    def send(self, method: str, uri: str, fields: "dict[str, str]", body: bytes, deadline: float) -> Response:
        """The answer to a request with a body, on a connection of its own; no redirect is followed."""
        where = uris.place(uri)
        connection = self._connect(where, deadline)
        try:
            head = connection.ask(where.path, fields, deadline, method, body)
            return Response(head.status, head, collected(head, connection.body(head, deadline)), uri)
        finally:
            connection.close()

    def open(self, uri: str, fields: "dict[str, str]", deadline: float) -> "tuple[Connection, Head]":
        """Ask for `uri` and read the head of the answer. The caller gives the connection back, or closes it."""
        where = uris.place(uri)
        connection = self._take(uris.origin_of(where))
        if connection is not None:
            try:
                return connection, connection.ask(where.path, fields, deadline)
            except Unreachable:
                # Servers close connections that were idle for long. A GET may be asked again.
                connection.close()
        connection = self._connect(where, deadline)
        try:
            return connection, connection.ask(where.path, fields, deadline)
        except RegistryError:
            connection.close()
            raise

    def give_back(self, uri: str, connection: Connection) -> None:
        """Keep `connection` for the next request to the server of `uri`, if it can be used again."""
        if connection.reusable:
            with self._lock:
                idle = self._idle.setdefault(uris.origin(uri), [])
                if len(idle) < IDLE_CONNECTIONS:
                    idle.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            for idle in self._idle.values():
                for connection in idle:
                    connection.close()
            self._idle = {}

    def _take(self, origin: str) -> "Connection | None":
        with self._lock:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

    def _connect(self, where: "uris.Place", deadline: float) -> Connection:
        host = uris.bracketed(where.host)
        authority = host if where.port == uris.PORTS[where.scheme] else "{}:{}".format(host, where.port)
        if where.scheme == "http":
            if not self._plain_http:
                raise Unreachable(
                    "plain http to {} is refused: use https, or set plain_http in /etc/config/confine if "
                    "the management overlay protects the way to the registry".format(authority)
                )
            return Connection(self._dial(where, deadline), authority)
        trust = self._trust(uris.origin("https://" + authority) in self._pinned)
        wrapped = trust.wrap(self._dial(where, deadline), where.host, deadline)
        if wrapped is None:
            wrapped = trust.wrap(self._dial(where, deadline), where.host, deadline)
        if wrapped is None:
            raise Unreachable("TLS with {} failed: its certificate changed between two connections".format(authority))
        return Connection(wrapped, authority)

    def _dial(self, where: "uris.Place", deadline: float) -> "socket":
        closed = self._closed
        refused = None if closed is None else lambda address: closed(where.host, where.port, address)
        return dial(where.host, where.port, deadline, refused)

    def _trust(self, pinned: bool) -> "Trust":
        from confine.registry.tls import Trust  # lazy: ssl costs memory, and a plain overlay needs none

        path = self._trust_path if pinned else None
        stamp = changed_at(path)
        with self._lock:
            known = self._trusts.get(pinned)
            if known is None or known[0] != stamp:
                known = (stamp, Trust(path))
                self._trusts[pinned] = known
            return known[1]


def changed_at(path: "str | None") -> int:
    """When the file was changed last (ns), so that a new certificate is taken up without a restart; 0 if unknown."""
    try:
        return os.stat(path).st_mtime_ns if path else 0
    except OSError:
        return 0


def redirected(uri: str, head: Head, may_go: "Callable[[str], bool]") -> str:
    """Where the redirect `head`, the answer for `uri`, leads. RegistryError where it must not be followed."""
    location = head.get("location")
    if not location:
        raise RegistryError("the answer {} leads nowhere: it has no Location".format(head.status))
    target = join(uri, location)
    if uris.place(uri).scheme == "https" and uris.place(target).scheme != "https":
        raise RegistryError("the redirect to {} leads from https to http; it is not followed".format(target[:200]))
    origin = uris.origin(target)
    if origin != uris.origin(uri) and not may_go(origin):
        raise RegistryError("the redirect to {} leads to another server; it is not followed".format(target[:200]))
    return target


def collected(head: Head, pieces: "Iterable[bytes]") -> bytes:
    """The body from its pieces, gzip undone. RegistryError if it is larger than `MAX_DOCUMENT`, or damaged."""
    coding = head.get("content-encoding").lower()
    if coding in ("", "identity"):
        return _joined(pieces)
    if coding in ("gzip", "x-gzip"):
        return _unzipped(pieces)
    raise RegistryError("the answer has the content encoding {!r}, which was not asked for".format(coding[:40]))


def _joined(pieces: "Iterable[bytes]") -> bytes:
    parts = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_DOCUMENT:
            raise _too_large()
        parts.append(piece)
    return b"".join(parts)


def _unzipped(pieces: "Iterable[bytes]") -> bytes:
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts = []
    size = received = 0
    try:
        for piece in pieces:
            received += len(piece)
            part = unzip.decompress(piece, MAX_DOCUMENT + 1 - size)
            size += len(part)
            if max(size, received) > MAX_DOCUMENT or unzip.unconsumed_tail:
                raise _too_large()
            parts.append(part)
    except zlib.error as error:
        raise RegistryError("the answer's gzip is damaged: {}".format(error))
    if received and not unzip.eof:
        raise RegistryError("the answer is truncated: its gzip has no end")
    return b"".join(parts)


def _too_large() -> RegistryError:
    return RegistryError("the document is larger than {} MiB".format(MAX_DOCUMENT // (1024 * 1024)))


def soon(deadline: float, seconds: float) -> float:
    """`deadline`, but at most `seconds` from now."""
    return min(deadline, time.monotonic() + seconds)
