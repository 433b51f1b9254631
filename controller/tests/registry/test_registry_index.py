"""The index of a node's documents: one request where nothing changed, and never a reason to miss or lose anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from confine.core import documents as schemas
from confine.errors import RegistryError
from confine.registry import index
from confine.registry.uris import Names
from confine.registry.walk import references
from registry import faults
from registry.documents import KINDS, Testbed, export, followed
from registry.faults import FaultyServer, Replayed

INDEX = "/api/x-node-index/1/"
NOT_FOUND = b'{"detail": "Not found"}'


@pytest.fixture
def server(serve: Any, certificate: tuple[str, str]) -> FaultyServer:
    """The example registry with an index."""
    offering: FaultyServer = serve(*certificate, index=True)
    return offering


def asked(node: Any, server: FaultyServer) -> list[str]:
    """What one more round asks for."""
    server.requests.clear()
    node.round()
    return sorted(server.requests)


def followed_node(node: Any, server: FaultyServer) -> Any:
    """A node that has learned of the index and read all there is."""
    node.round()
    assert INDEX in asked(node, server)
    return node


def served(server: FaultyServer) -> Any:
    """The index as it is now."""
    return json.loads(server.registry.answer(INDEX, server.origin).body)


def lies(server: FaultyServer, value: Any) -> None:
    """The registry serves `value` as the index from now on."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    server.faults[INDEX] = faults.document("x-node-index", body)


def test_a_round_without_news_is_one_conditional_request(node: Any, server: FaultyServer) -> None:
    followed_node(node, server)
    before = node.state
    for _ in range(3):
        server.requests.clear()
        state, changed = node.round()
        assert server.requests == [INDEX]
        assert not changed
        assert state == before


def test_the_index_lists_exactly_what_a_round_reads(node: Any, server: FaultyServer) -> None:
    node.round()
    read = {server.origin + path for path in server.requests}
    assert {entry["uri"] for entry in served(server)["documents"]} == read


def test_the_example_registry_follows_the_references_that_the_node_follows(documents: Any) -> None:
    testbed, base = Testbed(documents.path, documents.files), "https://r.example/api/"
    for collection, kind in KINDS.items():
        for number in testbed.numbers(collection):
            document = testbed.document(collection, number, base)
            clean, problems = index.check(schemas.SCHEMAS[kind], document)
            assert clean is not None and not problems
            wanted = {uri for uri, _ in references(kind, clean)}
            assert {ref["uri"] for ref in followed(collection, document) if ref} == wanted


def test_only_what_changed_is_asked_for(node: Any, server: FaultyServer, documents: Any) -> None:
    followed_node(node, server)
    documents.edit("slices/2", set_state="deploy")
    assert asked(node, server) == ["/api/slices/2/", INDEX]
    assert node.state["docs"][server.base + "slices/2/"]["set_state"] == "deploy"
    assert asked(node, server) == [INDEX]


def test_slivers_come_and_go(node: Any, server: FaultyServer, documents: Any) -> None:
    followed_node(node, server)
    sliver = documents.read("slivers/2")
    documents.remove("slivers/2")
    assert asked(node, server) == ["/api/nodes/1/", INDEX]
    assert server.base + "slivers/2/" not in node.state["docs"]
    assert server.base + "slices/2/" not in node.state["docs"]
    documents.write("slivers/2", json.dumps(sliver))
    assert asked(node, server) == ["/api/nodes/1/", "/api/slices/2/", "/api/slivers/2/", "/api/templates/2/", INDEX]
    assert server.base + "slivers/2/" in node.state["docs"]
    assert asked(node, server) == [INDEX]


def test_the_state_is_that_of_a_walk(
    node: Any, server: FaultyServer, client: Any, certificate: Any, documents: Any
) -> None:
    followed_node(node, server)
    for change in (
        ("slices/1", {"instance_sn": 3}),
        ("groups/1", {"user_roles": []}),
        ("users/2", {"auth_tokens": []}),
    ):
        documents.edit(change[0], **change[1])
        node.round()
        walked, _ = client([server.base], certificate[0]).round()
        for member in ("base", "node", "docs", "gone", "problems", "date", "complete", "lists", "revisions"):
            assert node.state[member] == walked[member], member


