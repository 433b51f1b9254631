"""Zones and rules for OpenWrt's own firewall: it must let through what our tables (firewall.py) then look at closely.

Names of zones and of sections are those of core/network.py. Pure.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings

    Section = dict[str, Any]

PREFIX = "confine_"
OVERLAY = "confine"  # tinc's device, named for its network
LOCAL = "br-local"
SSH_PORT = "22"
TINC_PORT = 655


def zones(
    settings: "Settings", tinc_port: "int | None" = None, local: "list[str] | None" = None
) -> "dict[str, Section]":
    """{name of a section of /etc/config/firewall: section}, all there should be of ours.

    tinc_port: where tincd listens, if the settings do not say it and it is not the usual one. local: the node's
    addresses on the bridge that is made over the community side, None if there is none; on a bridge or port of the
    member's own, the member's zone decides.
    """

    def rule(name: str, options: "Section") -> None:
        section = {".type": "rule", "name": "confine: " + name.replace("_", " "), "target": "ACCEPT"}
        section.update(options)
        sections[PREFIX + name] = section

    def zone(name: str, options: "Section") -> None:
        # auto_helper: or whoever is in the zone has the node open ports by what it writes into FTP, IRC and such.
        section = {".type": "zone", "name": PREFIX + name, "output": "ACCEPT", "forward": "REJECT", "auto_helper": "0"}
        section.update(options)
        sections[PREFIX + name] = section

    sections: "dict[str, Section]" = {}
    zone("internal", {"network": [PREFIX + "internal", PREFIX + "mgmt"], "input": "ACCEPT"})
    rule("forward", {"src": PREFIX + "internal", "dest": "*", "proto": "all"})
    zone("overlay", {"device": [OVERLAY], "input": "REJECT"})
    ports = [SSH_PORT, "80", "443", str(settings.api_port)]
    rule("overlay_in", {"src": PREFIX + "overlay", "proto": "tcp", "dest_port": ports})
    if settings.overlay is not False:
        # From every zone: peers come in over whatever leads to the node. Without src it would be a rule for output.
        port = str(settings.overlay_port or tinc_port or TINC_PORT)
        rule("overlay_peers", {"src": "*", "proto": ["tcp", "udp"], "dest_port": port})
    rule("overlay_ping", {"src": PREFIX + "overlay", "proto": "icmp"})
    rule("overlay_slivers", {"src": PREFIX + "overlay", "dest": PREFIX + "internal", "proto": "all"})
    if local is not None:
        # ICMP as a whole: neighbour discovery is in it, without which no IPv6 address is found.
        zone("local", {"device": [LOCAL], "input": "REJECT"})
        rule("local_ping", {"src": PREFIX + "local", "proto": "icmp"})
        if local:
            rule("local_in", {"src": PREFIX + "local", "proto": "tcp", "dest_port": SSH_PORT, "dest_ip": local})
    return sections
