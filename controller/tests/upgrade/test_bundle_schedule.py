"""When a node takes an upgrade by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confine.core.settings import parse
from confine.upgrade.schedule import (
    AUTO,
    DAY_S,
    GO,
    NOTHING,
    NOTIFY,
    OFF,
    TELL,
    WAIT,
    Now,
    Offer,
    Rate,
    decide,
    delay,
    draw,
    share,
    within,
)

PUBLISHED = 1_795_000_000
POLICY = {"mode": AUTO, "pin": None, "hours": [], "metered": False, "unwatched": False}
RUNNING = ("1.0", (1, PUBLISHED - 10 * DAY_S))


def offer(version="2.0", order=(2, PUBLISHED), days=0, number=0.5, asked=False, failed=False):
    return Offer(version, order, days, number, asked, failed)


def at(days=1.0, hour=12, seen_days=0.0, deferred=None, watched=True):
    return Now(PUBLISHED + days * DAY_S if days is not None else None, hour, seen_days * DAY_S, deferred, watched)


def verdict(one=None, now=None, running=RUNNING, **policy):
    return decide(one or offer(), running, {**POLICY, **policy}, now or at())[0]


def test_the_share_of_upgraded_nodes_rises_from_none_to_all_as_gluons_does():
    assert [share(days, 4) for days in (-1, 0, 1, 2, 3, 4, 9)] == [0, 0, 0.15625, 0.5, 0.84375, 1, 1]
    assert share(0, 0) == 1


@given(st.floats(0, 1), st.integers(0, 365))
def test_the_turn_of_a_node_is_where_the_curve_reaches_its_number(number, days):
    seconds = delay(number, days)
    assert 0 <= seconds <= days * DAY_S
    if days:
        assert share(seconds / DAY_S, days) == pytest.approx(number, abs=1e-6)


def test_a_thousand_nodes_spread_as_the_curve_says_and_each_always_gets_the_same_turn():
    turns = [delay(draw(str(node), "bundle"), 4) / DAY_S for node in range(1000)]
    assert turns == [delay(draw(str(node), "bundle"), 4) / DAY_S for node in range(1000)]
    for day in (1, 2, 3):
        assert sum(turn <= day for turn in turns) / 1000 == pytest.approx(share(day, 4), abs=0.05)
    assert draw("1", "bundle") != draw("1", "another")


def test_a_node_waits_for_its_turn_and_says_when_that_is():
    word, reason, due = decide(offer(days=4), RUNNING, POLICY, at(1))
    assert (word, due) == (WAIT, PUBLISHED + 2 * DAY_S)
    assert "spreads over 4 days" in reason
    assert verdict(offer(days=4), at(2.1)) == GO


def test_a_node_without_a_clock_counts_the_days_since_it_saw_the_offer():
    assert verdict(offer(days=4), at(None, None, 1)) == WAIT
    assert verdict(offer(days=4), at(None, None, 2.1)) == GO


@pytest.mark.parametrize(("one", "now", "policy", "wanted"), [
    (offer(version="1.0"), at(), {}, NOTHING),
    (offer(order=(1, 0)), at(), {}, NOTHING),
    (offer(failed=True), at(), {}, NOTHING),
    (offer(failed=True, asked=True), at(), {}, NOTHING),
    (offer(), at(), {"mode": OFF}, TELL),
    (offer(asked=True), at(), {"mode": OFF}, TELL),
    (offer(), at(), {"mode": NOTIFY}, TELL),
    (offer(asked=True), at(), {"mode": NOTIFY}, GO),
    (offer(asked=True, days=300), at(), {}, GO),
    (offer(asked=True, order=(1, 0)), at(), {}, GO),
    (offer(), at(), {"pin": "1.5"}, NOTHING),
    (offer(version="1.5", order=(1, 0)), at(), {"pin": "1.5"}, GO),
    (offer(), at(), {"metered": True}, TELL),
    (offer(), at(watched=False), {}, TELL),
    (offer(), at(watched=False), {"unwatched": True}, GO),
    (offer(), at(hour=12), {"hours": ["3-6"]}, WAIT),
    (offer(), at(hour=4), {"hours": ["3-6"]}, GO),
    (offer(), at(1, deferred=PUBLISHED + 2 * DAY_S), {}, WAIT),
    (offer(asked=True), at(1, deferred=PUBLISHED + 2 * DAY_S), {}, WAIT),
    (offer(), at(3, deferred=PUBLISHED + 2 * DAY_S), {}, GO),
    (None, at(), {}, NOTHING),
])  # fmt: skip
def test_what_the_owner_set_goes_before_what_the_operator_asks(one, now, policy, wanted):
    assert decide(one, RUNNING, {**POLICY, **policy}, now)[0] == wanted


def test_every_verdict_comes_with_a_reason():
    for mode in (OFF, NOTIFY, AUTO):
        assert decide(offer(), RUNNING, {**POLICY, "mode": mode}, at())[1]


def test_hours_go_over_midnight():
    assert [hour for hour in range(24) if within(["22-5"], hour)] == [0, 1, 2, 3, 4, 22, 23]
    assert [hour for hour in range(24) if within(["3-6", "20-24"], hour)] == [3, 4, 5, 20, 21, 22, 23]
    assert all(within([], hour) for hour in range(24))


def test_unusable_options_are_named_and_leave_upgrades_careful():
    settings, problems = parse({"upgrade": {".type": "upgrade", "mode": "always", "hours": ["3", "3-6", "25-2"],
                                            "branch": "../x", "mirror": ["gopher://x", "http://m"]}})  # fmt: skip
    assert settings.upgrade_mode == NOTIFY
    assert settings.upgrade_hours == ["3-6"]
    assert settings.upgrade_branch == "stable"
    assert settings.upgrade_mirrors == ["http://m/"]
    assert {problem.member for problem in problems} == {
        "/upgrade/mode", "/upgrade/hours", "/upgrade/branch", "/upgrade/mirror"}  # fmt: skip


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=50), st.integers(1, 1000))
def test_the_rate_is_held(sizes, kib_s):
    now = 0.0

    def sleep(seconds):
        nonlocal now
        now += seconds

    rate = Rate(kib_s, sleep, lambda: now)
    for size in sizes:
        rate(size)
    assert now == pytest.approx(sum(sizes) / (kib_s * 1024))
