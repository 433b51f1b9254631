"""The bridge of the private interfaces: what is read from the kernel's files, and in a network namespace of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from confine.core.settings import Settings
from confine.drivers import links
from confine.errors import StepError

IF_INET6 = """\
fdbde8046aa900000000000000000001 03 40 00 80 br-confine
fe8000000000000056c000fffe120000 03 40 20 80 br-confine
fec0000000000000505400fffe123456 02 40 40 00     eth0
"""


def test_addresses_of_an_interface_are_read_without_the_link_local_ones():
    assert links.ipv6_of("br-confine", IF_INET6) == [("fdbd:e804:6aa9::1", 64)]
    assert links.ipv6_of("eth1", IF_INET6) == []
    assert links.ipv6_of("eth0", None) == []


def test_the_address_of_the_loopback_is_read_by_ioctl():
    assert links.ipv4_of("lo") == ("127.0.0.1", "255.0.0.0")
    assert links.ipv4_of("nosuch0") is None


def test_a_port_that_is_on_no_bridge_cannot_be_isolated():
    with pytest.raises(StepError, match="lo is on no bridge, not on br-confine"):
        links.isolate("lo")


SCRIPT = """
import subprocess, sys
from confine.core.settings import Settings
from confine.drivers import links
links.FORWARDING = ()  # the namespace's own are read-only for some kernels
links.BRIDGE_SYSCTLS = ()
links._obeys_ra = lambda interface: False
driver = links.Links(Settings(node_id=0x12))
assert not driver.bridge_ok()
driver.bridge(None)
assert driver.bridge_ok()
subprocess.run(["ip", "link", "set", "br-confine", "down"], check=True)
assert not driver.bridge_ok()
driver.bridge(None)
assert driver.bridge_ok()
print(open("/sys/class/net/br-confine/address").read().strip(), links.ipv4_of("br-confine"))
"""


@pytest.mark.root
def test_the_bridge_is_made_and_put_right_in_a_network_namespace():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    command = ["unshare", "--net", "--mount", "sh", "-c"]
    inside = 'mount -t sysfs sysfs /sys && exec "$0" -c "$1"'
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [*command, inside, sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    if "type bridge" in done.stderr and "not supported" in done.stderr:
        pytest.skip("this kernel has no bridges")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "54:c0:00:12:00:00 ('192.168.241.126', '255.255.255.128')"


def test_the_bridge_has_an_address_of_its_own_from_the_nodes_id():
    assert links.Links(Settings(node_id=0xABC))._mac == "54:c0:0a:bc:00:00"
