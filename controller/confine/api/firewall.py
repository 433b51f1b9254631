"""What leads 80 and 443 on the management address to this API, as nftables text. Pure; the firewall driver installs it.

A table of its own, so that uhttpd keeps both ports on every other address. `dnat` and not `redirect`: the latter
would change the destination to the first address of the incoming interface, and the API would see neither the
management address nor a port it listens on there.
"""

from confine.core.addressing import node_management_ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.settings import Settings

TABLE = "confine_api"
RULES = """\
table inet %(table)s {
	chain from_outside {
		type nat hook prerouting priority dstnat; policy accept;
		ip6 daddr %(address)s tcp dport { 80, 443 } dnat ip6 to [%(address)s]:%(port)d
	}
	chain from_the_node {
		type nat hook output priority -100; policy accept;
		ip6 daddr %(address)s tcp dport { 80, 443 } dnat ip6 to [%(address)s]:%(port)d
	}
}
"""


def management_address(settings: "Settings") -> "str | None":
    """The node's address on the management network, from its own settings; None if they say too little."""
    if settings.mgmt_ipv6_prefix48 is None or settings.node_id is None:
        return None
    return node_management_ipv6(settings.mgmt_ipv6_prefix48, settings.node_id)


def render(settings: "Settings") -> str:
    """The text for `nft -f -`: replaces the table, or only removes it where there is nothing to lead here."""
    clean = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
    address = management_address(settings)
    if address is None or not settings.api_enabled:
        return clean
    return clean + RULES % {"table": TABLE, "address": address, "port": settings.api_port}
