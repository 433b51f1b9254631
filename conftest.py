"""What failed once and passed when it was run again is shown as plainly as a failure. No test depends on the time that
examples take: a busy machine is no fault."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints why each test that had to be run again failed the first time (`--reruns`, see Makefile)."""
    again = terminalreporter.getreports("rerun")
    if again:
        terminalreporter.section("FAILED AT FIRST, RUN AGAIN: each is a fault to be found")
    for report in again:
        terminalreporter.section(report.nodeid, sep="_")
        terminalreporter.line(report.longreprtext)
