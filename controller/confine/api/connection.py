"""One connection to the API, as a state machine that never waits: TLS or not, bytes to requests, answers to bytes.

`proceed()` goes on as far as it can and says what it waits for. One request is answered at a time: what a client sent
ahead (pipelining) waits in a buffer of bounded size, then in the kernel, then at the client.
"""

import socket
import ssl

from confine.api import limits
from confine.api.app import App, Place
from confine.api.transport import Encoder, Refused, Request, Response, parse

# What a connection waits for.
READ, WRITE, TURN, DONE = 1, 2, 3, 4

# Where it is.
FIRST, HANDSHAKE, REQUEST, ANSWER, LAST_WORDS = 0, 1, 2, 3, 4

TLS_HANDSHAKE = 0x16  # first byte of a connection with TLS (RFC 8446, 5.1: content type)
HEAD_END = b"\r\n\r\n"
MOST = limits.HEAD + limits.BODY


class Connection:
    """deadline: monotonic seconds; when it has passed, the connection is cut. since: of the last answer, or of the
    beginning. waits: what for."""

    __slots__ = (
        "_app", "_buffer", "_closing", "_context", "_drained", "_encoder", "_out", "_place", "_request", "_sent",
        "deadline", "descriptor", "since", "sock", "state", "waits",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, app: App, encoder: Encoder, now: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock: socket.socket = sock
        self.descriptor = sock.fileno()
        self._context = context
        self._app = app
        self._encoder = encoder
        address = sock.getsockname()
        self._place = Place(False, plain_address(address[0]), address[1])
        self.state = FIRST
        self.waits = READ
        self.since = now
        self.deadline = now + limits.HEAD_S
        self._buffer = bytearray()
        self._request: Request | None = None
        self._out = memoryview(b"")
        self._sent = 0
        self._closing = False
        self._drained = 0

    def idle(self) -> bool:
        """Between two requests: cutting it costs nobody an answer."""
        return self.state in (REQUEST, LAST_WORDS) and not self._buffer and self._request is None

    def busy(self) -> bool:
        """An answer is under way."""
        return self.state == ANSWER

    def proceed(self, now: float) -> int:
        """Go on; gives what is waited for. Whatever goes wrong with the connection ends it."""
        try:
            self.waits = self._proceed(now)
        except (ssl.SSLWantReadError, BlockingIOError):
            self.waits = WRITE if self.state == ANSWER and not self._place.secure else READ
        except ssl.SSLWantWriteError:
            self.waits = WRITE
        except (OSError, ValueError):  # gone, or no TLS; ValueError: closed under way
            self.waits = DONE
        return self.waits

    def close(self) -> None:
        """Cut it."""
        try:
            self.sock.close()
        except OSError:
            pass

    def _proceed(self, now: float) -> int:
        if self.state == FIRST:
            self._first()
        if self.state == HANDSHAKE:
            self.sock.do_handshake()  # type: ignore[attr-defined]  # an SSLSocket by now
            self.state = REQUEST
        if self.state == REQUEST and not self._read(now):
            return DONE
        if self.state == ANSWER:
            return self._write(now)
        return self._drain()

    def _first(self) -> None:
        """TLS or plain: the first byte tells."""
        head = self.sock.recv(1, socket.MSG_PEEK)
        if not head:
            raise ConnectionResetError
        if head[0] != TLS_HANDSHAKE:
            self.state = REQUEST
            return
        self.sock = self._context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self._place.secure = True
        self.state = HANDSHAKE

    # ---- requests -----------------------------------------------------------------------------------------------

    def _read(self, now: float) -> bool:
        """Read until there is a request, and answer it. False: the client is gone."""
        while True:
            try:
                request = self._next()
            except Refused as refused:
                self._refuse(refused.status, refused.detail, now)
                return True
            if request is not None:
                response = self._app.answer(request, self._place)
                self._answer(response, request.keep_alive, request.method != "HEAD", now)
                return True
            data = self.sock.recv(MOST - len(self._buffer))
            if not data:
                return False
            if not self._buffer and self._request is None:
                self.deadline = now + limits.HEAD_S
            self._buffer += data

    def _next(self) -> "Request | None":
        """The next request in the buffer; None if it is not all there yet. Refused if it never will be right."""
        if self._request is None:
            end = self._buffer.find(HEAD_END, 0, limits.HEAD)
            if end < 0:
                if len(self._buffer) >= limits.HEAD:
                    raise Refused(431, f"The head of the request is longer than {limits.HEAD} bytes.")
                return None
            head = bytes(self._buffer[:end])
            del self._buffer[: end + len(HEAD_END)]
            self._request = parse(head)
        request = self._request
        if len(self._buffer) < request.length:
            return None
        request.body = bytes(self._buffer[: request.length])
        del self._buffer[: request.length]
        self._request = None
        return request

    def late(self, now: float) -> bool:
        """The deadline has passed. True: say so to the client; False: nothing to be said, cut it."""
        if self.state != REQUEST or self.idle():
            return False
        self._refuse(408, f"The request was not there within {limits.HEAD_S:.0f} s.", now)
        return True

    # ---- answers ------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, detail: str, now: float) -> None:
        self._app.count(status)
        self._answer(self._app.refuse(status, detail), False, True, now)

    def _answer(self, response: Response, keep_alive: bool, with_body: bool, now: float) -> None:
        self._closing = not keep_alive
        self._out = memoryview(self._encoder.encode(response, keep_alive, with_body))
        self._sent = 0
        self.state = ANSWER
        self.deadline = now + limits.ANSWER_S

    def _write(self, now: float) -> int:
        while self._sent < len(self._out):
            self._sent += self.sock.send(self._out[self._sent :])
        self._out = memoryview(b"")
        self.since = now
        if self._closing:
            self._say_goodbye(now)
            return READ
        self.state = REQUEST
        if self._buffer:
            self.deadline = now + limits.HEAD_S
            return TURN
        self.deadline = now + limits.IDLE_S
        return TURN if self._place.secure and self.sock.pending() else READ  # type: ignore[attr-defined]

    def _say_goodbye(self, now: float) -> None:
        """End our side; then read what is still under way, for a while: data that nobody reads makes the kernel
        reset the connection, and the client might lose the answer."""
        self.state = LAST_WORDS
        self.deadline = now + limits.LINGER_S
        self._buffer.clear()
        self._request = None
        if self._place.secure:
            try:
                self.sock.unwrap()  # type: ignore[attr-defined]  # sends close_notify; does not wait for theirs
            except (OSError, ValueError):
                pass
        self.sock.shutdown(socket.SHUT_WR)

    def _drain(self) -> int:
        while self._drained < limits.LINGER:
            data = self.sock.recv(4096)
            if not data:
                return DONE
            self._drained += len(data)
        return DONE


def plain_address(address: str) -> str:
    """An address without zone; an IPv4 one that came to an IPv6 socket as itself."""
    address = address.split("%", 1)[0]
    return address[7:] if address.startswith("::ffff:") and "." in address else address
