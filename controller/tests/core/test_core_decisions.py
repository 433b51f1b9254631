"""People's decisions: what they say, and what the plan makes of them. Runs under MicroPython, too."""

from core_world import NODE_ID, World, at, messages, name_of, one, raised, settled

from confine.core.decisions import ALL, Decisions, Mark, parse, parse_sliver
from confine.core.model import Desired

NAME = name_of(5)


def mark(**values: "object") -> Mark:
    return Mark("ann", "2026-11-20T10:00:00Z", "a reason", **values)


def test_a_sliver_is_named_by_key_host_name_or_the_number_of_its_slice() -> None:
    for text in ("5@42", NAME, "5", "slice:5"):
        assert parse_sliver(text, NODE_ID) == NAME, text
    assert parse_sliver("5@42", None) == NAME


def test_what_is_no_sliver_of_this_node_is_refused_with_what_may_be_said() -> None:
    for text in ("", "x", "5@", "@42", "0", "5@x", "-1", "../5", "5@42@1", "9999999999999999", "5 "):
        said = raised(lambda text=text: parse_sliver(text, NODE_ID))
        assert "SLICE@NODE" in said or "sliver" in said, (text, said)
    assert "this is node 42" in raised(lambda: parse_sliver("5@7", NODE_ID))
    assert "no id" in raised(lambda: parse_sliver("5", None))


def test_decisions_come_back_from_their_document() -> None:
    made = Decisions()
    made.stop(ALL, mark(kill=True))
    made.stop(NAME, mark())
    made.pause(NAME, mark())
    made.set_state(NAME, "deploy", mark())
    made.reset(NAME, mark())
    made.reset(NAME, mark())
    again = parse(made.as_doc())
    assert again.as_doc() == made.as_doc()
    assert again.of(NAME).reset == 2


def test_rubbish_in_the_document_is_left_out_and_a_stop_without_words_still_stops() -> None:
    for doc in (None, [], 3, {"stops": 3}, {"slivers": {NAME: 4}}, {"slivers": {"../x": {"pause": {}}}}):
        assert parse(doc).as_doc() == {"stops": {}, "slivers": {}}, doc
    found = parse({"stops": {NAME: None, "other": {}}, "slivers": {NAME: {"state": {"target": "start"}, "x": {}}}})
    assert list(found.stops) == [NAME]
    assert found.of(NAME).stop is not None


def test_an_override_can_only_lower() -> None:
    assert "only be lowered" in raised(lambda: Decisions().set_state(NAME, "start", mark()))
    for held, asked, state in (("deploy", "start", "deployed"), ("register", "start", "registered"),
                               ("deploy", "register", "registered")):  # fmt: skip
        world, wish = World(), one(target=asked)
        world.decisions.set_state(NAME, held, mark())
        world.settle(wish)
        assert world.state(wish, 5) == state
    world.decisions.clear_state(NAME)
    world.settle(one())
    assert world.state(one(), 5) == "started"


def test_a_stopped_sliver_is_frozen_and_left_as_it_is_whatever_is_asked() -> None:
    gone = Desired(one().node, [], True, [])
    for wish in (one(), one(target="deploy"), one(target="register"), one(sliver_instance_sn=9),
                 one(slice_instance_sn=9), gone):  # fmt: skip
        world = at("start")
        world.decisions.stop(NAME, mark())
        plan = world.settle(wish)
        found = world.observed.slivers[NAME]
        assert found.running and found.frozen and found.deployment["slice_instance_sn"] == 0
        assert plan.states[NAME][0] == "deployed"
        assert "Stopped by the node's owner" in messages(plan.states[NAME][1])
        assert NAME in world.bookings


def test_who_stopped_a_sliver_from_where_and_why_is_not_among_the_errors_everybody_may_read() -> None:
    world = at("start")
    world.decisions.stop(NAME, Mark("root with key anna@laptop from 192.168.1.23", "T", "scans my NAS"))
    said = messages(world.settle(one()).states[NAME][1])
    assert "Stopped" in said
    assert [word for word in ("root", "anna", "192.168", "NAS", " T") if word in said] == []


