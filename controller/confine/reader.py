"""Reads the registry, in a thread of its own, so that a slow registry holds nothing up.

Keeps the last good state in memory and on disk. Without a registry the node keeps what it has, also across a
reboot.
"""

import os
import random
import threading
import time

from confine.core.settings import Settings
from confine.errors import RegistryError
from confine.log import Log
from confine.paths import Paths
from confine.registry import store
from confine.registry.client import Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.registry.download import Fetcher

JITTER = 0.2  # of the interval, either way: nodes that were started together drift apart
WALK_DEADLINE_S = 120.0
START_SPREAD_S = 30.0  # nodes that get their power back together do not all ask in the same second
WAITED = "registry-waited"  # in the run directory: it was done since the node started


class Reader:
    """Owner of the registry state. `on_read()` is called, from the thread, after each try.

    state: the last good state, or None. last_try, last_read: wall clock seconds or None. error: why the last try
    failed, or None.
    """

    def __init__(self, paths: Paths, settings: Settings, log: Log, on_read: "Callable[[], None]") -> None:
        self._paths = paths
        self._interval = settings.interval_s
        self._log = log
        self._on_read = on_read
        self._registry = Registry(settings, paths)
        self.state, problem = store.load(paths)
        self.last_try: float | None = None
        self.last_read: float | None = None
        self.read_at: float | None = None  # as last_read, on the monotonic clock
        self.error: str | None = problem
        self._index_error = ""
        self._due = threading.Condition()
        self._first: float | None = self._first_pause()
        self._asked = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    @property
    def fetcher(self) -> "Fetcher":
        """What downloads templates."""
        return self._registry.fetcher

    @property
    def data_fetcher(self) -> "Fetcher":
        """What downloads slices' data."""
        return self._registry.data_fetcher

    def refresh(self) -> None:
        """Read now instead of at the next interval, also from an address that failed lately."""
        self._registry.retry()
        with self._due:
            self._asked = True
            self._due.notify_all()

    def close(self) -> None:
        """Read no more; does not wait for a read under way."""
        with self._due:
            self._closed = True
            self._due.notify_all()
        self._registry.close()

    def _work(self) -> None:
        while self._wait():
            self.last_try = time.time()
            try:
                self._read()
            except Exception as error:  # whatever comes from outside, the node keeps what it has
                self._failed(str(error) if isinstance(error, RegistryError) else repr(error))
            if not self._closed:
                self._on_read()

    def _first_pause(self) -> float:
        """Only where a node has just started, and knows already what to run. Any other first read comes at once."""
        path = os.path.join(self._paths.run, WAITED)
        if self.state is None or os.path.exists(path):
            return 0.0
        try:
            os.makedirs(self._paths.run, mode=0o700, exist_ok=True)
            with open(path, "w", encoding="ascii"):
                pass
        except OSError:
            return 0.0
        return first_pause(self._interval)

    def _wait(self) -> bool:
        pause = self._interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # spreads load, no secret
        if self._first is not None:
            pause, self._first = self._first, None
        with self._due:
            self._due.wait_for(lambda: self._asked or self._closed, pause)
            self._asked = False
            return not self._closed

    def _read(self) -> None:
        state, changed = self._registry.refresh(self.state, time.monotonic() + WALK_DEADLINE_S)
        if self._closed:
            return
        if changed:
            self._save(state)
            self._log.info("registry", "documents changed: {} held".format(len(state["docs"]) + 2))
        if self.error is not None:
            self._log.info("registry", "is read again")
        if self._registry.index_error != self._index_error:
            self._index_error = self._registry.index_error
            self._log.info("registry", self._index_error or "its index of this node is followed again")
        self.state = state
        self.last_read = time.time()
        self.read_at = time.monotonic()
        self.error = None

    def _save(self, state: "dict[str, Any]") -> None:
        try:
            store.save(self._paths, state)
        except OSError as error:
            self._log.warn("registry", "the state read could not be kept on disk: {}".format(error))

    def _failed(self, reason: str) -> None:
        if reason != self.error:
            self._log.warn("registry", reason)
        self.error = reason


def first_pause(interval: float) -> float:
    """Seconds from a node's start to its first read of the registry."""
    return random.uniform(0, min(interval, START_SPREAD_S))  # noqa: S311  # spreads load, no secret
