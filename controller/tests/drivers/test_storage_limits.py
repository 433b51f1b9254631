"""The limit of a sliver's disk, in a real kernel: it holds on both sides."""

import fcntl
import io
import os
import signal
import subprocess
import time

import pytest

from confine.drivers import images, loops, mounts
from confine.errors import StepError
from tests.drivers.storage_bench import MIB, device_of, fill
from tests.drivers.storage_support import (
    needs_root,
)

pytestmark = [pytest.mark.root, needs_root]


def test_the_image_is_allocated_in_full_and_stays_so_through_mkfs(bench):
    bench.storage.allocate(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    bench.storage.format(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    assert os.path.getsize(bench.image()) == 16 * MIB


def test_holes_that_mkfs_punched_are_filled_again(bench, monkeypatch):
    monkeypatch.setattr(images, "MKFS", images.MKFS[:-2])  # with discards
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB


def test_an_mkfs_that_outlives_its_daemon_is_waited_for_not_run_twice(bench, monkeypatch):
    runs = bench.place / "runs"
    slow = 'echo run >>{}; sleep 1; exec mkfs.ext4 -q -F "$1"'.format(runs)
    monkeypatch.setattr(images, "MKFS", ("sh", "-c", slow, "mkfs"))
    bench.storage.allocate(bench.step())
    daemon = os.fork()
    if daemon == 0:
        bench.storage.format(bench.step())
        os._exit(0)
    deadline = time.monotonic() + 10
    while not runs.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    bench.storage.format(bench.step())
    assert runs.read_text() == "run\n"
    subprocess.run(["e2fsck", "-f", "-n", bench.image()], check=True, capture_output=True)


def renew_free_loop_devices():
    """Free loop devices remember that they were told to refuse discards: make them anew (LOOP_CTL_REMOVE and _ADD)."""
    with open(loops.CONTROL, "rb") as control:
        for name in os.listdir("/sys/block"):
            if name.startswith("loop") and loops.backing_file(device_of(name)) is None:
                try:
                    fcntl.ioctl(control, 0x4C81, int(name[4:]))
                    fcntl.ioctl(control, 0x4C80, int(name[4:]))
                except OSError:
                    pass  # somebody uses it by now


def test_a_slivers_file_system_never_gives_blocks_back_to_the_node(bench):
    renew_free_loop_devices()
    bench.up(disk_mib=64)
    disk = bench.root().replace("/root", "/disk")
    assert subprocess.run(["fstrim", disk], capture_output=True, check=False).returncode != 0
    handle = os.open(bench.root(1, "file"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(handle, 0, 30 * MIB)
    for offset in range(0, 30 * MIB, MIB):  # ext4 writes zeros around each of these
        os.pwrite(handle, b"x" * 4096, offset)
        os.fsync(handle)
    os.close(handle)
    os.unlink(bench.root(1, "file"))
    bench.storage.unmount(bench.step())
    assert os.stat(bench.image()).st_blocks * 512 >= 64 * MIB


def test_a_loop_device_that_would_give_blocks_back_is_not_used(bench, monkeypatch):
    bench.storage.allocate(bench.step())
    monkeypatch.setattr(loops, "open", lambda path, *mode: io.StringIO("4294966784"), raising=False)
    with pytest.raises(StepError, match="would give blocks of its file back"):
        loops.attach(bench.image(), readonly=False)


def test_a_file_system_that_only_pretends_to_allocate_is_refused(bench, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda handle, offset, size: os.ftruncate(handle, size))
    with pytest.raises(StepError, match="really allocated"):
        bench.storage.allocate(bench.step())
    assert bench.observe().allocation is None
    assert not os.path.exists(bench.image())


def data_partition(bench, size_mib):
    """An ext4 of its own as the data partition, so that it can be filled; the cache moves along."""
    image, point = str(bench.place / "partition.img"), str(bench.place / "data")
    with open(image, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_mib * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", image], check=True, capture_output=True)
    os.rename(point, point + ".before")
    os.mkdir(point)
    mounts.mount_image(image, point, "ext4", readonly=False)
    subprocess.run(["cp", "-a", point + ".before/.", point], check=True)


def test_with_the_data_partition_full_every_sliver_still_writes_up_to_its_limit(bench):
    data_partition(bench, 96)
    for nr in (1, 2):
        bench.up(nr)
    fill(bench.paths.data + "/hog")
    assert os.statvfs(bench.paths.data).f_bavail * 4096 < MIB
    for nr in (1, 2):
        written = fill(bench.root(nr, "all"))
        assert 8 * MIB < written < 16 * MIB
        with open(bench.root(nr, "all"), "rb") as file:
            assert file.read() == b"x" * written
    for nr in (1, 2):  # what was acknowledged is really on the disk
        bench.storage.unmount(bench.step(nr))
        bench.storage.mount(bench.step(nr))
        with open(bench.root(nr, "all"), "rb") as file:
            assert file.read().count(b"x") > 8 * MIB


def test_a_sliver_that_fills_its_disk_takes_nothing_from_the_node_or_its_neighbour(bench):
    data_partition(bench, 64)
    for nr in (1, 2):
        bench.up(nr)
    before = os.statvfs(bench.paths.data).f_bavail * 4096
    assert fill(bench.root(1, "all")) < 16 * MIB
    os.sync()
    assert abs(os.statvfs(bench.paths.data).f_bavail * 4096 - before) < 4 * MIB
    with open(bench.root(2, "fine"), "wb") as file:
        file.write(bytes(4 * MIB))


def test_no_room_for_a_disk_says_how_much_is_missing_and_leaves_nothing(bench):
    data_partition(bench, 32)
    with pytest.raises(StepError, match=r"no room for a disk of 64 MiB: \d+\.\d MiB are missing"):
        bench.storage.allocate(bench.step(disk_mib=64))
    assert not os.path.exists(bench.image())
    assert bench.observe().allocation is None


def test_a_deployed_sliver_is_mounted_again_on_a_full_data_partition(bench):
    data_partition(bench, 48)
    step = bench.up()
    bench.storage.unmount(step)
    fill(bench.paths.data + "/hog")
    bench.storage.mount(step)
    assert bench.observe().mounted


def test_another_size_needs_the_sliver_removed_first_and_loses_nothing(bench):
    bench.up()
    with pytest.raises(StepError, match="cannot become 33554432: the sliver has to be removed first"):
        bench.storage.allocate(bench.step(disk_mib=32))
    assert bench.observe().deployment is not None