def test_a_stopped_sliver_does_not_come_up_after_a_reboot_and_a_release_brings_it_back() -> None:
    world = at("start")
    world.decisions.stop(ALL, mark())
    world.settle(one())
    world.reboot()
    world.settle(one())
    assert not world.observed.slivers[NAME].running
    world.decisions.release(ALL)
    world.settle(one())
    assert world.state(one(), 5) == "started"


def test_a_released_sliver_runs_on_with_what_it_was_doing() -> None:
    world = at("start")
    world.decisions.stop(NAME, mark())
    world.settle(one())
    world.decisions.release(NAME)
    world.done = []
    world.settle(one())
    assert [verb for _, verb, _ in world.done] == ["thaw"]
    assert world.observed.slivers[NAME].running and not world.observed.slivers[NAME].frozen


def test_a_stop_that_kills_takes_the_sliver_down_to_deployed() -> None:
    world = at("start")
    world.decisions.stop(NAME, mark(kill=True))
    world.settle(one())
    assert not world.observed.slivers[NAME].running and not world.observed.slivers[NAME].limited
    assert world.state(one(), 5) == "deployed"


def test_nothing_of_a_stopped_slice_is_even_allocated() -> None:
    world = World()
    world.decisions.stop(NAME, mark())
    world.settle(one())
    assert world.bookings == {} and world.state(one(), 5) == "registered"


def test_a_stop_holds_before_the_registry_was_ever_read() -> None:
    world = at("start")
    world.decisions.stop(NAME, mark())
    world.settle(Desired(None, [], False, []))
    assert world.observed.slivers[NAME].frozen


def test_one_release_ends_only_its_own_stop() -> None:
    made = Decisions()
    assert "not stopped" in raised(lambda: made.release(NAME))
    made.stop(NAME, mark())
    made.stop(ALL, mark())
    said = made.release(ALL)
    assert "5@42" in said and made.of(NAME).stop is not None
    made.stop(ALL, mark())
    made.release(NAME)
    assert "release --all" in raised(lambda: made.release(NAME))
    assert made.of(NAME).scope == "--all"


def test_the_first_stop_keeps_its_words() -> None:
    made = Decisions()
    made.stop(NAME, mark())
    made.stop(NAME, Mark("bob", "later", "me too", kill=True))
    assert made.stops[NAME].who == "ann" and made.stops[NAME].kill


def test_a_paused_sliver_is_frozen_as_long_as_it_runs_and_not_started_after_a_reboot() -> None:
    world = at("start")
    world.decisions.pause(NAME, mark())
    plan = world.settle(one())
    assert world.observed.slivers[NAME].frozen and plan.states[NAME][0] == "started"
    world.reboot()
    world.settle(one())
    assert not world.observed.slivers[NAME].running and world.state(one(), 5) == "deployed"
    assert world.plan(one()).targets[NAME] == "deploy", "or it would look as if it should run"
    world.decisions.resume(NAME)
    world.settle(one())
    assert world.observed.slivers[NAME].running and not world.observed.slivers[NAME].frozen


def test_a_paused_sliver_can_be_lowered_made_anew_and_removed() -> None:
    for wish, state in ((one(target="deploy"), "deployed"), (one(slice_instance_sn=4), "deployed"),
                        (one(target="register"), "registered")):  # fmt: skip
        world = at("start")
        world.decisions.pause(NAME, mark())
        world.settle(one())
        assert "thaw stop" in world.verbs(wish, 5), "a frozen sliver cannot halt in order"
        world.settle(wish)
        assert world.state(wish, 5) == state


