"""The parts of a trial that need no machine: its command line, its gate's rules, its record, migrations."""

from __future__ import annotations

import os
import types

import pytest

from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import before, gate, history, kexec, migrations, record, trial
from confine.upgrade.errors import UpgradeError

GRUBS = (
    "BOOT_IMAGE=(hd0,gpt4)/vmlinuz console=tty0 console=ttyS0,115200 panic=5 apparmor=0 watchdog.stop_on_reboot=0 "
    "root=PARTLABEL=root-a rootwait=30 confine.root=PARTLABEL=root-a confine.slot=a confine.confirmed=a "
    "confine.pointer=copy1 confine.boot=counted quiet"
)
MANIFEST = {"version": "2", "epoch": 2, "parts": {"root": {"size": 1, "sha256": "ab"}}}


class FakeSlots:
    """A pointer that says what the test wants."""

    def __init__(self, running, confirmed, on_trial=False):
        self.running, self.on_trial = running, on_trial
        self.backend = self
        self.confirmed = lambda: confirmed


def test_a_trials_command_line_names_its_slot_and_the_confirmed_one_and_keeps_what_is_the_machines():
    words = trial.command_line("b", GRUBS, "0x7fe").split()
    assert words == [
        "console=tty0", "console=ttyS0,115200", "panic=5", "apparmor=0", "rootwait=30", "quiet",
        "watchdog.stop_on_reboot=0", "watchdog.open_timeout=120", "root=PARTLABEL=root-b",
        "confine.root=PARTLABEL=root-b", "confine.slot=b", "confine.confirmed=a", "confine.boot=trial",
        "acpi_rsdp=0x7fe",
    ]  # fmt: skip
    again = trial.command_line("a", " ".join(words)).split()
    assert len(again) == len(set(again)) == len(words) - 1


def test_a_machine_on_the_list_or_without_kexec_is_tried_by_the_boot_loader(tmp_path):
    paths = Paths(share=str(tmp_path / "share"), etc=str(tmp_path / "etc"))
    for name, text in (("kernel/kexec_loaded", "0"), ("class/dmi/id/sys_vendor", "Acme\n"),
                       ("class/dmi/id/product_name", "Box 7\n")):  # fmt: skip
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys = str(tmp_path / "sys")
    assert kexec.can_kexec(paths, sys)
    os.mkdir(paths.etc)
    for line, works in (("Acme / Box 8", True), ("Acme / Box*", False), ("A / Box 7", True), ("Acme / Box 7", False)):
        with open(os.path.join(paths.etc, kexec.QUIRKS), "w") as file:
            file.write("# hang\n" + line + "\n")
        assert kexec.can_kexec(paths, sys) is works
    os.unlink(tmp_path / "sys/kernel/kexec_loaded")
    assert not kexec.can_kexec(Paths(share="/none", etc="/none"), sys)


def world(tmp_path, monkeypatch, then, now, options=None):
    """A gate of which only what is compared counts: the machine's own checks are well."""
    everything = {"node_id": 1, "problems": 0, "addresses": {"eth0": ["4", "6"]}, "routes": ["4"], "status": True,
                  "registry": True, "slivers": ["x"], "api": True,
                  "overlay": {"address": "fd00::1", "reached": True}}  # fmt: skip
    monkeypatch.setattr(before, "look", lambda paths: {**everything, **now})
    monkeypatch.setattr(gate, "HOLD_S", 0.0)
    monkeypatch.setattr(gate, "CHECKS", [one for one in gate.CHECKS if one[0] not in ("root", "data", "changes")])
    begun = {"manifest": {**MANIFEST, "gate": options or {}}, "before": {**everything, **then}}
    paths = Paths(data=str(tmp_path), etc=str(tmp_path / "etc"), share=str(tmp_path / "share"))
    return gate.World(paths, FakeSlots("b", "a", True), begun)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"node_id": None}, "node's id is None"),
        ({"problems": 2}, "2 settings cannot be used"),
        ({"addresses": {"eth0": ["4"]}}, "eth0 has no IPv6 address"),
        ({"addresses": {}}, "eth0 has no IPv4 address"),
        ({"routes": []}, "no IPv4 default route"),
        ({"status": False}, "controller does not answer"),
        ({"registry": False}, "registry cannot be read"),
        ({"overlay": None}, "overlay does not run"),
        ({"overlay": {"address": None, "reached": True}}, "management address is None"),
        ({"overlay": {"address": "fd00::1", "reached": False}}, "no peer"),
        ({"api": False}, "API does not answer"),
        ({"slivers": ["y"]}, "slivers x do not run again"),
    ],
)
def test_what_held_before_must_hold_again(tmp_path, monkeypatch, now, said):
    missing = gate.open_questions(world(tmp_path, monkeypatch, {}, now))
    assert [said in words for words, _ in missing.values()] == [True]


