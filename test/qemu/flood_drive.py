"""Runs in the node: 64 senders behind interfaces named like slivers', all at once, and the time of their last packet
after `confine stop --all`. Prints one line of JSON; beside it what a bare `nft` drop of everything takes here.
The first argument is how many times both are done, turn about.

The senders are no containers, and outside the slivers' cgroups: what silences them is the traffic's cut alone. The
daemon rests meanwhile, since it would take what it does not know out of the firewall's tables, which stand.
"""

import ctypes
import json
import mmap
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
DEADLINE_S = 60.0  # for hangs
SILENT_ROUNDS = 20
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
            f"link set eth0 address {address(number)} up\naddr add 192.168.241.{number}/25 dev eth0\n"
            f"neigh replace {NODE} lladdr {bridge_address()} dev eth0"
        )
        subprocess.run(["ip", "-n", f"s{number}", "-batch", "-"], input=inside.encode(), check=True)


def address(number: int) -> str:
    """The MAC address that the sliver of this number has."""
    return f"54:c0:00:01:{number:02x}:00"


def admit(numbers: "range") -> None:
    """Have the firewall let the senders speak, as it would slivers of these numbers: it drops what it does not know."""
    sys.path.insert(0, "/usr/lib/confine")
    from confine.core.firewall import PRIVATE, Port, change

    ports = [
        Port(f"slv-{number:02x}-00", PRIVATE, number, address(number), [f"192.168.241.{number}"], [])
        for number in numbers
    ]
    subprocess.run(["nft", "-f", "-"], input=change([], ports).encode(), check=True)


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


class Flood:
    """A process that sends from all, round and round, until it is ended. rounds: how often each has sent."""

    def __init__(self, numbers: "range") -> None:
        self._shared = mmap.mmap(-1, 8)
        self.pid = os.fork()
        if not self.pid:
            self._send(numbers)

    @property
    def rounds(self) -> int:
        return int.from_bytes(self._shared[:8], "little")

    def end(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)

    def _send(self, numbers: "range") -> None:
        sockets = [sender(number) for number in numbers]
        while True:
            for one in sockets:
                try:
                    one.send(b"x" * 100)
                except OSError:
                    pass
            self._shared[:8] = (self.rounds + 1).to_bytes(8, "little")
            time.sleep(0.01)


def tap() -> socket.socket:
    """Sees what reaches the node from the slivers' bridge, with the kernel's own time of each packet."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((BRIDGE, 0))
    return made


def packet(seen_by: socket.socket) -> "tuple[int, float] | None":
    """(sender, when) of the next packet of one of them, None if none comes for a moment."""
    while select.select([seen_by], [], [], 0.02)[0]:
        frame, extra, _, _ = seen_by.recvmsg(64, 64)
        number = frame[29]
        if frame[26:29] == bytes([192, 168, 241]) and FIRST <= number < FIRST + SENDERS:
            whole, nano = struct.unpack("qq", extra[0][2])
            return number, whole + nano / 1e9
    return None


def wait_until_heard(seen_by: socket.socket) -> None:
    """Until each sender is heard after now."""
    since, deadline = time.time(), time.monotonic() + DEADLINE_S
    missing = set(range(FIRST, FIRST + SENDERS))
    while missing:
        found = packet(seen_by)
        if found is not None and found[1] > since:
            missing.discard(found[0])
        assert time.monotonic() < deadline, f"these senders are not heard: {sorted(missing)}"


def silenced_after(flood: Flood, command: "list[str]") -> float:
    """Seconds from the start of `command` to the last packet of any sender. None is heard after its end, while each
    goes on sending so many times."""
    seen_by = tap()
    wait_until_heard(seen_by)
    began = last = time.time()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    ended, deadline = time.time(), time.monotonic() + DEADLINE_S
    enough = flood.rounds + SILENT_ROUNDS
    while flood.rounds < enough or select.select([seen_by], [], [], 0)[0]:
        found = packet(seen_by)
        if found is not None:
            assert found[1] <= ended, f"sender {found[0]} is heard {found[1] - ended:.3f} s after the end of {command}"
            last = max(last, found[1])
        assert time.monotonic() < deadline, "the senders do not send"
    return last - began


def remove(numbers: "range") -> None:
    """The namespaces go, and their interfaces with them."""
    lines = "\n".join(f"netns del s{number}" for number in numbers)
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)


def main(rounds: int) -> None:
    numbers = range(FIRST, FIRST + SENDERS)
    subprocess.run(["/etc/init.d/confine", "stop"], stdout=subprocess.DEVNULL, check=True)
    make(numbers)
    admit(numbers)
    with open("/tmp/bare.nft", "w") as file:
        file.write(BARE)
    flood = Flood(numbers)
    times = {"bare": [], "stop": []}
    try:
        for _ in range(rounds):
            times["bare"].append(silenced_after(flood, ["nft", "-f", "/tmp/bare.nft"]))
            subprocess.run(["nft", "delete", "table", "bridge", "bare"], check=True)
            times["stop"].append(silenced_after(flood, ["confine", "stop", "--all"]))
            subprocess.run(["confine", "release", "--all"], check=True, stdout=subprocess.DEVNULL)
        wait_until_heard(tap())
    finally:
        flood.end()
        remove(numbers)
        subprocess.run(["/etc/init.d/confine", "start"], stdout=subprocess.DEVNULL, check=True)
    print(json.dumps({"senders": SENDERS, "stop_s": times["stop"], "bare_nft_s": times["bare"]}))


main(int(sys.argv[1]))
