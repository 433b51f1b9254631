"""What must hold for all inputs (CPython only: hypothesis)."""

import copy
import hashlib
import ipaddress
import urllib.parse
from typing import Any

from core_world import DATA, DEBIAN, KEY, OPENWRT, OTHER_KEY, World, limits, name_of, node_target, sliver_target
from core_world import settings as node_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_core_desired import example

from confine.core import addressing, desired, expiry, keys, report, settings, states, uris
from confine.core.model import (
    DEPLOY,
    NODE_STATES,
    PRODUCTION,
    TARGETS,
    Booking,
    Desired,
    Failure,
    Observed,
    SliverObserved,
    SliverTarget,
)
from confine.core.plan import Plan, plan
from confine.core.steps import STEPS
from confine.drivers import populate

FEW = hypothesis_settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
MANY = hypothesis_settings(max_examples=100, deadline=None, derandomize=True)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def sliver_targets(draw: st.DrawFn, slice_id: int) -> SliverTarget:
    return sliver_target(
        slice_id,
        target=draw(st.sampled_from(TARGETS)),
        sliver_instance_sn=draw(st.integers(0, 1)),
        slice_instance_sn=draw(st.integers(0, 1)),
        template=draw(st.sampled_from([DEBIAN, OPENWRT])),
        data=draw(st.sampled_from([None, DATA])),
        limits=limits(draw(st.sampled_from([20, 50, 90])), draw(st.sampled_from([50, 200, 400]))),
        keys=draw(st.sampled_from([[], [KEY], [KEY, OTHER_KEY]])),
        blocked=draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    slice_ids = draw(st.lists(st.sampled_from([5, 6, 7, 8]), unique=True, max_size=4))
    slivers = [draw(sliver_targets(slice_id)) for slice_id in slice_ids]
    set_state = draw(st.sampled_from([*NODE_STATES, PRODUCTION, PRODUCTION, PRODUCTION]))
    node = node_target(set_state=set_state, boot_sn=draw(st.integers(0, 2)))
    return Desired(node, slivers, draw(st.sampled_from([True, True, False])), [])


FAULTS = st.sampled_from(
    ["reboot", "crash", "limits", "deployment", "booking", "allocation", "damage", "uncached", "wait", "none"]
)
ROUNDS = st.lists(
    st.tuples(desireds(), FAULTS, st.none() | st.integers(0, 9), st.sets(st.sampled_from(sorted(STEPS)), max_size=4)),
    min_size=1,
    max_size=5,
)


def harm(world: World, fault: str) -> None:
    """Something happens to the node between two rounds."""
    if fault == "reboot":
        world.reboot()
    elif fault == "wait":
        world.now += 10000
    elif fault == "uncached":
        world.observed.cached = []
    for name, found in list(world.observed.slivers.items())[:2]:
        if fault == "crash" and found.running:
            found.running, found.limits_held, found.init_pid = False, None, None
        elif fault == "limits" and found.running:
            found.limits_held = found.limited = False
        elif fault == "deployment" and not found.running:
            found.deployment = None
        elif fault == "allocation" and not found.running and not found.mounted:
            found.allocation = None
        elif fault == "damage" and found.allocation:
            world.damage(name, "deployment" if found.deployment else "allocation")
        elif fault == "booking":
            world.bookings.pop(name, None)


def tight_world() -> World:
    """A node where not all slivers fit."""
    return World(memory=64 + 150, disk=128 + 700)


@FEW
@given(ROUNDS, desireds())
def test_whatever_happened_the_node_gets_where_it_should_be(
    rounds: "list[tuple[Desired, str, int | None, set[tuple[str, str]]]]", last: Desired
) -> None:
    world = tight_world()
    for asked, fault, cut_after, fails in rounds:
        world.fails = fails
        world.round(asked, cut_after)
        harm(world, fault)
    world.fails = set()
    world.now += 10000
    made = world.settle(last)
    assert last.node is not None
    assert made.node_state == last.node.set_state
    ceiling = states.CEILINGS[made.node_state]
    for sliver in last.slivers:
        found = world.observed.slivers.get(sliver.name) or SliverObserved(sliver.name)
        target = states.lower(sliver.target, ceiling)
        level = states.level(found)
        if sliver.blocked:
            assert level <= states.LEVELS[target]
        elif made.states[sliver.name][0] == "fail_allocate":
            assert found == SliverObserved(sliver.name) and sliver.name not in world.bookings
        else:
            assert level == states.LEVELS[target], (sliver.name, made.states[sliver.name])
            assert made.states[sliver.name][0] == states.STATES[level]
            if level >= states.LEVELS[DEPLOY]:
                assert world.content[sliver.name] == (sliver.sliver_instance_sn, sliver.slice_instance_sn)
                assert found.deployment is not None
                assert found.deployment["keys_digest"] == keys.digest(sliver.keys)
    if last.complete:
        assert set(world.observed.slivers) <= {sliver.name for sliver in last.slivers}
    again = world.plan(last)
    assert again.node_steps == [] and again.sliver_steps == {}


@FEW
@given(desireds(), desireds())
def test_a_plan_cut_off_after_any_step_still_leads_there(first: Desired, last: Desired) -> None:
    start = World()
    start.settle(first)
    length = sum(len(steps) for steps in start.plan(last).sliver_steps.values())
    whole = copy.deepcopy(start)
    whole.settle(last)
    for cut_after in range(length):
        world = copy.deepcopy(start)
        world.round(last, cut_after)
        world.reboot()
        world.now += 10000
        world.settle(last)
        for name, found in whole.observed.slivers.items():
            assert states.level(world.observed.slivers[name]) >= states.level(found)


@FEW
@given(ROUNDS, desireds(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_things(
    rounds: "list[tuple[Desired, str, int | None, set[tuple[str, str]]]]", last: Desired, random: Any
) -> None:
    world = tight_world()
    for asked, fault, cut_after, fails in rounds:
        world.fails = fails
        world.round(asked, cut_after)
        harm(world, fault)

    def shuffled(items: "dict[str, Any]") -> "dict[str, Any]":
        names = list(items)
        random.shuffle(names)
        return {name: items[name] for name in names}

    one = world.plan(last)
    other_desired = Desired(last.node, random.sample(last.slivers, len(last.slivers)), last.complete, [])
    observed = copy.copy(world.observed)
    observed.slivers = shuffled(observed.slivers)
    other = plan(
        other_desired, observed, shuffled(world.bookings), shuffled(world.failures), world.settings, world.now,
        world.boot_sn_done,
    )  # fmt: skip
    assert one == other
    assert bookings(one) == bookings(other)


def bookings(made: Plan) -> "list[tuple[str, Any]]":
    """All bookings that the steps of a plan carry."""
    return [(name, step.booking) for name in sorted(made.sliver_steps) for step in made.sliver_steps[name]]


MEMBERS = [
    *("key", "uri", "nr", "sliver_instance_sn", "slice_instance_sn", "template", "data", "disk_mib", "memory_mib"),
    *("limits", "interfaces", "keys_digest"),
]


@st.composite
def found_slivers(draw: st.DrawFn) -> SliverObserved:
    flags = [draw(st.booleans()) for _ in range(4)]
    name = draw(st.sampled_from([name_of(5), name_of(6), "lost+found", "", "x" * 300]))
    doc = st.none() | st.dictionaries(st.sampled_from(MEMBERS), JSON | st.integers(0, 130))
    return SliverObserved(name, draw(doc), draw(doc), *flags, draw(st.none() | st.booleans()))


@MANY
@given(
    desireds(),
    st.lists(found_slivers(), max_size=4),
    st.dictionaries(
        st.sampled_from([name_of(5), name_of(6), "odd"]),
        st.builds(
            Booking, st.just("5@42"), st.text(max_size=3), st.integers(0, 200), st.integers(0, 99), st.integers(0, 99)
        ),
    ),
    st.dictionaries(
        st.sampled_from([name_of(5), "node", "odd"]),
        st.builds(
            Failure,
            st.sampled_from(["storage", "x"]),
            st.sampled_from(["mount", "y"]),
            st.text(),
            st.integers(),
            st.floats(),
        ),
    ),
)
def test_a_plan_and_its_report_never_raise(
    asked: Desired, found: "list[SliverObserved]", booked: "dict[str, Booking]", failures: "dict[str, Failure]"
) -> None:
    observed = Observed({entry.name: entry for entry in found}, [], [], True, True, 500, 500, 500)
    made = plan(asked, observed, booked, failures, node_settings(), 0.0, None)
    numbers: "dict[int, str]" = {}
    for name, steps in made.sliver_steps.items():
        for step in steps:
            if step.verb == "book" and step.booking is not None:
                assert 1 <= step.booking.nr <= 125
                assert numbers.setdefault(step.booking.nr, name) == name
    report.node(asked, made, observed, booked, node_settings())


def changed(value: Any, path: "list[int]", new: Any) -> Any:
    """`value` with `new` at a place that `path` leads to."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    if isinstance(value, dict):
        key = sorted(value)[path[0] % len(value)]
        return {**value, key: changed(value[key], path[1:], new)}
    index = path[0] % len(value)
    return [*value[:index], changed(value[index], path[1:], new), *value[index + 1 :]]


@MANY
@given(st.lists(st.integers(0, 30), max_size=6), JSON)
def test_documents_never_raise(path: "list[int]", value: Any) -> None:
    state = changed(example(), path, value)
    found = desired.build(state if isinstance(state, dict) else {}, node_settings())
    for sliver in found.slivers:
        assert sliver.node_id == node_settings().node_id
        assert sliver.blocked or (sliver.template is not None and sliver.keys is not None)


UCI_OPTIONS = st.dictionaries(
    st.sampled_from([row[1] for row in settings.OPTIONS]), JSON | st.sampled_from(["1", "-1", "http://x", "/x"])
)


@MANY
@given(st.dictionaries(st.sampled_from([*settings.SECTIONS, "x"]), JSON | UCI_OPTIONS))
def test_settings_never_raise(uci: Any) -> None:
    parsed, _ = settings.parse(uci)
    for row in settings.OPTIONS:
        if row[2]:
            assert getattr(parsed, row[2]) is not None or row[5] is None
    assert not [uri for uri in parsed.registry_uris if uri.startswith("http://") and not parsed.plain_http]


@MANY
@given(
    st.text(max_size=80) | st.text(alphabet="ssh-ed2519rAB= \n\r\t@#\"'", max_size=60).map(lambda end: KEY + end) | JSON
)
def test_a_key_that_is_taken_is_one_harmless_line(token: Any) -> None:
    try:
        line = keys.parse(token)
    except ValueError:
        return
    assert all(" " <= char <= "~" for char in line)
    assert line.split(" ")[0] in keys.TYPES
    assert keys.parse(line) == line


@MANY
@given(st.lists(st.sampled_from([0, 0, 0, 1, 0xABC, 0xFFFF]), min_size=8, max_size=8))
def test_ipv6_text_is_that_of_the_standard_library(groups: "list[int]") -> None:
    number = 0
    for group in groups:
        number = (number << 16) | group
    expected = str(ipaddress.IPv6Address(number))
    assert addressing.format_ipv6(groups) == expected
    assert addressing.parse_ipv6(expected) == groups


@MANY
@given(st.text(alphabet="0123456789abcdefg:./%", max_size=40))
def test_what_is_no_ipv6_address_to_the_standard_library_is_none_here(word: str) -> None:
    try:
        groups = addressing.parse_ipv6(word)
    except ValueError:
        return
    assert ipaddress.IPv6Address(word) == ipaddress.IPv6Address(addressing.format_ipv6(groups))


@MANY
@given(st.lists(st.sampled_from(["..", ".", "a", "b.tgz", "c"]), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_references_are_resolved_as_the_standard_library_does(parts: "list[str]", rooted: bool, final: bool) -> None:
    reference = ("/" if rooted else "") + "/".join(parts) + ("/" if final else "")
    base = "https://h:1/api/slivers/9/"
    assert uris.join(base, reference) == urllib.parse.urljoin(base, reference)


@MANY
@given(st.dates(), st.dates())
def test_a_slice_has_expired_when_today_is_later(last: Any, today: Any) -> None:
    assert expiry.expired(last.isoformat(), today.isoformat()) == (today > last, None)


@MANY
@given(JSON, JSON)
def test_dates_never_raise(last: Any, today: Any) -> None:
    assert expiry.expired(last, today)[0] is False


def test_the_digest_of_keys_is_that_of_the_file_that_drivers_write() -> None:
    for lines in ([], [KEY], [KEY + " ann", OTHER_KEY]):
        assert keys.digest(lines) == hashlib.sha256(populate.keys_text(lines)).hexdigest()
