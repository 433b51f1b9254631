"""Flow records on the disk: few writes, and room shared out among the slivers.

What a write brings goes, for all slivers together, to the series `recent`: one append, one fsync. A segment of it that
is closed is sorted by sliver into a series for each, `of/<sliver>/`, and removed. When all together are over the bound
(setting `record.flow_mib`), the sliver that holds most loses its oldest: nobody pushes others' records out.

Each frame is one line of JSON, the head, and a zlib stream of JSON, {sliver: {"flows": rows, "groups": rows}} with
rows as in flow_table.py. Head: {"v": 1, "t", "up", "boot", "sure" (when written), "session", "first", "last" (span of
its rows, seconds since boot; last None: some were open), "from": number of the recent segment it was sorted from}.
"""

import os
import re

from confine.records import pieces
from confine.records.moments import Moment
from confine.records.pieces import is_time
from confine.records.segments import SMALLEST_SEGMENT, Segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Batch = dict[str, dict[str, list[Any]]]

RECENT = "recent"
OF = "of"
PREFIX = "flows"
RECENT_PART = 8  # the recent series may hold this part of the bound
LARGEST_BATCH = 32 * 1024 * 1024  # bytes when unpacked; nothing larger was ever written
DAY_S = 86400.0
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
FLOW_ROW, GROUP_ROW = 15, 11


