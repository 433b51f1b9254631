"""The node's packages upgraded, downgraded, removed and installed again, with slivers running.

There is neither apk nor opkg here: their part is done file by file, in their order, with the packages' own scripts.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from qemu.following import BRING_UP_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.torture, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PACKAGES = ("confine-node", "confine-upgrade")
SERVICES = ("confine", "confine-bus")
KEPT = "etc/config/confine"  # a package manager leaves a changed one as it is
START_S = 200.0  # Python compiles all it loads, on an emulated processor


def make(package: str, *words: str) -> str:
    command = ["make", "-s", "-C", ROOT / "package" / package, f"TOPDIR={ROOT}/package/tests/buildroot", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


class Feed:
    """What a package manager does on the node. tree: where the packages' files are on this machine."""

    def __init__(self, testbed: Following, tree: Path) -> None:
        self.testbed, self.node, self.tree = testbed, testbed.node, tree
        for package in PACKAGES:
            make(package, "install", f"DEST={tree}")
        # The image's byte code would be taken in place of newer sources; packages bring none.
        self.node.sh("find /usr/lib/confine -name __pycache__ | xargs rm -rf; [ -e /usr/lib/confine/confine/cli.py ]")

    def unpack(self, version: str) -> None:
        """The files of both packages, of that version, over what is there."""
        init = self.tree / "usr/lib/confine/confine/__init__.py"
        init.write_text(re.sub('".*"', f'"{version}"', init.read_text()))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            for path in sorted(self.tree.rglob("*")):
                name = str(path.relative_to(self.tree))
                if path.is_file() and name != KEPT:
                    tar.add(path, name)
        self.node.write_file("/tmp/packages.tar.gz", packed.getvalue())
        self.node.must(["tar", "-xzf", "/tmp/packages.tar.gz", "-C", "/"])

    def delete(self) -> None:
        """All files of both packages but the configuration."""
        names = [str(path.relative_to(self.tree)) for path in self.tree.rglob("*") if path.is_file()]
        self.node.must(["xargs", "rm", "-f"], stdin="\n".join("/" + name for name in names if name != KEPT).encode())

    def script(self, name: str, upgrade: bool) -> None:
        """Run a script of confine-node, told that it is an upgrade or not."""
        words = ["env", "PKG_UPGRADE=1"] if upgrade else []
        self.node.must([*words, "sh", "-c", make("confine-node", "script", f"SCRIPT={name}")], timeout=120)

    def services(self, verb: str) -> None:
        for service in SERVICES:
            self.node.run([f"/etc/init.d/{service}", verb], timeout=120)

    def wait_for_version(self, version: str) -> None:
        def runs() -> bool:
            try:
                return bool(self.testbed.status()["version"] == version)
            except (OSError, ValueError, AssertionError):
                return False

        self.node.wait_for(f"the controller of version {version} answers", runs, START_S)


@pytest.fixture
def feed(following: Following, tmp_path: Path) -> Feed:
    return Feed(following, tmp_path / "packages")


def test_packages_are_upgraded_and_downgraded_and_slivers_go_on(feed: Feed) -> None:
    def upgrade_as_apk_does() -> None:
        feed.unpack("9.9")
        feed.script("postinst", upgrade=True)
        feed.wait_for_version("9.9")

    def downgrade_as_opkg_does() -> None:
        feed.script("prerm", upgrade=True)
        feed.services("stop")
        feed.unpack("0.0.1")
        feed.script("postinst", upgrade=True)
        feed.services("start")
        feed.wait_for_version("0.0.1")

    feed.testbed.undisturbed(["1@1", "2@1"], upgrade_as_apk_does)
    feed.testbed.undisturbed(["1@1", "2@1"], downgrade_as_opkg_does)
    # What Python compiled lies in memory; flash holds the packages' files and no others.
    assert feed.node.sh("find /usr/lib/confine -name '*.pyc' | wc -l").strip() == "0"
    assert int(feed.node.sh("find /run/confine-python -path '*usr/lib/confine/*.pyc' | wc -l")) > 20
    for package in PACKAGES:
        feed.node.write_file("/tmp/test.sh", (ROOT / "package" / package / "test.sh").read_text(), mode=0o755)
        feed.node.must(["/tmp/test.sh", package, "0.0.1"], timeout=120)


def test_a_removal_halts_slivers_and_an_installation_brings_them_back_with_what_they_wrote(feed: Feed) -> None:
    feed.testbed.in_sliver("1@1", "echo mine >/root/kept; sync")
    feed.script("prerm", upgrade=False)
    feed.services("stop")
    feed.delete()
    assert "confine.daemon" not in feed.node.must(["ps"])
    assert feed.node.sh("cat /sys/fs/cgroup/confine/*/cgroup.procs 2>/dev/null | wc -l").strip() == "0"
    assert feed.node.run(["sh", "-c", "command -v confine"]).status != 0
    assert os.path.basename(feed.node.must(["ls", "/etc/config/confine"]).strip()) == "confine"
    feed.unpack("9.9")
    feed.node.must(["sh", "/etc/uci-defaults/50-confine"])
    feed.script("postinst", upgrade=False)
    feed.services("start")
    feed.wait_for_version("9.9")
    feed.testbed.wait_state("1@1", "started", BRING_UP_S)
    assert feed.testbed.in_sliver("1@1", "cat /root/kept") == "mine\n"
