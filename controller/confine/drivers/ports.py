"""The node's ends of slivers' interfaces: which there are, and how to silence them without starting a process."""

import fcntl
import os
import socket
import struct

from confine.drivers.cgroups import read
from confine.drivers.links import PORT_PREFIX

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
IFREQ = "16sH22x"  # struct ifreq with flags
# linux/rtnetlink.h, if_link.h
RTM_SETLINK, NLM_F_REQUEST, AF_BRIDGE, IFLA_PROTINFO, NLA_F_NESTED, IFLA_BRPORT_STATE = 19, 1, 7, 12, 0x8000, 1
NETWORK = "/sys/class/net"


def pattern(nr: "int | None") -> str:
    """What nft matches the interfaces of sliver `nr` with; None: of all slivers."""
    return PORT_PREFIX + ("*" if nr is None else "{:02x}-*".format(nr))


def of(nr: "int | None") -> "list[str]":
    """The interfaces that are there of sliver `nr`; None: of all slivers."""
    prefix = pattern(nr)[:-1]
    try:
        return sorted(name for name in os.listdir(NETWORK) if name.startswith(prefix))
    except OSError:
        return []


def unbridged(nr: "int | None") -> "list[str]":
    """Those of them that are on no bridge: isolated interfaces, whose frames pass nothing that nft could cut."""
    return [name for name in of(nr) if not os.path.islink(os.path.join(NETWORK, name, "master"))]


def silence(ports: "list[str]") -> "list[str]":
    """Take `ports` down: no frame goes in or out. Gives those that could not be; one that is not there is silent."""
    return _set(ports, up=False)[0]


def take_down(ports: "list[str]") -> "list[str]":
    """As `silence`; gives those that were up. At once: their bridges pass nothing of them on from the first moment,
    while taking down many of them takes the kernel its time. Coming up again, they pass again."""
    disable(ports)
    return _set(ports, up=False)[1]


def disable(ports: "list[str]") -> None:
    """Have the bridges of `ports` drop whatever comes from them or goes to them: one message for each, no waiting."""
    state = struct.pack("=HHHHB3x", 12, IFLA_PROTINFO | NLA_F_NESTED, 5, IFLA_BRPORT_STATE, 0)
    messages = b""
    wanted = set(ports)
    for index in [index for index, name in socket.if_nameindex() if name in wanted]:
        body = struct.pack("=BxHiII", AF_BRIDGE, 0, index, 0, 0) + state
        messages += struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, NLM_F_REQUEST, 0, 0) + body
    if messages:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as query:
            query.send(messages)


def let_speak(ports: "list[str]") -> "list[str]":
    """Take `ports` up again. Gives those that could not be."""
    return _set(ports, up=True)[0]


def down(ports: "list[str]") -> "list[str]":
    """Those of `ports` that are down."""
    return [port for port in ports if int(read(os.path.join(NETWORK, port, "flags")) or "1", 16) & IFF_UP == 0]


def _set(ports: "list[str]", up: bool) -> "tuple[list[str], list[str]]":
    """Those that could not be set, and those that were otherwise before."""
    failed, changed = [], []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as query:
        for port in ports:
            try:
                answer = fcntl.ioctl(query, SIOCGIFFLAGS, struct.pack(IFREQ, port.encode(), 0))
                before = struct.unpack(IFREQ, answer)[1]
                flags = before | IFF_UP if up else before & ~IFF_UP
                if flags != before:
                    fcntl.ioctl(query, SIOCSIFFLAGS, struct.pack(IFREQ, port.encode(), flags))
                    changed.append(port)
            except OSError:
                if os.path.exists(os.path.join(NETWORK, port)):
                    failed.append(port)
    return failed, changed