def test_a_document_that_could_not_be_read_is_asked_for_until_it_can(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    followed_node(node, server)
    documents.edit("users/2", auth_tokens=[])
    server.faults["/api/users/2/"] = faults.html(500)
    for _ in range(3):
        assert asked(node, server) == ["/api/users/2/", INDEX]
        assert "status 500" in node.state["problems"][server.base + "users/2/"][0]["message"]
        assert node.state["docs"][server.base + "users/2/"]["auth_tokens"] != []
    del server.faults["/api/users/2/"]
    assert asked(node, server) == ["/api/users/2/", INDEX]
    assert node.state["docs"][server.base + "users/2/"]["auth_tokens"] == []
    assert asked(node, server) == [INDEX]


def test_a_document_that_is_unusable_stays_named(node: Any, server: FaultyServer, documents: Any) -> None:
    followed_node(node, server)
    documents.edit("slivers/1", instance_sn="three")
    for _ in range(3):
        assert asked(node, server) == ["/api/slivers/1/", INDEX]
        assert "instance_sn" in node.state["problems"][server.base + "slivers/1/"][0]["message"]


def test_a_slice_that_is_gone_is_gone_by_its_own_404_only(node: Any, server: FaultyServer) -> None:
    followed_node(node, server)
    truth = served(server)
    entries = [
        {**entry, "revision": None} if entry["uri"].endswith("/slices/1/") else entry for entry in truth["documents"]
    ]
    lies(server, {**truth, "documents": entries})
    node.round()
    assert server.base + "slices/1/" in node.state["docs"]
    assert node.state["gone"] == []
    server.faults["/api/slices/1/"] = faults.reply(
        404, 'application/json; profile="http://confine-project.eu/schema/registry/v1/slice"', NOT_FOUND
    )
    for _ in range(3):
        node.round()
        assert node.state["gone"] == [server.base + "slices/1/"]
    assert asked(node, server) == [INDEX]


def test_what_the_index_leaves_out_is_asked_for_as_ever(node: Any, server: FaultyServer, documents: Any) -> None:
    followed_node(node, server)
    truth = served(server)
    left = [entry for entry in truth["documents"] if "/slivers/" not in entry["uri"]]
    lies(server, {**truth, "documents": left})
    documents.edit("slivers/3", set_state="deploy")
    for _ in range(2):
        assert asked(node, server) == [*(f"/api/slivers/{number}/" for number in (1, 2, 3, 4)), INDEX]
    assert node.state["docs"][server.base + "slivers/3/"]["set_state"] == "deploy"


def test_an_empty_index_removes_nothing(node: Any, server: FaultyServer) -> None:
    followed_node(node, server)
    before = node.state["docs"]
    lies(server, {**served(server), "documents": []})
    node.round()
    assert node.state["docs"] == before


def test_a_wrong_index_cannot_hide_a_change_for_ever(
    node: Any, server: FaultyServer, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "WALK_EVERY", 5)
    followed_node(node, server)
    lies(server, served(server))
    documents.edit("slices/2", set_state="deploy")
    found = []
    for _ in range(5):
        node.round()
        found.append(node.state["docs"][server.base + "slices/2/"]["set_state"])
    assert found == ["start", "start", "start", "deploy", "deploy"]


BROKEN = [
    (b"", "usable JSON"),
    (b"{", "usable JSON"),
    ([], "an object"),
    ({"documents": []}, "/uri"),
    ({"uri": "/api/x-node-index/1/", "node": {"id": 1}, "documents": "all"}, "/documents"),
    ({"uri": "/api/x-node-index/1/", "node": {"id": 1}, "documents": [{"uri": "/api/"}]}, "/documents/0/revision"),
    ({"uri": "/api/x-node-index/1/", "node": {"id": 1}, "documents": [{"uri": "/api/", "revision": ""}]}, "revision"),
    ({"uri": "/api/x-node-index/1/", "node": {"id": 2}, "documents": []}, "of node 2"),
    ({"uri": "/api/x-node-index/2/", "node": {"id": 1}, "documents": []}, "not the one asked for"),
    (
        {
            "uri": "/api/x-node-index/1/",
            "node": {"id": 1},
            "documents": [{"uri": "/api/", "revision": "1"}, {"uri": "/api/", "revision": "2"}],
        },
        "two things",
    ),
    (
        {"uri": "/api/x-node-index/1/", "node": {"id": 1}, "documents": [{"uri": "/x", "revision": "1"}] * 4001},
        "4000",
    ),
]


@pytest.mark.parametrize(("value", "reason"), BROKEN)
def test_a_broken_index_is_named_and_everything_is_read_as_without_one(
    value: Any, reason: str, node: Any, server: FaultyServer, documents: Any
) -> None:
    followed_node(node, server)
    lies(server, value)
    documents.edit("slices/2", set_state="deploy")
    assert "/api/slices/2/" in asked(node, server)
    assert node.state["docs"][server.base + "slices/2/"]["set_state"] == "deploy"
    assert node.state["problems"] == {}
    assert reason in node.registry.index_error
    assert INDEX not in asked(node, server)  # not tried again at once


@pytest.mark.parametrize("fault", [faults.html(500), faults.html(404), faults.raw(b""), faults.document("node", b"{}")])
def test_an_index_that_cannot_be_had_is_done_without_and_tried_again_later(
    fault: Any, node: Any, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "WALK_EVERY", 6)
    followed_node(node, server)
    server.faults[INDEX] = fault
    before = node.state["docs"]
    for _ in range(3):
        node.round()
        assert node.state["docs"] == before
    assert node.registry.index_error
    del server.faults[INDEX]
    tried = [INDEX in asked(node, server) for _ in range(3)]
    assert tried == [False, True, True]
    assert asked(node, server) == [INDEX]
    assert node.registry.index_error == ""


def test_after_an_outage_the_index_is_still_followed(node: Any, server: FaultyServer) -> None:
    followed_node(node, server)
    server.faults = {"*": faults.raw(b"")}
    with pytest.raises(RegistryError):
        node.round()
    server.faults = {}
    node.round()
    assert asked(node, server) == [INDEX]


def test_a_registry_that_offers_an_index_later_is_found_out(
    node: Any, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "WALK_EVERY", 3)
    server.registry.index = False
    for _ in range(3):
        assert INDEX not in asked(node, server)
    server.registry.index = True
    assert [INDEX in asked(node, server) for _ in range(3)] == [False, True, True]


def test_a_state_from_elsewhere_is_read_in_full(node: Any, server: FaultyServer) -> None:
    """Another address, or the disk, gave the state: what the index was believed for may not be in it."""
    followed_node(node, server)
    assert asked(node, server) == [INDEX]
    node.state = json.loads(json.dumps(node.state))
    assert len(asked(node, server)) > 10


def test_an_index_elsewhere_is_not_asked_for(node: Any, server: FaultyServer) -> None:
    node.round()
    node.state["links"]["x-node-index"] = "https://elsewhere.example/api/x-node-index/"
    node.round()
    assert node.state["problems"] == {}
    assert INDEX not in server.requests


def test_a_directory_on_a_web_host_has_an_index_too(documents: Any, client: Any, tmp_path: Path) -> None:
    web = tmp_path / "web"
    testbed = Testbed(documents.path, documents.files)
    export(testbed, str(web), "https://registry.example.net/api/")
    paths: list[str] = []

    def answer(path: str, fields: dict[str, str]) -> bytes:
        paths.append(path)
        file = web / path.lstrip("/")
        if not file.is_file():
            return b"HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>"
        tag = 'W/"{:x}"'.format(file.stat().st_mtime_ns)
        if fields.get("if-none-match") == tag:
            return b"HTTP/1.0 304 Not Modified\r\nETag: " + tag.encode() + b"\r\n\r\n"
        head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nETag: {}\r\n\r\n".format(tag)
        return head.encode() + file.read_bytes()

    with Replayed(answer) as host:
        node = client([host.base + "index.json"], plain_http=True)
        node.round()
        node.round()
        paths.clear()
        node.round()
        assert paths == ["/api/x-node-index/1/index.json"]
        documents.edit("slices/1", set_state="deploy")
        export(testbed, str(web), "https://registry.example.net/api/")
        paths.clear()
        node.round()
        assert sorted(paths) == ["/api/slices/1/index.json", "/api/x-node-index/1/index.json"]
        assert node.state["docs"][host.base + "slices/1/"]["set_state"] == "deploy"


def test_entries_are_named_as_the_node_names_documents() -> None:
    names = Names(["https://a.example/api/", "https://b.example/api/"])
    value = {
        "uri": "https://b.example/api/x-node-index/1/",
        "node": {"uri": "../../nodes/1/", "id": 1},
        "documents": [{"uri": "../../nodes/1/", "revision": "7"}, {"uri": "/api/slivers/4/", "revision": None}],
    }
    found = index.entries_of(value, "https://a.example/api/x-node-index/1/", names, None, 1)
    assert found == {"https://a.example/api/nodes/1/": "7", "https://a.example/api/slivers/4/": None}
