"""Each limit, exceeded by sliver 1 on a virtual node while sliver 2 stays unharmed."""

from __future__ import annotations

import pytest

from qemu.sliver_node import SliverNode

MIB = 1024 * 1024
# A sliver's own file system takes a little of its disk, and CPU shares are measured on an emulated processor.
TOLERANCE = 1.35


def neighbour_is_unharmed(slivers: SliverNode) -> None:
    """Sliver 2 still runs, under its own limits, can fork, write, flush, and was never refused anything."""
    assert slivers.must(2, "dd if=/dev/zero of=/root/w bs=1M count=2 conv=fsync 2>/dev/null; cat /root/w | wc -c") == (
        f"{2 * MIB}\n"
    )
    found = slivers.drive(observe=(2,))
    assert found["observed"]["2"]["limits_held"] is True
    usage = found["usage"]["2"]
    assert usage["oom_kills"] == usage["pids_refused"] == 0


def test_every_limit_asked_for_stands_in_the_kernel(slivers: SliverNode) -> None:
    slivers.set_limits(1, memory_mib=40, cpu_percent=50, cpu_weight=200, pids=33, io_mib_s=2, io_ops=100)
    read = slivers.node.sh(
        f"cd {slivers.cgroup(1)}; cat memory.max memory.swap.max cpu.max cpu.weight pids.max; sort io.max"
    ).splitlines()
    assert read[:5] == [str(40 * MIB), "0", "50000 100000", "200", "33"]
    own, template = slivers.devices(1)
    assert sorted(read[5:]) == sorted(
        [
            f"{own} rbps={2 * MIB} wbps={2 * MIB} riops=100 wiops=100",
            f"{template} rbps={2 * MIB} wbps=max riops=100 wiops=max",
        ]
    )


def test_a_limit_that_was_changed_behind_our_back_is_noticed(slivers: SliverNode) -> None:
    assert slivers.observed(1)["limits_held"] is True
    slivers.node.sh(f"echo max >{slivers.cgroup(1)}/pids.max")
    assert slivers.observed(1)["limits_held"] is False
    assert "pids.max" in slivers.try_drive(("limits", "verify", 1))["error"]


def test_limits_change_while_the_sliver_runs(slivers: SliverNode) -> None:
    init = slivers.init(1)
    slivers.set_limits(1, memory_mib=32, pids=20)
    assert slivers.node.sh(f"cat {slivers.cgroup(1)}/memory.max").strip() == str(32 * MIB)
    assert slivers.init(1) == init


def test_too_much_memory_kills_inside_the_sliver_only(slivers: SliverNode) -> None:
    result = slivers.run(1, "dd if=/dev/zero of=/dev/null bs=100M count=1; echo status $?", timeout=60)
    assert "status 137" in result.out
    assert slivers.usage(1)["oom_kills"] >= 1
    assert slivers.must(1, "echo alive") == "alive\n"
    neighbour_is_unharmed(slivers)


def test_files_in_memory_count_as_memory(slivers: SliverNode) -> None:
    assert slivers.run(1, "dd if=/dev/zero of=/dev/shm/a bs=64k 2>&1").status != 0  # full before the memory is
    usage = slivers.usage(1)
    assert 12 * MIB <= usage["memory_bytes"] <= 48 * MIB
    assert usage["oom_kills"] == 0
    assert (
        "status 137" in slivers.run(1, "dd if=/dev/zero of=/dev/null bs=100M count=1; echo status $?", timeout=60).out
    )
    neighbour_is_unharmed(slivers)


def test_a_sliver_never_swaps(slivers: SliverNode) -> None:
    slivers.node.sh("dd if=/dev/zero of=/srv/swap bs=1M count=64 2>/dev/null; chmod 600 /srv/swap")
    slivers.node.sh("mkswap /srv/swap >/dev/null && swapon /srv/swap")
    assert (
        "status 137" in slivers.run(1, "dd if=/dev/zero of=/dev/null bs=100M count=1; echo status $?", timeout=60).out
    )
    assert (
        slivers.node.sh(f"cat {slivers.cgroup(1)}/memory.swap.current {slivers.cgroup(1)}/memory.swap.max") == "0\n0\n"
    )


def test_a_fork_bomb_stays_in_its_sliver(slivers: SliverNode) -> None:
    slivers.background(1, "b() { b | b & }; b")
    slivers.node.wait_for("forks are refused", lambda: slivers.usage(1)["pids_refused"] > 20, 60)
    assert slivers.usage(1)["pids"] <= 64
    neighbour_is_unharmed(slivers)
    slivers.drive(("containers", "stop", 1))
    assert not slivers.observed(1)["running"]


def test_a_cpu_limit_holds_for_a_sliver_that_has_the_cpu_for_itself(slivers: SliverNode) -> None:
    slivers.set_limits(1, cpu_percent=20)
    slivers.background(1, "while :; do :; done")
    before = slivers.usage(1)["cpu_usec"]
    elapsed = slivers.seconds(2, "sleep 4")
    used = (slivers.usage(1)["cpu_usec"] - before) / 1e6
    assert 0.05 * elapsed < used < 0.20 * TOLERANCE * (elapsed + 2)
    assert slivers.usage(1)["cpu_throttled_usec"] > 0


