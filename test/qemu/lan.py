"""A community LAN for virtual nodes: a switch in this process, a host on it, and a record of every frame.

    with Lan(pcap) as lan, Namespace() as host:
        lan.attach(host, "lan", "172.24.0.1/24")            # the host's own interface, in a network namespace
        node = VirtualNode(disk, uplink=lan.port("node1.eth0"), netdevs=[lan.port("node1.eth1")])
        ...
        frames = lan.seen(lambda frame: frame.vlan == 0x105)

The switch learns addresses for each VLAN as a real one does and carries tags as they come: neither the kernel's bridge
nor its 802.1Q is needed on this machine, and no interface of its own is touched. All is gone with the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MAX_FRAME = 65536
BUFFER = 4 << 20  # bytes a port holds back while its node is busy
KEPT = 200_000  # frames
TCP, UDP = 6, 17
DOT1Q, QINQ, IPV4, IPV6, ARP = 0x8100, 0x88A8, 0x0800, 0x86DD, 0x0806
PCAP_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, MAX_FRAME, 1)

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """A frame as it came into the switch at `port`. at: seconds since 1970."""

    at: float
    port: str
    data: bytes

    @property
    def source(self) -> str:
        """MAC address it says it is from."""
        return self.data[6:12].hex(":")

    @property
    def vlans(self) -> list[int]:
        """Its VLAN tags, outermost first."""
        return [tag for tag, _ in self._tags()]

    @property
    def vlan(self) -> int | None:
        """Its outermost VLAN tag, None without one."""
        return self.vlans[0] if self.vlans else None

    @property
    def kind(self) -> int:
        """What is in it, behind all tags: IPV4, IPV6, ARP..."""
        at = 12 + 4 * len(self.vlans)
        return int.from_bytes(self.data[at : at + 2], "big")

    @property
    def payload(self) -> bytes:
        """What is behind the last EtherType."""
        return self.data[14 + 4 * len(self.vlans) :]

    @property
    def ends(self) -> tuple[str, str] | None:
        """(source, destination) IP addresses, None if it has none."""
        inside = self.payload
        if self.kind == IPV4 and len(inside) >= 20:
            return socket.inet_ntop(socket.AF_INET, inside[12:16]), socket.inet_ntop(socket.AF_INET, inside[16:20])
        if self.kind == IPV6 and len(inside) >= 40:
            return socket.inet_ntop(socket.AF_INET6, inside[8:24]), socket.inet_ntop(socket.AF_INET6, inside[24:40])
        return None

    @property
    def ports(self) -> tuple[int, int] | None:
        """(source, destination) port of TCP or UDP, None if it is neither, or a fragment behind the first."""
        inside, head = self.payload, 0
        if self.kind == IPV4 and len(inside) >= 20 and not int.from_bytes(inside[6:8], "big") & 0x1FFF:
            head, protocol = (inside[0] & 15) * 4, inside[9]
        elif self.kind == IPV6 and len(inside) >= 40:
            head, protocol = 40, inside[6]
        if not head or protocol not in (TCP, UDP) or len(inside) < head + 4:
            return None
        return int.from_bytes(inside[head : head + 2], "big"), int.from_bytes(inside[head + 2 : head + 4], "big")

    def _tags(self) -> list[tuple[int, int]]:
        found, at = [], 12
        while int.from_bytes(self.data[at : at + 2], "big") in (DOT1Q, QINQ) and len(self.data) >= at + 6:
            found.append((int.from_bytes(self.data[at + 2 : at + 4], "big") & 0xFFF, at))
            at += 4
        return found


class Namespace:
    """A network namespace that nobody else has; what is started in it can do as it likes."""

    def __init__(self) -> None:
        self.descriptor = -1

    def __enter__(self) -> Namespace:
        self.descriptor = in_thread(_new_namespace)
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def call(self, function: Callable[[], T]) -> T:
        """What `function` gives when it runs in here: sockets it opens stay in here."""

        def entered() -> T:
            _libc("setns", self.descriptor, CLONE_NEWNET)
            return function()

        return in_thread(entered)

    def command(self, *argv: str) -> list[str]:
        """The command that runs `argv` in here."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.descriptor}", *argv]

    def run(self, *argv: str) -> str:
        """Run a command in here, which has to succeed; gives its output."""
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr}")
        return done.stdout


