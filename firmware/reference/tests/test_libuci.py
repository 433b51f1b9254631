"""The real libuci, its command line and its Python binding, as the image has them, built for this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firmware.reference import uci
from firmware.reference.debian import PROJECT

BROKEN = "config node 'node'\n\toption id 'no end\n"


@pytest.fixture(scope="module")
def host() -> Path:
    """The build for this machine, made when it is not there."""
    return uci.build(uci.HOST)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A directory of configuration files with one in it."""
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "confine").write_text("config node 'node'\n\toption id '0012'\n")
    return directory


def call(host: Path, config: Path, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = [str(host / "bin/uci"), "-c", str(config), "-t", str(config.parent / "changes"), *argv]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)


def python(host: Path, code: str, *argv: str) -> str:
    done = subprocess.run(
        [uci.VENV_PYTHON, "-c", code, *argv],
        env={"PYTHONPATH": str(host / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_change_is_in_the_file_only_after_the_commit(host: Path, config: Path) -> None:
    file = config / "confine"
    assert call(host, config, "set", "confine.node.id=0013").returncode == 0
    assert "0012" in file.read_text()
    assert call(host, config, "get", "confine.node.id").stdout == "0013\n"
    assert call(host, config, "commit", "confine").returncode == 0
    assert "0013" in file.read_text()


def test_importing_a_broken_file_is_refused_and_changes_nothing(host: Path, config: Path) -> None:
    before = (config / "confine").read_text()
    done = call(host, config, "import", "confine", stdin=BROKEN)
    assert done.returncode != 0
    assert "unterminated" in done.stderr
    assert (config / "confine").read_text() == before


def test_a_list_keeps_its_order_through_export_and_import(host: Path, config: Path) -> None:
    for address in ("https://b.example/", "https://a.example/"):
        call(host, config, "add_list", f"confine.node.base_uri={address}")
    call(host, config, "commit", "confine")
    exported = call(host, config, "export", "confine").stdout
    (config / "copy").touch()
    assert call(host, config, "import", "copy", stdin=exported).returncode == 0
    assert call(host, config, "get", "copy.node.base_uri").stdout == "https://b.example/ https://a.example/\n"


def test_euci_reads_the_configuration_the_image_ships(host: Path) -> None:
    code = (
        "import sys, euci; e = euci.EUci(confdir=sys.argv[1]);"
        "print(e.get('confine', 'policy', 'memory_reserve', dtype=int), e.get('confine', 'node', 'data_dir'))"
    )
    assert python(host, code, str(PROJECT / "files/etc/config")) == "64 /srv/confine\n"


def test_a_syntax_error_is_an_error_in_the_binding_and_the_tool_names_its_place(host: Path, config: Path) -> None:
    (config / "confine").write_text(BROKEN)
    code = "import sys, uci; uci.Uci(confdir=sys.argv[1]).get_all('confine')"
    assert "UciExceptionInvalidInput" in python(host, code, str(config))
    assert "line 2" in call(host, config, "show", "confine").stderr


def test_the_binding_is_for_the_python_that_runs_the_tests(host: Path) -> None:
    assert python(host, "import uci; print(uci.__file__)").strip() == str(host / "python/uci.so")
    assert uci.VENV_PYTHON.parent.parent == Path(sys.prefix)


def test_every_source_is_pinned_by_its_checksum() -> None:
    assert [pin["name"] for pin in uci.pins()] == ["libuci-sys-1.0.5", "pyuci-0.10.3"]
    assert all(len(pin["sha256"]) == 64 for pin in uci.pins())
