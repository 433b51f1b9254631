"""What schemas let through, what they name, and what makes a document unusable. In the MicroPython subset."""

from confine.core import documents
from confine.core.schema import (
    MAX_PROBLEMS,
    Bool,
    Choice,
    Int,
    List,
    Map,
    Maybe,
    Object,
    Text,
    check,
    need,
    optional,
    shown,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

URI = "https://registry.example.org/api/"


def ref(name: str, identity: "Any") -> "dict[str, Any]":
    return {"uri": URI + name + "/", "id": identity}


def sliver(**members: "Any") -> "dict[str, Any]":
    """A good sliver with some members replaced."""
    document = {
        "uri": URI + "slivers/9/",
        "id": "5@27",
        "slice": ref("slices/5", 5),
        "node": ref("nodes/27", 27),
        "description": "first",
        "instance_sn": 2,
        "data_uri": None,
        "data_sha256": None,
        "set_state": None,
        "template": None,
        "properties": {"role": "sender"},
        "interfaces": [{"nr": 0, "name": "priv", "type": "private", "parent_name": None}],
        "mgmt_net": None,
        "resources": [{"name": "memory", "req": 64, "unit": "MiB"}],
    }
    document.update(members)
    return document


def node(**members: "Any") -> "dict[str, Any]":
    """A good node with some members replaced."""
    document = {
        "uri": URI + "nodes/27/",
        "id": 27,
        "set_state": "production",
        "boot_sn": 4,
        "group": ref("groups/2", 2),
        "slivers": [ref("slivers/9", "5@27")],
    }
    document.update(members)
    return document


def checked(kind: str, document: "Any") -> "tuple[Any, list[tuple[str, str]]]":
    clean, problems = check(documents.SCHEMAS[kind], document)
    return clean, [(problem.member, problem.message) for problem in problems]


def refused(kind: str, document: "Any") -> "list[str]":
    """The pointers named for a document that has to be unusable."""
    clean, problems = checked(kind, document)
    assert clean is None, clean
    return [member for member, _ in problems]


def lone(schema: "Any", value: "Any") -> "tuple[Any, list[str]]":
    """The value of a member of its own, and the messages."""
    clean, problems = check(Object({"m": optional(schema, "default")}), {"m": value})
    assert clean is not None
    return clean["m"], [problem.message for problem in problems]


def test_a_good_document_is_unchanged_and_without_problems() -> None:
    assert checked("sliver", sliver()) == (sliver(), [])


def test_unknown_members_are_dropped_without_a_word() -> None:
    clean, problems = checked(
        "sliver", sliver(newer=[{"a": 1}], resources=[{"name": "disk", "req": 1, "unit": "MiB", "x": 2}])
    )
    assert problems == []
    assert "newer" not in clean
    assert clean["resources"] == [{"name": "disk", "req": 1, "unit": "MiB"}]


def test_missing_members_that_run_nothing_take_their_defaults_silently() -> None:
    clean, problems = checked("node", node())
    assert problems == []
    assert (clean["name"], clean["properties"], clean["tinc"], clean["direct_ifaces"]) == ("", {}, None, [])


def test_defaults_are_not_shared_between_documents() -> None:
    one, _ = checked("node", node())
    one["properties"]["x"] = "y"
    one["direct_ifaces"].append("eth0")
    other, _ = checked("node", node())
    assert (other["properties"], other["direct_ifaces"]) == ({}, [])


def test_an_unusable_member_is_named_with_what_was_found_and_what_is_allowed() -> None:
    clean, problems = checked("node", node(properties={"good": "x", "a/b": 5}, arch="x86 64"))
    assert clean["properties"] == {"good": "x"}
    assert clean["arch"] == ""
    found = dict(problems)
    assert sorted(found) == ["/arch", "/properties/a~1b"]
    assert found["/properties/a~1b"].startswith("found 5, allowed is a text of 0 to 4096 characters")
    assert "found 'x86 64', allowed is a word" in found["/arch"]


def test_a_document_without_what_identifies_or_decides_is_unusable() -> None:
    for member in ("uri", "id", "set_state", "boot_sn", "group", "slivers"):
        document = node()
        del document[member]
        assert refused("node", document) == ["/" + member]
        assert refused("node", node(**{member: None})) == ["/" + member]
    for member in ("uri", "id", "slice", "node", "instance_sn", "interfaces", "resources"):
        assert refused("sliver", sliver(**{member: None})) == ["/" + member]


def test_numbers_that_are_no_whole_numbers_in_range_are_refused() -> None:
    values: "list[Any]" = [True, False, 1.0, -1, 1 << 31, 10**40, float("nan"), float("inf"), "1", None, [1], {}]
    for value in values:
        assert refused("sliver", sliver(instance_sn=value)) == ["/instance_sn"], value


def test_bounds_of_numbers_are_included() -> None:
    for value in (5, 9):
        assert lone(Int(5, 9), value) == (value, [])
    for value in (4, 10):
        assert lone(Int(5, 9), value)[0] == "default"


def test_control_characters_and_lone_surrogates_are_refused_but_line_ends_and_other_scripts_are_not() -> None:
    for bad in ("a\x00b", "\x1b[2J", "\x7f", "\x85", "\x9b"):
        assert lone(Text(10), bad)[0] == "default", repr(bad)
    for good in ("", "a\r\nb\tc", "parab\u00f2lica", "\u2661"):
        assert lone(Text(10), good) == (good, [])
    try:
        surrogate = chr(0xD800)
    except (ValueError, UnicodeError):
        return  # this interpreter has none
    assert lone(Text(10), surrogate)[0] == "default"


def test_true_is_no_number_and_a_number_is_not_true() -> None:
    assert lone(Int(0, 9), True)[0] == "default"
    assert lone(Bool(), 1)[0] == "default"
    assert lone(Bool(), True) == (True, [])


def test_words_outside_a_choice_are_named_with_all_that_are_allowed() -> None:
    assert lone(Choice(("deploy", "start")), "strat")[1] == ["found 'strat', allowed is one of deploy, start"]


def test_null_is_usable_only_where_it_is_allowed() -> None:
    assert lone(Maybe(Int(0, 9)), None) == (None, [])
    assert lone(Int(0, 9), None)[1] == ["found null, allowed is an integer from 0 to 9"]


def test_lists_and_maps_are_bounded_in_count() -> None:
    assert lone(List(Int(0, 9), 2), [1, 2]) == ([1, 2], [])
    assert lone(List(Int(0, 9), 2), [1, 2, 3])[1] == ["found a list of 3, allowed is a list of at most 2 items"]
    assert lone(Map(1, 9, 9), {"a": "b", "c": "d"})[0] == "default"
    assert lone(Map(1, 3, 9), {"long": "x"})[0] == {}


def test_a_bad_item_is_left_out_of_a_list_unless_the_list_is_strict() -> None:
    assert lone(List(Int(0, 9), 9), [1, "x", 3])[0] == [1, 3]
    assert lone(List(Int(0, 9), 9, strict=True), [1, "x", 3])[0] == "default"


def test_one_bad_entry_in_the_nodes_slivers_makes_the_whole_node_unusable() -> None:
    for bad in (None, 5, {}, {"uri": None, "id": "5@27"}, {"uri": "has space", "id": "5@27"}):
        members = refused("node", node(slivers=[ref("slivers/9", "5@27"), bad]))
        assert all(member.startswith("/slivers/1") for member in members), members


def test_what_is_no_object_is_unusable() -> None:
    for value in (None, True, 5, 1.5, "text", [], [sliver()]):
        assert refused("sliver", value) == [""]


def test_an_empty_management_network_counts_as_none() -> None:
    clean, problems = checked("node", node(mgmt_net={}))
    assert (clean["mgmt_net"], problems) == (None, [])
    address = {"addr": "fdc0:7246:b03f:1b::2", "backend": "tinc"}
    assert checked("node", node(mgmt_net=address))[0]["mgmt_net"] == address
    clean, problems = checked("node", node(mgmt_net={"addr": "x; reboot", "backend": "tinc"}))
    assert clean["mgmt_net"] is None
    assert [member for member, _ in problems] == ["/mgmt_net/addr"]


def test_islands_come_as_objects_numbers_or_null() -> None:
    server = {"uri": URI + "servers/2/", "id": 2}
    forms = (
        (None, None),
        (6, {"uri": None, "id": 6}),
        ({"uri": "/api/islands/1/", "id": 1}, {"uri": "/api/islands/1/", "id": 1}),
    )
    for given, expected in forms:
        server["api"] = [{"type": "registry", "base_uri": "http://[fdc0::2]/api/", "cert": None, "island": given}]
        clean, problems = checked("server", server)
        assert problems == []
        assert clean["api"][0]["island"] == expected
    server["api"] = [{"type": "registry", "base_uri": "http://[fdc0::2]/api/", "cert": None, "island": True}]
    clean, problems = checked("server", server)
    assert clean["api"][0]["island"] is None
    assert [member for member, _ in problems] == ["/api/0/island"]


def test_sliver_ids_name_a_slice_and_a_node() -> None:
    for good in ("1@1", "70000@27", str((1 << 48) - 1) + "@" + str(0xFFF0)):
        assert documents.is_sliver_id(good), good
    for bad in ("", "@", "1@", "@1", "1", "1@1@1", "01@1", "0@1", "1@0", "1@65521", "-1@1", "1 @1", "\u0661@1",
                str(1 << 48) + "@1", "9" * 40 + "@1"):  # fmt: skip
        assert not documents.is_sliver_id(bad), bad


def test_dates_are_days_that_exist() -> None:
    for good in ("2026-12-19", "2024-02-29", "2000-02-29", "1970-01-01", "2106-02-07"):
        assert documents.is_date(good), good
    for bad in ("2026-2-1", "2026-13-01", "2026-00-10", "2026-04-31", "2023-02-29", "1900-02-29", "2026/12/19",
                "20261219", "2026-12-1x", "soon", ""):  # fmt: skip
        assert not documents.is_date(bad), bad


def test_checksums_are_lower_case_hex_of_full_length() -> None:
    assert documents.is_sha256("0123456789abcdef" * 4)
    for bad in ("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, " " * 64):
        assert not documents.is_sha256(bad), bad


def test_interface_names_are_letters_then_digits_of_at_most_ten() -> None:
    def usable(name: str) -> bool:
        interfaces = [{"nr": 0, "name": name, "type": "private", "parent_name": None}]
        return checked("sliver", sliver(interfaces=interfaces))[0] is not None

    for good in ("priv", "eth0", "a", "abcdefgh12"):
        assert usable(good), good
    for bad in ("", "0eth", "eth0a", "Eth0", "eth-0", "abcdefghi12", "eth 0", "../x", "eth0\n"):
        assert not usable(bad), bad


def test_uris_hold_no_spaces_quotes_or_line_ends() -> None:
    for bad in ("", "has space", "line\nend", 'quote"', "<tag>", "x" * 2049, "\x00"):
        assert refused("island", {"uri": bad, "id": 1}) == ["/uri"], bad


def test_references_are_resolved_and_addresses_of_others_are_not() -> None:
    document = {
        "uri": "/api/servers/2/",
        "id": 2,
        "api": [{"type": "registry", "base_uri": "/own/", "island": {"uri": "/api/islands/1/", "id": 1}}],
    }
    clean, _ = check(documents.SCHEMAS["server"], document, lambda uri: "https://here" + uri)
    assert clean is not None
    assert clean["uri"] == "https://here/api/servers/2/"
    assert clean["api"][0]["island"]["uri"] == "https://here/api/islands/1/"
    assert clean["api"][0]["base_uri"] == "/own/"


def test_documents_nested_too_deeply_or_with_too_many_values_are_unusable() -> None:
    deep: "Any" = []
    for _ in range(200):
        deep = [deep]
    for excess in (deep, [0] * 20001, [[0] * 200] * 200):
        clean, problems = checked("sliver", sliver(unknown=excess))
        assert clean is None
        assert len(problems) == 1


def test_the_number_of_problems_of_one_document_is_bounded() -> None:
    _, problems = checked("node", node(direct_ifaces=["a b"] * 60))
    assert len(problems) == MAX_PROBLEMS + 1
    assert "there are more problems" in problems[-1][1]


def test_values_are_shown_short_and_harmless() -> None:
    assert shown("x" * 1000) == "'" + "x" * 40 + "'..."
    assert "\x1b" not in shown("\x1b[2J")
    assert shown(10**5000) == "an integer beyond 64 bits"
    values: "list[Any]" = [None, True, [1], {}, 3]
    assert [shown(value) for value in values] == ["null", "true", "a list of 1", "an object", "3"]


def test_a_bad_member_of_a_needed_object_makes_the_document_unusable_by_its_full_pointer() -> None:
    document = {
        "uri": URI + "slices/5/",
        "id": 5,
        "expires_on": "2026-12-19",
        "instance_sn": 1,
        "isolated_vlan_tag": None,
        "set_state": "start",
        "group": ref("groups/2", 2),
        "sliver_defaults": {
            "instance_sn": 3,
            "data_uri": None,
            "data_sha256": None,
            "set_state": "begin",
            "template": ref("templates/1", 1),
            "resources": [],
        },
    }
    assert refused("slice", document) == ["/sliver_defaults/set_state"]


def test_needed_members_are_those_that_decide_what_happens_to_slivers() -> None:
    schema = Object({"a": need(Bool()), "b": optional(Bool(), False)})
    assert check(schema, {"b": True})[0] is None
    assert check(schema, {"a": True, "b": 5})[0] == {"a": True, "b": False}
