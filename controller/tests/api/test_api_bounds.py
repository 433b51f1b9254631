"""Clients that are slow, many, wrong or hostile: bounded in memory and time, and the others are served."""

import os
import random
import socket
from collections.abc import Callable

import pytest
from api_world import Api, FakeNode, everything, on, until, unverified
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confine.api import limits
from confine.api.pages import Pages
from confine.api.transport import Refused, parse

pytestmark = pytest.mark.slow

MakeApi = Callable[..., Api]
GOOD = b"GET /confine/api/node/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def request(*lines: bytes, first: bytes = b"GET /confine/api/node/ HTTP/1.1") -> bytes:
    """A request with these header lines; the answer ends the connection."""
    return b"\r\n".join([first, b"Host: 127.0.0.1", b"Connection: close", *lines, b"", b""])


WRONG = {
    "no version": (request(first=b"GET /confine/api/"), 400),
    "too many words": (request(first=b"GET /confine/api/ x HTTP/1.1"), 400),
    "no method": (request(first=b" /confine/api/ HTTP/1.1"), 400),
    "a method of odd characters": (request(first=b"G(T /confine/api/ HTTP/1.1"), 400),
    "another version": (request(first=b"GET /confine/api/ HTTP/2.0"), 505),
    "another protocol": (request(first=b"GET /confine/api/ SSH/1.1"), 400),
    "a path without slash": (request(first=b"GET confine/api/ HTTP/1.1"), 400),
    "a star": (request(first=b"GET * HTTP/1.1"), 400),
    "a fragment": (request(first=b"GET /confine/api/#x HTTP/1.1"), 400),
    "bytes beyond ASCII in the path": (request(first=b"GET /confine/api/\xc3\xa9 HTTP/1.1"), 400),
    "half an encoding": (request(first=b"GET /confine/api/%2 HTTP/1.1"), 400),
    "no encoding": (request(first=b"GET /confine/api/%zz HTTP/1.1"), 400),
    "a folded field": (request(b"X: a", b" b"), 400),
    "a blank before the colon": (request(b"X : a"), 400),
    "a field without colon": (request(b"hello"), 400),
    "a field without name": (request(b": a"), 400),
    "a bare line feed": (request(b"X: a\nY: b"), 400),
    "a bare carriage return": (request(b"X: a\rY: b"), 400),
    "a NUL": (request(b"X: a\0b"), 400),
    "a control character": (request(b"X: a\x1bb"), 400),
    "two hosts": (request(b"Host: localhost"), 400),
    "two lengths": (request(b"Content-Length: 0", b"Content-Length: 0"), 400),
    "a negative length": (request(b"Content-Length: -1"), 400),
    "a length in words": (request(b"Content-Length: 1_0"), 400),
    "a list of lengths": (request(b"Content-Length: 0, 0"), 400),
    "a body that is too long": (request(b"Content-Length: 4097"), 413),
    "a body without end": (request(b"Content-Length: 99999999999999999999"), 400),
    "a chunked body": (request(b"Transfer-Encoding: chunked"), 501),
    "an expectation": (request(b"Expect: 100-continue"), 417),
    "too many fields": (request(*(b"X-%d: y" % index for index in range(70))), 431),
    "a head that is too long": (request(b"X: " + b"y" * 9000), 431),
    "no host": (b"GET /confine/api/ HTTP/1.1\r\n\r\n", 400),
    "an empty line first": (b"\r\n" + request(), 400),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_request_is_refused_with_a_detail_and_the_connection_ended(api: Api, name: str) -> None:
    data, status = WRONG[name]
    with api.socket() as sock:
        sock.sendall(data)
        got = everything(sock)  # to the end: the test's time-out is longer than the API's
    assert got.startswith(b"HTTP/1.1 %d " % status), got
    assert b"Connection: close" in got and b'{"detail": "' in got
    assert got.count(b"Date: ") == 1


TRICKS = [
    "/confine/api/../../etc/passwd",
    "/confine/api/node/../../../etc/shadow",
    "/confine/api/%2e%2e/%2e%2e/etc/",
    "/confine/api//node/",
    "//confine/api/node/",
    "/confine/api/node/./",
    "/confine/api/slivers/105%00/",
    "/confine/api/slivers/%31%30%35%2f..%2f",
    "/confine/api/slivers/-105/",
    "/confine/api/slivers/1e2/",
    "/confine/api/slivers/99999999999999999999/",
    "/confine/api/node%0d%0aX:y/",
    "/CONFINE/API/NODE/",
    "/confine/api/templates/../node/",
    "/confine/api/node\\",
    "/confine/api/%C3%A9/",
    "/confine/api/node/;x",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_path_leads_anywhere_but_to_the_documents(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.status == 404 and answer.json["detail"]


def test_an_encoded_path_means_the_same(api: Api) -> None:
    assert api.get("/confine/%61pi/slivers/%31%305/?x=%zz").json["id"] == "5@42"
    assert api.status_of(request(first=b"GET http://127.0.0.1/confine/api/node/ HTTP/1.1")) == 200


def test_requests_sent_ahead_are_answered_one_after_another(api: Api) -> None:
    paths = ["node/", "slivers/105/", "x/", "slivers/106/", "metrics"] * 40
    ahead = b"".join(b"GET /confine/api/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode() for path in paths)
    with api.socket() as sock:
        sock.sendall(ahead + request())  # 11 KiB: what the server does not take yet, the kernel holds
        got = everything(sock)
    statuses = [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 404, 200, 200] * 40 + [200]


def test_a_body_is_not_taken_for_a_request(api: Api, node: FakeNode) -> None:
    hidden = b"POST /confine/api/node/ctl/refresh/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
    data = GOOD + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden + request()
    assert api.raw(data).count(b"HTTP/1.1 200") == 2 and node.refreshed == 0


def test_a_client_that_sends_byte_by_byte_is_cut_off_and_the_others_are_served(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.4)
    with api.socket() as sock:
        sock.sendall(GOOD)
        assert api.get("node/").status == 200
        got = everything(sock)
    assert got.startswith(b"HTTP/1.1 408 ") and b"Connection: close" in got


def test_a_handshake_that_does_not_come_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.4)
    for first in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
        with api.socket(tls=False) as sock:
            sock.sendall(first)
            assert everything(sock) == b""


def test_what_is_no_tls_ends_the_connection(api: Api) -> None:
    for data in (b"\x16" + os.urandom(500), b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x00\x02", b"\0" * 9000):
        api.raw(data, tls=False)
    until("connections are left over", lambda: api.connections() == 0)
    assert api.get("node/").status == 200


def test_an_idle_connection_is_closed_after_a_while(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_S", 0.3)
    connection = api.connection()
    assert on(connection, "node/").status == 200
    assert connection.sock.recv(1) == b""
    connection.close()


def test_a_client_that_does_not_read_its_answers_is_cut_off(
    api: Api, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_S", 0.5)
    node.change(lambda doc: doc["slivers"][0].update(description="x" * 4_000_000))
    with api.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(GOOD.replace(b"node/", b"slivers/105/") + b"\r\n")
        until("no connection", lambda: api.connections() == 1)
        assert api.get("node/").status == 200
        until("the client that does not read is still there", lambda: api.connections() == 0)


def test_a_new_client_is_served_when_all_connections_are_taken(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 4)
    api = make_api()
    kept = [api.connection() for _ in range(4)]
    for connection in kept:
        assert on(connection, "node/").status == 200
    assert on(kept[0], "node/").status == 200  # so kept[1] is idle longest
    with api.socket(tls=False):
        until("the fifth is not taken", lambda: api.connections() == 4)
        assert kept[1].sock.recv(1) == b""
        for connection in (kept[0], kept[2], kept[3]):
            assert on(connection, "node/").status == 200
            connection.close()


def test_many_half_open_connections_do_not_keep_anybody_out(api: Api) -> None:
    held = []
    try:
        for _ in range(limits.CONNECTIONS * 3):
            held.append(socket.create_connection((api.host, api.port), timeout=15))
        until("connections are not taken", lambda: api.connections() == limits.CONNECTIONS)
        for _ in range(3):
            assert api.get("node/").status == 200
        assert api.connections() <= limits.CONNECTIONS
    finally:
        for sock in held:
            sock.close()


def test_clients_that_vanish_at_any_point_leave_nothing(api: Api) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for cut in range(0, 400, 7):
        sock = socket.create_connection((api.host, api.port), timeout=15)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() resets
        sock.sendall((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400))[: cut or 1])
        sock.close()
    for _ in range(20):
        sock = unverified().wrap_socket(socket.create_connection((api.host, api.port), timeout=15))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(GOOD + b"\r\n")
        sock.close()
    until("connections are left over", lambda: api.connections() == 0)
    until("descriptors are left open", lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert "failed" not in api.log() and api.get("node/").status == 200


def test_whoever_calls_the_node_by_ever_new_addresses_fills_no_memory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGES", 50_000)
    connection = api.connection()
    for number in range(300):
        assert on(connection, "node/", host=f"10.0.{number % 250}.{number // 250}").status == 200
    connection.close()
    pages: Pages = api.server._app._pages
    assert pages._size <= 50_000 and len(pages._pages) < 30
    assert pages._size == sum(page.size() for page in pages._pages.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=200).map(lambda tail: GOOD + tail),
        st.lists(st.sampled_from(list(GOOD + b"\r\n\0\xff %:")), max_size=200).map(bytes),
    )
)
def test_any_head_is_a_request_or_refused(head: bytes) -> None:
    try:
        found = parse(head)
    except Refused as refused:
        assert 400 <= refused.status <= 505 and refused.detail
    else:
        assert found.path.startswith("/") and "\n" not in found.path and 0 <= found.length <= limits.BODY
        assert all("\n" not in value and "\r" not in value for value in found.fields.values())


def test_garbage_over_tls_never_ends_the_api_nor_gets_a_500(api: Api) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(50):
        data = bytearray(request(b"Accept: */*", b"If-None-Match: *") * dice.randint(1, 3))
        for _ in range(dice.randint(0, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with api.socket() as sock:
            sock.settimeout(0.05)
            sock.sendall(bytes(data[: dice.randrange(1, len(data) + 1)]))
            assert b"HTTP/1.1 500" not in everything(sock), f"seed {seed}: {bytes(data)!r}"
    assert api.get("node/").status == 200 and "failed" not in api.log()
