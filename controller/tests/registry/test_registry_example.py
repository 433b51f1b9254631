"""The example registry as people use it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import testbed
from registry.server import ROOT
from registry.testbed import ExampleRegistry


@pytest.fixture
def example(tmp_path: Path, documents: Any) -> Iterator[Any]:
    """Makes the example registry in one directory, again and again."""
    yield lambda: ExampleRegistry(str(tmp_path / "work"), documents.files)


def test_every_document_of_the_example_is_good_and_the_node_has_all_it_needs(example: Any, client: Any) -> None:
    with example() as registry:
        state, _ = client([registry.url], registry.certificate).round()
    assert state["problems"] == {}
    slivers = [doc for uri, doc in state["docs"].items() if "/slivers/" in uri]
    assert len(slivers) == len(state["node"]["slivers"]) == 4
    templates = {doc["type"] for uri, doc in state["docs"].items() if "/templates/" in uri}
    assert templates == {"debian", "openwrt", "generic"}


def test_what_a_person_changed_and_the_port_and_certificate_are_there_again_next_time(example: Any) -> None:
    with example() as registry:
        url, certificate = registry.url, Path(registry.certificate).read_bytes()
        edited = Path(registry.documents) / "slices" / "1.json"
        edited.write_text(edited.read_text().replace('"start"', '"deploy"'))
        changed = edited.read_text()
    with example() as registry:
        assert registry.url == url
        assert Path(registry.certificate).read_bytes() == certificate
        assert edited.read_text() == changed


def test_a_newer_testbed_in_the_source_replaces_the_copy(
    example: Any, tmp_path: Path, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with example() as registry:
        kept = Path(registry.documents) / "slices" / "1.json"
        kept.write_text("edited")
    monkeypatch.setattr(testbed, "SOURCE", documents.path)
    documents.edit("slices/2", description="newer")
    with example() as registry:
        assert kept.read_text() != "edited"


def test_a_change_by_hand_is_in_the_next_answer(example: Any, client: Any) -> None:
    with example() as registry:
        node = client([registry.url], registry.certificate)
        node.round()
        file = Path(registry.documents) / "slices" / "4.json"
        file.write_text(file.read_text().replace('"set_state": "deploy"', '"set_state": "start"'))
        os.unlink(Path(registry.documents) / "slivers" / "3.json")
        state, changed = node.round()
        assert changed
        assert state["docs"][registry.url + "slices/4/"]["set_state"] == "start"
        assert [ref["id"] for ref in state["node"]["slivers"]] == ["1@1", "2@1", "4@1"]


def test_the_script_serves_by_itself_and_ends_with_ctrl_c(documents: Any, tmp_path: Path, client: Any) -> None:
    script = os.path.join(ROOT, "test", "registry", "server.py")
    command = [sys.executable, script, "--port", "0", "--testbed", documents.path, "--files", documents.files]
    with subprocess.Popen(
        [*command, "--state", str(tmp_path / "state")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            state, _ = client([url], str(tmp_path / "state" / "server.crt")).round()
            assert state["complete"]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()
