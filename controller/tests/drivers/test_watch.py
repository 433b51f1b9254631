"""The daemon's sleep ends when a sliver ends, by the kernel's own cgroups."""

import os
import subprocess
import time

import pytest

from confine.drivers import cgroups
from confine.drivers.watch import Watch

LONG_S = 60.0


def cgroup2():
    """Where cgroup v2 is mounted and can be written to, or None."""
    with open("/proc/mounts") as file:
        points = [line.split()[1] for line in file if line.split()[2] == "cgroup2"]
    return next((point for point in points if os.access(point, os.W_OK)), None)


@pytest.fixture
def wake():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


@pytest.fixture
def monitor(wake):
    """(watch, process that stands for LXC's monitor of the sliver "a" in a cgroup of the kernel's)."""
    mount = cgroup2()
    if mount is None:
        pytest.skip("no cgroup v2 that can be written to")
    root = os.path.join(mount, f"test-watch-{os.getpid()}")
    place = os.path.join(root, cgroups.MONITORS, "a")
    os.makedirs(place)
    process = subprocess.Popen(["sleep", "600"])
    cgroups.write(os.path.join(place, "cgroup.procs"), str(process.pid))
    watch = Watch(root, wake[0])
    yield watch, process
    watch.close()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            for path in (place, os.path.dirname(place), root):
                if os.path.isdir(path):
                    os.rmdir(path)
            return
        except OSError:
            time.sleep(0.02)


def test_the_end_of_a_sliver_ends_the_sleep(monitor):
    watch, process = monitor
    watch.follow({"a"})
    assert not watch.sleep(0.1)
    process.kill()
    process.wait()
    begun = time.monotonic()
    assert watch.sleep(LONG_S)
    assert time.monotonic() - begun < LONG_S
    assert not watch.sleep(0.05), "it is told once"


def test_a_sliver_that_is_followed_no_more_wakes_nobody(monitor):
    watch, process = monitor
    watch.follow({"a"})
    watch.follow(set())
    process.kill()
    process.wait()
    assert not watch.sleep(0.2)


def test_no_descriptors_are_left_behind(monitor):
    watch, _ = monitor
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        watch.follow({"a"})
        watch.follow({"a"})
        watch.follow(set())
    assert len(os.listdir("/proc/self/fd")) == before


def test_somebody_who_asks_ends_the_sleep_and_slivers_without_a_monitor_are_left_out(tmp_path, wake):
    watch = Watch(str(tmp_path), wake[0])
    watch.follow({"gone"})
    assert not watch.sleep(0.05)
    os.write(wake[1], b".")
    assert watch.sleep(LONG_S)
