"""The power is cut at every write of an upgrade: what is on the disk starts, whole and confirmed, whichever it is.

And the other way round: without any one of its flushes, or with two of its writes in the other order, it would not.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil

import cuts
import grub_emu
import pytest
import written

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
# Neighbours whose order does not matter, and why.
COMMUTE = {
    ("kernel", "root"): "different partitions, both without a label",
    ("root", "no overlay"): "different sectors, both without a label",
    ("copy 1", "copy 2"): "each alone is a whole confirmation; the flush between them is what matters",
}


@pytest.fixture(scope="module", params=["a", "b"])
def world(request, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("cuts"))
    return written.record(directory, request.param)


@pytest.fixture(scope="module")
def grub(world, tmp_path_factory):
    image = str(tmp_path_factory.mktemp("grub") / "disk.img")
    shutil.copyfile(os.path.join(os.path.dirname(world.directory), "disk.img"), image)
    return grub_emu.Grub(world, image)


@pytest.fixture(scope="module")
def judge(world, grub):
    return cuts.Judge(world, grub)


def first_problem(world, judge, events, each):
    """Where the first brick is, or "" after all cuts."""
    for state, passed, where in cuts.cuts(world, events, random.Random(SEED), each):
        problem = judge.problem(state, passed)
        if problem:
            return f"{where}: {problem}"
    return ""


def explored(world, judge, each):
    seen, total, problems = set(), 0, []
    for state, passed, where in cuts.cuts(world, world.events, random.Random(SEED), each):
        total += 1
        if state.id in seen and written.CONFIRMED not in passed:
            continue
        seen.add(state.id)
        problem = judge.problem(state, passed)
        if problem:
            problems.append(f"{where}: {problem}")
    return seen, total, problems


def test_after_a_cut_at_any_write_the_confirmed_slot_starts_whole(world, judge, grub):
    seen, total, problems = explored(world, judge, 12)
    print(f"SEED={SEED}: {total} cuts, {len(seen)} different disks, {grub.runs} different inputs to GRUB")
    assert not problems, f"SEED={SEED}: {len(problems)} of {total}\n" + "\n".join(problems[:5])
    assert len(seen) > 1000


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_of_ten_thousand_different_disks_that_a_cut_can_leave_all_start(world, judge, grub):
    seen, total, problems = explored(world, judge, 150)
    print(f"SEED={SEED}: {total} cuts, {len(seen)} different disks, {grub.runs} different inputs to GRUB")
    assert not problems, f"SEED={SEED}: {len(problems)} of {total}\n" + "\n".join(problems[:5])
    assert len(seen) >= 10_000


def test_without_any_one_flush_a_cut_would_leave_a_node_that_is_not_whole(world, judge):
    flushes = [number for number, event in enumerate(world.events) if event.kind == "flush"]
    assert len(flushes) >= 9
    for number in flushes:
        events = [event for at, event in enumerate(world.events) if at != number]
        found = first_problem(world, judge, events, 40)
        assert found, f"SEED={SEED}: nothing was wrong without the flush after {world.events[number - 1]}"


def test_with_two_steps_in_the_other_order_a_cut_would_leave_a_node_that_is_not_whole(world, judge):
    steps = written.units([event for event in world.events if event.where != written.READ])  # reading writes nothing
    writing = [number for number, unit in enumerate(steps) if unit[0].kind == "write"]
    swapped = 0
    for first, second in itertools.pairwise(writing):
        pair = (steps[first][0].step, steps[second][0].step)
        if pair in COMMUTE:
            continue
        order = list(steps)
        order[first], order[second] = order[second], order[first]
        found = first_problem(world, judge, [event for unit in order for event in unit], 40)
        assert found, f"SEED={SEED}: nothing was wrong with {pair[1]} before {pair[0]}"
        swapped += 1
    assert swapped >= 7
