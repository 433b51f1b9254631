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
SSH_PORT = "22"
TINC_PORT = 655


def zones(settings: "Settings") -> "dict[str, Section]":
    """{name of a section of /etc/config/firewall: section}, all there should be of ours."""

    def rule(name: str, options: "Section") -> None:
        section = {".type": "rule", "name": "confine: " + name.replace("_", " "), "target": "ACCEPT"}
        section.update(options)
        sections[PREFIX + name] = section

    def zone(name: str, options: "Section") -> None:
        section = {".type": "zone", "name": PREFIX + name, "output": "ACCEPT", "forward": "REJECT"}
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
        port = str(settings.overlay_port or TINC_PORT)
        rule("overlay_peers", {"src": "*", "proto": ["tcp", "udp"], "dest_port": port})
    rule("overlay_ping", {"src": PREFIX + "overlay", "proto": "icmp"})
    rule("overlay_slivers", {"src": PREFIX + "overlay", "dest": PREFIX + "internal", "proto": "all"})
    return sections
