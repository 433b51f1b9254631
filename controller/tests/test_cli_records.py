"""`confine history` and `confine figures`: what is recorded, as people and programs read it."""

import json

import pytest

from confine import cli, stop
from confine.control import ControlServer
from confine.core.settings import Settings
from confine.errors import ConfineError
from confine.journal import Journal
from confine.paths import Paths
from confine.recording import Recording
from confine.records.actions import ActionLog
from confine.records.moments import Moment

NAME, OTHER = "000000000005_0001", "000000000006_0001"
BASE = "https://r/api/"


@pytest.fixture
def paths(tmp_path, monkeypatch):
    found = Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(stop, "known_paths", lambda run: found)
    return found


def confine(paths, *words):
    return cli.main(["--run-dir", paths.run, *words])


def record(paths):
    log = ActionLog(paths, Settings(), lambda: Moment(1_763_632_180.0, 100.0, "b0b0b0b0", True))
    log.add("step", NAME, "registry: group 3 Students", "containers start", "asked for: started")
    log.add(
        "step", OTHER, "registry: group 4", "storage mount failed", "to be deployed", more={"error": "no \x1b space"}
    )
    log.add("decision", "all", "ann", "stopped", "fire")
    log.close()


def test_what_was_done_is_told_with_who_and_why_without_a_daemon(paths, capsys):
    record(paths)
    assert confine(paths, "history") == 0
    shown = capsys.readouterr().out
    assert "2025-11-20 09:49:40  5@1     containers start      registry: group 3 Students  asked for: started" in shown
    assert "\x1b" not in shown


def test_of_one_sliver_what_was_done_to_all_is_told_too(paths, capsys):
    record(paths)
    assert confine(paths, "history", "5@1", "--json") == 0
    assert [one["what"] for one in json.loads(capsys.readouterr().out)] == ["containers start", "stopped"]
    assert confine(paths, "history", "5@1", "-n", "1", "--json") == 0
    assert [one["what"] for one in json.loads(capsys.readouterr().out)] == ["stopped"]


def test_where_nothing_is_recorded_that_is_said(paths, capsys):
    assert confine(paths, "history") == 1
    assert capsys.readouterr().out == "nothing is recorded\n"
    record(paths)
    assert confine(paths, "history", "--since", "2030-01-01T00:00Z") == 1
    assert confine(paths, "history", "--since", "yesterday") == 1
    assert "is no time" in capsys.readouterr().err


def usage(seconds):
    return {"cpu_usec": seconds * 250_000, "memory_bytes": 8 << 20, "sent_bytes": seconds * 1024, "pids": 3}


STATE = {
    "docs": {
        BASE + "users/1/": {"name": "ann", "is_active": True, "auth_tokens": []},
        BASE + "slices/5/": {"uri": BASE + "slices/5/", "id": 5, "sliver_defaults": {},
                             "group": {"uri": BASE + "groups/3/"}},
        BASE + "groups/3/": {"uri": BASE + "groups/3/",
                             "user_roles": [{"user": {"uri": BASE + "users/1/"}, "is_slice_admin": True}]},
    },
    "node": None,
}  # fmt: skip


@pytest.fixture
def recording(paths):
    found = Recording(paths, Settings(node_id=1), Journal(paths), lambda name: {})
    for up in (100, 110, 120):
        moment = Moment(1_763_632_100.0 + up, float(up), "b0b0b0b0", True)
        found.figures.sample({NAME: usage(up), OTHER: usage(2 * up)}, moment)
    yield found
    found.actions.close()


@pytest.fixture
def daemon(paths, recording):
    """Answers `figures` as the daemon does."""
    server = ControlServer(paths.control, lambda verb, args: recording.asked(args, STATE))
    yield server
    server.close()


def test_figures_of_all_slivers_come_with_their_sum(paths, daemon, capsys):
    assert confine(paths, "figures") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:3]] == [["5@1", "25.0"], ["6@1", "50.0"]]
    assert lines[3][:4] == ["all", "2", "75.0", "0.0"]


def test_figures_of_one_sliver_come_over_time(paths, daemon, capsys):
    assert confine(paths, "figures", "5@1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:19] for line in lines[1:]] == ["2025-11-20 09:50:10", "2025-11-20 09:50:20"]
    assert confine(paths, "figures", "5@1", "--span", "days") == 1
    assert "no figures yet" in capsys.readouterr().out


def test_a_user_is_shown_only_what_they_may_see(paths, daemon, capsys):
    assert confine(paths, "figures", "--user", "ann", "--json") == 0
    doc = json.loads(capsys.readouterr().out)
    assert list(doc["slivers"]) == [NAME]
    assert doc["total"] is None, "a sum with one other sliver in it would tell of that one"
    assert confine(paths, "figures", "6@1", "--user", "ann") == 1
    assert "may not see" in capsys.readouterr().err
    assert confine(paths, "figures", "--user", "bob") == 1
    assert "knows of no users 'bob'" in capsys.readouterr().err


def test_a_span_that_is_none_is_refused_by_the_daemon_as_well(recording):
    from confine import verbs

    with pytest.raises(ConfineError, match="minutes or hours or days"):
        verbs.checked("figures", {"span": "years"})


def test_what_is_wrong_with_the_records_is_told_damage_included(recording, monkeypatch):
    assert recording.problems() == []
    monkeypatch.setattr(recording.figures, "status", lambda: {"slivers": 0, "error": "disk full", "problems": []})
    monkeypatch.setattr(recording.actions, "status", lambda: {"error": None, "problems": ["a is torn", "b is torn"]})
    assert recording.problems() == ["the record of actions was damaged: a is torn (and 1 more)",
                                    "figures are not recorded: disk full"]  # fmt: skip
