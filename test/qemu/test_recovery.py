"""When no slot starts: a small system that can be reached, that knows its node, and that can write a slot."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from qemu import bundles
from qemu.harness import VirtualNode
from qemu.run_upgrade import KEYRING, Operator, served
from qemu.test_boot_slots import counters, write_counters

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRIAL_S = 300.0


@pytest.fixture(scope="module")
def operator(image_files: dict[str, str], session_dir: str) -> Operator:
    return Operator(os.path.join(session_dir, "operator"), image_files, TOP)


class Member:
    """The node's owner, elsewhere: a key, and the way to the node's SSH."""

    def __init__(self, node: VirtualNode, directory: str) -> None:
        self._key = os.path.join(directory, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = {"command-line": f"hostfwd_add net0 tcp:127.0.0.1:{self._port}-:22"}
        assert not node.qmp("human-monitor-command", **command)["value"]
        with open(self._key + ".pub") as file:
            node.write_file("/etc/dropbear/authorized_keys", file.read(), 0o600)

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=60"]
        argv = ["ssh", "-p", str(self._port), "-i", self._key, *(f"-o{one}" for one in options), "root@127.0.0.1"]
        return subprocess.run([*argv, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def member(node: VirtualNode, image_files: dict[str, str], tmp_path: object) -> Member:
    """Of a node with a recovery system that was given a name and an id."""
    assert image_files["recovery"]
    member = Member(node, str(tmp_path))
    node.sh("uci set system.@system[0].hostname=kept; uci commit system; "
            "uci set confine.node.id=0007; uci commit confine")  # fmt: skip
    return member


@pytest.fixture
def mirror(operator: Operator) -> Iterator[str]:
    with served(operator.mirror) as uri:
        yield uri


def start_without_slots(node: VirtualNode) -> None:
    """Slot a has used up its starts, slot b holds nothing; the reset button."""
    write_counters(node, {"a": "0", "b": "never"})
    before = node.boot_id()
    node.must(["sync"])
    node.reset()
    node.wait_until_up(not_boot=before)


def test_a_node_none_of_whose_slots_starts_is_reached_by_its_member_and_tries_again_what_is_whole(
    node: VirtualNode, member: Member
) -> None:
    start_without_slots(node)
    words = node.command_line()
    assert (words["confine.boot"], words["confine.root"]) == ("recovery", "PARTLABEL=recovery")
    assert "recovery: slot a has no starts left, and slot b has none either" in node.serial()
    assert node.must(["hostname"]) == "kept\n"
    said = member.ssh("confine", "upgrade", "status")
    assert said.returncode == 0, said.stderr
    assert "the recovery system: no slot starts" in said.stdout

    # After a while alone; here at once.
    boot = node.boot_id()
    wait = "python3 -P -s /usr/libexec/confine-recovery.py wait 0"
    node.sh(f"PYTHONPATH=/usr/lib/confine setsid {wait} >/dev/null 2>&1 </dev/null &")
    node.wait_until_up(not_boot=boot)
    assert node.command_line()["confine.slot"] == "a"
    assert counters(node) == {"a": "3", "b": "never"}
    assert "recovered" in node.must(["confine", "upgrade", "history"])


def test_a_node_both_of_whose_slots_are_broken_is_given_a_new_system_from_afar(
    node: VirtualNode, member: Member, operator: Operator, mirror: str
) -> None:
    with open(operator.keyring) as file:
        node.write_file(KEYRING, file.read())
    node.sh("uci set confine.upgrade=upgrade; uci set confine.upgrade.mode=off; "
            f"uci set confine.upgrade.keyring={KEYRING}; "
            f"uci add_list confine.upgrade.mirror={mirror}; uci commit confine")  # fmt: skip
    operator.publish(operator.good(), "mends it")
    node.sh("sync; for part in 4 5; do dd if=/dev/zero of=/dev/vda$part bs=64k count=16 conv=notrunc 2>/dev/null; done")
    start_without_slots(node)
    assert node.command_line()["confine.boot"] == "recovery"
    assert node.must(["hostname"]) == "kept\n", "the configuration behind a root that is gone"

    upgrading = bundles.Upgrading(node, operator.maker)
    said = member.ssh("confine", "upgrade", "install", "latest", "--trial")
    assert said.returncode in (0, 255), said.stderr + said.stdout  # 255: the system ended while it spoke
    upgrading.wait_confirmed("b", TRIAL_S)
    assert node.must(["cat", "/etc/confine-version"]) == "1.1\n"
    assert node.must(["hostname"]) == "kept\n"
    assert node.must(["uci", "get", "confine.node.id"]) == "0007\n"
    assert member.ssh("true").returncode == 0

    upgrading.reset()
    words = node.command_line()
    assert (words["confine.slot"], words["confine.boot"]) == ("b", "counted")
