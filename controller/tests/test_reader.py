"""The reader: the last good state stands whatever the registry does."""

import threading
import time

import pytest

from confine import reader as reader_module
from confine.core import settings as settings_table
from confine.errors import RegistryError
from confine.log import Log
from confine.paths import Paths
from confine.reader import Reader

STATE = {"base": None, "node": None, "docs": {}, "gone": [], "problems": {}, "date": None, "complete": True}


class FakeRegistry:
    """Answers what the test put into `answers`, in order, then nothing new."""

    def __init__(self, settings, paths):
        self.answers = []
        self.fetcher = None
        self.retries = 0
        self.index_error = ""

    def refresh(self, previous, deadline):
        answer = self.answers.pop(0) if self.answers else (previous, False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def retry(self):
        self.retries += 1

    def close(self):
        pass


def make_reader(tmp_path, on_read):
    settings, _ = settings_table.parse({})
    return Reader(Paths(data=str(tmp_path), run=str(tmp_path / "run")), settings, Log(None, echo=False), on_read)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "Registry", FakeRegistry)
    monkeypatch.setattr(reader_module.store, "load", lambda paths: (None, None))
    reads = threading.Semaphore(0)
    reader = make_reader(tmp_path, reads.release)
    yield reader, reader._registry, reads
    reader.close()


def next_read(reader, reads):
    reader.refresh()
    assert reads.acquire(timeout=5)


def begin(reader, reads):
    reader.start()
    assert reads.acquire(timeout=5)


def test_a_node_that_starts_knowing_what_to_run_waits_a_little_so_that_not_all_nodes_ask_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "Registry", FakeRegistry)
    monkeypatch.setattr(reader_module.store, "load", lambda paths: (STATE, None))
    monkeypatch.setattr(reader_module, "first_pause", lambda interval: 3600.0)
    reads = threading.Semaphore(0)
    reader = make_reader(tmp_path, reads.release)
    reader.start()
    assert not reads.acquire(timeout=0.2)
    reader.refresh()  # somebody asks: now
    assert reads.acquire(timeout=5)
    reader.close()
    again = make_reader(tmp_path, reads.release)  # the daemon alone began anew
    again.start()
    assert reads.acquire(timeout=5)
    again.close()


def test_the_wait_at_the_start_is_never_longer_than_the_interval():
    assert all(0 <= reader_module.first_pause(5) <= 5 for _ in range(100))
    assert all(0 <= reader_module.first_pause(3600) <= reader_module.START_SPREAD_S for _ in range(100))


def test_the_first_read_comes_at_once(site):
    reader, registry, reads = site
    registry.answers = [(STATE, True)]
    begin(reader, reads)
    assert reader.state == STATE
    assert reader.error is None


@pytest.mark.parametrize("fault", [RegistryError("connection refused"), ValueError("rubbish"), RecursionError()])
def test_a_registry_that_fails_leaves_the_last_good_state_and_is_named(site, fault):
    reader, registry, reads = site
    registry.answers = [(STATE, True), fault]
    begin(reader, reads)
    next_read(reader, reads)
    assert reader.state == STATE
    assert reader.error


def test_an_error_is_forgotten_when_the_registry_is_back(site):
    reader, registry, reads = site
    registry.answers = [RegistryError("down"), (STATE, True)]
    begin(reader, reads)
    assert reader.error == "down"
    next_read(reader, reads)
    assert reader.error is None


def test_what_has_not_changed_is_not_written(site, monkeypatch):
    reader, registry, reads = site
    written = []
    monkeypatch.setattr(reader_module.store, "save", lambda paths, state: written.append(state))
    registry.answers = [(STATE, True), (STATE, False), (STATE, False)]
    begin(reader, reads)
    next_read(reader, reads)
    next_read(reader, reads)
    assert len(written) == 1


def test_a_full_disk_does_not_keep_the_node_from_using_what_it_read(site, monkeypatch):
    reader, registry, reads = site

    def full(paths, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader_module.store, "save", full)
    registry.answers = [(STATE, True)]
    begin(reader, reads)
    assert reader.state == STATE


def test_a_refresh_tries_addresses_that_failed_lately_again(site):
    reader, registry, reads = site
    begin(reader, reads)
    next_read(reader, reads)
    assert registry.retries == 1


def test_reads_come_at_the_interval_with_jitter(site, monkeypatch):
    reader, _, reads = site
    reader._interval = 0.05
    begin(reader, reads)
    begun = time.monotonic()
    assert reads.acquire(timeout=5)
    assert time.monotonic() - begun >= 0.05 * (1 - reader_module.JITTER) * 0.5
