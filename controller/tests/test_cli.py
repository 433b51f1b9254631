"""The command line without a daemon: decisions, names, the log, and what it says when something is missing."""

import json
import os

import pytest

from confine import cli, cli_slivers, stop
from confine.core.model import Booking
from confine.core.settings import Settings
from confine.paths import Paths
from confine.records.actions import ActionLog

NAME = "000000000005_0001"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with the sliver 5@1, number 7, and no daemon."""
    paths = Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"), cgroup=str(tmp_path / "cgroup"))
    group = os.path.join(paths.cgroup, "confine", NAME)
    os.makedirs(group)
    os.makedirs(paths.run)
    for path in (group, os.path.dirname(group)):
        for file, text in (("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 0"), ("cgroup.kill", "")):
            with open(os.path.join(path, file), "w") as handle:
                handle.write(text)
    stop.prepare(paths, lambda: {NAME: Booking("5@1", NAME, 7, 64, 64)})
    monkeypatch.setattr(cli_slivers.stop, "known_paths", lambda run: paths)
    monkeypatch.setattr(cli, "RUN", paths.run)
    return paths


def run(*words):
    return cli.main(list(words))


def freeze(paths, name=NAME):
    with open(os.path.join(paths.cgroup, "confine", name, "cgroup.freeze")) as file:
        return file.read().strip()


def test_pause_and_resume_take_effect_without_a_daemon(node, capsys):
    assert run("pause", "5@1", "--why", "night") == 0
    assert freeze(node) == "1"
    assert run("resume", "5") == 0
    assert freeze(node) == "0"
    assert "paused: 5@1\nresumed: 5@1" in capsys.readouterr().out


def test_a_reset_without_a_daemon_says_when_it_will_come(node, capsys):
    assert run("reset", "5@1") == 0
    assert "when it runs again" in capsys.readouterr().out


def test_set_state_wants_a_state_or_clear(node, capsys):
    assert run("set-state", "5@1") == 1
    assert run("set-state", "5@1", "deploy", "--clear") == 1
    assert run("set-state", "5@1", "--clear") == 1
    assert "not held back" in capsys.readouterr().err
    assert run("set-state", "5@1", "deploy") == 0
    assert run("set-state", "5@1", "--clear") == 0


def test_stop_wants_to_know_exactly_one_thing(node, capsys):
    assert run("stop") == 1
    assert run("stop", "5@1", "--all") == 1
    assert run("release") == 1
    assert capsys.readouterr().err.count("say which") == 3


def test_a_command_is_not_run_in_a_sliver_that_is_frozen_or_does_not_run(node, capsys):
    run("pause", "5@1")
    assert run("exec", "5@1", "--", "id") == 1
    assert "`confine resume` first" in capsys.readouterr().err
    assert run("console", "6@1") == 1
    assert "does not run" in capsys.readouterr().err


def test_exec_becomes_lxc_attach_with_a_clean_environment(node, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execvp", lambda program, argv: called.append(argv) or 0)
    cli_slivers._exec(stop.Node(node), {"sliver": "5@1", "command": ["--", "ls", "-l"]})
    assert called == [["lxc-attach", "-P", node.run + "/lxc", "-n", NAME, "--clear-env", "--keep-var", "TERM", "--",
                       "ls", "-l"]]  # fmt: skip


def test_without_lxc_exec_says_what_is_missing(node, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert run("exec", "5@1", "--", "id") == 1
    assert "is LXC installed" in capsys.readouterr().err


def test_the_log_is_read_without_a_daemon(node, capsys):
    with open(node.log, "w") as file:
        file.write("one\ntwo\nthree\n")
    assert run("--run-dir", node.run, "log", "-n", "2") == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_stop_show_is_json_for_programs(node, capsys):
    assert run("stop", "show", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"evidence": {}, "stops": {}}
    assert run("stop", "show") == 0
    assert capsys.readouterr().out == "nothing is stopped\n"


def test_without_a_daemon_status_says_what_to_do(node, capsys):
    assert run("--run-dir", node.run, "status") == 1
    assert "/etc/init.d/confine start" in capsys.readouterr().err


def test_decisions_are_in_the_record_of_actions_with_who_and_why(node, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    run("pause", "5@1", "--why", "night")
    run("resume", "5@1")
    found = ActionLog(node, Settings()).read(kind="decision")
    assert [(one["subject"], one["who"], one["why"]) for one in found] == [(NAME, "ann", "night"), (NAME, "ann", "")]
    assert "paused" in found[0]["what"] and "resumed" in found[1]["what"]
