"""Real clients at real servers on this machine: requests and bytes of each kind of round."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confine.core.settings import Settings
from confine.paths import Paths
from confine.registry.client import Registry as Client
from registry.documents import Testbed, export
from registry.server import Handler, Registry, Reply, Server, html
from registry.testbed import SOURCE

AT_ONCE = 8  # clients that have a round at the same time
ROUND_S = 30.0
TEMPLATES = ("debian", "openwrt", "generic", "data-hello")


@dataclass(frozen=True)
class Cost:
    """Of one node in one round: requests, bytes of HTTP received and sent by it (without TLS and TCP)."""

    requests: float
    received: float
    sent: float


class Counted(io.RawIOBase):
    """A file of a connection; what goes through it is counted in `server.traffic[name]`."""

    def __init__(self, file: Any, server: Any, name: str) -> None:
        self._file = file
        self._server = server
        self._name = name

    def _count(self, size: int) -> None:
        with self._server.lock:
            self._server.traffic[self._name] += size

    def write(self, data: Any) -> int:
        self._count(len(data))
        return int(self._file.write(data) or len(data))

    def readline(self, size: int | None = -1) -> bytes:
        line: bytes = self._file.readline(size)
        self._count(len(line))
        return line

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class CountedHandler(Handler):
    """The example registry's, counted."""

    def setup(self) -> None:
        """See `Handler`."""
        super().setup()
        self.rfile = Counted(self.rfile, self.server, "sent")  # type: ignore[assignment]
        self.wfile = Counted(self.wfile, self.server, "received")  # type: ignore[assignment]


class CountedServer(Server):
    """The example registry over plain http on the loopback. traffic: bytes, by the client's view."""

    poll_s = 0.02

    def __init__(self, registry: Registry) -> None:
        self.lock = threading.Lock()
        self.traffic = {"received": 0, "sent": 0}
        super().__init__(registry)
        self.RequestHandlerClass = CountedHandler

    def __enter__(self) -> CountedServer:
        super().__enter__()
        return self


class Files(Registry):
    """A static web host: gives out the exported documents, knows nothing else."""

    def __init__(self, root: str, testbed: Testbed) -> None:
        super().__init__(testbed, print)
        self._root = root

    def answer(self, path: str, origin: str) -> Reply:
        """The file at `path`."""
        try:
            with open(os.path.join(self._root, path.lstrip("/")), "rb") as file:
                return Reply(200, "application/json", file.read())
        except OSError:
            return html(404, "Not Found")


class Fleet:
    """`count` clients of one registry, one node each (the same: what it asks is what counts)."""

    def __init__(self, address: str, count: int) -> None:
        settings = Settings(node_id=1, registry_uris=[address], plain_http=True)
        self._clients = [Client(settings, Paths()) for _ in range(count)]
        self._states: list[dict[str, Any] | None] = [None] * count

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def round(self) -> None:
        """One round of each."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._one, range(len(self._clients))))

    def _one(self, number: int) -> None:
        deadline = time.monotonic() + ROUND_S
        state, _ = self._clients[number].refresh(self._states[number], deadline)
        assert not state["problems"], state["problems"]
        self._states[number] = state


def measured(fleet: Fleet, server: CountedServer, count: int) -> Cost:
    """What a round of `fleet` costs each node."""
    server.requests.clear()
    before = dict(server.traffic)
    fleet.round()
    received, sent = (server.traffic[name] - before[name] for name in ("received", "sent"))
    return Cost(len(server.requests) / count, received / count, sent / count)


def rounds(address: str, server: CountedServer, count: int, change: Any) -> dict[str, Cost]:
    """{kind of round: cost}. change(): changes one slice's document."""
    fleet = Fleet(address, count)
    try:
        found = {"first": measured(fleet, server, count)}
        fleet.round()  # learns of the index
        found["nothing changed"] = measured(fleet, server, count)
        change()
        found["one document changed"] = measured(fleet, server, count)
    finally:
        fleet.close()
    return found


@contextlib.contextmanager
def testbed() -> Iterator[tuple[Testbed, str]]:
    """(a copy of the example testbed, an empty directory beside it)."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as work:
        files = os.path.join(work, "files")
        os.mkdir(files)
        for name in TEMPLATES:
            with open(os.path.join(files, name + ".json"), "w", encoding="utf-8") as file:
                json.dump({"file": name, "sha256": "ab" * 32, "type": name}, file)
        shutil.copytree(SOURCE, os.path.join(work, "documents"))
        yield Testbed(os.path.join(work, "documents"), files), os.path.join(work, "web")


def edit(bed: Testbed) -> None:
    """Change a slice as a person would."""
    path = os.path.join(bed.path, "slices", "2.json")
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    document["instance_sn"] += 1
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(path + ".new", path)


def all_kinds(count: int) -> dict[str, dict[str, Cost]]:
    """{registry: {kind of round: cost of one node}}, of `count` clients each."""
    found = {}
    with testbed() as (bed, web):
        for name, with_index in (("registry, walk", False), ("registry, index", True)):
            with CountedServer(Registry(bed, print, with_index)) as server:
                found[name] = rounds(server.base, server, count, lambda: edit(bed))
        with CountedServer(Files(web, bed)) as server:
            export(bed, web, server.base)

            def publish() -> None:
                edit(bed)
                export(bed, web, server.base)

            found["static, index"] = rounds(server.base + "index.json", server, count, publish)
            shutil.rmtree(os.path.join(web, "api", "x-node-index"))
            found["static, walk"] = rounds(server.base + "index.json", server, count, lambda: edit_static(web))
    return found


def edit_static(web: str) -> None:
    """Change the published file of a slice."""
    path = os.path.join(web, "api", "slices", "2", "index.json")
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    document["instance_sn"] += 1
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
