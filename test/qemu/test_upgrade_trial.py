"""Trials in a whole node: a good bundle is confirmed, slivers and configuration kept; a bad one gives way by itself.

The bundle is the reference image itself with something changed in it; the node runs the slivers of the example testbed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from qemu import bundles
from qemu.conftest import MakeNode
from qemu.following import BRING_UP_S, Following
from qemu.harness import VirtualNode
from qemu.run_upgrade import KEYRING, Operator, served

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]
TRIAL_S = 300.0
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OVMF = "/usr/share/ovmf/OVMF.fd"
WATCHDOG = "/sys/class/watchdog/watchdog0/"


@pytest.fixture(scope="module")
def made(session_dir: str, image_files: dict[str, str]) -> bundles.Maker:
    return bundles.Maker(os.path.join(session_dir, "bundles"), image_files)


@pytest.fixture(scope="module")
def operator(image_files: dict[str, str], session_dir: str) -> Operator:
    return Operator(os.path.join(session_dir, "operator"), image_files, TOP)


@pytest.fixture
def upgrading(following: Following, made: bundles.Maker) -> bundles.Upgrading:
    return bundles.Upgrading(following.node, made)


def configure(node: VirtualNode, keyring: str, *mirrors: str) -> None:
    """Tell the node where bundles come from and whom to believe."""
    with open(keyring) as file:
        node.write_file(KEYRING, file.read())
    lists = "".join(f"uci add_list confine.upgrade.mirror={mirror}; " for mirror in mirrors)
    node.sh("uci set confine.upgrade=upgrade; uci set confine.upgrade.mode=off; "
            f"uci set confine.upgrade.keyring={KEYRING}; {lists}uci commit confine; /etc/init.d/confine reload",
            timeout=60)  # fmt: skip


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """The address of a mirror that is down: its port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://10.0.2.2:{taken.getsockname()[1]}/"


def test_what_changed_is_fetched_from_the_mirror_that_lives_tried_by_kexec_and_confirmed_with_slivers_as_before(
    following: Following, upgrading: bundles.Upgrading, operator: Operator
) -> None:
    node = following.node
    node.must(["uci", "set", "system.@system[0].hostname=kept"])
    node.must(["uci", "commit", "system"])
    following.in_sliver("1@1", "echo mine >/root/file")
    before = sorted(one["name"] for one in following.status()["slivers"] if one["state"] == "started")

    operator.publish(operator.unchanged(), "the image that the node runs")
    operator.publish(operator.good(), "a small change")
    with nobody() as dead, served(operator.mirror) as mirror:
        configure(node, operator.keyring, dead, mirror)
        assert "offered   1.1" in node.must(["confine", "upgrade", "check"], timeout=120)
        said = node.must(["confine", "upgrade", "install", "latest"], timeout=300)
    assert said.splitlines()[-1] == "version 1.1 is in slot b; `confine upgrade trial` starts it"
    written = upgrading.last_event()
    assert (written["event"], written["version"], len(written["signers"])) == ("written", "1.1", 2)
    whole = sum(part["size"] for part in operator.good()[0]["parts"].values())
    assert 0 < written["fetched"] < whole * 0.02

    node.must(["confine", "upgrade", "trial"], timeout=300)
    upgrading.wait_confirmed("b", TRIAL_S)
    assert node.must(["cat", "/etc/confine-version"]) == "1.1\n"
    assert node.must(["uci", "get", "system.@system[0].hostname"]) == "kept\n"
    now = sorted(one["name"] for one in following.status()["slivers"] if one["state"] == "started")
    assert now == before
    assert following.in_sliver("1@1", "cat /root/file") == "mine\n"


