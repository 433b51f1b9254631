"""The daemon starts alone, and without a usable configuration it joins nothing and says why."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from confine import configuration, daemon, halt
from confine.controller import held_back, outdated
from confine.core import settings as settings_table
from confine.core.decisions import Decision, Mark
from confine.core.model import Limits, SliverTarget, Step, Template
from confine.core.settings import Settings
from confine.drivers import uci
from confine.errors import ConfineError, SettingsError
from confine.paths import Paths

CONTROLLER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def sliver(**changes):
    members = {
        "key": "5@1", "name": "000000000005_0001", "uri": "u", "slice_id": 5, "slice_name": "s", "group_id": 1,
        "node_id": 1, "description": "", "target": "start", "sliver_instance_sn": 0, "slice_instance_sn": 0,
        "template": Template(1, "t", "debian", "u", "aa" * 32, []), "data": None, "interfaces": [],
        "limits": Limits(64, 64, None, 100, 512, None, None), "keys": [], "vlan_tag": None, "expires_on": None,
        "properties": {}, "problems": [], "blocked": False,
    }  # fmt: skip
    members.update(changes)
    return SliverTarget(**members)


@pytest.mark.parametrize("change", [{"target": "deploy"}, {"sliver_instance_sn": 1}, {"slice_instance_sn": 1},
                                    {"uri": "v"}, {"blocked": True}, {"template": None}, {"reset": 1}])  # fmt: skip
def test_a_job_is_called_off_when_what_it_works_towards_changed(change):
    assert outdated(sliver(), sliver(**change))


@pytest.mark.parametrize("change", [{}, {"keys": ["k"]}, {"description": "new"}, {"properties": {"a": "b"}}])
def test_a_job_goes_on_when_something_else_changed(change):
    assert not outdated(sliver(), sliver(**change))


def test_a_job_is_called_off_when_the_sliver_is_no_longer_asked_for_or_asked_for_again():
    assert outdated(sliver(), None)
    assert outdated(None, sliver())
    assert not outdated(None, None)


def test_only_one_daemon_runs_on_a_node(tmp_path):
    paths = Paths(run=str(tmp_path))
    handle = daemon.lock(paths)
    with pytest.raises(ConfineError, match="another daemon runs already"):
        daemon.lock(paths)
    os.close(handle)
    os.close(daemon.lock(paths))


def test_the_lock_of_a_killed_daemon_is_free(tmp_path):
    script = "import os, sys; from confine import daemon, paths; daemon.lock(paths.Paths(run=sys.argv[1])); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=CONTROLLER, check=False)
    os.close(daemon.lock(Paths(run=str(tmp_path))))


def test_slivers_are_halted_when_the_daemon_has_ended_and_no_other_one_begins_meanwhile(tmp_path):
    paths = Paths(run=str(tmp_path))
    assert halt.await_daemon(paths.run), "there is no daemon to wait for"
    handle = daemon.lock(paths)
    assert not halt.await_daemon(paths.run, patience=0.2)
    ending = threading.Timer(0.3, os.close, [handle])
    ending.start()
    assert halt.await_daemon(paths.run, patience=60)
    ending.join()
    with pytest.raises(ConfineError, match="another daemon runs already"):
        daemon.lock(paths)


def test_a_configuration_that_cannot_be_read_joins_no_testbed_and_is_named(monkeypatch):
    def broken(config, directory):
        raise SettingsError("/etc/config/confine is malformed")

    monkeypatch.setattr(uci, "load", broken)
    settings, problems = configuration.read_settings(Paths())
    assert settings.node_id is None
    assert settings.registry_uris == []
    assert [problem.message for problem in problems] == ["/etc/config/confine is malformed"]


def test_a_file_that_cannot_be_read_any_more_leaves_the_settings_in_force(monkeypatch):
    def broken(config, directory):
        raise SettingsError("/etc/config/confine is malformed")

    monkeypatch.setattr(uci, "load", broken)
    before = Settings(node_id=7, firewall_exclude=["192.168.1.0/24"])
    settings, problems = configuration.read_settings(Paths(), before)
    assert settings is before
    assert "malformed: the settings read before stay in force" in problems[0].message


def test_a_daemon_that_starts_with_a_file_that_cannot_be_read_offers_no_api_and_finds_the_data(monkeypatch, tmp_path):
    def broken(config, directory):
        raise SettingsError("/etc/config/confine is malformed")

    monkeypatch.setattr(uci, "load", broken)
    (tmp_path / "data").symlink_to("/mnt/disk/confine")
    settings, _ = configuration.read_settings(Paths(run=str(tmp_path)))
    assert (settings.data_dir, settings.api_enabled) == ("/mnt/disk/confine", False)


class FakeController:
    """Stands in for the controller: `lives` are what happens in each of its lives."""

    def __init__(self, lives):
        self.seen = []
        self.lives = lives
        self.asked = []

    def __call__(self, paths, settings, problems, log):
        self.seen.append((settings, [problem.message for problem in problems]))
        self.reload = False
        return self

    def stop(self, reload=False):
        self.reload = reload
        self.asked.append(reload)

    def run(self):
        self.lives.pop(0)(self)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    kept = {number: signal.getsignal(number) for number in HEEDED}
    monkeypatch.setenv("CONFINE_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(daemon, "lock", lambda paths: os.makedirs(paths.run, exist_ok=True))
    yield monkeypatch
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_reload_with_a_broken_file_goes_on_with_the_settings_before(alone):
    answers = [{"node": {".type": "node", "id": "0007"}}, SettingsError("malformed")]

    def load(config, directory):
        answer = answers.pop(0)
        if isinstance(answer, SettingsError):
            raise answer
        return answer

    alone.setattr(uci, "load", load)
    fake = FakeController([lambda me: me.stop(reload=True), lambda me: me.stop()])
    alone.setattr(daemon, "Controller", fake)
    assert daemon.main() == 0
    assert [settings.node_id for settings, _ in fake.seen] == [7, 7]
    assert fake.seen[1][1] == ["malformed: the settings read before stay in force"]


def test_a_signal_between_two_lives_of_the_controller_reaches_the_next_one(alone):
    alone.setattr(uci, "load", lambda *_: {})
    fake = FakeController([lambda me: me.stop(reload=True), lambda me: None])

    def between(paths, settings, problems, log):
        if fake.seen:
            os.kill(os.getpid(), signal.SIGTERM)
            assert fake.asked == [True], "it is the next one's"
        return fake(paths, settings, problems, log)

    alone.setattr(daemon, "Controller", between)
    assert daemon.main() == 0
    assert fake.asked == [True, False]


def test_a_configuration_is_read_through_libuci(tmp_path):
    pytest.importorskip("uci", reason="pyuci was not built: make setup")
    (tmp_path / "confine").write_text(
        "config node 'node'\n\toption id '0012'\nconfig registry 'registry'\n"
        "\tlist base_uri 'https://a/api/'\n\tlist base_uri 'https://b/api/'\n"
    )
    sections = uci.load("confine", str(tmp_path))
    assert sections["node"] == {".type": "node", "id": "0012"}
    assert sections["registry"]["base_uri"] == ["https://a/api/", "https://b/api/"]


@pytest.mark.parametrize(
    "text,words", [(None, "missing"), ("config node 'node\n", "malformed"), ("rubbish\n", "malformed")]
)
def test_an_absent_or_broken_file_is_told_with_its_path(tmp_path, text, words):
    pytest.importorskip("uci", reason="pyuci was not built: make setup")
    if text is not None:
        (tmp_path / "confine").write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        uci.load("confine", str(tmp_path))
    assert str(tmp_path / "confine") in str(caught.value)


@pytest.mark.parametrize("text", [b"config node 'node'\n\toption id '\xba'\n", b"config node '\xcd'\n", b"\xba 'x'\n"])
def test_a_configuration_that_is_no_text_is_one_that_cannot_be_read(tmp_path, text):
    pytest.importorskip("uci", reason="pyuci was not built: make setup")
    (tmp_path / "confine").write_bytes(text)
    with pytest.raises(SettingsError, match="malformed"):
        uci.load("confine", str(tmp_path))


def decision(**marks):
    return Decision(**{what: Mark("ann", "now", "") for what in marks})


@pytest.mark.parametrize("driver,verb,marks,held", [
    ("containers", "start", {"stop": 1}, True),
    ("containers", "start", {"pause": 1}, True),
    ("containers", "start", {}, False),
    ("limits", "thaw", {"stop": 1}, True),
    ("limits", "thaw", {"pause": 1}, False),  # it is thawed to be halted
    ("containers", "stop", {"stop": 1}, False),
    ("storage", "mount", {"stop": 1}, False),
])  # fmt: skip
def test_a_step_planned_before_a_decision_does_not_make_a_sliver_run(driver, verb, marks, held):
    assert held_back(Step(driver, verb, "n", "Because."), decision(**marks)) is held


def test_the_ids_of_a_sliver_get_to_its_root_below_the_run_directory_whoever_made_that(tmp_path):
    paths = Paths(run=str(tmp_path / "run"))
    os.mkdir(paths.run, 0o700)
    os.close(daemon.lock(paths))
    assert os.stat(paths.run).st_mode & 0o777 == 0o711


def test_a_daemon_does_not_touch_data_of_a_format_that_its_slot_does_not_know(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "format.json").write_text('{"format": 999}')
    settings, _ = settings_table.parse({})
    settings.data_dir = str(data)
    monkeypatch.setenv("CONFINE_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(daemon, "read_settings", lambda *_: (settings, []))
    monkeypatch.setattr(daemon, "Signals", lambda: None)
    monkeypatch.setattr(daemon.signal, "signal", lambda *_: None)
    monkeypatch.setattr(daemon, "Controller", lambda *_: pytest.fail("it was begun"))
    assert daemon.main() == 1
    assert "the data has format 999, this slot knows 1" in (tmp_path / "run/log").read_text()
    assert os.listdir(data) == ["format.json"]


HANGS = """
import sys, threading
from confine import configuration, daemon
daemon.SHORTEST_HANG_S = 1
settings, problems = daemon.read_settings(daemon.Paths(run=sys.argv[1], uci=sys.argv[1]))
settings.watchdog_s, settings.data_dir = 1, sys.argv[1]
daemon.read_settings = lambda *_: (settings, problems)
class Stuck:
    def __init__(self, *args):
        pass
    def run(self):
        self.beat()
        self.waits_for_ever()
    def waits_for_ever(self):
        threading.Event().wait()
daemon.Controller = Stuck
sys.exit(daemon.main())
"""


def test_a_daemon_whose_loop_hangs_ends_and_says_where(tmp_path):
    environment = {**os.environ, "CONFINE_RUN": str(tmp_path), "PYTHONPATH": CONTROLLER}
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, check=False,
                          env=environment, timeout=50)  # fmt: skip
    assert done.returncode == 1
    assert "Timeout" in done.stderr and "in waits_for_ever" in done.stderr


def test_the_time_a_loop_may_hang_begins_anew_with_each_turn(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(daemon.faulthandler, "dump_traceback_later", lambda *args, **words: told.append((args, words)))
    daemon.end_after(180)
    assert told == [((180,), {"exit": True, "file": 2})]
