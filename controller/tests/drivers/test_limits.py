"""Which files a sliver's limits are written to, how they are compared, and what a cgroup tree shows."""

import os

import pytest

from confine.core.model import MIB, Limits, SliverObserved, Step
from confine.drivers import cgroups, limits
from confine.drivers.limits import Device, LimitsDriver, same
from confine.errors import StepError
from confine.paths import Paths

NAME = "00000000000a_0012"


def asked(**changes):
    values = {"memory_mib": 64, "disk_mib": 128, "cpu_percent": None, "cpu_weight": 100, "pids": 512,
              "io_mib_s": None, "io_ops": None}  # fmt: skip
    return Limits(**{**values, **changes})


class Target:
    """As much of a sliver's target as the driver reads."""

    def __init__(self, wanted):
        self.limits = wanted


def step(verb, wanted):
    return Step("limits", verb, NAME, "test", Target(wanted))


@pytest.fixture
def tree(tmp_path):
    """A directory that looks like a cgroup tree with our sliver in it; what is written to it can be read back."""
    sliver = tmp_path / "confine" / NAME
    sliver.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for directory in (tmp_path, tmp_path / "confine"):
        (directory / "cgroup.subtree_control").write_text("cpu io memory pids\n")
    for file in ("memory.max", "memory.swap.max", "pids.max", "cgroup.max.descendants", "cpu.max", "cpu.weight"):
        (sliver / file).write_text("")
    return tmp_path


def driver_on(tree):
    return LimitsDriver(Paths(run=str(tree / "run"), cgroup=str(tree)))


def test_memory_comes_without_swap_and_with_a_bound_on_cgroups():
    assert limits.settings(asked()) == [
        ("memory.swap.max", "0"),
        ("memory.max", str(64 * MIB)),
        ("pids.max", "512"),
        ("cgroup.max.descendants", "512"),
    ]


@pytest.mark.parametrize("percent,expected", [(50, "50000 100000"), (100, "100000 100000"), (250, "250000 100000")])
def test_cpu_percent_is_of_one_processor(percent, expected):
    assert ("cpu.max", expected) in limits.settings(asked(cpu_percent=percent))


def test_a_weight_alone_leaves_cpu_time_unlimited():
    wanted = limits.settings(asked(cpu_weight=300))
    assert ("cpu.max", "max 100000") in wanted
    assert ("cpu.weight", "300") in wanted


def test_only_controllers_that_are_asked_for_are_needed():
    assert limits.controllers(asked()) == ["memory", "pids"]
    assert limits.controllers(asked(cpu_percent=10, io_ops=5)) == ["memory", "pids", "cpu", "io"]


def test_io_limits_count_reads_and_writes_each_and_only_reads_of_a_template():
    wanted = asked(io_mib_s=3, io_ops=40)
    rate = str(3 * MIB)
    assert limits.io_line(wanted, Device("7:0", writes=True)) == {
        "rbps": rate, "wbps": rate, "riops": "40", "wiops": "40",
    }  # fmt: skip
    assert limits.io_line(wanted, Device("7:1", writes=False)) == {
        "rbps": rate, "wbps": "max", "riops": "40", "wiops": "max",
    }  # fmt: skip
    assert limits.io_line(asked(io_ops=7), Device("7:0", writes=True))["rbps"] == "max"


def test_io_max_of_the_kernel_is_understood():
    text = "7:0 rbps=max wbps=1048576 riops=max wiops=max\n254:16 rbps=1 wbps=2 riops=3 wiops=4\n"
    assert limits.parse_io_max(text)["7:0"]["wbps"] == "1048576"
    assert limits.parse_io_max(text)["254:16"] == {"rbps": "1", "wbps": "2", "riops": "3", "wiops": "4"}
    assert limits.parse_io_max("") == {}


def test_the_kernel_may_round_sizes_down_to_a_page_and_nothing_else():
    page = os.sysconf("SC_PAGE_SIZE")
    assert same(str(10 * MIB + 1), str(10 * MIB))
    assert not same(str(10 * MIB), str(10 * MIB + page))
    assert not same(str(10 * MIB), str(10 * MIB - page))
    assert not same("512", "511")
    assert not same(str(10 * MIB), "max")
    assert not same("0", None)


