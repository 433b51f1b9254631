"""Bounds of what slivers send and get: one HTB class for each sliver on each of two devices (ifb), with a fair queue.

Part of the worker (wiring.py), which sends slivers' traffic through these devices. Shaping what slivers send, rather
than dropping what is too much (tc police), keeps TCP near its bound: 93 % of 2 Mbit/s beside 63 %.
"""

import contextlib
import fcntl
import os

from confine.core.wiring import NO_TOTAL, SHAPERS, shape_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NETWORK = "/sys/class/net"
ROOT_HANDLE = 0x10000
QUANTUM = 3028  # of bytes that a sliver sends in its turn, when all want more than there is
BURST_S, LEAST_BURST = 0.005, 6000  # of a bound: what may go at once, in seconds of its rate and bytes
# For each sliver and direction: as many packets wait as a slow link needs, not the kernel's 32 MiB.
LEAF = {"fqc_limit": 512, "fqc_flows": 128}


class Refused(Exception):
    """This cannot be done; the text says why."""


class Shaping:
    """The bounds of sliver `nr`, `shape` as core.wiring.shape() gives them. host: netlink (pyroute2)."""

    def __init__(self, host: "Any", nr: int, shape: "dict[str, dict[str, Any] | None]") -> None:
        self.host = host
        self.nr = nr
        self.shape = shape

    def apply(self) -> None:
        """The sliver's class in each direction that has a bound, read back. Refused if it does not hold."""
        with locked():
            for direction, rates in self.shape.items():
                if rates is None:
                    self._unshape(direction)
                    continue
                shaper = self._shaper(direction, rates["total"])
                minor = shape_class(self.nr)
                self._set_class(shaper, minor, ROOT_HANDLE | 1, rates["rate"], rates["ceil"])
                if not any(qdisc["parent"] == ROOT_HANDLE | minor for qdisc in self.host.get_qdiscs(index=shaper)):
                    self.host.tc("add", "fq_codel", shaper, minor << 16, parent=ROOT_HANDLE | minor, **LEAF)
                found = self._class(shaper, minor)
                if found != (rates["rate"], rates["ceil"]):
                    raise Refused(f"{direction}: the kernel keeps {found} kbit/s, asked for was {rates}")

    def remove(self) -> None:
        """The sliver is gone."""
        with locked():
            for direction in SHAPERS:
                self._unshape(direction)

    def _shaper(self, direction: str, total: "int | None") -> int:
        """The device through which all slivers' traffic of one direction goes, with the class of all of them."""
        name = SHAPERS[direction]
        if index_of(name) is None:
            self.host.link("add", ifname=name, kind="ifb", txqlen=1000)
        index = there(name)
        set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
        self.host.link("set", index=index, state="up")
        if not any(qdisc.get_attr("TCA_KIND") == "htb" for qdisc in self.host.get_qdiscs(index=index)):
            self.host.tc("replace", "htb", index, ROOT_HANDLE, default=0)
        self._set_class(index, 1, ROOT_HANDLE, total or NO_TOTAL, total or NO_TOTAL)
        return index

    def _set_class(self, shaper: int, minor: int, parent: int, rate: int, ceil: int) -> None:
        """rate, ceil: kbit/s."""
        bursts = [max(LEAST_BURST, int(kbit * 125 * BURST_S)) for kbit in (rate, ceil)]
        self.host.tc("replace-class", "htb", shaper, ROOT_HANDLE | minor, parent=parent, rate=rate * 125,
                     ceil=ceil * 125, burst=bursts[0], cburst=bursts[1], quantum=QUANTUM)  # fmt: skip

    def _unshape(self, direction: str) -> None:
        """The sliver's class goes, and with the last one the device."""
        shaper = index_of(SHAPERS[direction])
        minor = shape_class(self.nr)
        if shaper is None:
            return
        if self._class(shaper, minor) is not None:
            self.host.tc("del-class", "htb", shaper, ROOT_HANDLE | minor)
        if not [one for one in self._classes(shaper) if one["handle"] != ROOT_HANDLE | 1]:
            self.host.link("del", index=shaper)

    def _classes(self, shaper: int) -> "list[Any]":
        return [one for one in self.host.get_classes(index=shaper) if one.get_attr("TCA_KIND") == "htb"]

    def _class(self, shaper: int, minor: int) -> "tuple[int, int] | None":
        """(rate, ceil) of a class, kbit/s."""
        for found in self._classes(shaper):
            if found["handle"] == ROOT_HANDLE | minor:
                parameters = found.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
                return parameters["rate"] // 125, parameters["ceil"] // 125
        return None


def index_of(name: str) -> "int | None":
    """The number of a device; None if it is not there."""
    text = read(f"{NETWORK}/{name}/ifindex")
    return int(text) if text else None


def there(name: str) -> int:
    """The number of a device. Refused if it is not there."""
    index = index_of(name)
    if index is None:
        raise Refused(f"there is no interface {name} (any more)")
    return index


@contextlib.contextmanager
def locked() -> "Iterator[None]":
    """What slivers share (the shapers) is changed by one worker at a time."""
    handle = os.open(NETWORK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read(path: str) -> str:
    """A kernel file's text; "" if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Write a kernel file."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def set_sysctl(path: str, value: str) -> None:
    """Set what is below /proc/sys/net, where the kernel has it."""
    path = "/proc/sys/net/" + path
    if os.path.exists(path) and read(path) != value:
        write(path, value)
