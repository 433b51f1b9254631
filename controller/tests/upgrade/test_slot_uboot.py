"""Slots on a router with U-Boot, through its real tools and an environment with two copies on a file."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from confine.upgrade.backends import UBoot
from confine.upgrade.errors import UpgradeError

SIZE = 0x2000
PLACES = (0x0, 0x4000)


@pytest.fixture
def environment(tmp_path):
    if shutil.which("fw_setenv") is None:
        pytest.skip("fw_setenv is not on this machine")
    path = tmp_path / "env"
    path.write_bytes(bytes(0x8000))
    config = tmp_path / "fw_env.config"
    config.write_text("".join(f"{path} {place:#x} {SIZE:#x}\n" for place in PLACES))
    defaults = tmp_path / "defaults"
    defaults.write_text("bootdelay=1\n")
    options = ["-c", str(config), "-f", str(defaults)]
    backend = UBoot(["fw_printenv", *options], ["fw_setenv", *options])
    backend.allow("a")
    backend.forbid("b")
    backend.commit("a")
    return backend, path


def test_a_slot_is_forbidden_allowed_and_confirmed_through_the_real_tools(environment):
    backend, _ = environment
    assert (backend.confirmed(), backend.starts()) == ("a", {"a": "3", "b": "never"})
    backend.allow("b")
    backend.commit("b")
    assert (backend.confirmed(), backend.copies(), backend.starts()) == ("b", ("b", "b"), {"a": "3", "b": "3"})
    backend.start_once("a")
    assert backend.confirmed() == "b"


def test_nothing_is_written_when_nothing_changes(environment):
    backend, path = environment
    before = path.read_bytes()
    backend.commit("a")
    backend.forbid("b")
    assert path.read_bytes() == before


def test_a_commit_cut_anywhere_leaves_the_old_slot_or_the_new(environment):
    """The tool writes the copy that does not count; the environment's own check sum decides which does."""
    backend, path = environment
    before = path.read_bytes()
    backend.commit("b")
    after = path.read_bytes()
    sectors = [at for at in range(0, len(after), 512) if after[at : at + 512] != before[at : at + 512]]
    chance = random.Random(1)
    seen = set()
    for _ in range(60):
        torn = bytearray(before)
        for at in sectors:
            if chance.random() < 0.5:
                cut = chance.choice((512, 512, 100))
                torn[at : at + cut] = after[at : at + cut]
        path.write_bytes(bytes(torn))
        seen.add(backend.confirmed())
    assert seen <= {"a", "b"}
    assert "a" in seen


def test_what_is_no_slot_never_reaches_the_environment(environment):
    backend, path = environment
    before = path.read_bytes()
    for slot in ("c", "", "a b", "a\nb"):
        with pytest.raises(UpgradeError, match="no slot"):
            backend.commit(slot)
    assert path.read_bytes() == before


def test_a_tool_that_fails_is_named_with_its_words(tmp_path):
    backend = UBoot(["fw_printenv", "-c", str(tmp_path / "none")], ["fw_setenv", "-c", str(tmp_path / "none")])
    with pytest.raises(UpgradeError, match="fw_printenv"):
        backend.starts()
    missing = UBoot([os.path.join(str(tmp_path), "no-tool")], ["false"])
    with pytest.raises(UpgradeError, match="no-tool"):
        missing.confirmed()
