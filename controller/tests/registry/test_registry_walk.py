"""Which documents a round reads, and what it takes for gone."""

import json
from typing import Any

import pytest

from confine.errors import RegistryError
from confine.registry import walk
from registry import faults
from registry.faults import FaultyServer

NOT_FOUND = b'{"detail": "Not found"}'


def gone(kind: str) -> faults.Fault:
    return faults.reply(404, 'application/json; profile="http://confine-project.eu/schema/registry/v1/' + kind + '"',
                        NOT_FOUND)  # fmt: skip


def test_a_round_reads_what_the_node_needs_and_nothing_else(node: Any, server: FaultyServer, documents: Any) -> None:
    documents.write("nodes/2", json.dumps({**documents.read("nodes/1"), "name": "another"}))
    documents.write("slivers/9", json.dumps({**documents.read("slivers/1"), "node": "@nodes/2"}))
    state, _ = node.round()
    names = [uri[len(server.base) : -1] for uri in state["docs"]]
    assert names == [
        "groups/1", "groups/2", "hosts/1", "islands/1", "servers/1", "slices/1", "slices/2", "slices/3", "slices/4",
        "slivers/1", "slivers/2", "slivers/3", "slivers/4", "templates/1", "templates/2", "templates/3",
        "users/1", "users/2", "users/3",
    ]  # fmt: skip
    assert set(server.requests) == {"/api/", "/api/nodes/1/", "/api/servers/", "/api/hosts/"} | {
        "/api/" + name + "/" for name in names if name not in ("servers/1", "hosts/1")
    }


def test_users_without_a_role_are_not_asked_for(node: Any, server: FaultyServer, documents: Any) -> None:
    roles = documents.read("groups/1")["user_roles"]
    idle = {"user": "@users/3", "is_group_admin": False, "is_node_admin": False, "is_slice_admin": False}
    documents.edit("groups/1", user_roles=[*roles, idle])
    documents.edit("groups/2", user_roles=[])
    state, _ = node.round()
    assert server.base + "users/3/" not in state["docs"]
    assert server.base + "users/2/" in state["docs"]


