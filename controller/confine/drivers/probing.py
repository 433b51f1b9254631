"""Asks a link whether an address is already somebody's: ARP as RFC 5227 has it, neighbour discovery as RFC 4862.

Used by wiring.py before a public address is given to a sliver. One station answers for its address or nobody does; a
link where frames are lost may hide one, which is why the question is put more than once.
"""

import select
import socket
import struct
import time

ETH_ALL, ETH_ARP, ETH_IPV6 = 0x0003, 0x0806, 0x86DD
SOL_PACKET, PACKET_ADD_MEMBERSHIP = 263, 1
OURS = 11  # characters of a hardware address that say which node's it is (node API)
TIMES = 3
WAIT_S = 0.3  # for an answer to each


def holders(device: str, addresses: "dict[str, str]") -> "dict[str, str]":
    """{address: hardware address of who answers for it} of those on the link of `device`. addresses: {address: hardware
    address in whose name it is asked for}. Answers of this node's own slivers do not count, whose hardware addresses
    begin alike: Linux answers for an address on any of a machine's interfaces."""
    found: "dict[str, str]" = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(ETH_ALL)) as link:
        link.bind((device, ETH_ALL))
        membership = struct.pack("=iHH8s", socket.if_nametoindex(device), 1, 0, b"")
        link.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)  # promiscuous: the addresses are not ours yet
        for _ in range(TIMES):
            for address, mac in addresses.items():
                link.send(solicitation(mac, address) if ":" in address else arp_request(mac, address))
            deadline = time.monotonic() + WAIT_S
            while len(found) < len(addresses):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([link], [], [], left)[0]:
                    break
                frame = link.recv(2048)
                for address, mac in addresses.items():
                    said = said_by(frame, address)
                    if said is not None and said[:OURS] != mac[:OURS]:
                        found[address] = said
    return found


def said_by(frame: bytes, address: str) -> "str | None":
    """The hardware address in a frame that says to have `address`; None: it says nothing of it."""
    kind = frame[12:14]
    if kind == b"\x08\x06" and len(frame) >= 42 and frame[28:32] == _packed(address):
        return frame[22:28].hex(":")
    advert = kind == b"\x86\xdd" and len(frame) >= 78 and frame[20] == 58 and frame[54] == 136
    if advert and frame[62:78] == _packed(address):
        return frame[6:12].hex(":")
    return None


def arp_request(mac: str, address: str) -> bytes:
    """Who has `address`? From nobody's address, so that no station's table changes."""
    sender = bytes.fromhex(mac.replace(":", ""))
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, sender, bytes(4), bytes(6), _packed(address))
    return b"\xff" * 6 + sender + struct.pack("!H", ETH_ARP) + body


def solicitation(mac: str, address: str) -> bytes:
    """Neighbour solicitation for `address` from the unspecified address."""
    target = _packed(address)
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    message = struct.pack("!BBHI", 135, 0, 0, 0) + target
    pseudo = bytes(16) + group + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + bytes(16) + group
    ethernet = b"\x33\x33" + group[12:] + bytes.fromhex(mac.replace(":", "")) + struct.pack("!H", ETH_IPV6)
    return ethernet + header + message


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