class FlowStore:
    """Owner of the files below `directory`. total: bytes, days: span. Not thread-safe; reading needs no writer."""

    def __init__(self, directory: str, total: int, days: int) -> None:
        self.directory = directory
        self._total = total
        self._days = days
        self.recent = Segments(os.path.join(directory, RECENT), PREFIX, total // RECENT_PART)
        self._read_problems: list[str] = []

    @property
    def problems(self) -> "list[str]":
        """Damage found, one sentence each."""
        return [*self.recent.problems, *self._read_problems]

    # ---- writing ------------------------------------------------------------------------------------------------

    def append(self, batch: "Batch", moment: Moment, session: str) -> bool:
        """Write a batch durably. True: a new file was begun, and open flows are to be said again. OSError: nothing of
        it is written for certain."""
        before = self.recent.newest
        self.recent.append([pack(batch, moment, session, None)], moment.sure)
        changed = before != self.recent.newest
        if changed:
            self.tidy(moment)
        return changed

    def tidy(self, moment: Moment) -> None:
        """Sort what is closed by sliver, then drop what is over the bounds."""
        for number in self.recent.numbers()[:-1]:
            self._sort(number, moment)
        if moment.sure:
            for name in self._names():
                series = self._series(name)
                series.drop_aged(moment.wall - self._days * DAY_S)
        self._trim()

    def size(self) -> int:
        """Bytes on disk."""
        return self.recent.size() + sum(self._series(name).size() for name in self._names())

    def _sort(self, number: int, moment: Moment) -> None:
        """Move a closed recent segment into the slivers' series. Cut off within, it is done again: rows found twice
        are one when read."""
        parts: dict[str, list[bytes]] = {}
        for head, batch in self._unpacked(self.recent.read([number])):
            for name, rows in batch.items():
                written = Moment(head["t"], head["up"], head["boot"], head["sure"])
                parts.setdefault(name, []).append(pack({name: rows}, written, head["session"], number))
        for name, payloads in parts.items():
            if NAME.match(name) and not name.startswith("."):
                series = self._series(name)
                if not any(head.get("from") == number for head, _ in self._heads(series, series.numbers()[-2:])):
                    series.append(payloads, moment.sure)
        self.recent.drop(number)

    def _trim(self) -> None:
        sizes = {name: self._series(name).size() for name in self._names()}
        while sizes and sum(sizes.values()) + self.recent.size() > self._total:
            name = max(sizes, key=lambda found: sizes[found])
            series = self._series(name)
            if not series.drop_oldest(keep_newest=False):
                del sizes[name]
                self._remove(name)
                continue
            sizes[name] = series.size()

    def _remove(self, name: str) -> None:
        path = os.path.join(self.directory, OF, name)
        try:
            for file in os.listdir(path):
                os.unlink(os.path.join(path, file))
            os.rmdir(path)
        except OSError:
            pass  # an empty directory costs next to nothing

    def _names(self) -> "list[str]":
        try:
            return sorted(name for name in os.listdir(os.path.join(self.directory, OF)) if NAME.match(name))
        except OSError:
            return []

    def _series(self, name: str) -> Segments:
        segment = max(SMALLEST_SEGMENT, self._total // 64)
        return Segments(os.path.join(self.directory, OF, name), PREFIX, self._total, segment=segment)

    # ---- reading ------------------------------------------------------------------------------------------------

    def heads(self) -> "list[dict[str, Any]]":
        """The heads of all frames."""
        return [head for series in self._all() for head, _ in self._heads(series)]

    def batches(self, wanted: "Any") -> "Iterator[tuple[dict[str, Any], Batch]]":
        """(head, batch) of every frame whose head `wanted(head)` likes, in no order."""
        for series in self._all():
            yield from self._unpacked(series.read(), wanted)

    def _all(self) -> "Iterator[Segments]":
        for series in [self.recent, *(self._series(name) for name in self._names())]:
            yield series
            self._read_problems += [text for text in series.problems if text not in self.problems]

    def _heads(self, series: Segments, numbers: "list[int] | None" = None) -> "Iterator[tuple[dict[str, Any], bytes]]":
        for payload in series.read(numbers):
            found = split(payload)
            if found is not None:
                yield found

    def _unpacked(
        self, payloads: "Iterator[bytes]", wanted: "Any" = lambda head: True
    ) -> "Iterator[tuple[dict[str, Any], Batch]]":
        for payload in payloads:
            found = split(payload)
            if found is not None and wanted(found[0]):
                yield found[0], unpack(found[1])


def pack(batch: "Batch", moment: Moment, session: str, origin: "int | None") -> bytes:
    """A batch as the payload of a frame."""
    firsts: list[float] = []
    lasts: list[float | None] = []
    for rows in batch.values():
        firsts += [row[8] for row in rows["flows"]] + [row[7] for row in rows["groups"]]
        lasts += [row[9] for row in rows["flows"]] + [row[8] for row in rows["groups"]]
    ended = [last for last in lasts if last is not None]
    head = {
        "session": session,
        "first": min(firsts, default=moment.up),
        "last": max(ended) if ended and len(ended) == len(lasts) else None,
        "from": origin,
    }
    return pieces.join(moment, head, batch)


def split(payload: bytes) -> "tuple[dict[str, Any], bytes] | None":
    """(head, packed rows) of a payload; None if it is none."""
    found = pieces.split(payload)
    if found is None or not isinstance(found[0].get("session"), str) or not is_time(found[0].get("first")):
        return None
    last = found[0].get("last")
    return found if last is None or is_time(last) else None


def unpack(packed: bytes) -> "Batch":
    """The rows, without those that are none."""
    batch = pieces.unpack(packed, LARGEST_BATCH)
    found = {}
    for name, rows in batch.items():
        if isinstance(rows, dict):
            found[name] = {
                "flows": [row for row in _rows(rows, "flows", FLOW_ROW) if _is_flow(row)],
                "groups": [row for row in _rows(rows, "groups", GROUP_ROW) if _is_group(row)],
            }
    return found


def _rows(rows: "dict[str, Any]", kind: str, length: int) -> "list[list[Any]]":
    found = rows.get(kind)
    found = found if isinstance(found, list) else []
    return [row for row in found if isinstance(row, list) and len(row) == length]


def _is_flow(row: "list[Any]") -> bool:
    texts = all(isinstance(row[index], str) for index in (1, 2, 4, 6))
    numbers = all(is_time(row[index]) for index in (0, 3, 5, 7, 8))
    return texts and numbers and all(value is None or is_time(value) for value in row[9:14])


def _is_group(row: "list[Any]") -> bool:
    texts = isinstance(row[1], str) and all(row[index] is None or isinstance(row[index], str) for index in (2, 3))
    return texts and is_time(row[0]) and all(is_time(value) for value in row[4:])
