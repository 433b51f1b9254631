"""The addresses of the node's local interface, for the node document. Read from the kernel, no process started."""

import socket
import struct

from confine.core.addressing import format_ipv6, recovery_unique_ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.settings import Settings

SIOCGIFADDR = 0x8915
GLOBAL_SCOPE = "00"


def of_local_interface(settings: "Settings", sys: str = "/sys", proc: "str" = "/proc") -> "dict[str, str | None]":
    """local_mac, local_ipv4, local_ipv6, recovery_unique (node API); None for what is not there."""
    name = settings.local_ifname
    mac = _mac(f"{sys}/class/net/{name}/address") if name else None
    ours = [
        prefix for prefix in (settings.mgmt_ipv6_prefix48, settings.priv_ipv6_prefix48, settings.debug_ipv6_prefix48)
        if prefix
    ]  # fmt: skip
    return {
        "local_mac": mac,
        "local_ipv4": _ipv4(name) if name else None,
        "local_ipv6": _ipv6(name, f"{proc}/net/if_inet6", ours) if name else None,
        "recovery_unique": recovery_unique_ipv6(settings.priv_ipv6_prefix48, mac) if mac else None,
    }


def _mac(path: str) -> "str | None":
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except (OSError, ValueError):
        return None
    return text if len(text) == 17 else None


def _ipv4(name: str) -> "str | None":
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as query:
        try:
            answer = fcntl.ioctl(query, SIOCGIFADDR, struct.pack("16s24x", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _ipv6(name: str, path: str, ours: "list[str]") -> "str | None":
    """The first global address of the interface that is not one of the testbed's own."""
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file]
    except (OSError, ValueError):
        return None
    for row in rows:
        if len(row) == 6 and row[5] == name and row[3] == GLOBAL_SCOPE and len(row[0]) == 32:
            groups = [int(row[0][start : start + 4], 16) for start in range(0, 32, 4)]
            if ":".join(f"{group:x}" for group in groups[:3]) not in ours:
                return format_ipv6(groups)
    return None
