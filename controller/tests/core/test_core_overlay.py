"""The overlay's rules: from documents and files found to what they should be and to steps."""

from core_world import BASE, settings

from confine.core import overlay, overlay_change, overlay_documents, overlay_files, rsa
from confine.core.overlay import OverlayFound, PeerSeen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "fd65:fc41:c50f"
KEY = rsa.Numbers(b"\xc3" * 256, b"\x01\x00\x01")
OTHER = rsa.Numbers(b"\xa5" * 256, b"\x01\x00\x01")


def tinc(name: str, key: "rsa.Numbers" = OTHER, addresses: "Any" = ()) -> "dict[str, Any]":
    return {"name": name, "pubkey": rsa.public_pem(key).replace("\n", "\r\n"), "addresses": list(addresses)}


def address(addr: str, port: int = 655, island: "Any" = None) -> "dict[str, Any]":
    return {"addr": addr, "port": port, "island": island}


def server(number: int, **members: "Any") -> "dict[str, Any]":
    doc = {"uri": BASE + "servers/" + str(number) + "/", "id": number, "mgmt_net": None}
    doc["tinc"] = tinc("server_" + str(number), addresses=[address("10.1.0." + str(number))])
    doc.update(members)
    return doc


def target(docs: "list[dict[str, Any]]", node: "dict[str, Any] | None" = None, **values: "Any") -> "Any":
    uris = [doc["uri"] for doc in docs]
    lists = {BASE + kind: [uri for uri in uris if kind in uri] for kind in ("servers/", "hosts/")}
    state = {"base": {"uri": BASE}, "docs": {doc["uri"]: doc for doc in docs}, "lists": lists, "node": node or {}}
    return overlay_documents.build(state, here(**values))


def here(**values: "Any") -> "Any":
    values.setdefault("mgmt_ipv6_prefix48", PREFIX)
    values.setdefault("overlay", True)
    return settings(**values)


def settled(docs: "Any", node: "Any" = None, **values: "Any") -> OverlayFound:
    """What is found once all of it was carried out."""
    found = OverlayFound(key=KEY)
    for path, content in overlay.wish(target(docs, node, **values), found, here(**values)).files.items():
        if path == "tinc.conf":
            found.conf = content
        elif path == "tinc-up":
            found.up = content
        elif content is not None:
            found.hosts[path[len("hosts/") :]] = content
    found.pid, found.interface = 7, True
    found.loaded = overlay.fingerprints(found)
    return found


def verbs(asked: "Any", found: OverlayFound, **values: "Any") -> "list[str]":
    return [step.verb for step in overlay.plan(asked, found, here(**values), 1000.0)[0]]


def messages(asked: "Any", found: OverlayFound, **values: "Any") -> str:
    return " ".join(problem.message for problem in overlay.plan(asked, found, here(**values), 1000.0)[1])


def test_addresses_are_those_of_the_nodes_island_and_of_none_in_the_registrys_order() -> None:
    island = {"uri": "/api/islands/6/", "id": 6}
    places = [address("a.example", 1, island), address("10.0.0.1", 2, {"uri": "/api/islands/1/", "id": 1}),
              address("10.0.0.2", 3, 6), address("10.0.0.3", 4)]  # fmt: skip
    docs = [server(2, tinc=tinc("server_2", addresses=places))]
    peer = target(docs, {"island": {"uri": BASE + "islands/6/", "id": 6}}).peers[0]
    assert peer.addresses == [("a.example", 1), ("10.0.0.2", 3), ("10.0.0.3", 4)]
    assert len(target(docs).peers[0].addresses) == 4


def test_every_server_with_an_address_is_connected_to_in_order_and_hosts_are_let_in() -> None:
    host = {
        "uri": BASE + "hosts/3/",
        "id": 3,
        "mgmt_net": None,
        "tinc": tinc("host_3", addresses=[address("10.3.3.3")]),
    }
    silent = server(7, tinc=tinc("server_7"))
    found = settled([server(5), server(2), silent, host])
    assert overlay_files.values_of(overlay_files.options(found.conf or ""), "connectto") == ["server_5", "server_2"]
    assert sorted(found.hosts) == ["host_3", "node_42", "server_2", "server_5", "server_7"]
    assert "Subnet = fd65:fc41:c50f:0:2000::3/128" in found.hosts["host_3"]
    assert "Subnet = fd65:fc41:c50f:2a::/64" in found.hosts["node_42"]


def test_no_server_in_the_nodes_island_is_said_and_all_addresses_are_tried() -> None:
    docs = [server(2, tinc=tinc("server_2", addresses=[address("10.0.0.1", 655, 1)]))]
    asked = target(docs, {"island": {"uri": BASE + "islands/6/", "id": 6}})
    assert asked.peers[0].connect
    assert "No server has an address in island 6" in asked.problems[0].message


