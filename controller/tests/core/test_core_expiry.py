"""Expiry by confirmed time."""

from confine.core.expiry import expired, is_date


def test_a_slice_expires_the_day_after_its_last_day() -> None:
    for today, past in (
        ("2026-12-18", False),
        ("2026-12-19", False),
        ("2026-12-20", True),
        ("2027-01-01", True),
        ("1970-01-01", False),
        ("2106-02-07", True),
    ):
        assert expired("2026-12-19", today) == (past, None), today


def test_without_a_confirmed_date_nothing_expires() -> None:
    for today in (None, "", "today", "2026-13-01", 20261219):
        assert expired("1999-01-01", today) == (False, None), today


def test_a_slice_without_a_last_day_never_expires() -> None:
    assert expired(None, "2106-02-07") == (False, None)


def test_a_garbage_date_is_a_problem_and_expires_nothing() -> None:
    for garbage in ("", "soon", "2026-1-1", "2026-02-30", "2026/01/01", "0000-00-00", 5, [], True):
        past, problem = expired(garbage, "2106-02-07")
        assert past is False and problem is not None, garbage


def test_leap_days_are_dates_in_leap_years_only() -> None:
    for date, good in (("2024-02-29", True), ("2025-02-29", False), ("1900-02-29", False), ("2000-02-29", True)):
        assert is_date(date) is good, date
