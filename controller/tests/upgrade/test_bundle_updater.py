"""The daemon's part: what it looks at, what it decides, what it starts, and what people see of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import slot_world
from bundle_world import Keys, packed
from mirror_world import Mirror
from node_world import World

from confine import cli
from confine.core.settings import Settings
from confine.errors import ConfineError
from confine.upgrade import command, history, look, overview, record, trial
from confine.upgrade.mirrors import Mirrors, Web
from confine.upgrade.updater import Updater


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(str(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    made = tmp_path_factory.mktemp("disk")
    return slot_world.split(slot_world.make_disk(str(made)), str(made / "parts"))


@pytest.fixture
def world(disk, keys):
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        made = World(directory, disk, keys)
        made.mirror = Mirror(made.web)
        made.settings.upgrade_mirrors = [made.mirror.uri]
        yield made
        made.mirror.close()


class Child:
    """Stands for the process that installs; `ends` with a status."""

    def __init__(self):
        self.returncode = None
        self.stderr = None

    def poll(self):
        return self.returncode

    def terminate(self):
        self.returncode = -15

    def wait(self, timeout=None):
        return self.returncode


class Log:
    def __init__(self):
        self.lines = []

    def info(self, subject, text):
        self.lines.append(text)

    warn = info


class Daemon:
    """The updater, turn by turn."""

    def __init__(self, world, settle_s=0.0, began=None, **properties):
        self.world = world
        self.started = []
        self.child = None
        self.log = Log()
        self.changes = 0
        self.now = 0.0
        self.properties = properties
        self.updater = Updater(world.paths, world.settings, self.log, lambda: self.properties, self._change,
                               start_process=self._start, settle_s=settle_s, began=began)  # fmt: skip
        self.node = world.node
        self.lookout = look.Lookout(self.node, Mirrors(world.settings.upgrade_mirrors, Web(), self.node.own))

    def _start(self, words):
        self.started.append(words)
        self.child = Child()
        return self.child

    def _change(self):
        self.changes += 1

    def turn(self, seconds=60.0):
        self.now += seconds
        self.updater.turn(self.node, self.lookout, self.now)
        return self.updater.shown()


def test_a_node_that_only_tells_shows_what_is_offered_and_starts_nothing(world):
    world.publish(world.bundle("1.0", notes="mends things"))
    daemon = Daemon(world)
    shown = daemon.turn()
    assert (shown["offered"]["version"], shown["offered"]["notes"], shown["verdict"]) == ("1.0", "mends things", "tell")
    assert daemon.started == []


def test_an_automatic_node_installs_once_and_on_trial(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world)
    daemon.turn()
    daemon.turn()
    assert daemon.started == [["upgrade", "install", "1.0", "--auto", "--trial"]]
    daemon.child.returncode = 1
    daemon.turn()
    daemon.turn()
    assert len(daemon.started) == 1  # not at once again
    daemon.turn(700)
    assert len(daemon.started) == 2


def test_an_installation_whose_trial_was_refused_is_not_begun_anew_at_once(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world)
    daemon.turn()
    daemon.child.returncode = 0  # the trial is a process of its own: what it says is in the history
    for _ in range(9):
        daemon.turn()
    assert len(daemon.started) == 1


def test_nothing_is_tried_before_the_node_had_time_to_come_up(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world, settle_s=900.0)
    for _ in range(15):
        daemon.turn()
    assert daemon.started == []
    daemon.turn(120)
    assert len(daemon.started) == 1


def test_settings_that_were_read_again_do_not_make_a_node_wait_as_after_a_start(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world, settle_s=900.0, began=-3600.0)
    daemon.turn()
    assert daemon.started == []  # registry and overlay are asked anew
    for _ in range(3):
        daemon.turn()
    assert len(daemon.started) == 1


def test_a_machine_whose_trials_the_boot_loader_starts_is_one_without_a_watchdog(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    os.unlink(world.system + "/sys/kernel/kexec_loaded")
    daemon = Daemon(world)
    shown = daemon.turn()
    assert (shown["verdict"], daemon.started) == ("tell", [])
    assert "no hardware watchdog guards a trial here" in shown["reason"]


def test_an_automatic_node_does_not_take_again_what_a_person_went_back_from(world, monkeypatch, capsys):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    manifest, slot = world.install("latest")
    world.turn_over()
    history.append({"event": "confirmed", "bundle": manifest.id, "version": "1.0", "slot": slot}, world.paths)
    assert run(world, monkeypatch, "rollback") == 0
    world.running = "a"
    daemon = Daemon(world)
    assert (daemon.turn()["verdict"], daemon.started) == ("nothing", [])
    assert run(world, monkeypatch, "history") == 0
    assert "a person went back from it" in capsys.readouterr().out


def test_nothing_new_costs_one_conditional_request_an_hour_and_no_file(world):
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world)
    daemon.turn()
    before = {name: os.stat(os.path.join(world.paths.run, name)).st_mtime_ns for name in os.listdir(world.paths.run)}
    changes, asked = daemon.changes, len(world.mirror.asked)
    for _ in range(10):
        daemon.turn()
    assert daemon.changes == changes
    assert len(world.mirror.asked) == asked
    after = {name: os.stat(os.path.join(world.paths.run, name)).st_mtime_ns for name in os.listdir(world.paths.run)}
    assert after == before
    daemon.turn(5000)
    assert len(world.mirror.asked) == asked + 1
    assert world.mirror.sent < 30_000


def test_an_offer_stands_while_its_mirror_is_away(world):
    world.publish(world.bundle("1.0"))
    daemon = Daemon(world)
    daemon.turn()
    world.mirror.missing.add("latest")
    shown = daemon.turn(5000)
    assert shown["offered"]["version"] == "1.0"
    assert "404" in shown["problems"][0]


def test_a_bundle_that_failed_here_is_not_tried_again(world):
    world.settings.upgrade_mode = "auto"
    world.publish(world.bundle("1.0"))
    manifest, slot = world.install("latest")
    history.append({"event": "failed", "bundle": manifest.id, "version": "1.0", "slot": slot}, world.paths)
    daemon = Daemon(world)
    shown = daemon.turn()
    assert (shown["verdict"], daemon.started) == ("nothing", [])
    assert "was tried here and failed" in shown["reason"]
    # ... the next one is.
    world.publish(world.bundle("2.0"))
    daemon.turn(5000)
    assert daemon.started == [["upgrade", "install", "2.0", "--auto", "--trial"]]


def test_the_operator_asks_one_node_for_a_version_through_its_registry_properties(world):
    old, new = world.bundle("1.0", epoch=1), world.bundle("2.0", epoch=1, published="2026-11-20T11:00:00Z")
    world.publish(old)
    world.publish(new)
    daemon = Daemon(world, upgrade="1.0")
    shown = daemon.turn()
    assert (shown["verdict"], shown["reason"]) == ("go", "asked for by the operator")
    assert daemon.started == [["upgrade", "install", "1.0", "--auto", "--trial"]]


@pytest.mark.parametrize("value", ["../../x", "1.0@../x", "", "x" * 100, 7, None, "latest@"])
def test_an_unusable_wish_is_no_wish(value):
    assert look.wish({"upgrade": value}, "stable") in (None, ("latest", "stable"))


def test_a_wish_names_a_version_and_may_name_a_branch():
    assert look.wish({"upgrade": "1.0@beta"}, "stable") == ("1.0", "beta")
    assert look.wish({}, "stable") is None


def test_a_pinned_node_asks_for_its_version_alone(world):
    world.settings.upgrade_mode = "auto"
    world.settings.upgrade_pin = "1.0"
    world.publish(world.bundle("1.0", epoch=1))
    world.publish(world.bundle("2.0", epoch=1, published="2026-11-20T11:00:00Z"))
    daemon = Daemon(world)
    daemon.turn()
    assert daemon.started == [["upgrade", "install", "1.0", "--auto", "--trial"]]


def test_a_bundle_for_another_board_is_not_offered(world):
    world.settings.upgrade_mode = "auto"
    source = world.bundle("1.0", board="other")
    world.publish(source)
    os.rename(world.web + "/stable/other", world.web + "/stable/test-board")
    shown = Daemon(world).turn()
    assert shown["offered"] is None
    assert "is one for stable/other" in shown["problems"][0]


def test_what_nobody_vouches_for_is_a_problem_that_is_shown_and_never_an_offer(world):
    world.keyring(world.keys.keyring("b", "c"))
    source = world.bundle("1.0", "ab")
    world.publish(source)
    shown = Daemon(world).turn()
    assert shown["offered"] is None
    assert "signed by 1 of the 2" in shown["problems"][0]


def test_the_overview_tells_how_far_an_upgrade_is(world):
    assert overview.overview(world.node)["state"] == "idle"
    held = world.node.lock()
    assert overview.overview(world.node)["state"] == "checking"
    with open(os.path.join(world.paths.run, "upgrade.json"), "w") as file:
        json.dump({"state": "fetching", "version": "1.0", "part": "root", "done": 5, "total": 10}, file)
    shown = overview.overview(world.node)
    assert (shown["state"], shown["progress"]["done"]) == ("fetching", 5)
    assert "root [############............]  50 %" in command.status_text(shown)
    os.close(held)
    assert overview.overview(world.node)["progress"] is None


def test_the_pages_of_luci_are_tested_with_what_the_overview_and_the_history_really_say(world):
    kept = json.loads((Path(__file__).resolve().parents[3] / "test/luci/upgrade.json").read_text())
    world.publish(world.bundle("1.0"))
    world.install("latest")
    record.remember("failed", {"slot": "b", "manifest": world.node.slots.label("b")}, world.paths, "no registry")
    world.publish(world.bundle("2.0"))
    Daemon(world).turn()
    assert shape(overview.overview(world.node)) == shape(kept["status"])
    assert [shape(event) for event in history.read(paths=world.paths)] == [shape(kept["history"][i]) for i in (0, -1)]


def shape(doc):
    return {name: shape(value) for name, value in doc.items()} if isinstance(doc, dict) else None


def run(world, monkeypatch, *words):
    """`confine upgrade WORDS` on the node of the test."""
    monkeypatch.setattr(command, "Node", lambda paths, settings: world.node)
    monkeypatch.setattr(command, "read_settings", lambda paths: (world.settings, []))
    return cli.main(["--run-dir", world.paths.run, "upgrade", *words])


def test_the_command_installs_and_tells(world, monkeypatch, capsys):
    world.publish(world.bundle("1.0"))
    assert run(world, monkeypatch, "check") == 0
    assert "offered   1.0, published 2026-11-20T10:00:00Z" in capsys.readouterr().out
    assert run(world, monkeypatch, "install", "--json") == 0
    assert json.loads(capsys.readouterr().out)["slot"] == "b"
    assert run(world, monkeypatch) == 0
    text = capsys.readouterr().out
    assert "slot b    1.0" in text and "written  version 1.0  slot b" in text
    assert run(world, monkeypatch, "history", "--json") == 0
    assert [event["event"] for event in json.loads(capsys.readouterr().out)] == ["written"]


@pytest.mark.parametrize(("words", "consents", "guarded"), [
    (["--auto"], False, True), (["--auto"], True, False), ([], False, False),
])  # fmt: skip
def test_a_trial_that_nobody_asked_for_is_to_be_guarded(world, monkeypatch, words, consents, guarded):
    world.settings.upgrade_unwatched = consents
    world.publish(world.bundle("1.0"))
    begun = []
    monkeypatch.setattr(trial, "start", lambda slot, paths, slots, guarded: begun.append((slot, guarded)))
    assert run(world, monkeypatch, "install", "1.0", "--trial", *words) == 0
    assert begun == [("b", guarded)]


def test_the_command_says_why_not(world, monkeypatch, capsys):
    assert run(world, monkeypatch, "install", packed(world.bundle("1.0", "a"))) == 1
    assert "confine: signed by 1 of the 2 keys needed" in capsys.readouterr().err
    assert run(world, monkeypatch, "install", "no-such-version") == 1
    assert "no mirror" in capsys.readouterr().err
    assert run(world, monkeypatch, "defer", "soon") == 1
    assert "for how many days?" in capsys.readouterr().err


def test_upgrades_are_deferred_and_go_on(world, monkeypatch, capsys):
    assert run(world, monkeypatch, "defer", "3") == 0
    assert "until" in capsys.readouterr().out
    assert world.node.deferred_until() is not None
    assert run(world, monkeypatch, "defer", "0") == 0
    assert world.node.deferred_until() is None


def test_a_deferral_that_a_wrong_clock_set_holds_nothing_up(world):
    world.node.defer(3)
    assert world.node.deferred_until() is not None
    with open(world.paths.upgrade + "/defer.json", "w") as file:
        json.dump({"until": 4070908800}, file)  # the year 2099
    assert world.node.deferred_until() is None


def test_a_disk_that_failed_to_read_once_ends_no_upgrades_for_ever(world):
    failed = []

    class Slots:
        def state(self):
            failed.append(1)
            if len(failed) < 3:
                raise OSError(5, "Input/output error")
            updater._closed = True  # it goes on
            return {}

    updater = Updater(world.paths, world.settings, Log(), dict, lambda: None, Slots(), judge_s=0.001)
    updater.start()
    updater._thread.join(60)
    assert len(failed) == 3
    assert "Input/output error" in updater.shown()["reason"]


def test_every_action_of_the_verb_has_somebody_who_does_it():
    from confine.verbs import UPGRADE_ACTIONS

    assert set(command.ACTIONS) == set(UPGRADE_ACTIONS)


def test_a_machine_without_slots_says_so_and_is_left_alone(world, monkeypatch, capsys):
    os.unlink(os.path.join(world.disk, "pointer"))
    assert run(world, monkeypatch) == 0
    assert "unavailable" in capsys.readouterr().out
    updater = Updater(world.paths, Settings(), Log(), dict, lambda: None, world.node.slots)
    updater.start()
    updater.close()
    assert updater.shown()["state"] == "unavailable"


def test_slots_are_never_written_where_no_keyring_is(world, monkeypatch, capsys):
    os.unlink(world.settings.upgrade_keyring)
    assert run(world, monkeypatch, "install", packed(world.bundle("1.0"))) == 1
    assert "without keys no bundle can be trusted" in capsys.readouterr().err
    with pytest.raises(ConfineError):
        world.install(packed(world.bundle("2.0")))
