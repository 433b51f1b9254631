"""Connection tracking events of the kernel (ctnetlink): what to ask, and what the answers say. Pure.

Numbers and layouts: linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
GROUP_NEW = 1
GROUP_DESTROY = 3

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST_DUMP = 0x301
SUBSYSTEM = 1
NEW = 0  # message types within the subsystem; a dump is made of NEW
GET = 1
DELETE = 2

TUPLE_ORIG, TUPLE_REPLY, COUNTERS_ORIG, COUNTERS_REPLY, ID, TIMESTAMP = 1, 2, 9, 10, 12, 20
TUPLE_IP, TUPLE_PROTO = 1, 2
IPV4_SRC, IPV4_DST, IPV6_SRC, IPV6_DST = 1, 2, 3, 4
PROTO_NUM, SRC_PORT, DST_PORT, ICMP_ID, ICMP_TYPE, ICMP_CODE = 1, 2, 3, 4, 5, 6
ICMPV6_ID, ICMPV6_TYPE, ICMPV6_CODE = 7, 8, 9
PACKETS, BYTES = 1, 2
START, STOP = 1, 2
TYPE_MASK = 0x3FFF
HEADERS = 20  # netlink and nfnetlink


class Side:
    """One direction of a connection: packed addresses, protocol, ports (of ICMP: identifier, and type·256 + code)."""

    __slots__ = ("dport", "dst", "protocol", "sport", "src")

    def __init__(self, src: bytes, dst: bytes, protocol: int, sport: int, dport: int) -> None:
        self.src = src
        self.dst = dst
        self.protocol = protocol
        self.sport = sport
        self.dport = dport


class Event:
    """A connection that began, ended or is there. out: as its first packet went; back: as answers come, hence with the
    translated addresses. counts: (packets, bytes) out and back, None without accounting. began: wall clock, or None."""

    __slots__ = ("back", "began", "counts", "ended", "id", "out")

    def __init__(
        self,
        ended: bool,
        id: int,
        out: Side,
        back: Side,
        counts: "tuple[int, int, int, int] | None",
        began: "float | None",
    ) -> None:
        self.ended = ended
        self.id = id
        self.out = out
        self.back = back
        self.counts = counts
        self.began = began


def dump_request(sequence: int) -> bytes:
    """The message that asks for all connections there are."""
    body = struct.pack("=BBH", 0, 0, 0)
    return struct.pack("=IHHII", 16 + len(body), SUBSYSTEM << 8 | GET, NLM_F_REQUEST_DUMP, sequence, 0) + body


def events(datagram: bytes) -> "Iterator[Event | None]":
    """The events in what one recv() gave; None: the end of a dump, or an error instead of one. Unusable: left out."""
    at = 0
    while at + 16 <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, at)
        end = at + length
        if length < 16 or end > len(datagram):
            return
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            yield None
        elif kind >> 8 == SUBSYSTEM and kind & 0xFF in (NEW, DELETE) and length >= HEADERS:
            event = _event(datagram[at + HEADERS : end], kind & 0xFF == DELETE)
            if event is not None:
                yield event
        at += (length + 3) & ~3


def _event(body: bytes, ended: bool) -> "Event | None":
    found = attributes(body)
    out, back = _side(found.get(TUPLE_ORIG)), _side(found.get(TUPLE_REPLY))
    if out is None or back is None:
        return None
    there, answers = _counts(found.get(COUNTERS_ORIG)), _counts(found.get(COUNTERS_REPLY))
    counts = (*there, *answers) if there is not None and answers is not None else None
    started = _number(attributes(found.get(TIMESTAMP, b"")).get(START))
    began = started / 1e9 if started else None
    return Event(ended, _number(found.get(ID)) or 0, out, back, counts, began)


def attributes(data: bytes) -> "dict[int, bytes]":
    """{type: content} of a row of netlink attributes; what is cut off is left out."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        found[kind & TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _side(data: "bytes | None") -> "Side | None":
    if data is None:
        return None
    parts = attributes(data)
    ip, proto = attributes(parts.get(TUPLE_IP, b"")), attributes(parts.get(TUPLE_PROTO, b""))
    src = ip.get(IPV4_SRC) or ip.get(IPV6_SRC)
    dst = ip.get(IPV4_DST) or ip.get(IPV6_DST)
    number = _number(proto.get(PROTO_NUM))
    if src is None or dst is None or number is None or {len(src), len(dst)} not in ({4}, {16}):
        return None
    if SRC_PORT in proto:
        return Side(src, dst, number, _number(proto[SRC_PORT]) or 0, _number(proto.get(DST_PORT)) or 0)
    identifier = _number(proto.get(ICMP_ID, proto.get(ICMPV6_ID))) or 0
    kind = _number(proto.get(ICMP_TYPE, proto.get(ICMPV6_TYPE))) or 0
    code = _number(proto.get(ICMP_CODE, proto.get(ICMPV6_CODE))) or 0
    return Side(src, dst, number, identifier, kind << 8 | code)


def _counts(data: "bytes | None") -> "tuple[int, int] | None":
    if data is None:
        return None
    found = attributes(data)
    packets, size = _number(found.get(PACKETS)), _number(found.get(BYTES))
    return None if packets is None or size is None else (packets, size)


def _number(data: "bytes | None") -> "int | None":
    return int.from_bytes(data, "big") if data is not None and 0 < len(data) <= 8 else None
