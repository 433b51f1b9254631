"""A node and its neighbour, each in a network namespace, joined by a cable: who answers before and after a change.

    unshare -n -m python3 witnesses_world.py SCENARIO DIRECTORY

Each scenario is a function; it fails by an assertion. What must not answer is cut off for good, so that no answer can
come late.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE))))

from worlds import wait  # noqa: E402

from confine.core.settings import Settings  # noqa: E402
from confine.drivers import cgroups, rtnetlink, witnesses  # noqa: E402
from confine.paths import Paths  # noqa: E402

NODE, NEIGHBOUR = "192.0.2.1", "192.0.2.2"
MAC = "02:00:00:00:00:02"
PEER = "fd65:fc41:c50f::1"


class World:
    def __init__(self, work):
        self.paths = Paths(run=work + "/run", tinc=work + "/tinc")
        for path in ("run/overlay", "tinc/hosts"):
            os.makedirs(os.path.join(work, path))
        self.other = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        here = os.readlink("/proc/self/ns/net")
        wait("the neighbour is there", lambda: os.readlink(f"/proc/{self.other.pid}/ns/net") != here)
        sh(f"ip link add eth1 type veth peer name eth0 netns {self.other.pid}; ip link set eth1 up")
        sh(f"ip address add {NODE}/24 dev eth1")
        self.there(f"ip link set eth0 address {MAC} up; ip address add {NEIGHBOUR}/24 dev eth0")
        wait("the cable carries", lambda: cgroups.read("/sys/class/net/eth1/carrier") == "1")
        self.witnesses = witnesses.Witnesses(self.paths, Settings(node_id=0x12), None)

    def there(self, text):
        """Run at the neighbour."""
        sh(text, "nsenter", "-n", "-t", str(self.other.pid))

    def known(self, address=NEIGHBOUR):
        """The node has had to do with its neighbour."""
        rtnetlink.ask("eth1", address)
        wait("the neighbour is known", lambda: rtnetlink.neighbours().get(("eth1", address), (0, ""))[1])

    def answered(self, before):
        wait("all answers again", lambda: self.witnesses.lost(before) == [])

    def silent(self, before, words):
        """It is said so, and asking again changes nothing."""
        for _ in range(3):
            wait(words, lambda: any(words in text for text in self.witnesses.lost(before)))
            self.witnesses._asked = 1.0  # long ago


def sh(text, *before):
    subprocess.run([*before, "sh", "-euc", text], check=True)


def both_change(world):
    world.known()
    before = world.witnesses.before()
    assert [mac for _, _, mac in before["neighbours"]] == [MAC], before
    # The neighbour gets another address; the node puts a bridge over its own device.
    world.there("ip address flush dev eth0 scope global; ip address add 192.0.2.77/24 dev eth0")
    sh("ip address flush dev eth1 scope global; ip link add br-local type bridge; ip link set eth1 master br-local;"
       f"ip link set br-local up; ip address add {NODE}/24 dev br-local")  # fmt: skip
    world.witnesses.forget()
    assert world.witnesses.lost(before) == ["it was not asked yet"]
    world.answered(before)


def cut(world):
    world.known()
    before = world.witnesses.before()
    world.there("ip link set eth0 down")
    world.witnesses.forget()
    world.silent(before, "no neighbour answers that did, " + NEIGHBOUR)


def gateway(world):
    sh(f"ip route add default via {NEIGHBOUR}")
    before = world.witnesses.before()  # nobody had to do with it yet: it is asked
    assert before["IPv4"] and not before["IPv6"], before
    world.witnesses.forget()
    world.answered(before)
    world.there("ip link set eth0 down")
    world.witnesses.forget()
    world.silent(before, "no default gateway answers by IPv4")


def stale_gateway(world):
    world.there("ip link set eth0 down")
    sh(f"ip route add default via {NEIGHBOUR}; ip neigh replace {NEIGHBOUR} lladdr {MAC} dev eth1 nud stale")
    before = world.witnesses.before()
    assert not before["IPv4"] and not before["neighbours"], before


def fixed_gateway(world):
    sh(f"ip route add default via {NEIGHBOUR}; ip neigh replace {NEIGHBOUR} lladdr {MAC} dev eth1 nud permanent")
    before = world.witnesses.before()
    assert before["IPv4"], before
    world.witnesses.forget()
    world.witnesses.lost(before)
    assert rtnetlink.neighbours()["eth1", NEIGHBOUR][0] == rtnetlink.NUD_PERMANENT
    assert world.witnesses.lost(before) == []


def overlay(world):
    world.there(f"ip address add {PEER}/64 dev eth0 nodad")
    sh("ip address add fd65:fc41:c50f::12/64 dev eth1 nodad")
    for path, text in ((world.paths.run + "/overlay/server_1", "up 192.0.2.2 655\n"),
                       (world.paths.run + "/overlay/server_2", "down\n"),
                       (world.paths.tinc + "/hosts/server_1", f"Address = 192.0.2.2 655\nSubnet = {PEER}/128\n"),
                       (world.paths.tinc + "/hosts/server_2", "Subnet = fd65:fc41:c50f::2/128\n")):  # fmt: skip
        with open(path, "w") as file:
            file.write(text)
    before = world.witnesses.before()
    assert before["overlay"] == [PEER], before
    world.witnesses.forget()
    world.answered(before)
    world.there(f"ip address del {PEER}/64 dev eth0")
    world.witnesses.forget()
    world.silent(before, "no peer of the overlay answers that did, " + PEER)


def own_sliver(world):
    world.there("ip link set eth0 down; ip link set eth0 address 54:c0:00:12:01:02; ip link set eth0 up")
    world.known()
    assert world.witnesses.before()["neighbours"] == []


SCENARIOS = [both_change, cut, gateway, stale_gateway, fixed_gateway, overlay, own_sliver]


def main():
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    witnesses.ASK_AGAIN_S = 0.5
    world = World(sys.argv[2])
    try:
        {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]](world)
    finally:
        world.other.kill()
        world.other.wait()


if __name__ == "__main__":
    main()