def test_applying_writes_every_limit_and_reads_it_back(tree):
    driver_on(tree).apply(step("apply", asked(cpu_percent=50)))
    sliver = tree / "confine" / NAME
    assert (sliver / "memory.max").read_text() == str(64 * MIB)
    assert (sliver / "memory.swap.max").read_text() == "0"
    assert (sliver / "cpu.max").read_text() == "50000 100000"


def test_a_kernel_without_a_needed_controller_is_a_failed_step_that_names_it(tree):
    (tree / "cgroup.controllers").write_text("memory pids\n")
    with pytest.raises(StepError, match="controller cpu and io"):
        driver_on(tree).apply(step("apply", asked(cpu_percent=5, io_ops=5)))


def test_a_kernel_that_swallows_a_limit_is_a_failed_step_that_says_what_it_has(tree):
    (tree / "confine" / NAME / "pids.max").unlink()
    (tree / "confine" / NAME / "pids.max").symlink_to("/dev/null")
    with pytest.raises(StepError, match=r"pids\.max .* asked for 512, the kernel has"):
        driver_on(tree).apply(step("apply", asked()))


def test_an_io_limit_for_a_disk_that_is_not_mounted_is_a_failed_step(tree):
    with pytest.raises(StepError, match="not mounted"):
        driver_on(tree).apply(step("apply", asked(io_mib_s=1)))


def test_verifying_a_sliver_that_does_not_run_is_a_failed_step(tree):
    with pytest.raises(StepError, match="no running init"):
        driver_on(tree).verify(step("verify", asked()))


def test_a_cgroup_without_processes_is_limited_and_not_running(tree):
    found = SliverObserved(NAME, allocation={"limits": asked().as_doc()})
    driver_on(tree).observe(found)
    assert (found.limited, found.running, found.limits_held, found.init_pid) == (True, False, None, None)


def test_a_monitor_that_was_left_behind_is_something_to_take_down(tree):
    other = "00000000000b_0012"
    (tree / "confine-monitor" / other).mkdir(parents=True)
    driver = driver_on(tree)
    found = SliverObserved(other)
    driver.observe(found)
    assert found.limited
    assert driver.names() == [NAME, other]


def test_a_sliver_without_any_cgroup_shows_nothing(tree):
    found = SliverObserved("00000000000c_0012")
    driver_on(tree).observe(found)
    assert (found.limited, found.running) == (False, False)


def test_removing_what_is_not_there_is_no_error(tree):
    driver_on(tree).remove(Step("limits", "remove", "00000000000c_0012", "test"))


def test_usage_gives_what_the_kernel_counts_and_leaves_out_what_it_does_not(tree):
    sliver = tree / "confine" / NAME
    (sliver / "memory.current").write_text("4096\n")
    (sliver / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\nthrottled_usec 7\n")
    (sliver / "memory.events").write_text("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\n")
    (sliver / "pids.current").write_text("3\n")
    (sliver / "pids.events").write_text("max 0\n")
    (sliver / "sliver").mkdir()
    (sliver / "sliver" / "pids.events").write_text("max 9\n")  # where Linux before 6.11 counts them
    assert driver_on(tree).usage(NAME) == {
        "memory_bytes": 4096, "cpu_usec": 1500, "cpu_throttled_usec": 7, "pids": 3, "oom_kills": 1, "memory_full": 5,
        "pids_refused": 9, "read_bytes": 0, "write_bytes": 0,
    }  # fmt: skip


def test_no_process_of_this_machine_is_taken_for_a_slivers_init():
    assert not cgroups.is_init(os.getpid())
    assert not cgroups.is_init(2**22 + 1)


def test_a_directory_where_nothing_is_mounted_has_no_block_device(tmp_path):
    (tmp_path / "disk").mkdir()
    assert limits.block_device(str(tmp_path / "disk")) is None
    assert limits.block_device(str(tmp_path / "missing")) is None
