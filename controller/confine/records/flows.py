"""Records which sliver had which connection when, from the kernel's connection tracking, in a thread of its own.

Only beginnings and ends are listened to (ctnetlink groups NEW and DESTROY): the translation is settled before the
first packet leaves, and an end says how much went each way (net.netfilter.nf_conntrack_acct). All connections there
are are listed at the start, once an hour, and after events were lost. No process is started; an idle sliver costs
nothing; what is new is written every `record.flow_minutes` (10: at most 144 writes of some KiB a day, beside one
sorting for each 2 MiB), or when EARLY connections wait, and at a clean stop. A power cut loses what came since.

Not seen: what is bridged past the node's own IP (isolated and direct interfaces); `trace` then goes by addresses alone.
"""

import errno
import os
import select
import socket
import threading
import time

from confine.records import conntrack, moments
from confine.records.actions import MIB, directory
from confine.records.flow_store import FlowStore
from confine.records.flow_table import FlowTable
from confine.wake import Wake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths

    Slivers = Callable[[], list[tuple[str, int, list[str]]]]

SYSCTLS = "/proc/sys/net/netfilter"
WANTED = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")
SO_RCVBUFFORCE = 33
BUFFER = 1024 * 1024  # bytes the kernel holds for us: some 2000 events
ADDRESSES_S = 2.0  # how old the slivers' addresses may be
LIST_S = 3600.0
LIST_AFTER_LOSS_S = 10.0
CONNECT_S = 60.0
EARLY = 8192
KEPT_BATCHES = 3  # that could not be written


def store(paths: "Paths", settings: "Settings") -> FlowStore:
    """The flow records of this node, to read or to write."""
    place = os.path.join(directory(paths), "flows")
    return FlowStore(place, settings.record_flow_mib * MIB, settings.record_days)


