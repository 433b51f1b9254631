"""The cache: fetched once and whole, gone on where it was cut off, bounded, and never at the cost of what is in use."""

import http.server
import os
import threading
import time

import pytest

from confine.drivers import cache as cache_module
from confine.drivers import downloads
from confine.errors import RegistryError, StepError
from confine.registry.download import Fetcher
from tests.drivers.cache_support import CONTENT, KIB, MIB, URI, fetch, make_cache, partial, put_partial
from tests.drivers.storage_support import (
    OneFile,
    make_step,
    sha256,
)


class Cut(OneFile):
    """Brings the first `count` bytes, then loses the connection, the first time."""

    def __init__(self, files, count):
        super().__init__(files)
        self.count = count

    def fetch(self, uri, sink, offset, on_start):
        if not self.asked:
            self.asked.append((uri, offset))
            on_start(offset, len(self.files[uri]))
            sink(self.files[uri][: self.count])
            raise RegistryError("the connection was lost")
        super().fetch(uri, sink, offset, on_start)


def test_a_file_is_fetched_once_and_found_again_by_its_sha256(tmp_path):
    fetcher, digest = OneFile({URI: CONTENT}), sha256(CONTENT)
    cache = make_cache(tmp_path, fetcher)
    fetch(cache, digest)
    fetch(cache, digest)
    fetch(make_cache(tmp_path, fetcher), digest)
    assert fetcher.asked == [(URI, 0)]
    assert cache.cached() == [digest]
    assert (tmp_path / "data/cache/objects" / digest).read_bytes() == CONTENT
    assert not partial(tmp_path, digest).exists()


def test_data_is_fetched_like_a_template_and_a_sliver_without_data_fetches_nothing(tmp_path):
    fetcher = OneFile({"http://files/d": CONTENT})
    cache = make_cache(tmp_path, fetcher)
    cache.fetch_data(make_step("cache", "fetch_data", data=sha256(CONTENT)))
    cache.fetch_data(make_step("cache", "fetch_data"))
    assert fetcher.asked == [("http://files/d", 0)]


def test_a_cut_download_goes_on_where_it_ended_even_after_a_restart(tmp_path):
    fetcher, digest = Cut({URI: CONTENT}, 200_000), sha256(CONTENT)
    with pytest.raises(StepError, match="http://files/t cannot be fetched: the connection was lost"):
        fetch(make_cache(tmp_path, fetcher), digest)
    assert make_cache(tmp_path, fetcher).cached() == []
    fetch(make_cache(tmp_path, fetcher), digest)
    assert fetcher.asked == [(URI, 0), (URI, 200_000)]


def test_a_download_that_was_complete_when_the_node_went_down_is_not_fetched_again(tmp_path):
    fetcher, digest = OneFile({URI: CONTENT}), sha256(CONTENT)
    put_partial(tmp_path, digest, CONTENT)
    cache = make_cache(tmp_path, fetcher)
    fetch(cache, digest)
    assert (fetcher.asked, cache.cached()) == ([], [digest])


