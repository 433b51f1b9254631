"""A registry that goes wrong where a test says so."""

import gzip
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from registry.server import Handler, Reply, Server, json_type

Fault = Callable[[Handler], None]


class FaultyServer(Server):
    """The example registry with `faults`: {path, or beginning of paths that ends in "*": what to do instead}."""

    poll_s = 0.01
    faults: dict[str, Fault] = {}  # noqa: RUF012  # each server sets its own

    def fault(self, path: str) -> Fault | None:
        """The fault for `path`, if there is one."""
        for known, fault in self.faults.items():
            if path == known or (known.endswith("*") and path.startswith(known[:-1])):
                return fault
        return None


def reply(status: int, kind: str, body: bytes, *fields: tuple[str, str]) -> Fault:
    """Answer with this, by the usual transport rules (an ETag, gzip)."""
    return lambda handler: handler.send_reply(Reply(status, kind, body, list(fields)))


def document(profile: str, body: bytes) -> Fault:
    """Answer 200 with `body` as a document of the kind `profile`."""
    return reply(200, json_type(profile), body)


def html(status: int) -> Fault:
    """An HTML page: of a proxy, a captive portal, a broken server."""
    return reply(status, "text/html; charset=utf-8", b"<!DOCTYPE html><title>Hello</title>" + b" " * 300)


def redirect(location: str, status: int = 301) -> Fault:
    """Send the client elsewhere."""
    return reply(status, "text/html; charset=utf-8", b"", ("Location", location))


def raw(*pieces: bytes, pause: float = 0.0) -> Fault:
    """Send these bytes as they are, with a pause after each, then close."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return send


HEAD = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: "00000000000000000000000000000000"\r\n'
    b"Content-Length: %d\r\n\r\n"
)


def truncated(body: bytes) -> Fault:
    """Promise the whole of `body`, send half of it."""
    return raw(HEAD % len(body), body[: len(body) // 2])


def dripping(pause: float = 0.05) -> Fault:
    """Send the head of an answer byte by byte, for ever."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
            while True:
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass  # the client has lost patience

    return send


def silent(handler: Handler) -> None:
    """Never answer."""
    handler.close_connection = True
    handler.connection.settimeout(30)
    try:
        handler.connection.recv(1)
    except OSError:
        pass


def huge(size: int, zipped: bool) -> Fault:
    """A document of `size` bytes, sent piece by piece; `zipped`: as a gzip bomb."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        if zipped:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        try:
            if zipped:
                handler.wfile.write(gzip.compress(b" " * size))
                return
            piece = b" " * (1 << 20)
            for _ in range(size // len(piece)):
                handler.wfile.write(piece)
        except OSError:
            pass  # the client has seen enough

    return send


class Replayed:
    """A plain HTTP/1.0 server that gives back recorded answers byte for byte. answer(path, fields) -> bytes."""

    def __init__(self, answer: Callable[[str, dict[str, str]], bytes]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._socket.getsockname()[1]}/api/"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Replayed":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as request:
            connection.settimeout(10)
            path = request.readline().split(b" ")[1].decode()
            fields: dict[str, Any] = {}
            while line := request.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            connection.sendall(self._answer(path, fields))
