"""The node on ubus: what is offered, how calls are answered, which events are sent. ubus itself is stood in for."""

import json
import re
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confine import evidence, stop, verbs
from confine.bus import jobs, rules
from confine.bus import main as bus
from confine.control import ControlServer
from confine.errors import ConfineError
from confine.paths import Paths

RESOURCES = Path(__file__).parents[2] / "package/luci-app-confine/htdocs/luci-static/resources"


def status(**changes):
    sliver = {"id": "5@1", "name": "000000000005_0001", "state": "started", "errors": []}
    doc = {"node": {"id": 1, "state": "production", "message": ""}, "registry": {"error": None}, "slivers": [sliver]}
    return {**doc, **changes}


def told(offer, name, data):
    """The answer of a method, asked for until it is there."""
    answer = offer.answer(rules.methods()[name], data)
    while answer["ok"] and isinstance(answer["result"], dict) and answer["result"].get("pending"):
        answer = offer.end(answer["result"]["job"])
    return answer


def echo_command(script):
    """A command line that runs `script` with the words it was given in `words`."""
    return [sys.executable, "-c", "import sys, json; words = sys.argv[1:]\n" + script]


def test_every_verb_of_the_command_line_is_offered_but_those_that_need_a_terminal():
    offered = {method.verb.name for method in rules.methods().values()}
    hidden = {verb.name for verb in verbs.VERBS if verb.hidden}
    assert offered == {verb.name for verb in verbs.VERBS} - hidden - {"exec", "console", "completion"}
    assert "set_state" in rules.methods()


def test_only_the_object_for_web_pages_takes_the_session_that_uhttpd_adds():
    pause = rules.methods()["pause"]
    assert rules.signature(pause, web=False) == {"sliver": "STRING", "why": "STRING"}
    assert rules.signature(pause, web=True) == {"sliver": "STRING", "why": "STRING", "ubus_rpc_session": "STRING"}
    assert rules.signature(rules.methods()["stop"], web=False)["all"] == "BOOL"
    assert rules.signature(rules.methods()["log"], web=False) == {"lines": "INT32"}


def test_the_pages_give_every_argument_that_a_method_wants_and_no_other():
    text = (RESOURCES / "confine/node.js").read_text()
    table = re.search(r"^const METHODS = \{\n(.*?)^\};", text, re.MULTILINE | re.DOTALL)[1]
    lines = re.findall(r"^\t(\w+): \{(.*)\},?$", table, re.MULTILINE)
    called = {name: set(re.findall(r"(\w+): ", arguments)) for name, arguments in lines}
    assert len(called) == len(table.splitlines())
    offered = {name: rules.signature(method, web=False) for name, method in rules.methods().items()}
    offered[rules.JOB] = rules.job_signature(web=False)
    for name, args in called.items():
        assert args == set(offered[name]), name


def test_an_empty_argument_counts_as_not_given():
    log = rules.methods()["log"]
    assert rules.given(log, {"lines": 0, "ubus_rpc_session": "x"})["lines"] == 50
    with pytest.raises(ConfineError, match="needs its argument sliver"):
        rules.given(rules.methods()["pause"], {"sliver": "", "why": "x"})


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_people_wrote_is_never_taken_for_an_option(sliver, why):
    words = rules.command_line(rules.methods()["pause"], {"sliver": sliver, "why": why})
    assert words == ["pause", "--why=" + why, "--", sliver]


def test_a_sliver_that_begins_with_a_dash_reaches_the_command_line_as_a_sliver(tmp_path, capsys):
    from confine import cli

    words = rules.command_line(rules.methods()["pause"], {"sliver": "--all", "why": "-x"})
    assert cli.main(["--run-dir", str(tmp_path), *words]) == 1
    assert "--all" in capsys.readouterr().err


def test_a_verb_of_the_daemon_is_answered_by_the_daemon(tmp_path):
    paths = Paths(run=str(tmp_path))
    server = ControlServer(paths.control, lambda verb, args: {"verb": verb, **args})
    offer = bus.Offer(paths, [])
    assert offer.answer(rules.methods()["sliver"], {"sliver": "5@1"}) == {
        "ok": True, "result": {"verb": "sliver", "sliver": "5@1"}
    }  # fmt: skip
    server.close()


