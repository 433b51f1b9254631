"""Numbers to names and addresses: every formula of the node API's addressing table.

N: node id, as 4 hex digits (0001-fff0). s:s:s: slice id, 48 bits. ii: interface number, 2 hex digits. nr: the
sliver's number on this node, 01-7d. Prefixes are given as their three groups, "fdbd:e804:6aa9"; addresses
come out as RFC 5952 wants them. All functions raise ValueError naming the value and what is allowed.
"""

from confine.core.text import HEX_DIGITS, is_decimal, only, shown

MAX_NODE_ID = 0xFFF0
MAX_SLICE_ID = 0xFFFFFFFFFFFF
MAX_INTERFACE_NR = 0xFF
MIN_SLIVER_NR = 0x01
MAX_SLIVER_NR = 0x7D

# Ids inside a sliver are shifted by its base on the host (design: an own id range for each sliver).
FIRST_ID_BASE = 0x1000000
IDS_PER_SLIVER = 0x10000

PRIVATE_IPV4_BITS = 25
PRIVATE_IPV6_BITS = 64
GATEWAY_HOST = 126
RECOVERY_HOST = 130


def _ranged(what: str, value: int, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(what + " " + shown(value) + " is not in " + str(low) + "-" + str(high))
    return value


def node_hex(node_id: int) -> str:
    """N: the node id as 4 hex digits."""
    return "{:04x}".format(_ranged("node id", node_id, 1, MAX_NODE_ID))


def slice_hex(slice_id: int) -> str:
    """The slice id as 12 hex digits."""
    return "{:012x}".format(_ranged("slice id", slice_id, 1, MAX_SLICE_ID))


def hostname(slice_id: int, node_id: int) -> str:
    """A sliver's host name, `<slice 12 hex>_<node 4 hex>`: also the name of its directory, cgroup and container."""
    return slice_hex(slice_id) + "_" + node_hex(node_id)


def parse_hostname(name: object) -> "tuple[int, int] | None":
    """(slice id, node id) of a sliver's host name; None if `name` is not exactly one."""
    if not isinstance(name, str) or len(name) != 17 or name[12] != "_":
        return None
    if not only(name[:12], HEX_DIGITS) or not only(name[13:], HEX_DIGITS):
        return None
    slice_id, node_id = int(name[:12], 16), int(name[13:], 16)
    if slice_id < 1 or not 1 <= node_id <= MAX_NODE_ID:
        return None
    return slice_id, node_id


def id_base(nr: int) -> int:
    """First host uid and gid of sliver `nr`; its range is IDS_PER_SLIVER wide."""
    return FIRST_ID_BASE + _ranged("sliver number", nr, MIN_SLIVER_NR, MAX_SLIVER_NR) * IDS_PER_SLIVER


def veth(nr: int, interface_nr: int) -> str:
    """Host side name of a sliver's interface: slv-<nr>-<ii>."""
    _ranged("sliver number", nr, MIN_SLIVER_NR, MAX_SLIVER_NR)
    return "slv-{:02x}-{:02x}".format(nr, _ranged("interface number", interface_nr, 0, MAX_INTERFACE_NR))


def mac(mac_prefix16: str, node_id: int, nr: int, interface_nr: int) -> str:
    """A sliver interface's MAC address: mac_prefix16:NN:NN:nr:ii."""
    node = node_hex(node_id)
    _ranged("sliver number", nr, MIN_SLIVER_NR, MAX_SLIVER_NR)
    _ranged("interface number", interface_nr, 0, MAX_INTERFACE_NR)
    ending = "{:02x}:{:02x}".format(nr, interface_nr)
    return ":".join([parse_mac_prefix16(mac_prefix16), node[:2], node[2:], ending])


def parse_mac_prefix16(text: str) -> str:
    """'54:C0' as '54:c0'. A group (multicast) address is refused: no interface may have one."""
    parts = text.lower().split(":")
    if len(parts) != 2 or not all(len(part) == 2 and only(part, HEX_DIGITS) for part in parts):
        raise ValueError(shown(text) + " is not two bytes like 54:c0")
    if int(parts[0], 16) & 1:
        raise ValueError(shown(text) + " is a multicast prefix: its first byte must be even")
    return ":".join(parts)


# IPv4


def parse_ipv4(text: str) -> "list[int]":
    """The four bytes of a dotted address."""
    parts = text.split(".")
    good = len(parts) == 4 and all(is_decimal(part) and len(part) <= 3 and int(part) <= 255 for part in parts)
    if not good or any(len(part) > 1 and part[0] == "0" for part in parts):
        raise ValueError(shown(text) + " is not an IPv4 address")
    return [int(part) for part in parts]


def parse_prefix24(text: str) -> str:
    """'192.168.241' or '192.168.241.0/24' as '192.168.241'."""
    dotted = text
    if text.endswith("/24"):
        dotted = text[:-3]
        if not dotted.endswith(".0"):
            raise ValueError(shown(text) + " is not a /24 prefix: its last byte must be 0")
        dotted = dotted[:-2]
    try:
        parts = parse_ipv4(dotted + ".0")
    except ValueError:
        raise ValueError(shown(text) + " is not a prefix like 192.168.241 or 192.168.241.0/24")
    if parts[0] in (0, 127) or parts[0] >= 224:
        raise ValueError(shown(text) + " cannot be given to interfaces")
    return dotted


def sliver_private_ipv4(prefix24: str, nr: int) -> str:
    """X.Y.Z.nr, in a /25 (PRIVATE_IPV4_BITS)."""
    return prefix24 + "." + str(_ranged("sliver number", nr, MIN_SLIVER_NR, MAX_SLIVER_NR))


def gateway_ipv4(prefix24: str) -> str:
    """The node's own address on the private bridge: X.Y.Z.126, in a /25."""
    return prefix24 + "." + str(GATEWAY_HOST)


def recovery_ipv4(prefix24: str) -> str:
    """X.Y.Z.130, in the upper /25."""
    return prefix24 + "." + str(RECOVERY_HOST)


# IPv6


def parse_ipv6(text: str) -> "list[int]":
    """The eight 16-bit groups of an IPv6 address (without zone, prefix length or dotted end)."""
    wrong = ValueError(shown(text) + " is not an IPv6 address")
    halves = text.split("::")
    if len(halves) > 2:
        raise wrong
    groups = []
    for half in halves:
        parts = half.split(":") if half else []
        if not all(len(part) <= 4 and only(part.lower(), HEX_DIGITS) for part in parts):
            raise wrong
        groups.append([int(part, 16) for part in parts])
    if len(halves) == 1:
        if len(groups[0]) != 8:
            raise wrong
        return groups[0]
    missing = 8 - len(groups[0]) - len(groups[1])
    if missing < 1:
        raise wrong
    return groups[0] + [0] * missing + groups[1]


def _longest_zeros(groups: "list[int]") -> "tuple[int, int]":
    """(start, length) of the first longest run of two or more zero groups; (0, 0) if there is none."""
    best, start = (0, 0), None
    for index, group in enumerate(groups):
        if group:
            start = None
            continue
        if start is None:
            start = index
        length = index - start + 1
        if length >= 2 and length > best[1]:
            best = (start, length)
    return best


def format_ipv6(groups: "list[int]") -> str:
    """Eight groups as canonical text: lower case, no leading zeros, the longest run of zeros as '::' (RFC 5952)."""
    start, length = _longest_zeros(groups)
    words = ["{:x}".format(group) for group in groups]
    if not length:
        return ":".join(words)
    return ":".join(words[:start]) + "::" + ":".join(words[start + length :])


def parse_prefix48(text: str) -> str:
    """'fdbd:e804:6aa9::/48', 'fdbd:e804:6aa9::' or 'fdbd:e804:6aa9' as the three groups 'fdbd:e804:6aa9'."""
    wrong = ValueError(shown(text) + " is not a /48 prefix like fdbd:e804:6aa9::/48")
    address = text
    if "/" in text:
        address, bits = text.split("/", 1)
        if bits != "48":
            raise wrong
    if "::" not in address:
        address += "::"
    try:
        groups = parse_ipv6(address)
    except ValueError:
        raise wrong
    if any(groups[3:]) or groups[0] == 0 or groups[0] >= 0xFF00:
        raise wrong
    return ":".join("{:x}".format(group) for group in groups[:3])


def _in_prefix(prefix48: str, *tails: "list[int]") -> str:
    groups = [int(group, 16) for group in prefix48.split(":")]
    for tail in tails:
        groups.extend(tail)
    return format_ipv6(groups)


def _split48(what: str, value: int) -> "list[int]":
    _ranged(what, value, 1, MAX_SLICE_ID)
    return [value >> 32, (value >> 16) & 0xFFFF, value & 0xFFFF]


def _interface_group(interface_nr: int) -> int:
    """10ii"""
    return 0x1000 + _ranged("interface number", interface_nr, 0, MAX_INTERFACE_NR)


def node_management_ipv6(mgmt: str, node_id: int) -> str:
    """MGMT:N::2, in a /64."""
    return _in_prefix(mgmt, [int(node_hex(node_id), 16), 0, 0, 0, 2])


def server_management_ipv6(mgmt: str, server_id: int) -> str:
    """MGMT:0:0:r:r:r"""
    return _in_prefix(mgmt, [0, 0], _split48("server id", server_id))


def host_management_ipv6(mgmt: str, host_id: int) -> str:
    """MGMT:0:2000:h:h:h"""
    return _in_prefix(mgmt, [0, 0x2000], _split48("host id", host_id))


def sliver_management_ipv6(mgmt: str, node_id: int, slice_id: int, interface_nr: int) -> str:
    """MGMT:N:10ii:s:s:s, in a /64."""
    head = [int(node_hex(node_id), 16), _interface_group(interface_nr)]
    return _in_prefix(mgmt, head, _split48("slice id", slice_id))


def sliver_debug_ipv6(debug: str, node_id: int, slice_id: int, interface_nr: int) -> str:
    """DEBUG:N:10ii:s:s:s, in a /64: the management formula under another prefix."""
    return sliver_management_ipv6(debug, node_id, slice_id, interface_nr)


def node_debug_ipv6(debug: str, node_id: int) -> str:
    """DEBUG:N::2, in a /64."""
    return node_management_ipv6(debug, node_id)


def sliver_private_ipv6(priv: str, slice_id: int, interface_nr: int) -> str:
    """PRIV:0:10ii:s:s:s, in a /64 (PRIVATE_IPV6_BITS)."""
    return _in_prefix(priv, [0, _interface_group(interface_nr)], _split48("slice id", slice_id))


def gateway_ipv6(priv: str) -> str:
    """The node's own address on the private bridge: PRIV::1, in a /64."""
    return _in_prefix(priv, [0, 0, 0, 0, 1])


def recovery_ipv6(priv: str) -> str:
    """PRIV:1::2"""
    return _in_prefix(priv, [1, 0, 0, 0, 2])


def recovery_unique_ipv6(priv: str, mac_address: str) -> str:
    """PRIV:2:EUI-64 of the MAC address of the node's local interface."""
    parts = mac_address.lower().split(":")
    if len(parts) != 6 or not all(len(part) == 2 and only(part, HEX_DIGITS) for part in parts):
        raise ValueError(shown(mac_address) + " is not a MAC address")
    first = "%02x" % (int(parts[0], 16) ^ 2)
    words = [first + parts[1], parts[2] + "ff", "fe" + parts[3], parts[4] + parts[5]]
    return _in_prefix(priv, [2], [int(word, 16) for word in words])
