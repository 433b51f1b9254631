"""What `make run` says, and when it says that all is well."""

import pytest

from qemu import narrate


def status(state="started", asked="start", **changes):
    sliver = {
        "id": "1@1", "slice_name": "weather", "state": state, "set_state": asked, "nr": 1, "address": "192.168.241.1",
        "limits": {"memory_mib": 64, "disk_mib": 32, "pids": 512, "cpu_percent": None, "io_mib_s": None, "held": True},
        "errors": [], "progress": None,
    }  # fmt: skip
    sliver.update(changes)
    return {
        "node": {"state": "production", "errors": []},
        "registry": {"uris": ["https://x/"], "last_read": 1.0, "error": None},
        "slivers": [sliver],
    }


@pytest.mark.parametrize("state,asked,well", [("started", "start", True), ("deployed", "deploy", True),
                                              ("registered", "register", True), ("deployed", "start", False),
                                              ("started", "deploy", False), ("fail_start", "start", False),
                                              ("started", None, False)])  # fmt: skip
def test_all_is_as_asked_only_when_every_sliver_is_where_it_should_be(state, asked, well):
    assert narrate.as_asked(status(state, asked)) is well
    assert bool(narrate.shortcomings(status(state, asked))) is not well


def test_a_node_that_never_read_its_registry_is_not_as_asked():
    doc = status()
    doc["registry"]["last_read"] = None
    assert not narrate.as_asked(doc)


def test_a_node_without_slivers_is_not_as_asked_and_says_so():
    doc = status()
    doc["slivers"] = []
    assert not narrate.as_asked(doc)
    assert narrate.shortcomings(doc) == ["no sliver is asked for"]


def test_a_started_sliver_is_told_with_address_and_limits_read_back():
    lines = narrate.changes(status("deployed"), status("started"))
    assert lines == ["1@1       started    192.168.241.1  memory 64 MiB, disk 32 MiB, 512 processes: read back, held"]


def test_limits_that_do_not_hold_are_told_loudly():
    after = status()
    after["slivers"][0]["limits"]["held"] = False
    assert "NOT held" in narrate.changes(status("deployed"), after)[0]


def test_nothing_changed_says_nothing():
    assert narrate.changes(status(), status()) == []


def test_a_new_error_is_told_once():
    error = {"member": "/template", "message": "sha256 differs"}
    before, after = status("registered"), status("fail_allocate", errors=[error])
    assert "1@1         /template sha256 differs" in narrate.changes(before, after)
    assert narrate.changes(after, after) == []


def test_a_removed_sliver_is_told():
    after = status()
    after["slivers"] = []
    assert narrate.changes(status(), after) == ["1@1       gone"]


def test_progress_names_sliver_step_and_share():
    doc = status(progress={"step": "cache fetch template", "what": "template", "done": 50, "total": 200})
    assert narrate.progress(doc) == "1@1 cache fetch template 25%"


def test_states_passed_between_two_looks_are_told():
    assert narrate.changes(status("registered"), status("started"))[0].startswith(
        "1@1       allocated → deployed → started"
    )
    assert narrate.changes(status("started"), status("deployed", "deploy"))[-1] == "1@1       deployed"
