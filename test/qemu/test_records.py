"""Who sent this packet at that time: answered from the node's own records, whatever happens to daemon and power."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from qemu.following import FOLLOW_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

HOST = "10.0.2.2"
NODE = "10.0.2.15"  # the node's address outside, as QEMU's network gives it
PORT = 40123
# Runs in the node: one packet from a port of our choice, by the sliver whose init is PID, out of its own network.
SEND = """
import os, socket, sys
pid, kind, port, host, far = sys.argv[1:]
os.setns(os.open("/proc/" + pid + "/ns/net", os.O_RDONLY))
one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
one.bind(("", int(port)))
one.settimeout(10)
one.connect((host, int(far)))
if kind == "udp":
    one.send(b"packet")
"""
READ = """
import json, sys
from confine.daemon import read_settings
from confine.paths import Paths
from confine.records.actions import ActionLog
from confine.records.figures import Figures
paths = Paths()
settings = read_settings(paths)[0]
name = sys.argv[1]
print(json.dumps({"actions": ActionLog(paths, settings).read(subject=name),
                  "figures": Figures(paths, settings).read(name, step=60)}))
"""


def send(testbed: Following, key: str, kind: str, far: int, port: int = PORT) -> float:
    """Have the sliver send; gives when."""
    pid = testbed.wait_state(key, "started")["init_pid"]
    testbed.node.must(["python3", "-", str(pid), kind, str(port), HOST, str(far)], stdin=SEND.encode())
    return time.time()


def trace(testbed: Following, address: str, moment: float, port: int, kind: str) -> list[dict[str, Any]]:
    words = ["confine", "trace", address, f"{moment:.0f}", "--port", str(port), "--protocol", kind, "--json"]
    found: list[dict[str, Any]] = json.loads(testbed.node.run(words, timeout=60).out)
    return found


def records(testbed: Following, name: str) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(testbed.node.must(["python3", "-", name], stdin=READ.encode()))
    return doc


def uptime(testbed: Following) -> float:
    return float(testbed.node.read_file("/proc/uptime").split()[0])


def outside_port(found: dict[str, Any]) -> int:
    port: int = found["flows"][0]["outside_port"]
    return port


def test_the_nodes_outside_address_and_port_lead_to_slice_and_people_of_each_of_two_slivers(
    following: Following,
) -> None:
    registry = following.registry.server.server_port
    # Both from the same port to the same place: only one of them can keep its port outside.
    times = {key: send(following, key, "udp", 9999) for key in ("1@1", "3@1")}
    ports = {}
    for key, moment in times.items():
        inside = f"192.168.241.{following.sliver(key)['nr']}"  # type: ignore[index]
        (own,) = trace(following, inside, moment, PORT, "udp")
        ports[key] = outside_port(own)
    assert len(set(ports.values())) == 2
    for key, port in ports.items():
        (found,) = trace(following, NODE, times[key], port, "udp")
        assert (found["key"], found["as"]) == (key, "outside")
    moment = send(following, "1@1", "tcp", registry)
    (found,) = trace(following, NODE, moment, PORT, "tcp")
    assert found["slice"]["name"] == "weather"
    assert found["group"]["name"] == "Upper valley"
    assert {person["name"]: person["roles"] for person in found["people"]}["ivo"] == ["slice_admin"]
    assert trace(following, NODE, moment, PORT + 1, "tcp") == []
    assert trace(following, NODE, moment - 600, PORT, "tcp") == []


def test_what_was_written_is_found_without_a_daemon_and_after_a_power_cut(following: Following) -> None:
    name = following.wait_state("1@1", "started")["name"]
    moment = send(following, "1@1", "udp", 9999)
    assert trace(following, NODE, moment, PORT, "udp")  # has the daemon write what it knows
    following.node.sh("kill -STOP $(cat /run/confine/lock)")
    (found,) = trace(following, NODE, moment, PORT, "udp")
    assert found["key"] == "1@1"
    following.node.sh("kill -9 $(cat /run/confine/lock)")
    boot = following.node.boot_id()
    following.node.reset()
    following.node.wait_until_up(timeout=90, not_boot=boot)
    (found,) = trace(following, NODE, moment, PORT, "udp")
    assert (found["key"], found["slice"]["name"]) == ("1@1", "weather")
    steps = [record for record in records(following, name)["actions"] if record["what"] == "containers start"]
    assert "group 1 Upper valley" in steps[0]["who"]
    assert "/slivers/" in steps[0]["document"]
    assert steps[0]["revision"]
    assert steps[0]["why"]


def test_the_command_line_tells_what_was_done_and_what_was_used(following: Following) -> None:
    name = following.wait_state("1@1", "started")["name"]
    history = json.loads(following.node.must(["confine", "history", "1@1", "--json"], timeout=60))
    assert {record["subject"] for record in history} == {name}
    whats = [record["what"] for record in history]
    assert "containers start" in whats and "held" in whats
    assert "containers start" in following.node.must(["confine", "history"], timeout=60)

    def used() -> Any:
        found = following.node.run(["confine", "figures", "1@1", "--json"], timeout=60)
        return json.loads(found.out)["slivers"][name] if found.status == 0 else None

    assert following.node.wait_for("it was sampled", used, FOLLOW_S)[-1]["memory_bytes"] > 0
    shown = json.loads(following.node.must(["confine", "figures", "--json"], timeout=60))
    assert shown["total"]["slivers"] == 3
    mine = json.loads(following.node.must(["confine", "figures", "--user", "ivo", "--json"], timeout=60))
    assert name in mine["slivers"]


def test_figures_are_kept_across_a_clean_restart(following: Following) -> None:
    name = following.wait_state("1@1", "started")["name"]
    begin = uptime(following)
    following.node.wait_for("it was sampled", lambda: uptime(following) > begin + 12, FOLLOW_S)
    following.node.must(["/etc/init.d/confine", "stop"], timeout=40)
    before = records(following, name)["figures"]
    assert before, "no figures were kept at the stop"
    assert before[-1]["memory_bytes"] > 0
    assert before[-1]["disk_bytes"] > 0
    following.node.must(["/etc/init.d/confine", "start"])
    following.node.wait_for("the daemon is back", lambda: following.status()["round"] > 0, FOLLOW_S)
    assert records(following, name)["figures"][: len(before)] == before
