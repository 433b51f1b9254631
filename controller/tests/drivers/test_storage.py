"""Slivers' disks and roots in a real kernel: the whole way up and down, and what stands in them."""

import errno
import os
import subprocess

import pytest

from confine import durable
from confine.core import keys
from confine.core.addressing import id_base
from confine.drivers import loops, mounts, syscalls
from confine.errors import StepError
from tests.drivers.storage_bench import KEY, MIB, Bench, owner
from tests.drivers.storage_support import (
    needs_root,
)

pytestmark = [pytest.mark.root, needs_root]


# ---- the way up ------------------------------------------------------------------------------------------------------


def test_each_step_up_is_observed_and_nothing_more(bench):
    step = bench.step()
    seen = []
    for verb in ("allocate", "format", "mount", "populate"):
        getattr(bench.storage, verb)(step)
        found = bench.observe()
        seen.append((found.allocation is not None, found.formatted, found.mounted, found.deployment is not None))
    assert seen == [(True, False, False, False), (True, True, False, False), (True, True, True, False), (True,) * 4]


def test_every_step_up_can_be_done_twice(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w"):
        pass
    before = bench.observe()
    for verb in ("allocate", "format", "mount", "populate", "keys"):
        getattr(bench.storage, verb)(step)
    assert bench.observe() == before
    assert os.path.exists(bench.root(1, "mark"))


def test_a_document_that_changed_damaged_or_went_between_rounds_is_seen(bench):
    step = bench.step()
    bench.storage.allocate(step)
    path = bench.paths.sliver(step.subject, "allocation.json")
    first = bench.observe().allocation
    assert bench.observe().allocation == first
    durable.write_checked(path, {**first, "nr": first["nr"] + 1})  # of the same size
    assert bench.observe().allocation["nr"] == first["nr"] + 1
    with open(path, "w") as file:
        file.write("{")
    assert (bench.observe().allocation, len(bench.observe().damaged)) == ({}, 1)
    os.unlink(path)
    assert (bench.observe().allocation, bench.observe().damaged) == (None, [])
    durable.write_checked(path, first)
    assert bench.observe().allocation == first


def test_the_allocation_says_what_was_set_aside_and_the_deployment_what_was_put_there(bench):
    bench.up(sliver_sn=3, slice_sn=7)
    found = bench.observe()
    allocation = found.allocation
    assert (allocation["key"], allocation["nr"], allocation["disk_mib"], allocation["memory_mib"]) == ("1@2", 1, 16, 32)
    assert (allocation["sliver_instance_sn"], allocation["template"]["sha256"]) == (3, bench.template)
    assert found.deployment == {
        "sliver_instance_sn": 3, "slice_instance_sn": 7, "hostname": "000000000001_0002",
        "keys_digest": keys.digest([KEY]), "reset": 0,
    }  # fmt: skip


def test_the_root_belongs_to_the_slivers_range_and_what_is_written_stays_in_it(bench):
    bench.up()
    assert owner(bench.root()) == (0, 0)
    assert owner(bench.root(1, "bin", "su")) == (0, 0)
    assert owner(bench.root(1, "home", "mail")) == (1000, 8)
    with open(bench.root(1, "home", "mail"), "a") as file:
        file.write("more")
    assert owner(bench.root(1, "home", "mail")) == (1000, 8)
    assert "idmapped" in mounts.read()[bench.root().replace("/root", "/lower")].options


def test_no_devices_work_in_a_slivers_root_and_no_set_uid_programs_in_the_layers_below(bench):
    bench.up()
    table = mounts.read()
    assert "nodev" in table[bench.root()].options
    for layer in ("lower", "disk"):
        assert {"nodev", "nosuid"} <= set(table[bench.root().replace("/root", "/" + layer)].options)
    assert {"ro", "nodev", "nosuid"} <= set(table[str(bench.place / "run/mounts/templates" / bench.template)].options)


def test_two_slivers_share_the_template_and_nothing_else(bench):
    bench.up(1)
    bench.up(2)
    with open(bench.root(1, "etc", "own"), "w") as file:
        file.write("of one")
    assert not os.path.exists(bench.root(2, "etc", "own"))
    assert os.stat(bench.root(2)).st_uid == id_base(2)
    templates = [point for point in mounts.read() if "/templates/" in point and point.startswith(str(bench.place))]
    assert len(templates) == 1


def test_a_squashfs_template_is_mounted_as_it_is(private_mounts):
    release = [int(part) for part in os.uname().release.split(".")[:2]]
    if release < [6, 6]:
        pytest.skip("squashfs cannot be id-mapped before Linux 6.6, this is " + os.uname().release)
    tree = private_mounts / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "issue").write_text("squashed")
    image = private_mounts / "t.squashfs"
    argv = ["mksquashfs", str(tree), str(image), "-quiet", "-no-progress", "-comp", "gzip"]
    subprocess.run(argv, check=True, capture_output=True)
    bench = Bench(private_mounts, image.read_bytes())
    bench.up()
    assert bench.read("etc", "issue") == "squashed"
    assert owner(bench.root(1, "etc", "issue")) == (0, 0)
    bench.storage.remove(bench.step())
    assert bench.traces() == []


