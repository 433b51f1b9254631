"""Runs in the node: 64 senders behind interfaces named like slivers', all at once, and the time of their last packet
after `confine stop --all`. Prints one line of JSON; beside it what a bare `nft` drop of everything takes here.
The first argument is how many times both are done, turn about.

The senders are no containers, and outside the slivers' cgroups: what silences them is the traffic's cut alone.
"""

import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

FIRST, SENDERS = 8, 64
BRIDGE = "br-confine"
NODE = "192.168.241.126"
BARE = "table bridge bare {\n chain everything {\n type filter hook prerouting priority 0; policy drop;\n }\n}\n"
BEFORE_S, AFTER_S, QUIET_S = 1.0, 6.0, 0.5  # senders pause 10 ms at most
SO_TIMESTAMPNS = 35  # linux/socket.h; Python has no name for it


def make(numbers: "range") -> None:
    """A network namespace, interfaces and addresses for each sender, as its number has them."""
    lines = []
    for number in numbers:
        lines += [
            f"netns add s{number}",
            f"link add slv-{number:02x}-00 type veth peer name eth0 netns s{number}",
            f"link set slv-{number:02x}-00 master {BRIDGE} up",
        ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)
    for number in numbers:
        inside = (
            f"link set eth0 address 54:c0:00:01:{number:02x}:00 up\naddr add 192.168.241.{number}/25 dev eth0\n"
            f"neigh replace {NODE} lladdr {bridge_address()} dev eth0"
        )
        subprocess.run(["ip", "-n", f"s{number}", "-batch", "-"], input=inside.encode(), check=True)


def bridge_address() -> str:
    with open(f"/sys/class/net/{BRIDGE}/address") as file:
        return file.read().strip()


def sender(number: int) -> socket.socket:
    """A UDP socket inside the namespace of sender `number`."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/var/run/netns/s{number}", os.O_RDONLY)
    if libc.setns(handle, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(handle)
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.connect((NODE, 9))
    return made


def flood(numbers: "range") -> int:
    """A process that sends from all, round and round, until it is killed; its pid."""
    pid = os.fork()
    if pid:
        return pid
    sockets = [sender(number) for number in numbers]
    while True:
        for one in sockets:
            try:
                one.send(b"x" * 100)
            except OSError:
                pass
        time.sleep(0.01)


def tap() -> socket.socket:
    """Sees what reaches the node from the slivers' bridge, with the kernel's own time of each packet."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((BRIDGE, 0))
    return made


def last_packets(seen_by: socket.socket, seconds: float) -> "tuple[dict[int, float], int]":
    """({sender: time of its last packet}, packets) until nothing came for a while, at most `seconds`."""
    last, count, deadline = {}, 0, time.monotonic() + seconds
    while time.monotonic() < deadline and select.select([seen_by], [], [], QUIET_S)[0]:
        frame, extra, _, _ = seen_by.recvmsg(64, 64)
        number = frame[29]
        if frame[26:29] == bytes([192, 168, 241]) and FIRST <= number < FIRST + SENDERS:
            whole, nano = struct.unpack("qq", extra[0][2])
            last[number], count = whole + nano / 1e9, count + 1
    return last, count


def silenced_after(seen_by: socket.socket, command: "list[str]") -> float:
    """Seconds from the start of `command` to the last packet of any sender."""
    before, _ = last_packets(seen_by, BEFORE_S)
    assert len(before) == SENDERS, f"only {len(before)} senders are heard before {command}"
    began = time.time()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    after, _ = last_packets(seen_by, AFTER_S)
    assert running.wait() == 0
    assert not last_packets(seen_by, QUIET_S)[0], f"not silent after {command}"
    return max([moment for moment in after.values() if moment > began], default=began) - began


def remove(numbers: "range") -> None:
    """The namespaces go, and their interfaces with them."""
    lines = "\n".join(f"netns del s{number}" for number in numbers)
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)


def main(rounds: int) -> None:
    numbers = range(FIRST, FIRST + SENDERS)
    make(numbers)
    with open("/tmp/bare.nft", "w") as file:
        file.write(BARE)
    pid = flood(numbers)
    times = {"bare": [], "stop": []}
    try:
        for _ in range(rounds):
            times["bare"].append(silenced_after(tap(), ["nft", "-f", "/tmp/bare.nft"]))
            subprocess.run(["nft", "delete", "table", "bridge", "bare"], check=True)
            times["stop"].append(silenced_after(tap(), ["confine", "stop", "--all"]))
            subprocess.run(["confine", "release", "--all"], check=True, stdout=subprocess.DEVNULL)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        remove(numbers)
    print(json.dumps({"senders": SENDERS, "stop_s": times["stop"], "bare_nft_s": times["bare"]}))


main(int(sys.argv[1]))
