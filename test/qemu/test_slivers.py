"""Slivers are started, confined and stopped by the real drivers on a virtual node."""

from __future__ import annotations

import pytest

from qemu.sliver_node import SliverNode

ID_BASE = 0x1000000
EPERM, ENOSYS, EAFNOSUPPORT = "1", "38", "97"
REFUSED = {
    "kexec_load": EPERM, "kexec_file_load": EPERM, "init_module": EPERM, "finit_module": EPERM, "delete_module": EPERM,
    "mount": EPERM, "umount": EPERM, "fsopen": EPERM, "move_mount": EPERM, "pivot_root": EPERM, "mknod_char": EPERM,
    "mknod_block": EPERM, "open_by_handle_at": EPERM, "bpf": EPERM, "perf_event_open": EPERM, "keyctl": ENOSYS,
    "io_uring_setup": ENOSYS, "userfaultfd": EPERM, "syslog": EPERM, "settimeofday": EPERM, "unshare_user": EPERM,
    "unshare_mounts": EPERM, "clone3": ENOSYS, "socket_alg": EAFNOSUPPORT, "socket_vsock": EAFNOSUPPORT,
    "set_hostname": EPERM,
}  # fmt: skip


def test_each_sliver_runs_in_an_id_range_of_its_own(slivers: SliverNode) -> None:
    for nr in (1, 2):
        base = ID_BASE + nr * 0x10000
        status = slivers.status(slivers.init(nr))
        assert status["Uid"].split() == status["Gid"].split() == [str(base)] * 4
        uid_map = slivers.node.read_file(f"/proc/{slivers.init(nr)}/uid_map").split()
        assert uid_map == [b"0", str(base).encode(), b"65536"]


def test_a_sliver_is_refused_what_would_reach_beyond_it(slivers: SliverNode) -> None:
    found = dict(line.split("=") for line in slivers.must(1, "probe").splitlines())
    assert {name: found[name] for name in REFUSED} == REFUSED
    assert found["mknod_fifo"] == found["socket_inet"] == "0"


def test_a_sliver_holds_no_capability_but_the_declared_ones(slivers: SliverNode) -> None:
    status = slivers.status(slivers.init(1))
    assert status["Seccomp"] == "2"
    bounding = int(status["CapBnd"], 16)
    assert bounding == int(status["CapEff"], 16)
    for sys_module, sys_rawio, sys_admin, mknod, sys_ptrace in [(16, 17, 21, 27, 19)]:
        assert not bounding & sum(1 << bit for bit in (sys_module, sys_rawio, sys_admin, mknod, sys_ptrace))


def test_a_sliver_sees_only_its_own_processes(slivers: SliverNode) -> None:
    pids = slivers.must(1, "cd /proc; echo [0-9]*").split()
    commands = slivers.must(1, "ps")
    assert len(pids) < 8
    assert "dnsmasq" not in commands
    assert "python3" not in commands


def test_the_nodes_devices_and_settings_are_out_of_reach(slivers: SliverNode) -> None:
    assert slivers.run(1, "ls /dev/vda*").status != 0
    assert slivers.run(1, "echo 1 >/proc/sys/kernel/panic").status != 0
    assert slivers.run(1, "echo b >/proc/sysrq-trigger").status != 0
    assert slivers.run(1, "echo x >/sys/kernel/uevent_helper").status != 0


def test_starting_twice_gives_one_container(slivers: SliverNode) -> None:
    init = slivers.init(1)
    slivers.drive(("containers", "start", 1))
    assert slivers.init(1) == init
    monitors = slivers.node.sh("cat /sys/fs/cgroup/confine-monitor/*1_0012/cgroup.procs").split()
    assert len(monitors) == 1


def test_an_orderly_stop_lets_init_halt_and_leaves_nothing(slivers: SliverNode) -> None:
    slivers.drive(("containers", "stop", 1), ("limits", "remove", 1))
    assert "halting" in slivers.node.read_file(f"/srv/confine/slivers/{slivers.name(1)}/console.log").decode()
    places = "/sys/fs/cgroup/confine /sys/fs/cgroup/confine-monitor /sys/class/net /run/confine/lxc"
    left = slivers.node.sh(f"ls {places}; ps")
    assert slivers.name(1) not in left
    assert "slv-01-00" not in left
    assert slivers.observed(2)["running"]


def test_stopping_what_is_stopped_does_nothing(slivers: SliverNode) -> None:
    steps = (("containers", "stop", 1), ("limits", "remove", 1))
    slivers.drive(*steps)
    assert sum(slivers.drive(*steps)["seconds"]) < 1


def test_a_sliver_that_ignores_signals_is_stopped_in_time(slivers: SliverNode) -> None:
    script = "#!/bin/sh\ntrap '' PWR TERM INT HUP USR1 USR2\nwhile :; do sleep 1; done\n"
    slivers.drive(("containers", "stop", 1))
    slivers.node.write_file(f"/run/confine/mounts/slivers/{slivers.name(1)}/root/sbin/init", script, 0o755)
    slivers.drive(("containers", "start", 1))
    assert slivers.drive(("containers", "stop", 1))["seconds"][0] < 14
    assert not slivers.observed(1)["running"]


