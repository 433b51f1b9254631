"""The last good state on disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from confine.paths import Paths
from confine.registry import store
from registry.faults import FaultyServer


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=str(tmp_path / "data"))


def file_of(paths: Paths) -> str:
    return os.path.join(paths.journal, store.FILE)


def test_a_node_that_never_read_a_registry_has_no_state(paths: Paths) -> None:
    assert store.load(paths) == (None, None)


def test_a_state_comes_back_as_it_was_kept_and_is_unchanged_for_the_next_round(
    paths: Paths, node: Any, server: FaultyServer
) -> None:
    state, _ = node.round()
    store.save(paths, state)
    loaded, problem = store.load(paths)
    assert (loaded, problem) == (state, None)
    assert os.stat(file_of(paths)).st_mode & 0o777 == 0o600
    node.state = loaded
    _, changed = node.round()
    assert not changed


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null ", b"[]", b"{}", b"\xff\xfe", b"[" * 100000, b'{"docs": 5}', b'{"bases": ["x"], "docs": {}}'],
)
def test_a_damaged_file_is_set_aside_and_named_and_the_registry_is_read_anew(content: bytes, paths: Paths) -> None:
    os.makedirs(paths.journal)
    Path(file_of(paths)).write_bytes(content)
    state, problem = store.load(paths)
    if content == b"null ":
        assert (state, problem) == (None, None)
        return
    assert state is None
    assert problem is not None
    assert file_of(paths) in problem
    assert "set aside" in problem
    assert not os.path.exists(file_of(paths))
    assert Path(file_of(paths) + ".damaged").read_bytes() == content
    assert store.load(paths) == (None, None)


def test_a_file_that_cannot_be_read_is_named(paths: Paths) -> None:
    os.makedirs(file_of(paths))
    state, problem = store.load(paths)
    assert state is None
    assert problem is not None
    assert "cannot be read" in problem


def test_a_digit_that_flipped_on_the_flash_is_noticed(paths: Paths, node: Any, server: FaultyServer) -> None:
    state, _ = node.round()
    store.save(paths, state)
    text = Path(file_of(paths)).read_text()
    Path(file_of(paths)).write_text(text.replace('"instance_sn":0', '"instance_sn":8', 1))
    found, problem = store.load(paths)
    assert found is None
    assert problem is not None
    assert "checksum" in problem


def test_a_state_of_an_older_program_is_kept_and_one_with_damaged_documents_is_not(
    paths: Paths, node: Any, server: FaultyServer
) -> None:
    state, _ = node.round()
    older = {name: value for name, value in state.items() if name != "lists"}
    store.save(paths, older)
    assert store.load(paths) == ({**older, "lists": {}}, None)
    damages: list[dict[str, Any]] = [
        {"docs": {"x": 5}},
        {"node": 5},
        {"problems": []},
        {"revisions": None},
        {"bases": []},
    ]
    for damage in damages:
        store.save(paths, {**state, **damage})
        found, problem = store.load(paths)
        assert found is None
        assert problem is not None
        assert "not a registry state" in problem
