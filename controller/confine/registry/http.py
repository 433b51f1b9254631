"""One HTTP/1.0 or 1.1 connection on which nothing waits for ever.

Why not http.client: it has no overall deadline (a server that sends a byte a second holds its caller for hours),
it costs several times as much for a 304, and it brings in the email package. This reads what registries and
static web hosts answer to GET, and refuses the rest.
"""

import socket
import time

from confine.errors import RegistryError
from confine.registry import uris

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_HEAD = 32 * 1024
CHUNK = 64 * 1024
CONNECT_S = 10.0
SILENCE_S = 20.0  # without a single byte
MAX_TRAILER = 64  # fields after the last chunk
MAX_INTERIM = 5  # 1xx answers before the real one


class Unreachable(RegistryError):
    """The server cannot be reached or does not speak HTTP: likely true for its other documents, too."""


class Head:
    """Status and header fields of an answer. Names in lower case; repeated fields joined by ", "."""

    def __init__(self, status: int, version: str, fields: "dict[str, str]") -> None:
        self.status = status
        self.version = version
        self.fields = fields

    def get(self, name: str, default: str = "") -> str:
        """The field `name` (lower case)."""
        return self.fields.get(name, default)

    @property
    def keeps_alive(self) -> bool:
        """Whether the server will take another request on this connection."""
        connection = self.get("connection").lower()
        return "close" not in connection and (self.version == "1.1" or "keep-alive" in connection)


class Connection:
    """A connection to one server. `fresh`: nothing was asked on it yet. Not thread-safe."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self._sock = sock
        self._host = host
        self._buffer = b""
        self.fresh = True
        self.reusable = False

    def close(self) -> None:
        """Close at once."""
        self._sock.close()

    def ask(
        self, path: str, fields: "dict[str, str]", deadline: float, method: str = "GET", body: "bytes | None" = None
    ) -> Head:
        """Ask for `path` and read the head of the answer. `deadline`: monotonic seconds."""
        lines = ["{} {} HTTP/1.1".format(method, uris.escaped(path)), "Host: " + self._host]
        lines += [name + ": " + value for name, value in fields.items()]
        lines += [] if body is None else ["Content-Length: {}".format(len(body))]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + (body or b"")
        self.reusable = False
        try:
            self._sock.settimeout(_patience(deadline))
            self._sock.sendall(request)
        except OSError as error:
            raise Unreachable("sending the request failed: {}".format(reason(error)))
        head = self._head(deadline)
        self.fresh = False
        return head

    def _head(self, deadline: float) -> Head:
        for _ in range(MAX_INTERIM):
            head = parse_head(self._until_blank_line(deadline))
            if head.status >= 200:
                return head
        raise Unreachable("the server sent nothing but interim answers")

    def _until_blank_line(self, deadline: float) -> bytes:
        while b"\r\n\r\n" not in self._buffer and b"\n\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD:
                raise Unreachable("the head of the answer is larger than {} bytes".format(MAX_HEAD))
            if not self._more(deadline):
                raise Unreachable("the server closed the connection before it answered")
        at, length = min((at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := self._buffer.find(mark)) >= 0)
        head, self._buffer = self._buffer[:at], self._buffer[at + length :]
        return head

    def body(self, head: Head, deadline: "float | None") -> "Iterator[bytes]":
        """The body's pieces as they come, transfer encoding undone. Without `deadline` only silence ends it early.

        `reusable` tells afterwards whether the connection can be used again.
        """
        if head.status in (204, 304):
            self.reusable = head.keeps_alive and not self._buffer
            return
        coding = head.get("transfer-encoding").lower()
        if coding not in ("", "identity", "chunked"):
            raise RegistryError("the answer has the transfer encoding {!r}, which is not known".format(coding[:40]))
        if coding == "chunked":
            yield from self._chunks(deadline)
        elif "content-length" in head.fields:
            yield from self._exactly(content_length(head), deadline)
        else:
            yield from self._rest(deadline)
            return
        self.reusable = head.keeps_alive and not self._buffer

    def _rest(self, deadline: "float | None") -> "Iterator[bytes]":
        while self._buffer or self._more(deadline):
            piece, self._buffer = self._buffer, b""
            yield piece

    def _exactly(self, size: int, deadline: "float | None") -> "Iterator[bytes]":
        while size:
            if not self._buffer and not self._more(deadline):
                raise RegistryError("the answer is truncated: {} bytes are missing".format(size))
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            yield piece

    def _chunks(self, deadline: "float | None") -> "Iterator[bytes]":
        while True:
            size = chunk_size(self._line(deadline))
            if size == 0:
                break
            yield from self._exactly(size, deadline)
            self._line(deadline)
        for _ in range(MAX_TRAILER):
            if not self._line(deadline):
                return
        raise RegistryError("the answer has trailer fields without end")

    def _line(self, deadline: "float | None") -> bytes:
        """Without `deadline` a line must come as a whole within SILENCE_S: none of it reaches whoever keeps pace."""
        deadline = time.monotonic() + SILENCE_S if deadline is None else deadline
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD or not self._more(deadline):
                raise RegistryError("the answer is truncated within its chunks")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.strip()

    def _more(self, deadline: "float | None") -> bool:
        """Read what has come, or wait for it. False at the end of the connection."""
        try:
            self._sock.settimeout(_patience(deadline))
            piece = self._sock.recv(CHUNK)
        except OSError as error:
            raise Unreachable("waiting for the answer failed: {}".format(reason(error)))
        self._buffer += piece
        return bool(piece)


def _patience(deadline: "float | None") -> float:
    if deadline is None:
        return SILENCE_S
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unreachable("the answer did not come in time")
    return min(left, SILENCE_S)


def reason(error: OSError) -> str:
    """`error` in words, without numbers that change from one time to the next."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) or type(error).__name__


