"""Slivers' interfaces: what each type is on this node, with its names, addresses, routes and bounds. Pure.

`of_sliver()` gives all that the drivers need to make a sliver's interfaces, the firewall to bind them and the reports
to show them; it follows from the sliver's target, its booking and the settings alone. Addresses and names are those of
the node API's addressing table. What does not follow from a formula (the VLAN tag taken over from the slice's document,
public addresses) is booked: see `book()`.

Every interface is one veth pair. Its node's end has the name `port`, slv-<nr>-<ii>, whatever its type. The port is on a
bridge, isolated there, or (type isolated) tied to a VLAN device of its own over the direct interface: the device stays
on the node's side, where the sliver can neither take its tag off nor put another on it.
"""

from confine.core import addressing
from confine.core.model import Booking, Problem
from confine.core.record import Record
from confine.core.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import Interface, SliverTarget
    from confine.core.settings import Settings

PRIVATE = "private"
MANAGEMENT = "management"
PUBLIC4 = "public4"
PUBLIC6 = "public6"
DEBUG = "debug"
ISOLATED = "isolated"

INTERNAL_BRIDGE = "br-confine"  # private and management: behind the node, which forwards
LOCAL_BRIDGE = "br-local"  # public4, public6 and debug: on the community network's own link
MAX_INTERFACES = 16
MIN_TAG, MAX_TAG = 0x100, 0xFFF

MTU = 1500
OVERLAY_MTU = 1400  # tinc-up of the original; the management network is reached through it
VLAN_TAG_BYTES = 4

# Of default routes the lowest metric wins: the public interface's own before the private one's.
PUBLIC_METRIC = 512
PRIVATE_METRIC = 2048


class SliverInterface(Record):
    """One interface of one sliver as it should be.

    sliver, slice_id, sliver_nr: whose it is. nr, name, type: as asked for (name: inside the sliver). port: the node's
    end, slv-<nr>-<ii>. bridge: the bridge that the port is on, None for isolated. parent, tag, vlan: isolated only: the
    direct interface, the slice's tag on it, and the name of the VLAN device made there. mac: inside the sliver; None:
    that of the parent (isolated). ipv4, ipv6: addresses with prefix length, as `["192.168.241.1/25"]`; what the sliver
    may send from on this interface, besides its link-local address. dhcp: the sliver asks a DHCP server of the
    community network; until the server's answer was seen (`Firewall.lease`) it has no IPv4 address and may send nothing
    but DHCP. routes: [(destination, gateway or None for on-link, metric)]. mtu: bytes; for isolated at most that (the
    parent's own may be less). router_adverts: router advertisements may give a default route.
    """

    FIELDS = ("sliver", "slice_id", "sliver_nr", "nr", "name", "type", "port", "bridge", "parent", "tag", "vlan", "mac",
              "ipv4", "ipv6", "dhcp", "routes", "mtu", "router_adverts")  # fmt: skip

    def __init__(self, sliver: str, slice_id: int, sliver_nr: int, nr: int, name: str, type: str, port: str) -> None:
        self.sliver = sliver
        self.slice_id = slice_id
        self.sliver_nr = sliver_nr
        self.nr = nr
        self.name = name
        self.type = type
        self.port = port
        self.bridge: "str | None" = None
        self.parent: "str | None" = None
        self.tag: "int | None" = None
        self.vlan: "str | None" = None
        self.mac: "str | None" = None
        self.ipv4: "list[str]" = []
        self.ipv6: "list[str]" = []
        self.dhcp = False
        self.routes: "list[tuple[str, str | None, int]]" = []
        self.mtu = MTU
        self.router_adverts = False


def vlan_device(sliver_nr: int, nr: int) -> str:
    """The node's VLAN device of an isolated interface: iso-<nr>-<ii>."""
    return addressing.veth(sliver_nr, nr).replace("slv-", "iso-")


def local_bridge(settings: "Settings") -> str:
    """The bridge on the community network's link: the node's own, or the one that the member's interface is."""
    name = settings.local_ifname or ""
    return name if name.startswith("br-") else LOCAL_BRIDGE


def of_sliver(
    sliver: "SliverTarget", booking: "Booking", settings: "Settings"
) -> "tuple[list[SliverInterface], list[Problem]]":
    """The interfaces that `sliver` can have now, by number, and why it cannot have the others.

    Member of a problem: "/interfaces/INDEX". Never raises for whatever the documents ask.
    """
    made: "list[SliverInterface]" = []
    problems: "list[Problem]" = []
    types = [asked.type for asked in sliver.interfaces]
    for index, asked in enumerate(sliver.interfaces):
        try:
            if index >= MAX_INTERFACES:
                raise ValueError("a sliver has at most " + str(MAX_INTERFACES) + " interfaces")
            made.append(_interface(asked, sliver, booking, settings, types))
        except ValueError as error:
            member = "/interfaces/" + str(index)
            problems.append(Problem(member, asked.name + " (" + asked.type + "): " + str(error) + "."))
    made.sort(key=lambda interface: interface.nr)
    return _each_parent_once(made, problems), problems


