"""confine-plan: the package for devices that run MicroPython, under a real MicroPython and under CPython alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_core_desired as desired_tests
from core_world import BASE, NODE_ID

ROOT = Path(__file__).parents[2]
FILES = ROOT / "package/confine-node-micropython/files"
INTERPRETERS = ("micropython", "cpython")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the package is installed."""
    top = tmp_path_factory.mktemp("installed")
    command = ["make", "-s", "-C", ROOT / "package/confine-node-micropython", "install", f"DEST={top}"]
    subprocess.run([*command, f"TOPDIR={Path(__file__).parent / 'buildroot'}"], check=True, timeout=50)
    return top / "usr/lib/confine-micropython"


@pytest.fixture(params=INTERPRETERS)
def confine_plan(request, library):
    """Runs it with words, and with `text` as its standard input."""
    if request.param == "micropython":
        where = f"{ROOT / 'build/tools'}:{os.environ['PATH']}"
        if shutil.which("micropython", path=where) is None:
            pytest.skip("there is no micropython: neither build/tools/micropython nor one on PATH")
        command = [library.parents[1] / "sbin/confine-plan"]
        environment = {"PATH": where, "CONFINE_LIBRARY": str(library)}
    else:
        command = [sys.executable, "-P", "-s", library / "confine_plan.py"]
        environment = {"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words, text=""):
        return subprocess.run([*command, *words], input=text, capture_output=True, text=True, env=environment,
                              check=False, timeout=50)  # fmt: skip

    return run


def document(**settings):
    own = {"node": {"id": f"{NODE_ID:04x}"}, "registry": {"base_uri": BASE}, **settings}
    return {"registry": desired_tests.example(), "settings": own}


def test_it_prints_what_is_asked_and_the_steps_that_would_carry_it_out(confine_plan, tmp_path):
    (tmp_path / "document.json").write_text(json.dumps(document()))
    done = confine_plan(tmp_path / "document.json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["node    002a (mill), debug", "sliver  5@42 start, T1"]
    assert any(line.startswith("step    000000000005_002a: storage allocate: ") for line in lines)


def test_as_json_both_interpreters_say_the_same(confine_plan, library):
    said = json.loads(confine_plan("--json", "-", text=json.dumps(document())).stdout)
    assert [sliver["key"] for sliver in said["slivers"]] == ["5@42"]
    command = [sys.executable, "-P", "-s", library / "confine_plan.py", "--json", "-"]
    environment = {"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    other = subprocess.run(command, input=json.dumps(document()), capture_output=True, text=True, env=environment,
                           check=True, timeout=50)  # fmt: skip
    assert said == json.loads(other.stdout)


def test_the_state_that_a_node_keeps_is_taken_as_it_is(confine_plan):
    doc = document()
    doc["registry"] = {"sha256": "of no matter here", "state": doc["registry"]}
    assert "sliver  5@42 start, T1" in confine_plan("-", text=json.dumps(doc)).stdout


def test_the_devices_size_counts_and_settings_that_cannot_be_used_are_named(confine_plan):
    doc = {**document(policy={"slice_share": "400"}), "found": {"memory_mib": 64, "disk_mib": 10}}
    said = confine_plan("-", text=json.dumps(doc)).stdout
    assert "problem /policy/slice_share: " in said
    assert "waits   000000000005_002a: " in said
    assert "storage allocate" not in said


@pytest.mark.parametrize(
    ("text", "told"),
    [("x", "is not JSON"), ("[]", "is not a JSON object"), ('{"registry": {}}', "has no object settings"),
     ('{"registry": {}, "settings": {}, "found": {"disk_mib": "9"}}', "must be whole numbers")],
)  # fmt: skip
def test_a_document_that_cannot_be_used_is_refused_in_words(confine_plan, text, told):
    done = confine_plan("-", text=text)
    assert (done.returncode, done.stderr) == (1, "")
    assert told in done.stdout


def test_a_file_that_is_not_there_and_a_wrong_call_are_told_apart(confine_plan, tmp_path):
    assert confine_plan(tmp_path / "none.json").returncode == 1
    for words in ((), ("--watch",), ("a", "b")):
        done = confine_plan(*words)
        assert (done.returncode, done.stdout.split(" ")[0]) == (2, "usage:")
