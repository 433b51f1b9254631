"""What the daemon shows of itself while a round is under way."""

from types import SimpleNamespace

from core_world import World, desired, sliver_target

from confine.status import Board


def board(world):
    """A board of that world's node, with nothing under way."""
    journal = SimpleNamespace(bookings=lambda: world.bookings)
    reader = SimpleNamespace(last_read=None, last_try=None, error=None, state=None)
    crew = SimpleNamespace(jobs=dict)
    recording = SimpleNamespace(status=dict)
    machine = SimpleNamespace(
        usage=lambda name: None, firewall=SimpleNamespace(trouble=lambda: None), overlay=SimpleNamespace()
    )
    found = Board(world.settings, machine, journal, reader, crew, recording)
    found._overlay = lambda *_: {}
    return found


def test_the_slivers_are_shown_while_the_nodes_own_steps_still_run_and_the_round_counts_when_it_ends():
    world = World()
    asked = desired(sliver_target(5))
    plan = world.plan(asked)
    assert plan.node_steps
    shows = board(world)
    assert shows.status()["slivers"] == []
    before = shows.shown
    shows.show(asked, plan, world.observed, ended=False)
    status = shows.status()
    assert (status["round"], [sliver["id"] for sliver in status["slivers"]]) == (0, [asked.slivers[0].key])
    assert shows.shown != before, "what is served is rendered anew"
    shows.show(asked, plan, world.observed)
    assert shows.status()["round"] == 1
