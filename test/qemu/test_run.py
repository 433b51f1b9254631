"""`make run ONCE=1`: what a new user sees first, and what a script can rely on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from qemu.run import TOP
from registry.testbed import FILES, ExampleRegistry

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]


@pytest.fixture
def work(tmp_path, image_files):
    if not os.path.exists(os.path.join(FILES, "debian.json")):
        pytest.fail("the example templates were not built: make image")
    return str(tmp_path / "run")


def processes_that_name(text):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                command = file.read()
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def start(work, **environment):
    command = [sys.executable, os.path.join(TOP, "test", "qemu", "run.py")]
    env = {**os.environ, "RUN_DIR": work, **environment}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TOP,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip


def test_once_shows_each_sliver_come_up_and_ends_with_status_0_and_a_second_run_goes_on(work):
    first = start(work, ONCE="1")
    text = first.communicate(timeout=200)[0]
    assert first.returncode == 0, text
    for words in ("registry  read from https://", "1@1       weather asks for it: start", "read back, held",
                  "all 4 slivers are as asked"):  # fmt: skip
        assert words in text
    second = start(work, ONCE="1")
    text = second.communicate(timeout=200)[0]
    assert second.returncode == 0, text
    assert "disk      as before" in text
    assert "fetch" not in text


def test_once_ends_with_status_1_and_the_reason_when_a_sliver_cannot_come_up(work):
    with ExampleRegistry(os.path.join(os.path.dirname(work), "testbed")) as registry:
        path = os.path.join(registry.documents, "templates", "3.json")
    with open(path) as file:
        doc = json.load(file)
    doc["image_sha256"] = "ab" * 32
    with open(path, "w") as file:
        json.dump(doc, file)
    process = start(work, ONCE="1", RUN_DEADLINE="60")
    text = process.communicate(timeout=200)[0]
    assert process.returncode == 1
    assert re.search(r"not as asked: 3@1 fail_allocate.*abababab", text), text


def test_ctrl_c_ends_node_and_registry_cleanly(work):
    process = start(work)
    deadline = time.monotonic() + 30
    while "starts through GRUB" not in process.stdout.readline():
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert processes_that_name(work) == []


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_upgrade_shows_a_good_bundle_confirmed_and_broken_ones_given_back_and_not_taken_again(work):
    process = start(work, ONCE="1", UPGRADE="1", RUN_DEADLINE="900")
    text = process.communicate(timeout=3500)[0]
    assert process.returncode == 0, text
    assert "history   version 1.1: confirmed" in text
    for version in ("2.0", "2.1", "2.2"):
        assert f"history   version {version}: failed" in text
        assert f"of {version} it says: version {version} was tried here and failed" in text
    assert "one good bundle was confirmed, 3 broken ones were not" in text
