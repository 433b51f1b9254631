"""Whatever a registry answers, nothing that was good is lost, and the reason is said."""

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from confine.errors import RegistryError
from confine.paths import Paths
from confine.registry import store
from registry import faults
from registry.faults import Fault, FaultyServer

State = dict[str, Any]

NESTED = b'{"deep": ' + b"[" * 100000 + b"]" * 100000 + b"}"
SLICE = "/api/slices/1/"

BAD_SLICES: dict[str, tuple[Fault, str]] = {
    "truncated body": (faults.truncated(b'{"uri": "x", "id": 1, "slivers": []}' * 40), "truncated"),
    "truncated JSON of a server that gives no length": (
        faults.raw(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", b'{"uri": "ht'),
        "not usable JSON",
    ),
    "HTML with status 200": (faults.html(200), "text/html"),
    "HTML with status 404": (faults.html(404), "status 404"),
    "500 with an ETag": (faults.html(500), "status 500"),
    "403": (faults.reply(403, "application/json", b'{"detail": "Invalid token"}'), "status 403"),
    "another profile": (faults.document("sliver", b"{}"), "profile"),
    "a list": (faults.document("slice", b"[]"), "a list of 0"),
    "null": (faults.document("slice", b"null"), "found null"),
    "a number": (faults.document("slice", b"5"), "found 5"),
    "nothing": (faults.document("slice", b""), "not usable JSON"),
    "not UTF-8": (faults.document("slice", b'{"name": "\xff\xfe"}'), "not usable JSON"),
    "deep nesting": (faults.document("slice", NESTED), "too deeply"),
    "NaN": (faults.document("slice", b'{"instance_sn": NaN}'), "NaN"),
    "a number of 100000 digits": (faults.document("slice", b'{"instance_sn": ' + b"9" * 100000 + b"}"), "JSON"),
    "100 MB": (faults.huge(100 << 20, zipped=False), "larger than 2 MiB"),
    "100 MB in a gzip of 100 kB": (faults.huge(100 << 20, zipped=True), "larger than 2 MiB"),
    "damaged gzip": (
        faults.raw(
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b\x08junk"
        ),
        "gzip is damaged",
    ),
    "truncated gzip": (
        faults.raw(
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n",
            gzip.compress(b'{"uri": "x"}' + b" " * 5000)[:-9],
        ),
        "gzip has no end",
    ),
    "an encoding nobody asked for": (
        faults.reply(200, "application/json", b"{}", ("Content-Encoding", "br")),
        "content encoding",
    ),
    "not HTTP": (faults.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not HTTP"),
    "a closed connection": (faults.raw(), "closed the connection"),
    "a head without end": (faults.raw(b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n" * 10000), "larger than"),
    "a redirect to itself": (faults.redirect(SLICE), "redirects"),
    "a redirect to another host": (faults.redirect("https://192.0.2.1/api/slices/1/"), "another server"),
    "a redirect to plain http": (faults.redirect("http://127.0.0.1/api/slices/1/"), "from https to http"),
    "a redirect to nowhere": (faults.reply(301, "text/html", b""), "no Location"),
    "a redirect to a file": (faults.redirect("file:///etc/passwd"), "https to http|begin with http"),
    "hardly a slice": (
        faults.document("slice", b'{"uri": "/api/slices/1/", "id": 1}'),
        "/expires_on is missing, allowed is a date YYYY-MM-DD, or null",
    ),
}


@pytest.mark.parametrize("bad", BAD_SLICES)
def test_a_bad_answer_for_one_document_keeps_its_last_good_version_and_says_why(
    bad: str, node: Any, server: FaultyServer
) -> None:
    good, _ = node.round()
    fault, reason = BAD_SLICES[bad]
    server.faults = {SLICE: fault}
    state, changed = node.round()
    uri = server.base + "slices/1/"
    assert state["docs"] == good["docs"]
    assert changed
    assert list(state["problems"]) == [uri]
    message = state["problems"][uri][0]["message"]
    assert any(part in message for part in reason.split("|")), message
    assert state["gone"] == []
    server.faults = {}
    state, changed = node.round()
    assert changed
    assert state["problems"] == {}


@pytest.mark.parametrize("bad", ["HTML with status 200", "500 with an ETag", "truncated body", "not HTTP", "NaN"])
def test_a_bad_answer_for_the_base_document_loses_nothing_and_is_said(
    bad: str, node: Any, server: FaultyServer
) -> None:
    node.round()
    server.faults = {"/api/": BAD_SLICES[bad][0]}
    with pytest.raises(RegistryError, match="no registry could be read"):
        node.round()


@pytest.mark.parametrize("bad", ["HTML with status 200", "HTML with status 404", "truncated body", "null"])
def test_a_bad_answer_for_the_node_document_keeps_all_slivers(bad: str, node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    server.faults = {"/api/nodes/1/": BAD_SLICES[bad][0]}
    state, _ = node.round()
    assert state["node"] == good["node"]
    assert state["docs"] == good["docs"]
    assert state["complete"]
    assert list(state["problems"]) == [server.base + "nodes/1/"]


def test_a_registry_that_says_there_is_no_such_node_takes_nothing_away(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    good, _ = node.round()
    documents.remove("nodes/1")
    state, _ = node.round()
    assert (state["node"], state["docs"], state["gone"]) == (good["node"], good["docs"], [])
    assert "not there" in state["problems"][server.base + "nodes/1/"][0]["message"]


def test_while_the_node_document_cannot_be_read_no_sliver_is_taken_for_gone(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    good, _ = node.round()
    documents.remove("slivers/1")
    server.faults = {"/api/nodes/1/": faults.html(500)}
    state, _ = node.round()
    assert state["gone"] == []
    assert server.base + "slivers/1/" in state["docs"]
    assert state["docs"] == good["docs"]


def test_a_registry_that_is_down_loses_nothing(node: Any, server: FaultyServer, certificate: Any, client: Any) -> None:
    nobody = client(["https://127.0.0.1:1/api/"], certificate[0])
    with pytest.raises(RegistryError, match=r"no connection to 127.0.0.1 port 1"):
        nobody.round()


def test_a_server_that_sends_a_byte_now_and_then_holds_a_round_no_longer_than_its_deadline(
    node: Any, server: FaultyServer
) -> None:
    good, _ = node.round()
    server.faults = {"/api/slices/1/": faults.dripping()}
    begun = time.monotonic()
    state, _ = node.round(seconds=1.0)
    assert time.monotonic() - begun < 3
    assert state["docs"] == good["docs"]
    message = state["problems"][server.base + "slices/1/"][0]["message"]
    assert "in time" in message or "before the round had to end" in message


def test_a_server_that_never_answers_holds_a_round_no_longer_than_its_deadline(node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    server.faults = {"/api/s*": faults.silent}
    begun = time.monotonic()
    state, _ = node.round(seconds=1.0)
    assert time.monotonic() - begun < 3
    assert state["docs"] == good["docs"]
    assert state["node"] == good["node"]


def test_what_a_short_round_did_not_come_to_is_kept_with_what_was_gone_before(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    node.round()
    server.faults = {"/api/slices/1/": faults.reply(404, "application/json", b'{"detail": "Not found"}')}
    before, _ = node.round()
    assert before["gone"] == [server.base + "slices/1/"]
    server.faults = {"/api/slic*": faults.silent}
    state, _ = node.round(seconds=0.5)
    assert state["gone"] == before["gone"]
    assert state["docs"] == before["docs"]


def test_a_bad_member_that_runs_nothing_takes_its_default_and_is_named(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    documents.edit("slivers/1", description={"not": "a text"}, some_member_of_a_newer_registry=[1, 2, 3])
    state, _ = node.round()
    uri = server.base + "slivers/1/"
    assert state["docs"][uri]["description"] == ""
    assert "some_member_of_a_newer_registry" not in state["docs"][uri]
    assert [problem["member"] for problem in state["problems"][uri]] == ["/description"]
    assert "found an object, allowed is a text" in state["problems"][uri][0]["message"]
    again, changed = node.round()
    assert again["problems"] == state["problems"]
    assert not changed


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("slivers/1", {"set_state": "strat"}),
        ("slivers/1", {"instance_sn": True}),
        ("slivers/1", {"instance_sn": 1.5}),
        ("slivers/1", {"instance_sn": -1}),
        ("slivers/1", {"instance_sn": 10**30}),
        ("slivers/1", {"slice": None}),
        ("slivers/1", {"template": 3}),
        ("slivers/1", {"interfaces": None}),
        ("slivers/1", {"interfaces": [{"nr": 0, "name": "priv; reboot", "type": "private"}]}),
        ("slivers/1", {"resources": [{"name": "memory", "req": "much", "unit": "MiB"}]}),
        ("slices/1", {"sliver_defaults": None}),
        ("slices/1", {"expires_on": "soon"}),
        ("slices/1", {"group": None}),
        ("groups/1", {"user_roles": None}),
        ("users/1", {"auth_tokens": "none"}),
        ("templates/1", {"image_sha256": "0" * 63}),
    ],
)
def test_a_document_without_usable_values_for_what_runs_keeps_its_last_good_version(
    name: str, members: dict[str, Any], node: Any, server: FaultyServer, documents: Any
) -> None:
    good, _ = node.round()
    documents.edit(name, **members)
    state, _ = node.round()
    uri = server.base + name + "/"
    assert state["docs"] == good["docs"]
    message = state["problems"][uri][0]["message"]
    assert "cannot be used" in message
    assert "/" + next(iter(members)) in message


@pytest.mark.parametrize("slivers", [None, {}, [None], [{"uri": None, "id": "1@1"}], "all"])
def test_a_node_document_with_an_unusable_list_of_slivers_removes_none(
    slivers: Any, node: Any, server: FaultyServer, documents: Any
) -> None:
    good, _ = node.round()
    documents.edit("nodes/1", slivers=slivers)
    state, _ = node.round()
    assert state["node"] == good["node"]
    assert state["docs"] == good["docs"]
    assert "/slivers" in state["problems"][server.base + "nodes/1/"][0]["message"]


def test_the_document_of_another_node_is_not_used(node: Any, server: FaultyServer, documents: Any) -> None:
    good, _ = node.round()
    documents.edit("nodes/1", id=2)
    state, _ = node.round()
    assert state["node"] == good["node"]
    assert "of node 2, this is 1" in state["problems"][server.base + "nodes/1/"][0]["message"]


def test_a_document_that_says_it_is_another_one_is_not_used(node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    server.faults = {SLICE: lambda handler: handler.send_reply(server.registry.answer("/api/slices/2/", server.origin))}
    state, _ = node.round()
    assert state["docs"] == good["docs"]
    assert "not the one asked for" in state["problems"][server.base + "slices/1/"][0]["message"]


def test_a_dangling_reference_is_a_problem_of_what_is_not_there_alone(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    node.round()
    documents.edit("slivers/1", template="@templates/99")
    state, _ = node.round()
    assert list(state["problems"]) == [server.base + "templates/99/"]
    assert state["docs"][server.base + "slivers/1/"]["template"]["id"] == 99


def test_references_to_another_host_are_not_followed(node: Any, server: FaultyServer, documents: Any) -> None:
    uri = "https://192.0.2.1/api/templates/1/"
    documents.edit("slivers/1", template={"uri": uri, "id": 1})
    state, _ = node.round()
    assert "not below the registry's address" in state["problems"][uri][0]["message"]


def test_relative_references_mean_the_same_as_absolute_ones(node: Any, server: FaultyServer, documents: Any) -> None:
    good, _ = node.round()
    defaults = documents.read("slices/1")["sliver_defaults"]
    documents.edit(
        "slices/1",
        group={"uri": "/api/groups/1/", "id": 1},
        sliver_defaults={**defaults, "template": {"uri": "../../templates/1/", "id": 1}},
    )
    state, changed = node.round()
    assert state == {**good, "revisions": state["revisions"]}
    assert not changed


def test_the_order_of_links_and_what_they_are_among_means_nothing(node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    base = json.dumps({**good["base"], "again": 1}).encode()
    link = ", ".join(
        '<{}{}/>; title="x, y"; rel="http://confine-project.eu/rel/registry/{}-list"'.format(server.base, name, kind)
        for name, kind in (("servers", "server"), ("nodes", "node"), ("hosts", "host"))
    )
    profile = 'application/json; profile="http://confine-project.eu/schema/registry/v1/base"'
    server.faults = {"/api/": faults.reply(200, profile, base, ("Link", "<x>; rel=first, " + link))}
    state, changed = node.round()
    assert state["links"]["node-list"] == server.base + "nodes/"
    assert not changed


def test_links_that_lead_elsewhere_are_not_followed(node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    profile = 'application/json; profile="http://confine-project.eu/schema/registry/v1/base"'
    link = '<https://192.0.2.1/api/nodes/>; rel="http://confine-project.eu/rel/registry/node-list"'
    server.faults = {"/api/": faults.reply(200, profile, json.dumps(good["base"]).encode(), ("Link", link))}
    state, changed = node.round()
    assert state["node"] == good["node"]
    assert not changed


def test_an_unusable_server_in_the_list_is_named_and_the_others_are_kept(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    documents.write("servers/2", json.dumps({**documents.read("servers/1"), "uri": 5}))
    for _ in range(2):
        state, _ = node.round()
        assert server.base + "servers/1/" in state["docs"]
        assert list(state["problems"]) == [server.base + "servers/#/1"]


def test_a_list_that_holds_a_document_twice_counts_it_once(node: Any, server: FaultyServer, documents: Any) -> None:
    documents.write("servers/2", json.dumps({**documents.read("servers/1"), "uri": server.base + "servers/1/"}))
    state, _ = node.round()
    assert state["lists"][server.base + "servers/"] == [server.base + "servers/1/"]


def test_a_node_that_names_a_sliver_twice_gets_it_once(node: Any, server: FaultyServer, documents: Any) -> None:
    documents.edit("nodes/1", slivers=[{"uri": server.base + "slivers/1/", "id": "1@1"}] * 2)
    server.requests.clear()
    state, _ = node.round()
    assert server.requests.count("/api/slivers/1/") == 1
    assert server.base + "slivers/1/" in state["docs"]


def test_a_registry_that_fails_in_the_middle_of_a_round_is_asked_no_more_in_it(node: Any, server: FaultyServer) -> None:
    good, _ = node.round()
    server.faults = {"/api/s*": faults.raw(), "/api/g*": faults.raw(), "/api/t*": faults.raw(), "/api/i*": faults.raw()}
    server.requests.clear()
    state, _ = node.round()
    assert state["docs"] == good["docs"]
    assert len(server.requests) < 16
    assert any("stopped answering" in found[0]["message"] for found in state["problems"].values())


def test_a_half_edited_file_is_a_broken_registry_until_it_is_saved_whole(
    node: Any, server: FaultyServer, documents: Any, said: list[str]
) -> None:
    good, _ = node.round()
    text = json.dumps(documents.read("slivers/2"), indent=1)
    documents.write("slivers/2", text[: len(text) // 2])
    state, _ = node.round()
    assert state["docs"] == good["docs"]
    assert "slivers/2.json:" in said[0]
    documents.write("slivers/2", text)
    state, _ = node.round()
    assert state["problems"] == {}
    assert "all files can be read" in said[-1]


def test_a_registry_that_was_never_read_is_an_empty_state_not_an_order_to_remove(
    node: Any, server: FaultyServer
) -> None:
    server.faults = {"/api/nodes/1/": faults.html(500)}
    state, _ = node.round()
    assert state["node"] is None
    assert not state["complete"]


def test_a_certificate_file_that_is_not_there_is_named(client: Callable[..., Any], server: FaultyServer) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        client([server.base], "/nonexistent/registry.crt").round()


@pytest.mark.parametrize("uri", ["\\ud800", "x y", "a\\u0000b", 7])
def test_an_item_of_a_list_whose_uri_is_none_is_named_by_its_place(
    uri: Any, node: Any, server: FaultyServer, tmp_path: Any
) -> None:
    """And the rest is kept: a name with a lone surrogate in it made the whole state impossible to write."""
    said = json.dumps(uri) if isinstance(uri, int) else '"' + uri + '"'
    item = '{"uri": ' + said + ', "id": "none"}'
    server.faults = {"/api/servers/": faults.document("resource-list", ("[" + item + "]").encode())}
    state, _ = node.round()
    assert server.base + "servers/#/0" in state["problems"]
    store.save(Paths(data=str(tmp_path / "kept")), state)
    assert store.load(Paths(data=str(tmp_path / "kept"))) == (state, None)


def test_an_item_of_a_list_cannot_take_the_place_of_a_sliver(node: Any, server: FaultyServer, documents: Any) -> None:
    good, _ = node.round()
    sliver = server.base + "slivers/1/"
    posing = {**documents.read("servers/1"), "uri": sliver, "id": 1}
    server.faults = {"/api/servers/": faults.document("resource-list", json.dumps([posing]).encode())}
    state, _ = node.round()
    assert state["docs"][sliver] == good["docs"][sliver]
    assert list(state["problems"]) == [server.base + "servers/#/0"]
    assert "not below the list" in state["problems"][server.base + "servers/#/0"][0]["message"]
