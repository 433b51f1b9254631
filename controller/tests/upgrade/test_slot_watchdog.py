"""Which watchdog is held, and that it is fed only while the loop shows that it is alive."""

from __future__ import annotations

import os
import threading

import pytest

from confine.upgrade import watchdog


def machine(tmp_path, **identities):
    """A /sys/class/watchdog with these, and a /dev with a pipe for each."""
    for name, identity in identities.items():
        os.makedirs(tmp_path / "sys" / name)
        (tmp_path / "sys" / name / "identity").write_text(identity + "\n")
        (tmp_path / "sys" / name / "bootstatus").write_text("0\n")
        os.makedirs(tmp_path / "dev", exist_ok=True)
        (tmp_path / "dev" / name).touch()
    return str(tmp_path / "sys"), str(tmp_path / "dev")


@pytest.fixture(autouse=True)
def no_tools(monkeypatch):
    called = []
    monkeypatch.setattr(watchdog, "_call", called.append)
    return called


def test_hardware_goes_before_software(tmp_path):
    sys, dev = machine(tmp_path, watchdog0=watchdog.SOFTWARE, watchdog1="i6300ESB timer")
    assert watchdog.has_hardware(sys)
    held = watchdog.Watchdog(30, sys, dev)
    assert (held.identity, held.hardware) == ("i6300ESB timer", True)
    held.feed()
    held.disarm()
    assert (tmp_path / "dev" / "watchdog1").read_bytes() == b"\0V", "fed, and given back by its magic letter"


def test_without_hardware_the_kernels_own_is_loaded_and_that_is_said(tmp_path, no_tools):
    sys, dev = str(tmp_path / "sys"), str(tmp_path / "dev")
    with pytest.raises(watchdog.WatchdogError, match="no watchdog"):
        watchdog.Watchdog(30, sys, dev)
    assert no_tools == [["modprobe", "softdog"]]
    sys, dev = machine(tmp_path, watchdog0=watchdog.SOFTWARE)
    assert not watchdog.has_hardware(sys)
    assert not watchdog.Watchdog(30, sys, dev).hardware


def test_one_that_somebody_else_holds_is_asked_for_and_named(tmp_path, no_tools):
    sys, dev = machine(tmp_path, watchdog0="iTCO_wdt")
    os.unlink(os.path.join(dev, "watchdog0"))
    with pytest.raises(watchdog.WatchdogError, match="watchdog0 .iTCO_wdt. cannot be had"):
        watchdog.Watchdog(30, sys, dev)
    assert no_tools[0][:4] == ["ubus", "call", "system", "watchdog"]


def test_across_a_kexec_it_is_fed_once_more_and_left_counting(tmp_path):
    sys, dev = machine(tmp_path, watchdog0="iTCO_wdt")
    watchdog.Watchdog(30, sys, dev).leave_armed()
    assert (tmp_path / "dev" / "watchdog0").read_bytes() == b"\0"


def test_a_reset_by_the_watchdog_is_known(tmp_path):
    sys, _ = machine(tmp_path, watchdog0="iTCO_wdt")
    assert not watchdog.reset_by_watchdog(sys)
    (tmp_path / "sys/watchdog0/bootstatus").write_text("32\n")
    assert watchdog.reset_by_watchdog(sys)


class Fed:
    """A watchdog that counts its feeds."""

    identity, hardware, timeout_s = "made up", True, 0.04

    def __init__(self, timeout):
        self.feeds, self.disarmed = 0, False
        made.append(self)

    def feed(self):
        self.feeds += 1

    def disarm(self):
        self.disarmed = True


made: list[Fed] = []


def wait_for(what):
    """Poll; the clock of the watchdog's module is the test's, this one is not."""
    pause = threading.Event()
    for _ in range(6000):
        if what():
            return
        pause.wait(0.01)
    raise AssertionError("not within a minute")


def test_a_loop_that_hangs_is_not_fed_for_and_one_that_goes_on_is_again(monkeypatch):
    made.clear()
    monkeypatch.setattr(watchdog, "Watchdog", Fed)
    clock = [1000.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    guard = watchdog.Guard(30)
    wait_for(lambda: made and made[0].feeds > 2)
    clock[0] += 31
    pause = threading.Event()
    pause.wait(0.1)
    before = made[0].feeds
    pause.wait(0.3)
    assert made[0].feeds == before, "nobody showed to be alive"
    guard.beat()
    wait_for(lambda: made[0].feeds > before)
    guard.close()
    assert made[0].disarmed
