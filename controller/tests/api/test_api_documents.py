"""What the documents say, asked over TLS as a poller does."""

from collections.abc import Callable

import core_world as core
import pytest
from api_world import BASE, Api, FakeNode

from confine.api import documents
from confine.api.view import DaemonView
from confine.core.model import Problem

MakeApi = Callable[..., Api]
MEMBERS_OF_A_SLIVER = {
    "id", "uri", "slice", "node", "description", "properties", "instance_sn", "template", "data_uri", "data_sha256",
    "mgmt_net", "interfaces", "resources", "nr", "state", "set_state", "errors",
}  # fmt: skip
MEMBERS_OF_ADDRS = {
    "mgmt", "mgmt_host", "debug", "local_mac", "local_ipv4", "local_ipv6", "internal_ipv4", "internal_ipv6",
    "recovery_ipv4", "recovery_ipv6", "recovery_unique",
}  # fmt: skip


def test_the_node_shows_what_the_registry_says_and_its_own_state(api: Api) -> None:
    node = api.get("node/").json
    assert (node["id"], node["name"], node["properties"], node["boot_sn"]) == (42, "mill", {"place": "hill"}, 1)
    assert (node["state"], node["soft_version"], node["message"], node["errors"]) == ("production", "1.2", "", [])
    assert node["group"] == {"uri": core.BASE + "groups/1/", "id": 1} and node["cert"] == node["api"]["cert"]


def test_the_registrys_poller_finds_what_it_reads(api: Api) -> None:
    node = api.get("node/").json
    disk = next(entry for entry in node["resources"] if entry["name"] == "disk")
    assert node["state"] == "production" and node["soft_version"]
    assert disk["avail"] == 100_000 - 200 - 128 and disk["unit"] == "MiB"  # less two slivers' and the reserve


def test_the_nodes_addresses_stand_without_prefix_length(api: Api) -> None:
    addrs = api.get("node/").json["addrs"]
    assert set(addrs) == MEMBERS_OF_ADDRS
    assert addrs["mgmt"] == "fdc0:7246:b03f:2a::2" and addrs["internal_ipv4"] == "192.168.241.126"
    assert addrs["mgmt_host"] is None


def test_a_local_interface_shows_its_addresses(make_api: MakeApi) -> None:
    addrs = make_api(local_ifname="lo").get("node/").json["addrs"]
    assert addrs["local_ipv4"] == "127.0.0.1" and addrs["local_mac"] == "00:00:00:00:00:00"
    assert addrs["recovery_unique"] == "fdbd:e804:6aa9:2:200:ff:fe00:0"


def test_a_sliver_is_found_by_its_number_in_the_registry(api: Api) -> None:
    sliver = api.get("slivers/105/").json
    assert set(sliver) == MEMBERS_OF_A_SLIVER
    assert (sliver["id"], sliver["nr"], sliver["state"], sliver["set_state"]) == ("5@42", 1, "started", "start")
    assert sliver["slice"] == {"uri": core.BASE + "slices/5/", "id": 5}
    assert sliver["mgmt_net"] == {"addr": "fdc0:7246:b03f:2a:1001::5", "backend": "native"}
    assert sliver["interfaces"][0]["ipv4_addr"] == "192.168.241.1/25"
    assert {entry["name"]: entry["alloc"] for entry in sliver["resources"]} == {"disk": 100, "memory": 50}


def test_slivers_are_listed_with_their_states(api: Api) -> None:
    entries = api.get("slivers/").json
    assert [set(entry) for entry in entries] == [{"uri", "id", "node", "slice", "state", "set_state"}] * 2
    assert [(entry["id"], entry["uri"]) for entry in entries] == [
        ("5@42", api.base + "slivers/105/"),
        ("6@42", api.base + "slivers/106/"),
    ]


def test_uris_of_this_node_are_those_the_client_called_it_by(api: Api) -> None:
    for host in (f"127.0.0.1:{api.port}", "[fdc0:7246:b03f:2a::2]", "localhost"):
        base = f"https://{host}{BASE}"
        node = api.get("node/", host=host).json
        sliver = api.get("slivers/105/", host=host).json
        assert node["uri"] == base + "node/" and node["slivers"][0] == {"uri": base + "slivers/105/", "id": "5@42"}
        assert sliver["uri"] == base + "slivers/105/" and sliver["node"] == {"uri": base + "node/", "id": 42}
        assert sliver["template"] == {"uri": base + "templates/3/", "id": 3}
        assert api.get("templates/3/", host=host).json["uri"] == base + "templates/3/"


def test_templates_of_the_slivers_are_shown(api: Api) -> None:
    template = api.get("templates/3/").json
    assert (template["name"], template["image_uri"]) == ("Debian", core.DEBIAN.uri)
    assert api.get("templates/").json == [template]


@pytest.mark.parametrize("state", ["debug", "safe", "failure"])
def test_slivers_and_templates_are_not_shown_outside_of_production(api: Api, node: FakeNode, state: str) -> None:
    node.in_state(state)
    for path in ("slivers/", "slivers/105/", "slivers/999/", "templates/", "templates/3/"):
        answer = api.get(path)
        assert answer.status == 503 and "not in production" in answer.json["detail"]
    assert api.get("node/").json["state"] == state
    node.in_state("production")
    assert api.get("slivers/105/").status == 200