def test_what_is_unusable_is_left_out_by_name_and_the_others_stay() -> None:
    cut = server(3, tinc={"name": "server_3", "pubkey": "-----BEGIN PUBLIC KEY-----\nMIIB", "addresses": []})
    path = server(4, tinc=tinc("../../etc/passwd", addresses=[address("10.0.0.4")]))
    line = server(5, tinc=tinc("server_5", addresses=[address("10.0.0.5\nConnectTo = evil")]))
    asked = target([server(2), cut, path, line])
    assert [peer.name for peer in asked.peers] == ["server_2", "server_5"]
    assert asked.peers[1].addresses == []
    said = " ".join(problem.message for problem in asked.problems)
    assert "server 3 is left out: its public key cannot be used" in said
    assert "server 4 is left out" in said


def test_a_settled_overlay_needs_nothing() -> None:
    docs = [server(2)]
    assert verbs(target(docs), settled(docs)) == []


def test_first_the_key_then_the_files_then_the_daemon() -> None:
    assert verbs(target([server(2)]), OverlayFound()) == ["key", "configure", "start"]


def test_a_changed_peer_is_a_reload_a_changed_name_a_start() -> None:
    docs = [server(2)]
    found = settled(docs)
    more = [server(2), server(5)]
    assert verbs(target(more), found) == ["configure", "reload"]
    assert verbs(target(docs, {"tinc": tinc("mill", KEY)}), found) == ["configure", "start"]
    assert verbs(target(docs), found, node_id=43) == ["configure", "start"]


def test_the_port_is_that_of_the_settings_else_of_the_files_and_lasts_through_another_id() -> None:
    docs = [server(2)]
    found = settled(docs)
    assert overlay.own_port(found, here()) is None
    found.conf = (found.conf or "") + "Port = 6000\n"
    assert overlay.own_port(found, here()) == 6000
    found.hosts["node_42"] = "Port = 6550\n" + found.hosts["node_42"]
    assert (overlay.own_port(found, here()), overlay.own_port(found, here(overlay_port=7000))) == (6550, 7000)
    assert "hosts/node_42" not in overlay.wish(target(docs), found, here()).files  # it is left as it was given
    renamed = overlay.wish(target(docs), found, here(node_id=43)).files
    assert "Port = 6550\n" in (renamed["hosts/node_43"] or "")
    for unusable in ("tinc", "0", "70000", "1234567", ""):
        found.hosts["node_42"] = "Port = " + unusable + "\n"
        found.conf = "Name = node_42\n"
        assert overlay.own_port(found, here()) is None


def test_a_cut_between_writing_and_reloading_is_made_up_for() -> None:
    found = settled([server(2), server(5)])
    assert found.loaded is not None
    found.loaded = (found.loaded[0], "before")
    assert verbs(target([server(2), server(5)]), found) == ["reload"]


def test_a_server_that_left_the_registry_leaves_the_node_but_a_given_one_stays() -> None:
    found = settled([server(2), server(5)])
    found.hosts["gate"] = "Address = 10.9.9.9\n" + rsa.public_pem(OTHER)
    found.conf = (found.conf or "") + "ConnectTo = gate\nAddressFamily = ipv4\n"
    wished = overlay.wish(target([server(2)]), found, here())
    assert wished.files["hosts/server_5"] is None
    assert wished.connect == ["server_2", "gate"]
    assert "AddressFamily = ipv4\n" in (wished.files["tinc.conf"] or "")
    assert "hosts/gate" not in wished.files


def test_without_any_server_read_known_ones_are_kept() -> None:
    found = settled([server(2)])
    assert overlay.wish(target([]), found, here()).files == {}


def test_nobody_asks_nothing_is_done_and_a_native_node_has_none() -> None:
    assert overlay.asked(None, OverlayFound(), here(overlay=None)) is None
    assert overlay.asked(None, OverlayFound(conf="Name = node_42\n"), here(overlay=None)) is True
    native = target([server(2)], {"mgmt_net": {"backend": "native", "addr": PREFIX + ":2a::2"}})
    found = settled([server(2)])
    assert verbs(native, found, overlay=None) == ["stop"]
    assert verbs(native, OverlayFound(), overlay=None) == []


def test_what_is_missing_to_have_an_overlay_is_said() -> None:
    docs = [server(2)]
    assert "mgmt_ipv6_prefix48" in messages(
        target(docs, mgmt_ipv6_prefix48=None), OverlayFound(), mgmt_ipv6_prefix48=None
    )
    assert "install tinc" in messages(target(docs), OverlayFound(program=False))


def test_a_peer_that_is_away_is_named_after_a_while_and_one_that_is_there_is_not() -> None:
    docs = [server(2)]
    found = settled(docs)
    found.peers = {"server_2": PeerSeen(False, 900.0, "")}
    found.refused = {"server_2": "no address of it answers: 10.1.0.2 port 655 (timed out)"}
    assert "server_2 cannot be reached: no address of it answers: 10.1.0.2" in messages(target(docs), found)
    found.peers = {"server_2": PeerSeen(False, 990.0, "")}
    assert "server_2" not in messages(target(docs), found)


