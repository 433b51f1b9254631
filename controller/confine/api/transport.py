"""HTTP/1.1 as text: a request's head to a record, an answer's head to bytes (RFC 9112, the part that clients use).

Strict: whatever two programs could read differently (bare line feeds, folded fields, doubled lengths, chunked bodies)
is refused and the connection closed, so nothing can be smuggled past a proxy.
"""

import time

from confine.api import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CONTROLS = bytes(byte for byte in range(0x20) if byte != 0x09) + b"\x7f"
VISIBLE = bytes(range(0x21, 0x7F))
HEX = b"0123456789abcdefABCDEF"
ONCE = ("host", "content-length", "transfer-encoding", "connection")
REASONS = {
    200: "OK",
    303: "See Other",
    304: "Not Modified",
    308: "Permanent Redirect",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Refused(Exception):
    """A request that is answered with `status` and {"detail": detail}."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Request:
    """One request. path: percent-decoded, without query. fields: by lower-case name, repeated ones joined by ", "."""

    __slots__ = ("body", "fields", "keep_alive", "length", "method", "path")

    def __init__(self, method: str, path: str, fields: "dict[str, str]", keep_alive: bool, length: int) -> None:
        self.method = method
        self.path = path
        self.fields = fields
        self.keep_alive = keep_alive
        self.length = length
        self.body = b""


class Response:
    """An answer. fields: header lines as bytes, each with its line end; length, date and connection are added."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: bytes, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body


def field_lines(fields: "list[tuple[str, Any]]") -> bytes:
    """Header lines. A value never holds a line end: that would be a fault of ours, and is an error."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    if lines.count("\n") != len(fields) or lines.count("\r") != len(fields):
        raise ValueError("a header field holds a line end")
    return lines.encode("latin-1")


def parse(head: bytes) -> Request:
    """The request of `head` (without the empty line at its end). `Refused` says what is wrong with it."""
    if b"\0" in head:
        raise Refused(400, "The request holds a NUL.")
    lines = head.split(b"\r\n")
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise Refused(400, "A line of the request does not end in CR LF.")
    method, target, minor = _request_line(lines[0])
    fields = _fields(lines[1:])
    path, authority = _split_target(target)
    if authority is not None:
        fields["host"] = authority
    if minor == 1 and "host" not in fields:
        raise Refused(400, "The request names no Host.")
    if "transfer-encoding" in fields:
        raise Refused(501, "Transfer-Encoding is not understood: send Content-Length.")
    if "expect" in fields:
        raise Refused(417, "Expect is not understood.")
    return Request(method, _decoded(path), fields, _keep_alive(fields, minor), _length(fields))


def _request_line(line: bytes) -> "tuple[str, str, int]":
    """(method, target, minor version)."""
    words = line.split(b" ")
    if len(words) != 3 or not words[0] or words[0].translate(None, TOKEN) or not words[1]:
        raise Refused(400, "The first line is not METHOD PATH HTTP/1.1.")
    if words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        if words[2].startswith(b"HTTP/"):
            raise Refused(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        raise Refused(400, "The first line is not METHOD PATH HTTP/1.1.")
    if words[1].translate(None, VISIBLE):
        raise Refused(400, "The path holds bytes that must be percent-encoded.")
    return words[0].decode("ascii"), words[1].decode("ascii"), 1 if words[2].endswith(b"1") else 0


def _fields(lines: "list[bytes]") -> "dict[str, str]":
    if len(lines) > limits.FIELDS:
        raise Refused(431, f"There are more than {limits.FIELDS} header fields.")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.translate(None, TOKEN):
            raise Refused(400, "A header field is not NAME: VALUE.")
        if len(value.translate(None, CONTROLS)) != len(value):
            raise Refused(400, "A header field holds control characters.")
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        if key not in fields:
            fields[key] = text
        elif key in ONCE:
            raise Refused(400, f"The header field {key} is there twice.")
        else:
            fields[key] += ", " + text
    return fields


def _split_target(target: str) -> "tuple[str, str | None]":
    """(path without query, authority of an absolute target or None)."""
    authority = None
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            authority, slash, rest = target[len(scheme) :].partition("/")
            target = slash + rest
    if not target.startswith("/") or "#" in target:
        raise Refused(400, "The path does not begin with a slash.")
    return target.split("?", 1)[0], authority


def _decoded(path: str) -> str:
    """`path` with its percent-encodings undone; only what gives visible ASCII is taken."""
    if "%" not in path:
        return path
    parts = path.split("%")
    text = parts[0]
    for part in parts[1:]:
        code = part[:2].encode("ascii")
        if len(code) != 2 or not all(byte in HEX for byte in code):
            raise Refused(400, "The path holds a % without two hex digits.")
        char = chr(int(code, 16))
        if not "!" <= char <= "~":
            raise Refused(404, "There is nothing at this path.")
        text += char + part[2:]
    return text


def _keep_alive(fields: "dict[str, str]", minor: int) -> bool:
    words = [word.strip().lower() for word in fields.get("connection", "").split(",")]
    if "close" in words:
        return False
    return minor == 1 or "keep-alive" in words


def _length(fields: "dict[str, str]") -> int:
    text = fields.get("content-length")
    if text is None:
        return 0
    if not 1 <= len(text) <= 10 or not all("0" <= char <= "9" for char in text):
        raise Refused(400, "Content-Length is not a number.")
    if int(text) > limits.BODY:
        raise Refused(413, f"The body is longer than {limits.BODY} bytes.")
    return int(text)


# Answers

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> str:
    """Wall clock seconds as in a Date field, whatever the locale."""
    t = time.gmtime(seconds)
    return (
        f"{DAYS[t.tm_wday]}, {t.tm_mday:02d} {MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    )


class Encoder:
    """Answers to bytes; the Date line is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._date = b""

    def encode(self, response: Response, keep_alive: bool, with_body: bool) -> bytes:
        """The whole answer; without its body for HEAD (the length still tells it)."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, b"Date: " + http_date(second).encode() + b"\r\n"
        status = response.status
        length = b"" if status == 304 else b"Content-Length: %d\r\n" % len(response.body)
        head = (
            b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status].encode())
            + self._date
            + response.fields
            + length
            + (b"\r\n" if keep_alive else b"Connection: close\r\n\r\n")
        )
        return head + response.body if with_body and status != 304 else head
