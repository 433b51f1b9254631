"""The whole: a node, its controller and the example registry. Each test starts from a node whose slivers all run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from qemu.following import BRING_UP_S, FOLLOW_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]


def test_every_sliver_is_brought_up_with_address_and_limits_read_back(following: Following) -> None:
    status = following.wait_as_asked()
    started = [sliver for sliver in status["slivers"] if sliver["state"] == "started"]
    assert len(started) == 3
    for sliver in started:
        assert sliver["limits"]["held"] is True
        assert sliver["address"].split("/")[0] in following.in_sliver(sliver["id"], "ip -4 addr")
        assert sliver["name"] in following.in_sliver(sliver["id"], "hostname")


def test_a_sliver_told_to_deploy_stops_and_comes_back_with_its_files(following: Following) -> None:
    following.in_sliver("1@1", "echo kept >/root/file")
    following.set("slivers/1", set_state="deploy")
    following.wait_state("1@1", "deployed")
    following.set("slivers/1", set_state=None)
    following.wait_state("1@1", "started")
    assert following.in_sliver("1@1", "cat /root/file") == "kept\n"


def test_one_slivers_change_does_not_disturb_the_others(following: Following) -> None:
    def change() -> None:
        following.set("slices/2", set_state="register")
        following.wait_state("2@1", "registered")

    following.undisturbed(["1@1", "3@1"], change)


def test_a_waiting_sliver_is_started(following: Following) -> None:
    following.set("slices/4", set_state="start")
    assert following.wait_state("4@1", "started")["limits"]["held"] is True


def test_a_new_instance_of_a_sliver_begins_empty(following: Following) -> None:
    following.in_sliver("2@1", "echo old >/root/file || echo old >/file")
    before = following.wait_state("2@1", "started")["init_pid"]
    following.set("slivers/2", instance_sn=1)
    following.wait_restarted("2@1", before)
    following.wait_state("2@1", "started")
    assert "gone" in following.in_sliver("2@1", "cat /root/file /file 2>/dev/null || echo gone")


def test_an_instance_number_that_goes_down_makes_a_new_instance_too(following: Following) -> None:
    for number in (5, 3):
        before = following.wait_state("3@1", "started")["init_pid"]
        following.set("slivers/3", instance_sn=number)
        following.wait_restarted("3@1", before)
        assert following.wait_state("3@1", "started")["instance_sn"] == number


def test_a_reset_slice_gets_a_new_root_and_keeps_its_number(following: Following) -> None:
    number = following.wait_state("1@1", "started")["nr"]
    following.in_sliver("1@1", "echo old >/root/file")
    before = following.wait_state("1@1", "started")["init_pid"]
    following.set("slices/1", instance_sn=7)
    following.wait_restarted("1@1", before)
    assert following.wait_state("1@1", "started")["nr"] == number
    assert "gone" in following.in_sliver("1@1", "cat /root/file 2>/dev/null || echo gone")


def test_a_removed_sliver_leaves_nothing_behind_and_comes_back_as_new(following: Following) -> None:
    name = following.wait_state("3@1", "started")["name"]
    path = os.path.join(following.registry.documents, "slivers", "3.json")
    os.rename(path, path + ".away")
    following.refresh()
    following.node.wait_for("it is gone", lambda: following.sliver("3@1") is None, FOLLOW_S)
    traces = following.node.sh(
        f"ls /srv/confine/slivers /sys/fs/cgroup/confine /sys/fs/cgroup/confine-monitor /sys/class/net;"
        f"cat /proc/mounts; losetup -a; grep {name} /srv/confine/journal/bookings.json || true"
    )
    assert name not in traces
    assert "slv-03-00" not in traces
    os.rename(path + ".away", path)
    following.refresh()
    following.wait_state("3@1", "started")


def test_keys_added_and_removed_are_kept_in_step_without_a_restart(following: Following) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEosDgOklv3QE/d9QwhfambnWhJMnYw7ng4cdX41ar90 new"

    def has(there: bool) -> Callable[[], bool]:
        return lambda: (key.split()[1] in following.in_sliver("1@1", "cat /root/.ssh/authorized_keys")) is there

    def change() -> None:
        following.edit("users/2", lambda doc: doc["auth_tokens"].append(key))
        following.node.wait_for("the key is let in", has(True), FOLLOW_S)
        following.edit("users/2", lambda doc: doc["auth_tokens"].remove(key))
        following.node.wait_for("the key is out again", has(False), FOLLOW_S)

    following.undisturbed(["1@1"], change)


def test_a_safe_node_stops_its_slivers_and_production_starts_them_again(following: Following) -> None:
    following.set("nodes/1", set_state="safe")
    following.wait_state("1@1", "deployed")
    assert following.status()["node"]["state"] == "safe"
    following.set("nodes/1", set_state="production")
    following.wait_as_asked()


@pytest.mark.parametrize("state", ["debug", "failure"])
def test_a_node_set_to_debug_or_failure_removes_every_sliver(following: Following, state: str) -> None:
    following.set("nodes/1", set_state=state)
    following.node.wait_for("nothing is left", lambda: following.node.sh("ls /srv/confine/slivers") == "", FOLLOW_S)
    assert following.status()["node"]["state"] == state


def test_a_grown_boot_number_reboots_the_node_once_and_slivers_come_back(following: Following) -> None:
    boot = following.node.boot_id()
    following.set("nodes/1", boot_sn=9)
    following.node.wait_until_up(timeout=90, not_boot=boot)
    again = following.node.boot_id()
    following.wait_as_asked(BRING_UP_S)
    following.refresh()
    following.wait_as_asked()
    assert following.node.boot_id() == again


def test_without_a_registry_the_slivers_run_on_and_come_back_after_a_power_cut(following: Following) -> None:
    following.node.must(["sync"])
    following.node.sh("uci set confine.registry.base_uri=https://10.0.2.2:1/api/; uci commit confine; sync")
    boot = following.node.boot_id()
    following.node.reset()
    following.node.wait_until_up(timeout=90, not_boot=boot)

    def back() -> bool:
        status = following.status()
        states = {sliver["id"]: sliver["state"] for sliver in status["slivers"]}
        return states == {"1@1": "started", "2@1": "started", "3@1": "started", "4@1": "deployed"}

    following.node.wait_for("the slivers are back", back, BRING_UP_S)
    assert following.status()["registry"]["last_read"] is None


def test_a_killed_daemon_comes_back_and_takes_the_running_slivers_over(following: Following) -> None:
    def kill() -> None:
        following.node.sh("kill -9 $(cat /run/confine/lock)")
        following.node.wait_for("the daemon is back", lambda: following.status()["round"] > 0, FOLLOW_S)

    following.undisturbed(["1@1", "2@1", "3@1"], kill)


def test_a_clean_stop_leaves_slivers_running(following: Following) -> None:
    def restart() -> None:
        following.node.must(["/etc/init.d/confine", "stop"], timeout=40)
        following.node.must(["/etc/init.d/confine", "start"])
        following.node.wait_for("the daemon is back", lambda: following.status()["round"] > 0, FOLLOW_S)

    following.undisturbed(["1@1", "2@1", "3@1"], restart)


def test_a_half_written_document_changes_nothing(following: Following) -> None:
    def damage() -> None:
        for name in ("slices/1", "nodes/1", "slivers/2"):
            path = os.path.join(following.registry.documents, name + ".json")
            with open(path) as file:
                text = file.read()
            with open(path, "w") as file:
                file.write(text[: len(text) // 2])
        before = following.status()["registry"]["last_try"]
        following.refresh()
        following.node.wait_for("it was read", lambda: following.status()["registry"]["last_try"] > before, FOLLOW_S)
        time.sleep(2 * 0.05)  # one turn of the controller

    following.undisturbed(["1@1", "2@1", "3@1"], damage)


def test_a_request_over_the_nodes_maximum_is_refused_with_the_reason_and_harms_nobody(following: Following) -> None:
    def ask_for_too_much() -> None:
        following.edit("slivers/2", lambda doc: doc.update(instance_sn=1, resources=[
            {"name": "memory", "req": 4096, "unit": "MiB"}]))  # fmt: skip
        errors = following.wait_state("2@1", "fail_allocate")["errors"]
        assert any("4096" in error["message"] and "128" in error["message"] for error in errors), errors

    following.undisturbed(["1@1", "3@1"], ask_for_too_much)


def test_a_template_with_another_sha256_is_not_run_and_the_reason_names_both(following: Following) -> None:
    wrong = "ab" * 32
    following.set("templates/3", image_sha256=wrong)
    following.set("slivers/3", instance_sn=1)
    errors = following.wait_state("3@1", "fail_allocate")["errors"]
    assert any(wrong[:8] in error["message"] for error in errors), errors


def test_an_expired_slice_is_removed_only_by_confirmed_time(following: Following) -> None:
    following.node.must(["date", "-u", "-s", "2106-01-01"])
    following.refresh()
    following.wait_as_asked()
    assert following.sliver("1@1") is not None
    following.node.must(["date", "-u", "-s", f"@{int(time.time())}"])
    following.set("slices/1", expires_on="@days/-2")
    following.node.wait_for("the expired one is gone", lambda: following.sliver("1@1") is None, FOLLOW_S)


def test_the_command_line_shows_status_plan_and_log(following: Following) -> None:
    table = following.node.must(["confine", "status"])
    assert "1@1" in table and "started" in table and "mill-roof" in table
    assert json.loads(following.node.must(["confine", "status", "--json"]))["slivers"]
    assert "nothing to do" in following.node.must(["confine", "plan"])
    assert "registry" in following.node.must(["confine", "log", "-n", "100"])
    assert "read now" in following.node.must(["confine", "refresh"])


def test_a_second_daemon_refuses_to_start_and_says_why(following: Following) -> None:
    result = following.node.run(["env", "PYTHONPATH=/usr/lib/confine", "python3", "-m", "confine.daemon"])
    assert result.status == 1
    assert "another daemon" in result.err


def test_an_idle_round_starts_no_process_and_writes_no_file(following: Following) -> None:
    following.wait_as_asked()
    node = following.node
    daemon = node.read_file("/run/confine/lock").decode()

    def faults_of_ended_children() -> str:
        return node.read_file(f"/proc/{daemon}/stat").decode().rsplit(") ", 1)[1].split()[8]

    node.sh("touch /tmp/mark; sleep 0.1")
    children = faults_of_ended_children()
    for _ in range(2):
        before = following.status()
        following.refresh()
        node.wait_for(
            "a round is over",
            lambda b=before: following.status()["registry"]["last_read"] > b["registry"]["last_read"],
            FOLLOW_S,
        )
    assert faults_of_ended_children() == children
    written = node.sh("find /srv/confine /run/confine -newer /tmp/mark -type f ! -name log ! -name console.log")
    assert written == ""


def test_the_end_of_a_sliver_is_noticed_without_waiting_for_the_next_look(following: Following) -> None:
    rare = "sed -i \"s/option interval '10'/option interval '3600'/\" /etc/config/confine; /etc/init.d/confine reload"
    before = following.status()["round"]
    following.node.sh(rare)
    following.node.wait_for("the daemon has begun again", lambda: 0 < following.status()["round"] < before, FOLLOW_S)
    init = following.wait_state("3@1", "started")["init_pid"]

    def quiet() -> bool:
        rounds = following.status()["round"]
        time.sleep(2)
        return following.status()["round"] == rounds

    following.refresh()
    following.node.wait_for("nothing goes on", quiet, FOLLOW_S)
    following.node.must(["kill", "-9", str(init)])
    following.node.wait_for("the node notices", lambda: following.sliver("3@1")["state"] == "fail_start", 20)


def test_a_sliver_whose_init_dies_is_started_again_after_a_pause_and_says_so(following: Following) -> None:
    def crash() -> None:
        before = following.wait_state("2@1", "started")["init_pid"]
        following.node.must(["kill", "-9", str(before)])
        following.node.wait_for("the node notices", lambda: following.sliver("2@1")["state"] == "fail_start", FOLLOW_S)
        errors = following.wait_state("2@1", "fail_start")["errors"]
        assert any("ended by itself" in error["message"] for error in errors), errors
        following.wait_restarted("2@1", before)
        following.wait_state("2@1", "started")

    following.undisturbed(["1@1", "3@1"], crash)
