"""Learns which IPv4 addresses DHCP servers of the community network give to slivers.

The sliver runs the client. What counts is the server's ACK as it comes in at an uplink of the local bridge (a port that
is no sliver's), for the hardware address of a port that may ask: whatever slivers send themselves is never looked at
here. The kernel drops all other frames (a socket filter), so that the thread sleeps but for ACKs and offers.

Layouts: RFC 2131, RFC 2132; struct sock_filter of linux/filter.h.
"""

import os
import select
import socket
import struct
import threading
import time

from confine import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ETH_ALL = 0x0003
SO_ATTACH_FILTER = 26
PACKET_OUTGOING = 4
MAX_LEASE_S = 30 * 24 * 3600  # an endless lease is learnt anew long before
COOKIE = b"\x63\x82\x53\x63"
ACK = 5

# No VLAN tag (0xfffff030), IPv4, UDP, not a later fragment, from port 67 to port 68. (code, if true, if false, operand)
FILTER = (
    (0x20, 0, 0, 0xFFFFF030), (0x15, 0, 12, 0),
    (0x28, 0, 0, 12), (0x15, 0, 10, 0x0800),
    (0x30, 0, 0, 23), (0x15, 0, 8, 17),
    (0x28, 0, 0, 20), (0x45, 6, 0, 0x1FFF),
    (0xB1, 0, 0, 14), (0x48, 0, 0, 14), (0x15, 0, 3, 67), (0x48, 0, 0, 16), (0x15, 0, 1, 68),
    (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


class Lease:
    """What a server gave. until: monotonic seconds."""

    def __init__(self, address: str, until: float, server: str) -> None:
        self.address = address
        self.until = until
        self.server = server


class Leases:
    """Watches for ACKs as long as some port may ask. granted(port, address, seconds) is told of each, in a thread of
    this object's own; what it raises is in `problems`. path: a file of this run of the machine where leases are kept,
    so that a daemon started anew cuts nobody off."""

    def __init__(self, path: str, granted: "Callable[[str, str, int], None]") -> None:
        self._path = path
        self._granted = granted
        self._kept = read_kept(path)
        self._lock = threading.Lock()
        self._ports: "dict[str, str]" = {}  # by hardware address
        self._uplinks: "list[str]" = []
        self._own: "list[str]" = []
        self._found: "dict[str, Lease]" = {}
        self._thread: "threading.Thread | None" = None
        self._wake: "tuple[int, int] | None" = None
        self.problems: "dict[str, str]" = {}  # by port

    def watch(self, ports: "dict[str, str]", uplinks: "list[str]", own: "list[str]") -> None:
        """From now on: ports {hardware address: port}, on the links of `uplinks`; own: addresses that no sliver may
        be given, because they are the node's. Costs nothing if it is as before."""
        with self._lock:
            self._own = own
            kept = [(port, lease) for port, lease in self._kept.items() if port in ports.values()]
        for port, lease in kept:
            self._renew(port, lease)
        with self._lock:
            if (ports, uplinks) == (self._ports, self._uplinks):
                return
            self._ports, self._uplinks = ports, uplinks
            for port in set(self._found) - set(ports.values()):
                self._found.pop(port)
        self._stop()
        if ports and uplinks:
            self._wake = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._run, args=(uplinks, self._wake[0]), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Watch no longer."""
        self._stop()

    def now(self) -> "dict[str, Lease]":
        """{port: Lease} of those that last."""
        moment = time.monotonic()
        with self._lock:
            return {port: lease for port, lease in self._found.items() if lease.until > moment}

    def _stop(self) -> None:
        if self._thread is not None and self._wake is not None:
            os.write(self._wake[1], b".")
            self._thread.join()
            for handle in self._wake:
                os.close(handle)
        self._thread = self._wake = None

    def _run(self, uplinks: "list[str]", wake: int) -> None:
        listening: "list[socket.socket]" = []
        try:
            for uplink in uplinks:
                opened = listen(uplink)
                if opened is not None:
                    listening.append(opened)
            while listening:
                ready = select.select([wake, *(link.fileno() for link in listening)], [], [])[0]
                if wake in ready:
                    return
                for link in listening:
                    if link.fileno() in ready:
                        self._take(link)
        finally:
            for link in listening:
                link.close()

    def _take(self, link: socket.socket) -> None:
        try:
            frame, where = link.recvfrom(2048)
        except OSError:  # the link went down or is gone: the next look at the node sees that
            time.sleep(1)
            return
        if where[2] != PACKET_OUTGOING:
            self.heard(frame)

    def heard(self, frame: bytes) -> None:
        """Take note of a frame that came in at an uplink."""
        said = parse(frame)
        if said is None:
            return
        mac, address, seconds, server = said
        with self._lock:
            port = self._ports.get(mac)
            holders = [name for name, lease in self._found.items() if lease.address == address and name != port]
            if port is None:
                return
            if address in self._own or (holders and self._found[holders[0]].until > time.monotonic()):
                whose = "the node's own" if address in self._own else "that of " + holders[0]
                self.problems[port] = f"DHCP server {server} gave it {address}, which is {whose}: it is not let through"
                return
        if self._grant(port, Lease(address, time.monotonic() + seconds, server), seconds):
            self._keep()

    def _grant(self, port: str, lease: Lease, seconds: int) -> bool:
        try:
            self._granted(port, lease.address, seconds)
        except Exception as error:  # told with the sliver; the client asks again
            self.problems[port] = str(error)
            return False
        with self._lock:
            self.problems.pop(port, None)
            self._kept.pop(port, None)
            self._found[port] = lease
        return True

    def _renew(self, port: str, lease: Lease) -> None:
        """A lease of before this daemon: as soon as the port is there again."""
        seconds = int(lease.until - time.monotonic())
        if seconds <= 0 or port in self._found:
            self._kept.pop(port, None)
        else:
            self._grant(port, lease, seconds)

    def _keep(self) -> None:
        with self._lock:
            content = {port: [lease.address, lease.until, lease.server] for port, lease in self._found.items()}
        try:
            durable.write_json(self._path, content)
        except OSError as error:
            self.problems[""] = f"leases cannot be kept: {error}"


def read_kept(path: str) -> "dict[str, Lease]":
    """Leases as they were kept; none if the file is not there or damaged."""
    try:
        content = durable.read_json(path) or {}
        return {port: Lease(str(words[0]), float(words[1]), str(words[2])) for port, words in content.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def listen(device: str) -> "socket.socket | None":
    """A socket that hears DHCP servers at `device`; None if it is not there."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        import ctypes

        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in FILTER))
        link.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(FILTER), ctypes.addressof(program)))
        link.bind((device, ETH_ALL))
    except OSError:
        link.close()
        return None
    return link


