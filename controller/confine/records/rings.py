"""Rows of figures in rings of fixed length, folded from fine to coarse. Pure and small: 49 bytes a row.

A row covers `seconds`; what was counted in them is a sum, what is a level (memory, processes) a mean weighted by time.
A figure that the kernel did not give is NaN here and None for whoever reads it.
"""

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECONDS = "seconds"
SUMS = ("cpu_s", "throttled_s", "read_bytes", "write_bytes", "received_bytes", "sent_bytes", "limit_hits")
LEVELS = ("memory_bytes", "disk_bytes", "pids")
FIELDS = (SECONDS, *SUMS, *LEVELS)
WIDTH = len(FIELDS)
STEPS = (10, 60, 3600)  # seconds: what each ring's rows cover
LENGTHS = {10: 60, 60: 180, 3600: 336}  # ten minutes, three hours, fourteen days
SPANS = {"minutes": 10, "hours": 60, "days": 3600}  # how far back people want to see: the step that reaches there
NOTHING = float("nan")
LARGEST_READING, LARGEST_FIGURE = 1e24, 1e32  # figures are sums of readings, and single precision has room for both
# Counters of LimitsDriver.usage() and of network interfaces: (figure, members that are added up, unit)
COUNTED = (
    ("cpu_s", ("cpu_usec",), 1e-6),
    ("throttled_s", ("cpu_throttled_usec",), 1e-6),
    ("read_bytes", ("read_bytes",), 1.0),
    ("write_bytes", ("write_bytes",), 1.0),
    ("received_bytes", ("received_bytes",), 1.0),
    ("sent_bytes", ("sent_bytes",), 1.0),
    ("limit_hits", ("oom_kills", "memory_full", "pids_refused"), 1.0),
)


class Ring:
    """The last `length` rows: (boot number, seconds since that boot at its end, figures in the order of FIELDS)."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._next = 0
        self._boots = array("H")
        self._ups = array("d")
        self._values = array("f")

    def add(self, boot: int, up: float, row: "list[float]") -> None:
        """A row; the oldest goes when the ring is full."""
        at = self._next
        if len(self._ups) < self._length:
            self._boots.append(boot)
            self._ups.append(up)
            self._values.extend(row)
        else:
            self._boots[at], self._ups[at] = boot, up
            self._values[at * WIDTH : (at + 1) * WIDTH] = array("f", row)
        self._next = (at + 1) % self._length

    def rows(self) -> "list[tuple[int, float, list[float]]]":
        """All rows, oldest first."""
        count = len(self._ups)
        order = range(count) if count < self._length else [(self._next + i) % count for i in range(count)]
        return [(self._boots[i], self._ups[i], list(self._values[i * WIDTH : (i + 1) * WIDTH])) for i in order]


class Fold:
    """Adds fine rows up to one coarse row for each span of `step` seconds since boot."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._span: int | None = None
        self._rows: list[list[float]] = []
        self._up = 0.0

    def add(self, up: float, row: "list[float]") -> "tuple[float, list[float]] | None":
        """Take a row that ends at `up`. Gives (end, coarse row) of the span before once a row of another comes."""
        span = int((up - 1e-6) // self._step)
        finished = self.take() if span != self._span else None
        self._span, self._up = span, up
        self._rows.append(row)
        if len(self._rows) > 64:  # of any length of time, so that 3600 seconds are no more than that in memory
            self._rows = [folded(self._rows)]
        return finished

    def take(self) -> "tuple[float, list[float]] | None":
        """(end, coarse row) of what was added up so far; None if nothing was."""
        rows, self._rows = self._rows, []
        return (self._up, folded(rows)) if rows else None


def folded(rows: "list[list[float]]") -> "list[float]":
    """Several rows as one."""
    seconds = sum(row[0] for row in rows)
    result = [seconds]
    for index in range(1, WIDTH):
        given = [row for row in rows if row[index] == row[index]]
        if not given:
            result.append(NOTHING)
        elif index <= len(SUMS):
            result.append(sum(row[index] for row in given))
        else:
            weight = sum(row[0] for row in given)
            mean = sum(row[index] * row[0] for row in given) / weight if weight else given[-1][index]
            result.append(mean)
    return result


def difference(before: "dict[str, Any]", now: "dict[str, Any]", seconds: float) -> "list[float]":
    """The row between two readings of a sliver's counters. A counter that went down began anew: a restart."""
    row = [seconds]
    for _, members, unit in COUNTED:
        known = [member for member in members if is_number(now.get(member))]
        if not known:
            row.append(NOTHING)
            continue
        total = 0.0
        for member in known:
            old = before.get(member)
            grown = now[member] - old if is_number(old) else 0
            total += grown if grown >= 0 else now[member]
        row.append(total * unit)
    for member in LEVELS:
        row.append(float(now[member]) if is_number(now.get(member)) else NOTHING)
    return row


def shown(row: "list[float]") -> "dict[str, float | None]":
    """A row by names, None for what was not given."""
    return {name: round(value, 3) if value == value else None for name, value in zip(FIELDS, row, strict=True)}


def is_number(value: "Any", below: float = LARGEST_READING) -> bool:
    """A number that figures can be made of."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < below
