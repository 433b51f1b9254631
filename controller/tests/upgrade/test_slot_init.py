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


HERE = os.path.dirname(os.path.abspath(__file__))
INITRD = os.path.join(HERE, "../../../firmware/reference/initrd/init")
PREINIT = os.path.join(HERE, "../../../files/lib/preinit/02_confine_trial")


def function(path, name):
    """The text of a shell function."""
    with open(path) as file:
        text = file.read()
    start = text.index(name + "() {\n")
    return text[start : text.index("\n}\n", start) + 3]


@pytest.mark.parametrize("early", ["initrd", "preinit"])
@pytest.mark.parametrize(
    ("command_line", "gate_runs", "ended"),
    [
        ("quiet confine.boot=trial confine.slot=b", False, True),
        ("quiet confine.boot=trial", True, False),
        ("quiet confine.boot=counted confine.slot=b", False, False),
    ],
)
def test_early_userspace_ends_a_trial_that_never_comes_to_its_gate(tmp_path, early, command_line, gate_runs, ended):
    (tmp_path / "dev").mkdir()
    (tmp_path / "cmdline").write_text(command_line + "\n")
    (tmp_path / "sysrq-trigger").touch()
    # The time passes, and meanwhile the gate begins, or does not.
    begins = f"touch {tmp_path}/dev/confine-gate" if gate_runs else ":"
    if early == "initrd":
        script = "TRIAL_S=180\n" + function(INITRD, "parameter") + function(INITRD, "limit_trial") + "limit_trial\n"
    else:
        script = function(PREINIT, "confine_limit_trial") + "confine_limit_trial\n"
    script = script.replace("cd /dev", f"cd {tmp_path}/dev").replace("/proc/", f"{tmp_path}/")
    assert f"cd {tmp_path}/dev" in script
    script = f"set -eu\nsleep() {{ [ $1 = 180 ]; {begins}; }}\n{script}wait\n"
    subprocess.run(["sh", "-c", script], check=True, timeout=60)
    assert (tmp_path / "sysrq-trigger").read_text() == ("b\n" if ended else "")


def test_openwrts_preinit_takes_the_limit_among_its_hooks():
    script = f"boot_hook_add() {{ echo $*; }}\n. {PREINIT}"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stdout == "preinit_main confine_limit_trial\n"