def parse(frame: bytes) -> "tuple[str, str, int, str] | None":
    """(client's hardware address, its IPv4 address, seconds, server) of a DHCP ACK in an Ethernet frame; None: it is
    none that gives an address."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return None
    start = 14 + 4 * (frame[14] & 15) + 8
    message = frame[start:]
    ports = frame[start - 8 : start - 4]
    if ports != b"\x00\x43\x00\x44" or len(message) < 241 or message[0] != 2 or message[1:3] != b"\x01\x06":
        return None
    if message[236:240] != COOKIE or message[16:20] == bytes(4):
        return None
    options = parse_options(message[240:])
    lease = options.get(51, b"")
    if options.get(53) != bytes([ACK]) or len(lease) != 4:
        return None
    seconds = min(struct.unpack("!I", lease)[0], MAX_LEASE_S)
    server = options.get(54, b"")
    named = socket.inet_ntoa(server) if len(server) == 4 else socket.inet_ntoa(frame[26:30])
    return message[28:34].hex(":"), socket.inet_ntoa(message[16:20]), int(seconds), named


def parse_options(data: bytes) -> "dict[int, bytes]":
    """{code: content} of DHCP options, up to the end or where they are broken off."""
    found: "dict[int, bytes]" = {}
    position = 0
    while position < len(data) and data[position] != 255:
        code = data[position]
        if code == 0:
            position += 1
            continue
        if position + 1 >= len(data) or position + 2 + data[position + 1] > len(data):
            break
        found[code] = data[position + 2 : position + 2 + data[position + 1]]
        position += 2 + data[position + 1]
    return found
