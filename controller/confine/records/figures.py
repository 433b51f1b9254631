"""Figures of the slivers over time: the last ten minutes each 10 s, three hours each minute, fourteen days each hour.

In memory 28 KiB for each sliver. On data: once an hour, and at a clean stop, what is new in minutes and in hours is
appended to a series of files each, with one fsync: 48 writes a day. A power cut loses at most the last hour.

Time is that since boot, so that a clock that is set does no harm; wall time is worked out when somebody reads. What
the node did not measure is a gap.
"""

import os
import threading

from confine.drivers.usage import disk_and_traffic
from confine.records import moments, pieces, rings
from confine.records.actions import DAY_S, MIB, directory
from confine.records.segments import Segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths

SAVE_S = 3600.0
MAX_SLIVERS = 250  # twice as many as a node runs: figures of those that went stay a while
FINE_FRAMES = 6  # how many saved pieces by minutes are read at the start: those of the last hours
SAVED = {"minutes": 1, "hours": 3}  # and which quarters of the bound (setting `record.figure_mib`) each may hold
LARGEST_PIECE = 16 * MIB


class _Sliver:
    """One sliver's rings and what goes into them next."""

    def __init__(self) -> None:
        self.rings = {step: rings.Ring(rings.LENGTHS[step]) for step in rings.STEPS}
        self.minute, self.hour = rings.Fold(60), rings.Fold(3600)
        self.usage: dict[str, Any] | None = None
        self.up = 0.0
        self.unsaved: dict[str, list[list[float]]] = {kind: [] for kind in SAVED}


