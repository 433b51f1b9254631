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


def test_the_same_refusal_again_and_again_is_one_line_and_pushes_nothing_out(tmp_path):
    paths = Paths(data=str(tmp_path))
    history.append({"event": "failed", "bundle": "x"}, paths)
    for _ in range(5):
        history.append({"event": "refused", "why": "kexec failed"}, paths)
    history.append({"event": "refused", "why": "no room"}, paths)
    assert [event["event"] for event in history.read(paths=paths)] == ["failed", "refused", "refused"]


def test_however_much_there_is_to_say_the_newest_event_is_read(tmp_path):
    paths = Paths(data=str(tmp_path))
    for number in range(250):
        history.append({"event": "refused", "why": f"{number} " + "x" * 9000}, paths)
    history.append({"event": "failed", "bundle": "x"}, paths)
    assert history.read(1, paths)[0]["event"] == "failed"


def test_what_several_processes_remember_at_once_is_all_kept(tmp_path):
    paths = Paths(data=str(tmp_path))
    for number in range(2 * history.KEPT - 20):
        history.append({"event": "written", "number": -number}, paths)
    children = []
    for number in range(40):
        child = os.fork()
        if not child:
            try:
                history.append({"event": "failed", "number": number}, paths)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    kept = [event["number"] for event in history.read(paths=paths) if event["event"] == "failed"]
    assert sorted(kept) == list(range(40))