def parse_head(text: bytes) -> Head:
    """Status line and header fields. `Unreachable` for what is not HTTP."""
    lines = text.decode("latin-1").replace("\r\n", "\n").split("\n")
    parts = lines[0].split(" ", 2)
    version = parts[0][5:]
    if len(parts) < 2 or parts[0][:5] != "HTTP/" or version not in ("1.0", "1.1"):
        raise Unreachable("the answer is not HTTP/1: it begins with {!r}".format(lines[0][:40]))
    if len(parts[1]) != 3 or not parts[1].isascii() or not parts[1].isdigit():
        raise Unreachable("the answer has the status {!r}".format(parts[1][:40]))
    fields: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line[:1] in (" ", "\t") and name:
            fields[name] += " " + line.strip()
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        value = value.strip()
        fields[name] = fields[name] + ", " + value if name in fields else value
    return Head(int(parts[1]), version, fields)


def content_length(head: Head) -> int:
    """The Content-Length. RegistryError if it is no number, or there are several that differ."""
    lengths = {length.strip() for length in head.get("content-length").split(",")}
    length = lengths.pop()
    if lengths or not length.isascii() or not length.isdigit() or len(length) > 15:
        raise RegistryError("the answer has the Content-Length {!r}".format(head.get("content-length")[:40]))
    return int(length)


def chunk_size(line: bytes) -> int:
    """The size a chunk begins with, in hex; extensions after ";" are left out."""
    digits = line.partition(b";")[0].strip()
    if not 1 <= len(digits) <= 8 or any(digit not in b"0123456789abcdefABCDEF" for digit in digits):
        raise RegistryError("the answer has a chunk of the size {!r}".format(line[:40]))
    return int(digits, 16)


def dial(host: str, port: int, deadline: float, closed: "Callable[[str], bool] | None" = None) -> socket.socket:
    """A TCP connection to `host` (name, IPv4 or IPv6 address), its addresses tried in order, without those that are
    closed(address)."""
    try:
        # As bytes: for a text Python would load its tables for international names.
        found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable("the address of {} cannot be found: {}".format(host[:200], getattr(error, "strerror", error)))
    failure = "no address"
    for family, kind, protocol, _, address in found:
        if closed is not None and closed(str(address[0])):
            failure = "this node fetches nothing from there for slices"
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(CONNECT_S, _patience(deadline)))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = reason(error)
        except RegistryError:
            sock.close()
            raise
    raise Unreachable("no connection to {} port {}: {}".format(host[:200], port, failure))
