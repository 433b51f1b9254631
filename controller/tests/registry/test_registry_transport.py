"""How documents are fetched: conditional requests, connections, addresses."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from confine.core.documents import VERSION
from confine.errors import RegistryError
from confine.registry import http
from confine.registry.http import Unreachable
from confine.registry.transport import Transport
from registry import faults
from registry.faults import FaultyServer, Replayed

Serve = Callable[..., FaultyServer]
BASE_TYPE = 'application/json; profile="http://confine-project.eu/schema/registry/v1/base"'


# -- conditional requests ------------------------------------------------------------------------------------------


def test_nothing_changed_costs_one_conditional_request_a_document_and_no_body(node: Any, server: FaultyServer) -> None:
    first, changed = node.round()
    assert changed
    server.requests.clear()
    state, changed = node.round()
    assert not changed
    assert len(server.requests) == len(set(server.requests)) == len(first["docs"]) + 3 - 1  # base, node, list - server
    assert state["docs"] == first["docs"]


def test_an_unchanged_document_is_the_same_object_as_before(node: Any, server: FaultyServer, documents: Any) -> None:
    first, _ = node.round()
    documents.edit("slices/1", description="another")
    second, changed = node.round()
    assert changed
    same = [uri for uri in first["docs"] if first["docs"][uri] is second["docs"][uri]]
    assert set(first["docs"]) - set(same) == {server.base + "slices/1/"}


def test_the_etag_of_a_compressed_answer_is_sent_back_without_its_gzip_mark(serve: Serve, client: Any) -> None:
    sent: list[str | None] = []
    server = serve(keep_alive=False)

    def watch(handler: Any) -> None:
        sent.append(handler.headers.get("If-None-Match"))
        handler.send_reply(server.registry.answer(handler.path, server.origin))

    server.faults = {"/api/slices/1/": watch}
    node = client([server.base], plain_http=True)
    state, _ = node.round()
    node.round()
    assert sent[0] is None
    assert sent[1] is not None
    assert len(sent[1]) == 34  # 32 hex digits in quotes
    assert state["revisions"][server.base + "slices/1/"] == sent[1]


def test_documents_of_a_server_without_etags_are_fetched_again_and_count_as_unchanged(
    serve: Serve, client: Any
) -> None:
    server = serve()

    def plain(handler: Any) -> None:
        reply = server.registry.answer(handler.path, server.origin)
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.kind)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)

    server.faults = {"/*": plain}
    node = client([server.base], plain_http=True)
    first, _ = node.round()
    second, changed = node.round()
    assert first["docs"] == second["docs"]
    assert not changed
    assert second["revisions"][server.base].startswith("md5:")


def test_documents_cleaned_by_older_rules_are_read_anew(node: Any, server: FaultyServer) -> None:
    state, _ = node.round()
    node.state = {**state, "schema": VERSION - 1, "docs": {}, "node": {**state["node"], "name": "old"}}
    again, changed = node.round()
    assert changed
    assert again["node"] == state["node"]
    assert again["docs"] == state["docs"]


def test_a_state_in_which_only_revisions_differ_is_unchanged_and_takes_no_more_memory(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    first, _ = node.round()
    documents.edit("base", something_new=1)
    documents.edit("slices/1", unknown="x")
    second, changed = node.round()
    assert not changed
    uri = server.base + "slices/1/"
    assert first["revisions"][uri] != second["revisions"][uri]
    assert first["docs"][uri] is second["docs"][uri]


# -- connections ---------------------------------------------------------------------------------------------------


def test_a_round_over_kept_connections_opens_few_of_them(node: Any, server: FaultyServer) -> None:
    connections: set[Any] = set()

    def watch(handler: Any) -> None:
        connections.add(handler.client_address)
        handler.send_reply(server.registry.answer(handler.path, server.origin))

    server.faults = {"/api*": watch}
    node.round()
    node.round()
    assert len(connections) <= 5


def test_a_server_that_closed_idle_connections_is_asked_again(serve: Serve, client: Any) -> None:
    server = serve()
    node = client([server.base], plain_http=True)

    def close_after(handler: Any) -> None:
        handler.send_reply(server.registry.answer(handler.path, server.origin))
        handler.close_connection = True

    server.faults = {"/*": close_after}
    node.round()
    state, changed = node.round()
    assert state["problems"] == {}
    assert not changed


def test_the_original_server_by_itself_is_understood(serve: Serve, client: Any) -> None:
    server = serve(keep_alive=False)
    state, _ = client([server.base], plain_http=True).round()
    assert state["problems"] == {}
    assert len(state["node"]["slivers"]) == 4


@pytest.mark.parametrize("fault", [faults.dripping(0.02), faults.silent])
def test_a_request_ends_at_its_deadline_however_the_server_drags_it_out(fault: Any, serve: Serve) -> None:
    server = serve()
    server.faults = {"/*": fault}
    transport = Transport(None, set(), plain_http=True)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="in time|timed out"):
        transport.get(server.base, {}, begun + 0.3, lambda _origin: False)
    assert time.monotonic() - begun < 2


def test_chunked_answers_and_interim_answers_are_understood(serve: Serve, client: Any) -> None:
    server = serve()

    def chunked(handler: Any) -> None:
        body = server.registry.answer(handler.path, server.origin).body
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 100):
            handler.wfile.write(b"%x;x=y\r\n%s\r\n" % (len(body[at : at + 100]), body[at : at + 100]))
        handler.wfile.write(b"0\r\nTrailer: x\r\n\r\n")

    server.faults = {"/api/slices/*": chunked}
    state, _ = client([server.base], plain_http=True).round()
    assert state["problems"] == {}


def test_a_missing_final_slash_is_followed_to_where_the_registry_says(
    serve: Serve, client: Any, documents: Any
) -> None:
    server = serve()
    node = client([server.base], plain_http=True)
    first, _ = node.round()
    server.faults = {"/api/slices/1/": faults.redirect("/api/slices/1/?again")}
    node.state = None
    state, _ = node.round()
    assert state["docs"] == first["docs"]


def test_ipv6_literals_are_addresses_like_others(serve: Serve, client: Any, certificate: tuple[str, str]) -> None:
    server = serve(*certificate, address="::1")
    assert "[::1]" in server.base
    state, _ = client([server.base], certificate[0]).round()
    assert state["problems"] == {}
    assert state["node"]["uri"] == server.base + "nodes/1/"


# -- several addresses ---------------------------------------------------------------------------------------------


def test_the_next_address_is_taken_when_one_is_down_and_the_state_stays_the_same(
    serve: Serve, client: Any, certificate: tuple[str, str]
) -> None:
    first, second = serve(*certificate), serve(*certificate)
    node = client([first.base, second.base], certificate[0])
    good, _ = node.round()
    first.faults = {"/*": faults.raw()}
    state, changed = node.round()
    assert not changed
    assert state["docs"] == good["docs"]
    assert all(uri.startswith(first.base) for uri in state["docs"])
    assert second.requests


def test_the_next_address_is_taken_when_one_cannot_give_the_node_document(
    serve: Serve, client: Any, certificate: tuple[str, str]
) -> None:
    first, second = serve(*certificate), serve(*certificate)
    first.faults = {"/api/nodes/1/": faults.html(500)}
    state, _ = client([first.base, second.base], certificate[0]).round()
    assert state["node"] is not None
    assert state["problems"] == {}


def test_all_addresses_that_failed_are_named_with_their_reasons(client: Any, serve: Serve) -> None:
    server = serve()
    server.faults = {"/*": faults.html(200)}
    node = client([server.base, "http://127.0.0.1:1/api/"], plain_http=True)
    with pytest.raises(RegistryError) as caught:
        node.round()
    assert "text/html" in str(caught.value)
    assert "no connection to 127.0.0.1 port 1" in str(caught.value)


def test_an_address_that_failed_is_left_alone_for_a_while_and_the_reason_stays_the_same(
    serve: Serve, client: Any
) -> None:
    server = serve()
    server.faults = {"/*": faults.html(500)}
    registry = client([server.base], plain_http=True).registry
    reasons = []
    for _ in range(3):
        with pytest.raises(RegistryError) as caught:
            registry.refresh(None, time.monotonic() + 5)
        reasons.append(str(caught.value))
    assert len(server.requests) == 1
    assert len(set(reasons)) == 1
    registry.retry()
    server.faults = {}
    state, _ = registry.refresh(None, time.monotonic() + 5)
    assert state["complete"]


def test_a_state_read_at_other_addresses_is_kept_when_the_addresses_change(
    serve: Serve, client: Any, documents: Any, certificate: tuple[str, str]
) -> None:
    plain, secure = serve(), serve(*certificate)
    old = client([plain.base], plain_http=True)
    good, _ = old.round()
    secure.faults = {"/api/slivers/1/": faults.html(500)}
    new = client([secure.base], certificate[0])
    new.state = json.loads(json.dumps(good))
    state, _ = new.round()
    assert set(state["docs"]) == {uri.replace(plain.base, secure.base) for uri in good["docs"]}
    assert state["docs"][secure.base + "slivers/1/"]["slice"]["uri"] == secure.base + "slices/1/"


def test_a_registry_that_calls_itself_otherwise_is_read_where_it_was_found(serve: Serve, client: Any) -> None:
    server = serve()
    own = "http://[fdc0:7246:b03f::2]/inner/api/"

    def renamed(handler: Any) -> None:
        reply = server.registry.answer(handler.path, server.origin)
        fields = [(name, value.replace(server.base, own)) for name, value in reply.fields]
        handler.send_reply(reply._replace(body=reply.body.replace(server.base.encode(), own.encode()), fields=fields))

    server.faults = {"/api/*": renamed}
    node = client([server.base], plain_http=True)
    state, _ = node.round()
    assert state["problems"] == {}
    assert state["node"]["uri"] == server.base + "nodes/1/"
    assert state["docs"][server.base + "slices/1/"]["group"]["uri"] == server.base + "groups/1/"
    _, changed = node.round()
    assert not changed


# -- what is slow ----------------------------------------------------------------------------------------------------


def test_an_idle_round_of_seventy_documents_takes_little_of_the_processor(
    serve: Serve, client: Any, certificate: tuple[str, str], documents: Any
) -> None:
    sliver, slice_ = documents.read("slivers/1"), documents.read("slices/1")
    for number in range(10, 37):
        documents.write(f"slices/{number}", json.dumps(slice_))
        documents.write(f"slivers/{number}", json.dumps({**sliver, "slice": f"@slices/{number}"}))
    server = serve(*certificate)
    answers: dict[tuple[str, str | None], bytes] = {}

    def fast(handler: Any) -> None:
        """The same answers, without what making them costs: client and server share this processor's clock."""
        known = (handler.path, handler.headers.get("If-None-Match"))
        if known[1] is not None:
            handler.wfile.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
            return
        answers[known] = b""
        handler.send_reply(server.registry.answer(handler.path, server.origin))

    server.faults = {"/api*": fast}
    node = client([server.base], certificate[0])
    node.round()
    assert len(answers) >= 70
    begun = time.process_time()
    for _ in range(5):
        _, changed = node.round()
        assert not changed
    # Both sides of each request are in this process; the client alone takes about 10 ms.
    assert (time.process_time() - begun) / 5 < 0.15


