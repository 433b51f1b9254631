"""Archives that strangers made: what is unpacked, what is refused, and that nothing ever lands outside."""

import gzip
import os
import stat
import tarfile
import tracemalloc

import pytest

from confine.drivers import archives, inroot, streams
from confine.errors import StepError
from tests.drivers.storage_support import (
    PACKERS,
    archive_of,
    directory,
    hardlink,
    member,
    needs_root,
    symlink,
    tar,
)

pytestmark = [pytest.mark.root, needs_root]
MIB = 1024 * 1024


@pytest.fixture
def place(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_text("untouched")
    return tmp_path


def unpack(place, packed, shift=0, merge=False, size=16 * MIB, members=1000):
    path = place / "archive"
    path.write_bytes(packed)
    with inroot.Root(str(place / "root"), shift) as root:
        return archives.unpack(str(path), root, archives.Bounds(size, members), merge, lambda _: None)


def refused(place, packed, words, **options):
    with pytest.raises(StepError, match=words):
        unpack(place, packed, **options)
    assert os.listdir(place / "outside") == ["victim"]
    assert (place / "outside" / "victim").read_text() == "untouched"


GOOD = tar(
    directory("./", 0o755),
    directory("./bin", 0o755),
    member("./bin/su", b"elf", mode=0o4755, uid=0),
    member("./home/mail", b"letter", mode=0o640, uid=1000, gid=8),
    symlink("./lib", "/usr/lib"),
    hardlink("./bin/su2", "./bin/su"),
)


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_an_archive_of_each_kind_is_unpacked_with_modes_owners_times_and_links(place, kind):
    assert unpack(place, PACKERS[kind](GOOD)) == 9
    root = place / "root"
    su, mail = os.stat(root / "bin/su"), os.stat(root / "home/mail")
    assert (root / "bin/su").read_bytes() == b"elf"
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_nlink, su.st_mtime) == (0o4755, 0, 2, 1_700_000_000)
    assert (stat.S_IMODE(mail.st_mode), mail.st_uid, mail.st_gid) == (0o640, 1000, 8)
    assert os.readlink(root / "lib") == "/usr/lib"


def test_owners_are_shifted_into_the_slivers_range(place):
    unpack(place, archive_of(member("deep/file", uid=1000, gid=8), symlink("link", "x")), shift=1000000)
    found, above = os.stat(place / "root/deep/file"), os.stat(place / "root/deep")
    link = os.lstat(place / "root/link")
    assert (found.st_uid, found.st_gid) == (1001000, 1000008)
    assert (above.st_uid, above.st_gid, link.st_uid) == (1000000, 1000000, 1000000)


@pytest.mark.parametrize("kind", sorted(PACKERS))
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_an_archive_cut_short_is_refused(place, kind, part):
    packed = PACKERS[kind](tar(member("noise", os.urandom(300_000)), member("last", b"x")))
    refused(place, packed[: int(len(packed) * part)], "cut short|damaged")


def test_an_archive_that_ends_without_its_end_mark_is_refused(place):
    refused(place, gzip.compress(member("a", b"x")), "end mark")


def test_a_damaged_header_is_an_error_and_not_the_end_of_the_archive(place):
    refused(place, gzip.compress(member("a") + b"\x01" * 512 + bytes(1024)), "damaged")


def test_something_after_the_end_mark_is_refused(place):
    refused(place, gzip.compress(tar(member("a")) + b"more"), "follows its end mark")


def test_a_wrong_check_sum_of_the_compressed_stream_is_refused(place):
    packed = bytearray(archive_of(member("a", b"x" * 5000)))
    packed[-6] ^= 1
    refused(place, bytes(packed), "damaged")


@pytest.mark.parametrize("name", ["../outside/victim", "a/../../outside/victim", "..", "./a/..", "a/b/../c"])
def test_a_name_with_dot_dot_is_refused(place, name):
    refused(place, archive_of(member(name, b"x")), r"`\.\.`")


def test_an_absolute_name_is_refused(place):
    refused(place, archive_of(member(str(place / "outside/victim"), b"x")), "absolute")


def test_an_absolute_name_in_a_pax_header_is_refused(place):
    name = str(place / "outside/victim")
    refused(place, archive_of(member("harmless", b"x", pax={"path": name})), "absolute")


def test_an_absolute_link_stays_and_leads_inside_the_root(place):
    unpack(place, archive_of(symlink("var", "/somewhere"), directory("somewhere"), member("var/file", b"x")))
    assert (place / "root/somewhere/file").read_bytes() == b"x"


def test_a_file_through_a_planted_absolute_link_does_not_leave_the_root(place):
    target = str(place / "outside")
    refused(place, archive_of(symlink("d", target), member("d/victim", b"changed")), "leads nowhere|not a directory")


def test_a_file_through_a_planted_link_of_dot_dots_does_not_leave_the_root(place):
    refused(
        place, archive_of(symlink("d", "../" * 20 + str(place)[1:] + "/outside"), member("d/victim", b"x")), "lead|not"
    )


