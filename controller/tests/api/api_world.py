"""Helpers of the API's tests: an invented node, and a client that can also misbehave."""

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import core_world as core

from confine.api.server import ApiServer
from confine.core import report
from confine.core.settings import Settings

BASE = "/confine/api/"
PREFIX = "fdc0:7246:b03f"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
EVIL = "<script>alert('x')</script>\"&"


def settings(**options: Any) -> Settings:
    """Of a node that serves its API on a free port of loopback."""
    options.setdefault("api_port", 0)
    options.setdefault("api_listen", ["127.0.0.1"])
    options.setdefault("mgmt_ipv6_prefix48", PREFIX)
    return core.settings(**options)


class FakeNode:
    """What the API asks: status made by the real report of a modelled node, and registry documents around it."""

    def __init__(self, slivers: int = 2) -> None:
        self.world = core.World(mgmt_ipv6_prefix48=PREFIX, memory=100_000, disk=100_000)
        targets = [core.sliver_target(5 + index, description=f"sliver {index}") for index in range(slivers)]
        self.asked = core.desired(*targets)
        self.world.settle(self.asked)
        self.state: dict[str, Any] | None = registry_state(self.asked)
        self.doc = self._status()
        self.version = 0
        self.refreshed = 0
        self.looks = 0

    def _status(self) -> dict[str, Any]:
        plan = self.world.plan(self.asked)
        common = (self.asked, plan, self.world.observed, self.world.bookings, self.world.settings)
        shown = [report.sliver(name, *common) for name in sorted(plan.states)]
        for doc in shown:
            doc["usage"] = {
                "memory_bytes": 1000, "cpu_usec": 2_500_000, "cpu_throttled_usec": 0, "pids": 3, "oom_kills": 1,
                "memory_full": 2, "pids_refused": 4, "read_bytes": 5, "write_bytes": 6,
            }  # fmt: skip
            doc["progress"] = None
        return {
            "version": "1.2",
            "time": time.time(),
            "round": 7,
            "node": report.node(self.asked, plan, *common[2:]),
            "registry": {"uris": [core.BASE], "last_read": time.time() - 5, "last_try": time.time(), "error": None},
            "lent": report.lent(self.world.observed, self.world.bookings, self.world.settings),
            "slivers": shown,
        }

    def change(self, do: Callable[[dict[str, Any]], object]) -> None:
        """Change the status as `do` does, and say that there is something new."""
        do(self.doc)
        self.version += 1

    def in_state(self, state: str) -> None:
        """The node is now in `state`."""
        self.change(lambda doc: doc["node"].update(state=state))

    def revision(self) -> int:
        return self.version

    def status(self) -> dict[str, Any]:
        self.looks += 1
        return self.doc

    def registry_state(self) -> dict[str, Any] | None:
        return self.state

    def refresh(self) -> None:
        self.refreshed += 1


def registry_state(asked: Any) -> dict[str, Any]:
    """The registry's documents for what is `asked`."""
    reference = {"uri": core.BASE + "nodes/42/", "id": 42}
    docs: dict[str, Any] = {}
    for sliver in asked.slivers:
        docs[sliver.uri] = {
            "uri": sliver.uri, "id": sliver.key, "node": reference,
            "slice": {"uri": f"{core.BASE}slices/{sliver.slice_id}/", "id": sliver.slice_id},
            "mgmt_net": {"addr": "fdc0:7246:b03f:2a:1001::5", "backend": "native"},
        }  # fmt: skip
    docs[core.BASE + "templates/3/"] = {
        "uri": core.BASE + "templates/3/", "id": 3, "name": "Debian", "description": EVIL, "type": "debian",
        "node_archs": ["x86_64"], "is_active": True, "image_uri": core.DEBIAN.uri, "image_sha256": "a1" * 32,
    }  # fmt: skip
    node = {
        "uri": core.BASE + "nodes/42/", "id": 42, "name": "mill", "description": EVIL, "arch": "x86_64",
        "set_state": "production", "boot_sn": 1, "group": {"uri": core.BASE + "groups/1/", "id": 1}, "island": None,
        "properties": {"place": "hill"}, "direct_ifaces": ["eth1"],
        "slivers": [{"uri": sliver.uri, "id": sliver.key} for sliver in asked.slivers],
        "resources": [], "mgmt_net": {"addr": "fdc0:7246:b03f:2a::2", "backend": "tinc"}, "tinc": None,
        "api": {"type": "node", "base_uri": "https://[fdc0:7246:b03f:2a::2]/confine/api/", "cert": PEM},
        "cert": PEM, "cn": None,
    }  # fmt: skip
    base = {"uri": core.BASE, "testbed_params": {"mgmt_ipv6_prefix": PREFIX + "::/48"}, "testbed_resources": []}
    return {"base": base, "node": node, "docs": docs}


class Answer(NamedTuple):
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Api:
    """The API under test, as a client sees it."""

    def __init__(self, server: ApiServer, log: str) -> None:
        self.server = server
        self.host, self.port = server.addresses()[0]
        self.origin = f"https://{self.host}:{self.port}"
        self.base = self.origin + BASE
        self._log = log

    def log(self) -> str:
        """What the node's log says."""
        with open(self._log) as file:
            return file.read()

    def connection(self) -> http.client.HTTPSConnection:
        """A kept connection."""
        return http.client.HTTPSConnection(self.host, self.port, timeout=15, context=unverified())

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own. `path` below the base, or from the root. headers: under_scored."""
        connection = self.connection()
        with contextlib.closing(connection):
            return on(connection, path, method, body, **headers)

    def post(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """POST."""
        return self.get(path, "POST", body, **headers)

    @contextlib.contextmanager
    def socket(self, tls: bool = True) -> Iterator[socket.socket]:
        """A bare connection, to misbehave on."""
        sock = socket.create_connection((self.host, self.port), timeout=15)
        try:
            if tls:
                sock = unverified().wrap_socket(sock)
            yield sock
        finally:
            sock.close()

    def raw(self, data: bytes, tls: bool = True) -> bytes:
        """All that comes back for `data` until the server ends the connection, or nothing came for a second."""
        with self.socket(tls) as sock:
            sock.settimeout(1.0)
            try:
                sock.sendall(data)
            except OSError:
                pass  # cut off while sending: what came back counts
            return everything(sock)

    def status_of(self, data: bytes, tls: bool = True) -> int | None:
        """The status of the first answer to `data`; None: none came."""
        got = self.raw(data, tls)
        return int(got.split(b" ", 2)[1]) if got.startswith(b"HTTP/1.1 ") else None

    def connections(self) -> int:
        """How many the server holds."""
        return len(self.server._connections)


def on(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", body: bytes | None = None, /, **headers: str
) -> Answer:
    """A request on an open connection."""
    path = path if path.startswith("/") else BASE + path
    connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def unverified() -> ssl.SSLContext:
    """Trusts anybody: what is tested is not whom to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def everything(sock: socket.socket) -> bytes:
    """What can be read until the end, or until nothing came for the socket's time-out."""
    parts = []
    while True:
        try:
            part = sock.recv(65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def until(sentence: str, done: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until `done()`; fails with `sentence` if that does not come."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, sentence
        time.sleep(0.02)