def test_what_did_not_hold_before_is_no_reason_against_a_good_image(tmp_path, monkeypatch):
    nothing = {"overlay": None, "addresses": {}, "routes": [], "registry": False, "slivers": [], "api": False}
    assert gate.open_questions(world(tmp_path, monkeypatch, nothing, nothing)) == {}
    assert gate.open_questions(world(tmp_path, monkeypatch, nothing, {})) == {}


def test_an_image_without_a_controller_is_never_a_good_one(tmp_path, monkeypatch):
    missing = gate.open_questions(world(tmp_path, monkeypatch, {"status": False}, {"status": False}))
    assert list(missing) == ["daemon"]


def test_a_registry_that_was_read_too_early_is_asked_for_again(tmp_path, monkeypatch):
    asked, said = [], []

    def ask(path, verb):
        asked.append((path, verb))
        if len(asked) == 1:
            raise ConfineError("the daemon does not answer yet")
        monkeypatch.setattr(before, "look", well)

    one = world(tmp_path, monkeypatch, {}, {})
    well = before.look
    monkeypatch.setattr(before, "look", lambda paths: {**well(paths), "registry": False})
    monkeypatch.setattr(gate, "ask", ask)
    monkeypatch.setattr(gate, "EVERY_S", 0.001)
    monkeypatch.setattr(gate, "REFRESH_S", 0.002)
    assert gate.watch(one, lambda: None, said.append) == ""
    assert asked == [(one.paths.control, "refresh")] * 2


def test_a_bundle_may_leave_checks_out_but_not_those_a_node_is_lost_without(tmp_path, monkeypatch):
    now = {"api": False, "node_id": 2}
    missing = gate.open_questions(world(tmp_path, monkeypatch, {}, now, {"skip": ["api", "configuration"]}))
    assert list(missing) == ["configuration"]


def test_the_gate_waits_and_gives_up_at_the_deadline_of_what_is_missing(tmp_path, monkeypatch):
    looked = []

    def later(paths):
        looked.append(1)
        return {"node_id": 1, "problems": 0, "addresses": {}, "routes": [], "status": len(looked) > 2,
                "registry": False, "slivers": [], "api": False}  # fmt: skip

    one = world(tmp_path, monkeypatch, {"addresses": {}, "routes": [], "registry": False, "slivers": [], "api": False,
                "overlay": None},
                {}, {"deadline_s": 1})  # fmt: skip
    monkeypatch.setattr(before, "look", later)
    monkeypatch.setattr(gate, "EVERY_S", 0.01)
    said = []
    assert gate.watch(one, lambda: None, said.append) == ""
    assert said == ["daemon: not yet: the controller does not answer"]
    monkeypatch.setattr(before, "look", lambda paths: {**later(paths), "status": False})
    assert gate.watch(one, lambda: None, said.append).startswith("daemon: the controller does not answer (")


