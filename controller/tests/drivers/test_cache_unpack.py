"""The cache on a disk that fills up, and templates as trees."""

import gzip
import os

import pytest

from confine.errors import StepError
from tests.drivers.cache_support import CONTENT, KIB, MIB, URI, fetch, make_cache
from tests.drivers.storage_support import (
    OneFile,
    archive_of,
    make_step,
    member,
    needs_root,
    sha256,
    small_tmpfs,
    symlink,
)

# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
def test_a_file_that_does_not_fit_on_the_disk_says_how_much_is_missing_and_leaves_the_reserve(private_mounts):
    small_tmpfs(private_mounts / "data", 4096)
    content = os.urandom(3 * MIB)
    cache = make_cache(private_mounts, OneFile({URI: content}), reserve_mib=2)
    with pytest.raises(StepError, match="1.0 MiB are missing"):
        fetch(cache, sha256(content))
    assert os.statvfs(private_mounts / "data").f_bavail * 4096 > 3.9 * MIB


@pytest.mark.root
@needs_root
def test_a_disk_that_fills_up_while_fetching_is_left_as_it_was(private_mounts):
    small_tmpfs(private_mounts / "data", 4096)

    class Unsized(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            on_start(0, None)
            for _ in range(100):
                sink(os.urandom(100_000))

    cache = make_cache(private_mounts, Unsized())
    with pytest.raises(StepError, match="disk is full|no room"):
        fetch(cache, sha256(CONTENT))
    assert os.listdir(private_mounts / "data/cache/partial") == []
    assert cache.cached() == []


@pytest.mark.root
@needs_root
def test_a_disk_that_fills_up_while_unpacking_is_left_as_it_was(private_mounts):
    small_tmpfs(private_mounts / "data", 8192)
    packed = archive_of(*[member("file{}".format(nr), bytes(MIB)) for nr in range(20)])
    cache = make_cache(private_mounts, OneFile({URI: packed}))
    fetch(cache, sha256(packed))
    with pytest.raises(StepError, match="no space left|no room"):
        cache.unpack_template(make_step("cache", "unpack_template", template=sha256(packed)))
    assert os.listdir(private_mounts / "data/cache/trees") == []
    assert cache.unpacked() == []


# ---- unpacking templates ---------------------------------------------------------------------------------------------


def have(cache, content):
    path = cache.object(sha256(content))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return make_step("cache", "unpack_template", template=sha256(content))


@pytest.mark.root
@needs_root
def test_an_archive_becomes_a_tree_once_and_as_a_whole(tmp_path):
    cache = make_cache(tmp_path, OneFile())
    packed = archive_of(member("bin/busybox", b"elf", mode=0o755), symlink("sbin", "bin"))
    step = have(cache, packed)
    cache.unpack_template(step)
    before = os.stat(cache.tree(sha256(packed)) + "/bin/busybox").st_ino
    cache.unpack_template(step)
    assert os.stat(cache.tree(sha256(packed)) + "/bin/busybox").st_ino == before
    assert cache.unpacked() == [sha256(packed)]


@pytest.mark.root
@needs_root
def test_what_a_cut_while_unpacking_left_is_no_template_and_is_done_again(tmp_path):
    cache = make_cache(tmp_path, OneFile())
    packed = archive_of(member("bin/busybox", b"elf"))
    step = have(cache, packed)
    left = tmp_path / "data/cache/trees" / (".tmp-" + sha256(packed)) / "bin"
    left.mkdir(parents=True)
    (left / "junk").write_text("half")
    assert cache.unpacked() == []
    cache.unpack_template(step)
    assert os.listdir(cache.tree(sha256(packed)) + "/bin") == ["busybox"]


@pytest.mark.root
@needs_root
def test_a_template_that_cannot_be_unpacked_leaves_nothing(tmp_path):
    cache = make_cache(tmp_path, OneFile(), template_max_mib=1)
    for content, words in (
        (archive_of(member("../x", b"x")), r"cannot be used: the name"),
        (archive_of(member("big", bytes(2 * MIB))), "at most 1 MiB"),
        (b"<html>not found</html>", "no archive of a known kind"),
        (gzip.compress(b"x" * 600), "damaged"),
    ):
        with pytest.raises(StepError, match=words):
            cache.unpack_template(have(cache, content))
        assert os.listdir(tmp_path / "data/cache/trees") == []


def squashfs_header(used):
    return b"hsqs" + bytes(24) + (4).to_bytes(2, "little") + bytes(10) + used.to_bytes(8, "little") + bytes(100)


def test_a_squashfs_is_ready_as_it_is_unless_it_is_cut_short_or_of_another_version(tmp_path):
    cache = make_cache(tmp_path, OneFile())
    good = squashfs_header(100)
    cache.unpack_template(have(cache, good))
    assert cache.unpacked() == [sha256(good)]
    with pytest.raises(StepError, match="cut short: it has 148 of 5000 bytes"):
        cache.unpack_template(have(cache, squashfs_header(5000)))
    with pytest.raises(StepError, match="no squashfs of version 4"):
        cache.unpack_template(have(cache, b"hsqs" + bytes(200)))
    assert cache.unpacked() == [sha256(good)]


def test_a_template_that_is_not_in_the_cache_cannot_be_unpacked(tmp_path):
    with pytest.raises(StepError, match="has to be fetched first"):
        make_cache(tmp_path, OneFile()).unpack_template(make_step(template="a" * 64))


@pytest.mark.root
@needs_root
def test_an_archive_whose_tree_is_in_use_goes_before_the_tree_and_needs_no_new_fetch(tmp_path):
    cache = make_cache(tmp_path, OneFile(), max_mib=3)
    packed = archive_of(member("noise", os.urandom(MIB)))
    cache.unpack_template(have(cache, packed))
    cache.keep = {sha256(packed)}
    other = os.urandom(MIB + 300 * KIB)
    cache._fetchers["template"] = OneFile({URI: other})
    fetch(cache, sha256(other))
    assert not os.path.exists(cache.object(sha256(packed)))
    assert sorted([sha256(packed), sha256(other)]) == cache.cached()
    assert cache.unpacked() == [sha256(packed)]
