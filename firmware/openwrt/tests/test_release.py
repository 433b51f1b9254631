"""A release's files: only what its signed list vouches for is used, and what went wrong is said in full."""

import http.server
import os
import subprocess
import threading

import pytest

from firmware.openwrt import download
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.release import KEYS, Release, parse, unpack
from firmware.openwrt.tests import fake_release
from firmware.openwrt.tests.fake_release import NAMES, TARGET, VERSION

# A full disk and broken transfers, on machines that may be busy with other things.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def release(tmp_path):
    fake_release.make(tmp_path, fake_release.kernel_config())
    return tmp_path / "release"


def opened(tmp_path, source=None, version=VERSION, target=TARGET, keys=None):
    found = Release(version, target, str(tmp_path / "cache"), str(source or tmp_path / "release"),
                    str(keys or tmp_path / "keys"))  # fmt: skip
    found.open(lambda line: None)
    return found


def test_names_and_checksums_come_from_the_signed_list(tmp_path, release):
    found = opened(tmp_path)
    assert {kind: found.name_of(kind) for kind in NAMES} == NAMES
    assert found.archive("sdk", print) == str(release / NAMES["sdk"])


def test_a_list_that_was_changed_after_it_was_signed_is_not_used(tmp_path, release):
    listed = (release / "sha256sums").read_text()
    (release / "sha256sums").write_text(listed.replace("a", "b", 1))
    with pytest.raises(FirmwareError, match="is not what the key [0-9a-f]{16} signed"):
        opened(tmp_path)


def test_a_signature_by_another_key_names_both(tmp_path, release):
    fake_release.key(tmp_path / "o")
    fake_release.sign(tmp_path, tmp_path / "o.sec")
    with pytest.raises(FirmwareError, match=r"is signed by the key [0-9a-f]{16}, releases 25\.12 by [0-9a-f]{16}"):
        opened(tmp_path)


def test_the_keys_that_are_shipped_are_openwrts_for_both_branches(tmp_path, release):
    for version, number in (("24.10.4", "d310c6f2833e97f7"), ("25.12.2", "b5043e70f9a75cde")):
        with pytest.raises(FirmwareError, match=f"by {number}"):
            opened(tmp_path, version=version, keys=KEYS)


def test_a_branch_without_a_key_is_told_how_to_give_one(tmp_path, release):
    with pytest.raises(FirmwareError, match=r"no key for OpenWrt 23\.05; .* KEYS=DIRECTORY with 23\.05\.pub has one"):
        opened(tmp_path, version="23.05.4")


@pytest.mark.parametrize(("version", "target"), [("latest", TARGET), ("../25.12.2", TARGET), (VERSION, "x86-64")])
def test_a_release_or_target_that_cannot_be_is_refused_before_anything_is_fetched(tmp_path, version, target):
    with pytest.raises(FirmwareError, match="RELEASE=|TARGET="):
        opened(tmp_path, "http://127.0.0.1:1", version, target)


def test_an_archive_that_is_not_what_the_list_says_is_not_used(tmp_path, release):
    with open(release / NAMES["sdk"], "ab") as file:
        file.write(b"more")
    with pytest.raises(FirmwareError, match="its sha256 is [0-9a-f]{64}, the signed list says [0-9a-f]{64}"):
        opened(tmp_path).archive("sdk", print)


def test_a_directory_without_the_list_is_told_what_belongs_there(tmp_path):
    with pytest.raises(FirmwareError, match=r"SOURCE= takes a directory .*sha256sums and sha256sums\.sig"):
        opened(tmp_path, tmp_path)