def test_another_key_in_the_registry_is_said() -> None:
    docs = [server(2)]
    found = settled(docs)
    assert "has no key" in messages(target(docs), found)
    assert "has another key" in messages(target(docs, {"tinc": tinc("node_42", OTHER)}), found)
    assert messages(target(docs, {"tinc": tinc("node_42", KEY)}), found) == ""


def test_the_gateway_of_the_settings_comes_first_if_its_file_is_there() -> None:
    found = settled([server(2)])
    assert overlay.wish(target([server(2)]), found, here(tinc_gateway="gate")).connect == ["server_2"]
    found.hosts["gate"] = rsa.public_pem(OTHER)
    assert overlay.wish(target([server(2)]), found, here(tinc_gateway="gate")).connect == ["gate", "server_2"]


def test_a_key_that_is_cut_off_or_none_is_refused() -> None:
    whole = rsa.public_pem(KEY)
    assert rsa.numbers(whole) == KEY
    for text in (
        whole[:-40],
        whole.replace("MII", "AAA"),
        "",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        None,
    ):
        try:
            rsa.numbers(text)
        except ValueError:
            continue
        raise AssertionError("taken: " + repr(text))


def changed(found: OverlayFound, more: "Any", since: float = 900.0) -> "Any":
    """What is kept when a connected node's files follow `more`."""
    found.peers = {"server_2": PeerSeen(True, since, "")}
    wished = overlay.wish(target(more), found, here())
    return overlay_change.begun(found, wished, overlay_change.is_connected(found, ["server_2"]), 1000.0)


def test_a_change_of_a_connected_node_is_confirmed_once_a_peer_is_reached_with_it() -> None:
    other = [server(2, tinc=tinc("server_2", KEY, [address("10.1.0.2")]))]
    before = settled([server(2)])
    change = changed(before, other)
    assert change.before == {"hosts/server_2": before.hosts["server_2"]}
    found = settled(other)
    found.change = overlay_change.parse(change.as_doc())
    found.peers = {"server_2": PeerSeen(True, 999.0, "")}
    assert verbs(target(other), found) == []
    found.peers = {"server_2": PeerSeen(True, 1001.0, "")}
    assert verbs(target(other), found) == ["confirm"]


def test_without_any_peer_for_a_minute_it_is_undone_and_not_tried_again_for_hours() -> None:
    other = [server(2, tinc=tinc("server_2", KEY, [address("10.1.0.2")]))]
    change = changed(settled([server(2)]), other)
    found = settled(other)
    found.change, found.age = change, 59.0
    assert verbs(target(other), found) == []
    found.age = 61.0
    assert verbs(target(other), found) == ["undo"]
    found = settled([server(2)])
    found.change = overlay_change.OverlayChange(change.before, change.wish, "undone", 1000.0)
    assert verbs(target(other), found) == []
    assert "was undone" in messages(target(other), found)
    assert verbs(target([server(2), server(5)]), found) == ["configure", "reload"]
    found.age = 7 * 3600.0
    assert verbs(target(other), found) == ["configure", "reload"]


def test_a_node_that_was_not_connected_and_one_with_another_id_have_nothing_to_go_back_to() -> None:
    found = settled([server(2)])
    wished = overlay.wish(target([server(2), server(5)]), found, here())
    assert overlay_change.begun(found, wished, False, 1000.0) is None
    wished = overlay.wish(target([server(2)]), found, here(node_id=43))
    assert overlay_change.begun(found, wished, True, 1000.0) is None


def test_a_kept_change_that_names_other_files_is_none() -> None:
    for doc in (None, [], {}, {"before": {"../x": ""}, "wish": "", "state": "pending", "at": 1},
                {"before": {"hosts/..": None}, "wish": "", "state": "pending", "at": 1},
                {"before": {"tinc.conf": 5}, "wish": "", "state": "pending", "at": 1},
                {"before": {}, "wish": "", "state": "lost", "at": 1}):  # fmt: skip
        assert overlay_change.parse(doc) is None


def test_the_status_tells_who_is_reached_and_the_nodes_own_key() -> None:
    docs = [server(2), server(5)]
    found = settled(docs)
    found.peers = {"server_2": PeerSeen(True, 900.0, "10.1.0.2 655"), "server_5": PeerSeen(False, 950.0, "")}
    shown = overlay.report(target(docs, {"tinc": tinc("node_42", KEY)}), found, here(), 1000.0)
    assert (shown["name"], shown["address"], shown["published"]) == ("node_42", "fd65:fc41:c50f:2a::2", True)
    assert [(peer["name"], peer["reachable"], peer["last_seen"]) for peer in shown["peers"]] == [
        ("server_2", True, 1000.0), ("server_5", False, 950.0)
    ]  # fmt: skip
    found.pid = None
    assert not any(peer["reachable"] for peer in overlay.report(target(docs), found, here(), 1000.0)["peers"])
