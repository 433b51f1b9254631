"""A node API on loopback, over real TLS, with an invented node behind it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from api_world import Api, FakeNode, settings

from confine.api import certificate, limits
from confine.api.server import ApiServer
from confine.log import Log
from confine.paths import Paths

MakeApi = Callable[..., Api]


@pytest.fixture(scope="session")
def key_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the node's key and certificate."""
    etc = str(tmp_path_factory.mktemp("etc"))
    certificate.ensure(certificate.Files(Paths(etc=etc)), "fdc0:7246:b03f:2a::2", Log(None, echo=False))
    return etc


@pytest.fixture
def node() -> FakeNode:
    """A node in production with two slivers."""
    return FakeNode()


@pytest.fixture
def make_api(node: FakeNode, key_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApi]:
    """Starts APIs: make_api(option=value...)."""
    monkeypatch.setattr(limits, "STATUS_S", 0.0)
    servers = []

    def make(**options: object) -> Api:
        paths = Paths(data=str(tmp_path), run=str(tmp_path / "run"), etc=key_directory)
        server = ApiServer(node, paths, settings(**options), Log(paths.log, echo=False))
        servers.append(server)
        server.start()
        assert server.ready.wait(20), "the API does not start: " + Path(paths.log).read_text()
        return Api(server, paths.log)

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """The API as it is by default."""
    return make_api()