def test_an_id_map_that_the_kernel_refuses_is_explained(bench, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    tree = mounts._clone(str(bench.place))
    monkeypatch.setattr(syscalls, "syscall", refuse)
    with pytest.raises(StepError, match="cannot id-map .* squashfs needs Linux 6.6"):
        mounts._set_attributes(tree, mounts.MOUNT_ATTR_IDMAP, 0, "/x")
    os.close(tree)


def test_a_template_that_belongs_to_nobody_in_the_slivers_range_is_a_failed_mount(bench, monkeypatch):
    real = mounts.mount_idmapped
    monkeypatch.setattr(mounts, "mount_idmapped", lambda path, target, base: real(path, target, base + 70000))
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    with pytest.raises(StepError, match="belongs to id .* instead of one of the sliver's"):
        bench.storage.mount(bench.step())


def test_an_id_map_that_does_nothing_is_a_failed_mount(bench, monkeypatch):
    monkeypatch.setattr(mounts, "mount_idmapped", lambda path, target, base: mounts.mount_tree(path, target))
    bench.storage.allocate(bench.step())
    bench.storage.format(bench.step())
    with pytest.raises(StepError, match="without id mapping"):
        bench.storage.mount(bench.step())
    assert not bench.observe().mounted


# ---- the way down ----------------------------------------------------------------------------------------------------


def test_unmounting_leaves_no_mount_mount_point_or_loop_device_and_keeps_the_content(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w") as file:
        file.write("kept")
    bench.storage.unmount(step)
    assert bench.traces() == [step.subject]
    bench.storage.mount(step)
    assert bench.read("mark") == "kept"


def test_the_template_stays_mounted_for_the_other_sliver(bench):
    bench.up(1)
    bench.up(2)
    bench.storage.unmount(bench.step(1))
    assert os.path.exists(bench.root(2, "bin", "su"))
    assert bench.observe(2).mounted
    assert str(bench.place / "run/mounts/templates" / bench.template) in mounts.read()
    bench.storage.unmount(bench.step(2))
    assert [point for point in mounts.read() if point.startswith(str(bench.place))] == []


def test_undeploying_throws_the_content_away_and_keeps_the_allocation(bench):
    step = bench.up()
    with open(bench.root(1, "mark"), "w"):
        pass
    bench.storage.undeploy(step)
    found = bench.observe()
    assert found.allocation is not None
    assert (found.deployment, found.formatted, found.mounted) == (None, False, False)
    assert os.stat(bench.image()).st_blocks * 512 >= 16 * MIB
    bench.up()
    assert not os.path.exists(bench.root(1, "mark"))


def test_removing_leaves_nothing_at_all_and_can_be_done_without_booking_and_twice(bench):
    step = bench.up()
    step.sliver = step.booking = None
    for _ in range(2):
        bench.storage.unmount(step)
        bench.storage.undeploy(step)
        bench.storage.remove(step)
    assert bench.traces() == []


def test_a_root_in_use_is_not_unmounted_and_the_error_names_the_user(bench, monkeypatch):
    monkeypatch.setattr(mounts, "UNMOUNT_WAIT_S", 0.1)
    step = bench.up()
    holder = subprocess.Popen(["sleep", "60"], cwd=bench.root())
    try:
        with pytest.raises(StepError, match="used by process {}".format(holder.pid)):
            bench.storage.unmount(step)
    finally:
        holder.kill()
        holder.wait()
    bench.storage.unmount(step)
    assert not bench.observe().mounted


# ---- observing -------------------------------------------------------------------------------------------------------


def test_observing_starts_no_process_and_writes_nothing(bench, monkeypatch):
    bench.up()
    monkeypatch.setattr(subprocess, "Popen", None)
    before = {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(bench.place)}
    bench.storage.snapshot()
    bench.storage.names()
    bench.storage.disk_mib()
    assert bench.observe().mounted
    assert {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(bench.place)} == before


def flip(path, position, bit=0):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("name", ["allocation.json", "deployment.json"])
def test_a_document_with_any_bit_flipped_is_named_set_aside_and_written_anew(bench, name):
    step = bench.up(sliver_sn=3, slice_sn=7)
    good = bench.observe()
    path = bench.paths.sliver(step.subject, name)
    size = os.path.getsize(path)
    for position in range(0, size, max(1, size // 60)):
        flip(path, position, position % 8)
        found = bench.observe()
        assert path in found.damaged[0] and {} in (found.allocation, found.deployment), position
        bench.storage.mend(step)
        assert os.path.getsize(path + ".damaged") == size
        mended = bench.observe()
        assert (mended.allocation, mended.damaged) == (good.allocation, [])
        assert {**mended.deployment, "keys_digest": good.deployment["keys_digest"]} == good.deployment
        assert mended.mounted
        bench.storage.keys(step)
    assert bench.observe() == good


def test_mending_cut_off_after_the_damaged_file_was_set_aside_is_done_again(bench, monkeypatch):
    step = bench.up()
    path = bench.paths.sliver(step.subject, "allocation.json")
    flip(path, 20)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_checked", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StepError, match="No space left"):
            bench.storage.mend(step)
    assert bench.observe().damaged, "a file that is missing would count as never allocated"
    bench.storage.mend(step)
    assert bench.observe().damaged == []


def test_names_that_could_lead_elsewhere_are_refused(bench):
    step = bench.step()
    for name in ("..", "a/b", "", ".hidden", "x" * 64, "a\n"):
        step.subject = name
        for verb in ("allocate", "remove", "unmount", "undeploy"):
            with pytest.raises(StepError, match="cannot be a sliver's name"):
                getattr(bench.storage, verb)(step)


def test_the_disk_of_a_mounted_sliver_is_known_by_its_device(bench):
    bench.up()
    device = bench.storage.device(bench.step().subject)
    assert loops.backing_file(device) == bench.image()
    bench.storage.unmount(bench.step())
    assert bench.storage.device(bench.step().subject) is None


def test_steps_in_the_wrong_order_say_what_is_missing(bench):
    step = bench.step()
    for verb, words in (
        ("format", "allocated first"), ("mount", "allocated first"), ("populate", "not mounted"),
        ("keys", "not deployed"),
    ):  # fmt: skip
        with pytest.raises(StepError, match=words):
            getattr(bench.storage, verb)(step)
    bench.storage.allocate(step)
    bench.template = "0" * 64
    with pytest.raises(StepError, match="not in the cache"):
        bench.storage.mount(bench.step())


def test_mountinfo_with_blanks_and_stacked_mounts_is_read_right():
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 - ext3 /dev/ro\\134ot rw,errors=continue\n"
        "37 35 0:5 / /mnt\\0402 ro - tmpfs none rw\n"
        "broken line\n"
    )
    found = mounts.parse(text)
    assert list(found) == ["/mnt 2"]
    assert (found["/mnt 2"].fstype, found["/mnt 2"].device, found["/mnt 2"].options) == ("tmpfs", "0:5", ["ro"])
    assert mounts.parse(text.splitlines()[0])["/mnt 2"].source == "/dev/ro\\ot"


@pytest.mark.parametrize("machine,wide,number", [("x86_64", True, 437), ("armv7l", False, 437), ("mips", False, 4437),
                                                 ("mips64", True, 5437)])  # fmt: skip
def test_system_calls_have_the_machines_own_numbers(machine, wide, number):
    assert syscalls.number(syscalls.OPENAT2, machine, wide) == number
