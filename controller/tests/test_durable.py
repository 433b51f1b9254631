"""Files that survive a power cut: every step of a write is a place to cut."""

import json
import os

import pytest

from confine import durable


def cut_at(monkeypatch, name, call):
    """Let `call` run until the function os.`name` is about to be called, as if the power went there."""

    class PowerCutError(BaseException):
        pass

    def cut(*args, **kwargs):
        raise PowerCutError

    monkeypatch.setattr(os, name, cut)
    with pytest.raises(PowerCutError):
        call()
    monkeypatch.undo()


@pytest.mark.parametrize("moment", ["open", "write", "fsync", "rename"])
def test_a_cut_before_the_rename_leaves_the_old_content(tmp_path, monkeypatch, moment):
    path = str(tmp_path / "state.json")
    durable.write_json(path, {"old": True})
    cut_at(monkeypatch, moment, lambda: durable.write_json(path, {"new": True}))
    assert durable.read_json(path) == {"old": True}


def test_a_write_after_a_cut_succeeds_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = str(tmp_path / "state.json")
    cut_at(monkeypatch, "rename", lambda: durable.write_json(path, 1))
    durable.write_json(path, 2)
    assert durable.read_json(path) == 2
    assert os.listdir(tmp_path) == ["state.json"]


def test_content_is_on_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    for name in ("write", "fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    durable.write_atomic(str(tmp_path / "file"), b"x")
    assert calls == ["write", "fsync", "rename", "fsync"]


def test_a_full_disk_keeps_the_old_content_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = str(tmp_path / "file")
    durable.write_atomic(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_atomic(path, b"new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_planted_link_at_the_temporary_name_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".tmp-file").symlink_to(victim)
    durable.write_atomic(str(tmp_path / "file"), b"new")
    assert victim.read_bytes() == b"precious"


def test_files_are_private(tmp_path):
    durable.write_json(str(tmp_path / "file"), {})
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["{", "[" * 100000, "\udcff"])
def test_a_damaged_file_is_told_from_an_absent_one(tmp_path, content):
    (tmp_path / "file").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError):
        durable.read_json(str(tmp_path / "file"))
    assert durable.read_json(str(tmp_path / "absent")) is None


def test_equal_documents_give_equal_bytes(tmp_path):
    durable.write_json(str(tmp_path / "a"), {"x": 1, "y": [{"b": 1, "a": 2}]})
    durable.write_json(str(tmp_path / "b"), json.loads('{"y": [{"a": 2, "b": 1}], "x": 1}'))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
