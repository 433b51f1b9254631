"""What the packages of the feed bring, file by file: their Makefiles' own install steps, run on a stand-in of OpenWrt's
build (buildroot/), and what is in them put to use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from confine import __version__
from confine.bus import rules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUILDROOT = Path(__file__).parent / "buildroot"
PACKAGES = ("confine", "confine-node", "confine-node-micropython", "confine-upgrade", "luci-app-confine")
OF_THE_NODE = ("confine-node", "confine-upgrade")


def make(package: str, *words: str) -> str:
    environment = {**os.environ, "CONFINE_RELEASE": "7"}
    command = ["make", "-s", "-C", ROOT / "package" / package, f"TOPDIR={BUILDROOT}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=50).stdout


def files(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each package was installed to, by name: a directory of its own."""
    found = {}
    for package in PACKAGES:
        found[package] = tmp_path_factory.mktemp(package)
        make(package, "install", f"DEST={found[package]}")
    return found


@pytest.fixture
def shown(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in make(request.param, "shown").splitlines())


@pytest.mark.parametrize("shown", PACKAGES, indirect=True)
def test_a_version_is_legal_for_apk_and_opkg_and_that_of_the_sources(shown: dict[str, str]) -> None:
    assert shown["Version"] == f"{__version__}-r7"
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)*-r[0-9]+", shown["Version"])
    assert (shown["Architecture"], shown["License"]) == ("all", "GPL-3.0-or-later")


def test_the_release_grows_with_each_commit_and_is_older_than_all_without_git(tmp_path: Path) -> None:
    include = "include $(TOP)/package/confine.mk\nall:\n\t$(info $(PKG_RELEASE))\n\t@:\n"
    place = tmp_path / "package/one"
    place.mkdir(parents=True)
    (place / "Makefile").write_text(include)

    def release() -> str:
        command = ["make", "-s", "-C", place, f"TOP={ROOT}"]
        clean = {name: value for name, value in os.environ.items() if name != "CONFINE_RELEASE"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=clean, timeout=50).stdout.strip()

    def git(*words: str) -> None:
        who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.net"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], capture_output=True, check=True, timeout=50)

    assert release() == "0"
    git("init", "-q")
    for number in ("1", "2"):
        git("commit", "-q", "--allow-empty", "-m", "one more")
        assert release() == number
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{tmp_path}", tmp_path / "shallow"], check=True)
    (tmp_path / "shallow/package/one").mkdir(parents=True)
    place = tmp_path / "shallow/package/one"
    (place / "Makefile").write_text(include)
    assert release() == "0"


def test_no_file_is_in_two_packages(installed: dict[str, Path]) -> None:
    listed = [name for package in PACKAGES for name in files(installed[package])]
    assert sorted(listed) == sorted(set(listed))
    assert files(installed["confine"]) == set()


def test_the_packages_bring_every_file_of_the_controller_and_nothing_else(installed: dict[str, Path]) -> None:
    brought = {name for package in OF_THE_NODE for name in files(installed[package])}
    wanted = {str(path.relative_to(ROOT / "files")) for path in (ROOT / "files").rglob("*") if path.is_file()}
    for source, place in (("controller/confine", "usr/lib/confine/confine"), ("upgrade", "usr/lib/confine/upgrade"),
                          ("package/confine-node/files", "")):  # fmt: skip
        for path in (ROOT / source).rglob("*"):
            part = path.relative_to(ROOT / source)
            if path.is_file() and not {"__pycache__", "bundle", "confine-bundle"} & set(part.parts):
                wanted.add(str(Path(place) / part))
    assert brought == wanted


def test_init_scripts_can_be_run_and_settings_are_only_for_root(installed: dict[str, Path]) -> None:
    for package in OF_THE_NODE:
        for script in (installed[package] / "etc/init.d").iterdir():
            assert script.stat().st_mode & 0o777 == 0o755, script
    assert (installed["confine-node"] / "etc/config/confine").stat().st_mode & 0o777 == 0o600


def test_settings_keys_and_the_overlay_outlive_an_upgrade_and_a_removal() -> None:
    told = make("confine-node", "shown")
    assert "Conffiles: /etc/config/confine /etc/confine/ /etc/tinc/confine/\n" in told


def command_line(library: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-s", "-m", "confine.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=50)


def test_without_the_package_for_upgrades_the_node_works_and_says_what_is_not_installed(
    installed: dict[str, Path], tmp_path: Path
) -> None:
    library = installed["confine-node"] / "usr/lib/confine"
    done = command_line(library, "--run-dir", str(tmp_path), "upgrade", "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert "they are the package confine-upgrade" in done.stderr
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    script = "from confine import controller, daemon; print(controller.has_slots())"
    done = subprocess.run([sys.executable, "-P", "-s", "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_with_it_the_same_command_is_answered(installed: dict[str, Path], tmp_path: Path) -> None:
    for package in OF_THE_NODE:
        subprocess.run(["cp", "-r", f"{installed[package]}/.", tmp_path], check=True)
    done = command_line(tmp_path / "usr/lib/confine", "--run-dir", str(tmp_path), "upgrade", "status")
    assert "confine-upgrade" not in done.stderr
    assert "Traceback" not in done.stderr


def script(name: str, tmp_path: Path, **environment: str) -> str:
    """What the package's script does, its init scripts and rm being ones that only tell."""
    text = make("confine-node", "script", f"SCRIPT={name}")
    text = text.replace("/etc/init.d/", "tell ").replace("rm -rf", "tell rm")
    (tmp_path / "tell").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "tell").chmod(0o755)
    around = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True, env=around).stdout


def test_an_upgrade_starts_the_new_controller_and_leaves_slivers_alone(tmp_path: Path) -> None:
    said = script("postinst", tmp_path, PKG_UPGRADE="1")
    assert "rm /run/confine-python\n" in said
    assert "confine restart\n" in said and "confine-bus restart\n" in said
    assert script("prerm", tmp_path, PKG_UPGRADE="1") == ""


def test_a_removal_halts_slivers_and_a_first_installation_does_nothing_of_its_own(tmp_path: Path) -> None:
    assert script("prerm", tmp_path) == "confine shutdown\n"
    assert script("postinst", tmp_path) == ""


@pytest.mark.parametrize("name", ["postinst", "prerm"])
def test_nothing_is_started_or_stopped_on_the_machine_that_builds_an_image(name: str, tmp_path: Path) -> None:
    assert script(name, tmp_path, IPKG_INSTROOT="/image", PKG_UPGRADE="1") == ""
    assert script(name, tmp_path, IPKG_INSTROOT="/image") == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_test_that_is_run_after_it_was_installed(package: str) -> None:
    path = ROOT / "package" / package / "test.sh"
    subprocess.run(["sh", "-n", path], check=True)
    assert os.access(path, os.X_OK)


def test_who_may_only_read_can_change_nothing_and_every_page_finds_its_methods_granted():
    app = ROOT / "package/luci-app-confine"
    acl = json.loads((app / "root/usr/share/rpcd/acl.d/luci-app-confine.json").read_text())["luci-app-confine"]
    reading, writing = (set(acl[part]["ubus"]["confine.web"]) for part in ("read", "write"))
    methods = rules.methods()
    changing = {name for name in reading - {rules.JOB} if methods[name].changes}
    assert (changing, reading & writing, (reading | writing) - set(methods) - {rules.JOB}) == (set(), set(), set())
    asked = (app / "htdocs/luci-static/resources/confine/node.js").read_text()
    table = asked[asked.index("const METHODS") : asked.index("};")]
    assert set(re.findall(r"^\t(\w+):", table, re.MULTILINE)) <= reading | writing
