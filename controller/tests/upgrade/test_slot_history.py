"""The history of upgrades: kept in order, bounded, and not lost for one line that a power cut took."""

from __future__ import annotations

import os

from confine.paths import Paths
from confine.upgrade import history


def test_events_are_kept_in_order_with_their_time(tmp_path):
    paths = Paths(data=str(tmp_path))
    history.append({"event": "written", "slot": "b", "version": "7"}, paths)
    history.append({"event": "failed", "slot": "b", "why": "Füße"}, paths)
    assert [event["event"] for event in history.read(paths=paths)] == ["written", "failed"]
    assert history.read(1, paths)[0]["why"] == "Füße"
    assert all(event["time"] > 0 for event in history.read(paths=paths))


def test_the_oldest_events_go(tmp_path):
    paths = Paths(data=str(tmp_path))
    for number in range(3 * history.KEPT):
        history.append({"event": str(number)}, paths)
    kept = history.read(10_000, paths)
    assert kept[-1]["event"] == str(3 * history.KEPT - 1)
    assert history.KEPT <= len(kept) <= 2 * history.KEPT


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path):
    paths = Paths(data=str(tmp_path))
    history.append({"event": "first"}, paths)
    with open(os.path.join(paths.upgrade, history.FILE), "ab") as file:
        file.write(b'{"event": "cu')
    history.append({"event": "last"}, paths)
    assert [event["event"] for event in history.read(paths=paths)] == ["first", "last"]
