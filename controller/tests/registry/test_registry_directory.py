"""A registry that is a directory of documents gives the same state as a server."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from confine.errors import RegistryError
from confine.registry import directory
from registry.documents import Testbed, export
from registry.faults import FaultyServer, Replayed

State = dict[str, Any]
OFFICIAL = "https://registry.example.net/api/"


def content(state: State) -> State:
    """What a state says, apart from how it was had, with its own base cut off."""
    own = state["bases"][0]
    text = json.dumps({name: state[name] for name in ("base", "node", "docs", "gone", "problems", "complete")})
    roots = (own.removesuffix("api/"), OFFICIAL.removesuffix("api/"))
    text = text.replace(own, "BASE/").replace(roots[0], "ROOT/").replace(roots[1], "ROOT/")
    found: State = json.loads(text)
    return found


@pytest.fixture
def exported(documents: Any, tmp_path: Path) -> Path:
    export(Testbed(documents.path, documents.files), str(tmp_path / "web"), OFFICIAL)
    return tmp_path / "web" / "api"


@pytest.fixture
def from_server(node: Any) -> State:
    state, _ = node.round()
    return content(state)


def test_a_directory_on_disk_equals_the_server(exported: Path, client: Any, from_server: State) -> None:
    node = client(["file://" + str(exported)])
    state, changed = node.round()
    assert content(state) == from_server
    assert changed
    assert state["date"] is None
    _, changed = node.round()
    assert not changed


def test_a_directory_on_a_web_host_equals_the_server(exported: Path, client: Any, from_server: State) -> None:
    def answer(path: str, fields: dict[str, str]) -> bytes:
        file = exported.parent / path.lstrip("/")
        if not file.is_file():
            return b"HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>"
        tag = 'W/"{:x}"'.format(file.stat().st_mtime_ns)
        if fields.get("if-none-match") == tag:
            return b"HTTP/1.0 304 Not Modified\r\nETag: " + tag.encode() + b"\r\n\r\n"
        head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nETag: {}\r\n\r\n".format(tag)
        return head.encode() + file.read_bytes()

    with Replayed(answer) as server:
        node = client([server.base + "index.json"], plain_http=True)
        state, _ = node.round()
        assert content(state) == from_server
        assert state["bases"] == [server.base]
        _, changed = node.round()
        assert not changed


def test_a_file_that_changed_is_read_and_one_that_is_missing_is_kept(exported: Path, client: Any) -> None:
    node = client(["file://" + str(exported)])
    good, _ = node.round()
    file = exported / "slices" / "1" / "index.json"
    slice_ = json.loads(file.read_text())
    file.write_text(json.dumps({**slice_, "set_state": "deploy"}))
    state, changed = node.round()
    uri = "file://" + str(exported) + "/slices/1/"
    assert changed
    assert state["docs"][uri]["set_state"] == "deploy"
    file.unlink()
    os.unlink(exported / "slivers" / "1" / "index.json")
    state, _ = node.round()
    assert uri in state["docs"]
    assert set(state["docs"]) == set(good["docs"])
    assert state["gone"] == []
    assert "No such file" in state["problems"][uri][0]["message"]


def test_files_that_did_not_change_are_not_read_again(
    exported: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = client(["file://" + str(exported)])
    node.round()
    read: list[str] = []
    monkeypatch.setattr(directory, "read_piece", lambda file, path, size: (read.append(path), file.read(size))[1])
    (exported / "users" / "1" / "index.json").touch()
    node.round()
    assert read == [str(exported) + "/users/1/index.json"]


def test_a_directory_that_is_not_there_is_a_registry_that_is_down(client: Any, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="No such file"):
        client(["file://" + str(tmp_path / "nowhere")]).round()


def test_documents_in_a_directory_may_refer_to_each_other_relatively(exported: Path, client: Any) -> None:
    before, _ = client(["file://" + str(exported)]).round()
    file = exported / "slices" / "1" / "index.json"
    slice_ = json.loads(file.read_text())
    slice_["group"]["uri"] = "../../groups/1/"
    slice_["uri"] = "./"
    file.write_text(json.dumps(slice_))
    state, _ = client(["file://" + str(exported)]).round()
    assert state["docs"] == before["docs"]


@pytest.mark.parametrize("content_", ["", "{", "[]", "null", "\xff"])
def test_a_bad_file_keeps_the_last_good_version(content_: str, exported: Path, client: Any) -> None:
    node = client(["file://" + str(exported)])
    good, _ = node.round()
    (exported / "slivers" / "1" / "index.json").write_bytes(content_.encode("latin-1"))
    state, _ = node.round()
    assert state["docs"] == good["docs"]
    assert len(state["problems"]) == 1


def test_files_outside_the_directory_and_special_files_are_not_read(
    exported: Path, client: Any, tmp_path: Path
) -> None:
    node = client(["file://" + str(exported)])
    node.round()
    sliver = exported / "slivers" / "1" / "index.json"
    document = json.loads(sliver.read_text())
    document["template"] = {"uri": "file://" + str(exported) + "/../secret/", "id": 7}
    sliver.write_text(json.dumps(document))
    (tmp_path / "web" / "secret").mkdir()
    (tmp_path / "web" / "secret" / "index.json").write_text(json.dumps({"a": 1}))
    fifo = exported / "slivers" / "2" / "index.json"
    fifo.unlink()
    os.mkfifo(fifo)
    state, _ = node.round()
    messages = {uri[len(str(exported)) :]: found[0]["message"] for uri, found in state["problems"].items()}
    assert any("not below" in message for message in messages.values())
    assert any("is not a file" in message for message in messages.values())


def test_templates_of_a_directory_are_files_below_it(exported: Path, client: Any, tmp_path: Path) -> None:
    node = client(["file://" + str(exported)])
    (exported / "x.img").write_bytes(b"0123456789")
    pieces: list[bytes] = []
    started: list[tuple[int, int | None]] = []
    fetcher = node.registry.fetcher
    fetcher.fetch("file://" + str(exported) + "/x.img", pieces.append, 4, lambda *at: started.append(at))
    assert (started, b"".join(pieces)) == ([(4, 10)], b"456789")
    (tmp_path / "outside").write_bytes(b"x")
    for uri in ("file://" + str(tmp_path / "outside"), "file://" + str(exported) + "/../../outside"):
        with pytest.raises(RegistryError, match="not in the registry's directory"):
            fetcher.fetch(uri, pieces.append, 0, lambda *at: None)


def test_the_served_state_survives_a_move_from_server_to_directory(
    exported: Path, client: Any, node: Any, server: FaultyServer
) -> None:
    state, _ = node.round()
    moved = client(["file://" + str(exported)])
    moved.state = state
    os.unlink(exported / "slivers" / "1" / "index.json")
    found, _ = moved.round()
    assert "file://" + str(exported) + "/slivers/1/" in found["docs"]