class FlowRecorder:
    """Listens and writes between `start()` and `close()`.

    slivers: gives [(name, number, [address])] of the slivers there are, from any thread
    (`lambda: owners.booked_addresses(settings, journal.bookings())`). With setting `record.flows` off, start does
    nothing. Nothing here raises; what is wrong is in `status()`.
    """

    def __init__(self, paths: "Paths", settings: "Settings", slivers: "Slivers") -> None:
        self._wanted = settings.record_flows
        self._every = settings.record_flow_minutes * 60.0
        self._slivers = slivers
        self._store = store(paths, settings)
        self._table = FlowTable(self._find)
        self._names: dict[bytes, str] = {}
        self._names_due = 0.0
        self._session = os.urandom(4).hex()
        self._unwritten: list[tuple[dict[str, Any], moments.Moment]] = []
        self._error: str | None = None
        self._disk_error: str | None = None
        self._events = self._overruns = self._lost_batches = 0
        self._list_at = 0.0
        self._state = threading.Condition()
        self._asked = self._done = 0  # flushes
        self._closing = False
        self._wake = Wake()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to record."""
        if self._wanted and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flows", daemon=True)
            self._thread.start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Have written what is known by now (before a search). False: not done in time, or the disk refuses."""
        with self._state:
            if self._thread is None or not self._thread.is_alive():
                return False
            self._asked += 1
            mine = self._asked
            self._wake.tell()
            return self._state.wait_for(lambda: self._done >= mine, timeout) and self._disk_error is None

    def close(self, timeout: float = 5.0) -> bool:
        """Write and stop. False: it did not end in time."""
        self._closing = True
        self._wake.tell()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return False
        self._wake.close()
        return True

    def status(self) -> "dict[str, Any]":
        """{on, open: connections under way, events, overruns: times the kernel dropped events, coarse: connections kept
        only in groups, lost_batches, error: why nothing is heard or written, or None, problems: damage}"""
        return {
            "on": self._thread is not None and self._thread.is_alive(),
            "open": self._table.open_flows(),
            "events": self._events,
            "overruns": self._overruns,
            "coarse": self._table.coarse,
            "lost_batches": self._lost_batches,
            "error": self._error or self._disk_error,
            "problems": self._store.problems,
        }

    def size(self) -> int:
        """Bytes on disk."""
        return self._store.size()

    # ---- the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            try:
                listener = connect()
            except OSError as error:
                self._error = "connection tracking cannot be listened to: {}".format(error.strerror or error)
                self._wait_without(time.monotonic() + CONNECT_S)
                continue
            self._error = None
            with listener:
                try:
                    self._listen(listener)
                except Exception as error:  # nothing that was heard may end the recording
                    self._error = "flow record: unexpected {!r}".format(error)
                    self._wait_without(time.monotonic() + LIST_AFTER_LOSS_S)
        self._write()

    def _wait_without(self, until: float) -> None:
        while not self._closing and time.monotonic() < until:
            if select.select([self._wake.handle], [], [], max(0.0, until - time.monotonic()))[0]:
                self._woken()

    def _listen(self, listener: socket.socket) -> None:
        """Until told to close, or the socket is of no more use."""
        self._list_at = 0.0
        due = time.monotonic() + self._every
        while not self._closing:
            now = time.monotonic()
            if now >= self._list_at:
                switch_on()
                self._list_at = now + LIST_S
                self._list(listener)
            if now >= due or self._table.waiting() >= EARLY:
                self._write()
                due = now + self._every
            wait = max(0.0, min(due, self._list_at) - now)
            ready = select.select([listener.fileno(), self._wake.handle], [], [], wait)[0]
            if listener.fileno() in ready and not self._hear(listener):
                return
            if self._wake.handle in ready:
                self._woken()

    def _list(self, listener: socket.socket) -> None:
        try:
            listener.send(conntrack.dump_request(1))
            self._table.begin_listing(moments.uptime())
        except OSError as error:
            if error.errno != errno.EBUSY:  # EBUSY: the listing before is still under way
                self._error = "connections cannot be listed: {}".format(error.strerror)

    def _hear(self, listener: socket.socket) -> bool:
        """Take in all that is there, for a while. False: connect anew."""
        up, wall = moments.uptime(), time.time()
        for _ in range(256):
            try:
                datagram = listener.recv(65536)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._error = "connection tracking ended: {}".format(error.strerror)
                    return False
                self._overruns += 1
                self._list_at = min(self._list_at, time.monotonic() + LIST_AFTER_LOSS_S)
                continue
            for event in conntrack.events(datagram):
                if event is None:
                    self._table.end_listing(up)
                else:
                    self._events += 1
                    self._table.note(event, up, wall)
        return True

    def _woken(self) -> None:
        self._wake.clear()
        with self._state:
            asked = self._asked
        if asked > self._done:
            self._write()
            with self._state:
                self._done = asked
                self._state.notify_all()

    def _write(self) -> None:
        batch = self._table.take()
        moment = moments.now()
        if batch:
            self._unwritten.append((batch, moment))
        while self._unwritten:
            try:
                if self._store.append(*self._unwritten[0], self._session):
                    self._table.say_again()
            except OSError as error:
                self._disk_error = "flow records cannot be written: {}".format(error.strerror or error)
                self._lost_batches += len(self._unwritten[:-KEPT_BATCHES])
                del self._unwritten[:-KEPT_BATCHES]
                return
            self._unwritten.pop(0)
        self._disk_error = None

    def _find(self, address: bytes) -> "str | None":
        now = time.monotonic()
        if now >= self._names_due:
            self._names_due = now + ADDRESSES_S
            try:
                self._names = packed(self._slivers())
            except Exception as error:  # the ones known before stay good
                self._error = "the slivers' addresses cannot be had: {!r}".format(error)
        return self._names.get(address)


def packed(slivers: "list[tuple[str, int, list[str]]]") -> "dict[bytes, str]":
    """{packed address: sliver}."""
    found = {}
    for name, _, addresses in slivers:
        for address in addresses:
            try:
                found[socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)] = name
            except OSError:
                continue  # not an address: nothing comes from it
    return found


def connect() -> socket.socket:
    """A socket that hears of every connection that begins or ends."""
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, conntrack.NETLINK_NETFILTER)
    try:
        listener.setblocking(False)
        try:
            listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except OSError:
            pass  # not allowed here: the usual size must do
        listener.bind((0, 0))
        for group in (conntrack.GROUP_NEW, conntrack.GROUP_DESTROY):
            listener.setsockopt(conntrack.SOL_NETLINK, conntrack.NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        listener.close()
        raise
    return listener


def switch_on() -> None:
    """Have the kernel count and stamp connections and tell of them. Those that began before are not counted."""
    for name in WANTED:
        path = os.path.join(SYSCTLS, name)
        try:
            with open(path, "rb+", buffering=0) as file:
                if file.read(8).strip() == b"0":
                    file.seek(0)  # the kernel takes a number at the beginning only
                    file.write(b"1")
        except OSError:
            pass  # not loaded yet, or not in this kernel: flows are recorded without
