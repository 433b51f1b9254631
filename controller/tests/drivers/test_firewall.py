"""The driver against the real nft in a network namespace of the test's own."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from confine.core import firewall as rules
from confine.core.model import Step
from confine.core.settings import Settings
from confine.drivers import firewall, nft
from confine.errors import StepError

SETTINGS = Settings(node_id=0x12, mgmt_ipv6_prefix48="fd65:fc41:c50f")
LACKING = ("Operation not supported", "No such file or directory", "Protocol not supported")

WORLD = """
import os, subprocess, time
from confine.core import firewall as rules
from confine.core.settings import Settings
from confine.drivers import firewall, nft, ports
from confine.errors import StepError

def sh(text):
    return subprocess.run(["sh", "-euc", text], check=True, capture_output=True, text=True).stdout

sh("mount -t sysfs none /sys; for which in all default; do echo 1 >/proc/sys/net/ipv6/conf/$which/disable_ipv6; done")
sh("ip link add br-confine type bridge; ip link set br-confine up")
NAMES = ["slv-%02x-00" % nr for nr in range(1, 5)]
for name in NAMES:
    sh("ip link add %s type veth peer name p%s; ip link set %s master br-confine up; ip link set p%s up"
       % (name, name, name, name))

def up():
    return [name for name in NAMES if int(open("/sys/class/net/%s/flags" % name).read(), 16) & 1]

