"""The node's own settings: the UCI package `confine` as one checked record.

Every option is declared once, in OPTIONS, with its datatype, bounds and default. An option that cannot be used is
named in a `Problem` and its default stands; the options that say which node this is and whom it trusts have
defaults that switch the registry off (fail closed). Names of sections and options that existing image
generators write are kept (registry API, "What the original image generator injects").
"""

from confine.core.model import Problem
from confine.core.option_values import (
    parse_address,
    parse_bool,
    parse_host_address,
    parse_host_name,
    parse_hours,
    parse_ifname,
    parse_int,
    parse_ipv4_prefix,
    parse_ipv6_prefix,
    parse_ipv6_prefix64,
    parse_mac_prefix,
    parse_name,
    parse_node_id,
    parse_path,
    parse_plain_ipv4,
    parse_plain_ipv6,
    parse_prefix,
    parse_tinc_name,
    parse_uri,
    parse_word,
)
from confine.core.record import Record
from confine.core.text import nearest, shown
from confine.core.unclear import close, closed, fail_closed, until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_LIST = 64
MAX_TEXT = 512
MAX_MIB = 1 << 30


SCHEMES = ("https", "http", "file")
UPGRADE_MODES = ("off", "notify", "auto")
MIB = (0, MAX_MIB)
SIZE = (1, MAX_MIB)
ID = (1, 0xFFFFFFFFFFFF)
KBIT = (8, 10000000)
LOW_PORTS = (1, 1023)
PROTOCOLS = ("icmp", "igmp", "tcp", "udp", "gre", "esp", "ah", "sctp", "dccp", "udplite", "ospf", "ipip", "ipv6")

