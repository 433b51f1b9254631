"""The init script of upgrades: whatever becomes of the gate, a trial ends."""

from __future__ import annotations

import os
import subprocess

import pytest

from confine.upgrade import trial

SCRIPT = os.path.join(os.path.dirname(__file__), "../../../files/etc/init.d/confine-upgrade")


@pytest.fixture
def started(tmp_path):
    """Runs `start` of the script on a made-up machine, python3 being `python`; what it wrote and ran."""

    def start(command_line, python):
        with open(SCRIPT) as file:
            script = file.read()
        for path in ("/proc/cmdline", "/dev/kmsg", "/proc/sysrq-trigger"):
            script = script.replace(path, str(tmp_path / os.path.basename(path)))
        assert "/proc/" not in script, "this machine is not to be restarted"
        (tmp_path / "cmdline").write_text(command_line + "\n")
        (tmp_path / "bin").mkdir()
        programs = {"python3": python, "reboot": f"echo reboot $* >>{tmp_path}/ran", "sync": "", "uci": "exit 1"}
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text("#!/bin/sh\n" + text + "\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "script").write_text("set -eu\n" + script + "\nstart\nwait\n")
        env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        subprocess.run(["sh", str(tmp_path / "script")], env=env, check=True, timeout=60)
        return {name: (tmp_path / name).read_text() for name in ("sysrq-trigger", "kmsg", "ran")
                if (tmp_path / name).exists()}  # fmt: skip

    return start


@pytest.mark.parametrize("gate", ["exit 1", "kill -9 $$", "exit 127"])
def test_a_gate_that_cannot_run_or_is_killed_ends_the_trial(started, gate):
    found = started("quiet confine.boot=trial confine.slot=b", gate)
    assert (found["sysrq-trigger"], found["ran"]) == ("b\n", "reboot -f\n")
    assert "this trial is given up" in found["kmsg"]


def test_a_gate_that_confirms_the_slot_restarts_nothing(started):
    assert started("confine.boot=trial confine.slot=b", "exit 0") == {}


def test_outside_a_trial_no_gate_is_needed(started):
    assert started("confine.boot=counted confine.slot=b", "exit 1") == {}


@pytest.mark.parametrize("fault", [OSError(12, "Cannot allocate memory"), subprocess.TimeoutExpired("reboot", 30)])
def test_the_machine_is_reset_by_the_kernel_where_no_program_can_be_run(monkeypatch, fault):
    written = []

    class Trigger:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, key):
            written.append(key)

    def fails(*_, **__):
        raise fault

    monkeypatch.setattr(trial.subprocess, "run", fails)
    monkeypatch.setattr(trial, "open", lambda path, mode: Trigger(), raising=False)
    monkeypatch.setattr(trial.time, "sleep", lambda seconds: None)
    trial.reset()
    assert written == ["b"]
