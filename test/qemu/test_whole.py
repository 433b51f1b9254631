"""The whole: a node, its controller and the example registry. Each test starts from a node whose slivers all run."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qemu import narrate
from qemu.harness import Snapshot, VirtualNode
from qemu.run import CONTROL, authorize
from registry.testbed import FILES, ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]
FOLLOW_S = 60.0
BRING_UP_S = 150.0


class Testbed:
    """The example registry and a node that follows it."""

    def __init__(self, node: VirtualNode, registry: ExampleRegistry) -> None:
        self.node = node
        self.registry = registry

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the document `name` ("slices/1") as a person would, and have the node look."""
        path = os.path.join(self.registry.documents, name + ".json")
        with open(path) as file:
            doc = json.load(file)
        change(doc)
        with open(path + ".new", "w") as file:
            json.dump(doc, file)
        os.replace(path + ".new", path)
        self.refresh()

    def set(self, name: str, **members: Any) -> None:
        """Set members of the document `name`, and have the node look."""
        self.edit(name, lambda doc: doc.update(members))

    def refresh(self) -> None:
        """Have the node read its registry now."""
        self.verb("refresh")

    def verb(self, verb: str, **args: Any) -> Any:
        """The daemon's answer to a verb."""
        answer = json.loads(self.node.ask(CONTROL, json.dumps({"verb": verb, "args": args}).encode() + b"\n"))
        assert answer["ok"], answer
        return answer["result"]

    def status(self) -> dict[str, Any]:
        """The daemon's status."""
        doc: dict[str, Any] = self.verb("status")
        return doc

    def sliver(self, key: str) -> dict[str, Any] | None:
        """The status of one sliver, None if the node knows none of that name."""
        found = [sliver for sliver in self.status()["slivers"] if sliver["id"] == key]
        return found[0] if found else None

    def wait_state(self, key: str, state: str, timeout: float = FOLLOW_S) -> dict[str, Any]:
        """Wait until the sliver is in `state`; gives its status."""

        def there() -> dict[str, Any] | None:
            sliver = self.sliver(key)
            return sliver if sliver is not None and sliver["state"] == state else None

        found = self.node.wait_for(f"sliver {key} is {state}", there, timeout)
        assert found is not None
        return found

    def wait_as_asked(self, timeout: float = FOLLOW_S) -> dict[str, Any]:
        """Wait until every sliver is as asked; gives the status."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            return status if narrate.as_asked(status) else None

        found = self.node.wait_for("all slivers are as asked", settled, timeout)
        assert found is not None
        return found

    def wait_restarted(self, key: str, init_before: int) -> None:
        """Wait until the sliver runs with another init than `init_before`."""

        def restarted() -> bool:
            return (self.sliver(key) or {}).get("init_pid") not in (init_before, None)

        self.node.wait_for(f"sliver {key} was started again", restarted, FOLLOW_S)

    def in_sliver(self, key: str, script: str) -> str:
        """Run a line of shell as root in a sliver; gives its output."""
        sliver = self.sliver(key)
        assert sliver is not None
        return self.node.must(["lxc-attach", "-P", "/srv/confine/slivers", "-n", sliver["name"], "--", "/bin/sh", "-c",
                               script])  # fmt: skip

    def undisturbed(self, keys: list[str], change: Callable[[], Any]) -> None:
        """Assert that the slivers `keys` run on, the same processes, through `change`."""
        before = {key: self.wait_state(key, "started")["init_pid"] for key in keys}
        change()
        assert {key: self.wait_state(key, "started")["init_pid"] for key in keys} == before


@pytest.fixture(scope="session")
def example_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleRegistry]:
    if not os.path.exists(os.path.join(FILES, "debian.json")):
        pytest.skip("the example templates were not built: make image")
    with ExampleRegistry(str(tmp_path_factory.mktemp("registry"))) as registry:
        yield registry


@pytest.fixture(scope="session")
def settled(booted: Snapshot, example_registry: ExampleRegistry, session_dir: str) -> Snapshot:
    """A node that brought all slivers of the example testbed up."""
    with VirtualNode.from_snapshot(booted) as node:
        authorize(node, example_registry)
        testbed = Testbed(node, example_registry)
        testbed.wait_as_asked(BRING_UP_S)
        return node.save(os.path.join(session_dir, "settled"))


@pytest.fixture
def testbed(settled: Snapshot, example_registry: ExampleRegistry, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    original = os.path.join(os.path.dirname(example_registry.documents), "original")
    shutil.rmtree(example_registry.documents)
    shutil.copytree(original, example_registry.documents)
    with VirtualNode.from_snapshot(settled) as node:
        request.node.__dict__.setdefault("_virtual_nodes", []).append(node)
        yield Testbed(node, example_registry)


def test_every_sliver_is_brought_up_with_address_and_limits_read_back(testbed: Testbed) -> None:
    status = testbed.wait_as_asked()
    started = [sliver for sliver in status["slivers"] if sliver["state"] == "started"]
    assert len(started) == 3
    for sliver in started:
        assert sliver["limits"]["held"] is True
        assert sliver["address"].split("/")[0] in testbed.in_sliver(sliver["id"], "ip -4 addr")
        assert sliver["name"] in testbed.in_sliver(sliver["id"], "hostname")


def test_a_sliver_told_to_deploy_stops_and_comes_back_with_its_files(testbed: Testbed) -> None:
    testbed.in_sliver("1@1", "echo kept >/root/file")
    testbed.set("slivers/1", set_state="deploy")
    testbed.wait_state("1@1", "deployed")
    testbed.set("slivers/1", set_state=None)
    testbed.wait_state("1@1", "started")
    assert testbed.in_sliver("1@1", "cat /root/file") == "kept\n"


def test_one_slivers_change_does_not_disturb_the_others(testbed: Testbed) -> None:
    def change() -> None:
        testbed.set("slices/2", set_state="register")
        testbed.wait_state("2@1", "registered")

    testbed.undisturbed(["1@1", "3@1"], change)


def test_a_waiting_sliver_is_started(testbed: Testbed) -> None:
    testbed.set("slices/4", set_state="start")
    assert testbed.wait_state("4@1", "started")["limits"]["held"] is True


def test_a_new_instance_of_a_sliver_begins_empty(testbed: Testbed) -> None:
    testbed.in_sliver("2@1", "echo old >/root/file || echo old >/file")
    before = testbed.wait_state("2@1", "started")["init_pid"]
    testbed.set("slivers/2", instance_sn=1)
    testbed.wait_restarted("2@1", before)
    testbed.wait_state("2@1", "started")
    assert "gone" in testbed.in_sliver("2@1", "cat /root/file /file 2>/dev/null || echo gone")


def test_an_instance_number_that_goes_down_makes_a_new_instance_too(testbed: Testbed) -> None:
    for number in (5, 3):
        before = testbed.wait_state("3@1", "started")["init_pid"]
        testbed.set("slivers/3", instance_sn=number)
        testbed.wait_restarted("3@1", before)
        assert testbed.wait_state("3@1", "started")["instance_sn"] == number


def test_a_reset_slice_gets_a_new_root_and_keeps_its_number(testbed: Testbed) -> None:
    number = testbed.wait_state("1@1", "started")["nr"]
    testbed.in_sliver("1@1", "echo old >/root/file")
    before = testbed.wait_state("1@1", "started")["init_pid"]
    testbed.set("slices/1", instance_sn=7)
    testbed.wait_restarted("1@1", before)
    assert testbed.wait_state("1@1", "started")["nr"] == number
    assert "gone" in testbed.in_sliver("1@1", "cat /root/file 2>/dev/null || echo gone")


def test_a_removed_sliver_leaves_nothing_behind_and_comes_back_as_new(testbed: Testbed) -> None:
    name = testbed.wait_state("3@1", "started")["name"]
    path = os.path.join(testbed.registry.documents, "slivers", "3.json")
    os.rename(path, path + ".away")
    testbed.refresh()
    testbed.node.wait_for("it is gone", lambda: testbed.sliver("3@1") is None, FOLLOW_S)
    traces = testbed.node.sh(
        f"ls /srv/confine/slivers /sys/fs/cgroup/confine /sys/fs/cgroup/confine-monitor /sys/class/net;"
        f"cat /proc/mounts; losetup -a; grep {name} /srv/confine/journal/bookings.json || true"
    )
    assert name not in traces
    assert "slv-03-00" not in traces
    os.rename(path + ".away", path)
    testbed.refresh()
    testbed.wait_state("3@1", "started")


def test_keys_added_and_removed_are_kept_in_step_without_a_restart(testbed: Testbed) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEosDgOklv3QE/d9QwhfambnWhJMnYw7ng4cdX41ar90 new"

    def has(there: bool) -> Callable[[], bool]:
        return lambda: (key.split()[1] in testbed.in_sliver("1@1", "cat /root/.ssh/authorized_keys")) is there

    def change() -> None:
        testbed.edit("users/2", lambda doc: doc["auth_tokens"].append(key))
        testbed.node.wait_for("the key is let in", has(True), FOLLOW_S)
        testbed.edit("users/2", lambda doc: doc["auth_tokens"].remove(key))
        testbed.node.wait_for("the key is out again", has(False), FOLLOW_S)

    testbed.undisturbed(["1@1"], change)


def test_a_safe_node_stops_its_slivers_and_production_starts_them_again(testbed: Testbed) -> None:
    testbed.set("nodes/1", set_state="safe")
    testbed.wait_state("1@1", "deployed")
    assert testbed.status()["node"]["state"] == "safe"
    testbed.set("nodes/1", set_state="production")
    testbed.wait_as_asked()


@pytest.mark.parametrize("state", ["debug", "failure"])
def test_a_node_set_to_debug_or_failure_removes_every_sliver(testbed: Testbed, state: str) -> None:
    testbed.set("nodes/1", set_state=state)
    testbed.node.wait_for("nothing is left", lambda: testbed.node.sh("ls /srv/confine/slivers") == "", FOLLOW_S)
    assert testbed.status()["node"]["state"] == state


def test_a_grown_boot_number_reboots_the_node_once_and_slivers_come_back(testbed: Testbed) -> None:
    boot = testbed.node.boot_id()
    testbed.set("nodes/1", boot_sn=9)
    testbed.node.wait_until_up(timeout=90, not_boot=boot)
    again = testbed.node.boot_id()
    testbed.wait_as_asked(BRING_UP_S)
    testbed.refresh()
    testbed.wait_as_asked()
    assert testbed.node.boot_id() == again


def test_without_a_registry_the_slivers_run_on_and_come_back_after_a_power_cut(testbed: Testbed) -> None:
    testbed.node.must(["sync"])
    testbed.node.sh("uci set confine.registry.base_uri=https://10.0.2.2:1/api/; uci commit confine; sync")
    boot = testbed.node.boot_id()
    testbed.node.reset()
    testbed.node.wait_until_up(timeout=90, not_boot=boot)

    def back() -> bool:
        status = testbed.status()
        states = {sliver["id"]: sliver["state"] for sliver in status["slivers"]}
        return states == {"1@1": "started", "2@1": "started", "3@1": "started", "4@1": "deployed"}

    testbed.node.wait_for("the slivers are back", back, BRING_UP_S)
    assert testbed.status()["registry"]["last_read"] is None


def test_a_killed_daemon_comes_back_and_takes_the_running_slivers_over(testbed: Testbed) -> None:
    def kill() -> None:
        testbed.node.sh("kill -9 $(cat /run/confine/lock)")
        testbed.node.wait_for("the daemon is back", lambda: testbed.status()["round"] > 0, FOLLOW_S)

    testbed.undisturbed(["1@1", "2@1", "3@1"], kill)


def test_a_clean_stop_leaves_slivers_running(testbed: Testbed) -> None:
    def restart() -> None:
        testbed.node.must(["/etc/init.d/confine", "stop"], timeout=40)
        testbed.node.must(["/etc/init.d/confine", "start"])
        testbed.node.wait_for("the daemon is back", lambda: testbed.status()["round"] > 0, FOLLOW_S)

    testbed.undisturbed(["1@1", "2@1", "3@1"], restart)


def test_a_half_written_document_changes_nothing(testbed: Testbed) -> None:
    def damage() -> None:
        for name in ("slices/1", "nodes/1", "slivers/2"):
            path = os.path.join(testbed.registry.documents, name + ".json")
            with open(path) as file:
                text = file.read()
            with open(path, "w") as file:
                file.write(text[: len(text) // 2])
        before = testbed.status()["registry"]["last_try"]
        testbed.refresh()
        testbed.node.wait_for("it was read", lambda: testbed.status()["registry"]["last_try"] > before, FOLLOW_S)
        time.sleep(2 * 0.05)  # one turn of the controller

    testbed.undisturbed(["1@1", "2@1", "3@1"], damage)


def test_a_request_over_the_nodes_maximum_is_refused_with_the_reason_and_harms_nobody(testbed: Testbed) -> None:
    def ask_for_too_much() -> None:
        testbed.edit("slivers/2", lambda doc: doc.update(instance_sn=1, resources=[
            {"name": "memory", "req": 4096, "unit": "MiB"}]))  # fmt: skip
        errors = testbed.wait_state("2@1", "fail_allocate")["errors"]
        assert any("4096" in error["message"] and "128" in error["message"] for error in errors), errors

    testbed.undisturbed(["1@1", "3@1"], ask_for_too_much)


def test_a_template_with_another_sha256_is_not_run_and_the_reason_names_both(testbed: Testbed) -> None:
    wrong = "ab" * 32
    testbed.set("templates/3", image_sha256=wrong)
    testbed.set("slivers/3", instance_sn=1)
    errors = testbed.wait_state("3@1", "fail_allocate")["errors"]
    assert any(wrong[:8] in error["message"] for error in errors), errors


def test_an_expired_slice_is_removed_only_by_confirmed_time(testbed: Testbed) -> None:
    testbed.node.must(["date", "-u", "-s", "2106-01-01"])
    testbed.refresh()
    testbed.wait_as_asked()
    assert testbed.sliver("1@1") is not None
    testbed.node.must(["date", "-u", "-s", f"@{int(time.time())}"])
    testbed.set("slices/1", expires_on="@days/-2")
    testbed.node.wait_for("the expired one is gone", lambda: testbed.sliver("1@1") is None, FOLLOW_S)


def test_the_command_line_shows_status_plan_and_log(testbed: Testbed) -> None:
    table = testbed.node.must(["confine", "status"])
    assert "1@1" in table and "started" in table and "mill-roof" in table
    assert json.loads(testbed.node.must(["confine", "status", "--json"]))["slivers"]
    assert "nothing to do" in testbed.node.must(["confine", "plan"])
    assert "registry" in testbed.node.must(["confine", "log", "-n", "100"])
    assert "read now" in testbed.node.must(["confine", "refresh"])


def test_a_second_daemon_refuses_to_start_and_says_why(testbed: Testbed) -> None:
    result = testbed.node.run(["env", "PYTHONPATH=/usr/lib/confine", "python3", "-m", "confine.daemon"])
    assert result.status == 1
    assert "another daemon" in result.err


def test_an_idle_node_starts_no_process_and_writes_no_file(testbed: Testbed) -> None:
    testbed.wait_as_asked()
    daemon = testbed.node.read_file("/run/confine/lock").decode()
    before = testbed.status()["round"]
    testbed.node.sh("sync; touch /tmp/mark")
    children = testbed.node.read_file("/proc/stat").decode().split("processes ")[1].split()[0]
    testbed.refresh()
    testbed.node.wait_for("two turns", lambda: testbed.status()["round"] >= before + 1, FOLLOW_S)
    forks = int(testbed.node.read_file("/proc/stat").decode().split("processes ")[1].split()[0]) - int(children)
    assert (
        testbed.node.sh("find /srv/confine /run/confine -newer /tmp/mark -type f ! -name log ! -name console.log") == ""
    )
    assert forks < 10, f"{forks} processes were started beside daemon {daemon}"
