"""An example registry for each test, and the client set up for it."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from confine.paths import Paths
from confine.registry.client import Registry
from registry.clients import Client, Documents, make_settings
from registry.documents import Testbed
from registry.faults import FaultyServer
from registry.server import Registry as Answers
from registry.server import make_certificate
from registry.testbed import SOURCE

MakeClient = Callable[..., Client]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MakeClient]:
    """Makes clients: client([uris], cert, plain_http)."""
    with contextlib.ExitStack() as stack:

        def make(uris: list[str], cert: str | None = None, plain_http: bool = False, node: str = "0001") -> Client:
            paths = Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))
            registry = Registry(make_settings(uris, cert, plain_http, node), paths)
            stack.callback(registry.close)
            return Client(registry)

        yield make


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(certificate, key) of the example registry."""
    return make_certificate(str(tmp_path_factory.mktemp("tls")), ["127.0.0.1", "::1", "localhost"])


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    """A copy of the example testbed, with small files for its templates."""
    path, files = tmp_path / "testbed", tmp_path / "files"
    shutil.copytree(SOURCE, path)
    files.mkdir()
    for name in ("debian", "openwrt", "generic", "data-hello"):
        content = (name + " ").encode() * 1000
        (files / (name + ".img")).write_bytes(content)
        record = {"file": name + ".img", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        (files / (name + ".json")).write_text(json.dumps({**record, "type": name}))
    return Documents(str(path), str(files))


class Said(list[str]):
    """What the registry said to the person who runs it."""


@pytest.fixture
def said() -> Said:
    """See `Said`."""
    return Said()


@pytest.fixture
def serve(documents: Documents, said: Said) -> Iterator[Callable[..., FaultyServer]]:
    """Starts example registries on the test's documents: serve(cert, key, keep_alive=, address=, index=).

    index: they offer nodes an index. Off where faults are put in path by path, of which an index would not tell.
    """
    with contextlib.ExitStack() as stack:

        def start(
            cert: str | None = None,
            key: str | None = None,
            keep_alive: bool = True,
            address: str = "127.0.0.1",
            index: bool = False,
        ) -> FaultyServer:
            answers = Answers(Testbed(documents.path, documents.files), said.append, index)
            server = FaultyServer(answers, address, 0, cert, key, keep_alive)
            server.faults = {}
            stack.enter_context(server)
            return server

        yield start


@pytest.fixture
def server(serve: Callable[..., FaultyServer], certificate: tuple[str, str]) -> FaultyServer:
    """The example registry over HTTPS, with open connections."""
    return serve(*certificate)


@pytest.fixture
def node(client: MakeClient, server: FaultyServer, certificate: tuple[str, str]) -> Client:
    """The node's client, with the registry's certificate pinned."""
    return client([server.base], certificate[0])
