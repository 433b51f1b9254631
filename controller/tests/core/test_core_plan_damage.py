"""The plan for slivers whose documents on disk are damaged: they are written anew, and nothing else happens to them."""

from core_world import OPENWRT, OTHER_KEY, at, desired, name_of, one

NAME = name_of(5)


def test_a_damaged_document_is_written_anew_and_what_runs_runs_on() -> None:
    for member in ("allocation", "deployment"):
        world = at("start")
        before = world.observed.slivers[NAME].as_doc()
        world.damage(NAME, member)
        world.observed.slivers[NAME].limits_held = False  # nothing says which limits were to hold
        assert world.verbs(one(), 5) == "mend"
        assert member + ".json is damaged" in world.messages(one(), 5)
        world.round(one())
        world.observed.slivers[NAME].limits_held = True
        world.settle(one())
        assert world.observed.slivers[NAME].as_doc() == before, member
        assert "stop" not in [step[1] for step in world.done]


def test_both_documents_damaged_are_written_anew_from_the_booking() -> None:
    world = at("start")
    world.damage(NAME, "allocation")
    world.damage(NAME, "deployment")
    world.settle(one())
    assert world.state(one(), 5) == "started" and "stop" not in [step[1] for step in world.done]


def test_as_long_as_nothing_says_what_it_was_a_sliver_with_a_damaged_document_stays_as_it_is() -> None:
    world = at("start")
    world.damage(NAME, "allocation")
    assert world.verbs(one(blocked=True, template=None, sliver_instance_sn=-1), 5) == ""
    assert "damaged" in world.messages(one(blocked=True), 5)
    unsure = desired()
    unsure.complete = False
    assert world.plan(unsure).sliver_steps == {}


def test_without_a_booking_either_it_is_allocated_anew() -> None:
    world = at("start")
    world.damage(NAME, "allocation")
    world.bookings.pop(NAME)
    steps = world.plan(one()).sliver_steps[NAME]
    assert "allocation.json is damaged" in steps[0].why
    world.settle(one())
    assert world.state(one(), 5) == "started"


def test_a_change_that_came_with_the_damage_is_carried_out_afterwards() -> None:
    world = at("start")
    world.damage(NAME, "allocation")
    asked = one(sliver_instance_sn=9, template=OPENWRT)
    assert world.verbs(asked, 5) == "mend"
    world.settle(asked)
    allocation = world.observed.slivers[NAME].allocation
    assert allocation is not None and allocation["sliver_instance_sn"] == 9
    world.damage(NAME, "deployment")
    world.settle(one(sliver_instance_sn=9, template=OPENWRT, keys=[OTHER_KEY]))
    assert "keys" in [step[1] for step in world.done]


def test_what_is_to_go_goes_damaged_or_not() -> None:
    world = at("start")
    world.damage(NAME, "allocation")
    world.settle(one(target="register"))
    assert world.bookings == {} and NAME not in world.observed.slivers