def _each_parent_once(made: "list[SliverInterface]", problems: "list[Problem]") -> "list[SliverInterface]":
    """One isolated interface for each parent: a second one would have the same tag."""
    kept: "list[SliverInterface]" = []
    for interface in made:
        before = [other.name for other in kept if other.parent is not None and other.parent == interface.parent]
        if before:
            message = interface.name + ": " + before[0] + " is on " + str(interface.parent) + " already, with this tag."
            problems.append(Problem("/interfaces", message))
        else:
            kept.append(interface)
    return kept


def _interface(
    asked: "Interface", sliver: "SliverTarget", booking: "Booking", settings: "Settings", types: "list[str]"
) -> SliverInterface:
    """ValueError says why the interface cannot be had."""
    port = addressing.veth(booking.nr, asked.nr)
    made = SliverInterface(sliver.name, sliver.slice_id, booking.nr, asked.nr, asked.name, asked.type, port)
    if asked.type == ISOLATED:
        _isolated(made, asked, booking, settings)
        return made
    made.mac = addressing.mac(settings.mac_prefix16, sliver.node_id, booking.nr, asked.nr)
    if asked.type == PRIVATE:
        _private(made, settings, types)
    elif asked.type == MANAGEMENT:
        _management(made, sliver, settings)
    elif asked.type == DEBUG:
        _debug(made, sliver, settings)
    elif asked.type == PUBLIC4:
        _public4(made, booking, settings)
    else:
        _public6(made, booking, settings)
    return made


def _private(made: SliverInterface, settings: "Settings", types: "list[str]") -> None:
    """Behind the node, which translates. Its default routes give way to those of public interfaces."""
    prefix24, prefix48 = settings.priv_ipv4_prefix24, settings.priv_ipv6_prefix48
    made.bridge = INTERNAL_BRIDGE
    ipv4 = addressing.sliver_private_ipv4(prefix24, made.sliver_nr)
    ipv6 = addressing.sliver_private_ipv6(prefix48, made.slice_id, made.nr)
    made.ipv4 = [ipv4 + "/" + str(addressing.PRIVATE_IPV4_BITS)]
    made.ipv6 = [ipv6 + "/" + str(addressing.PRIVATE_IPV6_BITS)]
    metric4 = PRIVATE_METRIC if PUBLIC4 in types else 0
    metric6 = PRIVATE_METRIC if PUBLIC6 in types else 0
    made.routes = [("0.0.0.0/0", addressing.gateway_ipv4(prefix24), metric4)]
    made.routes.append(("::/0", addressing.gateway_ipv6(prefix48), metric6))


def _management(made: SliverInterface, sliver: "SliverTarget", settings: "Settings") -> None:
    """In the node's own /64 of the management network; the node forwards to and from the overlay."""
    mgmt = settings.mgmt_ipv6_prefix48
    if mgmt is None:
        raise ValueError("this node does not know its management network (testbed.mgmt_ipv6_prefix48)")
    made.bridge = INTERNAL_BRIDGE
    made.ipv6 = [addressing.sliver_management_ipv6(mgmt, sliver.node_id, sliver.slice_id, made.nr) + "/64"]
    made.routes = [(mgmt + "::/48", addressing.node_management_ipv6(mgmt, sliver.node_id), 0)]
    made.mtu = OVERLAY_MTU


def _debug(made: SliverInterface, sliver: "SliverTarget", settings: "Settings") -> None:
    """On the local link, where everything of the debug prefix is a neighbour."""
    debug = settings.debug_ipv6_prefix48
    made.bridge = local_bridge(settings)
    made.ipv6 = [addressing.sliver_debug_ipv6(debug, sliver.node_id, sliver.slice_id, made.nr) + "/64"]
    made.routes = [(debug + "::/48", None, 0)]


def _public4(made: SliverInterface, booking: "Booking", settings: "Settings") -> None:
    made.bridge = local_bridge(settings)
    made.dhcp = settings.public4_proto == "dhcp"
    if made.dhcp:
        return
    address = booking.addresses.get(str(made.nr))
    if address is None or settings.public4_proto != "static":
        raise ValueError("no public IPv4 address is set aside for it")
    made.ipv4 = [address]
    if settings.public4_gateway is not None:
        made.routes = [("0.0.0.0/0", settings.public4_gateway, PUBLIC_METRIC)]


def _public6(made: SliverInterface, booking: "Booking", settings: "Settings") -> None:
    made.bridge = local_bridge(settings)
    address = booking.addresses.get(str(made.nr))
    if address is None:
        raise ValueError("no public IPv6 address is set aside for it")
    made.ipv6 = [address]
    if settings.public6_gateway is not None:
        made.routes = [("::/0", settings.public6_gateway, PUBLIC_METRIC)]
    else:
        made.router_adverts = True