def cpu_shares(slivers: SliverNode, hogs: dict[int, int]) -> float:
    """Sliver 2's share of the CPU time of both, with that many busy loops in each sliver."""
    for nr, count in hogs.items():
        slivers.background(nr, "while :; do :; done & " * count + "wait")
    slivers.node.wait_for("both are busy", lambda: slivers.usage(2)["pids"] > 1 + hogs[2], 20)
    before = [slivers.usage(nr)["cpu_usec"] for nr in (1, 2)]
    slivers.node.must(["sleep", "4"])
    first, second = (slivers.usage(nr)["cpu_usec"] - earlier for nr, earlier in zip((1, 2), before, strict=True))
    return float(second / (first + second))


def test_a_cpu_hog_leaves_its_neighbour_its_share(slivers: SliverNode) -> None:
    # Half for each, whatever the number of processes.
    assert 0.4 < cpu_shares(slivers, {1: 6, 2: 1}) < 0.6


def test_a_sliver_of_more_weight_gets_more_of_the_cpu(slivers: SliverNode) -> None:
    slivers.set_limits(1, cpu_weight=300)
    assert 0.17 < cpu_shares(slivers, {1: 1, 2: 1}) < 0.33


@pytest.mark.parametrize("flags", ["oflag=direct", "conv=fsync"])
def test_writes_keep_to_their_rate(slivers: SliverNode, flags: str) -> None:
    write = f"dd if=/dev/zero of=/root/f bs=512k count=16 {flags} 2>/dev/null"
    unlimited = slivers.seconds(1, write)
    slivers.set_limits(1, io_mib_s=1)
    limited = slivers.seconds(1, write)
    assert limited > 8 / TOLERANCE  # 8 MiB at 1 MiB/s
    assert limited > 2 * unlimited
    assert limited < 8 * 2
    neighbour_is_unharmed(slivers)


def test_reads_keep_to_their_rate(slivers: SliverNode) -> None:
    slivers.must(1, "dd if=/dev/zero of=/root/f bs=512k count=12 conv=fsync 2>/dev/null")
    slivers.set_limits(1, io_mib_s=1)
    slivers.node.sh("echo 3 >/proc/sys/vm/drop_caches")
    assert slivers.seconds(1, "cat /root/f >/dev/null") > 6 / TOLERANCE


def test_a_neighbour_writes_at_full_rate_beside_a_limited_sliver(slivers: SliverNode) -> None:
    write = "dd if=/dev/zero of=/root/g bs=512k count=8 conv=fsync 2>/dev/null"
    alone = slivers.seconds(2, write)
    slivers.set_limits(1, io_mib_s=1)
    slivers.background(1, "while :; do dd if=/dev/zero of=/root/f bs=512k count=16 conv=fsync 2>/dev/null; done")
    slivers.node.must(["sleep", "2"])
    assert slivers.seconds(2, write) < alone * 3 + 1.5


def test_operations_keep_to_their_rate(slivers: SliverNode) -> None:
    slivers.set_limits(1, io_ops=20)
    assert slivers.seconds(1, "dd if=/dev/zero of=/root/f bs=4k count=120 oflag=direct 2>/dev/null") > 6 / TOLERANCE


def test_a_full_disk_is_the_slivers_own(slivers: SliverNode) -> None:
    before = slivers.node.sh("df -k /srv | tail -1").split()[3]
    result = slivers.run(1, "dd if=/dev/zero of=/root/all bs=64k conv=fsync", timeout=60)
    assert result.status != 0
    assert "No space left" in result.err
    written = int(slivers.must(1, "wc -c </root/all"))
    assert 24 * MIB / TOLERANCE < written < 24 * MIB
    assert slivers.node.sh("df -k /srv | tail -1").split()[3] == before
    neighbour_is_unharmed(slivers)


def test_a_sliver_writes_up_to_its_limit_though_the_nodes_disk_is_full(slivers: SliverNode) -> None:
    slivers.node.sh("fallocate -l $(($(df -k /srv | tail -1 | awk '{print $4}') - 4096))k /srv/filler", timeout=60)
    slivers.node.run(["sh", "-c", "dd if=/dev/zero of=/srv/rest bs=64k"], timeout=60)
    assert int(slivers.node.sh("df -k /srv | tail -1").split()[3]) < 1024
    slivers.must(2, "dd if=/dev/zero of=/root/w bs=1M count=16 conv=fsync 2>/dev/null", timeout=60)


def test_a_sliver_cannot_lift_its_own_limits(slivers: SliverNode) -> None:
    slivers.drive(("containers", "stop", 1))
    slivers.type = "debian"  # the type that sees its cgroup
    slivers.drive(("containers", "start", 1), ("limits", "verify", 1))
    assert slivers.must(1, "cat /proc/1/cgroup") == "0::/\n"
    assert "cgroup.procs" in slivers.must(1, "ls /sys/fs/cgroup")
    for file in ("memory.max", "pids.max", "cpu.max"):
        slivers.run(1, f"echo max >/sys/fs/cgroup/{file}; echo max >/sys/fs/cgroup/../{file}")
    assert slivers.observed(1)["limits_held"] is True
    assert (
        "status 137" in slivers.run(1, "dd if=/dev/zero of=/dev/null bs=100M count=1; echo status $?", timeout=60).out
    )
