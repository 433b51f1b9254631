"""Questions to the kernel's rtnetlink that /sys and /proc do not answer, without a process and without pyroute2.

Numbers and layouts: linux/rtnetlink.h, linux/if_addr.h, linux/neighbour.h.
"""

import os
import socket
import struct

RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
REQUEST_REPLACE = 0x101  # NLM_F_REQUEST | NLM_F_REPLACE
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_OIF, RTA_GATEWAY, RTA_VIA = 4, 5, 18
NDA_DST, NDA_LLADDR = 1, 2
MAIN_TABLE, UNICAST = 254, 1
NUD_REACHABLE, NUD_PROBE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x10, 0x40, 0x80
ANSWERS = NUD_REACHABLE | NUD_NOARP | NUD_PERMANENT
DISCARD_PORT = 9
ANSWER_S = 2.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def addresses() -> "list[tuple[str, str]]":
    """(device, "address/bits") of all there are, link-local ones apart."""
    found = []
    for body in dump(RTM_GETADDR, RTM_NEWADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, bits, _, scope, index = struct.unpack_from("=BBBBI", body)
        told = attributes(body, 8)
        packed = told.get(IFA_LOCAL) or told.get(IFA_ADDRESS)
        if packed and scope != 253 and family in (socket.AF_INET, socket.AF_INET6):
            found.append((name_of(index), "{}/{}".format(socket.inet_ntop(family, packed), bits)))
    return sorted(found)


def default_routes() -> "list[tuple[int, str, str | None]]":
    """(family, device, gateway or None) of the main table's default routes, both families."""
    found = []
    for body in dump(RTM_GETROUTE, RTM_NEWROUTE, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, dst_bits, _, _, table, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
        if dst_bits or table != MAIN_TABLE or kind != UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        told = attributes(body, 12)
        if RTA_OIF not in told:
            continue
        gateway = told.get(RTA_GATEWAY)
        device = name_of(struct.unpack("=I", told[RTA_OIF][:4])[0])
        found.append((family, device, socket.inet_ntop(family, gateway) if gateway else None))
    return sorted(found, key=lambda route: (route[0], route[1], route[2] or ""))


def neighbours() -> "dict[tuple[str, str], tuple[int, str]]":
    """{(device, address): (state (NUD_...), MAC address or "")} of all that the kernel knows."""
    found = {}
    for body in dump(RTM_GETNEIGH, RTM_NEWNEIGH, struct.pack("=BBHiHBB", 0, 0, 0, 0, 0, 0, 0)):
        family, _, _, index, state, _, _ = struct.unpack_from("=BBHiHBB", body)
        told = attributes(body, 12)
        packed = told.get(NDA_DST)
        if packed and family in (socket.AF_INET, socket.AF_INET6):
            mac = told.get(NDA_LLADDR, b"").hex(":")
            found[name_of(index), socket.inet_ntop(family, packed)] = state, mac
    return found


def ask(device: str, address: str) -> None:
    """Have the kernel ask the neighbour `address` whether it is still there; neighbours() has the answer soon after."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        index = socket.if_nametoindex(device)
        packed = socket.inet_pton(family, address)
        body = struct.pack("=BBHiHBB", family, 0, 0, index, NUD_PROBE, 0, 0)
        attribute = struct.pack("=HH", 4 + len(packed), NDA_DST) + packed
        with _open() as query:
            query.send(_message(RTM_NEWNEIGH, REQUEST_REPLACE, body + attribute))
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as poke:
            target = (address, DISCARD_PORT, 0, index) if family == socket.AF_INET6 else (address, DISCARD_PORT)
            poke.sendto(b"", socket.MSG_DONTWAIT, target)
    except OSError:
        return  # no such device, no route: then nothing will answer either


def name_of(index: int) -> str:
    """The device's name, "" if it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _open() -> socket.socket:
    query = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    query.settimeout(ANSWER_S)
    return query


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def dump(kind: int, answer: int, body: bytes) -> "Iterator[bytes]":
    """The bodies of all messages of type `answer`. OSError if the kernel does not answer as it should."""
    with _open() as query:
        query.send(_message(kind, REQUEST_DUMP, body))
        while True:
            datagram = query.recv(1 << 16)
            position = 0
            while position + 16 <= len(datagram):
                length, found = struct.unpack_from("=IH", datagram, position)
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", datagram, position + 16)[0]
                    raise OSError(code, os.strerror(code), "rtnetlink")
                if found == answer:
                    yield datagram[position + 16 : position + length]
                position += max(16, (length + 3) & ~3)


def attributes(body: bytes, position: int) -> "dict[int, bytes]":
    """{type: payload} of the attributes in `body` from `position` on."""
    found = {}
    while position + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, position)
        if size < 4:
            break
        found[kind & 0x3FFF] = body[position + 4 : position + size]
        position += (size + 3) & ~3
    return found
