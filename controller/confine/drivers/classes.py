"""The kernel's traffic classes (HTB) as it reports them over netlink: bounds and counts. No process, no pyroute2.

Layouts: linux/rtnetlink.h (tcmsg), linux/pkt_sched.h (tc_htb_opt, tc_ratespec), linux/gen_stats.h.
"""

import socket
import struct

RTM_NEWTCLASS, RTM_GETTCLASS = 40, 42
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_DUMP = 0x301
TCA_OPTIONS, TCA_STATS2 = 2, 7
TCA_HTB_PARMS = 1
STATS_BASIC, STATS_QUEUE = 1, 3
ANSWER_S = 2.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Class:
    """One class. rate, ceil: kbit/s. bytes, packets: sent so far; drops: not."""

    def __init__(self, minor: int, rate: int, ceil: int, octets: int, packets: int, drops: int) -> None:
        self.minor = minor
        self.rate = rate
        self.ceil = ceil
        self.bytes = octets
        self.packets = packets
        self.drops = drops


def of(device: str) -> "dict[int, Class]":
    """{minor number: Class} of the HTB classes of `device`; empty if there is no such device."""
    try:
        index = socket.if_nametoindex(device)
    except OSError:
        return {}
    found = {}
    for body in _dump(struct.pack("=BxxxiIII", 0, index, 0, 0, 0)):
        made = parse(body)
        if made is not None:
            found[made.minor] = made
    return found


def parse(body: bytes) -> "Class | None":
    """The class that the message `body`, from tcmsg on, tells of; None if it is no HTB class."""
    handle = struct.unpack_from("=I", body, 8)[0]
    attributes = _attributes(body, 20)
    options = _attributes(attributes.get(TCA_OPTIONS, b""), 0).get(TCA_HTB_PARMS, b"")
    if len(options) < 24:
        return None
    rate, ceil = struct.unpack_from("=8xI8xI", options)
    statistics = _attributes(attributes.get(TCA_STATS2, b""), 0)
    octets, packets = struct.unpack_from("=QI", statistics.get(STATS_BASIC, bytes(12)))
    drops = struct.unpack_from("=8xI", statistics.get(STATS_QUEUE, bytes(12)))[0]
    return Class(handle & 0xFFFF, rate // 125, ceil // 125, octets, packets, drops)


def _dump(body: bytes) -> "Iterator[bytes]":
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as query:
        query.settimeout(ANSWER_S)
        query.send(struct.pack("=IHHII", 16 + len(body), RTM_GETTCLASS, REQUEST_DUMP, 1, 0) + body)
        while True:
            datagram = query.recv(1 << 16)
            position = 0
            while position + 16 <= len(datagram):
                length, kind = struct.unpack_from("=IH", datagram, position)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return
                if kind == RTM_NEWTCLASS:
                    yield datagram[position + 16 : position + length]
                position += max(16, (length + 3) & ~3)


def _attributes(body: bytes, position: int) -> "dict[int, bytes]":
    found = {}
    while position + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, position)
        if size < 4:
            break
        found[kind & 0x3FFF] = body[position + 4 : position + size]
        position += (size + 3) & ~3
    return found
