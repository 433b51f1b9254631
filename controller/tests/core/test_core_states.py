"""The state machines, row by row."""

from core_world import desired, messages, settings

from confine.core import states
from confine.core.model import Desired, Failure, Observed, SliverObserved

ALLOCATION = {"nr": 1}
DEPLOYMENT = {"hostname": "x"}


def found(level: int, held: "bool | None" = None) -> SliverObserved:
    """What is observed of a sliver at a level."""
    running = level == 3
    return SliverObserved(
        "x",
        ALLOCATION if level >= 1 else None,
        DEPLOYMENT if level >= 2 else None,
        level >= 2,
        level >= 2,
        running,
        running,
        held,
    )


def failed(driver: str, verb: str) -> Failure:
    return Failure(driver, verb, "it is broken", 1, 0.0)


def test_a_slivers_state_is_what_is_there_unless_the_way_up_failed() -> None:
    fetch, mount, start = failed("cache", "fetch_template"), failed("storage", "mount"), failed("containers", "start")
    data, stop, odd = failed("cache", "fetch_data"), failed("containers", "stop"), failed("no", "more")
    for level, target, failure, refused, state in (
        (0, "register", None, False, "registered"),
        (0, "start", None, False, "registered"),
        (1, "start", None, False, "allocated"),
        (2, "start", None, False, "deployed"),
        (2, "deploy", None, False, "deployed"),
        (3, "start", None, False, "started"),
        (3, "deploy", None, False, "started"),
        (3, "register", None, False, "started"),
        (0, "start", fetch, False, "fail_allocate"),
        (0, "deploy", data, False, "fail_allocate"),
        (0, "start", None, True, "fail_allocate"),
        (0, "start", mount, True, "fail_allocate"),
        (0, "register", None, True, "registered"),
        (0, "register", fetch, False, "registered"),
        (1, "deploy", mount, False, "fail_deploy"),
        (1, "start", mount, False, "fail_deploy"),
        (1, "start", None, True, "allocated"),
        (2, "start", mount, False, "fail_deploy"),
        (2, "start", start, False, "fail_start"),
        (2, "deploy", start, False, "deployed"),
        (2, "start", failed("limits", "apply"), False, "fail_start"),
        (2, "start", failed("limits", "verify"), False, "fail_start"),
        (2, "start", stop, False, "deployed"),
        (2, "start", odd, False, "deployed"),
        (3, "start", start, False, "started"),
        (3, "register", stop, False, "started"),
    ):
        row = (level, target, failure, refused)
        assert states.sliver_state(found(level), target, failure, refused) == state, row


def test_a_running_sliver_whose_limits_do_not_hold_has_failed_to_start() -> None:
    assert states.sliver_state(found(3, held=False), "start", None, False) == "fail_start"
    assert states.sliver_state(found(3, held=True), "start", None, False) == "started"


def observed(bridge: bool = True, firewall: bool = True) -> Observed:
    return Observed({}, [], [], bridge, firewall, 1000, 1000, 1000)


def test_the_node_shows_what_the_registry_set_once_its_own_checks_pass() -> None:
    for set_state, ready, shown, ceiling in (
        ("debug", True, "debug", "register"),
        ("debug", False, "debug", "register"),
        ("failure", True, "failure", "register"),
        ("failure", False, "failure", "register"),
        ("safe", True, "safe", "deploy"),
        ("safe", False, "debug", "deploy"),
        ("production", True, "production", "start"),
        ("production", False, "debug", "start"),
    ):
        view = states.node_view(desired(set_state=set_state), observed(firewall=ready), None, settings(), [])
        assert (view.state, view.ceiling, view.frozen, view.startable) == (shown, ceiling, False, ready), set_state


def test_a_fault_of_the_nodes_own_set_up_shows_debug_and_holds_what_would_go_up() -> None:
    for values, failure, bridge in (
        ({"node_id": None}, None, True),
        ({"registry_uris": []}, None, True),
        ({}, failed("links", "bridge"), False),
    ):
        view = states.node_view(desired(), observed(bridge=bridge), failure, settings(**values), [])
        assert (view.state, view.hold, view.frozen) == ("debug", True, False), values
        assert view.problems


def test_a_fault_that_has_gone_holds_nothing() -> None:
    view = states.node_view(desired(), observed(), failed("links", "bridge"), settings(), [])
    assert (view.state, view.hold, view.problems) == ("production", False, [])


def test_what_the_caller_knows_is_shown_and_holds_nothing() -> None:
    from confine.core.model import Problem

    view = states.node_view(desired(), observed(), None, settings(), [Problem("/policy/x", "This option is odd.")])
    assert (view.state, view.hold) == ("production", False) and "is odd" in messages(view.problems)


def test_without_a_usable_document_of_the_node_nothing_is_touched() -> None:
    view = states.node_view(Desired(None, [], False, []), observed(), None, settings(), [])
    assert (view.state, view.frozen) == ("debug", True)
    view = states.node_view(desired(set_state="off"), observed(), None, settings(), [])
    assert (view.state, view.frozen) == ("debug", True)


def test_a_failure_is_told_with_its_count_when_it_came_again() -> None:
    assert states.failure_text(failed("cache", "fetch_data")) == "cache fetch_data failed: it is broken"
    assert "3 times in a row" in states.failure_text(Failure("cache", "fetch_data", "x", 3, 0.0))
