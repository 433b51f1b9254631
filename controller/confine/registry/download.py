"""Downloads of large files (templates, data) that go on where they were cut off.

Their content is checked by sha256 afterwards, so plain http is fine here; TLS is verified all the same: the
registry's own server by the configured certificate, others by the system's CAs.
"""

import os
import socket
import stat
import time

from confine.core.firewall import within
from confine.errors import RegistryError
from confine.registry import uris
from confine.registry.http import Connection, Head, content_length
from confine.registry.transport import MAX_REDIRECTS, REDIRECTS, Transport, redirected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    Sink = Callable[[bytes], None]
    OnStart = Callable[[int, "int | None"], None]

CHUNK = 256 * 1024
START_S = 60.0  # until the head of the answer is there


class Fetcher:
    """Fetches files by URI. Thread-safe.

    bases: the registry's addresses; `registry_cert` verifies their servers. A file: URI is read only below a base
    that is itself a directory on this machine. closed: prefixes that nothing is fetched from, nor from the node itself;
    the registry's servers apart. None: from anywhere.
    """

    def __init__(self, registry_cert: "str | None", bases: "list[str]", closed: "list[str] | None" = None) -> None:
        self._web = [base for base in bases if not base.startswith("file:")]
        self._roots = [base for base in bases if base.startswith("file:")]
        self._closed = closed or []
        places = [uris.place(base) for base in self._web]
        self._registry = {(place.host, port) for place in places for port in (place.port, *uris.PORTS.values())}
        self._transport = Transport(registry_cert, {uris.origin(base) for base in self._web}, True,
                                    None if closed is None else self._is_closed)  # fmt: skip

    def fetch(self, uri: str, sink: "Sink", offset: int, on_start: "OnStart") -> None:
        """Hand the file at `uri`, from byte `offset` on, to `sink` piece by piece.

        on_start(actual offset, size of the whole file or None) is called once before: the offset is 0 where the
        server cannot resume. RegistryError if the file cannot be had or ends early; what `sink` raises goes
        through. A server that sends nothing for 20 s has failed.
        """
        if uri.startswith("file:"):
            self._copy(uri, sink, offset, on_start)
            return
        failure = RegistryError("nothing was tried")
        for where in self._places(uri):
            try:
                connection, head, last = self._open(where, offset)
            except RegistryError as error:
                failure = error
                continue
            try:
                self._receive(connection, head, sink, offset, on_start)
            finally:
                self._transport.give_back(last, connection)
            return
        raise RegistryError("{} cannot be fetched: {}".format(uri[:300], failure))

    def _is_closed(self, host: str, port: int, address: str) -> bool:
        if (host, port) in self._registry:
            return False
        try:
            return within(address, self._closed) or is_own(address)
        except ValueError:  # with a zone: link-local
            return True

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def _places(self, uri: str) -> "list[str]":
        """`uri`, and the same at the registry's other addresses if it is a file of the registry."""
        places = [uri]
        if self._web and uri.startswith(self._web[0]):
            places += [base + uri[len(self._web[0]) :] for base in self._web[1:]]
        elif self._web and uris.origin(uri) == uris.origin(self._web[0]):
            path = uris.place(uri).path
            places += [uris.origin(base) + path for base in self._web[1:]]
        return places

    def _open(self, uri: str, offset: int) -> "tuple[Connection, Head, str]":
        """The answer for `uri` from `offset` on, or for the whole, redirects followed."""
        fields = {"Accept-Encoding": "identity"}
        if offset:
            fields["Range"] = "bytes={}-".format(offset)
        for _ in range(MAX_REDIRECTS):
            connection, head = self._transport.open(uri, fields, time.monotonic() + START_S)
            if head.status in (200, 206):
                return connection, head, uri
            connection.close()
            if head.status == 416 and "Range" in fields:
                del fields["Range"]  # longer here than there: begin anew
            elif head.status in REDIRECTS:
                uri = redirected(uri, head, anywhere)
            else:
                raise RegistryError("the server answered with status {}".format(head.status))
        raise RegistryError("more than {} redirects, the last one to {}".format(MAX_REDIRECTS - 1, uri[:200]))

    def _receive(self, connection: Connection, head: Head, sink: "Sink", offset: int, on_start: "OnStart") -> None:
        start, total = resumed(head, offset) if head.status == 206 else (0, whole(head))
        on_start(start, total)
        done = start
        for piece in connection.body(head, None):
            done += len(piece)
            sink(piece)
        if total is not None and done != total:
            raise RegistryError("the answer is truncated: {} of {} bytes came".format(done, total))

    def _copy(self, uri: str, sink: "Sink", offset: int, on_start: "OnStart") -> None:
        if not any(uri.startswith(root) for root in self._roots) or ".." in uri.split("/"):
            raise RegistryError("the file {} is not in the registry's directory; it is not read".format(uri[:300]))
        path = uri[len("file://") :]
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = offset if offset <= size else 0
            on_start(start, size)
            file.seek(start)
            while piece := read_piece(file, path):
                sink(piece)


def open_file(path: str) -> "BinaryIO":
    """The regular file at `path`, to be read. RegistryError if it cannot be."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RegistryError("the file {} cannot be read: {}".format(path, error.strerror))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RegistryError("{} is not a file".format(path))
    return os.fdopen(handle, "rb")


def read_piece(file: "BinaryIO", path: str, size: int = CHUNK) -> bytes:
    """The next `size` bytes of `file`. RegistryError if it cannot be read."""
    try:
        return file.read(size)
    except OSError as error:
        raise RegistryError("the file {} cannot be read: {}".format(path, error.strerror))


def is_own(address: str) -> bool:
    """Whether `address` is one of this node's: it would speak to itself from there. Nothing is sent."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
        except OSError:
            return False  # no way there


def anywhere(_origin: str) -> bool:
    """The sha256 decides, not where a file comes from."""
    return True


def whole(head: Head) -> "int | None":
    """The size of the file by the head of a full answer."""
    if head.get("content-encoding").lower() not in ("", "identity"):
        raise RegistryError("the server compressed the file, which was not asked for")
    return content_length(head) if "content-length" in head.fields else None


def resumed(head: Head, offset: int) -> "tuple[int, int | None]":
    """(offset, size of the file) by the head of a partial answer. RegistryError if it is not the part asked for."""
    whole(head)
    unit, _, rest = head.get("content-range").partition(" ")
    span, _, size = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit() or int(first) != offset or not (size == "*" or size.isdigit()):
        raise RegistryError("the server sent another part than asked for: {!r}".format(head.get("content-range")[:80]))
    return offset, None if size == "*" else int(size)
