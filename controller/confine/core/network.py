"""What of the node's network is this project's: UCI sections worked out of settings, registry and what is there. Pure.

All of them are named `confine_...`; no other section is ever written. Which there are:

    network    internal_dev, internal   bridge br-confine of private and management interfaces, its own addresses
               mgmt                     the node's management address on it
               local_dev, local         bridge br-local over node.local_ifname, where nobody else uses that
               recovery, debug          addresses on the community side
               dev_X, direct_X          direct interface X: a VLAN like eth1.40 is made; all are up
    firewall   internal, forward        slivers may go out: what of it they may is for our own tables to say
               overlay, overlay_...     the overlay reaches slivers, API, remote shell and ping; its peers reach tincd
               local, local_...         remote shell and ping at the node's addresses on br-local
    dhcp       internal                 no addresses are given out on br-confine

Each address has a logical interface of its own: one more address takes an interface down and up, and a bridge without
any interface on it is made anew (docs/developer/network.md).
"""

from confine.core import addressing, network_zones
from confine.core.model import Problem
from confine.core.network_zones import LOCAL, OVERLAY, PREFIX
from confine.core.record import Record
from confine.core.text import is_decimal, only, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import NodeTarget
    from confine.core.settings import Settings

    Section = dict[str, Any]
    Sections = dict[str, Section]

INTERNAL = "br-confine"
PACKAGES = ("network", "firewall", "dhcp")
BRIDGE, VLAN, OTHER = "bridge", "vlan", "other"  # kinds of devices
NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
MAX_VLAN = 4094
MAX_IFNAME = 15


class Device(Record):
    """A network device. kind: BRIDGE, VLAN or OTHER. master: the bridge it is a port of. mac: None if it has none.
    up: switched on; carrier: and joined to something."""

    FIELDS = ("kind", "master", "mac", "up", "carrier")

    def __init__(
        self,
        kind: str = OTHER,
        master: "str | None" = None,
        mac: "str | None" = None,
        up: bool = True,
        carrier: bool = True,
    ) -> None:
        self.kind = kind
        self.master = master
        self.mac = mac
        self.up = up
        self.carrier = carrier


class NetworkFacts(Record):
    """What there is. devices: {name: Device}, slivers' own ones left out. addresses: [(device, "address/bits")].
    uplinks: devices of default routes. files: {package: sections as drivers.uci.load() gives them}, of those that are
    there. broken: {package: why its file cannot be read}."""

    FIELDS = ("devices", "addresses", "uplinks", "files", "broken")

    def __init__(
        self,
        devices: "dict[str, Device]",
        addresses: "list[tuple[str, str]]",
        uplinks: "list[str]",
        files: "dict[str, Sections]",
        broken: "dict[str, str]",
    ) -> None:
        self.devices = devices
        self.addresses = addresses
        self.uplinks = uplinks
        self.files = files
        self.broken = broken


class NetworkTarget(Record):
    """What there should be. sections: {package: {name: section}}, all of ours in the packages that are there.
    expected: [(device, "address/bits" or None)] that come up with them. local: the device on the community side,
    bridge or not, or None. direct: the usable direct interfaces. problems: of the registry's and the owner's wishes.
    """

    FIELDS = ("sections", "expected", "local", "direct", "problems")

    def __init__(self) -> None:
        self.sections: "dict[str, Sections]" = {}
        self.expected: "list[tuple[str, str | None]]" = []
        self.local: "str | None" = None
        self.direct: "list[str]" = []
        self.problems: "list[Problem]" = []

    def device(self, name: str, type_: str, options: "Section") -> None:
        """Add a section of type device."""
        section = {".type": "device", "type": type_}
        section.update(options)
        self.sections["network"][PREFIX + name] = section

    def interface(self, name: str, device: str, *addresses: str) -> None:
        """Add a logical interface on `device`: static with `addresses`, or only up."""
        section: "Section" = {".type": "interface", "device": device, "proto": "static" if addresses else "none"}
        ipv4 = [address for address in addresses if ":" not in address]
        ipv6 = [address for address in addresses if ":" in address]
        if ipv4:
            section["ipaddr"] = ipv4
        if ipv6:
            section["ip6addr"] = ipv6
        if addresses:
            section["delegate"] = "0"  # no part of the community's IPv6 prefix is handed on here
        self.sections["network"][PREFIX + name] = section
        self.expected.extend((device, address) for address in addresses)
        if not addresses:
            self.expected.append((device, None))


