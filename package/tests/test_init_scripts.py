"""What the init scripts tell procd, call by call: the words are those of procd.sh, whose effect was recorded on a
genuine OpenWrt (a respawn retry of 0 is for ever, an instance is only started anew if its parameters changed)."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

INIT = Path(__file__).parents[2] / "files/etc/init.d"
# Each call is told.
STUBS = """
for call in open_instance set_param close_instance add_reload_trigger add_config_trigger send_signal; do
    eval "procd_$call() { echo $call \\"\\$@\\"; }"
done
extra_command() { echo "extra $1"; }
uci() { return 1; }
"""


def told(script: str, *functions: str) -> list[str]:
    text = (INIT / script).read_text() + "\n" + "\n".join(functions)
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as bus:
        bus.bind(place + "/ubus.sock")
        for name in ("tinc.conf", "rsa_key.priv"):
            (Path(place) / name).write_text("there\n")
        for old, new in (("/var/run/ubus", place), ("/etc/tinc/confine", place), ("/run/confine", place)):
            text = text.replace(old, new)
        return called(text)


def called(text: str) -> list[str]:
    done = subprocess.run(["bash", "-c", STUBS + text], capture_output=True, text=True, check=True, timeout=50)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("script", "module"),
    [("confine", "/usr/lib/confine/share/run confine.daemon"),
     ("confine-bus", "/usr/lib/confine/share/run confine.bus.main"), ("confine-overlay", "tincd -D ")],
)  # fmt: skip
def test_a_service_is_started_again_for_ever_and_what_it_says_is_logged(script: str, module: str) -> None:
    calls = told(script, "start_service")
    assert [call for call in calls if call.startswith("set_param command " + module)]
    assert {"set_param respawn 3600 5 0", "set_param stdout 1", "set_param stderr 1"} <= set(calls)
    assert calls.index("open_instance") < calls.index("close_instance")


def test_slivers_can_become_root_within_themselves_what_is_no_sliver_gains_nothing() -> None:
    assert "set_param no_new_privs 1" not in told("confine", "start_service")
    for script in ("confine-bus", "confine-overlay"):
        assert "set_param no_new_privs 1" in told(script, "start_service")


def test_own_settings_are_read_anew_and_what_came_of_others_is_only_looked_at() -> None:
    calls = told("confine", "service_triggers")
    assert "add_reload_trigger confine" in calls
    for package in ("network", "tinc"):
        assert f"add_config_trigger config.change {package} /etc/init.d/confine look" in calls
    assert "extra look" in calls
    assert told("confine", "look")[-1] == "send_signal confine * USR1"
    assert told("confine", "reload_service")[-1] == "send_signal confine"


def test_the_controller_begins_after_the_network_and_ends_before_it() -> None:
    def order(name: str, word: str) -> int:
        line = next(line for line in (INIT / name).read_text().splitlines() if line.startswith(word + "="))
        return int(line.partition("=")[2])

    network = 20  # of OpenWrt's own script
    assert order("confine-network", "START") < network < order("confine-overlay", "START") < order("confine", "START")
    assert order("confine", "START") < order("confine-bus", "START")
    assert order("confine-bus", "STOP") < order("confine", "STOP") < order("confine-overlay", "STOP")
