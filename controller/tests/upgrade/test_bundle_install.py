"""From a mirror or a file into the slot: what is fetched, what is not, and everything that may go wrong on the way."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import pytest
import slot_world
from bundle_world import Keys, edited, packed, some_bytes
from mirror_world import Mirror
from node_world import World, parts

from confine.upgrade import history, mirrors, staging, writer
from confine.upgrade.errors import UpgradeError
from confine.upgrade.install import Paused


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(str(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    made = tmp_path_factory.mktemp("disk")
    return slot_world.split(slot_world.make_disk(str(made)), str(made / "parts"))


@pytest.fixture
def world(disk, keys):
    # In memory where that can be: much is flushed here, and it is not the medium that is tested.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield World(directory, disk, keys)


@pytest.fixture
def mirror(world):
    made = Mirror(world.web)
    world.settings.upgrade_mirrors = [made.uri]
    yield made
    made.close()


def is_whole(world, slot, content, version):
    label = world.node.slots.label(slot)
    assert label is not None and label["version"] == version
    for name, data in content.items():
        assert world.written(slot, name, len(data)) == data


def untouched(world, slot="b"):
    assert world.node.slots.label(slot) is None
    assert not any(world.written(slot, "root", 4096))


def test_a_packed_bundle_is_written_to_the_other_slot(world):
    content = parts(world.directory, "x", (300_000, 1))
    manifest, slot = world.install(packed(world.bundle("1.0", content=content)))
    assert (manifest.version, slot) == ("1.0", "b")
    is_whole(world, "b", content, "1.0")
    assert [event["event"] for event in history.read(paths=world.paths)] == ["written"]
    assert {doc["state"] for doc in world.shown} >= {"checking", "writing", "reading back"}
    assert world.node.verify_label(world.node.slots.label("b")).version == "1.0"


def test_a_published_bundle_is_fetched_over_plain_http_and_written(world, mirror):
    content = parts(world.directory, "x", (300_000, 1))
    world.publish(world.bundle("1.0", content=content))
    world.install("latest")
    is_whole(world, "b", content, "1.0")
    assert not [name for name in os.listdir(world.paths.upgrade + "/parts") if name.endswith(".part")]


def test_a_bundle_is_installed_from_the_address_of_its_head_or_of_a_packed_file(world, mirror):
    source = world.bundle("1.0")
    world.publish(source)
    world.install(mirror.uri + "stable/test-board/1.0")
    os.rename(packed(source), world.web + "/one.bundle")
    world.node.slots.clear_label("b")
    world.install(mirror.uri + "one.bundle")
    assert world.node.slots.label("b")["version"] == "1.0"


def test_a_directory_such_as_a_stick_serves_as_a_mirror(world):
    world.publish(world.bundle("1.0"))
    world.settings.upgrade_mirrors = ["file://" + world.web + "/"]
    world.install("latest")
    assert world.node.slots.label("b")["version"] == "1.0"


def test_a_written_slot_in_which_a_bit_flipped_is_written_anew_by_the_same_bundle(world):
    content = parts(world.directory, "x", (300_000, 1))
    source = packed(world.bundle("1.0", content=content))
    world.install(source)
    with open(world.disk + "/root-b", "r+b") as file:
        file.seek(5000)
        file.write(bytes([content["root"][5000] ^ 1]))
    with pytest.raises(UpgradeError, match="install the bundle again"):
        writer.check("b", world.node.slots)
    world.install(source)
    is_whole(world, "b", content, "1.0")
    # ... and one that reads back is not written again.
    events = len(history.read(paths=world.paths))
    world.install(source)
    assert len(history.read(paths=world.paths)) == events


def upgraded_once(world):
    """1.0 runs in slot b; its parts."""
    content = parts(world.directory, "old", *((150_000, seed) for seed in range(10)))
    world.publish(world.bundle("1.0", content=content))
    world.install("latest")
    world.turn_over()
    return content


def test_a_small_change_costs_a_small_fetch(world, mirror):
    upgraded_once(world)
    mirror.forget()
    sizes = [(150_000, seed) for seed in range(10)]
    sizes[4] = (150_000, 99)
    content = parts(world.directory, "new", *sizes)
    world.publish(world.bundle("2.0", content=content))
    world.install("latest")
    is_whole(world, "a", content, "2.0")
    # One file of ten, and the chunks at its edges.
    assert mirror.sent < 0.25 * sum(len(data) for data in content.values())
    assert history.read(1, world.paths)[0]["fetched"] < mirror.sent


def test_a_node_as_it_was_flashed_has_the_index_of_what_it_runs_from_the_mirror(world, mirror):
    content = upgraded_once(world)
    shutil.rmtree(world.paths.upgrade)
    mirror.forget()
    content = {**content, "kernel": some_bytes(8, 60_000)}
    world.publish(world.bundle("2.0", content=content))
    world.install("latest")
    is_whole(world, "a", content, "2.0")
    assert mirror.sent < 0.2 * sum(len(data) for data in content.values())


def test_without_any_index_all_of_it_is_fetched(world, mirror):
    upgraded_once(world)
    mirror.missing.add(".caibx")
    content = parts(world.directory, "new", (300_000, 1))
    world.publish(world.bundle("2.0", content=content))
    world.install("latest")
    is_whole(world, "a", content, "2.0")


def test_a_mirror_without_ranges_is_good_enough(world, mirror):
    upgraded_once(world)
    mirror.ranges = False
    sizes = [(150_000, seed) for seed in range(10)]
    sizes[3], sizes[7] = (150_000, 97), (150_000, 98)
    content = parts(world.directory, "new", *sizes)
    world.publish(world.bundle("2.0", content=content))
    world.install("latest")
    is_whole(world, "a", content, "2.0")


def test_a_damaged_chunk_of_the_running_slot_is_fetched_instead(world, mirror):
    content = upgraded_once(world)
    with open(os.path.join(world.disk, "root-b"), "r+b") as file:
        file.seek(700_000)
        file.write(b"rot")
    content = {**content, "kernel": some_bytes(8, 60_000)}
    world.publish(world.bundle("2.0", content=content))
    world.install("latest")
    is_whole(world, "a", content, "2.0")


def part_of(world, source, name):
    with open(source + "/manifest.json") as file:
        return json.load(file)["parts"][name]["sha256"]


@pytest.mark.parametrize("indexed", [True, False], ids=["in chunks", "whole"])
def test_a_fetch_goes_on_where_it_was_cut(world, mirror, monkeypatch, indexed):
    content = parts(world.directory, "x", (1_000_000, 1))
    source = world.bundle("1.0", content=content)
    world.publish(source)
    if not indexed:
        mirror.missing.add(".caibx")
    monkeypatch.setattr(mirrors, "ROUNDS", 1)
    root = part_of(world, source, "root")
    mirror.cut[root] = 600_000
    with pytest.raises(UpgradeError, match="truncated"):
        world.install("latest")
    untouched(world)
    mirror.forget()
    world.install("latest")
    is_whole(world, "b", content, "1.0")
    asked = [asked for path, asked in mirror.asked if path.endswith(root)]
    assert int(re.match(r"bytes=(\d+)-", asked[0])[1]) > 500_000
    assert mirror.sent < 600_000


def test_a_connection_that_breaks_is_taken_up_again_at_once(world, mirror):
    source = world.bundle("1.0", content=parts(world.directory, "x", (1_000_000, 1)))
    world.publish(source)
    mirror.cut[part_of(world, source, "root")] = 400_000
    world.install("latest")
    assert world.node.slots.label("b")["version"] == "1.0"


def test_another_mirror_takes_over_from_one_that_gives_wrong_bytes(world, mirror):
    other = Mirror(world.web)
    world.settings.upgrade_mirrors.append(other.uri)
    content = parts(world.directory, "x", (500_000, 1))
    source = world.bundle("1.0", content=content)
    world.publish(source)
    for one in (mirror, other):
        one.bad.add(part_of(world, source, "root"))
        one.bad.add(part_of(world, source, "root") + ".caibx")
        with_both = one is other
        if not with_both:
            world.install("latest")
            is_whole(world, "b", content, "1.0")
            world.node.slots.clear_label("b")
            staging_files = world.paths.upgrade + "/parts"
            for name in os.listdir(staging_files):
                os.unlink(os.path.join(staging_files, name))
    with pytest.raises(UpgradeError, match="wrong sha256|not what the index names"):
        world.install("latest")
    assert world.node.slots.label("b") is None
    other.close()


def test_no_mirror_is_asked_for_more_than_the_manifest_says(world, mirror):
    source = world.bundle("1.0", content=parts(world.directory, "x", (300_000, 1)))
    world.publish(source)
    mirror.endless.add(part_of(world, source, "root"))
    begun = time.monotonic()
    with pytest.raises(UpgradeError, match="not what the index names"):
        world.install("latest")
    assert time.monotonic() - begun < 30
    files = world.paths.upgrade + "/parts"
    assert sum(os.path.getsize(os.path.join(files, name)) for name in os.listdir(files)) < 600_000
    untouched(world)


def test_an_endless_head_is_cut_off(world, mirror):
    world.publish(world.bundle("1.0"))
    mirror.endless.add("latest")
    with pytest.raises(UpgradeError, match="larger than"):
        world.install("latest")


def test_a_mirror_that_dawdles_is_left_for_the_next(world, mirror, monkeypatch):
    other = Mirror(world.web)
    world.settings.upgrade_mirrors.append(other.uri)
    source = world.bundle("1.0")
    world.publish(source)
    monkeypatch.setattr(mirrors, "PACE_WINDOW_S", 1.0)
    for one in (mirror, other):
        one.slow[part_of(world, source, "root")] = 0.05
    threading.Timer(3.0, other.slow.clear).start()
    world.install("latest")
    assert world.node.slots.label("b")["version"] == "1.0"
    other.close()


def test_a_mirror_that_is_behind_does_not_hide_the_newest(world, mirror, tmp_path):
    behind = Mirror(str(tmp_path / "behind"))
    os.makedirs(behind.directory)
    world.settings.upgrade_mirrors.append(behind.uri)
    old = world.bundle("1.0")
    world.publish(old)
    world.publish(old, behind.directory)
    world.publish(world.bundle("2.0"))
    assert world.install("latest")[0].version == "2.0"
    behind.close()


# ---- attacks -------------------------------------------------------------------------------------------------------


def refused(world, source, why):
    with pytest.raises(UpgradeError, match=why):
        world.install(source)
    untouched(world)


def test_nothing_is_written_of_a_bundle_that_too_few_or_wrong_keys_vouch_for(world):
    refused(world, packed(world.bundle("1.0", "ax")), "signed by 1 of the 2")
    refused(world, packed(world.bundle("1.0", "a")), "signed by 1 of the 2")
    swapped = world.bundle("1.0", "bc")
    edited(swapped, epoch=7)
    refused(world, packed(swapped), "not that of this manifest")
    assert history.read(paths=world.paths) == []


def test_a_bundle_for_another_board_is_refused(world):
    refused(world, packed(world.bundle("1.0", board="toaster")), "for the board toaster, this is a test-board")
    assert history.read(paths=world.paths)[-1]["event"] == "refused"


def test_an_older_epoch_is_refused_also_after_going_back(world):
    world.install(packed(world.bundle("5.0")))
    world.turn_over()
    with pytest.raises(UpgradeError, match="epoch 4 is older than 5"):
        world.install(packed(world.bundle("4.0")))
    # Slot a, which is older, runs and is confirmed again: the floor stays.
    world.turn_over()
    with pytest.raises(UpgradeError, match="epoch 4 is older than 5"):
        world.install(packed(world.bundle("4.1")))


def test_a_bundle_that_needs_what_the_node_has_not_is_refused(world):
    needs = {"memory_mib": 1024, "epoch": 0}
    refused(world, packed(world.bundle("1.0", needs=needs)), "needs 1024 MiB of memory, this node has 256")
    refused(world, packed(world.bundle("2.0", needs={"memory_mib": 0, "epoch": 1})), "from epoch 1 on")


def spoil(path, change):
    """A packed bundle whose last part is another, or cut."""
    with open(path, "r+b") as file:
        if change == "swapped":
            file.seek(-30_000, os.SEEK_END)
            file.write(b"evil")
        else:
            file.truncate(os.path.getsize(path) - 60_000)


@pytest.mark.parametrize("change", ["swapped", "truncated"])
def test_a_part_swapped_or_truncated_in_a_packed_bundle_makes_no_whole_slot(world, change):
    path = packed(world.bundle("1.0"))
    spoil(path, change)
    with pytest.raises(UpgradeError, match="has sha256|truncated"):
        world.install(path)
    assert world.node.slots.label("b") is None
    assert world.node.slots.backend.starts()["b"] == "never"


@pytest.mark.parametrize("change", ["swapped", "truncated"])
@pytest.mark.parametrize("source", ["file", "address"])
def test_a_bad_packed_bundle_leaves_the_way_back_as_it_is(world, mirror, change, source):
    world.install(packed(world.bundle("1.0")))
    world.turn_over()
    before = (world.node.slots.backend.starts(), world.written("a", "root", 1 << 20))
    path = packed(world.bundle("2.0"))
    spoil(path, change)
    if source == "address":
        os.rename(path, world.web + "/one.bundle")
        path = mirror.uri + "one.bundle"
    with pytest.raises(UpgradeError, match="has sha256|truncated"):
        world.install(path)
    assert (world.node.slots.backend.starts(), world.written("a", "root", 1 << 20)) == before


def test_an_index_that_cannot_be_kept_ends_no_installation(world, mirror, monkeypatch):
    real = staging.durable.write_atomic

    def full(path, *more):
        if path.endswith(".caibx"):
            raise OSError(28, "No space left on device")
        real(path, *more)

    content = parts(world.directory, "x", (300_000, 1))
    world.publish(world.bundle("1.0", content=content))
    monkeypatch.setattr(staging.durable, "write_atomic", full)
    world.install("latest")
    is_whole(world, "b", content, "1.0")


def test_a_key_revoked_by_one_bundle_vouches_for_no_other(world):
    world.install(packed(world.bundle("1.0", "ab", revoked=[world.keys.number("c")])))
    with pytest.raises(UpgradeError, match="is revoked"):
        world.install(packed(world.bundle("2.0", "ac")))


def test_a_slot_written_before_a_revocation_is_not_believed_at_its_start(world):
    world.install(packed(world.bundle("1.0", "ac")))
    label = world.node.slots.label("b")
    world.node.verify_label(label)
    with pytest.raises(UpgradeError, match="not that of this manifest"):
        world.node.verify_label({**label, "version": "9.9"})
    trust = world.node.trust()
    trust.revoked.add(world.keys.number("c"))
    trust.raise_floor(1)
    with pytest.raises(UpgradeError, match="is revoked"):
        world.node.verify_label(label)


def test_a_symlink_in_place_of_a_slot_is_not_followed(world):
    slot, victim = os.path.join(world.disk, "root-b"), os.path.join(world.directory, "victim")
    os.rename(slot, victim)
    os.symlink(victim, slot)
    with pytest.raises(UpgradeError, match="cannot be opened"):
        world.install(packed(world.bundle("1.0")))
    with open(victim, "rb") as file:
        assert not any(file.read())


def test_only_one_upgrade_goes_on_at_a_time(world, mirror):
    source = world.bundle("1.0")
    world.publish(source)
    held = world.node.lock()
    with pytest.raises(UpgradeError, match="another upgrade is under way"):
        world.install("latest")
    os.close(held)
    world.install("latest")


def test_a_mirror_that_answers_for_another_branch_or_board_is_not_heeded(world, mirror):
    world.publish(world.bundle("1.0", branch="beta"))
    os.makedirs(world.web + "/stable/test-board")
    os.rename(world.web + "/beta/test-board/latest", world.web + "/stable/test-board/latest")
    refused(world, "latest", "no mirror offers")


# ---- room, rate, hours --------------------------------------------------------------------------------------------


def test_no_room_on_the_data_partition_is_said_before_anything_is_fetched(world, mirror, monkeypatch):
    source = world.bundle("1.0")
    world.publish(source)
    monkeypatch.setattr(staging, "SPARE", 1 << 60)
    refused(world, "latest", "no room for kernel")
    assert not any(path.endswith(part_of(world, source, "kernel")) for path, _ in mirror.asked)


def test_hours_that_end_pause_what_goes_by_itself_and_nothing_else(world, mirror, monkeypatch):
    world.publish(world.bundle("1.0"))
    world.settings.upgrade_hours = ["3-4"]
    monkeypatch.setattr("confine.upgrade.node.Node.clock", lambda _: (1.0, 5))
    with pytest.raises(Paused, match="hours"):
        world.install("latest", auto=True)
    untouched(world)
    world.install("latest")
    assert world.node.slots.label("b")["version"] == "1.0"


def test_a_deferral_pauses_what_goes_by_itself(world, mirror):
    world.publish(world.bundle("1.0"))
    world.node.defer(2)
    with pytest.raises(Paused, match="deferred"):
        world.install("latest", auto=True)
    world.node.defer(0)
    world.install("latest", auto=True)


def test_a_bundle_that_is_there_already_is_not_fetched_again(world, mirror):
    world.publish(world.bundle("1.0"))
    world.install("latest")
    mirror.forget()
    world.install("latest")
    assert all("/parts/" not in path for path, _ in mirror.asked)


CHILD = """
import sys
sys.path[:0] = {paths!r}
import resource
from confine.core.settings import Settings
from confine.paths import Paths
from confine.upgrade.install import Installer, Report
from confine.upgrade.node import Node
import slot_world
settings = Settings(node_id=5, upgrade_keyring={ring!r}, upgrade_mirrors=[{uri!r}])
node = Node(Paths(data={data!r}, run={run!r}), settings, slot_world.slots({disk!r}), {system!r})
Installer(node, Report({run!r} + "/r")).install("latest")
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def test_an_upgrade_needs_less_than_32_mib_of_memory(world, mirror):
    # 1.5 MiB of root is what the small disk takes; staging and slot are written through, so that size does not matter:
    # the bench measures it for the reference image.
    world.publish(world.bundle("1.0", content=parts(world.directory, "x", (1_500_000, 1))))
    text = CHILD.format(paths=sys.path, ring=world.settings.upgrade_keyring, uri=mirror.uri, data=world.paths.data,
                        run=world.paths.run, disk=world.disk, system=world.system)  # fmt: skip
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 * 1024, resource.getrusage(resource.RUSAGE_CHILDREN)
