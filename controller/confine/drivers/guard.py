"""Watches over the node's tables: as soon as somebody else changes them, no sliver sends or receives any more.

A thread that sleeps in the kernel until nftables change. When a change of our tables was not made by us (somebody
flushed the ruleset, took a rule away, put one in) it takes the node's ends of all slivers' interfaces down, wakes the
controller, and keeps them down until the tables have been put up again.
"""

import errno
import os
import select
import threading
import time

from confine.drivers import nft, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN_S = 0.05  # while shut: interfaces that come up meanwhile are taken down, too
WAIT_S = 2.0


class Guard:
    """tables: {(family, table)} that only we may change; other: those whose changes the controller is to look at.

    reason, since: why and since when (wall clock) slivers are cut off, None while they are not. shut_count: how often
    that happened.
    """

    def __init__(
        self, tables: "set[tuple[str, str]]", other: "set[tuple[str, str]]", wake: "Callable[[], None]"
    ) -> None:
        self.reason: str | None = None
        self.since: float | None = None
        self.shut_count = 0
        self.changes = 0  # of `other`
        self._tables = tables
        self._other = other
        self._wake = wake
        self._lock = threading.Lock()
        self._heard = threading.Condition(self._lock)
        # What is down now was taken down by the guard of an earlier daemon, which ended before it could let go.
        self._down = set(ports.down(ports.of(None)))
        self._socket = nft.listener()
        self._seen = nft.generation()
        self._end, self._end_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Whatever is down stays down."""
        os.close(self._end_write)
        self._thread.join(WAIT_S)
        self._socket.close()
        os.close(self._end)

    def caught_up(self) -> bool:
        """Wait until every change that there was by now is known. False if this does not come to be: it is deaf."""
        now = nft.generation()
        with self._heard:
            return self._heard.wait_for(lambda: self._has_seen(now), WAIT_S)

    def _has_seen(self, generation: "int | None") -> bool:
        return generation is not None and self._seen is not None and (self._seen - generation) % (1 << 32) < 1 << 31

    def shut(self, reason: str) -> None:
        """Take every sliver's interface down, and have the controller put things right."""
        with self._lock:
            self.shut_count += 1
            if self.reason is None:
                self.reason, self.since = reason, time.time()
            self._down.update(ports.take_down(ports.of(None)))
        self._wake()

    def reopen(self, shut_count: int, stay: "Callable[[str], bool]") -> None:
        """Let those speak that were silenced, unless it was shut again since `shut_count` was read; `stay`(port): it
        has to be silent for another reason."""
        with self._lock:
            if self.shut_count != shut_count:
                return
            self.reason = self.since = None
            down, self._down = self._down, set()
            ports.let_speak([port for port in sorted(down) if not stay(port)])

    # The thread

    def _watch(self) -> None:
        try:  # slivers that use all of the processor must not keep the wall open
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            pass
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        waiting.register(self._end, select.POLLIN)
        while True:
            ready = dict(waiting.poll(AGAIN_S * 1000 if self.reason else None))
            if self._end in ready:
                return
            try:
                if ready:
                    self._hear()
                else:
                    self._silence_again()
            except OSError as error:  # no descriptor is left, say: what it did not see counts as a change
                with self._lock:
                    self.shut_count += 1
                    self.reason = self.reason or "changes cannot be followed: {}".format(error)
                    self.since = self.since or time.time()
                self._wake()
                time.sleep(AGAIN_S)

    def _silence_again(self) -> None:
        with self._lock:
            if self.reason is not None:
                self._down.update(ports.take_down(ports.of(None)))

    def _hear(self) -> None:
        try:
            touched, changed, seen = heard(self._socket.recv(65536), self._tables, self._other)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            touched, changed, seen = "more was changed at once than could be followed", True, nft.generation()
        if touched is not None:
            self.shut(touched)
        elif changed:
            self._wake()
        with self._heard:
            self.changes += changed
            if seen is not None:
                self._seen = seen
            self._heard.notify_all()


def heard(
    data: bytes, tables: "set[tuple[str, str]]", other: "set[tuple[str, str]]"
) -> "tuple[str | None, bool, int | None]":
    """(what somebody else did to `tables`, whether `other` were changed, the count of changes) that `data` says."""
    touched, changed, seen = None, False, None
    for _, kind, port, body in nft.messages(data):
        if kind == nft.NFT_MSG_NEWGEN:
            seen = nft.generation_of(body)
            continue
        table = nft.table_of(kind, body)
        if table in tables and not nft.is_own(port):
            touched = "{} {} was changed by process {}".format(*(table or ("", "")), port)
        changed = changed or table in other
    return touched, changed, seen
