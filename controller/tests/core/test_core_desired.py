"""Documents to what is asked of the node: shaped like those of the registry, of an invented testbed."""

from core_world import BASE, ECDSA_KEY, KEY, NODE_ID, OTHER_KEY, messages, name_of, settings

from confine.core import desired
from confine.core.sliver_documents import is_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Desired, SliverTarget

NODE = BASE + "nodes/42/"


def ref(kind: str, number: int) -> "dict[str, Any]":
    return {"uri": BASE + kind + "/" + str(number) + "/", "id": number}


def user(number: int, key: str) -> "dict[str, Any]":
    return {"uri": BASE + "users/" + str(number) + "/", "id": number, "name": "u" + str(number), "is_active": True,
            "is_superuser": False, "auth_tokens": [key]}  # fmt: skip


def role(number: int, **flags: bool) -> "dict[str, Any]":
    entry: "dict[str, Any]" = {"user": ref("users", number)}
    for flag in ("is_group_admin", "is_node_admin", "is_slice_admin"):
        entry[flag] = flags.get(flag, False)
    return entry


def template(number: int) -> "dict[str, Any]":
    return {"uri": BASE + "templates/" + str(number) + "/", "id": number, "name": "T" + str(number), "type": "debian",
            "node_archs": ["x86_64"], "is_active": True, "image_uri": "../../files/t.squashfs",
            "image_sha256": str(number % 10) * 64}  # fmt: skip


def slice_doc(number: int) -> "dict[str, Any]":
    return {
        "uri": BASE + "slices/" + str(number) + "/",
        "id": number,
        "name": "slice " + str(number),
        "expires_on": "2026-12-19",
        "instance_sn": 4,
        "set_state": "start",
        "isolated_vlan_tag": None,
        "group": ref("groups", 2),
        "sliver_defaults": {
            "instance_sn": 9,
            "data_uri": None,
            "data_sha256": None,
            "set_state": "start",
            "template": ref("templates", 1),
            "resources": [{"name": "disk", "req": 300, "unit": "MiB"}],
        },
    }


def sliver_doc(number: int, slice_id: int) -> "dict[str, Any]":
    return {
        "uri": BASE + "slivers/" + str(number) + "/",
        "id": str(slice_id) + "@" + str(NODE_ID),
        "slice": ref("slices", slice_id),
        "node": ref("nodes", NODE_ID),
        "description": "one",
        "instance_sn": 3,
        "data_uri": None,
        "data_sha256": None,
        "set_state": None,
        "template": None,
        "properties": {"role": "sender"},
        "interfaces": [{"nr": 0, "name": "priv", "type": "private", "parent_name": None}],
        "resources": [],
    }


def node_doc(*slivers: "tuple[int, int]") -> "dict[str, Any]":
    """The node's document; `slivers` are (registry pk, slice id)."""
    return {
        "uri": NODE,
        "id": NODE_ID,
        "name": "mill",
        "arch": "x86_64",
        "set_state": "production",
        "boot_sn": 4,
        "group": ref("groups", 1),
        "direct_ifaces": ["eth1"],
        "resources": [
            {"name": "disk", "max_req": 2000, "dflt_req": 256, "unit": "MiB"},
            {"name": "memory", "max_req": 1024, "dflt_req": 128, "unit": "MiB"},
        ],
        "mgmt_net": {},
        "slivers": [
            {"uri": BASE + "slivers/" + str(number) + "/", "id": str(slice_id) + "@" + str(NODE_ID)}
            for number, slice_id in slivers
        ],
    }


def example() -> "dict[str, Any]":
    """A state with one sliver (9) of slice 5 on the node."""
    documents = [
        sliver_doc(9, 5),
        slice_doc(5),
        template(1),
        template(7),
        {"uri": BASE + "groups/1/", "id": 1, "user_roles": [role(3, is_node_admin=True)]},
        {
            "uri": BASE + "groups/2/",
            "id": 2,
            "user_roles": [role(1, is_slice_admin=True), role(2, is_group_admin=True)],
        },
        user(1, KEY),
        user(2, OTHER_KEY),
        user(3, ECDSA_KEY + "\r\n"),
    ]
    return {
        "base": {"testbed_params": {"mgmt_ipv6_prefix": "fdc0:7246:b03f::/48"}, "confine_params": {}},
        "node": node_doc((9, 5)),
        "docs": {doc["uri"]: doc for doc in documents},
        "gone": [],
        "problems": {},
        "date": "2026-11-20",
        "complete": True,
    }


