"""What a sliver takes of disk and network, as the node sees it from outside."""

import os

from confine.core import addressing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.paths import Paths

# The host side of an interface counts what the sliver sends as received, and the other way round.
COUNTERS = (("received_bytes", "tx_bytes"), ("sent_bytes", "rx_bytes"))


def disk_and_traffic(paths: "Paths", name: str, nr: int) -> "dict[str, int]":
    """disk_bytes used of its own disk; received_bytes and sent_bytes of its first interface since it came up.
    What cannot be read is left out."""
    found = {}
    place = "/sys/class/net/{}/statistics/".format(addressing.veth(nr, 0))
    for member, file in COUNTERS:
        number = _read_number(place + file)
        if number is not None:
            found[member] = number
    try:
        disk = os.statvfs(os.path.join(paths.mounts, "slivers", name, "disk"))
        found["disk_bytes"] = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    except OSError:
        pass  # not mounted: it has no figure then
    return found


def _read_number(path: str) -> "int | None":
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