def _new_namespace() -> int:
    _libc("unshare", CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _libc(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def in_thread(function: Callable[[], T]) -> T:
    """Run in a thread that ends with it: a thread's namespace is its own."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend((True, function()))
        except BaseException as error:
            outcome.extend((False, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not outcome[0]:
        raise outcome[1]
    value: T = outcome[1]
    return value


class Port:
    """Where something is plugged in. plugged: frames pass."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.plugged = True

    def write(self, data: bytes) -> None:
        """Send a frame out; one that does not fit now is lost, as on any switch."""
        with contextlib.suppress(OSError):
            os.write(self.descriptor, data)


class Lan:
    """The switch. pcap: file that gets every frame as it came in, for people and their tools."""

    def __init__(self, pcap: str | None = None) -> None:
        self._pcap = open(pcap, "wb", buffering=0) if pcap else None  # noqa: SIM115  # open as long as the switch is
        if self._pcap:
            self._pcap.write(PCAP_HEAD)
        self._ports: dict[int, Port] = {}
        self._learned: dict[tuple[int | None, bytes], Port] = {}
        self._frames: deque[Frame] = deque(maxlen=KEPT)
        self._keep: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._closing = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.descriptors: list[int] = []

    def __enter__(self) -> Lan:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        os.write(self._wake_write, b".")
        self._thread.join()
        for port in self._ports.values():
            os.close(port.descriptor)
        for descriptor in (self._wake_read, self._wake_write, *self.descriptors):
            os.close(descriptor)
        if self._pcap:
            self._pcap.close()

    def port(self, name: str) -> str:
        """A new port, as QEMU's -netdev is told of it. Its descriptor is in `descriptors`, for VirtualNode.start."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        ours.setblocking(False)
        self._plug(name, ours.detach())
        descriptor = theirs.detach()
        self.descriptors.append(descriptor)
        return f"dgram,local.type=fd,local.str={descriptor}"

    def attach(self, namespace: Namespace, name: str, *addresses: str) -> None:
        """Give `namespace` an interface `name` on this LAN, up and with these addresses."""

        def made() -> int:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            return descriptor

        self._plug(name, namespace.call(made))
        for address in addresses:
            namespace.run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        namespace.run("ip", "link", "set", name, "up")

    def plug(self, name: str, plugged: bool) -> None:
        """Pull the cable of port `name`, or put it back."""
        for port in self._ports.values():
            if port.name == name:
                port.plugged = plugged

    def seen(self, wanted: Callable[[Frame], bool], since: float = 0.0) -> list[Frame]:
        """The frames so far for which `wanted` holds."""
        with self._lock:
            frames = list(self._frames)
        return [frame for frame in frames if frame.at >= since and wanted(frame)]

    def _plug(self, name: str, descriptor: int) -> None:
        self._ports[descriptor] = Port(name, descriptor)
        self._selector.register(descriptor, selectors.EVENT_READ)
        os.write(self._wake_write, b".")

    def _work(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                else:
                    self._take_in(self._ports[key.fd])

    def _take_in(self, port: Port) -> None:
        for _ in range(64):
            try:
                data = os.read(port.descriptor, MAX_FRAME)
            except OSError:
                return
            if len(data) < 14 or not port.plugged:
                return
            frame = Frame(time.time(), port.name, data)
            with self._lock:
                self._frames.append(frame)
            self._record(frame)
            self._pass_on(port, frame)

    def _pass_on(self, port: Port, frame: Frame) -> None:
        vlan = frame.vlan
        self._learned[(vlan, frame.data[6:12])] = port
        known = None if frame.data[0] & 1 else self._learned.get((vlan, frame.data[:6]))
        for other in [known] if known else list(self._ports.values()):
            if other is not port and other.plugged:
                other.write(frame.data)

    def _record(self, frame: Frame) -> None:
        if self._pcap:
            seconds, rest = divmod(frame.at, 1)
            size = len(frame.data)
            self._pcap.write(struct.pack("<IIII", int(seconds), int(rest * 1e6), size, size) + frame.data)


def wait_until(sentence: str, predicate: Callable[[], T], timeout: float) -> T:
    """Poll until `predicate` gives something true; AssertionError with the sentence at the deadline (seconds)."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not after {timeout:g} s: {sentence}"
        time.sleep(0.1)
    return value