def test_a_person_keeps_a_trial_by_command_and_goes_back_by_command(node: VirtualNode, made: bundles.Maker) -> None:
    upgrading = bundles.Upgrading(node, made)
    # As long as this says no the trial goes on.
    node.write_file("/etc/confine/gate.d/50-never", "#!/bin/sh\nexit 1\n", 0o755)
    upgrading.install(made.good("1.1", deadline_s=3600))
    upgrading.trial()
    node.wait_for("slot b runs", lambda: node.command_line()["confine.slot"] == "b", TRIAL_S)
    assert upgrading.state()["trial"]
    refused = node.run(["confine", "upgrade", "rollback"], timeout=60)
    assert refused.status != 0
    assert "a trial runs" in refused.err
    assert node.must(["confine", "upgrade", "confirm"], timeout=60) == "slot b is confirmed\n"
    node.wait_for("the gate has ended", lambda: upgrading.last_event()["event"] == "confirmed", 120, 1.0)
    node.must(["rm", "/etc/confine/gate.d/50-never"])

    upgrading.reset()
    words = node.command_line()
    assert (words["confine.slot"], words["confine.boot"]) == ("b", "counted"), "it stays"
    assert node.must(["confine", "upgrade", "rollback"], timeout=120) == "slot a runs from the next restart on\n"
    upgrading.reset()
    assert node.command_line()["confine.slot"] == "a"
    assert node.run(["cat", "/etc/confine-version"]).status != 0, "the system it had"


def test_a_bundle_that_panics_is_left_for_the_confirmed_slot_and_is_known_as_failed(
    following: Following, upgrading: bundles.Upgrading
) -> None:
    upgrading.install(upgrading.made.panics())
    upgrading.trial()
    upgrading.wait_back("a", TRIAL_S)
    event = upgrading.last_event()
    assert event["event"] == "failed"
    assert "panic" in event["why"]
    assert upgrading.python(
        "from confine.upgrade import record, slots; print(record.has_failed(slots.Slots().label('b')))"
    ).strip()
    following.wait_as_asked(BRING_UP_S)


@pytest.mark.torture
def test_a_bundle_whose_controller_does_not_come_up_gives_itself_up_and_says_why(
    following: Following, upgrading: bundles.Upgrading
) -> None:
    upgrading.install(upgrading.made.without_controller())
    upgrading.trial()
    upgrading.wait_back("a", TRIAL_S)
    event = upgrading.last_event()
    assert (event["event"], event["slot"]) == ("failed", "b")
    assert "daemon: the controller does not answer" in event["why"]
    following.wait_as_asked(BRING_UP_S)


@pytest.mark.torture
def test_a_slot_in_which_a_bit_flipped_is_not_started(following: Following, upgrading: bundles.Upgrading) -> None:
    upgrading.install(upgrading.made.good("1.1"))
    upgrading.node.sh("printf x | dd of=/dev/vda7 bs=1 seek=5000000 conv=notrunc 2>/dev/null; sync")
    boot = upgrading.node.boot_id()
    said = upgrading.refused_trial()
    assert "root-b has changed" in said
    assert upgrading.node.boot_id() == boot
    assert len(following.status()["slivers"]) == 4


# Takes all memory there is, and is the last to be killed for it.
HOG = """echo -1000 >/proc/self/oom_score_adj
python3 -c 'a = []
while True: a.append(bytearray(b"x" * (1 << 20)))' &"""
# version: (order among the init scripts, script, words of the reason; None: it is confirmed all the same)
FAULTS = {
    "3.0-crash": ("S13", "echo c >/proc/sysrq-trigger", "without a word"),
    "3.1-hang-early": ("S11", "sleep 100000", ""),
    "3.2-hang-late": ("S13", "sleep 100000", "the controller does not answer"),
    "3.3-memory": ("S13", HOG, ""),
    "3.4-no-network": ("S13", "rmmod virtio_net", "has no IPv4 address"),
    "3.5-data-gone": ("S13", "umount -l /srv", "the data partition is not mounted"),
    "3.6-data-full": ("S13", "dd if=/dev/zero of=/srv/full bs=1M 2>/dev/null", None),
    "3.7-time-1970": ("S11", "date -s @0", None),
    "3.8-time-2106": ("S11", "date -s @4294967290", None),
}


