"""What must hold of people's decisions for all inputs (CPython only: hypothesis)."""

from typing import Any

from core_world import World, name_of
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_core_properties import FAULTS, JSON, desireds, harm, tight_world

from confine.core import states
from confine.core.decisions import ALL, MAX_TEXT, Decisions, Mark, parse, parse_sliver
from confine.core.model import Desired, SliverObserved

FEW = hypothesis_settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
MANY = hypothesis_settings(max_examples=200, deadline=None, derandomize=True)

NAMES = st.sampled_from([name_of(slice_id) for slice_id in (5, 6, 7)])
MARKS = st.builds(lambda kill: Mark("ann", "now", "because", kill), st.booleans())


@st.composite
def decisions(draw: st.DrawFn) -> Decisions:
    """Some decisions about some slivers."""
    made = Decisions()
    for name in draw(st.lists(NAMES, unique=True, max_size=2)):
        made.stop(name, draw(MARKS))
    if draw(st.integers(0, 4)) == 0:
        made.stop(ALL, draw(MARKS))
    for name in draw(st.lists(NAMES, unique=True, max_size=2)):
        made.pause(name, draw(MARKS))
    for name in draw(st.lists(NAMES, unique=True, max_size=1)):
        made.set_state(name, draw(st.sampled_from(["register", "deploy"])), draw(MARKS))
    for name in draw(st.lists(NAMES, max_size=3)):
        made.reset(name, draw(MARKS))
    return made


ROUNDS = st.lists(st.tuples(desireds(), decisions(), FAULTS, st.none() | st.integers(0, 9)), min_size=1, max_size=4)


def hurt(world: World, fault: str) -> None:
    """As harm; what does not run is not frozen either, as the limits driver observes it."""
    harm(world, fault)
    for found in world.observed.slivers.values():
        found.frozen = found.frozen and found.running


@FEW
@given(ROUNDS, desireds(), decisions())
def test_whatever_happened_nothing_runs_that_people_decided_against_and_nothing_else_is_held_back(
    rounds: "list[tuple[Desired, Decisions, str, int | None]]", last: Desired, decided: Decisions
) -> None:
    world = tight_world()
    for asked, found_decisions, fault, cut_after in rounds:
        world.decisions = found_decisions
        world.round(asked, cut_after)
        hurt(world, fault)
    world.decisions = decided
    world.now += 10000
    made = world.settle(last)
    for name, found in world.observed.slivers.items():
        decision = decided.of(name)
        if decision.stop is not None:
            assert not found.running or (found.frozen and not decision.stop.kill)
            assert made.states[name][0] not in ("started",)
        else:
            assert found.frozen == (found.running and decision.pause is not None)
    for sliver in last.slivers:
        decision, found = decided.of(sliver.name), world.observed.slivers.get(sliver.name)
        highest = states.lower(sliver.target, states.CEILINGS[made.node_state])
        if decision.state is not None:
            highest = states.lower(highest, str(decision.state.target))
        if decision.stop is None:
            assert states.level(found or SliverObserved(sliver.name)) <= states.LEVELS[highest]
        if decision.stop is None and found is not None and found.deployment is not None and not sliver.blocked:
            assert found.deployment["reset"] == decision.reset


@MANY
@given(JSON)
def test_no_document_can_break_the_reading_of_decisions(doc: Any) -> None:
    for tried in (doc, {"stops": doc}, {"slivers": doc}, {"stops": {ALL: doc}}, {"slivers": {name_of(5): doc}}):
        found = parse(tried)
        assert parse(found.as_doc()).as_doc() == found.as_doc()
        for mark in found.stops.values():
            assert len(mark.why) <= MAX_TEXT


@MANY
@given(st.text(max_size=24) | st.from_regex(r"[0-9]{0,6}@?[0-9]{0,6}", fullmatch=True), st.none() | st.just(42))
def test_what_people_type_is_a_slivers_name_or_refused(text: str, node_id: "int | None") -> None:
    try:
        name = parse_sliver(text, node_id)
    except ValueError as error:
        assert str(error)
    else:
        assert len(name) == 17 and "/" not in name
