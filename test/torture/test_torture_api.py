"""Whatever comes to the node API: each client is answered as HTTP or dropped, nothing is a fault of ours, and the next
one is served."""

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_world import Api, FakeNode, settings

from confine.api import certificate
from confine.api.server import ApiServer
from confine.api.transport import REASONS
from confine.log import Log
from confine.paths import Paths
from torture import mutate, seeds

SHARE, ALL = 500, 30_000
METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"get", b"G\0T"]
PATHS = [
    b"", b"node/", b"slivers/", b"slivers/105/", b"slivers/106", b"slivers/999999999/", b"templates/3/", b"metrics",
    b"openapi.json", b"node/ctl/refresh/", b"../../etc/passwd", b"%2e%2e/", b"slivers/%31%30%35/?x=%zz", b"%", b"#",
]  # fmt: skip
FIELDS = [
    b"Host: localhost", b"Host: 127.0.0.1", b"Host: [::1]:80", b"Host: other.example", b"Host: a, b", b"Host:",
    b"Accept: text/html", b"Accept: */*;q=x, text/html;q=1e9", b"Accept-Encoding: gzip;q=0.5, *;q=0",
    b"If-None-Match: *", b'If-None-Match: "x", W/"y"', b"If-Modified-Since: Thu, 32 Foo 2026", b"Connection: close",
    b"Content-Length: 3", b"Content-Length: 99999", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
    b"X: " + b"y" * 5000, b" folded", b"no colon", b"X:\x01", b"X: \xff\xfe",
]  # fmt: skip
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    top = str(tmp_path_factory.mktemp("api"))
    paths = Paths(data=top, run=top + "/run", etc=top)
    certificate.ensure(certificate.Files(paths), "fdc0:7246:b03f:2a::2", Log(None, echo=False))
    server = ApiServer(FakeNode(), paths, settings(api_plain_http=True), Log(paths.log, echo=False))
    server.start()
    assert server.ready.wait(20), "the API does not start: " + Path(paths.log).read_text()
    yield Api(server, paths.log)
    server.close()


def head(dice: random.Random) -> bytes:
    """A request that may be good."""
    first = b"%s /confine/api/%s HTTP/1.%d" % (dice.choice(METHODS[:3]), dice.choice(PATHS), dice.choice([0, 1, 1, 1]))
    fields = [b"Host: localhost", *dice.sample(FIELDS, dice.randrange(4))]
    return b"\r\n".join([first, *fields, b"", b""])


def request(dice: random.Random) -> bytes:
    """What a client sends, most often something bad."""
    kind = dice.randrange(5)
    if kind == 0:
        return b"".join(head(dice) for _ in range(dice.randint(1, 5)))
    if kind == 1:
        return mutate.damaged(head(dice), dice)
    if kind == 2:
        lines = [dice.choice(METHODS) + b" " + dice.choice(PATHS), *dice.choices(FIELDS, k=dice.randrange(80))]
        return dice.choice([b"\r\n", b"\n", b"\r"]).join([*lines, b"", b""])
    if kind == 3:
        return head(dice)[: dice.randrange(1, 60)]
    return bytes(dice.getrandbits(8) for _ in range(dice.choice([1, 10, 1000, 20_000])))


def converse(api: Api, data: bytes) -> bytes:
    """Send `data`, say that it is all, and return what comes back."""
    with socket.create_connection((api.host, api.port), timeout=30) as sock:
        parts = []
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                parts.append(part)
        except TimeoutError:
            raise
        except OSError:
            pass  # dropped; to shut down what was dropped before is no ConnectionError
        return b"".join(parts)


def answered(api: Api, dice: random.Random) -> None:
    data = request(dice)
    got = converse(api, data)
    found = [int(status) for status in STATUS.findall(got)]
    assert got.startswith(b"HTTP/1.1 ") == bool(got), got[:80]
    assert set(found) <= set(REASONS) - {500}, (data[:300], found)


def tried(api: Api, count: int) -> None:
    for number in seeds.numbers(count):
        with seeds.example("api", number) as dice:
            answered(api, dice)
    assert api.get("node/").json["id"] == 42
    assert "failed" not in api.log(), api.log()[-500:]


def test_bad_requests_to_the_node_api_are_answered_or_dropped_and_the_next_client_is_served(api: Api) -> None:
    tried(api, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_very_many_bad_requests_to_the_node_api_are_answered_or_dropped(api: Api) -> None:
    tried(api, ALL)


def test_what_breaks_off_or_is_no_tls_is_dropped_and_the_next_client_is_served(api: Api) -> None:
    for number in seeds.numbers(100):
        with seeds.example("tls", number) as dice, socket.create_connection((api.host, api.port), timeout=30) as sock:
            sock.sendall(b"\x16" + mutate.damaged(b"\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), dice))
    assert api.get("node/").json["id"] == 42