def test_a_server_that_begins_anew_is_followed(tmp_path):
    class FromStart(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            super().fetch(uri, sink, 0, on_start)

    digest = sha256(CONTENT)
    put_partial(tmp_path, digest, b"something else entirely")
    cache = make_cache(tmp_path, FromStart({URI: CONTENT}))
    fetch(cache, digest)
    assert cache.cached() == [digest]


def test_a_wrong_sha256_names_both_sums_and_leaves_nothing(tmp_path):
    wanted, came = sha256(b"other"), sha256(CONTENT)
    cache = make_cache(tmp_path, OneFile({URI: CONTENT}))
    with pytest.raises(StepError, match=wanted + " was promised, " + came + " came"):
        fetch(cache, wanted)
    assert cache.cached() == []
    assert not partial(tmp_path, wanted).exists()


def test_a_damaged_partial_file_costs_one_try_and_heals(tmp_path):
    fetcher, digest = OneFile({URI: CONTENT}), sha256(CONTENT)
    put_partial(tmp_path, digest, bytes(1000))
    cache = make_cache(tmp_path, fetcher)
    with pytest.raises(StepError, match="wrong sha256"):
        fetch(cache, digest)
    fetch(cache, digest)
    assert cache.cached() == [digest]


@pytest.mark.parametrize("uri", ["/etc/shadow", "ftp://x/y", "t.tgz", "", "file:t", "javascript:1"])
def test_an_address_that_is_neither_http_nor_a_file_is_refused(tmp_path, uri):
    step = make_step("cache", "fetch_template", template=sha256(CONTENT))
    step.sliver.template.uri = uri
    with pytest.raises(StepError, match="neither http"):
        make_cache(tmp_path, OneFile()).fetch_template(step)


@pytest.mark.parametrize("digest", ["../../etc/x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_sha256_that_is_none_never_becomes_a_path(tmp_path, digest):
    with pytest.raises(StepError, match="not 64 lower-case hex digits"):
        fetch(make_cache(tmp_path, OneFile({URI: CONTENT})), digest)


def test_a_file_over_the_bound_of_the_cache_is_refused_before_it_is_fetched(tmp_path):
    digest = sha256(bytes(3 * MIB))
    cache = make_cache(tmp_path, OneFile({URI: bytes(3 * MIB)}), max_mib=2)
    with pytest.raises(StepError, match="1.0 MiB over its 2 MiB"):
        fetch(cache, digest)
    assert not partial(tmp_path, digest).exists()


def test_a_file_of_unknown_size_stops_at_the_bound_of_the_cache(tmp_path):
    class Endless(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            on_start(0, None)
            while True:
                sink(bytes(64 * KIB))

    cache = make_cache(tmp_path, Endless(), max_mib=2)
    with pytest.raises(StepError, match="no room"):
        fetch(cache, sha256(b""))
    assert os.listdir(tmp_path / "data/cache/partial") == []


def test_the_unused_are_evicted_least_recently_used_first_and_those_in_use_never(tmp_path):
    files = {"http://files/{}".format(nr): os.urandom(MIB) for nr in range(4)}
    digests = [sha256(content) for content in files.values()]
    cache = make_cache(tmp_path, OneFile(files), max_mib=3)
    for nr in (0, 1, 2):
        step = make_step("cache", "fetch_template", template=digests[nr])
        step.sliver.template.uri = "http://files/{}".format(nr)
        cache.fetch_template(step)
        os.utime(cache.object(digests[nr]), (1000 + nr, 1000 + nr))
    cache.keep = {digests[0]}
    fetch(cache, digests[1])  # a use: now 2 is the oldest of those not in use
    step.sliver.template.uri, step.sliver.template.sha256 = "http://files/3", digests[3]
    cache.fetch_template(step)
    assert cache.cached() == sorted([digests[0], digests[1], digests[3]])


def test_nothing_is_evicted_before_it_is_known_what_is_in_use(tmp_path):
    files = {"http://files/{}".format(nr): os.urandom(MIB) for nr in range(2)}
    digests = [sha256(content) for content in files.values()]
    cache = make_cache(tmp_path, OneFile(files), max_mib=1)
    step = make_step("cache", "fetch_template", template=digests[0])
    step.sliver.template.uri = "http://files/0"
    cache.fetch_template(step)
    step.sliver.template.uri, step.sliver.template.sha256 = "http://files/1", digests[1]
    with pytest.raises(StepError, match="all else is in use"):
        cache.fetch_template(step)
    assert cache.cached() == [digests[0]]


def test_eviction_removes_what_cuts_left_behind(tmp_path):
    cache = make_cache(tmp_path, OneFile(), max_mib=0)
    put_partial(tmp_path, sha256(b"old"), b"x" * 5000)
    (tmp_path / "data/cache/trees/.tmp-x/deep").mkdir(parents=True)
    cache.evict(set())
    assert os.listdir(tmp_path / "data/cache/trees") == []
    assert os.listdir(tmp_path / "data/cache/partial") == []


def test_many_slivers_that_want_the_same_file_fetch_it_once_and_all_get_it(tmp_path):
    gate = threading.Event()

    class Slow(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            gate.wait(10)
            super().fetch(uri, sink, offset, on_start)

    fetcher, digest = Slow({URI: CONTENT}), sha256(CONTENT)
    cache = make_cache(tmp_path, fetcher)
    threads = [threading.Thread(target=fetch, args=(cache, digest, nr)) for nr in range(1, 6)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert fetcher.asked == [(URI, 0)]
    assert cache.cached() == [digest]


def test_when_the_one_that_fetches_is_called_off_another_that_waits_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "WAIT_S", 0.01)
    waiting, digest = threading.Event(), sha256(CONTENT)

    class CalledOff(StepError):
        pass

    def progress(subject, what, done, total):
        if subject.startswith("000000000001"):
            waiting.wait(10)
            raise CalledOff("called off")
        waiting.set()

    fetcher = OneFile({URI: CONTENT})
    cache = make_cache(tmp_path, fetcher, on_progress=progress)
    errors = []

    def first():
        with pytest.raises(CalledOff):
            fetch(cache, digest, 1)
        errors.append("first")

    one = threading.Thread(target=first)
    one.start()
    deadline = time.monotonic() + 10
    while not fetcher.asked and time.monotonic() < deadline:
        time.sleep(0.005)
    fetch(cache, digest, 2)
    one.join(10)
    assert errors == ["first"]
    assert cache.cached() == [digest]


def test_all_that_wait_for_a_fetch_get_its_error(tmp_path):
    gate = threading.Event()

    class Fails(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            self.asked.append(uri)
            gate.wait(10)
            raise RegistryError("the server is down")

    fetcher, said = Fails(), []
    cache = make_cache(tmp_path, fetcher)

    def try_it(nr):
        try:
            fetch(cache, sha256(CONTENT), nr)
        except StepError as error:
            said.append(str(error))

    threads = [threading.Thread(target=try_it, args=(nr,)) for nr in range(1, 4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert said == ["http://files/t cannot be fetched: the server is down"] * 3
    assert len(fetcher.asked) == 1


def test_a_source_of_a_byte_a_second_is_given_up_for_this_time_and_what_came_is_kept(tmp_path):
    now = [0.0]

    class Drip(OneFile):
        def fetch(self, uri, sink, offset, on_start):
            on_start(0, len(CONTENT))
            for at in range(len(CONTENT)):
                now[0] += 1
                sink(CONTENT[at : at + 1])

    path = str(tmp_path / "partial")
    download = downloads.Download(URI, sha256(CONTENT), path, path + ".whole", lambda size: None,
                                  lambda done, total: None, lambda: now[0])  # fmt: skip
    with pytest.raises(StepError, match="too slowly: 60 bytes in 60 s"):
        download.run(Drip())
    assert os.path.getsize(path) == 60


def test_progress_tells_bytes_done_and_total(tmp_path):
    told = []
    cache = make_cache(tmp_path, OneFile({URI: CONTENT}), on_progress=lambda *what: told.append(what))
    fetch(cache, sha256(CONTENT))
    assert told[0] == ("000000000001_0002", "template", 0, len(CONTENT))
    assert told[-1] == ("000000000001_0002", "template", len(CONTENT), len(CONTENT))


# ---- over HTTP -------------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        server.ranges.append(start)
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            whole = len(server.content)
            self.send_header("Content-Range", "bytes {}-{}/{}".format(start, whole - 1, whole))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = cut < len(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.content, one.ranges, one.cuts = CONTENT, [], []
    one.url = "http://127.0.0.1:{}/t".format(one.server_port)
    thread = threading.Thread(target=one.serve_forever, args=(0.05,))
    thread.start()
    yield one
    one.shutdown()
    thread.join(10)
    one.server_close()


def fetch_http(cache, server, digest=None):
    step = make_step("cache", "fetch_template", template=digest or sha256(CONTENT))
    step.sliver.template.uri = server.url
    cache.fetch_template(step)


def test_over_http_a_truncated_body_is_kept_and_the_rest_fetched(tmp_path, server):
    server.cuts = [300_000]
    cache = make_cache(tmp_path, Fetcher(None, []))
    with pytest.raises(StepError, match="truncated"):
        fetch_http(cache, server)
    kept = partial(tmp_path, sha256(CONTENT)).stat().st_size
    fetch_http(cache, server)
    assert server.ranges == [0, kept]
    assert kept > 0
    assert cache.cached() == [sha256(CONTENT)]


def test_over_http_a_partial_file_longer_than_the_file_is_fetched_anew(tmp_path, server):
    put_partial(tmp_path, sha256(CONTENT), CONTENT + b"more")
    cache = make_cache(tmp_path, Fetcher(None, []))
    fetch_http(cache, server)
    assert cache.cached() == [sha256(CONTENT)]


def test_over_http_a_missing_server_is_an_error_that_names_the_address(tmp_path):
    step = make_step("cache", "fetch_template", template=sha256(CONTENT))
    step.sliver.template.uri = "http://127.0.0.1:9/gone"
    with pytest.raises(StepError, match="http://127.0.0.1:9/gone cannot be fetched"):
        make_cache(tmp_path, Fetcher(None, [])).fetch_template(step)


def test_data_is_brought_by_the_fetcher_that_goes_where_slices_may_alone(tmp_path):
    anywhere, guarded = OneFile({URI: b"template"}), OneFile({"http://files/d": CONTENT})
    cache = make_cache(tmp_path, anywhere, data_fetcher=guarded)
    cache.fetch_data(make_step("cache", "fetch_data", data=sha256(CONTENT)))
    fetch(cache, sha256(b"template"))
    assert guarded.asked == [("http://files/d", 0)] and anywhere.asked == [(URI, 0)]


def test_nothing_is_fetched_onto_a_partition_that_can_hardly_hold_more_files(tmp_path, monkeypatch):
    cache = make_cache(tmp_path, OneFile({URI: CONTENT}))
    real = os.statvfs(tmp_path)

    class Scarce:
        f_bavail, f_frsize, f_files, f_favail = real.f_bavail, real.f_frsize, 64000, 999

    monkeypatch.setattr(os, "statvfs", lambda path: Scarce)
    with pytest.raises(StepError, match="hardly any more files"):
        fetch(cache, sha256(CONTENT))
    Scarce.f_favail = 1000
    fetch(cache, sha256(CONTENT))
