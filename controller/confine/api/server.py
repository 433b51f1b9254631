"""The API's thread: takes connections, waits for all of them at once, and drops what is late or too many."""

import errno
import os
import select
import socket
import ssl
import threading
import time

from confine.api import certificate, limits
from confine.api.addresses import of_local_interface
from confine.api.app import App
from confine.api.connection import DONE, READ, TURN, WRITE, Connection
from confine.api.figures import Machine
from confine.api.firewall import management_address
from confine.api.transport import Encoder
from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.api.view import NodeView
    from confine.core.settings import Settings
    from confine.log import Log
    from confine.paths import Paths

AGAIN_S = 10.0  # until a start that failed is tried again
CLOSE_S = 3.0
FULL_S = 0.5  # pause when the process has no descriptor left
ACCEPTS = 8  # connections taken in a row before the others have their turn
EVENTS = {READ: select.EPOLLIN, WRITE: select.EPOLLOUT, TURN: 0}
IPV6_FREEBIND = 78  # linux/in6.h; Python has no name for it
LOOPBACK = ("127.0.0.1", "::1")
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ApiServer:
    """Serves the node API in a thread of its own, from `start()` to `close()`. What fails at the start (a port that is
    taken, a certificate that cannot be used) is said in the log and tried again."""

    def __init__(self, view: "NodeView", paths: "Paths", settings: "Settings", log: "Log") -> None:
        self._settings = settings
        self._log = log
        self._files = certificate.Files(paths)
        machine = Machine(paths.data, paths.mounts)
        self._app = App(view, settings, log, machine, lambda: of_local_interface(settings))
        self._encoder = Encoder()
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[int, Connection] = {}
        self._turn: list[Connection] = []
        self._accept_from = 0.0  # monotonic; later than now: no descriptor was left
        self._context: ssl.SSLContext | None = None
        self._said: str | None = None
        self._closing = threading.Event()
        self._released = False
        self.ready = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="api", daemon=True)

    def start(self) -> None:
        """Begin; returns at once. `ready` is set when the node can be asked."""
        if self._settings.api_enabled:
            self._thread.start()

    def addresses(self) -> "list[tuple[str, int]]":
        """(address, port) that are listened on."""
        return [listener.getsockname()[:2] for listener in self._listeners.values()]

    def close(self) -> None:
        """Serve no more. Does not wait for a key that is being made. Once is enough, twice does no harm."""
        if self._released:
            return
        self._closing.set()
        os.write(self._wake_write, b".")
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._released = True
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    # ---- start and end ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self._open()
                self._serve()
            except (ConfineError, OSError) as error:
                self._say(str(error))
            except Exception as error:  # a fault here must not end the API for good
                self._say(f"unexpected {type(error).__name__}: {error}")
                if os.environ.get("CONFINE_DEBUG"):
                    raise
            finally:
                self._drop_all()
            self._closing.wait(AGAIN_S)

    def _say(self, reason: str) -> None:
        """Once, not every ten seconds."""
        if reason != self._said:
            self._log.warn("api", f"the node API is not served: {reason}; this is tried again")
        self._said = reason

    def _open(self) -> None:
        pair = certificate.ensure(self._files, management_address(self._settings), self._log)
        if self._closing.is_set():
            return
        self._context = make_context(*pair)
        for address in listen_addresses(self._settings):
            listener = listen(address, self._settings.api_port)
            self._listeners[listener.fileno()] = listener
            self._epoll.register(listener, select.EPOLLIN)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._said = None
        places = ", ".join(f"{address} port {port}" for address, port in self.addresses())
        self._log.info("api", f"node API on {places}")
        self.ready.set()

    def _drop_all(self) -> None:
        self.ready.clear()
        for connection in list(self._connections.values()):
            self._drop(connection)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._turn.clear()
        try:
            self._epoll.unregister(self._wake_read)
        except (OSError, ValueError):
            pass

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing.is_set():
            events = self._epoll.poll(self._pause())
            now = time.monotonic()
            turn, self._turn = self._turn, []
            for descriptor, _ in events:
                connection = self._connections.get(descriptor)
                if connection is not None:
                    if connection.waits != TURN:
                        self._proceed(connection, now)
                elif descriptor in self._listeners:
                    self._accept(self._listeners[descriptor], now)
            for connection in turn:
                if connection.waits == TURN:
                    self._proceed(connection, now)
            self._drop_late(now)

    def _pause(self) -> float:
        """Seconds until something is due; -1: nothing is."""
        if self._turn:
            return 0.0
        due = [connection.deadline for connection in self._connections.values()]
        if self._accept_from:
            due.append(self._accept_from)
        return max(0.0, min(due) - time.monotonic()) if due else -1.0

    def _proceed(self, connection: Connection, now: float) -> None:
        before = connection.waits
        try:
            waits = connection.proceed(now)
        except Exception as error:  # a fault of ours ends this connection, not the others
            self._log.warn("api", f"a connection failed: {type(error).__name__}: {error}")
            waits = DONE
        if waits == DONE:
            self._drop(connection)
            return
        if waits == TURN:
            self._turn.append(connection)
        if waits != before:
            self._epoll.modify(connection.descriptor, EVENTS[waits])

    def _drop_late(self, now: float) -> None:
        for connection in [one for one in self._connections.values() if one.deadline <= now]:
            self._app.served["dropped"] += 1
            if connection.late(now):
                self._proceed(connection, now)
            else:
                self._drop(connection)
        if self._accept_from and self._accept_from <= now:
            self._accept_from = 0.0
            for descriptor in self._listeners:
                self._epoll.modify(descriptor, select.EPOLLIN)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.descriptor, None) is not None:
            try:
                self._epoll.unregister(connection.descriptor)
            except OSError:
                pass  # closed already: a TLS client that was gone before its handshake
        connection.waits = DONE
        connection.close()
        self._app.served["connections"] = len(self._connections)

    # ---- new connections ----------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, now: float) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in FULL:
                    self._hold(now)
                    return
                continue  # the client is gone already
            self._take(sock, now)

    def _hold(self, now: float) -> None:
        """No descriptor or memory is left: look again in a while instead of asking on and on."""
        self._accept_from = now + FULL_S
        for descriptor in self._listeners:
            self._epoll.modify(descriptor, 0)

    def _take(self, sock: socket.socket, now: float) -> None:
        if len(self._connections) >= limits.CONNECTIONS and not self._make_room():
            sock.close()
            self._app.served["dropped"] += 1
            return
        assert self._context is not None  # noqa: S101  # made before anything is listened to
        try:
            connection = Connection(sock, self._context, self._app, self._encoder, now)
        except OSError:
            sock.close()
            return
        self._connections[connection.descriptor] = connection
        self._epoll.register(connection.descriptor, select.EPOLLIN)
        self._app.served["connections"] = len(self._connections)

    def _make_room(self) -> bool:
        """Drop the connection that is idle longest, else the one that takes longest to ask. False: all get answers."""
        open_ones = list(self._connections.values())
        idle = [one for one in open_ones if one.idle()]
        slow = [one for one in open_ones if not one.busy()]
        for candidates in (idle, slow):
            if candidates:
                self._drop(min(candidates, key=lambda one: one.since))
                self._app.served["dropped"] += 1
                return True
        return False


def make_context(certificate_path: str, key_path: str) -> ssl.SSLContext:
    """TLS 1.2 and later with the node's certificate. ConfineError names the files if they are of no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate_path, key_path, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfineError(
            f"the certificate {certificate_path} with the key {key_path} cannot be used ({error}): "
            f"put the right pair there, or remove both to have new ones made"
        )
    return context


def listen_addresses(settings: "Settings") -> "list[str]":
    """Where to listen: as configured; else the management address and loopback; without one, everywhere."""
    if settings.api_listen:
        return list(settings.api_listen)
    address = management_address(settings)
    if address is not None:
        return [address, *LOOPBACK] if _has_ipv6() else ["127.0.0.1"]
    return ["::" if _has_ipv6() else "0.0.0.0"]  # noqa: S104  # reading is for everybody


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return os.path.exists("/proc/net/if_inet6")


def listen(address: str, port: int) -> socket.socket:
    """A listening socket; the address need not be there yet (the overlay may come up later)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        listener.bind((address, port))
        listener.listen(limits.BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfineError(
            f"cannot listen on {address} port {port} ({error.strerror}): set api.port or api.listen to what is free"
        )
    return listener