def test_a_sliver_that_left_the_nodes_list_leaves_the_state_with_its_slice(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    node.round()
    documents.remove("slivers/2")
    state, changed = node.round()
    assert changed
    assert server.base + "slivers/2/" not in state["docs"]
    assert server.base + "slices/2/" not in state["docs"]
    assert [ref["id"] for ref in state["node"]["slivers"]] == ["1@1", "3@1", "4@1"]


@pytest.mark.parametrize("status", [404, 410])
def test_a_sliver_that_the_registry_lists_and_denies_keeps_its_last_good_version(
    status: int, node: Any, server: FaultyServer
) -> None:
    good, _ = node.round()
    uri = server.base + "slivers/1/"
    server.faults = {"/api/slivers/1/": faults.reply(status, "application/json", NOT_FOUND)}
    for _ in range(2):
        state, _ = node.round()
        assert (state["docs"], state["gone"]) == (good["docs"], [])
        assert "status " + str(status) in state["problems"][uri][0]["message"]
    server.faults = {}
    assert node.round()[0]["problems"] == {}


def test_a_slice_that_the_registry_denies_is_gone_until_it_is_back(node: Any, server: FaultyServer) -> None:
    node.round()
    uri = server.base + "slices/1/"
    server.faults = {"/api/slices/1/": gone("slice")}
    state, changed = node.round()
    assert changed
    assert state["gone"] == [uri]
    assert uri not in state["docs"]
    assert state["problems"] == {}
    server.faults = {"/api/slices/1/": faults.html(500)}
    state, _ = node.round()
    assert state["gone"] == [uri]
    assert "status 500" in state["problems"][uri][0]["message"]
    server.faults = {}
    state, _ = node.round()
    assert state["gone"] == []
    assert uri in state["docs"]


@pytest.mark.parametrize("name", ["users/1", "groups/1", "templates/1", "islands/1"])
def test_other_documents_that_the_registry_denies_keep_their_last_good_version(
    name: str, node: Any, server: FaultyServer
) -> None:
    good, _ = node.round()
    server.faults = {"/api/" + name + "/": gone(name.split("/")[0][:-1])}
    state, _ = node.round()
    assert state["docs"] == good["docs"]
    assert "says that it is not there" in state["problems"][server.base + name + "/"][0]["message"]


def test_problems_of_members_stay_while_the_document_cannot_be_read_and_go_when_it_is_good(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    documents.edit("slices/1", properties={"good": "text", "bad": 5})
    node.round()
    server.faults = {"/api/slices/1/": faults.html(500)}
    state, _ = node.round()
    uri = server.base + "slices/1/"
    assert [problem["member"] for problem in state["problems"][uri]] == ["", "/properties/bad"]
    assert state["docs"][uri]["properties"] == {"good": "text"}
    server.faults = {}
    documents.edit("slices/1", properties={"good": "text"})
    state, _ = node.round()
    assert state["problems"] == {}


def test_the_same_trouble_again_is_no_change(node: Any, server: FaultyServer) -> None:
    node.round()
    server.faults = {"/api/slices/1/": faults.html(500), "/api/users/1/": faults.raw()}
    _, first = node.round()
    _, second = node.round()
    assert (first, second) == (True, False)


def test_a_state_can_be_kept_as_json(node: Any, server: FaultyServer) -> None:
    state, _ = node.round()
    assert json.loads(json.dumps(state)) == state


def test_another_node_id_in_the_configuration_does_not_take_over_the_old_nodes_document(
    node: Any, server: FaultyServer, client: Any, certificate: Any, documents: Any
) -> None:
    node.round()
    other = client([server.base], certificate[0], node="0002")
    other.state = node.state
    state, _ = other.round()
    assert state["node"] is None
    assert not state["complete"]


def test_documents_kept_by_an_older_program_are_kept_while_the_registry_fails(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    good, _ = node.round()
    uri = server.base + "slices/1/"
    node.state = {**good, "schema": 0, "docs": {**good["docs"], uri: {"uri": uri, "id": 1}}}
    server.faults = {"/api/slices/1/": faults.html(500)}
    state, _ = node.round()
    assert set(state["docs"]) == set(good["docs"])
    assert state["docs"][uri] == {"uri": uri, "id": 1}


def test_more_references_than_a_node_can_need_are_not_all_followed_and_that_is_said(
    node: Any, server: FaultyServer, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _ = node.round()
    monkeypatch.setattr(walk, "MAX_DOCUMENTS", 10)
    server.requests.clear()
    state, _ = node.round()
    assert len(server.requests) <= 10
    assert state["docs"] == good["docs"]
    assert "more than 10" in state["problems"][server.base][0]["message"]


def test_a_fault_of_the_client_itself_in_one_document_keeps_it_and_reads_the_others(
    node: Any, server: FaultyServer, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _ = node.round()
    original = walk.check_document

    def faulty(kind: str, *rest: Any) -> Any:
        if kind == "slice":
            raise ZeroDivisionError("oops")
        return original(kind, *rest)

    monkeypatch.setattr(walk, "check_document", faulty)
    documents.edit("slices/1", set_state="deploy")
    documents.edit("slivers/1", description="new")
    state, _ = node.round()
    assert state["docs"][server.base + "slices/1/"] == good["docs"][server.base + "slices/1/"]
    assert state["docs"][server.base + "slivers/1/"]["description"] == "new"
    assert "oops" in state["problems"][server.base + "slices/1/"][0]["message"]


def test_a_reference_to_a_document_of_another_kind_harms_nobody_else(
    node: Any, server: FaultyServer, documents: Any
) -> None:
    """Read as a template, slice 3 would not lead to its own template any more, and its slivers could not start."""
    good, _ = node.round()
    documents.edit("slivers/1", template="@slices/3")
    for _ in range(2):
        state, _ = node.round()
        assert state["docs"][server.base + "slices/3/"] == good["docs"][server.base + "slices/3/"]
        assert server.base + "templates/3/" in state["docs"]
        assert list(state["problems"]) == [server.base + "slices/3/#template"]
        assert "lies among the slices" in state["problems"][server.base + "slices/3/#template"][0]["message"]


def test_a_registry_that_denies_its_base_document_is_one_that_cannot_be_read(node: Any, server: FaultyServer) -> None:
    node.round()
    server.faults = {"/api/": gone("base")}
    with pytest.raises(RegistryError, match="base document is not there"):
        node.round()