# (section, option, attribute, parser, bounds, default, is a list). Attribute None: known to existing image
# generators and left to other parts of the node. Sizes are in MiB.
OPTIONS: "tuple[tuple[Any, ...], ...]" = (
    ("node", "id", "node_id", parse_node_id, None, None, False),
    ("node", "local_ifname", "local_ifname", parse_ifname, None, None, False),
    ("node", "mac_prefix16", "mac_prefix16", parse_mac_prefix, None, "54:c0", False),
    ("node", "priv_ipv4_prefix24", "priv_ipv4_prefix24", parse_ipv4_prefix, None, "192.168.241", False),
    ("node", "sync_node_admins", "sync_node_admins", parse_bool, None, True, False),
    ("node", "data_dir", "data_dir", parse_path, None, "/srv/confine", False),
    ("node", "watchdog", "watchdog_s", parse_int, (0, 3600), 180, False),  # s the controller may hang; 0: for ever
    ("node", "rd_public_ipv4_proto", None, None, None, None, False),
    # Slivers' interfaces (interfaces.py). Addresses of the pool are a /24's unless they say otherwise.
    ("node", "public_ipv4_avail", "public4_avail", parse_int, (0, 65535), None, False),
    ("node", "sl_public_ipv4_proto", "public4_proto", parse_word, ("none", "dhcp", "static"), "none", False),
    ("node", "sl_public_ipv4_addrs", "public4_pool", parse_host_address, None, None, True),
    ("node", "sl_public_ipv4_gw", "public4_gateway", parse_plain_ipv4, None, None, False),
    ("node", "sl_public_ipv6_prefix64", "public6_prefix", parse_ipv6_prefix64, None, None, False),
    ("node", "sl_public_ipv6_gw", "public6_gateway", parse_plain_ipv6, None, None, False),
    ("node", "rd_if_iso_parents", "isolated_parents", parse_ifname, None, None, True),
    ("node", "state", None, None, None, None, False),
    # Whom to connect to first, besides what the registry says. enabled: without it, as the registry says.
    ("node", "tinc_gateway", "tinc_gateway", parse_tinc_name, None, None, False),
    ("overlay", "enabled", "overlay", parse_bool, None, None, False),
    ("overlay", "port", "overlay_port", parse_int, (1, 65535), None, False),
    ("registry", "base_uri", "registry_uris", parse_uri, SCHEMES, None, True),
    ("registry", "cert", "registry_cert", parse_path, None, None, False),
    ("registry", "plain_http", "plain_http", parse_bool, None, False, False),
    ("registry", "interval", "interval_s", parse_int, (5, 86400), 60, False),
    ("testbed", "mgmt_ipv6_prefix48", "mgmt_ipv6_prefix48", parse_ipv6_prefix, None, None, False),
    ("testbed", "priv_ipv6_prefix48", "priv_ipv6_prefix48", parse_ipv6_prefix, None, "fdbd:e804:6aa9", False),
    ("testbed", "debug_ipv6_prefix48", "debug_ipv6_prefix48", parse_ipv6_prefix, None, "fd5f:eee5:e6ad", False),
    ("policy", "memory_total", "memory_total_mib", parse_int, MIB, None, False),
    ("policy", "memory_reserve", "memory_reserve_mib", parse_int, MIB, 64, False),
    ("policy", "disk_total", "disk_total_mib", parse_int, MIB, None, False),
    ("policy", "disk_reserve", "disk_reserve_mib", parse_int, MIB, 128, False),
    ("policy", "slice_share", "slice_share_percent", parse_int, (1, 100), 100, False),
    ("policy", "accept_groups", "accept_groups", parse_int, ID, None, True),
    ("policy", "accept_slices", "accept_slices", parse_int, ID, None, True),
    ("policy", "refuse_slices", "refuse_slices", parse_int, ID, None, True),
    # Bandwidth of all slivers together, shared evenly; egress: what slivers send. kbit/s.
    ("policy", "egress_kbit", "egress_total_kbit", parse_int, KBIT, None, False),
    ("policy", "ingress_kbit", "ingress_total_kbit", parse_int, KBIT, None, False),
    ("policy", "cache_max", "cache_max_mib", parse_int, SIZE, 1024, False),
    ("policy", "template_max", "template_max_mib", parse_int, SIZE, 2048, False),
    ("sliver", "memory_max", "sliver_memory_max_mib", parse_int, SIZE, None, False),
    ("sliver", "disk_max", "sliver_disk_max_mib", parse_int, SIZE, None, False),
    ("sliver", "memory_default", "sliver_memory_default_mib", parse_int, SIZE, 64, False),
    ("sliver", "disk_default", "sliver_disk_default_mib", parse_int, SIZE, 128, False),
    ("sliver", "cpu_percent_max", "cpu_percent_max", parse_int, (1, 100000), None, False),
    ("sliver", "cpu_weight", "cpu_weight", parse_int, (1, 10000), 100, False),
    ("sliver", "pids_max", "pids_max", parse_int, (8, 4194304), 512, False),
    ("sliver", "io_mib_s", "io_mib_s", parse_int, (1, 1 << 20), None, False),
    ("sliver", "io_ops", "io_ops", parse_int, (1, 1 << 30), None, False),
    ("sliver", "egress_kbit_default", "egress_kbit_default", parse_int, KBIT, None, False),
    ("sliver", "ingress_kbit_default", "ingress_kbit_default", parse_int, KBIT, None, False),
    ("sliver", "egress_kbit_max", "egress_kbit_max", parse_int, KBIT, None, False),
    ("sliver", "ingress_kbit_max", "ingress_kbit_max", parse_int, KBIT, None, False),
    ("sliver", "dns", "dns", parse_address, None, None, True),
    # What is kept of slivers' actions, flows and figures (records/). days: age; sizes: on the data partition.
    ("record", "days", "record_days", parse_int, (1, 3650), 90, False),
    ("record", "action_mib", "record_action_mib", parse_int, (1, 1024), 4, False),
    ("record", "flow_mib", "record_flow_mib", parse_int, (1, 65536), 16, False),
    ("record", "figure_mib", "record_figure_mib", parse_int, (1, 1024), 4, False),
    ("record", "flows", "record_flows", parse_bool, None, True, False),
    ("record", "flow_minutes", "record_flow_minutes", parse_int, (1, 60), 10, False),
    # The node's own REST API (api/). name: names it may be called by, besides its addresses.
    ("api", "enabled", "api_enabled", parse_bool, None, True, False),
    ("api", "port", "api_port", parse_int, (1, 65535), 8443, False),
    ("api", "listen", "api_listen", parse_address, None, None, True),
    ("api", "name", "api_names", parse_host_name, None, None, True),
    ("api", "plain_http", "api_plain_http", parse_bool, None, True, False),
    # The node's own network (core/network.py). manage '0': the owner keeps it by hand. confirm: seconds until a change
    # that cut the node off is undone.
    ("network", "manage", "network_manage", parse_bool, None, True, False),
    ("network", "recovery", "network_recovery", parse_bool, None, True, False),
    ("network", "confirm", "network_confirm_s", parse_int, (10, 55), 45, False),
    # What slivers may send (core/firewall.py). The lists of protocols and of low source ports are the original's.
    # exclude: prefixes that no sliver reaches. neighbours: ARP and neighbour discovery, frames a second for each port.
    # connections: tracked at a time, for each sliver and kind of interface.
    ("firewall", "exclude", "firewall_exclude", parse_prefix, None, None, True),
    ("firewall", "protocols", "firewall_protocols", parse_word, PROTOCOLS, ("icmp", "igmp", "tcp", "udp", "gre"), True),
    ("firewall", "tcp_ports", "firewall_tcp_ports", parse_int, LOW_PORTS, (22, 23, 80, 443, 655, 665), True),
    ("firewall", "udp_ports", "firewall_udp_ports", parse_int, LOW_PORTS, (655, 665), True),
    ("firewall", "neighbours", "firewall_neighbours", parse_int, (1, 100000), 50, False),
    ("firewall", "connections", "firewall_connections", parse_int, (1, 1000000), 2048, False),
    ("firewall", "dns", "firewall_dns", parse_bool, None, True, False),
    ("firewall", "api", "firewall_api", parse_bool, None, True, False),
    # Upgrades of the node's own system (upgrade/). hours: local time; rate: KiB/s, 0: no limit; interval: minutes.
    # unwatched: also by itself where no hardware watchdog could end a system that hangs early.
    ("upgrade", "mode", "upgrade_mode", parse_word, UPGRADE_MODES, "notify", False),
    ("upgrade", "branch", "upgrade_branch", parse_name, None, "stable", False),
    ("upgrade", "mirror", "upgrade_mirrors", parse_uri, SCHEMES, None, True),
    ("upgrade", "keyring", "upgrade_keyring", parse_path, None, "/usr/lib/confine/share/upgrade-keyring.json", False),
    ("upgrade", "pin", "upgrade_pin", parse_name, None, None, False),
    ("upgrade", "hours", "upgrade_hours", parse_hours, None, None, True),
    ("upgrade", "rate", "upgrade_rate_kib", parse_int, (0, 1 << 20), 0, False),
    ("upgrade", "metered", "upgrade_metered", parse_bool, None, False, False),
    ("upgrade", "unwatched", "upgrade_unwatched", parse_bool, None, False, False),
    ("upgrade", "interval", "upgrade_interval_min", parse_int, (1, 10080), 60, False),
)
SECTIONS = ("node", "registry", "testbed", "overlay", "policy", "sliver", "record", "api", "network", "firewall",
            "upgrade")  # fmt: skip


