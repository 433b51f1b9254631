"""The kernel's traffic classes (HTB) as it reports them over netlink: bounds and counts. No process, no pyroute2.

Layouts: linux/rtnetlink.h (tcmsg), linux/pkt_sched.h (tc_htb_opt, tc_ratespec), linux/gen_stats.h.
"""

import socket
import struct

from confine.drivers.rtnetlink import attributes, dump

RTM_NEWTCLASS, RTM_GETTCLASS = 40, 42
TCA_OPTIONS, TCA_STATS2 = 2, 7
TCA_HTB_PARMS = 1
STATS_BASIC, STATS_QUEUE = 1, 3


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
        bodies = list(dump(RTM_GETTCLASS, RTM_NEWTCLASS, struct.pack("=BxxxiIII", 0, index, 0, 0, 0)))
    except OSError:
        return {}
    found = {}
    for body in bodies:
        made = parse(body)
        if made is not None:
            found[made.minor] = made
    return found


def parse(body: bytes) -> "Class | None":
    """The class that the message `body`, from tcmsg on, tells of; None if it is no HTB class."""
    handle = struct.unpack_from("=I", body, 8)[0]
    told = attributes(body, 20)
    options = attributes(told.get(TCA_OPTIONS, b""), 0).get(TCA_HTB_PARMS, b"")
    if len(options) < 24:
        return None
    rate, ceil = struct.unpack_from("=8xI8xI", options)
    statistics = attributes(told.get(TCA_STATS2, b""), 0)
    octets, packets = struct.unpack_from("=QI", statistics.get(STATS_BASIC, bytes(12)))
    drops = struct.unpack_from("=8xI", statistics.get(STATS_QUEUE, bytes(12)))[0]
    return Class(handle & 0xFFFF, rate // 125, ceil // 125, octets, packets, drops)