def ours(sections: "Sections") -> "Sections":
    """Those of `sections` that this project owns."""
    return {name: section for name, section in sections.items() if name.startswith(PREFIX)}


def theirs(sections: "Sections", kind: str) -> "list[tuple[str, Section]]":
    """The members' own sections of type `kind`, by name."""
    found = [(name, sections[name]) for name in sorted(sections)]
    return [(name, section) for name, section in found if section.get(".type") == kind and not name.startswith(PREFIX)]


def words(value: object) -> "list[str]":
    """A UCI option as a list: text is split at blanks."""
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, (list, tuple)) else []


def internal_mac(settings: "Settings") -> str:
    """The MAC address of br-confine. Fixed, or it would follow the slivers' interfaces as they come and go."""
    node = settings.node_id or 0
    return "{}:{:02x}:{:02x}:00:00".format(settings.mac_prefix16, node >> 8, node & 255)


def internal_addresses(settings: "Settings") -> "list[str]":
    """The node's addresses on br-confine: gateways of the private interfaces."""
    return [
        addressing.gateway_ipv4(settings.priv_ipv4_prefix24) + "/" + str(addressing.PRIVATE_IPV4_BITS),
        addressing.gateway_ipv6(settings.priv_ipv6_prefix48) + "/" + str(addressing.PRIVATE_IPV6_BITS),
    ]


def management_address(settings: "Settings") -> "str | None":
    """The node's address in its own /64 of the management network; None if the settings do not say it."""
    if settings.mgmt_ipv6_prefix48 is None or settings.node_id is None:
        return None
    return addressing.node_management_ipv6(settings.mgmt_ipv6_prefix48, settings.node_id) + "/64"


def build(
    settings: "Settings", node: "NodeTarget | None", facts: NetworkFacts, tinc_port: "int | None" = None
) -> "NetworkTarget | None":
    """What there should be; None: nothing is to be changed, because the owner keeps it by hand, the node does not
    know who it is, or /etc/config/network cannot be read.

    node: None while the registry was never read; then the direct interfaces stay as they are. tinc_port: where tincd
    listens, if the settings do not say it and it is not the usual one.
    """
    if not settings.network_manage or settings.node_id is None or "network" not in facts.files or facts.broken:
        return None
    target = NetworkTarget()
    target.sections["network"] = {}
    _internal(target, settings)
    _local(target, settings, facts)
    if node is None:
        _as_they_are(target, facts)
    else:
        reserved = management_devices(settings, facts)
        for index, name in enumerate(node.direct_ifaces):
            _direct(target, name, "/direct_ifaces/" + str(index), facts, reserved)
    if "firewall" in facts.files:
        own = [address.partition("/")[0] for device, address in target.expected if address and device == LOCAL]
        local = own if PREFIX + "local_dev" in target.sections["network"] else None
        target.sections["firewall"] = network_zones.zones(settings, tinc_port, local)
    if "dhcp" in facts.files:
        nobody = {".type": "dhcp", "interface": PREFIX + "internal", "ignore": "1"}
        target.sections["dhcp"] = {PREFIX + "internal": nobody}
    return target


def _internal(target: NetworkTarget, settings: "Settings") -> None:
    # bridge_empty: it is there before the first sliver is.
    options = {"name": INTERNAL, "bridge_empty": "1", "macaddr": internal_mac(settings)}
    target.device("internal_dev", "bridge", options)
    target.interface("internal", INTERNAL, *internal_addresses(settings))
    management = management_address(settings)
    if management is not None:
        target.interface("mgmt", INTERNAL, management)


# The community side


