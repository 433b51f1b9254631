"""Runs in the node: what is measured of slivers' interfaces, with the real drivers and by hand, turn about.

python3 network_drive.py WHAT SHA256        WHAT: tcp, interfaces, idle; one line of JSON on stdout
"""

import json
import os
import subprocess
import sys
import time

import bench_drive as base

from confine.core.model import Booking, Interface
from confine.drivers import cgroups
from confine.drivers.containers import Containers
from confine.drivers.interfaces import Interfaces

TIMES = 5
SENDING_S = 4
IP = "/usr/sbin/ip"
TAG = 0x123
THREE = [Interface(1, "mgmt0", "management", None), Interface(7, "mgmt1", "management", None),
         Interface(5, "iso0", "isolated", "eth1")]  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": "/usr/lib/confine"}

# What a person would write with the same library: the same devices and addresses, nothing looked at before or after.
HAND = """
import os, sys
from pyroute2.iproute.linux import IPRoute
from confine.drivers import syscalls
verb, pid = sys.argv[1], int(sys.argv[2])
ports = [("hand0", "eth0", "fd65::10"), ("hand1", "eth1", "fd65::11"), ("hand2", "eth2", None)]
with IPRoute() as host:
    if verb == "remove":
        for name in ("hand0", "hand1", "hand2", "handv"):
            host.link("del", index=host.link_lookup(ifname=name)[0])
        sys.exit()
    bridge = host.link_lookup(ifname="br-confine")[0]
    parent = host.link_lookup(ifname="eth1")[0]
    own, other = (os.open(f"/proc/{who}/ns/net", os.O_RDONLY) for who in ("self", pid))
    syscalls.setns(other, 0x40000000)
    inside = IPRoute()
    syscalls.setns(own, 0x40000000)
    for name, peer, address in ports:
        host.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": other})
        index = host.link_lookup(ifname=name)[0]
        inner = inside.link_lookup(ifname=peer)[0]
        if address:
            host.link("set", index=index, master=bridge)
            inside.addr("add", index=inner, address=address, prefixlen=64)
        inside.link("set", index=inner, state="up")
        host.link("set", index=index, state="up")
    port = host.link_lookup(ifname="hand2")[0]
    host.link("add", ifname="handv", kind="vlan", link=parent, vlan_id=0x124)
    vlan = host.link_lookup(ifname="handv")[0]
    for one, to in ((port, vlan), (vlan, port)):
        host.tc("add", "clsact", one)
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": to}
        host.tc("add-filter", "matchall", one, 0, parent=0xFFFFFFF2, prio=1, protocol=3, action=[action])
    host.link("set", index=vlan, state="up")
"""

SEND = """
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
piece, end = bytes(1 << 17), time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    link.sendall(piece)
"""
RECEIVE = """
import socket, sys, time
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    octets, begun = 0, time.monotonic()
    while True:
        piece = link.recv(1 << 18)
        if not piece:
            break
        octets += len(piece)
print(octets / (time.monotonic() - begun))
"""
LOOK = """
import json, os, sys, time
from confine.core.settings import Settings
from confine.drivers.interfaces import Interfaces
from confine.paths import Paths
started, written = [], []
def audit(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn"):
        started.append(event)
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(arguments[0])
one = Interfaces(Paths(), Settings())
sys.addaudithook(audit)
begun = time.monotonic()
one.snapshot()
ports = sum(len(one.wired(nr).ports) for nr in range(1, 33))
print(json.dumps({"processes": len(started), "writes": len(written), "ports": ports,
                  "seconds": time.monotonic() - begun}))
"""

driver = Interfaces(base.paths, base.settings)
base.drivers["containers"] = Containers(base.paths, base.settings, driver)


def ip(*lines):
    subprocess.run([IP, "-batch", "-"], input="".join(line + "\n" for line in lines).encode(), check=True)


def with_interfaces(extra):
    """Sliver 1 with those interfaces besides the private one, for the step interfaces attach."""
    step = base.step("interfaces", "attach", 1)
    step.sliver.interfaces = [Interface(0, "priv", "private", None), *extra]
    step.booking = Booking(step.booking.key, step.booking.name, 1, 24, base.DISK_MIB, TAG)
    return step