def _isolated(made: SliverInterface, asked: "Interface", booking: "Booking", settings: "Settings") -> None:
    wrong = parent_refused(asked.parent, settings)
    if wrong is not None:
        raise ValueError(wrong)
    if booking.vlan_tag is None:
        raise ValueError("its slice has no VLAN tag now")
    made.parent = asked.parent
    made.tag = booking.vlan_tag
    made.vlan = vlan_device(made.sliver_nr, made.nr)
    if "." in (asked.parent or ""):
        made.mtu = MTU - VLAN_TAG_BYTES  # a VLAN within a VLAN: frames with two tags are to pass ordinary switches


def parent_refused(parent: "str | None", settings: "Settings") -> "str | None":
    """Why `parent` cannot carry isolated interfaces on this node, whatever the registry says; None if it can."""
    if not parent:
        return "it names no direct interface"
    own = (settings.local_ifname, LOCAL_BRIDGE, INTERNAL_BRIDGE, "lo", "confine", "shape-up", "shape-down")
    if parent in own or parent[:4] in ("slv-", "iso-", "tinc"):
        return shown(parent) + " is the node's own network interface, it is never given to slivers"
    if settings.isolated_parents and parent not in settings.isolated_parents:
        allowed = ", ".join(settings.isolated_parents)
        return shown(parent) + " is not lent by this node's member, only " + allowed + " (node.rd_if_iso_parents)"
    return None


# What is set aside


def book(
    sliver: "SliverTarget", booking: "Booking", others: "list[Booking]", settings: "Settings"
) -> "tuple[Booking, list[Problem], list[Problem]]":
    """(`booking` with the tag and the public addresses that `sliver` is to have, what the node does not have, what may
    come yet).

    An address once set aside stays the sliver's as long as the settings allow it. A tag that another sliver here still
    has (freed in the registry and given to another slice) is waited for. others: the other slivers' bookings.
    """
    refused: "list[Problem]" = []
    waiting: "list[Problem]" = []
    addresses: "dict[str, str]" = {}
    taken = [_bare(address) for other in others for address in other.addresses.values()]
    tag = None
    for index, asked in enumerate(sliver.interfaces[:MAX_INTERFACES]):
        wrong = None
        if asked.type == ISOLATED:
            tag, wrong = _tag(sliver.vlan_tag, others)
        elif asked.type in (PUBLIC4, PUBLIC6):
            address, wrong = _public(asked, sliver, booking, taken, settings)
            if address is not None:
                addresses[str(asked.nr)] = address
                taken.append(_bare(address))
        if wrong is not None:
            problem = Problem("/interfaces/" + str(index), asked.name + " (" + asked.type + "): " + wrong + ".")
            (waiting if asked.type == ISOLATED else refused).append(problem)
    made = Booking(booking.key, booking.name, booking.nr, booking.memory_mib, booking.disk_mib, tag, addresses)
    return made, refused, waiting


def _tag(tag: "int | None", others: "list[Booking]") -> "tuple[int | None, str | None]":
    if tag is None:
        return None, "its slice has no VLAN tag now"
    if not MIN_TAG <= tag <= MAX_TAG:
        return None, "VLAN tag " + hex(tag) + " is not in 0x100-0xfff"
    holders = [other.name for other in others if other.vlan_tag == tag]
    if holders:
        return None, "VLAN tag " + hex(tag) + " is still held by sliver " + holders[0] + " on this node"
    return tag, None


def _public(
    asked: "Interface", sliver: "SliverTarget", booking: "Booking", taken: "list[str]", settings: "Settings"
) -> "tuple[str | None, str | None]":
    """(address with prefix length or None, why there is none)."""
    if asked.type == PUBLIC6:
        if settings.public6_prefix is None:
            return None, "this node has no public IPv6 addresses for slivers (node.sl_public_ipv6_prefix64)"
        return sliver_public_ipv6(settings.public6_prefix, sliver.slice_id, asked.nr) + "/64", None
    if settings.public4_proto == "dhcp":
        return None, None
    if settings.public4_proto != "static":
        return None, "this node has no public IPv4 addresses for slivers (node.sl_public_ipv4_proto)"
    pool = settings.public4_pool if settings.public4_avail is None else settings.public4_pool[: settings.public4_avail]
    held = booking.addresses.get(str(asked.nr))
    if held in pool and _bare(held) not in taken:
        return held, None
    free = [address for address in pool if _bare(address) not in taken]
    if not free:
        return None, "all " + str(len(pool)) + " public IPv4 addresses of this node are taken"
    return free[0], None


def _bare(address: str) -> str:
    return address.split("/")[0]


def sliver_public_ipv6(prefix64: str, slice_id: int, interface_nr: int) -> str:
    """PREFIX:10ii:s:s:s, the node API's pattern for slivers, in the public /64 `prefix64` (four groups)."""
    groups = [int(group, 16) for group in prefix64.split(":")]
    tail = [0x1000 + interface_nr, slice_id >> 32, (slice_id >> 16) & 0xFFFF, slice_id & 0xFFFF]
    return addressing.format_ipv6(groups + tail)
