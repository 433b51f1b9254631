"""Ethernet frames, honest and otherwise, built byte by byte. Only the standard library: runs in the node, too."""

import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN, QINQ = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def a4(text):
    return socket.inet_aton(text)


def a6(text):
    return socket.inet_pton(socket.AF_INET6, text)


def eth(source, destination, kind, payload):
    """A frame; padded to 60 bytes."""
    return (mac(destination) + mac(source) + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def tagged(frame, *tags):
    """`frame` with VLAN tags, the outer one first: (type, tag)."""
    inner = b"".join(struct.pack(">HH", kind, tag) for kind, tag in tags)
    return frame[:12] + inner + frame[12:]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(operation, sender_mac, sender_ip, target_mac, target_ip):
    return (
        struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
        + mac(sender_mac)
        + a4(sender_ip)
        + mac(target_mac)
        + a4(target_ip)
    )


def ip4(source, destination, protocol, payload, options=b"", offset=0, more=False, ttl=64, identity=7):
    """offset: of a fragment, in bytes."""
    length = 20 + len(options)
    fields = (0x40 | length // 4, 0, length + len(payload), identity, more << 13 | offset // 8, ttl, protocol, 0)
    head = struct.pack(">BBHHHBBH", *fields) + a4(source) + a4(destination) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ip6(source, destination, protocol, payload, hops=64):
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops) + a6(source) + a6(destination) + payload


def _sum(source, destination, protocol, data):
    if ":" in source:
        pseudo = a6(source) + a6(destination) + struct.pack(">II", len(data), protocol)
    else:
        pseudo = a4(source) + a4(destination) + struct.pack(">HH", protocol, len(data))
    return checksum(pseudo + data)


def udp(source, destination, sport, dport, payload):
    head = struct.pack(">HHH", sport, dport, 8 + len(payload))
    total = _sum(source, destination, UDP, head + b"\0\0" + payload) or 0xFFFF
    return head + struct.pack(">H", total) + payload


def tcp(source, destination, sport, dport, payload=b""):
    """A SYN."""
    head = struct.pack(">HHIIBBHHH", sport, dport, 1000, 0, 0x50, 2, 8192, 0, 0)
    total = _sum(source, destination, TCP, head + payload)
    return head[:16] + struct.pack(">H", total) + head[18:] + payload


def icmp6(source, destination, kind, body, code=0):
    head = struct.pack(">BBH", kind, code, 0)
    total = _sum(source, destination, ICMP6, head + body)
    return head[:2] + struct.pack(">H", total) + body


def option(kind, address):
    """A link-layer address option of neighbour discovery."""
    return struct.pack(">BB", kind, 1) + mac(address)


def extension(protocol, size=8):
    """A hop-by-hop or destination options header of padding before `protocol`."""
    return bytes([protocol, size // 8 - 1, 1, size - 4]) + bytes(size - 4)


def fragment6(protocol, offset=0, more=False, identity=7):
    return struct.pack(">BBHI", protocol, 0, offset | more, identity)


def solicited(address):
    """The multicast address and MAC that neighbour solicitations for `address` go to."""
    last = a6(address)[-3:]
    text = socket.inet_ntop(socket.AF_INET6, a6("ff02::1:ff00:0")[:-3] + last)
    return text, "33:33:ff:" + ":".join(f"{byte:02x}" for byte in last)