def test_documents_are_fetched_side_by_side(node: Any, server: FaultyServer) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def slow(handler: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        handler.send_reply(server.registry.answer(handler.path, server.origin))

    server.faults = {"/api/*": slow}
    node.round()
    assert 2 <= most[0] <= 4


def test_recorded_bytes_of_the_original_server_are_understood(client: Any) -> None:
    body = json.dumps({"uri": "http://[fdc0::2]/api/"}).encode()

    def answer(path: str, fields: dict[str, str]) -> bytes:
        if path == "/api/":
            head = 'HTTP/1.0 200 OK\r\nDate: x\r\nContent-Type: {}\r\nETag: "a"\r\n\r\n'.format(BASE_TYPE)
            return head.encode() + body
        return b"HTTP/1.0 404 NOT FOUND\r\nContent-Type: text/html\r\n\r\n<html>"

    with Replayed(answer) as server:
        state, _ = client([server.base], plain_http=True).round()
    assert state["base"]["uri"] == server.base
    assert state["node"] is None


# -- answers without end -------------------------------------------------------------------------------------------


class Dribbling:
    """Stands in for a socket: one byte comes every 19 s of a clock of its own, `content` first, then `again`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes, again: bytes) -> None:
        self._now = 1000.0
        self._left = content
        self._again = again
        self.read = 0
        monkeypatch.setattr(http, "time", self)

    def monotonic(self) -> float:
        return self._now

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, size: int) -> bytes:
        self._now += 19.0
        self.read += 1
        assert self.read < 1000, "nobody puts an end to it"
        self._left = self._left or self._again
        piece, self._left = self._left[:1], self._left[1:]
        return piece


CHUNKED = http.Head(200, "1.1", {"transfer-encoding": "chunked"})


def test_a_chunk_extension_that_comes_byte_by_byte_holds_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Dribbling(monkeypatch, b"5;", b"x")
    with pytest.raises(Unreachable, match="did not come in time"):
        list(http.Connection(server, "h").body(CHUNKED, None))


def test_trailer_fields_without_end_hold_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Dribbling(monkeypatch, b"", b"")
    monkeypatch.setattr(server, "recv", lambda size: b"1\r\nz\r\n0\r\n" + b"a: b\r\n" * 1000)
    with pytest.raises(RegistryError, match="trailer fields without end"):
        list(http.Connection(server, "h").body(CHUNKED, None))


def test_a_chunked_answer_may_have_some_trailer_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Dribbling(monkeypatch, b"", b"")
    monkeypatch.setattr(server, "recv", lambda size: b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\na: b\r\nc: d\r\n\r\n")
    assert b"".join(http.Connection(server, "h").body(CHUNKED, None)) == b"abcde"
