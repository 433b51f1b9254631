"""When a slice has expired: by confirmed time only (design, "Time": nodes boot without a clock)."""

from confine.core.model import Problem
from confine.core.text import is_decimal, shown

MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_date(value: object) -> bool:
    """Whether `value` is a date "YYYY-MM-DD" that exists."""
    if not isinstance(value, str) or len(value) != 10 or value[4] != "-" or value[7] != "-":
        return False
    year, month, day = value[:4], value[5:7], value[8:]
    if not is_decimal(year + month + day) or not 1 <= int(month) <= 12:
        return False
    leap = int(year) % 4 == 0 and (int(year) % 100 != 0 or int(year) % 400 == 0)
    last = MONTH_DAYS[int(month) - 1] - (1 if month == "02" and not leap else 0)
    return 1 <= int(day) <= last


def expired(expires_on: object, today: object) -> "tuple[bool, Problem | None]":
    """Whether a slice is past its last day, `expires_on` (registry API; None: it has none), on the confirmed date
    `today` (None: no date is confirmed, nothing expires). A date that is none expires nothing and is a problem.
    """
    if expires_on is None:
        return False, None
    if not is_date(expires_on):
        message = (
            "expires_on is " + shown(expires_on) + ", not a date YYYY-MM-DD: the slice does not expire on this node."
        )
        return False, Problem("", message)
    if not is_date(today):
        return False, None
    return str(today) > str(expires_on), None