@pytest.mark.torture
@pytest.mark.parametrize("version", sorted(FAULTS))
def test_whatever_a_bundle_gets_wrong_the_node_comes_back_by_itself(
    following: Following, upgrading: bundles.Upgrading, version: str
) -> None:
    order, script, words = FAULTS[version]
    upgrading.install(upgrading.made.with_script(version, order, script))
    upgrading.trial()
    if words is None:
        upgrading.wait_confirmed("b", TRIAL_S)
    else:
        upgrading.wait_back("a", TRIAL_S)
        assert words in upgrading.last_event()["why"]
    upgrading.node.run(["rm", "-f", "/srv/full"])
    following.wait_as_asked(BRING_UP_S)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_ten_upgrades_in_a_row_go_from_slot_to_slot(following: Following, upgrading: bundles.Upgrading) -> None:
    for number in range(10):
        upgrading.install(upgrading.made.good(f"4.{number}"))
        upgrading.trial()
        upgrading.wait_confirmed("ba"[number % 2], TRIAL_S)
        assert upgrading.node.must(["cat", "/etc/confine-version"]) == f"4.{number}\n"
    following.wait_as_asked(BRING_UP_S)


@pytest.mark.torture
def test_the_same_disk_starts_by_uefi_and_is_tried_by_kexec_there(made: bundles.Maker, make_node: MakeNode) -> None:
    if not os.path.exists(OVMF):
        pytest.skip(f"{OVMF} is not on this machine")
    node = make_node(arguments=("-bios", OVMF))
    assert node.run(["test", "-d", "/sys/firmware/efi"]).status == 0
    upgrading = bundles.Upgrading(node, made)
    upgrading.install(made.good("1.1"))
    upgrading.trial()
    upgrading.wait_confirmed("b", TRIAL_S)
    assert "acpi_rsdp" in node.command_line()
    upgrading.reset()
    assert node.command_line()["confine.slot"] == "b"


@pytest.mark.torture
def test_a_machine_on_the_list_is_tried_by_one_start_of_the_boot_loader(
    following: Following, upgrading: bundles.Upgrading
) -> None:
    node = following.node
    node.write_file("/etc/confine/kexec-quirks", "QEMU* / *\n")
    upgrading.install(upgrading.made.good("1.1"))
    upgrading.trial()
    upgrading.wait_confirmed("b", TRIAL_S)
    assert "Starting new kernel" not in node.serial()
    assert node.command_line()["confine.boot"] == "trial"
    upgrading.reset()
    words = node.command_line()
    assert (words["confine.slot"], words["confine.boot"]) == ("b", "counted")


@pytest.mark.torture
def test_without_a_watchdog_in_hardware_a_good_bundle_is_confirmed_all_the_same(
    made: bundles.Maker, make_node: MakeNode
) -> None:
    node = make_node(watchdog=False)
    upgrading = bundles.Upgrading(node, made)
    assert upgrading.python("from confine.upgrade import watchdog; print(watchdog.has_hardware())") == "False\n"
    upgrading.install(made.good("1.1"))
    upgrading.trial()
    upgrading.wait_confirmed("b", TRIAL_S)


@pytest.mark.torture
def test_a_controller_that_hangs_has_the_watchdog_restart_the_node(node: VirtualNode) -> None:
    node.must(["uci", "set", "confine.node.watchdog=60"])
    node.must(["uci", "commit", "confine"])
    node.must(["/etc/init.d/confine", "reload"])
    node.wait_for("the watchdog is held", lambda: b"active" in node.read_file(WATCHDOG + "state"), 60)
    node.wait_for("it counts 40 s", lambda: node.read_file(WATCHDOG + "timeout") == b"40\n", 60)
    before = node.boot_id()
    node.sh("kill -STOP $(cat /run/confine/lock)")
    node.wait_for("the watchdog restarts the node", lambda: node.qmp.count("WATCHDOG") > 0, 120)
    node.wait_until_up(not_boot=before)
