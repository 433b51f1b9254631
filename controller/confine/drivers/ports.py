"""The node's ends of slivers' interfaces: which there are, and how to silence them without starting a process."""

import fcntl
import os
import socket
import struct

from confine.drivers.links import PORT_PREFIX

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
IFREQ = "16sH22x"  # struct ifreq with flags
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


def silence(ports: "list[str]") -> "list[str]":
    """Take `ports` down: no frame goes in or out. Gives those that could not be; one that is not there is silent."""
    return _set(ports, up=False)


def let_speak(ports: "list[str]") -> "list[str]":
    """Take `ports` up again. Gives those that could not be."""
    return _set(ports, up=True)


def _set(ports: "list[str]", up: bool) -> "list[str]":
    failed = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as query:
        for port in ports:
            try:
                answer = fcntl.ioctl(query, SIOCGIFFLAGS, struct.pack(IFREQ, port.encode(), 0))
                before = struct.unpack(IFREQ, answer)[1]
                flags = before | IFF_UP if up else before & ~IFF_UP
                if flags != before:
                    fcntl.ioctl(query, SIOCSIFFLAGS, struct.pack(IFREQ, port.encode(), flags))
            except OSError:
                if os.path.exists(os.path.join(NETWORK, port)):
                    failed.append(port)
    return failed
