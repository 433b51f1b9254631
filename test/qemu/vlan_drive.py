"""Runs in the node: what a sliver tries on an isolated interface, each with its twin and with the rule taken out.

    python3 vlan_drive.py '{"pid": of the sliver's init, "name": of its interface, "port" and "vlan": its devices on the
                            node, "parent": ..., "other_port", "other_vlan": those of another slice's sliver,
                            "outer": [tags of the parent], "tag", "other": tags of the slices}'
    [{"name", "stopped", "twin", "opened", "seen": tags of the twin}, ...]

The wire is seen in the namespace "peer", at its end of the direct interface, with all tags, outermost first. stopped:
the frame did not get out of the slice's VLAN, or into it. opened: it does once the way of the frames leads past the
VLAN device (or, for what comes in, out of another slice's).
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

ALL_FRAMES, OUTGOING = 3, 4
SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 1 << 4
DOT1Q, QINQ, EXPERIMENT = 0x8100, 0x88A8, 0x88B5
DEADLINE_S = 60.0
GOOD, BAD = b"honestly", b"attempted"
NATIVE = 1  # a switch takes this one off, and what is behind it counts
EVERYBODY, SOURCE = b"\xff" * 6, bytes.fromhex("020000000077")
libc = ctypes.CDLL(None, use_errno=True)


def enter(path):
    handle = os.open(path, os.O_RDONLY)
    if libc.setns(handle, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(handle)


class Tap:
    """Sends and sees frames on one device of a namespace."""

    def __init__(self, namespace, device):
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        enter(namespace)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
        enter(f"/proc/self/fd/{home}")
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.bind((device, ALL_FRAMES))
        self.socket.setblocking(False)

    def send(self, frame):
        self.socket.send(frame)

    def seen(self):
        """[(tags, text)] of the frames of this test that came in."""
        found = []
        while True:
            try:
                data, said, _, sender = self.socket.recvmsg(2048, 256)
            except BlockingIOError:
                return found
            if sender[2] != OUTGOING:
                tags = []
                for level, kind, content in said:
                    if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                        status, _, _, _, _, tci, _ = struct.unpack_from("=IIIHHHH", content)
                        tags += [tci & 0xFFF] if status & VLAN_VALID else []
                at = 12
                while struct.unpack_from("!H", data, at)[0] in (DOT1Q, QINQ):
                    tags.append(struct.unpack_from("!H", data, at + 2)[0] & 0xFFF)
                    at += 4
                found.append((tags, data[at + 2 : at + 16].rstrip(b"\0")))

    def until(self, wanted):
        """All up to the first for which `wanted` holds; (them, the first or None)."""
        found, deadline = [], time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            found += self.seen()
            right = [one for one in found if wanted(one)]
            if right:
                return found, right[0]
            select.select([self.socket], [], [], 0.2)
        return found, None


def frame(text, *tags, kind=DOT1Q):
    inside = b"".join(struct.pack("!HH", kind, tag) for tag in tags)
    return EVERYBODY + SOURCE + inside + struct.pack("!H", EXPERIMENT) + text.ljust(46, b"\0")


def redirect(device, target):
    """All that comes in at `device` goes out at `target`."""
    for words in (("del", "dev", device, "ingress", "prio", "1"),
                  ("add", "dev", device, "ingress", "prio", "1", "protocol", "all", "matchall", "action", "mirred",
                   "egress", "redirect", "dev", target)):  # fmt: skip
        subprocess.run(["/usr/sbin/tc", "filter", *words], check=True)


def outward(case, sliver, wire, name, tags, kind=DOT1Q):
    """The sliver sends a frame with tags of its own."""
    own = [*case["outer"], case["tag"]]

    def escaped(one):
        return one[1] == BAD and one[0][: len(own)] != own

    wire.seen()
    sliver.send(frame(BAD, *tags, kind=kind))
    sliver.send(frame(GOOD))
    found, twin = wire.until(lambda one: one[1] == GOOD)
    redirect(case["port"], case["parent"])
    sliver.send(frame(BAD, *tags, kind=kind))
    opened = wire.until(escaped)[1]
    redirect(case["port"], case["vlan"])
    return {"name": name, "stopped": not any(escaped(one) for one in found), "twin": twin is not None,
            "opened": opened is not None, "seen": twin[0] if twin else None}  # fmt: skip


def inward(case, sliver, wire, name, tags):
    """Somebody on the wire sends what is not for this slice."""
    own = [*case["outer"], case["tag"]]
    sliver.seen()
    wire.send(frame(BAD, *tags))
    wire.send(frame(GOOD, *own))
    found, twin = sliver.until(lambda one: one[1] == GOOD)
    redirect(case["other_vlan"], case["port"])
    wire.send(frame(BAD, *tags))
    opened = sliver.until(lambda one: one[1] == BAD)[1]
    redirect(case["other_vlan"], case["other_port"])
    return {"name": name, "stopped": not any(one[1] == BAD for one in found), "twin": twin is not None,
            "opened": opened is not None, "seen": twin[0] if twin else None}  # fmt: skip


def main(case):
    os.sched_setaffinity(0, {0})  # frames keep their order
    sliver, wire = Tap(f"/proc/{case['pid']}/ns/net", case["name"]), Tap("/run/netns/peer", "eth0")
    other, outer = case["other"], case["outer"]
    found = [
        outward(case, sliver, wire, "VLAN hop", [other]),
        outward(case, sliver, wire, "double tag", [NATIVE, other]),
        outward(case, sliver, wire, "priority tag", [0]),
        outward(case, sliver, wire, "service tag", [other], kind=QINQ),
        inward(case, sliver, wire, "another slice's VLAN", [*outer, other]),
    ]
    print(json.dumps(found))


main(json.loads(sys.argv[1]))
