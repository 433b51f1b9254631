"""What is there of slivers' interfaces and their bounds, what should be, and whether the two differ. Pure.

The way a sliver's interface is made (drivers/wiring.py) leaves a mark on its port that stands for all that was asked
for; so whether it is as asked now is seen by reading a few files.
"""

import binascii
import hashlib

from confine.core import addressing
from confine.core.interfaces import PRIVATE, SliverInterface, local_bridge
from confine.core.record import Record, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import SliverTarget
    from confine.core.settings import Settings

    Shape = dict[str, dict[str, Any] | None]

# Devices through which slivers' traffic goes where bandwidth is bounded; up: what slivers send.
SHAPERS = {"up": "shape-up", "down": "shape-down"}
FIRST_CLASS = 0x100
MIN_KBIT = 8
NO_TOTAL = 10000000  # kbit/s of the class above all slivers' where the node has no bound for all


def shape_class(sliver_nr: int) -> int:
    """Minor number of the sliver's class on both shapers."""
    return FIRST_CLASS + sliver_nr


def shape(sliver: "SliverTarget", settings: "Settings") -> "Shape":
    """Bounds of what the sliver sends ("up") and gets ("down") on all its interfaces together; None: no bound at all.

    {"rate": kbit/s it can count on, "ceil": kbit/s at most, "total": kbit/s of all slivers, or None}. Where there is a
    total, each can count on the same part of it and takes evenly of what others leave (HTB); else on all it may have.
    """
    found: "Shape" = {}
    for direction, own, total in (
        ("up", sliver.egress_kbit, settings.egress_total_kbit),
        ("down", sliver.ingress_kbit, settings.ingress_total_kbit),
    ):
        ceil = min([bound for bound in (own, total) if bound is not None] or [0])
        if not ceil:
            found[direction] = None
        else:
            rate = ceil if total is None else max(MIN_KBIT, min(ceil, total // addressing.MAX_SLIVER_NR))
            found[direction] = {"rate": rate, "ceil": ceil, "total": total}
    return found


def mark(interface: SliverInterface, shaped: "Shape") -> str:
    """What the port bears as its alias once all of the interface is made: says whether that is what is asked for.

    "confine DIGEST/DIRECTIONS"; DIRECTIONS: those that are bounded, which can change while the interface stays. Empty
    for a private interface without bounds, which LXC makes alone.
    """
    directions = [direction for direction in sorted(shaped) if shaped[direction] is not None]
    if interface.type == PRIVATE and not directions and not interface.routes[0][2] and not interface.routes[1][2]:
        return ""
    content = repr([getattr(interface, field) for field in interface.FIELDS if field != "port"])
    digest = binascii.hexlify(hashlib.sha256(content.encode()).digest()).decode()[:16]
    return "confine " + digest + "/" + "+".join(directions)


def job(name: str, sliver_nr: int, wanted: "list[SliverInterface] | None", shaped: "Shape",
        kept: "list[str] | None" = None) -> "dict[str, Any]":  # fmt: skip
    """What drivers/wiring.py is to do for the sliver `name`; JSON-ready. wanted None: remove all that belongs to it.
    kept: ports that stay as they are."""
    docs = None
    if wanted is not None:
        docs = [dict(plain(interface), mark=mark(interface, shaped)) for interface in wanted]
    return {"sliver": name, "nr": sliver_nr, "wanted": docs, "shape": shaped, "kept": kept or []}


def by_lxc_alone(wanted: "list[SliverInterface]", shaped: "Shape") -> bool:
    """Whether LXC makes all of it while the sliver starts: a single private interface without bounds."""
    return all(interface.type == PRIVATE and not mark(interface, shaped) for interface in wanted)


# What is there


class Port(Record):
    """The node's end of an interface. bridge: the one it is on, or None. mark: its alias."""

    FIELDS = ("bridge", "isolated", "mark")

    def __init__(self, bridge: "str | None", isolated: bool, mark: str) -> None:
        self.bridge = bridge
        self.isolated = isolated
        self.mark = mark


class Wired(Record):
    """What there is of one sliver's interfaces. ports: {name: Port}. vlans: {device: (parent, tag)}.
    rates: {"up" or "down": (rate, ceil, total or None)} of its classes, kbit/s. leases: {port: IPv4 address} that DHCP
    servers gave; unleased: {port: why what they gave cannot be used}."""

    FIELDS = ("ports", "vlans", "rates", "leases", "unleased")

    def __init__(
        self,
        ports: "dict[str, Port] | None" = None,
        vlans: "dict[str, tuple[str, int]] | None" = None,
        rates: "dict[str, tuple[int, int, int | None]] | None" = None,
        leases: "dict[str, str] | None" = None,
        unleased: "dict[str, str] | None" = None,
    ) -> None:
        self.ports = ports or {}
        self.vlans = vlans or {}
        self.rates = rates or {}
        self.leases = leases or {}
        self.unleased = unleased or {}


class Link(Record):
    """An interface of the node. bridge: whether it is one. master: the bridge it is on. up: switched on. own: why it is
    the node's own and never lent (network.management_devices), or None."""

    FIELDS = ("bridge", "master", "mac", "up", "carrier", "own")

    def __init__(
        self, bridge: bool, master: "str | None", mac: str, up: bool, carrier: bool, own: "str | None" = None
    ) -> None:
        self.bridge = bridge
        self.master = master
        self.mac = mac
        self.up = up
        self.carrier = carrier
        self.own = own


def waits_for(interface: SliverInterface, links: "dict[str, Link]", settings: "Settings") -> "str | None":
    """What the node lacks for `interface` now and may have later; None: nothing."""
    if interface.bridge is not None:
        there = interface.bridge in links and links[interface.bridge].bridge
        return None if there else "there is no bridge " + interface.bridge + " now"
    parent = links.get(interface.parent or "")
    if parent is None:
        return "the direct interface " + str(interface.parent) + " is not there now"
    if parent.master == local_bridge(settings):
        return str(interface.parent) + " is the community network's interface, it is never given to slivers"
    if parent.own is not None:
        return str(interface.parent) + " is never given to slivers: " + parent.own
    if not parent.up:
        return "the direct interface " + str(interface.parent) + " is down now"
    return None


def stays(interface: SliverInterface, wired: Wired, links: "dict[str, Link]",
          settings: "Settings", shaped: "Shape") -> bool:  # fmt: skip
    """Whether what there is of an interface that waits is left as it is: it was made as asked, and only what is below
    it is gone for now, as a bridge that is just made anew. The sliver keeps the interface, with all it did to it."""
    port, parent = wired.ports.get(interface.port), links.get(interface.parent or "")
    lent = parent is None or (parent.own is None and parent.master != local_bridge(settings))
    return lent and port is not None and port.mark == mark(interface, shaped)


def unleased(interface: SliverInterface, wired: Wired) -> "str | None":
    """Why an interface that asks for its address has none; None: it has one, or does not ask."""
    if not interface.dhcp or interface.port not in wired.ports:
        return None
    if interface.port in wired.unleased:
        return wired.unleased[interface.port]
    if interface.port not in wired.leases:
        return "no DHCP server has given it an address; the sliver has to run a DHCP client there"
    return None


def differs(
    wanted: "list[SliverInterface]", wired: Wired, shaped: "Shape", kept: "list[str] | None" = None
) -> "str | None":
    """What of a running sliver's interfaces is not as asked for, in a sentence; None: all is. kept: ports that stay."""
    ports = [interface.port for interface in wanted] + (kept or [])
    for name in sorted(wired.ports):
        if name not in ports:
            return name + " is not asked for any more."
    for interface in wanted:
        port = wired.ports.get(interface.port)
        if port is None:
            return interface.name + " is not there."
        if port.mark != mark(interface, shaped):
            return interface.name + " is not made as it is asked for now."
        if interface.bridge is not None and (port.bridge != interface.bridge or not port.isolated):
            return interface.name + " is not on bridge " + interface.bridge + ", isolated."
        if interface.vlan is not None and wired.vlans.get(interface.vlan) != (interface.parent, interface.tag):
            return interface.name + " has no VLAN " + hex(interface.tag or 0) + " on " + str(interface.parent) + "."
    for direction in sorted(shaped):
        rates = shaped[direction]
        asked = (rates["rate"], rates["ceil"], rates["total"]) if rates is not None else None
        if wired.rates.get(direction) != asked:
            return "Its bandwidth (" + direction + ") is not bounded as asked."
    return None