def test_without_a_daemon_the_answer_says_so_and_what_to_do(tmp_path):
    answer = bus.Offer(Paths(run=str(tmp_path)), []).answer(rules.methods()["status"], {})
    assert answer["ok"] is False
    assert "/etc/init.d/confine start" in answer["error"]


def test_what_a_command_says_is_the_result_and_its_failure_the_error(tmp_path):
    paths = Paths(run=str(tmp_path))
    good = told(bus.Offer(paths, echo_command("print(json.dumps(words))")), "check", {})
    assert good == {"ok": True, "result": ["check", "--json"]}
    pause = rules.methods()["pause"]
    bad = bus.Offer(paths, echo_command("sys.exit('confine: no such sliver')"))
    assert bad.answer(pause, {"sliver": "5", "why": ""}) == {"ok": False, "error": "no such sliver"}


def test_a_secret_reaches_the_command_on_its_standard_input_where_no_list_of_processes_shows_it(tmp_path):
    setup = rules.methods()["setup"]
    assert rules.signature(setup, web=False)["publish"] == "STRING"
    script = "print(json.dumps([words, sys.stdin.read()]))"
    offer = bus.Offer(Paths(run=str(tmp_path)), echo_command(script))
    said = told(offer, "setup", {"publish": "0123abcd", "node": "0001", "check": False})
    assert said == {"ok": True, "result": [["setup", "--json", "--node=0001", "--publish"], "0123abcd"]}
    assert told(offer, "setup", {"node": "0001", "publish": ""})["result"][1] == ""
    refused = offer.answer(setup, {"publish": "x" * 600})
    assert refused["ok"] is False and "xxx" not in refused["error"]


