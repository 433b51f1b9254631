"""The table of verbs: what the control socket lets in, and that everything made from it holds together."""

import subprocess

import pytest

from confine import cli, cli_slivers, completion, verbs
from confine.errors import ConfineError


def test_every_verb_has_a_help_line_and_somebody_who_answers():
    answered = set(cli.VERBS) | set(cli_slivers.VERBS)
    for verb in verbs.VERBS:
        assert verb.help and not verb.help.endswith("."), verb.name
        assert verb.by in (verbs.DAEMON, verbs.COMMAND)
        assert verb.hidden or verb.name in answered, verb.name
        assert all(argument.help for argument in verb.arguments), verb.name
    assert answered <= {verb.name for verb in verbs.VERBS}


def test_what_must_work_without_the_daemon_is_answered_by_the_command_itself():
    for name in ("stop", "stop-show", "release", "pause", "resume", "exec", "check", "log", "trace"):
        assert verbs.find(name).by == verbs.COMMAND


def test_arguments_are_filled_in_with_their_defaults():
    assert verbs.checked("log", {}, verbs.COMMAND) == {"lines": 50, "follow": False}
    assert verbs.checked("sliver", {"sliver": "5@1"}) == {"sliver": "5@1"}
    assert verbs.checked("status", {}) == {}


@pytest.mark.parametrize("name,args,words", [
    ("statsu", {}, "did you mean status"),
    ("sliver", {}, "needs its argument sliver"),
    ("sliver", {"sliver": 5}, "must be a text"),
    ("sliver", {"sliver": "x" * 65}, "not too long"),
    ("status", {"json": True}, "no argument 'json'"),
    ("sliver", {"slivre": "5@1"}, "there are: sliver"),
    ("stop", {"all": True}, "answered by the command line itself"),
])  # fmt: skip
def test_what_the_daemon_is_asked_wrongly_is_refused_with_what_is_allowed(name, args, words):
    with pytest.raises(ConfineError, match=words):
        verbs.checked(name, args)


@pytest.mark.parametrize("name,args,words", [
    ("log", {"lines": 0}, "from 1 to 10000"),
    ("log", {"lines": True}, "whole number"),
    ("log", {"follow": "yes"}, "true or false"),
    ("exec", {"sliver": "5@1", "command": []}, "at least one"),
    ("set-state", {"sliver": "5@1", "state": "start"}, "register or deploy"),
])  # fmt: skip
def test_arguments_are_checked_by_type_and_range(name, args, words):
    with pytest.raises(ConfineError, match=words):
        verbs.checked(name, args, verbs.COMMAND)


def test_the_help_lists_every_verb_that_people_type(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for verb in verbs.VERBS:
        assert (verb.name in shown) != verb.hidden or verb.name == "stop-show", verb.name


def test_a_command_line_that_is_wrong_is_refused_before_anything_is_done(capsys):
    for words in ([], ["stpo"], ["stop", "--al"], ["log", "-n", "x"], ["sliver"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2


def test_completion_is_valid_bash_and_knows_verbs_options_and_choices():
    text = completion.script()
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)
    asked = "COMP_WORDS=(confine %s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _confine; echo ${COMPREPLY[@]}"

    def offered(words):
        done = subprocess.run(["bash", "-c", text + asked % words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert offered("rel") == ["release"]
    assert offered("stop --") == ["--all", "--why", "--kill"]
    assert set(offered("set-state 5@1 ''")) >= {"register", "deploy", "--clear"}
    assert "look" not in offered("''")
