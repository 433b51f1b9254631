"""Mirrors that lie, are behind, or send junk: none harms the node, nor holds it back while another is honest."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile

import pytest
from bundle_world import packed, some_bytes
from mirror_world import Mirror

from confine.upgrade import look, staging
from confine.upgrade.chunks import Chunk
from confine.upgrade.errors import UpgradeError
from confine.upgrade.mirrors import MirrorError, Mirrors, NoRanges, Web

HEAD = "/stable/test-board/"


def rewrite(path, *added):
    """Add members (name, content) to the head at `path`."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in [*members, *added]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with open(path, "wb") as file:
        file.write(out.getvalue())


def lookout(world):
    return look.Lookout(world.node, Mirrors(world.settings.upgrade_mirrors, Web(), world.node.own))


def test_a_mirror_that_adds_a_part_to_a_head_leaves_the_way_back_as_it_is(world, mirror):
    world.install(packed(world.bundle("1.0")))
    world.turn_over()
    before = (world.node.slots.backend.starts(), world.written("a", "root", 1 << 20))
    world.publish(world.bundle("2.0"))
    rewrite(world.web + HEAD + "2.0", ("kernel", b""))
    with pytest.raises(UpgradeError, match="no mirror offers version 2.0"):
        world.install("2.0", auto=True)
    assert (world.node.slots.backend.starts(), world.written("a", "root", 1 << 20)) == before


@pytest.mark.parametrize("own", range(4))
def test_a_lying_mirror_does_not_hold_back_a_node_that_has_an_honest_one(world, mirror, own):
    source = world.bundle("2.0")
    liars = world.directory + "/liars"
    for web in (world.web, liars):
        os.makedirs(web, exist_ok=True)
        world.publish(source, web)
    for name in ("latest", "2.0"):
        rewrite(liars + HEAD + name, ("kernel", b""))
    liar = Mirror(liars)
    world.settings.node_id = own  # whichever mirror comes first
    world.settings.upgrade_mirrors = [mirror.uri, liar.uri]
    assert world.install("latest", auto=True)[1] == "b"
    liar.close()


@pytest.mark.parametrize("junk", [b"", b"\xff" * 2040, b"untrusted comment: x\nRWQ=\n", b"A" * 2040])
def test_what_anybody_adds_as_a_signature_is_not_kept_with_the_slot(world, mirror, junk):
    world.publish(world.bundle("2.0"))
    rewrite(world.web + HEAD + "2.0", *((f"manifest.json.{number}.sig", junk) for number in range(20)))
    world.install("2.0", auto=True)
    label = world.node.slots.label("b")
    assert len(label["signatures"]) == 2
    assert world.node.verify_label(label).version == "2.0"


def test_of_an_answer_nothing_is_taken_beyond_the_last_missing_chunk(tmp_path):
    piece = bytes(65536)
    taken = []

    class Gathering:
        def came(self, *_):
            pass

    class Root:
        name, size = "root", 1000 * len(piece)

    def pieces(offset, size, strict=False):
        if strict:
            raise NoRanges("whole files only")
        for number in range(1000):
            taken.append(number)
            yield piece

    missing = [Chunk(0, len(piece), hashlib.sha256(piece).digest())]
    with open(tmp_path / "part", "w+b") as file:
        staging._Filler(Gathering(), Root(), file.fileno(), missing, 0).fill(pieces)
    assert len(taken) <= 2


def test_a_mirror_that_is_behind_hides_nothing_however_often_is_looked(world, mirror):
    stick = world.directory + "/stick"
    os.mkdir(stick)
    world.publish(world.bundle("1.0", epoch=1), stick)
    world.publish(world.bundle("2.0", epoch=1, published="2026-11-20T11:00:00Z"))
    # The one says "nothing new" from the second look on, the other knows no such thing.
    world.settings.upgrade_mirrors = [mirror.uri, "file://" + stick + "/"]
    watching = lookout(world)
    assert [watching.look({})["offered"]["version"] for _ in range(3)] == ["2.0"] * 3


def test_a_bundle_that_the_operator_takes_back_is_no_longer_offered(world, mirror):
    world.publish(world.bundle("1.0", epoch=1))
    shutil.copy(world.web + HEAD + "latest", world.directory + "/before")
    world.publish(world.bundle("2.0", epoch=1, published="2026-11-20T11:00:00Z"))
    watching = lookout(world)
    assert watching.look({})["offered"]["version"] == "2.0"
    shutil.copy(world.directory + "/before", world.web + HEAD + "latest")
    assert watching.look({})["offered"]["version"] == "1.0"


def test_a_head_that_was_refused_is_judged_anew_when_the_reason_has_passed(world, mirror):
    world.publish(world.bundle("2.0"))
    os.makedirs(world.paths.upgrade)
    trust = world.paths.upgrade + "/trust.json"
    with open(trust, "w") as file:
        file.write("{")
    watching = lookout(world)
    found = watching.look({})
    assert found["offered"] is None and "trust.json" in found["problems"][0]
    os.unlink(trust)
    found = watching.look({})
    assert (found["offered"]["version"], found["problems"]) == ("2.0", [])


def test_a_mirror_with_a_wrong_beginning_does_not_spoil_what_an_honest_one_has(tmp_path):
    content = some_bytes(3, 200_000)
    asked = []

    class Gathering:
        def came(self, *_):
            pass

    class Root:
        name, size, sha256 = "root", len(content), hashlib.sha256(content).hexdigest()

    def liar(offset, size, strict=False):
        yield bytes(1000)
        raise MirrorError("it breaks off")

    def honest(offset, size, strict=False):
        asked.append(offset)
        yield content[offset : offset + size]

    with open(tmp_path / "part", "w+b") as file:
        appender = staging._Appender(Gathering(), Root(), file.fileno())
        with pytest.raises(MirrorError):
            appender.fill(liar)
        appender.fill(honest)
        assert (asked, os.pread(file.fileno(), len(content), 0)) == ([1000, 0], content)
        os.ftruncate(file.fileno(), 0)
        with pytest.raises(MirrorError, match="wrong sha256"):
            appender.fill(lambda offset, size, strict=False: iter([bytes(len(content))]))
