"""nftables: transactions by the program `nft`, and what the kernel says by netlink: its count of changes, the changes
as they happen, and what sets have counted. Only transactions start a process.
"""

import os
import socket
import struct
import subprocess
import threading
import time

from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NFT_S = 30
REMEMBER_S = 60.0  # how long a transaction is known to be ours

# nfnetlink, nf_tables (linux/netlink.h, linux/netfilter/nfnetlink.h, nf_tables.h, linux/netfilter.h)
NETLINK_NETFILTER = 12
SUBSYSTEM = 10
NFT_MSG_GETSETELEM = SUBSYSTEM << 8 | 13
NFT_MSG_NEWGEN = SUBSYSTEM << 8 | 15
NFT_MSG_GETGEN = SUBSYSTEM << 8 | 16
NFNLGRP_NFTABLES = 7
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SO_RCVBUFFORCE = 33
FAMILIES = {1: "inet", 7: "bridge"}
NUMBERS = {name: number for number, name in FAMILIES.items()}
ATTRIBUTE = 0x3FFF  # without the flags for nested and byte order
NAME_OF_TABLE = 1  # the first attribute of every message about a table or what is in it
GEN_ID = 1
SET_NAME, SET_ELEMENTS = 2, 3
KEY, EXPRESSION, EXPRESSIONS, DATA_VALUE, EXPRESSION_NAME, EXPRESSION_DATA = 1, 7, 11, 1, 1, 2
COUNTER_PACKETS = 2
HEADER = "=IHHII"  # length, type, flags, sequence, port
ANSWER_S = 2.0
BUFFER = 4 << 20

_own: "dict[int, float]" = {}  # port of a transaction of ours (the pid of its nft, or our socket's): when it began
_starting = threading.Lock()


def run(arguments: "list[str]", text: str = "") -> bytes:
    """Run nft; gives its output. StepError with its words; a transaction that fails changes nothing."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    pipe = subprocess.PIPE
    try:
        with _starting:
            child = subprocess.Popen(["nft", *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
            _own[child.pid] = time.monotonic()
        output, errors = child.communicate(text.encode(), NFT_S)
    except FileNotFoundError:
        raise StepError("there is no nft program on this node: install nftables")
    except OSError as error:
        raise StepError(f"nft cannot be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise StepError(f"nft {' '.join(arguments)} did not end within {NFT_S} s")
    if child.returncode != 0:
        said = " ".join(errors.decode("utf-8", "replace").split())[:1000]
        raise StepError(f"nft {' '.join(arguments)} failed (status {child.returncode}): {said}")
    return output


def own_socket() -> socket.socket:
    """A socket for a transaction that is known as ours. OSError if there is none."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    made.settimeout(ANSWER_S)
    made.bind((0, 0))
    with _starting:
        _own[made.getsockname()[0]] = time.monotonic()
    return made


def is_own(port: int) -> bool:
    """Whether netlink messages with this port are of a transaction by `run`, or over `own_socket`."""
    with _starting:
        now = time.monotonic()
        for pid in [pid for pid, begun in _own.items() if now - begun > REMEMBER_S]:
            del _own[pid]
        return port in _own


def generation() -> "int | None":
    """The kernel's count of changes to nftables; None if it has none. One netlink message, no process."""
    for _, kind, _, body in _ask(NFT_MSG_GETGEN, 0, b""):
        if kind == NFT_MSG_NEWGEN:
            return generation_of(body)
    return None


def generation_of(body: bytes) -> "int | None":
    """The count in the body of a NEWGEN message."""
    for attribute, value in attributes(body[4:]):
        if attribute == GEN_ID and len(value) == 4:
            return int(struct.unpack(">I", value)[0])
    return None


def listener() -> socket.socket:
    """A socket that hears of every change to nftables in this network namespace. OSError if there is none."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except OSError:
        pass  # without the right to it, the usual size has to do
    made.bind((0, 0))
    made.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
    return made


def counted(family: str, table: str, name: str) -> "dict[bytes, int]":
    """{key: packets} of a set whose elements count; {} if there is none."""
    body = struct.pack("=HH", 4 + len(table) + 1, NAME_OF_TABLE) + _padded(table)
    body += struct.pack("=HH", 4 + len(name) + 1, SET_NAME) + _padded(name)
    found = {}
    for _, kind, _, answer in _ask(NFT_MSG_GETSETELEM, NUMBERS[family], body, dump=True):
        for attribute, value in attributes(answer[4:]) if kind >> 8 == SUBSYSTEM else ():
            if attribute == SET_ELEMENTS:
                found.update(dict(_counted_element(element) for _, element in attributes(value)))
    return found


def _counted_element(element: bytes) -> "tuple[bytes, int]":
    key, packets = b"", 0
    for attribute, value in attributes(element):
        if attribute == KEY:
            key = dict(attributes(value)).get(DATA_VALUE, b"")
        elif attribute == EXPRESSION:
            packets += _packets(value)
        elif attribute == EXPRESSIONS:
            packets += sum(_packets(inner) for _, inner in attributes(value))
    return key, packets


def _packets(expression: bytes) -> int:
    found = dict(attributes(expression))
    if found.get(EXPRESSION_NAME, b"").rstrip(b"\0") != b"counter":
        return 0
    packets = dict(attributes(found.get(EXPRESSION_DATA, b""))).get(COUNTER_PACKETS, b"")
    return int.from_bytes(packets, "big")


def _padded(text: str) -> bytes:
    data = text.encode() + b"\0"
    return data + bytes(-len(data) % 4)


def _ask(kind: int, family: int, attributes_: bytes, dump: bool = False) -> "Iterator[tuple[int, int, int, bytes]]":
    """The messages of the kernel's answer; none where it does not answer."""
    flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
    body = struct.pack("=BBH", family, 0, 0) + attributes_
    try:
        query = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError:
        return
    with query:
        query.settimeout(ANSWER_S)
        try:
            query.sendto(struct.pack(HEADER, 16 + len(body), kind, flags, 1, 0) + body, (0, 0))
            more = True
            while more:
                more = dump
                for message in messages(query.recv(65536)):
                    if message[1] in (NLMSG_DONE, NLMSG_ERROR):
                        return
                    yield message
        except OSError:
            return


def messages(data: bytes) -> "Iterator[tuple[int, int, int, bytes]]":
    """(flags, type, port, body) of each netlink message in `data`; ends at what is none."""
    position = 0
    while position + 16 <= len(data):
        length, kind, flags, _, port = struct.unpack_from(HEADER, data, position)
        if length < 16 or position + length > len(data):
            return
        yield flags, kind, port, data[position + 16 : position + length]
        position += (length + 3) & ~3


def attributes(data: bytes) -> "Iterator[tuple[int, bytes]]":
    """(number, value) of each attribute in `data`; ends at what is none."""
    position = 0
    while position + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, position)
        if length < 4 or position + length > len(data):
            return
        yield number & ATTRIBUTE, data[position + 4 : position + length]
        position += (length + 3) & ~3


def table_of(kind: int, body: bytes) -> "tuple[str, str] | None":
    """(family, table) that a message about a change is about; None if it is about none of the families known here."""
    if kind >> 8 != SUBSYSTEM or len(body) < 4 or body[0] not in FAMILIES:
        return None
    for number, value in attributes(body[4:]):
        if number == NAME_OF_TABLE:
            return FAMILIES[body[0]], value.rstrip(b"\0").decode("ascii", "replace")
    return None