def test_what_is_not_there_is_a_404_with_a_detail(api: Api) -> None:
    for path in ("slivers/5/", "slivers/0105/", "templates/99/", "nodes/", "slivers/105/x/", "/", "/confine/"):
        answer = api.get(path)
        assert answer.status == 404 and answer.json["detail"], path


def test_relations_lead_from_the_base_to_all_else(api: Api) -> None:
    relation = "http://confine-project.eu/rel/node/"
    for path, expected in {
        "": {"base": "", "node": "node/", "sliver-list": "slivers/", "template-list": "templates/",
             "do-refresh": "node/ctl/refresh/"},
        "node/": {"base": "", "node": "node/", "do-refresh": "node/ctl/refresh/"},
        "slivers/105/": {"base": "", "node": "node/", "sliver-list": "slivers/"},
        "templates/3/": {"base": "", "template-list": "templates/"},
    }.items():  # fmt: skip
        links = dict(reversed(link.split("; rel=")) for link in api.get(path).headers["link"].split(", "))
        wanted = {f'"{relation}{name}"': f"<{api.base}{target}>" for name, target in expected.items()}
        source = links.pop(f'"{relation}source"')
        assert links == wanted and source.startswith("<" + core.BASE)


def test_a_change_of_the_status_shows_and_nothing_else_is_rendered_anew(api: Api, node: FakeNode) -> None:
    before = api.get("slivers/106/")
    looks = node.looks
    assert api.get("slivers/106/").body == before.body and node.looks == looks
    node.change(lambda doc: doc["slivers"][0].update(state="fail_start"))
    assert api.get("slivers/105/").json["state"] == "fail_start"
    again = api.get("slivers/106/")
    assert again.headers["etag"] == before.headers["etag"]
    assert again.headers["last-modified"] == before.headers["last-modified"]


def test_usage_and_rounds_alone_do_not_change_a_document(api: Api, node: FakeNode) -> None:
    before = api.get("slivers/105/").headers["etag"], api.get("node/").headers["etag"]

    def busy(doc: dict) -> None:
        doc["slivers"][0]["usage"]["memory_bytes"] += 1
        doc.update(round=doc["round"] + 1)

    node.change(busy)
    assert (api.get("slivers/105/").headers["etag"], api.get("node/").headers["etag"]) == before


def test_errors_of_a_sliver_are_shown(api: Api, node: FakeNode) -> None:
    error = Problem("/template", "The template could not be fetched.").as_doc()
    node.change(lambda doc: doc["slivers"][0]["errors"].append(error))
    assert api.get("slivers/105/").json["errors"] == [error]


def test_before_the_registry_was_ever_read_there_is_a_node_all_the_same(api: Api, node: FakeNode) -> None:
    node.state = None
    node.change(lambda doc: doc.update(node={"id": 42, "name": None, "state": "debug", "errors": []}, slivers=[]))
    shown = api.get("node/").json
    assert (shown["id"], shown["state"], shown["slivers"]) == (42, "debug", [])
    assert api.get("").json == {"uri": api.base}


def test_a_sliver_that_is_not_asked_for_any_more_is_not_shown(api: Api, node: FakeNode) -> None:
    node.change(lambda doc: doc["slivers"][0].update(uri=None, template=None, slice=None))
    assert [entry["id"] for entry in api.get("slivers/").json] == ["6@42"]
    assert api.get("slivers/105/").status == 404


class FakeBoard:
    shown = 3

    def status(self) -> dict[str, int]:
        return {"round": self.shown}


class FakeReader:
    last_read = 5.0
    state = {"base": None}  # noqa: RUF012


def test_the_daemons_own_node_is_looked_at_anew_after_each_round_and_each_read() -> None:
    board, reader, asked = FakeBoard(), FakeReader(), []
    view = DaemonView(board, reader, lambda: asked.append("refresh"))  # type: ignore[arg-type]
    first = view.revision()
    assert view.revision() == first and view.status() == {"round": 3} and view.registry_state() is reader.state
    board.shown += 1
    second = view.revision()
    reader.last_read += 1
    assert len({first, second, view.revision()}) == 3
    view.refresh()
    assert asked == ["refresh"]


def test_the_nodes_tinc_member_has_its_real_key_and_the_registrys_addresses() -> None:
    status = {"node": {"state": "safe", "tinc": {"name": "node_42", "pubkey": "real"}}, "version": "1", "slivers": []}
    places = [{"addr": "10.0.0.9", "port": 655, "island": None}]
    asked = {"uri": core.BASE + "nodes/42/", "tinc": {"name": "node_42", "pubkey": "old", "addresses": places}}
    found = documents.build(status, {"node": asked}, {})["node/"].value["tinc"]
    assert found == {"name": "node_42", "pubkey": "real", "addresses": places}
    assert documents.build(status, None, {})["node/"].value["tinc"]["addresses"] == []