def doc(state: "dict[str, Any]", kind: str, number: int) -> "dict[str, Any]":
    found: "dict[str, Any]" = state["docs"][BASE + kind + "/" + str(number) + "/"]
    return found


def add(state: "dict[str, Any]", document: "dict[str, Any]") -> None:
    state["docs"][document["uri"]] = document


def built(state: "dict[str, Any]", **values: "Any") -> "Desired":
    values.setdefault("mgmt_ipv6_prefix48", "fdc0:7246:b03f")
    return desired.build(state, settings(**values))


def only_sliver(state: "dict[str, Any]", **values: "Any") -> "SliverTarget":
    slivers = built(state, **values).slivers
    assert len(slivers) == 1, slivers
    return slivers[0]


def test_a_sliver_gets_its_members_from_its_own_and_its_slices_documents() -> None:
    found = built(example())
    assert found.complete and found.problems == [] and found.node is not None and found.node.problems == []
    assert (found.node.id, found.node.set_state, found.node.boot_sn, found.node.mgmt_addr) == (
        42,
        "production",
        4,
        None,
    )
    assert found.node.resources == {"disk": (2000, 256), "memory": (1024, 128)}
    sliver = found.slivers[0]
    assert (sliver.key, sliver.name, sliver.uri) == ("5@42", name_of(5), BASE + "slivers/9/")
    assert (sliver.sliver_instance_sn, sliver.slice_instance_sn, sliver.target) == (3, 4, "start")
    assert (sliver.limits.disk_mib, sliver.limits.memory_mib) == (300, 128)
    assert sliver.template is not None and sliver.template.uri == BASE + "files/t.squashfs"
    assert sliver.group_id == 2 and sliver.properties == {"role": "sender"}
    assert sliver.problems == [] and not sliver.blocked


def test_the_effective_target_is_the_lowest_that_is_asked_for() -> None:
    for of_slice, default, own, target in (
        ("start", "start", None, "start"),
        ("deploy", "start", None, "deploy"),
        ("start", "deploy", None, "deploy"),
        ("start", "deploy", "start", "start"),
        ("start", "start", "register", "register"),
        ("register", "start", "start", "register"),
        ("deploy", "register", "start", "deploy"),
    ):
        state = example()
        doc(state, "slices", 5)["set_state"] = of_slice
        doc(state, "slices", 5)["sliver_defaults"]["set_state"] = default
        doc(state, "slivers", 9)["set_state"] = own
        assert only_sliver(state).target == target, (of_slice, default, own)


def test_slice_and_group_admins_get_in_and_node_admins_if_the_member_wants() -> None:
    assert only_sliver(example()).keys == sorted([KEY, OTHER_KEY, ECDSA_KEY])
    assert only_sliver(example(), sync_node_admins=False).keys == sorted([KEY, OTHER_KEY])
    state = example()
    doc(state, "users", 2)["is_active"] = False
    assert only_sliver(state, sync_node_admins=False).keys == [KEY]


def test_a_slivers_own_template_and_data_come_before_those_of_its_slice() -> None:
    state = example()
    doc(state, "slices", 5)["sliver_defaults"].update({"data_uri": "slice.tgz", "data_sha256": "a" * 64})
    sliver = only_sliver(state)
    assert sliver.data is not None and sliver.data.uri == BASE + "slices/5/slice.tgz"
    doc(state, "slivers", 9).update({"data_uri": "own.tgz", "data_sha256": "b" * 64, "template": ref("templates", 7)})
    sliver = only_sliver(state)
    assert sliver.data is not None and (sliver.data.uri, sliver.data.sha256) == (BASE + "slivers/9/own.tgz", "b" * 64)
    assert sliver.template is not None and sliver.template.id == 7


