"""A node starts from its disk, and tests can rely on the nodes they are lent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qemu.conftest import MakeNode
from qemu.harness import KernelBoot, NoAnswer, NodeError, VirtualNode


def test_a_cold_start_through_grub_says_slot_pointer_and_that_the_start_was_counted(fresh_node: VirtualNode) -> None:
    words = fresh_node.command_line()
    assert words["confine.root"] == "PARTLABEL=root-a"
    assert words["confine.slot"] == words["confine.confirmed"] == "a"
    assert words["confine.pointer"] == "copy1"
    assert words["confine.boot"] == "counted"
    assert words["watchdog.stop_on_reboot"] == words["apparmor"] == "0"
    assert words["panic"] == "5"


def test_root_changes_land_in_the_overlay_and_data_on_its_own_partition(node: VirtualNode) -> None:
    mounts = {line.split()[1]: line.split() for line in node.read_file("/proc/mounts").decode().splitlines()}
    assert mounts["/"][2] == "overlay"
    assert mounts["/rom"][2] == "squashfs"
    assert mounts["/srv"][2] == "ext4"
    assert mounts["/srv"][0].endswith("8")


def test_changes_survive_a_reset_after_a_sync(node: VirtualNode) -> None:
    node.write_file("/etc/kept", "kept\n")
    node.write_file("/srv/kept", "kept\n")
    node.must(["sync"])
    before = node.boot_id()
    node.reset()
    node.wait_until_up(not_boot=before)
    assert node.read_file("/etc/kept") == node.read_file("/srv/kept") == b"kept\n"


def test_a_kernel_can_be_started_without_grub(make_node: MakeNode, image_files: dict[str, str]) -> None:
    kernel = KernelBoot(image_files["kernel"], image_files["initrd"], "confine.test=1")
    node = make_node(kernel=kernel, wait_until_up=False)
    node.wait_for("the node's agent answers", lambda: node.boot_id(timeout=2), timeout=90)
    assert node.command_line()["confine.test"] == "1"
    assert node.command_line()["confine.boot"] == "uncounted"


def test_a_node_from_a_snapshot_has_the_right_time_and_a_name_of_its_own(node: VirtualNode) -> None:
    assert abs(int(node.must(["date", "+%s"])) - time.time()) < 5
    assert node.must(["hostname"]).strip() == node.name


def test_a_command_gives_status_output_and_errors_apart(node: VirtualNode) -> None:
    result = node.run(["sh", "-c", "cat; echo oh >&2; exit 3"], stdin=b"in\n")
    assert (result.status, result.out, result.err) == (3, "in\n", "oh\n")
    assert node.run(["sleep", "20"], timeout=0.5).status == 124
    with pytest.raises(NodeError, match="No such file"):
        node.read_file("/nowhere")


def test_some_megabytes_go_in_and_out_unchanged(node: VirtualNode) -> None:
    content = bytes(range(256)) * 4096 * 4
    node.write_file("/tmp/big", content, mode=0o600)
    assert node.read_file("/tmp/big") == content
    assert node.must(["stat", "-c", "%a", "/tmp/big"]).strip() == "600"


def test_waiting_ends_at_the_deadline_and_shows_the_last_value_and_the_serial_port(node: VirtualNode) -> None:
    node.sh("echo a last word >/dev/ttyS0")
    node.wait_for_serial("a last word", timeout=10)
    with pytest.raises(NoAnswer, match=r"(?s)pigs fly \(last: ''\).*a last word"):
        node.wait_for("pigs fly", lambda: "", timeout=0.5)


def test_qemu_goes_with_a_test_that_is_killed(disk: str, tmp_path: Path) -> None:
    code = "import sys, time; from qemu.harness import VirtualNode\n"
    code += "node = VirtualNode(sys.argv[1], work=sys.argv[2], wait_until_up=False)\n"
    code += "with node: print(node.pid, flush=True); time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code, disk, str(tmp_path)], stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert runs(pid)
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while runs(pid):
        assert time.monotonic() < deadline, f"QEMU {pid} outlived the process that started it"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether the process still runs. What ended counts as gone also where nobody collects orphans."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