def local_device(settings: "Settings", facts: NetworkFacts) -> "tuple[str | None, bool, str]":
    """(device on the community side or None, is br-local to be made for it, what is wrong with it or "").

    node.local_ifname is taken as it is if it is a bridge already, or if a section of the member's own uses it. A bridge
    is made over it only where nobody else has it: an address on a bridge's port would be lost.
    """
    name = settings.local_ifname
    if name is None:
        return None, False, ""
    sections = facts.files.get("network", {})
    bridges = {
        str(section.get("name")): words(section.get("ports"))
        for _, section in theirs(sections, "device")
        if section.get("type") == "bridge"
    }
    found = facts.devices.get(name)
    if name in bridges or (found is not None and found.kind == BRIDGE):
        return name, False, ""
    over = [bridge for bridge in sorted(bridges) if name in bridges[bridge]]
    if found is not None and found.master not in (None, LOCAL):
        over.append(str(found.master))
    if over:
        return None, False, name + " is a port of " + over[0] + ": set node.local_ifname to '" + over[0] + "'."
    if found is None:
        return None, False, "There is no device " + shown(name) + " on this node: correct node.local_ifname."
    used = [logical for logical, section in theirs(sections, "interface") if name in devices_of(section)]
    if used or name in facts.uplinks:
        by = "interface " + used[0] if used else "the default route"
        wrong = name + " is used by " + by + " itself and is no bridge: slivers get no public and debug interfaces. "
        return name, False, wrong + "Put that interface on a bridge over it and set node.local_ifname to the bridge."
    return LOCAL, True, ""


def _local(target: NetworkTarget, settings: "Settings", facts: NetworkFacts) -> None:
    local, make, wrong = local_device(settings, facts)
    target.local = local
    if wrong:
        target.problems.append(Problem("/node/local_ifname", wrong))
    if local is None:
        return
    under = facts.devices.get(str(settings.local_ifname))
    mac = under.mac if under is not None else None
    if make:
        options: "Section" = {"name": LOCAL, "ports": [settings.local_ifname]}
        if mac is not None:
            options["macaddr"] = mac
        target.device("local_dev", "bridge", options)
        target.interface("local", LOCAL)
    if settings.network_recovery:
        target.interface("recovery", local, *recovery_addresses(settings, mac))
    debug = addressing.node_debug_ipv6(settings.debug_ipv6_prefix48, settings.node_id or 0)
    target.interface("debug", local, debug + "/64")


def recovery_addresses(settings: "Settings", mac: "str | None") -> "list[str]":
    """Where the node can be reached on the community side when nothing else works. mac: of the local interface."""
    priv = settings.priv_ipv6_prefix48
    found = [
        addressing.recovery_ipv4(settings.priv_ipv4_prefix24) + "/" + str(addressing.PRIVATE_IPV4_BITS),
        addressing.recovery_ipv6(priv) + "/64",
    ]
    if mac is not None:
        found.append(addressing.recovery_unique_ipv6(priv, mac) + "/64")
    return found


# Direct interfaces


def devices_of(section: "Section") -> "list[str]":
    """The devices a logical interface is on; `ifname` as it was called before OpenWrt 21.02."""
    return words(section.get("device")) + words(section.get("ifname"))


def management_devices(settings: "Settings", facts: NetworkFacts) -> "dict[str, str]":
    """{device: why it is the node's own way to the network and cannot be lent}."""
    sections = facts.files.get("network", {})
    found = {
        "lo": "it is the loopback",
        INTERNAL: "the slivers' bridge",
        LOCAL: "the community side",
        OVERLAY: "overlay",
    }
    if settings.local_ifname is not None:
        found[settings.local_ifname] = "it is node.local_ifname"
    for name in facts.uplinks:
        found[name] = "the node's default route goes over it"
    for logical, section in theirs(sections, "interface"):
        if section.get("proto", "none") not in ("none", "unmanaged"):
            for name in devices_of(section):
                found[name] = "interface " + logical + " of /etc/config/network is on it"
    for _, section in theirs(sections, "device"):
        if section.get("type") == "bridge":
            for port in words(section.get("ports")):
                found.setdefault(port, "it is a port of " + str(section.get("name")))
    for name, device in facts.devices.items():
        if device.master is not None:
            found.setdefault(name, "it is a port of " + device.master)
    return found