def test_a_sliver_that_cannot_be_built_is_blocked_with_the_member_that_is_wrong() -> None:
    iface = {"nr": 0, "name": "priv", "type": "private", "parent_name": None}
    for kind, number, changes, member in (
        ("templates", 1, {"is_active": False}, "/template"),
        ("templates", 1, {"node_archs": ["i586"]}, "/template"),
        ("templates", 1, {"node_archs": None}, "/template"),
        ("templates", 1, {"image_sha256": "A" * 64}, "/template"),
        ("templates", 1, {"image_uri": None}, "/template"),
        ("slivers", 9, {"template": {"uri": "/nowhere", "id": 99}}, "/template"),
        ("slivers", 9, {"data_uri": "a.tgz"}, "/data_sha256"),
        ("slivers", 9, {"data_uri": "a.tgz", "data_sha256": "12"}, "/data_sha256"),
        ("slivers", 9, {"interfaces": []}, "/interfaces"),
        ("slivers", 9, {"interfaces": [iface, dict(iface)]}, "/interfaces/1"),
        ("slivers", 9, {"interfaces": [dict(iface, name="Eth0")]}, "/interfaces/0"),
        ("slivers", 9, {"interfaces": [dict(iface, nr=256)]}, "/interfaces/0"),
        ("slivers", 9, {"interfaces": [iface, dict(iface, nr=5, name="iso", type="isolated", parent_name="eth9")]},
         "/interfaces/1"),
        ("slivers", 9, {"resources": [{"name": "disk", "req": 0, "unit": "MiB"}]}, "/resources"),
        ("slices", 5, {"group": ref("groups", 77)}, ""),
    ):  # fmt: skip
        state = example()
        doc(state, kind, number).update(changes)
        sliver = only_sliver(state)
        assert sliver.blocked and not is_unknown(sliver), changes
        assert member in [problem.member for problem in sliver.problems], (changes, sliver.problems)
        assert sliver.target == "start"


def test_a_sliver_whose_documents_do_not_tell_what_is_asked_is_kept_as_it_is() -> None:
    for kind, number, changes in (
        ("slivers", 9, {"node": ref("nodes", 3)}),
        ("slivers", 9, {"id": "5@3"}),
        ("slivers", 9, {"slice": None}),
        ("slivers", 9, {"slice": ref("slices", 6)}),
        ("slivers", 9, {"set_state": "fly"}),
        ("slivers", 9, {"instance_sn": None}),
        ("slices", 5, {"id": 6}),
        ("slices", 5, {"set_state": None}),
        ("slices", 5, {"sliver_defaults": None}),
        ("slices", 5, {"instance_sn": "4"}),
    ):
        state = example()
        doc(state, kind, number).update(changes)
        sliver = only_sliver(state)
        assert is_unknown(sliver) and sliver.blocked and sliver.target == "start", changes
        assert sliver.problems and sliver.name == name_of(5)


def test_a_listed_sliver_whose_document_is_missing_is_kept_as_it_is() -> None:
    state = example()
    del state["docs"][BASE + "slivers/9/"]
    assert is_unknown(only_sliver(state)) and built(state).complete


def test_a_sliver_of_a_slice_that_the_registry_says_is_gone_is_left_out() -> None:
    state = example()
    state["gone"] = [BASE + "slices/5/"]
    del state["docs"][BASE + "slices/5/"]
    found = built(state)
    assert found.slivers == [] and found.complete


def test_a_listed_sliver_that_could_not_be_read_stays_also_if_the_registry_denies_its_slice() -> None:
    state = example()
    state["gone"] = [BASE + "slices/5/"]
    del state["docs"][BASE + "slices/5/"]
    state["problems"] = {BASE + "slivers/9/": [{"member": "", "message": "status 404"}]}
    sliver = only_sliver(state)
    assert is_unknown(sliver) and "status 404" in messages(sliver.problems)


def test_an_entry_without_an_id_whose_document_is_denied_leaves_it_open_which_slivers_are_listed() -> None:
    state = example()
    state["gone"] = [BASE + "slivers/9/"]
    del state["docs"][BASE + "slivers/9/"]
    state["node"]["slivers"] = [{"uri": BASE + "slivers/9/"}]
    found = built(state)
    assert found.node is not None and not found.complete
    assert "does not say which sliver it is" in messages(found.node.problems)


def test_a_slice_past_its_last_day_is_left_out_by_confirmed_time_only() -> None:
    for date, there in (
        ("2026-12-19", True),
        ("2026-12-20", False),
        (None, True),
        ("1970-01-01", True),
        ("2106-02-07", False),
    ):
        state = example()
        state["date"] = date
        assert bool(built(state).slivers) is there, date
    state = example()
    doc(state, "slices", 5)["expires_on"] = "whenever"
    assert "whenever" in messages(only_sliver(state).problems)


def test_a_sliver_of_another_node_is_refused() -> None:
    state = example()
    state["node"]["slivers"].append({"uri": BASE + "slivers/10/", "id": "5@3"})
    found = built(state)
    assert [sliver.key for sliver in found.slivers] == ["5@42"] and found.complete
    assert found.node is not None and "5@3 is of another node" in messages(found.node.problems)


def test_two_slivers_with_one_id_change_nothing_of_what_runs() -> None:
    state = example()
    state["node"]["slivers"].append({"uri": BASE + "slivers/40/", "id": "5@42"})
    add(state, sliver_doc(40, 5))
    sliver = only_sliver(state)
    assert is_unknown(sliver) and "slivers/40/" in messages(sliver.problems)