def test_a_stopped_sliver_starts_again_with_what_it_wrote(slivers: SliverNode) -> None:
    slivers.must(1, "echo kept >/root/kept")
    slivers.drive(("containers", "stop", 1), ("containers", "start", 1), ("limits", "verify", 1))
    assert slivers.must(1, "cat /root/kept") == "kept\n"


def test_a_sliver_whose_monitor_was_killed_comes_back(slivers: SliverNode) -> None:
    slivers.node.sh("kill -9 $(cat /sys/fs/cgroup/confine-monitor/*1_0012/cgroup.procs)")
    slivers.drive(("limits", "apply", 1), ("containers", "start", 1), ("limits", "verify", 1))
    assert slivers.observed(1)["limits_held"]
    assert slivers.must(1, "echo back") == "back\n"


def test_a_sliver_whose_init_was_killed_is_seen_as_stopped_and_comes_back(slivers: SliverNode) -> None:
    slivers.node.sh(f"kill -9 {slivers.init(1)}")
    slivers.node.wait_for("the sliver is gone", lambda: not slivers.observed(1)["running"], 10)
    slivers.drive(("limits", "apply", 1), ("containers", "start", 1), ("limits", "verify", 1))
    assert slivers.must(1, "echo back") == "back\n"


def test_a_sliver_that_restarts_itself_keeps_its_limits_and_its_isolation(slivers: SliverNode) -> None:
    before = slivers.init(1)
    slivers.run(1, "reboot")
    slivers.node.wait_for("the sliver has restarted", lambda: slivers.observed(1)["init_pid"] not in (None, before), 20)
    slivers.drive(("containers", "start", 1), ("limits", "verify", 1))
    assert slivers.node.read_file("/sys/class/net/slv-01-00/brport/isolated") == b"1\n"


def test_a_start_that_was_cut_off_leaves_nothing_that_the_next_one_minds(slivers: SliverNode) -> None:
    slivers.drive(("containers", "stop", 1))
    slivers.node.sh(f"mkdir -p {slivers.cgroup(1)}/sliver/deep /sys/fs/cgroup/confine-monitor/{slivers.name(1)}")
    slivers.drive(("containers", "start", 1), ("limits", "verify", 1))


def test_no_sliver_is_started_without_its_limits(slivers: SliverNode) -> None:
    slivers.drive(("containers", "stop", 1), ("limits", "remove", 1))
    assert "no cgroup with limits" in slivers.try_drive(("containers", "start", 1))["error"]
    assert not slivers.observed(1)["running"]


def test_a_root_that_has_no_init_is_a_failed_start_that_says_why(slivers: SliverNode) -> None:
    slivers.drive(("containers", "stop", 1))
    slivers.node.sh(f"rm /run/confine/mounts/slivers/{slivers.name(1)}/root/sbin/init")
    error = slivers.try_drive(("containers", "start", 1))["error"]
    assert "containers start 1" in error
    assert "/sbin/init" in error
    assert slivers.node.sh("ls -d /sys/fs/cgroup/confine-monitor/*/").split("/")[-2] == slivers.name(2)


def test_the_console_log_is_bounded(slivers: SliverNode) -> None:
    slivers.must(1, "yes 'a line for the console' | head -c 400000 >/dev/console", timeout=60)
    directory = f"/srv/confine/slivers/{slivers.name(1)}"
    sizes = slivers.node.sh(f"stat -c %s {directory}/console.log*").split()
    assert 1 <= len(sizes) <= 2
    assert all(int(size) <= 65536 for size in sizes)
    assert sum(int(size) for size in sizes) > 50000


@pytest.mark.parametrize("kind", ["debian", "openwrt"])
def test_each_type_of_template_starts_and_halts(slivers: SliverNode, kind: str) -> None:
    slivers.drive(("containers", "stop", 1))
    slivers.type = kind
    slivers.drive(("containers", "start", 1), ("limits", "verify", 1))
    assert "tmpfs /tmp " in slivers.must(1, "cat /proc/mounts")
    assert slivers.drive(("containers", "stop", 1))["seconds"][0] < 9


def test_observing_is_cheap(slivers: SliverNode) -> None:
    script = """
import sys, time
from confine.core.model import SliverObserved
from confine.drivers.limits import LimitsDriver
from confine.paths import Paths
driver = LimitsDriver(Paths())
limits = dict(memory_mib=48, disk_mib=24, cpu_percent=None, cpu_weight=100, pids=64, io_mib_s=None, io_ops=None)
def look():
    found = SliverObserved(sys.argv[1], allocation={"limits": limits})
    driver.observe(found)
    return found
assert look().limits_held
began = time.process_time()
for _ in range(32):
    look()
print(time.process_time() - began)
"""
    # Emulated, about twenty times slower than a small board.
    assert float(slivers.node.must(["python3", "-c", script, slivers.name(1)])) < 0.4