def split_vlan(name: str) -> "tuple[str, int | None]":
    """'eth1.40' as ("eth1", 40), 'eth1' as ("eth1", None). ValueError says what is wrong with it."""
    base, dot, tag = name.rpartition(".")
    if not dot:
        base, tag = name, ""
    if not base or not only(base, NAME) or len(name) > MAX_IFNAME:
        raise ValueError(shown(name) + " is not the name of an interface like eth1 or eth1.40")
    if not dot:
        return base, None
    if not is_decimal(tag) or tag[0] == "0" or int(tag) > MAX_VLAN:
        raise ValueError(shown(name) + " has no VLAN tag from 1 to " + str(MAX_VLAN) + " after its dot")
    return base, int(tag)


def label(name: str) -> str:
    """`name` as part of a section's name: '.' becomes '_', '-' and '_' their codes. Different names stay different."""
    return name.replace("_", "_5f").replace("-", "_2d").replace(".", "_")


def _direct(target: NetworkTarget, name: str, member: str, facts: NetworkFacts, reserved: "dict[str, str]") -> None:
    try:
        base, tag = split_vlan(name)
    except ValueError as error:
        target.problems.append(Problem(member, str(error) + ": it is left out."))
        return
    if name in reserved:
        text = name + " cannot be a direct interface: " + reserved[name] + ". Take it out of direct_ifaces."
        target.problems.append(Problem(member, text))
        return
    their_own = [section.get("name") for _, section in theirs(facts.files["network"], "device")]
    if tag is not None and name not in their_own:
        target.device("dev_" + label(name), "8021q", {"name": name, "ifname": base, "vid": str(tag)})
    target.interface("direct_" + label(name), name)
    target.direct.append(name)


def _as_they_are(target: NetworkTarget, facts: NetworkFacts) -> None:
    """Nobody said what the direct interfaces are: those that stand there stay."""
    for name, section in ours(facts.files["network"]).items():
        if name[len(PREFIX) :].split("_")[0] in ("dev", "direct"):
            target.sections["network"][name] = section


# From what is there to what should be


def changes(files: "dict[str, Sections]", target: NetworkTarget) -> "dict[str, dict[str, Section | None]]":
    """{package: {section: as it should be, or None: to be removed}}, only those that differ; {} if all is right."""
    found: "dict[str, dict[str, Section | None]]" = {}
    for package, wanted in target.sections.items():
        present = ours(files.get(package, {}))
        differing: "dict[str, Section | None]" = {}
        for name in sorted(set(present) | set(wanted)):
            if present.get(name) != wanted.get(name):
                differing[name] = wanted.get(name)
        if differing:
            found[package] = differing
    return found


def missing(target: NetworkTarget, facts: NetworkFacts) -> "list[Problem]":
    """What should be up by now and is not, as the kernel has it: the reload itself always says it went well."""
    problems = []
    has_ipv6 = any(":" in address for _, address in facts.addresses)  # ::1 for one, where the kernel has it at all
    for device, address in target.expected:
        found = facts.devices.get(device)
        direct = device in target.direct
        member = "/direct_ifaces" if direct else ""
        if found is None or not found.up:
            state = "is not there" if found is None else "is down"
            problems.append(Problem(member, "Interface " + device + " " + state + _advice(direct)))
        elif direct and not found.carrier:
            problems.append(
                Problem(member, "Direct interface " + device + " has no carrier: see to its cable or link.")
            )
        elif address is not None and ":" in address and not has_ipv6:
            continue
        elif address is not None and (device, address) not in facts.addresses:
            problems.append(Problem("", "Address " + address + " is not on " + device + _advice(False)))
    return [problem for index, problem in enumerate(problems) if problem not in problems[:index]]


def _advice(direct: bool) -> str:
    return ": isolated interfaces over it wait for it." if direct else ": see /etc/config/network and the system log."