def test_a_file_over_a_planted_link_replaces_the_link_and_not_what_it_points_to(place):
    unpack(place, archive_of(symlink("f", str(place / "outside/victim")), member("f", b"new")))
    assert (place / "root/f").read_bytes() == b"new"
    assert not (place / "root/f").is_symlink()
    assert (place / "outside/victim").read_text() == "untouched"


def test_a_directory_over_a_planted_link_does_not_change_what_it_points_to(place):
    before = os.stat(place / "outside").st_mode
    refused(place, archive_of(symlink("d", str(place / "outside")), directory("d", 0o777)), "replace a file")
    assert os.stat(place / "outside").st_mode == before


LINK_TARGETS = (("../outside/victim", r"`\.\.`"), ("/etc/passwd", "absolute"), ("nothing", "not there"),
                ("d", "no file"), (".", "root itself"))  # fmt: skip


@pytest.mark.parametrize("target,words", LINK_TARGETS)
def test_a_hard_link_to_anything_but_a_file_inside_is_refused(place, target, words):
    refused(place, archive_of(directory("d"), hardlink("h", target)), words)


def test_a_hard_link_through_a_planted_link_does_not_leave_the_root(place):
    refused(
        place, archive_of(symlink("d", str(place / "outside")), hardlink("h", "d/victim")), "not there|not a directory"
    )


def test_a_file_written_over_a_hard_link_leaves_the_other_name_alone(place):
    unpack(place, archive_of(member("a", b"one"), hardlink("b", "a"), member("b", b"two")))
    assert (place / "root/a").read_bytes() == b"one"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_device_nodes_are_left_out_of_templates_and_refused_in_data(place, kind):
    packed = archive_of(member("dev/node", kind=kind), member("file"))
    unpack(place, packed)
    assert not (place / "root/dev").exists()
    assert (place / "root/file").exists()
    refused(place, packed, "device node", merge=True)


@pytest.mark.parametrize("ids", [{"uid": 65536}, {"gid": 65536}, {"uid": -1}, {"uid": 2**31}])
def test_owners_a_sliver_does_not_have_are_refused_set_uid_or_not(place, ids):
    refused(place, archive_of(member("su", b"x", mode=0o4755, **ids)), "a sliver has only 0-65535")


def test_an_owner_in_a_pax_header_counts(place):
    refused(place, archive_of(member("su", pax={"uid": "70000"})), "belongs to user 70000")


def test_extended_attributes_are_dropped(place):
    unpack(place, archive_of(member("f", b"x", pax={"SCHILY.xattr.user.mark": "1"})))
    assert os.listxattr(place / "root/f") == []


def test_an_archive_bomb_is_refused_by_its_ratio(place, monkeypatch):
    monkeypatch.setattr(streams, "RATIO_FLOOR", MIB)
    packed = gzip.compress(member("zeros", size=4 * MIB) + bytes(4 * MIB), 9)
    refused(place, packed, "bomb")
    assert sum(path.stat().st_blocks * 512 for path in (place / "root").iterdir()) < 2 * MIB


def test_an_archive_over_the_size_allowed_is_refused_before_it_is_written(place):
    refused(place, archive_of(member("big", bytes(2 * MIB))), "unpacks to 2 MiB, at most 1 MiB", size=MIB)
    assert os.listdir(place / "root") == []


def test_empty_members_count_as_what_they_take_on_the_disk(place):
    packed = archive_of(*[directory("d{}".format(nr)) for nr in range(300)])
    refused(place, packed, "unpacks to 1 MiB, at most 1 MiB", size=MIB)
    path, told = place / "archive", []
    path.write_bytes(archive_of(*[directory("e{}".format(nr)) for nr in range(1100)]))
    with inroot.Root(str(place / "root")) as root:
        archives.unpack(str(path), root, archives.Bounds(64 * MIB), False, told.append)
    assert told == [4 * MIB, 1100 * 4096], "room is looked at while they come"


def test_an_archive_of_too_many_members_is_refused(place):
    refused(place, archive_of(*[member(str(nr)) for nr in range(11)]), "more than 10 members", members=10)


def test_overlong_and_overdeep_names_are_refused(place):
    refused(place, archive_of(member("x" * 256)), "255 bytes")
    refused(place, archive_of(member("x/" * 64 + "x")), "64 levels")
    refused(place, archive_of(member("y" * 250 + "/" + "x" * 2000)), "1024 bytes")


def test_a_huge_long_name_header_is_refused_before_it_is_read(place):
    header = member("././@LongLink", kind=tarfile.GNUTYPE_LONGNAME, size=2**32)
    refused(place, gzip.compress(header + bytes(4096)), "extended header of 4294967296 bytes")


def test_headers_without_end_are_refused(place):
    header = member("././@LongLink", b"x\0", kind=tarfile.GNUTYPE_LONGNAME)
    refused(place, gzip.compress(header * 20), "in a row")