def until(what, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within %d s: %s" % (seconds, what)
        time.sleep(0.01)

def port(nr, dhcp=False):
    return rules.Port("slv-%02x-00" % nr, "private", nr, "54:c0:00:12:%02x:00" % nr, ["192.168.241.%d" % nr],
                      ["fdbd:e804:6aa9:0:1000::%d" % nr], dhcp)

woken = []
driver = firewall.Firewall(Settings(node_id=0x12), wake=lambda: woken.append(time.monotonic()))
"""


def inside(script):
    """Run WORLD and `script` in a network namespace."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nft")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["unshare", "--net", "--mount", sys.executable, "-c", WORLD + textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    if done.returncode != 0 and any(words in done.stderr for words in LACKING):
        pytest.skip("this kernel lacks a part of nftables: " + done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
def test_the_tables_stand_once_they_were_put_up_and_looking_starts_no_process():
    inside("""
        assert not driver.ok()
        driver.install(None)
        assert driver.ok()
        sh("nft add table inet other; nft add chain inet other c; nft delete table inet other")
        assert driver.ok() and not woken
        subprocess.Popen = None
        for _ in range(100):
            assert driver.ok()
    """)


@pytest.mark.root
@pytest.mark.parametrize(
    "harm",
    [
        "nft flush ruleset",
        "nft delete table inet confine",
        "nft delete table bridge confine",
        "nft flush chain inet confine to_node",
        "nft insert rule bridge confine entering accept",
        "nft add element bridge confine ipv4 '{ slv-01-00 . 192.168.241.9 }'",
        "nft delete element bridge confine macs '{ slv-01-00 . 54:c0:00:12:01:00 }'",
        "nft add table bridge confine '{ flags dormant; }'",
    ],
)
def test_no_sliver_speaks_from_when_the_tables_were_changed_until_they_are_back(harm):
    inside(f"""
        driver.install(None)
        driver._become(1, [port(1)])
        rules_before = sh("nft -s list table bridge confine")
        assert up() == NAMES
        sh({harm!r})
        until("all interfaces are down", lambda: not up())
        until("the controller is woken", lambda: woken)
        assert not driver.ok()
        assert "confine was changed by process" in driver.trouble()[1]
        sh("ip link set slv-02-00 up")
        until("one that came up meanwhile is down again", lambda: not up())
        driver.install(None)
        assert driver.ok() and driver.trouble() is None
        assert up() == NAMES
        assert sh("nft -s list table bridge confine") == rules_before
    """)


@pytest.mark.root
def test_interfaces_of_a_stopped_sliver_stay_down_when_the_others_come_back():
    share = os.path.join(os.path.dirname(__file__), "../../../package/confine-node/files/usr/lib/confine/share")
    inside(f"""
        driver = firewall.Firewall(Settings(node_id=0x12), {os.path.abspath(share)!r}, lambda: ["slv-02-*"])
        driver.install(None)
        assert driver.ok() and firewall.standing_cuts() == ["slv-02-*"]
        sh("nft flush ruleset")
        until("all interfaces are down", lambda: not up())
        driver.install(None)
        assert driver.ok() and firewall.standing_cuts() == ["slv-02-*"]
        assert "slv-02-00" not in up() and "slv-01-00" in up()
        sh("nft delete table bridge confine_stop")
        assert not driver.ok()
    """)


@pytest.mark.root
def test_a_sliver_released_while_the_tables_are_put_up_is_not_cut_off_by_that():
    share = os.path.join(os.path.dirname(__file__), "../../../package/confine-node/files/usr/lib/confine/share")
    inside("share = {!r}".format(os.path.abspath(share)) + """
answers = [["slv-01-*", "slv-02-*"], ["slv-02-*"]]
driver = firewall.Firewall(Settings(node_id=0x12), share, lambda: answers.pop(0) if answers[1:] else answers[0])
driver.install(None)
assert firewall.standing_cuts() == ["slv-02-*"]
assert driver.ok()
""")  # fmt: skip


@pytest.mark.root
def test_a_guard_without_a_descriptor_to_spare_counts_that_as_a_change_and_goes_on():
    inside("""
        driver._ports = {1: [port(1)]}
        driver.install(None)
        take_down, failed = ports.take_down, []

        def without(names):
            if not failed:
                failed.append(1)
                raise OSError(24, "Too many open files")
            return take_down(names)

        ports.take_down = without
        sh("nft flush ruleset")
        until("the fault is told", lambda: driver.trouble() is not None)
        until("slivers are cut off all the same", lambda: not up())
        assert not driver.ok() and woken
        driver.install(None)
        until("it watches again", driver.ok)
        assert up() and driver.trouble() is None
    """)


@pytest.mark.root
def test_a_refused_transaction_leaves_the_old_rules_in_force():
    inside("""
        driver.install(None)
        driver._become(1, [port(1)])
        before = sh("nft list ruleset")
        good = rules.render
        rules.render = lambda *a: good(*a) + "add rule inet confine nowhere accept\\n"
        try:
            driver.install(None)
            raise SystemExit("it was taken")
        except StepError as error:
            assert "nowhere" in str(error)
        assert sh("nft list ruleset") == before
        assert "nowhere" in driver.trouble()[1]
        wrong = port(2)
        wrong.mac = "54:c0:00:12:02:zz"
        try:
            driver._become(2, [wrong])
            raise SystemExit("it was taken")
        except (StepError, ValueError):
            pass
        assert sh("nft list ruleset") == before and driver.admitted(2) == []
        rules.render = good
        driver.install(None)
        assert driver.ok() and driver.trouble() is None and driver.admitted(1) == [port(1)]
    """)


@pytest.mark.root
def test_without_nft_slivers_that_were_cut_off_stay_so_and_it_is_said_since_when():
    inside("""
        driver.install(None)
        sh("nft flush ruleset")
        until("all interfaces are down", lambda: not up())
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            driver.install(None)
            raise SystemExit("there is an nft")
        except StepError as error:
            assert "install nftables" in str(error)
        assert not up() and not driver.ok()
        since, why = driver.trouble()
        assert abs(time.time() - since) < 120 and "install nftables" in why
        os.environ["PATH"] = path
        driver.install(None)
        assert up() == NAMES and driver.trouble() is None
    """)


@pytest.mark.root
def test_a_daemon_that_cannot_read_its_settings_keeps_the_tables_as_they_stand():
    inside("""
        named = Settings(node_id=0x12, mgmt_ipv6_prefix48="fd65:fc41:c50f", firewall_dns=False)
        last = "/mnt/firewall.nft"
        sh("mount -t tmpfs none /mnt")
        before = firewall.Firewall(named, last=last)
        before.install(None)
        before._become(1, [port(1)])
        before._become(2, [port(2, True)])
        before.lease("slv-02-00", "192.0.2.9", 3000)
        before.close()

        def listed():
            whole = sh("for family in bridge inet; do nft -s list table $family confine; done")
            lease = [line for line in whole.splitlines() if "192.0.2.9" in line]
            assert len(lease) == 1 and " timeout " in lease[0]
            return whole.replace(lease[0], "")

        stood = listed()
        driver = firewall.Firewall(Settings(), wake=lambda: woken.append(1), last=last)
        assert not driver.ok()
        driver.install(None)
        assert driver.ok() and driver.trouble() is None and listed() == stood and up() == NAMES
        for harm in ("nft flush ruleset", "nft insert rule inet confine to_node accept"):
            sh(harm)
            until("all interfaces are down", lambda: not up())
            assert not driver.ok()
            driver.install(None)
            assert driver.ok() and up() == NAMES and listed() == stood
        driver._become(1, [])
        sh("nft flush ruleset")
        until("all interfaces are down", lambda: not up())
        driver.install(None)
        assert "slv-02-00" in listed() and "slv-01-00" not in listed()
    """)


@pytest.mark.root
def test_without_tables_and_settings_slivers_are_cut_off_until_a_daemon_has_settings():
    inside("""
        unnamed = firewall.Firewall(Settings())
        try:
            unnamed.install(None)
            raise SystemExit("it put up something")
        except StepError as error:
            assert "the settings do not say how the firewall should be, and the last one is gone" in str(error)
        assert not up() and not unnamed.ok() and "tables do not stand" in unnamed.trouble()[1]
        unnamed.close()
        driver.install(None)
        assert driver.ok() and up() == NAMES
    """)


@pytest.mark.root
def test_what_a_daemon_had_cut_off_when_it_was_killed_speaks_again_once_the_next_has_put_the_tables_up():
    inside("""
        driver.install(None)
        sh("nft flush ruleset")
        until("all interfaces are down", lambda: not up())
        driver.close()
        after = firewall.Firewall(Settings(node_id=0x12))
        after.install(None)
        assert after.ok() and up() == NAMES
    """)


@pytest.mark.root
def test_the_next_daemon_takes_over_what_slivers_may_say_and_their_leases():
    inside("""
        driver.install(None)
        driver._become(1, [port(1)])
        driver._become(2, [port(2, True)])
        driver._become(9, [port(9)])  # of a sliver whose interface is gone
        driver.lease("slv-02-00", "10.1.1.2", 600)
        driver.close()
        other = firewall.Firewall(Settings(node_id=0x12))
        assert not other.ok()
        other.install(None)
        assert other.ok()
        assert (other.admitted(1), other.admitted(2), other.admitted(9)) == ([port(1)], [port(2, True)], [])
        listed = sh("nft list set bridge confine leases")
        assert "10.1.1.2 timeout" in listed
        assert "slv-09-00" not in sh("nft list ruleset")
    """)


@pytest.mark.root
def test_a_lease_lasts_as_long_as_the_server_said_and_is_renewed_or_replaced():
    inside("""
        import json
        def leases():
            listing = json.loads(sh("nft -j list set bridge confine leases"))["nftables"]
            return rules.read(listing)[1]
        driver.install(None)
        driver._become(2, [port(2, True)])
        driver.lease("slv-02-00", "10.1.1.2", 2)
        driver.lease("slv-02-00", "10.1.1.2", 600)
        assert 500 < leases()["slv-02-00", "10.1.1.2"] <= 600
        driver.lease("slv-02-00", "10.1.1.3", 600)
        assert list(leases()) == [("slv-02-00", "10.1.1.3")]
        sh("nft flush ruleset")
        driver.install(None)
        assert 500 < leases()["slv-02-00", "10.1.1.3"] <= 600
        driver.lease("slv-02-00", "10.1.1.3", 1)
        until("it is over", lambda: not leases())
        driver.lease("slv-02-00", "10.1.1.3", 600)
        driver._become(2, [])
        assert not leases() and "slv-02" not in sh("nft list ruleset")
        try:
            driver.lease("slv-01-00", "10.1.1.9", 600)
            raise SystemExit("it asked for none")
        except StepError:
            pass
    """)


@pytest.mark.root
def test_a_change_for_one_sliver_touches_its_own_elements_only():
    inside("""
        driver.install(None)
        for nr in range(1, 5):
            driver._become(nr, [port(nr)])
        texts = []
        run = nft.run
        nft.run = lambda arguments, text="": texts.append(text) or run(arguments, text)
        before = sh("nft -s list ruleset")
        driver._become(3, [])
        driver._become(3, [])
        own = [any(word in line for word in ("slv-03-00", "0x1030000")) for text in texts for line in text.splitlines()]
        assert len(texts) == 1 and all(own)
        driver._become(3, [port(3)])
        assert sorted(sh("nft -s list ruleset").split()) == sorted(before.split())
        assert driver.ok()
    """)


@pytest.mark.root
def test_a_sliver_that_starts_is_let_through_without_a_process_as_nft_would():
    inside("""
        every = [port(1, True), port(2), rules.Port("slv-03-00", "management", 3, "54:c0:00:12:03:00", [],
                 ["fd65:fc41:c50f:12:1001:0:3:1"]), rules.Port("slv-04-00", "public6", 4, "54:c0:00:12:04:00", [],
                 ["fd00:11:22::33:44"])]
        driver.install(None)
        nothing = sh("nft -s list ruleset")
        sh("nft -f - <<'.'\\n" + rules.change([], every) + ".\\n")
        by_nft = sh("nft -s list ruleset")
        assert by_nft != nothing
        until("the change by somebody else is known", lambda: not driver.ok())
        driver.install(None)
        assert sh("nft -s list ruleset") == nothing

        def no_process(*_):
            raise SystemExit("nft was started")

        run, nft.run = nft.run, no_process
        for one in every:
            driver._become(one.nr, [one])
        assert driver.ok() and up() == NAMES
        nft.run = run
        assert sorted(sh("nft -s list ruleset").split()) == sorted(by_nft.split())
        for one in every:
            driver._become(one.nr, [])
        assert sorted(sh("nft -s list ruleset").split()) == sorted(nothing.split())
    """)


@pytest.mark.root
def test_elements_that_the_kernel_refuses_change_nothing_and_are_a_failed_step():
    inside("""
        driver.install(None)
        before = sh("nft -s list ruleset")
        good = rules.elements
        rules.elements = lambda ports: {**good(ports), ("bridge", "nosuch"): ["slv-01-00"]}
        try:
            driver._become(1, [port(1)])
            raise SystemExit("it was taken")
        except StepError as error:
            assert "No such file" in str(error)
        rules.elements = good
        assert sh("nft -s list ruleset") == before and driver.admitted(1) == []
        driver._become(1, [port(1)])
        assert driver.ok() and "slv-01-00" in sh("nft list map bridge confine marks")
    """)


@pytest.mark.root
def test_a_program_that_stands_in_for_nft_is_known_as_ours():
    inside("""
        import tempfile
        where = tempfile.mkdtemp()
        with open(where + "/nft", "w") as file:
            file.write('#!/bin/sh\\ncat | %s "$@"\\n' % sh("command -v nft").strip())
        os.chmod(where + "/nft", 0o755)
        os.environ["PATH"] = where + ":" + os.environ["PATH"]
        driver.install(None)
        assert driver.ok() and up() == NAMES
        driver._become(1, [port(1, True)])
        assert driver.ok() and up() == NAMES
        driver.lease("slv-01-00", "10.0.0.2", 60)
        assert driver.ok() and up() == NAMES
        sh("echo flush ruleset | nft -f -")
        until("all interfaces are down", lambda: not up())
        assert not driver.ok()
    """)


@pytest.mark.root
def test_a_port_is_disabled_on_its_bridge_before_it_is_taken_down_and_passes_again_when_it_is_up():
    inside("""
        def states():
            return {open("/sys/class/net/%s/brport/state" % name).read().strip() for name in NAMES}
        until("they pass", lambda: states() == {"3"})
        ports.disable([*NAMES, "slv-77-00"])
        assert states() == {"0"} and up() == NAMES
        assert ports.take_down(NAMES) == NAMES and not up()
        assert ports.let_speak(NAMES) == []
        until("they pass again", lambda: states() == {"3"})
    """)


@pytest.mark.root
def test_drops_are_counted_for_each_sliver_by_reason():
    inside("""
        import socket
        driver.install(None)
        driver._become(1, [port(1)])
        assert firewall.drops() == {}
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("pslv-01-00", 0))
            for _ in range(3):
                wire.send(b"\\xff" * 6 + b"\\x02" + bytes(5) + b"\\x08\\x00" + bytes(46))
            wire.send(b"\\xff" * 6 + bytes.fromhex("54c000120100") + b"\\x88\\xcc" + bytes(46))
        until("they are counted", lambda: firewall.drops() == {(1, "spoofed"): 3, (1, "refused"): 1})
        driver._become(1, [])
        assert firewall.drops() == {}
    """)


def test_rules_that_nft_refuses_are_a_failed_step_with_its_words():
    if shutil.which("nft") is None:
        pytest.skip("needs nft")
    with pytest.raises(StepError, match="nft -f - failed"):
        nft.run(["-f", "-"], "table inet x { chain {\n")


def test_a_sliver_is_not_let_through_before_the_tables_stand():
    driver = firewall.Firewall(SETTINGS)
    with pytest.raises(StepError, match="not up yet"):
        driver._become(1, [rules.Port("slv-01-00", "private", 1, "54:c0:00:12:01:00", [], [])])
    with pytest.raises(StepError, match="without sliver or booking"):
        driver.admit(Step("firewall", "admit", "x", "test"))
