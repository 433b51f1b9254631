"""The list that `make test-openwrt` ends with: what ran, what failed, what could not run and why."""

from __future__ import annotations

import os
import tarfile

import pytest

from qemu import openwrt
from qemu.openwrt import Check, Outcome

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="test.qemu.test_boot" name="test_it_starts"/>
<testcase classname="test.qemu.test_stop" name="test_it_stops"><failure message="AssertionError: no&#10;more">x</failure></testcase>
<testcase classname="test.qemu.test_limits" name="test_disk"><skipped message="no loop devices">x</skipped></testcase>
<testcase classname="test.qemu.test_wall" name="test_wall"><error message="failed on setup">x</error></testcase>
</testsuite></testsuites>"""  # noqa: E501  # as pytest writes it


class Shell:
    """A console that answers from a table; fake."""

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers = answers

    def run(self, line: str) -> str:
        return next((said for word, said in self._answers.items() if word in line), "")


def test_a_report_of_cases_is_read_with_the_reasons(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "report.xml")
    with open(path, "w") as file:
        file.write(REPORT)
    assert openwrt.read_report(path) == [
        Outcome("test_boot.py: test_it_starts", "ok"),
        Outcome("test_stop.py: test_it_stops", "failed", "AssertionError: no"),
        Outcome("test_limits.py: test_disk", "could not", "no loop devices"),
        Outcome("test_wall.py: test_wall", "failed", "failed on setup"),
    ]


def test_the_list_names_each_case_under_how_it_went() -> None:
    said = openwrt.table(
        [Outcome("one", "ok"), Outcome("two", "failed", "no"), Outcome("three", "could not", "no lxc")]
    )
    assert said == "ran: 1\n  one\nfailed: 1\n  two: no\ncould not run: 1\n  three: no lxc"


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        ({"command -v": "/usr/sbin/x", "x status": "fine"}, "ok"),
        ({"command -v": "/usr/sbin/x", "x status": "bad"}, "failed"),
        ({"x status": "fine"}, "could not"),
    ],
)
def test_a_check_on_the_console_is_judged_by_what_is_said(answers: dict[str, str], how: str) -> None:
    outcome = openwrt.judged(Check("x runs", "x status", "^fine$", "x"), Shell(answers), 0)  # type: ignore[arg-type]
    assert (outcome.name, outcome.how) == ("x runs", how)


@pytest.mark.parametrize(
    ("answers", "settled"),
    [
        ({"ls /sbin/procd": "/sbin/procd", "init complete": "procd: - init complete -"}, True),
        ({"ls /sbin/procd": "/sbin/procd", "init complete": ""}, False),
        ({"ls /sbin/procd": "/sbin/procd", "ps |": "0"}, False),
        ({"ps |": "0"}, True),
        ({"ps |": "1"}, False),
    ],
)
def test_a_node_is_looked_at_when_all_its_init_scripts_have_run(answers: dict[str, str], settled: bool) -> None:
    assert openwrt._settled(Shell(answers)) is settled  # type: ignore[arg-type]


def test_what_is_laid_in_is_what_openwrt_unpacks_and_starts(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "node.tgz")
    openwrt.lay_in(path)
    with tarfile.open(path) as tar:
        assert tar.getmember("etc/rc.d/S11agent").linkname == "../init.d/agent"
        assert tar.getmember("etc/init.d/agent").mode & 0o111
        assert tar.getmember("etc/config/confine").mode == 0o600


def test_every_file_that_is_left_out_is_there() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    assert set(openwrt.OTHERWISE) <= set(os.listdir(here))
