"""The record of every action on a sliver: what was done, why, because of which document and revision, and whose.

One JSON document for each action, framed and checksummed (frames.py), in segments bounded by size and span
(settings `record.action_mib`, `record.days`). Whoever adds one never waits for the disk: a thread writes what is
queued and makes it durable, each batch with one fsync. What cannot be written stays in memory, the newest WAITING of
it; how many were lost is itself recorded. The daemon and the CLI may write side by side.

    {"t": 1763632180.5, "up": 812.25, "boot": "1f0c9a3e", "sure": true, "run": "9c41e07a", "n": 17,
     "kind": "step", "subject": "000000000005_0001", "who": "registry: group 3 Students", "what": "containers start",
     "why": "asked for: started", "document": "https://.../slivers/5", "revision": "\\"1a2b\\"", "more": {...}}

run, n: the process that wrote it and its count there; a gap in n is a lost record. n of a note of losses is negative.
"""

import collections
import json
import os
import threading
import time

from confine.records import moments
from confine.records.segments import Segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths

PREFIX = "actions"
WAITING = 1024  # records that may wait for the disk; then the oldest of them go
BATCH = 64
MAX_TEXT = 1000
MAX_MORE = 64 * 1024  # bytes of "more" as JSON
TEXTS = ("kind", "subject", "who", "what", "why", "document", "revision")
NUMBERS = ("t", "up", "n")
LARGEST = 1e15
AGAIN_S = (1.0, 60.0)  # pauses between tries while the disk refuses: first, longest
MIB = 1024 * 1024
DAY_S = 86400.0


def directory(paths: "Paths") -> str:
    """Where all records lie: below the data directory, so that they survive upgrades."""
    return os.path.join(paths.data, "records")


