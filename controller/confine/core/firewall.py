"""The node's nftables tables as text, and what changes in them when a sliver's ports come or go. Pure.

Two tables of this name, `bridge` and `inet`, are built once (`render`): rules that look things up in sets. What belongs
to one port of one sliver is elements of those sets (`elements`), so that rules do not grow with slivers and a change
for one sliver touches its own elements only (`change`). The rules themselves are in firewall_rules.py.

bridge: what a port may say, checked frame by frame where it enters, and marked with whose it is; who may hear it.
inet: where what the node routes, or takes for itself, may go.
"""

from confine.core import addressing
from confine.core.firewall_rules import BRIDGE_TABLE, INET_TABLE, MANAGEMENT_RULES
from confine.core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from confine.core.interfaces import SliverInterface
    from confine.core.settings import Settings

FAMILIES = ("inet", "bridge")
TABLE = "confine"
BRIDGE = "br-confine"
PREFIX = "slv-"

# Kinds of ports. INNER ones hang on the node's own bridge and speak with the node only; the others on a bridge with the
# community's network. An isolated interface is on no bridge: only its tag is contained, by the VLAN device it has.
PRIVATE, MANAGEMENT, PUBLIC4, PUBLIC6, DEBUG = "private", "management", "public4", "public6", "debug"
KINDS = (PRIVATE, MANAGEMENT, PUBLIC4, PUBLIC6, DEBUG)
INNER = (PRIVATE, MANAGEMENT)

# A frame that passed carries its port's kind (bits 24-26) and its sliver's number (bits 16-22) in its mark, with which
# it goes through the node. The sliver cannot set it: the kernel clears marks where a packet leaves a namespace.
KIND_SHIFT, NR_SHIFT = 24, 16

# Loopback, "this host", link-local, IPv4 in IPv6's clothes.
LOCAL = ["127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "::/127", "fe80::/10", "::ffff:0:0/96"]

# Protocols by the names that UCI takes; both versions of IP have the same numbers.
PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51,
             "icmpv6": 58, "ospf": 89, "ipip": 4, "sctp": 132, "udplite": 136}  # fmt: skip


class Port(Record):
    """The node's end of a sliver's interface: what it may send from.

    kind: one of KINDS. nr: the sliver's number. ipv4, ipv6: addresses without prefix length; the
    link-local address that follows from the MAC address need not be named. dhcp: it may ask for an address, and what
    it is told comes by `lease`.
    """

    FIELDS = ("name", "kind", "nr", "mac", "ipv4", "ipv6", "dhcp")

    def __init__(
        self, name: str, kind: str, nr: int, mac: str, ipv4: "list[str]", ipv6: "list[str]", dhcp: bool = False
    ) -> None:
        self.name = name
        self.kind = kind
        self.nr = nr
        self.mac = mac
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.dhcp = dhcp


def ports_of(interfaces: "Iterable[SliverInterface]") -> "list[Port]":
    """The ports of a sliver's interfaces; isolated ones need nothing here."""
    return [
        Port(one.port, one.type, one.sliver_nr, str(one.mac), _bare(one.ipv4), _bare(one.ipv6), one.dhcp)
        for one in interfaces
        if one.type in KINDS
    ]


def _bare(addresses: "list[str]") -> "list[str]":
    return sorted([address.split("/")[0] for address in addresses])


def mark(kind: str, nr: int) -> int:
    """The mark of what a sliver's ports of one kind send."""
    return (KINDS.index(kind) + 1) << KIND_SHIFT | nr << NR_SHIFT


def of_mark(value: int) -> "tuple[str, int] | None":
    """(kind, sliver number) of a mark; None if it is none of ours."""
    index = (value >> KIND_SHIFT) - 1
    return (KINDS[index], value >> NR_SHIFT & 0x7F) if 0 <= index < len(KINDS) else None


def link_local(mac: str) -> str:
    """fe80:: and the EUI-64 of a MAC address."""
    parts = [int(part, 16) for part in mac.split(":")]
    groups = [0xFE80, 0, 0, 0, (parts[0] ^ 2) << 8 | parts[1], parts[2] << 8 | 0xFF, 0xFE00 | parts[3]]
    groups.append(parts[4] << 8 | parts[5])
    return addressing.format_ipv6(groups)


def elements(ports: "Iterable[Port]") -> "dict[tuple[str, str], list[str]]":
    """{(family, set): elements as nft reads them} of `ports`."""
    found: "dict[tuple[str, str], list[str]]" = {}

    def add(name: str, element: str, family: str = "bridge") -> None:
        found.setdefault((family, name), []).append(element)

    for port in ports:
        _identity(port, add)
        if port.kind == MANAGEMENT:
            for address in port.ipv6:
                add("management", address, "inet")
    return found


