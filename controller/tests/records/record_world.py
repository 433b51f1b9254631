"""Helpers of the records' tests: a clock to turn, a small registry state, and connection tracking messages."""

import socket
import struct

from core_world import BASE, name_of, sliver_target

from confine.core.model import Booking
from confine.records.moments import Moment

NAME = name_of(5)
OTHER = name_of(6)
NODE_ADDRESS = "203.0.113.7"
FAR = "198.51.100.9"


class Clock:
    """A clock that tests turn: `clock()` gives the Moment."""

    def __init__(self, wall=1_763_600_000.0, up=100.0, boot="b0b0b0b0", sure=True):
        self.wall, self.up, self.boot, self.sure = wall, up, boot, sure

    def __call__(self):
        return Moment(self.wall, self.up, self.boot, self.sure)

    def on(self, seconds):
        """Let time pass."""
        self.wall += seconds
        self.up += seconds
        return self


def state(**changes):
    """The registry's documents of slice 5, of group 3 with Ann (slice admin) and Bob, who left."""
    docs = {
        BASE + "slivers/105/": {"uri": BASE + "slivers/105/", "slice": {"uri": BASE + "slices/5/"}},
        BASE + "slices/5/": {
            "uri": BASE + "slices/5/", "id": 5, "name": "weather", "group": {"uri": BASE + "groups/3/"},
            "sliver_defaults": {},
        },
        BASE + "groups/3/": {
            "uri": BASE + "groups/3/", "id": 3, "name": "Students",
            "user_roles": [
                {"user": {"uri": BASE + "users/1/"}, "is_slice_admin": True},
                {"user": {"uri": BASE + "users/2/"}, "is_group_admin": True},
            ],
        },
        BASE + "users/1/": {"uri": BASE + "users/1/", "id": 1, "name": "ann", "is_active": True, "auth_tokens": []},
        BASE + "users/2/": {"uri": BASE + "users/2/", "id": 2, "name": "bob", "is_active": False, "auth_tokens": []},
    }  # fmt: skip
    docs.update(changes)
    node = {"uri": BASE + "nodes/42/", "id": 42, "name": "mill", "group": {"uri": BASE + "groups/3/"}}
    return {"docs": docs, "node": node, "revisions": {BASE + "slivers/105/": '"r7"', BASE + "slices/5/": '"s2"'}}


def target(slice_id=5):
    """The sliver of that slice as the core has it."""
    return sliver_target(slice_id, slice_name="weather", group_id=3)


def bookings(**numbers):
    """{name: Booking}; by default sliver 5 with number 1."""
    return {name: Booking("5@42", name, nr, 50, 100) for name, nr in (numbers or {NAME: 1}).items()}


# ---- connection tracking ------------------------------------------------------------------------------------------


def attribute(kind, content):
    """A netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def packed(address):
    """An address as the kernel has it."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def side(kind, src, dst, protocol, sport, dport):
    """A tuple of a connection."""
    at = 3 if ":" in src else 1
    ip = attribute(at, packed(src)) + attribute(at + 1, packed(dst))
    ports = attribute(2, struct.pack(">H", sport)) + attribute(3, struct.pack(">H", dport))
    if protocol == 1:
        ports = attribute(4, struct.pack(">H", sport)) + attribute(5, bytes([dport >> 8])) + attribute(6, b"\0")
    proto = attribute(1, bytes([protocol])) + ports
    return attribute(kind | 0x8000, attribute(1 | 0x8000, ip) + attribute(2 | 0x8000, proto))


def message(out, back, ended=False, id=1, counts=None, began=None):
    """A ctnetlink message. out, back: (src, dst, protocol, sport, dport). counts: (packets, bytes) each way."""
    body = struct.pack("=BBH", 2, 0, 0) + side(1, *out) + side(2, *back) + attribute(12, struct.pack(">I", id))
    if counts is not None:
        for kind, packets, size in ((9, *counts[:2]), (10, *counts[2:])):
            numbers = attribute(1, struct.pack(">Q", packets)) + attribute(2, struct.pack(">Q", size))
            body += attribute(kind | 0x8000, numbers)
    if began is not None:
        body += attribute(20 | 0x8000, attribute(1, struct.pack(">Q", int(began * 1e9))))
    kind = 1 << 8 | (2 if ended else 0)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def translated(sport=40000, dport=80, outside_port=50000, protocol=6, inside="192.168.241.1", far=FAR, **options):
    """A connection of a sliver to the outside, translated to the node's address."""
    out = (inside, far, protocol, sport, dport)
    return message(out, (far, NODE_ADDRESS, protocol, dport, outside_port), **options)
