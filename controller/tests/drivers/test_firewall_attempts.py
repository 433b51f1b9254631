"""What slivers may not send, and what they may, tried with real frames over a real bridge under the real rules."""

import json
import os
import subprocess
import sys

import pytest
import wall_attempts

HERE = os.path.dirname(os.path.abspath(__file__))
CONTROLLER = os.path.dirname(os.path.dirname(HERE))
LACKING = ("Operation not supported", "No such file or directory", "Protocol not supported", "Operation not permitted")
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def results():
    """{part: results of wall_lab.py}, all from one lab."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([CONTROLLER, HERE])}
    command = [sys.executable, os.path.join(HERE, "wall_lab.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd="/")
    if done.returncode != 0 and any(words in done.stderr for words in LACKING):
        pytest.skip("this kernel lacks a part of nftables or of bridges: " + done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [attempt.name for attempt in wall_attempts.ATTEMPTS])
def test_a_sliver_does_not_get_through_with(results, name):
    found = [result for result in results if result["name"] == name]
    attempt = next(attempt for attempt in wall_attempts.ATTEMPTS if attempt.name == name)
    assert [result["kind"] for result in found] == list(attempt.kinds)
    wrong(found)


def test_a_sliver_gets_nowhere_but_where_it_may(results):
    names = {attempt.name for attempt in wall_attempts.ATTEMPTS}
    found = [result for result in results if result["name"] not in names]
    assert len(found) >= 26
    wrong(found)


def wrong(found):
    """Fails if an attempt came through, if its twin did not, or if nothing shows that a rule was what stopped it."""
    assert [result for result in found if not result["stopped"]] == [], "these came through"
    assert [result for result in found if not result["twin"]] == [], "their honest twins did not"
    assert [result for result in found if not result["opened"]] == [], "these do not arrive without the rule either"
