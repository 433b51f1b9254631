"""The node's configuration in UCI files as power cuts, people and other programs leave them."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from confine import cli_settings, configuration
from confine.core import settings
from confine.drivers import uci
from confine.paths import Paths

pytest.importorskip("uci", reason="pyuci was not built: make setup")

DEFAULTS = Path(__file__).parents[2] / "files/etc/config/confine"
JOINED = "config node 'node'\n\toption id '0012'\n\nconfig registry 'registry'\n\tlist base_uri 'https://r.example.org/api/'\n"


@pytest.fixture
def read(tmp_path):
    """What the daemon makes of the file with that text: settings, problems."""

    def configured(text):
        (tmp_path / "confine").write_text(text)
        return configuration.read_settings(Paths(uci=str(tmp_path)))

    return configured


def test_a_file_that_is_cut_off_anywhere_never_makes_the_node_another_one(read):
    for length in range(len(JOINED)):
        found, problems = read(JOINED[:length])
        assert found.node_id in (None, 0x12), JOINED[:length]
        assert found.registry_uris in ([], ["https://r.example.org/api/"]), JOINED[:length]
        assert found.node_id == 0x12 or not found.registry_uris
        if JOINED[:length].count("'") % 2:
            assert "malformed" in problems[0].message, JOINED[:length]


def test_an_option_that_is_misspelt_is_named_with_the_right_one_and_the_others_count(read):
    found, problems = read(JOINED + "\nconfig policy 'policy'\n\toption memory_reserv '1'\n\toption slice_share '50'\n")
    assert (found.node_id, found.slice_share_percent) == (0x12, 50)
    assert [problem.member for problem in problems] == ["/policy/memory_reserv"]
    assert "did you mean 'memory_reserve'?" in problems[0].message


def test_a_form_can_be_saved_whatever_is_wrong_elsewhere(read, tmp_path):
    read(JOINED + "\nconfig policy 'policy'\n\toption memory_reserv '1'\n\toption slice_share '400'\n")
    sections = uci.load("confine", str(tmp_path))

    def told(**values):
        text = json.dumps({name.replace("__", "."): value for name, value in values.items()})
        problems = settings.parse(cli_settings.changed(sections, text))[1]
        return [problem.member for problem in cli_settings.caused(problems, sections, text)]

    assert told(sliver__memory_max="64") == []
    assert told(sliver__memory_max="much") == ["/sliver/memory_max"]
    assert told(policy__slice_share="500") == ["/policy/slice_share"]
    assert told(policy__slice_share="400") == ["/policy/slice_share"], "what was wrong before is still wrong"


@pytest.mark.parametrize("value", ["400", "-3", "4294967293", "1e9", "", "half", "9" * 5000])
def test_a_value_out_of_range_is_named_and_the_default_stands(read, value):
    defaults, _ = read(JOINED)
    found, problems = read(JOINED + f"\nconfig policy 'policy'\n\toption slice_share '{value}'\n")
    assert [problem.member for problem in problems] == (["/policy/slice_share"] if value else [])
    assert found.as_doc() == defaults.as_doc()


@pytest.mark.root
def test_a_full_flash_leaves_the_configuration_as_it_was(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        (tmp_path / "confine").write_text(DEFAULTS.read_text())
        with (tmp_path / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(uci.SettingsError, match="cannot be written"):
            uci.change("confine", {"node": {".type": "node", "id": "0012"}}, str(tmp_path))
        assert (tmp_path / "confine").read_text() == DEFAULTS.read_text()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_sections_without_a_name_keep_what_they_hold_and_their_order(tmp_path):
    text = "config rule\n\toption name 'a'\n\nconfig rule\n\toption name 'b'\n\tlist icmp_type 'x y'\n"
    (tmp_path / "firewall").write_text(text + "\nconfig zone 'own'\n")
    uci.change("firewall", {"own": None, "more": {".type": "rule", "name": "c", "ports": ["1", "2"]}}, str(tmp_path))
    rules = list(uci.load("firewall", str(tmp_path)).values())
    assert [rule["name"] for rule in rules] == ["a", "b", "c"]
    assert (rules[1]["icmp_type"], rules[2]["ports"]) == (["x y"], ["1", "2"])


def test_a_libuci_that_writes_half_a_file_is_found_out(tmp_path, monkeypatch):
    (tmp_path / "confine").write_text(JOINED)
    commit = uci._commit

    def half(handle, config, changes):
        commit(handle, config, changes)
        path = Path(made[0]) / config
        path.write_text(path.read_text()[:40])

    made = []
    real = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **words: made.append(real(**words)) or made[-1])
    monkeypatch.setattr(uci, "_commit", half)
    with pytest.raises(uci.SettingsError):
        uci.change("confine", {"policy": {".type": "policy", "slice_share": "50"}}, str(tmp_path))
    assert (tmp_path / "confine").read_text() == JOINED
