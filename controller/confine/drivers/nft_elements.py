"""Elements put into nftables sets over netlink, in one transaction, without the program nft: for what each start of a
sliver needs. Everything else is nft's.

A transaction by nft costs its start and its reading of what there is: a tenth of the time that a sliver takes to start.
Layouts: linux/netfilter/nf_tables.h, nfnetlink.h. A value is laid out as the kernel's registers have it: each part of
a concatenation from a boundary of 4 bytes on.
"""

import os
import socket
import struct

from confine.drivers import nft
from confine.errors import StepError

NEWSETELEM = nft.SUBSYSTEM << 8 | 12
BATCH_BEGIN, BATCH_END = 16, 17
CREATE = 0x405  # NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE
NESTED = 0x8000
LIST_ELEMENT, ELEMENT_DATA = 1, 2
NAME_SIZE = 16
IPV4_SETS, IPV6_SETS = ("ipv4",), ("ipv6", "management")


def add(table: str, found: "dict[tuple[str, str], list[str]]") -> None:
    """Put `found`, {(family, set): elements as nft reads them}, into the sets of `table`. Those that are there stay.
    StepError if the kernel takes them not; then nothing is changed."""
    try:
        batch = _batch(table, found)
        with nft.own_socket() as query:
            query.send(batch)
            answers = len([key for key in found if found[key]])
            while answers > 0:
                for _, kind, _, body in nft.messages(query.recv(65536)):
                    code = struct.unpack_from("=i", body)[0] if kind == nft.NLMSG_ERROR else 0
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    answers -= 1
    except (OSError, ValueError) as error:
        raise StepError("elements of the nftables table {} cannot be added: {}".format(table, error))


def _batch(table: str, found: "dict[tuple[str, str], list[str]]") -> bytes:
    parts = [_message(BATCH_BEGIN, 1, 0, socket.htons(nft.SUBSYSTEM), b"")]
    for family, name in sorted(found):
        elements = b"".join([_nested(LIST_ELEMENT, _element(name, word)) for word in found[family, name]])
        if elements:
            body = _attribute(nft.NAME_OF_TABLE, table.encode() + b"\0")
            body += _attribute(nft.SET_NAME, name.encode() + b"\0") + _nested(nft.SET_ELEMENTS, elements)
            parts.append(_message(NEWSETELEM, CREATE, nft.NUMBERS[family], 0, body))
    return b"".join([*parts, _message(BATCH_END, 1, 0, socket.htons(nft.SUBSYSTEM), b"")])


def _element(name: str, word: str) -> bytes:
    """One element of the set `name`: a key, its parts between " . ", and behind " : " the number it stands for."""
    key, _, number = word.partition(" : ")
    packed = _nested(nft.KEY, _attribute(nft.DATA_VALUE, b"".join([_part(name, part) for part in key.split(" . ")])))
    if number:
        packed += _nested(ELEMENT_DATA, _attribute(nft.DATA_VALUE, struct.pack("=I", int(number, 16))))
    return packed


def _part(name: str, text: str) -> bytes:
    """One part of a key: the name of an interface, an address, or digits."""
    if text.startswith("0x"):
        packed = bytes.fromhex(text[2:])
    elif name in IPV4_SETS and text[0].isdigit():
        packed = socket.inet_pton(socket.AF_INET, text)
    elif name in IPV6_SETS and ":" in text:
        packed = socket.inet_pton(socket.AF_INET6, text)
    elif ":" in text:
        packed = bytes.fromhex(text.replace(":", ""))
    else:
        packed = struct.pack("{}s".format(NAME_SIZE), text.encode())
    return packed + bytes(-len(packed) % 4)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | NESTED, payload)


def _message(kind: int, flags: int, family: int, resource: int, body: bytes) -> bytes:
    return struct.pack(nft.HEADER + "BBH", 20 + len(body), kind, flags, 1, 0, family, 0, resource) + body