class Settings(Record):
    """The settings in force; see OPTIONS for what each means. None: not set (no limit, or the machine's own size)."""

    FIELDS = tuple(row[2] for row in OPTIONS if row[2])

    node_id: "int | None"
    local_ifname: "str | None"
    mac_prefix16: str
    tinc_gateway: "str | None"
    overlay: "bool | None"
    overlay_port: "int | None"
    priv_ipv4_prefix24: str
    sync_node_admins: bool
    data_dir: str
    watchdog_s: int
    registry_uris: "list[str]"
    registry_cert: "str | None"
    plain_http: bool
    interval_s: int
    mgmt_ipv6_prefix48: "str | None"
    priv_ipv6_prefix48: str
    debug_ipv6_prefix48: str
    memory_total_mib: "int | None"
    memory_reserve_mib: int
    disk_total_mib: "int | None"
    disk_reserve_mib: int
    slice_share_percent: int
    accept_groups: "list[int]"
    accept_slices: "list[int]"
    refuse_slices: "list[int]"
    cache_max_mib: int
    template_max_mib: int
    sliver_memory_max_mib: "int | None"
    sliver_disk_max_mib: "int | None"
    sliver_memory_default_mib: int
    sliver_disk_default_mib: int
    cpu_percent_max: "int | None"
    cpu_weight: int
    pids_max: int
    io_mib_s: "int | None"
    io_ops: "int | None"
    dns: "list[str]"
    public4_avail: "int | None"
    public4_proto: str
    public4_pool: "list[str]"
    public4_gateway: "str | None"
    public6_prefix: "str | None"
    public6_gateway: "str | None"
    isolated_parents: "list[str]"
    egress_total_kbit: "int | None"
    ingress_total_kbit: "int | None"
    egress_kbit_default: "int | None"
    ingress_kbit_default: "int | None"
    egress_kbit_max: "int | None"
    ingress_kbit_max: "int | None"
    record_days: int
    record_action_mib: int
    record_flow_mib: int
    record_figure_mib: int
    record_flows: bool
    record_flow_minutes: int
    api_enabled: bool
    api_port: int
    api_listen: "list[str]"
    api_names: "list[str]"
    api_plain_http: bool
    network_manage: bool
    network_recovery: bool
    network_confirm_s: int
    firewall_exclude: "list[str]"
    firewall_protocols: "list[str]"
    firewall_tcp_ports: "list[int]"
    firewall_udp_ports: "list[int]"
    firewall_neighbours: int
    firewall_connections: int
    firewall_dns: bool
    firewall_api: bool
    upgrade_mode: str
    upgrade_branch: str
    upgrade_mirrors: "list[str]"
    upgrade_keyring: str
    upgrade_pin: "str | None"
    upgrade_hours: "list[str]"
    upgrade_rate_kib: int
    upgrade_metered: bool
    upgrade_unwatched: bool
    upgrade_interval_min: int

    def __init__(self, **values: "Any") -> None:
        """All defaults, with `values` over them by attribute name."""
        for row in OPTIONS:
            attribute, default, is_list = row[2], row[5], row[6]
            if attribute:
                setattr(self, attribute, values.pop(attribute, list(default or ()) if is_list else default))
        if values:
            raise TypeError("Settings has no " + ", ".join(sorted(values)))