class Figures:
    """Takes samples, keeps and gives them. Thread-safe. Only `sample` writes, and never raises.

    now: gives the present Moment (tests).
    """

    def __init__(self, paths: "Paths", settings: "Settings", now: "Callable[[], moments.Moment]" = moments.now) -> None:
        self._now = now
        self._days = settings.record_days
        place, total = os.path.join(directory(paths), "figures"), settings.record_figure_mib * MIB
        self._series = {kind: Segments(place, kind, total * part // 4) for kind, part in SAVED.items()}
        self._lock = threading.Lock()
        self._slivers: dict[str, _Sliver] = {}
        self._boots: list[str] = []
        self._clocks = moments.Clocks()
        self._saved_up: float | None = None
        self._error: str | None = None
        self._loaded = False

    def sample(self, usages: "dict[str, dict[str, Any]]", now: "moments.Moment | None" = None) -> None:
        """Take a reading of all slivers that run: {name: what LimitsDriver.usage gives, and received_bytes, sent_bytes,
        disk_bytes}. To be called every 10 s."""
        moment = self._now() if now is None else now
        with self._lock:
            self._load()
            self._clocks.note(moment)
            boot = self._boot(moment.boot)
            for name, usage in usages.items():
                self._take(name, usage, boot, moment.up)
            self._forget(usages)
            if self._saved_up is None or moment.up < self._saved_up:
                self._saved_up = moment.up
            due = moment.up - self._saved_up >= SAVE_S
        if due:
            self.save(moment)

    def read(self, name: str, since: "float | None" = None, step: "int | None" = None) -> "list[dict[str, Any]]":
        """A sliver's rows, oldest first: {"time" (its end, seconds since 1970), "time_sure", "seconds", and each of
        rings.FIELDS, a number or None}. step: 10, 60 or 3600; None: the finest that reaches back to `since`."""
        with self._lock:
            self._load()
            sliver = self._slivers.get(name)
            if sliver is None:
                return []
            if step is None:
                return self._finest(sliver, since)
            return self._rows(sliver, step, since) if step in sliver.rings else []

    def names(self) -> "list[str]":
        """The slivers of which there are figures."""
        with self._lock:
            self._load()
            return sorted(self._slivers)

    def latest(self) -> "dict[str, list[dict[str, Any]]]":
        """{name: [its newest row]} of those that run, for `visible`."""
        with self._lock:
            running = {name: sliver for name, sliver in self._slivers.items() if sliver.usage is not None}
            return {name: self._rows(sliver, 10, None)[-1:] for name, sliver in running.items()}

    def save(self, now: "moments.Moment | None" = None, rest: bool = False) -> None:
        """Write what is new. rest: also what does not make a whole minute or hour yet, before a stop."""
        moment = self._now() if now is None else now
        with self._lock:
            boot = self._boot(moment.boot)
            if rest:
                for sliver in self._slivers.values():
                    self._fold(sliver, boot, sliver.minute.take(), sliver.hour.take())
            self._saved_up = moment.up
            try:
                for kind, series in self._series.items():
                    self._append(kind, series, moment)
                self._error = None
            except OSError as error:
                self._error = "figures cannot be written: {}".format(error.strerror or error)

    def status(self) -> "dict[str, Any]":
        """{slivers: count, error: why they cannot be written or None, problems: damage found}"""
        with self._lock:
            count = len(self._slivers)
        problems = [text for series in self._series.values() for text in series.problems]
        return {"slivers": count, "error": self._error, "problems": problems}

    def size(self) -> int:
        """Bytes on disk."""
        return sum(series.size() for series in self._series.values())

    # ---- parts --------------------------------------------------------------------------------------------------

    def _take(self, name: str, usage: "dict[str, Any]", boot: int, up: float) -> None:
        sliver = self._slivers.setdefault(name, _Sliver())
        before, seconds = sliver.usage, up - sliver.up
        sliver.usage, sliver.up = dict(usage), up
        if before is None or seconds <= 0:
            return  # the first reading says nothing of a span
        row = rings.difference(before, usage, seconds)
        sliver.rings[10].add(boot, up, row)
        minute = sliver.minute.add(up, row)
        hour = sliver.hour.add(up, row)
        self._fold(sliver, boot, minute, hour)

    def _fold(self, sliver: _Sliver, boot: int, minute: "Any", hour: "Any") -> None:
        for kind, step, found in (("minutes", 60, minute), ("hours", 3600, hour)):
            if found is not None:
                up, row = found
                sliver.rings[step].add(boot, up, row)
                sliver.unsaved[kind].append([up, *row])
                del sliver.unsaved[kind][: -rings.LENGTHS[step]]  # as long as the disk takes none

    def _forget(self, usages: "dict[str, dict[str, Any]]") -> None:
        """Of slivers that do not run: what was counted last is no beginning any more. Too many: the longest gone go."""
        for name, sliver in self._slivers.items():
            if name not in usages:
                sliver.usage = None
        while len(self._slivers) > MAX_SLIVERS:
            del self._slivers[min(self._slivers, key=lambda name: self._slivers[name].up)]

    def _boot(self, boot: str) -> int:
        if boot not in self._boots:
            self._boots.append(boot)
        return min(self._boots.index(boot), 65535)

    def _finest(self, sliver: _Sliver, since: "float | None") -> "list[dict[str, Any]]":
        for step in rings.STEPS:
            rows = self._rows(sliver, step, None)
            reaches = since is not None and rows and rows[0]["time"] - rows[0]["seconds"] <= since
            if reaches or step == rings.STEPS[-1]:
                return [row for row in rows if since is None or row["time"] >= since]
        return []

    def _rows(self, sliver: _Sliver, step: int, since: "float | None") -> "list[dict[str, Any]]":
        rows = []
        for boot, up, row in sliver.rings[step].rows():
            wall = self._clocks.wall(self._boots[boot], up)
            time, sure = wall if wall is not None else (up, False)
            if since is None or time >= since:
                rows.append({"time": round(time, 1), "time_sure": sure, **rings.shown(row)})
        return rows

    def _append(self, kind: str, series: Segments, moment: "moments.Moment") -> None:
        rows = {name: sliver.unsaved[kind] for name, sliver in self._slivers.items() if sliver.unsaved[kind]}
        if not rows:
            return
        series.append([pack(kind, rows, moment)], moment.sure)
        for name in rows:
            self._slivers[name].unsaved[kind] = []
        if moment.sure:
            series.drop_aged(moment.wall - self._days * DAY_S)

    # ---- what was saved -----------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Once, when it is first needed: a start of the daemon does not wait for it."""
        if self._loaded:
            return
        self._loaded = True
        for kind, series in self._series.items():
            pieces = [found for found in map(split, series.read()) if found is not None]
            for head, packed in pieces if kind == "hours" else pieces[-FINE_FRAMES:]:
                self._restore(head, packed)

    def _restore(self, head: "dict[str, Any]", packed: bytes) -> None:
        self._clocks.note(moments.Moment(head["t"], head["up"], head["boot"], head["sure"]))
        boot = self._boot(head["boot"])
        step = 60 if head["kind"] == "minutes" else 3600
        for name, rows in unpack(packed):
            if name not in self._slivers and len(self._slivers) >= MAX_SLIVERS:
                continue
            sliver = self._slivers.setdefault(name, _Sliver())
            for row in rows:
                sliver.rings[step].add(boot, row[0], row[1:])


def pack(kind: str, rows: "dict[str, list[list[float]]]", moment: "moments.Moment") -> bytes:
    """A piece to be saved as the payload of a frame."""
    plain = {
        name: [[round(value, 3) if value == value else None for value in row] for row in of]
        for name, of in rows.items()
    }
    return pieces.join(moment, {"kind": kind}, plain)


def split(payload: bytes) -> "tuple[dict[str, Any], bytes] | None":
    """(head, packed rows); None if it is none."""
    found = pieces.split(payload)
    return found if found is not None and found[0].get("kind") in SAVED else None


def unpack(packed: bytes) -> "Iterator[tuple[str, list[list[float]]]]":
    """(name, rows) of each sliver; rows that are none are left out."""
    for name, rows in pieces.unpack(packed, LARGEST_PIECE).items():
        yield name, [_numbers(row) for row in (rows if isinstance(rows, list) else []) if _is_row(row)]


def _is_row(row: "Any") -> bool:
    if (
        not isinstance(row, list)
        or len(row) != rings.WIDTH + 1
        or not pieces.is_time(row[0])
        or not rings.is_number(row[1])
    ):
        return False
    return all(value is None or rings.is_number(value, rings.LARGEST_FIGURE) for value in row[2:])


def _numbers(row: "list[Any]") -> "list[float]":
    return [rings.NOTHING if value is None else float(value) for value in row]


class Sampler:
    """Samples every 10 s in a thread of its own, and saves the rest at `close()`.

    names: gives [(name, number)] of the slivers that run. usage: `Machine.usage`.
    """

    def __init__(
        self,
        paths: "Paths",
        figures: Figures,
        names: "Callable[[], list[tuple[str, int]]]",
        usage: "Callable[[str], dict[str, Any]]",
    ) -> None:
        self._paths = paths
        self._figures = figures
        self._names = names
        self._usage = usage
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="figures", daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop, and save what is not yet saved."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._figures.save(rest=True)

    def _work(self) -> None:
        self._sample()
        while not self._closing.wait(rings.STEPS[0]):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        try:
            self._figures.sample({name: self._reading(name, nr) for name, nr in self._names()})
            self.error = None
        except Exception as error:  # a reading that fails is a gap, no more
            self.error = repr(error)

    def _reading(self, name: str, nr: int) -> "dict[str, Any]":
        return {**self._usage(name), **disk_and_traffic(self._paths, name, nr)}