@pytest.mark.parametrize("record", [b"0 path=x\n", b"x", b"99 path=x\n", b"9999999999999999999999 a=b\n", b"8 pathx\n"])
def test_damaged_pax_records_are_refused(place, record):
    refused(place, gzip.compress(tar(member("pax", record, kind=tarfile.XHDTYPE), member("a"))), "damaged")


def records(kind, *texts):
    """A header of pax records, each b"KEY=VALUE"."""
    lines = [text + b"\n" for text in texts]
    whole = b"".join(b"%08d %s" % (len(line) + 9, line) for line in lines)
    return member("pax", whole, kind=kind)


def test_a_size_below_zero_in_a_pax_header_is_refused_before_anything_is_written(place):
    refused(place, gzip.compress(tar(records(tarfile.XHDTYPE, b"size=-5"), member("f", bytes(MIB)))), "of -5 bytes")
    assert os.listdir(place / "root") == []


def test_global_pax_headers_gather_nothing_that_does_not_count(place):
    junk = [b"%d-%d=" % (nr, one) + bytes(60_000) for nr in range(60) for one in range(8)]
    parts = [
        part
        for nr in range(60)
        for part in (records(tarfile.XGLTYPE, *junk[nr * 8 : nr * 8 + 8]), member("f{}".format(nr)))
    ]
    packed = archive_of(*parts)
    tracemalloc.start()
    try:
        unpack(place, packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(os.listdir(place / "root")) == 60
    assert peak < 8 * MIB, "28 MiB of records must not be gathered"


def test_a_global_pax_header_that_counts_holds_for_all_members_after_it(place):
    refused(place, archive_of(records(tarfile.XGLTYPE, b"uid=70000"), member("f")), "belongs to user 70000")


def test_sparse_members_are_refused_with_what_to_do(place):
    refused(place, archive_of(member("s", kind=tarfile.GNUTYPE_SPARSE)), "without --sparse")
    refused(place, archive_of(member("s", pax={"GNU.sparse.major": "1"})), "without --sparse")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html>no</html>", b"hsqs" + bytes(200), b"PK\x03\x04" + bytes(100)]
)
def test_what_is_no_archive_is_refused(place, content):
    refused(place, content, "no archive of a known kind")


def test_a_compressed_file_that_is_no_tar_is_refused(place):
    refused(place, gzip.compress(b"not a tar at all" * 100), "no tar inside|damaged|cut short")


def test_an_empty_archive_is_refused(place):
    refused(place, gzip.compress(bytes(10240)), "empty")


def test_data_keeps_the_directories_of_the_template_as_they_are_and_adds_its_own(place):
    os.mkdir(place / "root/etc", 0o755)
    (place / "root/etc/motd").write_text("template")
    os.symlink("/run", place / "root/var")
    os.mkdir(place / "root/run")
    unpack(
        place,
        archive_of(
            directory("./", 0o700, uid=1000), directory("etc", 0o700, uid=1000), member("etc/motd", b"data", uid=1000),
            directory("own", 0o750, uid=1000), directory("var"), member("var/pid", b"1"),
        ),
        shift=500000,
        merge=True,
    )  # fmt: skip
    root = place / "root"
    assert (stat.S_IMODE(os.stat(root / "etc").st_mode), os.stat(root / "etc").st_uid) == (0o755, 0)
    assert os.stat(root).st_uid == 0
    assert ((root / "etc/motd").read_text(), os.stat(root / "etc/motd").st_uid) == ("data", 501000)
    assert (stat.S_IMODE(os.stat(root / "own").st_mode), os.stat(root / "own").st_uid) == (0o750, 501000)
    assert (root / "run/pid").read_text() == "1"


def test_a_file_does_not_replace_a_directory(place):
    refused(place, archive_of(directory("d"), member("d/f"), member("d", b"x")), "replace a directory")


def test_unpacking_twice_gives_the_same(place):
    packed = PACKERS["tar.xz"](GOOD)
    unpack(place, packed)
    assert unpack(place, packed) == 9
    assert os.stat(place / "root/bin/su").st_nlink == 2


def test_decoding_stops_where_it_would_take_too_much_memory(place, monkeypatch):
    monkeypatch.setattr(streams, "DECODER_MEMORY_MIB", 1)
    for kind in ("tar.xz", "tar.zst"):
        packer = PACKERS[kind]
        content = tar(member("noise", os.urandom(300_000)))
        packed = packer(content) if kind == "tar.xz" else long_zstd(content)
        refused(place, packed, "damaged|needs over|emory")


def long_zstd(data):
    import subprocess

    argv = ["zstd", "-q", "-c", "--long=27"]
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout


def test_times_no_file_system_can_hold_are_bent_to_what_it_can(place):
    unpack(place, archive_of(member("old", pax={"mtime": "-99999999999"}), member("new", pax={"mtime": "9" * 15})))
    assert os.stat(place / "root/old").st_mtime == 0
    assert os.stat(place / "root/new").st_mtime == 2**32 - 1