class ActionLog:
    """Appends to and reads the record. Thread-safe. Neither making one nor adding to it raises or waits for the disk.

    now: gives the present Moment (tests).
    """

    def __init__(self, paths: "Paths", settings: "Settings", now: "Callable[[], moments.Moment]" = moments.now) -> None:
        self._place = os.path.join(directory(paths), "actions")
        self._total = settings.record_action_mib * MIB
        self._days = settings.record_days
        self._segments = self._open()
        self._now = now
        self._run = os.urandom(4).hex()
        self._count = 0
        self._waiting: collections.deque[dict[str, Any]] = collections.deque()
        self._under_way = 0  # how many, from the oldest on, are being written now
        self._lost = 0  # not yet recorded as lost
        self._lost_ever = 0
        self._error: str | None = None
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    # ---- writing ------------------------------------------------------------------------------------------------

    def add(
        self,
        kind: str,
        subject: str,
        who: str,
        what: str,
        why: str,
        document: "str | None" = None,
        revision: "str | None" = None,
        more: "dict[str, Any] | None" = None,
    ) -> None:
        """Record an action. Returns at once; never raises.

        kind: "step" (by the daemon), "decision" (by a person), "sliver" (whose a sliver is: owners.py), "node".
        subject: a sliver's name, a slice's id, or "node". who: "registry: group 3 Students", or a person's login.
        document, revision: URI and ETag of the registry document that asked for it. more: anything else, as JSON.
        """
        values = (kind, subject, who, what, why, document, revision)
        record: dict[str, Any] = {name: _text(value) for name, value in zip(TEXTS, values, strict=True)}
        record["more"] = _bounded(more)
        moment = self._now()
        record.update({"t": moment.wall, "up": moment.up, "boot": moment.boot, "sure": moment.sure})
        with self._state:
            self._enqueue(record)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="actions", daemon=True)
                self._thread.start()
            self._state.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was added is durable. False: it is not, `status()` says why."""
        deadline = time.monotonic() + timeout
        with self._state:
            self._state.notify_all()
            return self._state.wait_for(lambda: not self._waiting, max(0.0, deadline - time.monotonic()))

    def close(self, timeout: float = 5.0) -> bool:
        """Write what waits and stop. False: some could not be written in time."""
        done = self.flush(timeout)
        with self._state:
            self._closed = True
            self._state.notify_all()
        return done

    def status(self) -> "dict[str, Any]":
        """{waiting: records not yet on disk, lost: since start, error: why the disk refuses or None, problems:
        damage found}"""
        with self._state:
            found = {"waiting": len(self._waiting), "lost": self._lost_ever, "error": self._error}
        return {**found, "problems": list(self._segments.problems)}

    def size(self) -> int:
        """Bytes on disk."""
        return self._segments.size()

    def segment(self) -> int:
        """Number of the file written to now; another one than before: what must stand in each is to be said again."""
        return self._segments.newest

    def _enqueue(self, record: "dict[str, Any]") -> None:
        self._count += 1
        record.update({"run": self._run, "n": self._count})
        self._waiting.append(record)
        while len(self._waiting) > WAITING:
            del self._waiting[self._under_way]  # the oldest that is not being written just now
            self._lost += 1
            self._lost_ever += 1

    def _work(self) -> None:
        pause = AGAIN_S[0]
        while True:
            with self._state:
                self._state.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
                self._under_way, lost = len(batch), self._lost
            error = self._write(batch, lost)
            with self._state:
                self._error, self._under_way = error, 0
                if error is None:
                    self._written(batch, lost)
                    pause = AGAIN_S[0]
                    continue
                if self._closed:
                    return
                self._state.wait_for(lambda: self._closed, pause)
                pause = min(AGAIN_S[1], pause * 2)

    def _write(self, batch: "list[dict[str, Any]]", lost: int) -> "str | None":
        """Why it could not be written; None: it is on the disk."""
        records = [*self._note_of(lost, batch[0]["n"]), *batch]
        try:
            payloads = [json.dumps(record, sort_keys=True).encode() for record in records]
            moment = self._now()
            self._segments.append(payloads, moment.sure)
            if moment.sure:
                self._segments.drop_aged(moment.wall - self._days * DAY_S)
        except OSError as error:
            return "{}: {}".format(error.filename or self._place, error.strerror or error)
        return None

    def _note_of(self, lost: int, before: int) -> "list[dict[str, Any]]":
        if not lost:
            return []
        moment = self._now()
        note: dict[str, Any] = dict.fromkeys(TEXTS)
        note.update({"kind": "lost", "subject": "node", "what": "{} records were lost".format(lost), "more": None})
        note["why"] = "the disk took none for long: {}".format(self._error or "too many at once")
        note.update({"t": moment.wall, "up": moment.up, "boot": moment.boot, "sure": moment.sure})
        return [{**note, "run": self._run, "n": -before}]

    def _written(self, batch: "list[dict[str, Any]]", lost: int) -> None:
        self._lost -= lost
        last = batch[-1]["n"]
        while self._waiting and self._waiting[0]["n"] <= last:
            self._waiting.popleft()
        self._state.notify_all()

    # ---- reading ------------------------------------------------------------------------------------------------

    def read(
        self,
        since: "float | None" = None,
        until: "float | None" = None,
        subject: "str | None" = None,
        kind: "str | None" = None,
        limit: "int | None" = None,
    ) -> "list[dict[str, Any]]":
        """The records, oldest first, with `time` (seconds since 1970, as far as it is known by now) and `time_sure`.

        since, until: seconds since 1970, both included. subject, kind: only these. limit: only the newest so many.
        """
        with self._state:
            waiting = list(self._waiting)
        segments = self._open()
        found = timed([*parsed(segments.read()), *waiting])
        self._segments.problems += [text for text in segments.problems if text not in self._segments.problems]
        chosen = [
            record
            for record in found
            if (since is None or record["time"] >= since)
            and (until is None or record["time"] <= until)
            and (subject is None or record["subject"] == subject)
            and (kind is None or record["kind"] == kind)
        ]
        return chosen if limit is None else chosen[-limit:] if limit > 0 else []

    def newest_segment(self) -> "list[dict[str, Any]]":
        """The records of the file that is written to now, oldest first."""
        segments = self._open()
        return timed(parsed(segments.read(segments.numbers()[-1:])))

    def _open(self) -> Segments:
        segments = Segments(self._place, PREFIX, self._total, set_aside=True)
        segments.newest = max(segments.numbers(), default=0)
        return segments


def parsed(payloads: "Any") -> "list[dict[str, Any]]":
    """The records that `payloads` hold; what is none is left out."""
    records = []
    for payload in payloads:
        try:
            record = json.loads(payload, parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue
        if _is_record(record):
            records.append(record)
    return records


def timed(records: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    """`records` with `time` and `time_sure`, each once, in the order of time."""
    clocks = moments.Clocks()
    for record in records:
        clocks.note(moments.Moment(record["t"], record["up"], record["boot"], record["sure"]))
    found = {}
    for record in records:
        wall = clocks.wall(record["boot"], record["up"]) or (record["t"], record["sure"])
        key = (record["run"], record["n"], record["up"])
        found[key] = {**record, "time": record["t"] if record["sure"] else wall[0], "time_sure": wall[1]}
    return sorted(found.values(), key=lambda record: (record["time"], record["n"]))


def _no_number(word: str) -> None:
    raise ValueError(word + " is no number")


def _is_record(record: "Any") -> bool:
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), (int, float)) and abs(record[name]) < LARGEST for name in NUMBERS)
        and all(isinstance(record.get(name), str) for name in ("boot", "run"))
        and all(record.get(name) is None or isinstance(record[name], str) for name in TEXTS)
        and all(name in record for name in TEXTS)
        and isinstance(record.get("sure"), bool)
        and (record.get("more") is None or isinstance(record["more"], dict))
    )


def _text(value: object) -> "str | None":
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _bounded(more: "dict[str, Any] | None") -> "dict[str, Any] | None":
    if more is None:
        return None
    try:
        size = len(json.dumps(more, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return {"left_out": "cannot be kept as JSON: {}".format(error)}
    if size <= MAX_MORE:
        return dict(more)
    return {"left_out": "{} bytes, at most {} are kept".format(size, MAX_MORE)}