def test_an_entry_with_the_id_of_one_sliver_and_the_uri_of_another_removes_neither() -> None:
    for key in ("7@42", "5@3"):
        state = example()
        state["node"]["slivers"][0]["id"] = key
        found = built(state)
        assert found.node is not None and "has the URI of sliver 5@42" in messages(found.node.problems), key
        assert not found.complete, "5@42 would be removed"


def test_a_sliver_listed_twice_is_one_sliver() -> None:
    state = example()
    state["node"]["slivers"].append(dict(state["node"]["slivers"][0]))
    assert not only_sliver(state).blocked


def test_a_list_that_is_unclear_removes_nothing() -> None:
    for slivers in (None, "none", [None], [{"uri": None, "id": None}], [{"uri": "x/", "id": "5"}], [{"id": "5@42"}]):
        state = example()
        state["node"]["slivers"] = slivers
        found = built(state)
        assert not found.complete and found.node is not None and found.node.problems, slivers
    state = example()
    state["complete"] = False
    assert not built(state).complete


def test_problems_of_the_last_read_stand_with_what_they_concern_and_block_nothing() -> None:
    state = example()
    state["problems"] = {
        BASE + "slivers/9/": [{"member": "/description", "message": "is a number"}],
        BASE + "slices/5/": [{"member": "/name", "message": "could not be read"}],
        NODE: [{"member": "/tinc", "message": "is odd"}],
    }
    found = built(state)
    sliver = found.slivers[0]
    assert not sliver.blocked
    assert sliver.problems[0].member == "/description"
    assert "slice (" + BASE + "slices/5//name)" in sliver.problems[1].message
    assert found.node is not None and found.node.problems[0].member == "/tinc"


def test_the_document_of_another_node_is_not_used() -> None:
    state = example()
    found = desired.build(state, settings(node_id=7))
    assert found.node is None and not found.complete and "this is node 7" in messages(found.problems)
    assert desired.build(state, settings(node_id=None)).node is None


def test_before_the_first_document_nothing_is_asked() -> None:
    found = built({"base": None, "node": None, "docs": {}, "gone": [], "problems": {}, "date": None, "complete": False})
    assert found.node is None and found.slivers == [] and not found.complete and found.problems == []


def test_prefixes_that_the_registry_serves_do_not_replace_the_nodes_own() -> None:
    state = example()
    state["base"]["confine_params"] = {
        "debug_ipv6_prefix": "fd5f:eee5:a6ad::/48",
        "priv_ipv6_prefix": "fdbd:e804:6aa9::/48",
    }
    found = built(state, mgmt_ipv6_prefix48="fd00:1:2")
    assert found.node is not None
    assert [problem.member for problem in found.node.problems] == [
        "/testbed_params/mgmt_ipv6_prefix",
        "/confine_params/debug_ipv6_prefix",
    ]


def test_an_unusable_node_state_is_a_problem_and_no_state() -> None:
    state = example()
    state["node"]["set_state"] = "off"
    found = built(state)
    assert found.node is not None and found.node.set_state == ""
    assert [problem.member for problem in found.node.problems] == ["/set_state"]


def test_slivers_come_in_the_order_of_their_slices_whatever_the_order_of_the_list() -> None:
    state = example()
    state["node"] = node_doc((9, 5), (3, 70000), (4, 6))
    for number, slice_id in ((3, 70000), (4, 6)):
        add(state, sliver_doc(number, slice_id))
        add(state, slice_doc(slice_id))
    first = built(state)
    assert [sliver.slice_id for sliver in first.slivers] == [5, 6, 70000]
    state["node"]["slivers"].reverse()
    state["docs"] = {uri: state["docs"][uri] for uri in sorted(state["docs"], reverse=True)}
    assert built(state) == first


def test_garbage_never_raises() -> None:
    garbage = (None, True, 5, -1.5, "x", [], {}, [[]], [{}], {"uri": 5}, {"uri": "x", "id": "y"})
    for kind, number in (("slivers", 9), ("slices", 5), ("templates", 1), ("groups", 1), ("groups", 2), ("users", 1)):
        for member in sorted(doc(example(), kind, number)):
            for value in garbage:
                state = example()
                doc(state, kind, number)[member] = value
                built(state)
    for member in sorted(example()["node"]):
        for value in garbage:
            state = example()
            state["node"][member] = value
            built(state)
    for member in sorted(example()):
        for value in garbage:
            state = example()
            state[member] = value
            built(state)