def _identity(port: Port, add: "Callable[..., None]") -> None:
    """What `port` may say of itself."""
    digits = "0x" + port.mac.replace(":", "")
    add("marks", port.name + " : " + hex(mark(port.kind, port.nr)))
    add("macs", port.name + " . " + port.mac)
    add("lladdrs", port.name + " . " + digits)
    add("router_lladdrs", port.name + " . " + digits)
    for address in port.ipv4:
        add("ipv4", port.name + " . " + address)
    own = [link_local(port.mac)]
    own.extend(port.ipv6)
    for address in own:
        add("ipv6", port.name + " . " + address)
        groups = addressing.parse_ipv6(address)
        add("targets", port.name + " . 0x" + "".join(["{:04x}".format(group) for group in groups]))
    if port.dhcp:
        add("asking", port.name)
    if port.kind in INNER:
        add("inner", port.name)


def element_lines(verb: str, found: "dict[tuple[str, str], list[str]]") -> str:
    """`add` or `delete` of elements, a line for each set."""
    return "".join(
        [
            verb + " element " + family + " " + TABLE + " " + name + " { " + ", ".join(found[family, name]) + " }\n"
            for family, name in sorted(found)
            if found[family, name]
        ]
    )


def change(before: "list[Port]", after: "Iterable[Port]") -> str:
    """What nft has to do to come from the ports of one sliver to others; "" if nothing. Going ones first."""
    after = list(after)
    stay = [port.name for port in after]
    left = "".join([_forget(port) for port in before if port.name not in stay])
    old, new = elements(before), elements(after)
    gone = {key: [word for word in words if word not in new.get(key, [])] for key, words in old.items()}
    come = {key: [word for word in words if word not in old.get(key, [])] for key, words in new.items()}
    return element_lines("delete", gone) + left + element_lines("add", come)


def _forget(port: Port) -> str:
    """Take out what the kernel noted of a port by itself, so that the next sliver with this number begins anew. nft
    takes nothing out that is not there: it is put in first."""
    noted = [("bridge", name, port.name) for name in ("rates", "spoofed_by", "refused_by", "flooded_by")]
    own = hex(mark(port.kind, port.nr))
    noted.extend([("inet", name, own) for name in ("connections", "refused_by", "flooded_by")])
    line = " element {} " + TABLE + " {} {{ {} }}\n"
    return "".join(["add" + line.format(*one) + "delete" + line.format(*one) for one in noted])


def render(settings: "Settings", ports: "Iterable[Port]" = ()) -> str:
    """Both tables with `ports`, replacing older ones of the same name in the same transaction."""
    parts = ["table {0} {1}\ndelete table {0} {1}\n".format(family, TABLE) for family in FAMILIES]
    return "".join(parts) + _inet(settings) + _bridge(settings) + element_lines("add", elements(ports))


def lease_lines(port: str, address: str, seconds: int, others: "Iterable[str]" = ()) -> str:
    """What nft has to do to let `port` send from `address` for so long, and no longer from `others`. nft does not
    renew what is there: it is taken out and put in again."""
    line = " element bridge " + TABLE + " leases { " + port + " . "
    old = [address]
    old.extend(others)
    gone = "".join(["add" + line + one + " }\ndelete" + line + one + " }\n" for one in old])
    return gone + "add" + line + address + " timeout " + str(seconds) + "s }\n" if seconds > 0 else gone


def read(listing: "list[dict[str, Any]]") -> "tuple[list[Port], dict[tuple[str, str], int]]":
    """The ports, and the leases with their seconds, that a listing of the bridge table has (`nft -j list table`)."""
    sets: "dict[str, list[Any]]" = {}
    for entry in listing:
        for kind in ("set", "map"):
            if kind in entry:
                sets[str(entry[kind].get("name"))] = entry[kind].get("elem") or []
    ports = {}
    for name, value in sets.get("marks", []):
        found = of_mark(value)
        if found is not None:
            ports[name] = Port(name, found[0], found[1], "", [], [], name in sets.get("asking", []))
    for name, mac in _pairs(sets.get("macs", [])):
        if name in ports:
            ports[name].mac = mac
    for member in ("ipv4", "ipv6"):
        for name, address in _pairs(sets.get(member, [])):
            if name in ports and address != link_local(ports[name].mac):
                getattr(ports[name], member).append(address)
    for port in ports.values():
        port.ipv4.sort()
        port.ipv6.sort()
    leases = {}
    for entry in sets.get("leases", []):
        inner = entry.get("elem", entry) if isinstance(entry, dict) else {}
        for name, address in _pairs([inner.get("val", {})]):
            leases[name, address] = int(inner.get("expires", 0))
    return [ports[name] for name in sorted(ports)], leases


def _pairs(elements: "list[Any]") -> "list[tuple[str, str]]":
    return [tuple(element["concat"]) for element in elements if len(element.get("concat", ())) == 2]


def _constant(name: str, type: str, words: "list[str]", interval: bool = False) -> str:
    """A set that only changes with the settings."""
    flags = "\t\tflags interval;\n" if interval else ""
    inside = "\t\telements = { " + ", ".join(words) + " }\n" if words else ""
    return "\tset " + name + " {\n\t\ttype " + type + ";\n" + flags + inside + "\t}\n"


