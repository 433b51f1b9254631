"""What the reference image promises before anything of it has started."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.reference import build, root
from firmware.reference.debian import BuildError, remove_tree, sha256_of

FILES = ("vmlinuz", "initrd.img", "root.squashfs", "recovery.squashfs")
pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="the reference image is built as root"),
]


@pytest.fixture(scope="module")
def image() -> Path:
    """The image, brought up to date."""
    build.build()
    return build.OUTPUT


@pytest.fixture(scope="module")
def versions(image: Path) -> dict[str, Any]:
    """What versions.json says."""
    document: dict[str, Any] = json.loads((image / "versions.json").read_text())
    return document


@pytest.fixture(scope="module")
def tree(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root file system, unpacked."""
    directory = tmp_path_factory.mktemp("image") / "root"
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", directory, image / "root.squashfs"], check=True)
    yield directory
    remove_tree(directory)


def is_program(path: Path) -> bool:
    """True for a dynamically linked ELF file."""
    if path.is_symlink() or not path.is_file() or path.suffix == ".ko":
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


@pytest.mark.slow
def test_the_same_packages_and_sources_give_the_same_bytes(image: Path, tmp_path: Path) -> None:
    first = build.write_image(image / "base", tmp_path / "first", "the same")
    second = build.write_image(image / "base", tmp_path / "second", "the same")
    assert first == second
    for name in (*FILES, "versions.json"):
        assert sha256_of(tmp_path / "first" / name) == sha256_of(tmp_path / "second" / name)


@pytest.mark.slow
def test_the_same_packages_give_the_same_byte_code(image: Path, tmp_path: Path) -> None:
    module = "usr/lib/python3.13/__pycache__/argparse.cpython-313.pyc"
    before = (image / "base" / module).read_bytes()
    subprocess.run(["cp", "--archive", image / "base", tmp_path / "base"], check=True)
    root.compile_python(tmp_path / "base", "/usr/lib/python3.13")
    assert (tmp_path / "base" / module).read_bytes() == before


def test_the_versions_name_every_package_and_every_file(versions: dict[str, Any], image: Path) -> None:
    names = {package["name"] for package in versions["packages"]}
    assert set(root.PACKAGES) <= names
    assert not names & root.DROPPED
    assert all(package["version"] and len(package["sha256"]) == 64 for package in versions["packages"])
    assert versions["sha256"] == {name: sha256_of(image / name) for name in FILES}
    assert versions["kernel"].startswith("6.")


def test_nothing_is_built_again_that_has_not_changed(
    image: Path, versions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "image_inputs", lambda: versions["inputs"])
    before = [(image / name).stat().st_mtime_ns for name in FILES]
    build.build()
    assert [(image / name).stat().st_mtime_ns for name in FILES] == before


def test_the_sources_fingerprint_changes_with_content_name_and_mode_of_a_file(tmp_path: Path) -> None:
    def taken() -> str:
        return build.fingerprint(build.source_files(tmp_path), tmp_path)

    seen = [taken()]
    file = tmp_path / "a"
    for change in (
        lambda: file.write_text("1"),
        lambda: file.write_text("2"),
        lambda: file.chmod(0o755),
        lambda: file.rename(tmp_path / "b"),
    ):
        change()
        seen.append(taken())
    assert len(set(seen)) == len(seen)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("")
    assert taken() == seen[-1]


def test_every_program_finds_its_libraries(tree: Path) -> None:
    programs = [path for place in ("usr/bin", "usr/sbin", "usr/lib") for path in (tree / place).rglob("*")]
    names = [f"/{path.relative_to(tree)}" for path in programs if is_program(path)]
    assert len(names) > 100
    script = 'for file; do /lib64/ld-linux-x86-64.so.2 --list "$file" 2>&1 | sed "s|^|$file: |"; done'
    listed = subprocess.run(
        ["chroot", tree, "/bin/sh", "-c", script, "sh", *names], capture_output=True, text=True, check=False
    )
    assert [line for line in listed.stdout.splitlines() if "cannot open shared object" in line] == []


def test_every_python_module_has_byte_code_that_needs_no_comparison_with_its_source(tree: Path) -> None:
    modules = [*(tree / "usr/lib/confine").rglob("*.py"), *(tree / "usr/lib/python3.13/http").glob("*.py")]
    assert len(modules) > 10
    for module in modules:
        code = module.parent / f"__pycache__/{module.stem}.cpython-313.pyc"
        flags = struct.unpack("<I", code.read_bytes()[4:8])[0]
        assert flags == 0b01, f"{code} is compared with its source at each import"


def test_the_controller_is_in_the_image_without_its_tests(tree: Path) -> None:
    assert (tree / "usr/lib/confine/confine/core/model.py").exists()
    assert (tree / "usr/lib/python3/dist-packages/confine/errors.py").resolve() != Path()
    assert not [path for path in (tree / "usr/lib/confine").rglob("*") if "tests" in path.parts]


def test_the_image_has_neither_documentation_nor_systemd(tree: Path) -> None:
    for place in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/systemd", "usr/lib/python3.13/test"):
        assert not (tree / place).exists(), place


def test_every_init_script_is_enabled_under_its_own_order(tree: Path) -> None:
    links = {path.name: os.readlink(path) for path in (tree / "etc/rc.d").iterdir()}
    assert links["S95confine"] == "../init.d/confine"
    assert links["S10boot"] == "../init.d/boot"
    for name, target in links.items():
        word = "START" if name.startswith("S") else "STOP"
        script = (tree / "etc/rc.d" / target).read_text()
        assert re.search(rf"^{word}={name[1:3]}$", script, re.MULTILINE), name


def test_no_password_opens_the_node(tree: Path) -> None:
    entries = [line.split(":") for line in (tree / "etc/shadow").read_text().splitlines()]
    assert {entry[1] for entry in entries} == {"*"}
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o600


def test_everything_belongs_to_root(tree: Path) -> None:
    strangers = [path for path in tree.rglob("*") if path.lstat().st_uid != 0]
    assert strangers == []


def test_a_module_the_kernel_does_not_have_is_named(image: Path) -> None:
    with pytest.raises(BuildError, match="no_such_module"):
        root.initrd_modules(image / "base", ["loop", "no_such_module"])
