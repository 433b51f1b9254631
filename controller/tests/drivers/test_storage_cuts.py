"""Slivers' disks and roots: cut off anywhere, the next process finds all and goes on."""

import os

import pytest

from confine.drivers import images, layers, mounts, storage, syscalls
from confine.drivers.storage import Storage
from tests.drivers.storage_bench import KEY, MIB, TEMPLATE, Bench
from tests.drivers.storage_support import (
    archive_of,
    directory,
    member,
    needs_root,
)

pytestmark = [pytest.mark.root, needs_root]


# ---- cut off ---------------------------------------------------------------------------------------------------------

CALLS = (
    (images, "fill"), (images, "make_file_system"), (mounts, "mount_tree"), (mounts, "mount_image"),
    (mounts, "mount_idmapped"), (mounts, "mount_overlay"), (mounts, "unmount"), (syscalls, "syncfs"),
    (storage.durable, "write_json"), (storage.durable, "remove"), (layers, "_remove_empty"),
)  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test catches it."""


def killed_at(monkeypatch, count, after):
    """Make the `count`-th call of CALLS the last one: the process is gone before, or after it was done."""
    left = [count]
    for module, name in CALLS:
        real = getattr(module, name)

        def call(*args, real=real, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            result = real(*args, **kwargs)
            if left[0] == 0:
                raise Killed
            return result

        monkeypatch.setattr(module, name, call)
    return left


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_on_the_way_up_or_down_a_fresh_process_finds_all_and_cleans_it(private_mounts, after):
    template = TEMPLATE
    cuts = 0
    while True:
        place = private_mounts / str(cuts)
        bench = Bench(place, template)
        cuts += 1
        with pytest.MonkeyPatch.context() as patch:
            left = killed_at(patch, cuts, after)
            try:
                bench.up()
                for verb in ("unmount", "undeploy", "remove"):
                    getattr(bench.storage, verb)(bench.step())
            except Killed:
                pass
        if left[0] > 0:
            break
        again = Storage(bench.paths, bench.cache, lambda: "")
        again.snapshot()
        if again.observe(bench.step().subject).allocation is not None:
            assert os.path.getsize(bench.image()) == 16 * MIB, "cut {}: allocated without a disk".format(cuts)
        if bench.traces():
            assert again.names() == [bench.step().subject], "cut {}: {}".format(cuts, bench.traces())
        for verb in ("unmount", "undeploy", "remove"):
            getattr(again, verb)(bench.step())
        assert bench.traces() == [], "cut {}".format(cuts)
    assert cuts > 15


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_on_the_way_up_a_fresh_process_brings_the_sliver_up(private_mounts, after):
    cuts = 0
    while True:
        bench = Bench(private_mounts / str(cuts))
        cuts += 1
        with pytest.MonkeyPatch.context() as patch:
            left = killed_at(patch, cuts, after)
            try:
                bench.up()
            except Killed:
                pass
        if left[0] > 0:
            break
        bench.storage = Storage(bench.paths, bench.cache, lambda: "nameserver 192.168.241.126\n")
        found = bench.observe()
        if found.formatted and found.deployment is None:
            bench.storage.undeploy(bench.step())  # as the plan has it
        bench.up()
        assert bench.observe().deployment is not None, "cut {}".format(cuts)
        assert bench.read("root", ".ssh", "authorized_keys") == KEY + "\n"
        bench.storage.remove(bench.step())
        assert bench.traces() == []
    assert cuts > 8


def test_layers_of_another_life_are_taken_down_before_new_ones_are_mounted(bench):
    bench.up()
    other = archive_of(directory("etc"), member("etc/other", b"new"))
    bench.template = bench.have(other)
    bench.cache.unpack_template(bench.step())
    bench.storage.mount(bench.step())
    assert bench.read("etc", "other") == "new"
    assert not os.path.exists(bench.root(1, "bin"))