def _excluded(settings: "Settings") -> str:
    """What the member keeps from slivers, as intervals that do not overlap."""
    both = settings.firewall_exclude
    ipv4 = outermost([prefix for prefix in both if ":" not in prefix])
    ipv6 = outermost([prefix for prefix in both if ":" in prefix])
    return _constant("excluded4", "ipv4_addr", ipv4, True) + _constant("excluded6", "ipv6_addr", ipv6, True)


def _bits(prefix: str) -> "tuple[int, int, int]":
    """(address as a number, prefix length, width)."""
    address, _, length = prefix.partition("/")
    parts, size = (addressing.parse_ipv6(address), 16) if ":" in address else (addressing.parse_ipv4(address), 8)
    value = 0
    for part in parts:
        value = value << size | part
    width = size * len(parts)
    return value, int(length or width), width


def within(address: str, prefixes: "Iterable[str]") -> bool:
    """Whether `address` lies in one of `prefixes`. ValueError if it is no address."""
    value, _, width = _bits(address)
    for prefix in prefixes:
        first, length, size = _bits(prefix)
        if size == width and value >> width - length == first >> width - length:
            return True
    return False


def closed_to_slices(settings: "Settings") -> "list[str]":
    """Prefixes that the node asks nothing of for slices' users: its own and other slivers' private ones, the testbed's
    management network, what the member excluded. They are closed to their slivers' private interfaces, too."""
    own = [settings.priv_ipv4_prefix24 + ".0/24", settings.priv_ipv6_prefix48 + "::/48"]
    management = settings.mgmt_ipv6_prefix48
    return LOCAL + own + settings.firewall_exclude + ([management + "::/48"] if management else [])


def outermost(prefixes: "list[str]") -> "list[str]":
    """`prefixes` of one version of IP without those that lie within others: nft refuses overlapping intervals."""
    kept: "list[str]" = []
    for prefix in sorted(prefixes, key=lambda text: _bits(text)[1]):
        value, width = _bits(prefix)[0], _bits(prefix)[2]
        if not [one for one in kept if value >> width - _bits(one)[1] == _bits(one)[0] >> width - _bits(one)[1]]:
            kept.append(prefix)
    return kept


def _bridge(settings: "Settings") -> str:
    numbers = [str(PROTOCOLS[name]) for name in settings.firewall_protocols]
    low_tcp = [str(port) for port in settings.firewall_tcp_ports]
    low_udp = [str(port) for port in settings.firewall_udp_ports]
    constants = _excluded(settings)
    constants += _constant("protocols", "inet_proto", numbers)
    constants += _constant("tcp_ports", "inet_service", low_tcp) + _constant("udp_ports", "inet_service", low_udp)
    return BRIDGE_TABLE % {
        "constants": constants,
        "prefix": PREFIX,
        "outside": _outside(settings),
        "rate": settings.firewall_neighbours,
        "burst": 4 * settings.firewall_neighbours,
    }


def _outside(settings: "Settings") -> str:
    """Each of the testbed's own networks is for the kind of interface that is in it."""
    rule = "\t\tmeta mark & 0x07000000 != {} ip6 daddr {}::/48 goto refused\n"
    networks = ((MANAGEMENT, settings.mgmt_ipv6_prefix48), (DEBUG, settings.debug_ipv6_prefix48))
    return "".join([rule.format(hex(mark(kind, 0)), prefix) for kind, prefix in networks if prefix])


def _networks(settings: "Settings") -> "list[str]":
    return [prefix for prefix in (settings.mgmt_ipv6_prefix48, settings.debug_ipv6_prefix48) if prefix]


def _inet(settings: "Settings") -> str:
    mgmt = settings.mgmt_ipv6_prefix48
    from_management = to_management = api = ""
    if mgmt:
        from_management = MANAGEMENT_RULES["from"] % {"mgmt": mgmt}
        to_management = MANAGEMENT_RULES["to"] % {"mgmt": mgmt}
        if settings.node_id is not None and settings.api_enabled and settings.firewall_api:
            address = addressing.node_management_ipv6(mgmt, settings.node_id)
            api = MANAGEMENT_RULES["api"] % {"address": address, "port": settings.api_port}
    dns = '\t\tiifname "' + BRIDGE + '" meta l4proto { tcp, udp } th dport 53 accept\n' if settings.firewall_dns else ""
    return INET_TABLE % {
        "bridge": BRIDGE,
        "constants": _excluded(settings),
        "ipv4": settings.priv_ipv4_prefix24 + ".0/" + str(addressing.PRIVATE_IPV4_BITS),
        "ipv6": settings.priv_ipv6_prefix48 + "::/" + str(addressing.PRIVATE_IPV6_BITS),
        "networks": "".join(["\t\tip6 daddr " + prefix + "::/48 goto refused\n" for prefix in _networks(settings)]),
        "from_management": from_management,
        "to_management": to_management,
        "services": dns + api,
        "connections": settings.firewall_connections,
    }