def test_a_pause_that_cannot_be_carried_out_is_told_until_it_is() -> None:
    world = at("start")
    world.decisions.pause(NAME, mark())
    world.fails = {("limits", "freeze")}
    for _ in range(3):
        world.round(one())
        assert "limits freeze failed" in world.messages(one(), 5)
        world.now += 100
    world.fails = set()
    world.settle(one())
    assert world.messages(one(), 5) == ""


def test_resume_of_what_is_not_paused_says_so_and_a_stop_outlasts_it() -> None:
    made = Decisions()
    assert "not paused" in raised(lambda: made.resume(NAME))
    made.pause(NAME, mark())
    made.stop(NAME, mark())
    assert "stays stopped" in made.resume(NAME)


def steps_of(world: World, wish: Desired) -> "dict[str, tuple[str, str]]":
    """{verb: (on whose word, why)}"""
    return {step.verb: (step.who, step.why) for step in world.plan(wish).sliver_steps[NAME]}


def test_steps_that_the_owner_decided_are_done_on_the_owners_word_and_for_the_owners_reason() -> None:
    decided = (("stop", lambda made: made.stop(NAME, mark(kill=True)), "Stopped by ann"),
               ("freeze", lambda made: made.stop(NAME, mark()), "Stopped by ann"),
               ("freeze", lambda made: made.pause(NAME, mark()), "Paused by ann"),
               ("stop", lambda made: made.set_state(NAME, "deploy", mark()), "Held at deploy by ann"),
               ("release", lambda made: made.set_state(NAME, "register", mark()), "Held at register by ann"),
               ("undeploy", lambda made: made.reset(NAME, mark()), "Returned to its template by ann"))  # fmt: skip
    for verb, decide, words in decided:
        world = at("start")
        decide(world.decisions)
        who, why = steps_of(world, one())[verb]
        assert who == "ann" and why.startswith(words) and "a reason" in why, (verb, who, why)


def test_a_sliver_goes_on_after_a_pause_on_the_owners_word_and_up_on_that_of_those_who_asked_for_it() -> None:
    world = at("start")
    world.decisions.pause(NAME, mark())
    world.settle(one())
    world.decisions.resume(NAME)
    assert steps_of(world, one())["thaw"][0] == "the node's owner"
    world.decisions.reset(NAME, mark())
    assert steps_of(world, one())["start"][0] == ""


def test_what_the_registry_asks_is_not_put_down_to_the_owner() -> None:
    for held, asked, verb in (("deploy", "deploy", "stop"), ("deploy", "register", "release")):
        world = at("start")
        world.decisions.set_state(NAME, held, mark())
        assert steps_of(world, one(target=asked))[verb][0] == "", (held, asked)


def test_a_reset_makes_the_sliver_anew_exactly_once() -> None:
    world = at("start")
    world.decisions.reset(NAME, mark())
    world.done = []
    world.settle(one())
    verbs = [verb for _, verb, _ in world.done]
    assert "undeploy" in verbs and "remove" not in [verb for driver, verb, _ in world.done if driver == "storage"]
    assert world.state(one(), 5) == "started"
    world.done = []
    world.settle(one())
    assert world.done == []


def test_a_reset_cut_off_anywhere_is_made_up_for() -> None:
    for cut in range(12):
        world = at("start")
        world.decisions.reset(NAME, mark())
        world.round(one(), cut_after=cut)
        world.reboot()
        world.settle(one())
        assert world.observed.slivers[NAME].deployment["reset"] == 1, cut
        assert world.state(one(), 5) == "started"


def test_a_sliver_deployed_by_an_older_version_is_not_reset_for_that() -> None:
    world = settled(one())
    del world.observed.slivers[NAME].deployment["reset"]
    plan = world.plan(one())
    assert plan.sliver_steps == {}


def test_decisions_about_slivers_are_bounded_and_stops_are_not_refused() -> None:
    made = Decisions()
    for slice_id in range(1, 257):
        made.pause(name_of(slice_id), mark())
    assert "clear some" in raised(lambda: made.pause(name_of(300), mark()))
    made.stop(name_of(300), mark())