def looks(one, monkeypatch, *seen):
    """Has the gate see these one after the other, the last one again and again, a second apart; why it went back, and
    how often it looked."""
    given, clock = list(seen), [0.0]
    well = before.look

    def sleep(seconds):
        clock[0] += seconds

    def look(paths):
        count.append(1)
        return {**well(paths), **(given.pop(0) if len(given) > 1 else given[0])}

    count = []
    monkeypatch.setattr(before, "look", look)
    monkeypatch.setattr(gate, "time", types.SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(gate, "HOLD_S", 10.0)
    return gate.watch(one, lambda: None, lambda text: None), len(count)


def test_all_must_hold_for_a_while_and_not_in_one_look_alone(tmp_path, monkeypatch):
    one = world(tmp_path, monkeypatch, {}, {})
    broken = {"overlay": None}
    assert looks(one, monkeypatch, {}, {}, {}, broken, {}) == ("", 4 + 11)


def test_a_controller_that_ends_and_is_started_again_and_again_is_given_up(tmp_path, monkeypatch):
    one = world(tmp_path, monkeypatch, {}, {})
    lives = [{"controller": 100 + number // 5} for number in range(300)]  # each answers for five seconds
    why, _ = looks(one, monkeypatch, *lives)
    assert why.startswith("daemon: the controller ended and was started again (18")


def test_a_controller_that_was_started_again_once_and_stays_is_a_good_one(tmp_path, monkeypatch):
    one = world(tmp_path, monkeypatch, {}, {})
    assert looks(one, monkeypatch, {"controller": 1}, {"controller": 2}) == ("", 2 + 11)


def test_a_person_who_confirms_the_slot_ends_its_trial(tmp_path, monkeypatch):
    one = world(tmp_path, monkeypatch, {}, {"api": False})
    one.slots.on_trial = False
    assert gate.watch(one, lambda: None, lambda text: None) == ""


def test_the_nodes_own_checks_are_asked_again_until_they_say_yes(tmp_path, monkeypatch):
    directory = tmp_path / "etc" / gate.PROGRAMS
    directory.mkdir(parents=True)
    (directory / "10-mine").write_text(f"#!/bin/sh\n[ -e {tmp_path}/well ]\n")
    (directory / "10-mine").chmod(0o755)
    (directory / "README").write_text("no program")
    one = world(tmp_path, monkeypatch, {}, {})
    monkeypatch.setattr(gate, "EVERY_S", 0.05)
    said = []

    def alive():
        if len(said) > 1:
            (tmp_path / "well").touch()

    assert gate.watch(one, alive, said.append) == ""
    assert any("10-mine says no (status 1)" in line for line in said)


def test_what_became_of_a_trial_is_written_down_once_and_a_failed_bundle_is_known(tmp_path):
    paths = Paths(data=str(tmp_path))
    record.write({"slot": "b", "manifest": MANIFEST, "before": {}}, paths)
    assert record.after(paths, FakeSlots("b", "a", on_trial=True)) is None
    record.say_why(paths, "api: the node API does not answer")
    event = record.after(paths, FakeSlots("a", "a"))
    assert (event["event"], event["version"], event["why"]) == ("failed", "2", "api: the node API does not answer")
    assert record.after(paths, FakeSlots("a", "a")) is None
    assert record.has_failed(MANIFEST, paths) == "api: the node API does not answer"
    record.write({"slot": "b", "manifest": MANIFEST, "before": {}}, paths)
    assert "without a word" in record.after(paths, FakeSlots("a", "a"))["why"]
    record.write({"slot": "b", "manifest": MANIFEST, "before": {}}, paths)
    assert record.after(paths, FakeSlots("b", "b"))["event"] == "confirmed"
    assert record.has_failed(MANIFEST, paths) == ""
    assert [event["event"] for event in history.read(paths=paths)] == ["failed", "failed", "confirmed"]


def test_a_damaged_record_is_a_trial_that_failed(tmp_path):
    paths = Paths(data=str(tmp_path))
    record.write({}, paths)
    with open(os.path.join(paths.upgrade, record.RECORD), "w") as file:
        file.write("{")
    assert record.after(paths, FakeSlots("a", "a"))["event"] == "failed"
    assert record.read(paths) is None


def migration(directory, name, script):
    path = directory / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_migrations_run_in_order_once_and_the_first_that_fails_keeps_the_rest(tmp_path):
    directory, done, log = tmp_path / "migrations", str(tmp_path / "etc/migrated"), tmp_path / "log"
    directory.mkdir()
    migration(directory, "010-second", f"echo 2 >>{log}\n")
    migration(directory, "002-first", f"echo 1 >>{log}\n")
    migration(directory, "011-fails", f"[ -e {tmp_path}/mended ] || {{ echo broken >&2; exit 1; }}; echo 3 >>{log}\n")
    migration(directory, "012-last", f"echo 4 >>{log}\n")
    with pytest.raises(UpgradeError, match="011-fails failed .*broken"):
        migrations.run(str(directory), done)
    assert log.read_text() == "1\n2\n"
    assert migrations.last_done(done) == 10
    (tmp_path / "mended").touch()
    assert migrations.run(str(directory), done) == 2
    assert migrations.run(str(directory), done) == 0
    assert log.read_text() == "1\n2\n3\n4\n"


def test_data_formats_are_not_changed_on_trial_and_never_backwards(tmp_path):
    directory, data, log = tmp_path / "data-migrations", str(tmp_path / "data"), tmp_path / "log"
    directory.mkdir()
    migrations.check_data(data, str(directory))
    migration(directory, "002-first", f"echo 2 $1 >>{log}\n")
    migration(
        directory, "003-fails", f"[ -e {tmp_path}/mended ] || {{ echo broken >&2; exit 1; }}; echo 3 $1 >>{log}\n"
    )
    os.mkdir(data)
    assert migrations.run_data(data, True, str(directory)) == 0
    assert not log.exists()
    with pytest.raises(UpgradeError, match="003-fails failed .*broken"):
        migrations.run_data(data, False, str(directory))
    assert migrations.data_format(data) == 2
    (tmp_path / "mended").touch()
    assert migrations.run_data(data, False, str(directory)) == 1
    assert migrations.run_data(data, False, str(directory)) == 0
    assert log.read_text() == f"2 {data}\n3 {data}\n"
    # The slot before knows less.
    (directory / "003-fails").unlink()
    with pytest.raises(UpgradeError, match="format 3, this slot knows 2"):
        migrations.run_data(data, False, str(directory))
    with pytest.raises(UpgradeError, match="format 3, this slot knows 2"):
        migrations.check_data(data, str(directory))
