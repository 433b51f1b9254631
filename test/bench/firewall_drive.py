"""What the firewall costs, in a network namespace of its own with real ports, rules and frames; JSON on stdout.

python3 firewall_drive.py WHAT      as root; WHAT: packets, change, flush
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time

from confine.core.firewall import Port
from confine.core.settings import Settings
from confine.drivers import firewall, nft, ports

TIMES = 9
MANY = 100
FRAMES = 20000
MAC = "54:c0:00:12:00:00"
FLAGS, STATE = "/sys/class/net/{}/flags", "/sys/class/net/{}/brport/state"


def name(nr):
    return f"slv-{nr:02x}-00"


def port(nr):
    return Port(name(nr), "private", nr, f"54:c0:00:12:{nr:02x}:00", [f"192.168.241.{nr}"],
                [f"fdbd:e804:6aa9:0:1000::{nr:x}"])  # fmt: skip


def world(count):
    """A bridge with so many slivers' ports, and the driver with its tables up."""
    lines = [f"link add br-confine address {MAC} type bridge mcast_snooping 0", "link set br-confine up"]
    for nr in range(1, count + 1):
        lines += [f"link add {name(nr)} type veth peer name in{nr}", f"link set {name(nr)} master br-confine up",
                  f"link set in{nr} address {port(nr).mac} up"]  # fmt: skip
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)
    driver = firewall.Firewall(Settings(node_id=0x12))
    driver.install(None)
    return driver


def admit(driver, count):
    """Have the firewall let exactly the first `count` slivers speak."""
    driver._ports = {nr: [port(nr)] for nr in range(1, count + 1)}
    driver.install(None)


def frame():
    """An honest UDP packet of sliver 1, of 100 bytes, to the node, which drops it without an answer."""
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "controller", "tests", "drivers"))
    from wall_frames import UDP, eth, ip4, udp

    me, to = "192.168.241.1", "192.168.241.126"
    return eth(port(1).mac, MAC, 0x0800, ip4(me, to, UDP, udp(me, to, 5000, 7000, bytes(58))))


def packets():
    """Seconds for FRAMES frames through the bridge table with 1 and with MANY slivers' elements, turn about."""
    driver = world(1)
    text, seconds = frame(), {1: [], MANY: []}
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a frame is handled where it is sent
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("in1", 0))
        for _ in range(TIMES):
            for count, found in seconds.items():
                admit(driver, count)
                before, begun = received(), time.process_time()
                for _ in range(FRAMES):
                    wire.send(text)
                found.append(time.process_time() - begun)
                assert received() - before >= FRAMES * 0.99, "frames did not come through"
    return {"one": seconds[1], "many": seconds[MANY]}


def received():
    with open("/sys/class/net/br-confine/statistics/rx_packets") as file:
        return int(file.read())


def change():
    """Seconds to let one sliver speak and to silence it again, beside one and among MANY others, turn about."""
    driver = world(1)
    seconds = {1: [], MANY: []}
    for _ in range(TIMES):
        for others, found in seconds.items():
            admit(driver, others)
            for _ in range(5):
                begun = time.perf_counter()
                driver._become(120, [port(120)])
                driver._become(120, [])
                found.append(time.perf_counter() - begun)
    return {"one": seconds[1], "many": seconds[MANY]}


def flush():
    """Seconds from the flush until nothing passes MANY interfaces any more, and until the tables are up again."""
    driver = world(MANY)
    admit(driver, MANY)
    names, found = [name(nr) for nr in range(1, MANY + 1)], []
    shut, disable = [0.0], ports.disable

    def noted(which):
        disable(which)
        shut[0] = shut[0] or time.perf_counter()

    ports.disable = noted  # when nothing passes any more, by the guard's own clock
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # whoever else waits for the processor is not measured
    for _ in range(TIMES):
        shut[0], begun = 0.0, time.perf_counter()
        flush_ruleset()
        while any(up(one) for one in names):
            time.sleep(0.001)
        found.append((shut[0] - begun,))
        begun = time.perf_counter()
        driver.install(None)
        found[-1] += (time.perf_counter() - begun,)
        assert driver.ok()
        while not all(up(one) for one in names):
            time.sleep(0.01)
    return {"open": found}


def flush_ruleset():
    """What `nft flush ruleset` sends, without the time that a process takes to start. Back when the rules are gone."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nft.NETLINK_NETFILTER) as query:
        batch = [(16, 1, nft.SUBSYSTEM), (nft.SUBSYSTEM << 8 | 2, 5, 0), (17, 1, nft.SUBSYSTEM)]
        data = b""
        for kind, flags, resource in batch:
            data += struct.pack("=IHHIIBBH", 20, kind, flags, 1, 0, 0, 0, socket.htons(resource))
        query.send(data)
        assert struct.unpack_from("=IHHIIi", query.recv(8192))[5] == 0


def up(one):
    """Whether the interface passes anything on."""
    with open(FLAGS.format(one)) as flags, open(STATE.format(one)) as state:
        return int(flags.read(), 16) & 1 and state.read() != "0\n"


if __name__ == "__main__":
    subprocess.run(["mount", "-t", "sysfs", "none", "/sys"], check=True)
    for which in ("all", "default"):
        with open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w") as file:
            file.write("1")
    print(json.dumps({"packets": packets, "change": change, "flush": flush}[sys.argv[1]]()))