def _pointer(section: str, option: str) -> str:
    return "/" + section + "/" + option


def _as_list(value: object) -> "list[str] | None":
    """An option's value as a list of words; None if it is not text all through or too much of it."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, (list, tuple)) or len(value) > MAX_LIST:
        return None
    words = list(value)
    return words if all(isinstance(word, str) and len(word) <= MAX_TEXT for word in words) else None


def _parse_list(row: "tuple[Any, ...]", value: object, problems: "list[Problem]") -> "list[Any]":
    """The entries that can be used; each of the others is a problem of its own."""
    section, option, parser, bounds = row[0], row[1], row[3], row[4]
    words = _as_list(value)
    member = _pointer(section, option)
    if words is None:
        said = shown(value) + " is not a list of at most " + str(MAX_LIST) + " words; ignored."
        problems.append(Problem(member, said + until(section, option)))
        return closed(section, option, [])  # type: ignore[no-any-return]
    parsed = []
    for word in words:
        try:
            entry = parser(word, bounds)
        except ValueError as error:
            problems.append(Problem(member, shown(word) + ": " + str(error) + "; this entry is ignored."))
            continue
        if entry not in parsed:
            parsed.append(entry)
    if words and not parsed and until(section, option):
        problems.append(Problem(member, "No entry can be used." + until(section, option)))
        return closed(section, option, [])  # type: ignore[no-any-return]
    return parsed


def _parse_option(row: "tuple[Any, ...]", value: object, problems: "list[Problem]") -> "Any":
    """The value of one option, or its default and a problem."""
    section, option, parser, bounds, default, is_list = row[0], row[1], row[3], row[4], row[5], row[6]
    if is_list:
        return _parse_list(row, value, problems)
    try:
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise ValueError("must be one text of at most " + str(MAX_TEXT) + " characters")
        return parser(value.strip(), bounds)
    except ValueError as error:
        stands = "; it stays unset." if default is None else "; the default " + str(default) + " is used."
        stands = "." + until(section, option) if until(section, option) else stands
        problems.append(Problem(_pointer(section, option), shown(value) + ": " + str(error) + stands))
        return closed(section, option, default)


def _unknown(meant: "str | None") -> str:
    return "is not known and ignored" + (": did you mean '" + meant + "'?" if meant else ".")


def _parse_section(name: str, options: "dict[str, Any]", values: "dict[str, Any]", problems: "list[Problem]") -> None:
    rows = {row[1]: row for row in OPTIONS if row[0] == name}
    for option in sorted(str(key) for key in options):
        if option.startswith("."):
            continue
        row = rows.get(option)
        if row is None:
            meant = nearest(option, list(rows))
            more = close(name, values, meant) if meant and meant not in options else ""
            problems.append(Problem(_pointer(name, option), "This option " + _unknown(meant) + more))
        elif row[2]:
            values[row[2]] = _parse_option(row, options[option], problems)


def parse(uci: "dict[str, dict[str, Any]]") -> "tuple[Settings, list[Problem]]":
    """Settings of `uci`, the package `confine` as {section name: {".type": type, option: text or list of texts}}.

    Never raises: whatever cannot be used is in the list of problems, member "/section/option".
    """
    values: "dict[str, Any]" = {}
    problems: "list[Problem]" = []
    for name in sorted(str(key) for key in uci):
        options = uci[name]
        if name not in SECTIONS:
            meant = nearest(name, list(SECTIONS))
            more = "" if meant in uci else close(meant, values)
            problems.append(Problem("/" + name, "This section " + _unknown(meant) + more))
        elif not isinstance(options, dict) or options.get(".type", name) != name:
            said = "This section must read: config " + name + " '" + name + "'; ignored."
            problems.append(Problem("/" + name, said + close(name, values)))
        else:
            _parse_section(name, options, values, problems)
    fail_closed(values, problems)
    return Settings(**values), problems