def test_a_list_with_a_broken_line_names_it():
    with pytest.raises(FirmwareError, match="sha256sums, line 2: 'garbage'"):
        parse(b"0" * 64 + b" *name\ngarbage\n")
    assert parse(b"0" * 64 + b" *../../etc/passwd\n") == {}


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory as a release. broken_after: each answer's body ends there (bytes), until it is raised."""

    daemon_threads = True

    def __init__(self, directory):
        self.directory, self.broken_after, self.asked = str(directory), None, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        prefix = f"/releases/{VERSION}/targets/{TARGET}/"
        name = self.path.removeprefix(prefix)
        path = os.path.join(self.server.directory, name)
        self.server.asked.append((name, self.headers.get("Range")))
        if name == self.path or not os.path.exists(path):
            self.send_error(404)
            return
        with open(path, "rb") as file:
            content = file.read()
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.broken_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(release):
    found = Server(release)
    yield found
    found.shutdown()
    found.server_close()


def test_a_release_is_fetched_once_and_kept(tmp_path, server):
    path = opened(tmp_path, server.url).archive("sdk", print)
    assert opened(tmp_path, server.url).archive("sdk", print) == path
    assert [name for name, _ in server.asked].count(NAMES["sdk"]) == 1


def test_a_transfer_that_breaks_off_is_continued_where_it_ended(tmp_path, server):
    size = os.path.getsize(os.path.join(server.directory, NAMES["sdk"]))
    found = opened(tmp_path, server.url)
    server.broken_after = size // 4
    with pytest.raises(FirmwareError, match="what arrived is kept"):
        found.archive("sdk", print)
    server.broken_after = None
    path = found.archive("sdk", print)
    assert download.sha256_of(path) == found.sums[NAMES["sdk"]]
    ranges = [given for name, given in server.asked if name == NAMES["sdk"]]
    assert ranges == [None, *(f"bytes={size // 4 * times}-" for times in range(1, download.TRIES + 1))]


def test_a_transfer_that_brings_something_else_is_thrown_away(tmp_path, server):
    found = opened(tmp_path, server.url)
    with open(os.path.join(server.directory, NAMES["sdk"]), "r+b") as file:
        file.write(b"other")
    with pytest.raises(FirmwareError, match="the signed list says .*; it was thrown away"):
        found.archive("sdk", print)
    assert not [name for _, _, names in os.walk(tmp_path / "cache") for name in names]


def test_a_release_that_does_not_exist_is_said_so(tmp_path, server):
    with pytest.raises(FirmwareError, match=r"does release 25\.12\.9 exist, and has it x86/64\?"):
        opened(tmp_path, server.url, "25.12.9")


def test_a_file_larger_than_it_may_be_is_not_taken(tmp_path, server):
    name = NAMES["sdk"]
    url = f"{server.url}/releases/{VERSION}/targets/{TARGET}/{name}"
    with pytest.raises(FirmwareError, match="more than 10: this is not what it should be"):
        download.large(url, str(tmp_path / name), "0" * 64, 10, print)


@pytest.mark.root
def test_a_full_disk_is_said_so_and_what_arrived_is_kept(tmp_path, server):
    with open(os.path.join(server.directory, NAMES["sdk"]), "ab") as file:
        file.write(os.urandom(1 << 20))
    fake_release.sign(tmp_path, tmp_path / "keys/25.12.sec")
    (tmp_path / "cache").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path / "cache"], check=False)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        found = opened(tmp_path, server.url)
        with pytest.raises(FirmwareError, match="the disk is full; make room below build/ and start again"):
            found.archive("sdk", print)
        subprocess.run(["mount", "-o", "remount,size=8m", tmp_path / "cache"], check=True)
        assert download.sha256_of(found.archive("sdk", print)) == found.sums[NAMES["sdk"]]
        assert (NAMES["sdk"], None) != server.asked[-1], "it is continued, not begun again"
    finally:
        subprocess.run(["umount", tmp_path / "cache"], check=True)


def test_what_is_unpacked_is_whole_or_not_there(tmp_path, release):
    (release / "broken.tar.gz").write_bytes((release / NAMES["sdk"]).read_bytes()[:100])
    with pytest.raises(FirmwareError, match="cannot be unpacked"):
        unpack(str(release / "broken.tar.gz"), str(tmp_path / "trees"), "0" * 64, print)
    assert os.listdir(tmp_path / "trees") == []
