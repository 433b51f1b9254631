"""The reference image's stand-in for netifd does what a genuine netifd was recorded to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qemu.harness import VirtualNode

HERE = Path(__file__).resolve().parent
CAPTURE = HERE.parents[2] / "shared" / "openwrt-capture"
ONLY_THERE = {"lo", "eth0", "eth1", "br-lan", "dummy0"}  # of other kinds or with other addresses in the recording
STATUS = re.compile(r"network\.interface\.(\w+)$")


def recordings() -> list[dict[str, Any]]:
    if not CAPTURE.is_dir():
        pytest.skip("the recordings of a genuine OpenWrt (../shared/openwrt-capture) are not here")
    return [{"name": path.stem, **json.loads(path.read_text())} for path in sorted((CAPTURE / "netifd").iterdir())]


def devices(ip_addr: list[str]) -> dict[str, tuple[int, int]]:
    """{device: (index, MTU)} of the lines of `ip addr`."""
    found = {}
    for line in ip_addr:
        match = re.match(r"(\d+): ([^:@]+)[:@].* mtu (\d+)", line)
        if match and match[2] not in ONLY_THERE:
            found[match[2]] = (int(match[1]), int(match[3]))
    return found


def addresses(ip_addr: list[str]) -> dict[str, list[str]]:
    """{device: addresses that are not link-local} of the lines of `ip addr`."""
    found: dict[str, list[str]] = {}
    device = ""
    for line in ip_addr:
        match = re.match(r"\d+: ([^:@]+)", line)
        device = match[1] if match else device
        match = re.match(r" +inet6? (\S+) .*scope (\w+)", line)
        if match and device not in ONLY_THERE and match[2] != "link":
            found.setdefault(device, []).append(match[1])
    return {name: sorted(listed) for name, listed in found.items()}


@pytest.fixture(scope="module")
def replayed(request: pytest.FixtureRequest) -> dict[str, Any]:
    """{name of a recording: what there was after the same change in the node}, and "steps": the recordings."""
    steps = recordings()
    with VirtualNode.from_snapshot(request.getfixturevalue("booted")) as node:
        for path in (CAPTURE / "config").iterdir():
            node.write_file(f"/tmp/recorded/{path.name}", path.read_bytes())
        plain = [{"name": step["name"], "batch": step["uci_batch"]} for step in steps]
        node.write_file("/tmp/steps.json", json.dumps(plain))
        node.write_file("/tmp/drive.py", (HERE / "netifd_drive.py").read_bytes())
        command = ["unshare", "-n", "python3", "/tmp/drive.py", "/tmp/steps.json", "/tmp/recorded"]
        out = node.must(command, 120)
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    answer["steps"] = steps
    return answer


pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]


def test_the_same_devices_come_with_the_same_addresses_and_mtu(replayed: dict[str, Any]) -> None:
    for step in replayed["steps"]:
        there = step["after"]["ip addr"]
        here = replayed[step["name"]]
        mine = {name: row for name, row in here["devices"].items() if name not in ONLY_THERE}
        assert set(mine) == set(devices(there)), step["name"]
        assert {name: row[1] for name, row in mine.items()} == {n: mtu for n, (_, mtu) in devices(there).items()}
        found = {name: listed for name, listed in here["addresses"].items() if listed and name not in ONLY_THERE}
        assert found == addresses(there), step["name"]


def test_the_same_devices_are_made_anew_and_the_same_are_left_alone(replayed: dict[str, Any]) -> None:
    before = replayed["start"]
    compared = 0
    for step in replayed["steps"]:
        here = replayed[step["name"]]
        was, now = devices(step["before"]["ip addr"]), devices(step["after"]["ip addr"])
        for name in set(was) & set(now):
            anew_there = was[name][0] != now[name][0]
            anew_here = before["devices"][name][0] != here["devices"][name][0]
            assert anew_here == anew_there, (step["name"], name)
            compared += 1
        before = here
    assert compared > 8


def test_interfaces_stand_the_same(replayed: dict[str, Any]) -> None:
    compared = 0
    for step in replayed["steps"]:
        for key, shown in step["status"].items():
            match = STATUS.match(key)
            if match is None or match[1] == "wan":
                continue
            here = replayed[step["name"]]["status"].get(match[1])
            there = shown.get("stdout_json")
            if not there:
                assert here is None, (step["name"], match[1])
                continue
            codes = {error["code"] for error in there.get("errors", [])}
            words = [there["up"], there["available"], there["proto"], there.get("l3_device"), codes]
            error = {here["error"]} if here["error"] else set()
            assert [here["up"], here["available"], here["proto"], here["l3_device"], error] == words, step["name"]
            compared += 1
    assert compared > 8


def test_an_interface_waits_for_its_device_and_loses_it_again(replayed: dict[str, Any]) -> None:
    step = next(step for step in replayed["steps"] if step["name"].startswith("06"))
    there = [word == "true" for word in re.findall(r'"up": (true|false)', step["command"]["stdout"])]
    assert [replayed[when]["status"]["ghost"]["up"] for when in ("appeared", "gone")] == there == [True, False]
    assert replayed["appeared"]["addresses"]["eth9"] == ["10.77.0.1/24"]


def test_a_file_that_cannot_be_parsed_changes_nothing(replayed: dict[str, Any]) -> None:
    names = [step["name"] for step in replayed["steps"]]
    last, before = names[-1], names[-2]
    assert last.startswith("12")
    assert replayed[last]["devices"] == replayed[before]["devices"]
    assert replayed[last]["status"] == replayed[before]["status"]
