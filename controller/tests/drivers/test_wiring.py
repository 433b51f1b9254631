"""The worker makes and removes interfaces in namespaces of the test's own: what does not need VLANs or shaping, which
virtual nodes have."""

import json
import os
import subprocess
import sys

import pytest

from confine.core import interfaces, wiring
from confine.core.model import Booking, Interface, Limits, SliverTarget
from confine.core.settings import Settings
from confine.drivers import interfaces as driver

pytest.importorskip("pyroute2", reason="pyroute2 is not in this environment")
pytestmark = [pytest.mark.root, pytest.mark.slow]

SPACE = f"wiring-{os.getpid()}"
NAME = "000000000005_0012"
ASKED = [Interface(0, "priv", "private", None), Interface(1, "mgmt0", "management", None),
         Interface(4, "dbg0", "debug", None)]  # fmt: skip
UNBOUND = {"up": None, "down": None}


def wanted(asked=ASKED):
    settings = Settings(node_id=0x12, mgmt_ipv6_prefix48="fd65:fc41:c50f")
    sliver = SliverTarget("5@18", NAME, "", 5, "", 1, 0x12, "", "start", 1, 1, None, None, list(asked),
                          Limits(1, 1, None, 1, 1, None, None), [], None, None, {}, [], False)  # fmt: skip
    return interfaces.of_sliver(sliver, Booking("5@18", NAME, 3, 1, 1), settings)[0]


class Node:
    """A namespace as a node, and a process in another one as a sliver."""

    def __init__(self):
        subprocess.run(["ip", "netns", "add", SPACE], check=True)
        self.run("ip", "link", "add", "br-confine", "type", "bridge")
        self.run("ip", "link", "add", "br-local", "type", "bridge")
        self.run("ip", "link", "set", "br-local", "up")
        self.sliver = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        with open("/proc/self/ns/net") as own:
            here = os.fstat(own.fileno()).st_ino
        while os.stat(f"/proc/{self.sliver.pid}/ns/net").st_ino == here:
            pass

    def run(self, *words):
        return subprocess.run(["ip", "netns", "exec", SPACE, *words], check=True, capture_output=True, text=True).stdout

    def inside(self, *words):
        argv = ["nsenter", "-t", str(self.sliver.pid), "-n", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def work(self, asked, pid=None, cgroup="/", kept=()):
        """The worker's answer."""
        job = {**wiring.job(NAME, 3, asked, UNBOUND, list(kept)), "pid": pid or self.sliver.pid, "cgroup": cgroup}
        done = subprocess.run(["ip", "netns", "exec", SPACE, *driver.command("-")], input=json.dumps(job).encode(),
                              capture_output=True, check=False)  # fmt: skip
        return driver.told(json.loads(done.stdout))

    def indexes(self):
        listed = json.loads(self.run("ip", "-j", "link"))
        return {link["ifname"]: link["ifindex"] for link in listed if link["ifname"].startswith("slv-")}

    def close(self):
        self.sliver.kill()
        self.sliver.wait()
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


@pytest.fixture
def node():
    made = Node()
    yield made
    made.close()


def test_interfaces_are_made_with_names_addresses_and_routes_on_their_bridges_and_isolated(node):
    assert node.work(wanted()) == ""
    shown = node.inside("ip", "addr")
    for words in ("192.168.241.3/25", "fdbd:e804:6aa9:0:1000::5/64", "fd65:fc41:c50f:12:1001::5/64",
                  "fd5f:eee5:e6ad:12:1004::5/64", "54:c0:00:12:03:04"):  # fmt: skip
        assert words in shown
    assert "default via 192.168.241.126 dev priv" in node.inside("ip", "route")
    assert "fd65:fc41:c50f::/48 via fd65:fc41:c50f:12::2 dev mgmt0" in node.inside("ip", "-6", "route")
    assert "mtu 1400" in node.inside("ip", "link", "show", "mgmt0")
    for port, bridge in (("slv-03-00", "br-confine"), ("slv-03-01", "br-confine"), ("slv-03-04", "br-local")):
        link = node.run("ip", "-d", "link", "show", port)
        assert f"master {bridge}" in link and "isolated on" in link


def test_what_is_right_is_not_touched_and_what_is_not_wanted_goes(node):
    node.work(wanted())
    before = node.indexes()
    assert node.work(wanted()) == ""
    assert node.indexes() == before
    assert node.work(wanted(ASKED[:2])) == ""
    assert node.indexes() == {port: index for port, index in before.items() if port != "slv-03-04"}
    assert node.work(None) == ""
    assert node.indexes() == {}


def test_an_interface_that_waits_for_its_bridge_stays_as_it_is(node):
    node.work(wanted())
    before = node.indexes()
    node.run("ip", "link", "del", "br-local")
    assert node.work(wanted(ASKED[:2]), kept=["slv-03-04"]) == ""
    assert node.indexes() == before


def test_one_that_was_cut_off_half_way_is_made_anew(node):
    node.work(wanted())
    before = node.indexes()
    node.run("ip", "link", "set", "slv-03-01", "alias", "half made")
    assert node.work(wanted()) == ""
    after = node.indexes()
    assert after.pop("slv-03-01") != before.pop("slv-03-01")
    assert after == before


def test_a_hardware_address_that_is_on_the_bridge_already_is_named_and_the_others_are_made(node):
    node.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    node.run("ip", "link", "set", "up0", "master", "br-local")
    node.run("bridge", "fdb", "add", "54:c0:00:12:03:04", "dev", "up0", "master", "static")
    said = node.work(wanted())
    assert said == "slv-03-04: hardware address 54:c0:00:12:03:04 is already on br-local, behind up0"
    assert set(node.indexes()) == {"slv-03-00", "slv-03-01"}


def test_a_bridge_that_is_down_keeps_no_sliver_from_running(node):
    node.run("ip", "link", "set", "br-local", "down")
    assert node.work(wanted()) == ""


def test_a_bridge_that_is_not_there_is_named(node):
    node.run("ip", "link", "del", "br-local")
    assert "there is no bridge br-local" in node.work(wanted())


def test_a_process_that_is_not_the_slivers_is_left_alone(node):
    assert "is not of sliver" in node.work(wanted(), cgroup="/confine/" + NAME)
    own = subprocess.Popen(["ip", "netns", "exec", SPACE, sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        while os.stat(f"/proc/{own.pid}/ns/net").st_ino != os.stat(f"/run/netns/{SPACE}").st_ino:
            pass
        assert "is in the node's own network" in node.work(wanted(), pid=own.pid)
    finally:
        own.communicate(b"\n")
    assert node.indexes() == {}