def waiting(go, began):
    return f"""
import os, time
open({str(began)!r}, 'a').write('x')
while not os.path.exists({str(go)!r}):
    time.sleep(0.02)
print(json.dumps([words, sys.stdin.read()]))"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """An offer whose commands wait for the file `go`, and write into the file `began`."""
    monkeypatch.setattr(jobs, "WAIT_S", 0.0)
    made = bus.Offer(Paths(run=str(tmp_path)), echo_command(waiting(tmp_path / "go", tmp_path / "began")))
    yield made
    (tmp_path / "go").touch()


def test_what_takes_longer_than_a_call_goes_on_and_its_end_is_asked_for_by_its_number(slow, tmp_path):
    setup, keys = rules.methods()["setup"], {"node": "0001", "publish": "secret"}
    for _ in range(3):
        assert slow.answer(setup, keys) == {"ok": True, "result": {"pending": True, "job": 1}}
    other = slow.answer(setup, {"node": "0002"})
    assert other["ok"] is False and "under way" in other["error"] and "secret" not in other["error"]
    (tmp_path / "go").touch()
    assert told(slow, "setup", keys)["result"] == [["setup", "--json", "--node=0001", "--publish"], "secret"]


def test_to_ask_for_an_end_never_begins_anything_however_often_and_by_how_many(slow, tmp_path):
    pending = slow.answer(rules.methods()["upgrade_rollback"], {})["result"]
    (tmp_path / "go").touch()
    while (first := slow.end(pending["job"]))["result"] == pending:
        pass
    assert [slow.end(pending["job"]) for _ in range(3)] == [first] * 3
    assert (tmp_path / "began").read_text() == "x"


def test_a_secret_is_not_kept_longer_than_it_is_needed(slow, tmp_path):
    job = slow.answer(rules.methods()["setup"], {"node": "0001", "publish": "secret"})["result"]["job"]
    (tmp_path / "go").touch()
    while slow.end(job)["result"] == {"pending": True, "job": job}:
        pass
    assert "secret" not in repr(vars(slow._jobs.find(job)))


def test_a_job_that_nothing_is_known_of_is_answered_in_words(slow):
    for number in (7, 0, -1, None, "1", [1]):
        assert "nothing is known" in slow.end(number)["error"]


def test_what_changes_nothing_is_broken_off_once_it_has_taken_too_long_and_never_what_changes_something(
    slow, monkeypatch
):
    check, setup = rules.methods()["check"], rules.methods()["setup"]
    checking, joining = (slow.answer(method, {})["result"] for method in (check, setup))
    monkeypatch.setattr(jobs, "LIMIT_S", -1.0)
    assert slow.answer(check, {})["result"]["job"] not in (checking["job"], joining["job"])
    assert slow.answer(setup, {})["result"] == joining


def test_only_the_last_ends_are_kept(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 2)
    (tmp_path / "go").touch()
    for _ in range(4):
        told(slow, "check", {})
    assert [slow.end(number)["ok"] for number in (1, 2, 3, 4)] == [False, False, True, True]


def test_a_stop_is_answered_while_all_that_takes_long_goes_on(slow):
    for name in ("check", "setup", "upgrade_install", "upgrade_check"):
        assert slow.answer(rules.methods()[name], {})["result"]["pending"] is True
    slow._command = echo_command("print('stopped')")
    assert slow.answer(rules.methods()["stop"], {"all": True}) == {"ok": True, "result": {"message": "stopped"}}


def test_what_was_begun_and_failed_says_why(tmp_path):
    offer = bus.Offer(Paths(run=str(tmp_path)), echo_command("sys.exit('confine: no mirror offers 2.0')"))
    assert told(offer, "upgrade_install", {"what": "2.0"}) == {"ok": False, "error": "no mirror offers 2.0"}


WORD = st.text(max_size=5)
ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | WORD,
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
                        max_leaves=5)  # fmt: skip


@given(st.sampled_from(sorted(rules.methods())), st.data())
def test_arguments_of_any_type_are_answered_in_words_and_never_reach_a_command_unchecked(name, data):
    method = rules.methods()[name]
    names = [argument.name for argument in rules.arguments(method)]
    args = data.draw(st.dictionaries(st.sampled_from([*names, "ubus_rpc_session", "other"]), ANYTHING))
    try:
        found = rules.given(method, args)
    except ConfineError as error:
        assert name.partition("_")[0] in str(error)
    else:
        for argument in rules.arguments(method):
            value = found[argument.name]
            assert value is None or value == argument.default or argument.check(value) == value


@pytest.mark.parametrize(("name", "argument"), [("pause", "why"), ("pause", "sliver"), ("settings", "values"),
                                                ("setup", "registry"), ("trace", "address")])  # fmt: skip
def test_a_huge_text_is_refused_without_being_repeated(tmp_path, name, argument):
    started = tmp_path / "started"
    offer = bus.Offer(Paths(run=str(tmp_path)), echo_command(f"open({str(started)!r}, 'w')"))
    given_too = (
        {"sliver": "5@1"} if name == "pause" else {"address": "10.0.0.1", "time": "1"} if name == "trace" else {}
    )
    answer = offer.answer(rules.methods()[name], {**given_too, argument: "x" * 1_000_000})
    assert answer["ok"] is False and len(answer["error"]) < 1000
    assert not started.exists()


def test_while_the_daemon_is_busy_the_caller_is_told_and_the_daemon_goes_on(tmp_path, monkeypatch):
    free, paths = threading.Event(), Paths(run=str(tmp_path))

    def handle(verb, args):
        free.wait()
        return {"state": "production"}

    server = ControlServer(paths.control, handle)
    monkeypatch.setattr(bus, "ASK_S", 0.2)
    offer, status = bus.Offer(paths, []), rules.methods()["status"]
    refused = offer.answer(status, {})
    assert refused["ok"] is False and "the daemon does not answer" in refused["error"]
    free.set()
    monkeypatch.setattr(bus, "ASK_S", 50.0)
    assert offer.answer(status, {}) == {"ok": True, "result": {"state": "production"}}
    server.close()


def test_an_answer_too_large_for_the_bus_is_refused_in_words(tmp_path):
    script = f"print(json.dumps('x' * {bus.ANSWER_LIMIT}))"
    answer = told(bus.Offer(Paths(run=str(tmp_path)), echo_command(script)), "check", {})
    assert answer["ok"] is False
    assert "more than ubus carries" in answer["error"]


def test_events_tell_what_changed_and_nothing_else():
    assert [name for name, _ in rules.events(None, status())] == ["confine.node", "confine.sliver"]
    assert rules.events(status(), status()) == []
    failed = status(slivers=[{**status()["slivers"][0], "state": "fail_start", "errors": [{"message": "no init"}]}])
    assert rules.events(status(), failed) == [
        ("confine.sliver", {"id": "5@1", "name": "000000000005_0001", "state": "fail_start", "message": "no init"})
    ]
    (gone,) = rules.events(status(), status(slivers=[]))
    assert gone[1]["state"] is None
    (node,) = rules.events(status(), status(registry={"error": "no route"}))
    assert node == ("confine.node", {"id": 1, "state": "production", "message": "", "registry": "no route"})


def test_the_daemon_is_asked_only_when_it_has_logged_something(tmp_path):
    paths, sent, asked = Paths(run=str(tmp_path)), [], []

    def answer(verb, args):
        asked.append(verb)
        return status()

    server = ControlServer(paths.control, answer)
    watch = bus.Watch(paths, lambda name, data: sent.append(name))
    watch.look()
    assert asked == []
    for text in ("one", "one more"):
        with open(paths.log, "w") as file:
            file.write(text)
        watch.look()
        watch.look()
    server.close()
    assert asked == ["status", "status"]
    assert sent == ["confine.node", "confine.sliver"]


class FakeUbus:
    """Takes the place of python3-ubus, whose C library no package registry carries."""

    BLOBMSG_TYPE_STRING, BLOBMSG_TYPE_INT32, BLOBMSG_TYPE_BOOL, BLOBMSG_TYPE_ARRAY = "s", "i", "b", "a"

    def __init__(self, sessions=None):
        self.added = {}
        self.sessions = sessions or {}

    def call(self, name, method, data, timeout):
        assert (name, method) == ("session", "get") and timeout > 0  # without one it waits for ever
        if data[rules.SESSION] not in self.sessions:
            raise RuntimeError("ubus error occured: Not found")
        return [{"values": self.sessions[data[rules.SESSION]]}]

    def add(self, name, methods):
        self.added[name] = methods


class Request:
    def reply(self, answer):
        self.answer = answer


def test_both_objects_answer_alike(tmp_path):
    fake, request = FakeUbus(), Request()
    bus.add(fake, bus.Offer(Paths(run=str(tmp_path)), echo_command("print(json.dumps(words))")))
    assert set(fake.added) == {"confine", "confine.web"}
    for methods in fake.added.values():
        methods["stop_show"]["method"](request, {"sliver": ""})
        assert json.loads(json.dumps(request.answer))["result"] == ["stop-show", "--json"]
        assert methods["pause"]["signature"]["sliver"] == "s"


def test_a_stop_of_all_may_gather_its_evidence_to_the_end():
    assert bus.COMMAND_S > evidence.ALL_S + stop.TELL_S + stop.NOTE_S


@pytest.mark.parametrize(("session", "who"), [("known", "ann by LuCI"), ("gone", "somebody by LuCI"),
                                              ("odd", "somebody by LuCI"), ("empty", "somebody by LuCI")])  # fmt: skip
def test_what_was_done_on_a_page_is_recorded_with_who_was_logged_in(tmp_path, session, who):
    fake, request = FakeUbus({"known": {"username": "ann"}, "odd": {"username": "a\nb"}, "empty": {}}), Request()
    bus.add(fake, bus.Offer(Paths(run=str(tmp_path)), echo_command("import os; print(os.environ['LOGNAME'])")))
    data = {"sliver": "5@1", "why": ""}
    fake.added["confine.web"]["pause"]["method"](request, {**data, rules.SESSION: session})
    assert request.answer == {"ok": True, "result": {"message": who}}
    fake.added["confine"]["pause"]["method"](request, data)
    assert request.answer == {"ok": True, "result": {"message": "ubus"}}