def up():
    """Sliver 1; gives the pid of its init."""
    base.put_up_network()
    base.settings.mgmt_ipv6_prefix48 = "fd65:fc41:c50f"
    base.drive([("storage", "allocate"), *base.UP], 1)
    return cgroups.find_init(base.drivers["limits"].path(base.hostname(1, base.NODE_ID)))


def interfaces():
    """Seconds to make and remove three interfaces of a running sliver, and of the same by hand."""
    ip("link add eth1 type veth peer name other", "link set eth1 up", "link set other up")
    up()
    three, one = with_interfaces(THREE), with_interfaces([])
    base.drivers["firewall"].admit(three)  # a step of its own
    with subprocess.Popen(["unshare", "-n", "sleep", "1000"]) as bare:
        time.sleep(1)
        mine, other = [], []
        for _ in range(TIMES):
            begun = time.monotonic()
            driver.attach(three)
            driver.attach(one)
            mine.append(time.monotonic() - begun)
            begun = time.monotonic()
            for verb in ("make", "remove"):
                subprocess.run([*base.PYTHON, "-c", HAND, verb, str(bare.pid)], check=True, env=ENVIRONMENT)
            other.append(time.monotonic() - begun)
        bare.kill()
    base.drive(base.DOWN, 1)
    return {"mine": mine, "bare": other}


def rate(namespace, port):
    """Bytes per second by TCP from a namespace to the one named lan."""
    receiver = subprocess.Popen([IP, "netns", "exec", "lan", *base.PYTHON, "-c", RECEIVE, str(port)],
                                stdout=subprocess.PIPE, text=True)  # fmt: skip
    receiver.stdout.readline()
    words = [IP, "netns", "exec", namespace, *base.PYTHON, "-c", SEND, "10.88.0.2", str(port), str(SENDING_S)]
    subprocess.run(words, check=True)
    return float(receiver.communicate(timeout=60)[0])


def tcp():
    """Bytes per second of a sliver's private interface, and of a bare veth on a bridge, through the same node."""
    init = up()
    subprocess.run([IP, "netns", "add", "lan"], check=True)
    subprocess.run([IP, "netns", "add", "bare"], check=True)
    subprocess.run([IP, "netns", "attach", "sliver", str(init)], check=True)
    ip("link add out type veth peer name eth0 netns lan", "addr add 10.88.0.1/24 dev out", "link set out up",
       "link add br-bare type bridge", "addr add 10.77.0.1/24 dev br-bare", "link set br-bare up",
       "link add bare0 type veth peer name eth0 netns bare", "link set bare0 master br-bare up")  # fmt: skip
    for namespace, address, gateway in (("lan", "10.88.0.2", "10.88.0.1"), ("bare", "10.77.0.2", "10.77.0.1")):
        for words in (f"addr add {address}/24 dev eth0", "link set eth0 up", f"route add default via {gateway}"):
            subprocess.run([IP, "-n", namespace, *words.split()], check=True)
    mine, other = [], []
    for turn in range(TIMES):
        mine.append(rate("sliver", 7100 + turn))
        other.append(rate("bare", 7200 + turn))
    base.drive(base.DOWN, 1)
    return {"mine": mine, "bare": other}


def idle():
    """A look at 32 slivers with three interfaces each: processes started, files written, seconds."""
    subprocess.run([IP, "netns", "add", "crowd"], check=True)
    lines = ["link add br-confine type bridge"]
    for nr in range(1, 33):
        for ii in range(3):
            lines.append(f"link add slv-{nr:02x}-{ii:02x} type veth peer name p{nr}-{ii}")
            lines.append(f"link set slv-{nr:02x}-{ii:02x} master br-confine alias made-{nr}-{ii}")
    text = "".join(line + "\n" for line in lines).encode()
    subprocess.run([IP, "-n", "crowd", "-batch", "-"], input=text, check=True)
    words = [IP, "netns", "exec", "crowd", *base.PYTHON, "-c", LOOK]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT)
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps({"tcp": tcp, "interfaces": interfaces, "idle": idle}[sys.argv[1]]()))
