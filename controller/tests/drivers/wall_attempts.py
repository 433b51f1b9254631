"""What a sliver may try, and beside each attempt its twin: the same packet, honestly addressed.

One table, ATTEMPTS. `bad` and `good` build frames from a `Place` (who sends, whom else there is); `opened` says which
lines of which chains stop the attempt, and what stands there when they are taken out. Only the standard library: runs
in the node, too.
"""

from wall_frames import ARP as ARP_TYPE
from wall_frames import (
    BROADCAST,
    DESTINATION,
    FRAGMENT,
    HOP,
    ICMP,
    ICMP6,
    IPV4,
    IPV6,
    QINQ,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    a4,
    a6,
    arp,
    eth,
    extension,
    fragment6,
    icmp6,
    ip4,
    ip6,
    mac,
    option,
    solicited,
    tagged,
    tcp,
    udp,
)

INNER = ("private", "management")
OUTER = ("public4", "public6", "debug")
ALL = INNER + OUTER
WITH4 = ("private", "public4")
WITH6 = ("private", "management", "public6", "debug")
BAD, GOOD = b"attempt!", b"its twin"  # what frames carry, to be told apart


class Place:
    """From where an attempt is made. mac, ip4, ip6, ll: the sliver's own; other_*: another sliver's of the same kind;
    to_*: whom it speaks with on the bridge: the node, or a host of the community."""

    def __init__(self, **values):
        self.__dict__.update(values)

    @property
    def mine(self):
        """An address of its own, of a version of IP that this kind has."""
        return self.ip4 or self.ip6

    def ip(self, protocol, payload, **options):
        """An honest packet."""
        if self.ip4:
            return ip4(self.ip4, self.to_ip4, protocol, payload, **options)
        return ip6(self.ip6, self.to_ip6, protocol, payload, **options)

    def frame(self, packet, source=None, to=None):
        kind = IPV4 if packet[0] >> 4 == 4 else IPV6
        return eth(source or self.mac, to or self.to_mac, kind, packet)

    def udp4(self, text, source=None, to=None, sport=5000, dport=7000):
        source, to = source or self.ip4, to or self.to_ip4
        return self.frame(ip4(source, to, UDP, udp(source, to, sport, dport, text)))

    def udp6(self, text, source=None, to=None, sport=5000, dport=7000):
        source, to = source or self.ip6, to or self.to_ip6
        return self.frame(ip6(source, to, UDP, udp(source, to, sport, dport, text)))

    def udp(self, text, **changes):
        return self.udp4(text, **changes) if self.ip4 else self.udp6(text, **changes)

    def arp(self, text, operation, sender_mac=None, sender=None, target=None, to=BROADCAST):
        sender_mac, sender, target = sender_mac or self.mac, sender or self.ip4, target or self.to_ip4
        return eth(self.mac, to, ARP_TYPE, arp(operation, sender_mac, sender, "00:00:00:00:00:00", target) + text)

    def icmp6(self, text, kind, body, source=None, to=None, hops=255, code=0, before=b"", first=ICMP6):
        """Neighbour discovery and the like; `text` follows the packet. before: extension headers, the first `first`."""
        source, to = source or self.ip6, to or "ff02::1"
        destination = "33:33:" + ":".join(f"{byte:02x}" for byte in a6(to)[-4:]) if to[:2] == "ff" else self.to_mac
        packet = ip6(source, to, first, before + icmp6(source, to, kind, body, code), hops)
        return eth(self.mac, destination, IPV6, packet + text)

    def advert(self, text, target=None, address=None, **changes):
        body = b"\x20\0\0\0" + a6(target or self.ip6) + option(2, address or self.mac)
        return self.icmp6(text, 136, body, **changes)

    def solicit(self, text, address=None, **changes):
        to = changes.pop("to", solicited(self.to_ip6)[0])
        return self.icmp6(text, 135, bytes(4) + a6(self.to_ip6) + option(1, address or self.mac), to=to, **changes)

    def probe(self, text, target):
        """The question whether an address is taken, before it is taken."""
        return self.icmp6(text, 135, bytes(4) + a6(target), source="::", to=solicited(target)[0])


ROUTER = bytes([64, 0, 7, 8]) + bytes(8) + bytes([3, 4, 64, 0xC0]) + bytes(12) + a6("fd99::")
LSRR = bytes([131, 7, 4]) + a4("192.0.2.77") + b"\0"


def dhcp(kind):
    """A DHCP message, short but of its shape: 1 is a request, 2 an answer."""
    return bytes([kind, 1, 6, 0]) + bytes(232) + bytes.fromhex("63825363") + bytes([53, 1, 2, 255])


def routing(kind, via):
    return bytes([UDP, 2, kind, 1]) + bytes(4) + a6(via)


class Attempt:
    """name: what is tried. kinds: of interfaces that it is tried on. opened: ((chain, line, line instead), ...)."""

    def __init__(self, name, kinds, bad, good, *opened):
        self.name = name
        self.kinds = kinds
        self.bad = bad
        self.good = good
        self.opened = opened


MAC_BOUND = ("sender", "iifname . ether saddr != @macs goto spoofed", "")
FROM4 = ("ipv4_from", "goto spoofed", "accept")
FROM6 = ("ipv6_from", "goto spoofed", "accept")
ARP_END = ("arp_from", "goto spoofed", "accept")
TYPES = ("sender", "goto refused", "accept")
DISCOVERY_END = ("discovery", "goto spoofed", "accept")
ADVERTISES_END = ("advertises", "goto spoofed", "accept")
ICMP6_END = ("icmp6", "goto refused", "accept")
DHCP_FROM = ("transport", "udp sport { 67, 547 } goto refused", "")
DHCP_TO = ("transport", "udp dport { 68, 546 } goto refused", "")
LOW_TCP = ("transport", "tcp sport 0-1023 tcp sport != @tcp_ports goto refused", "")
LOW_UDP = ("transport", "udp sport 0-1023 udp sport != @udp_ports goto refused", "")
IPV6_PROTOCOLS = ("ipv6_own", "ip6 nexthdr != @protocols goto refused", "")
FRAGMENT_TYPES = (
    "fragment",
    "frag nexthdr icmpv6 frag frag-off 0 meta l4proto icmpv6 icmpv6 type != { 1, 2, 3, 4, 128, 129 } goto refused", "",
)  # fmt: skip
FRAGMENT_PROTOCOLS = ("fragment", "frag nexthdr != @protocols goto refused", "accept")
OPTIONS = ("ipv4_own", "ip hdrlength != 5 ip protocol != igmp goto refused", "")


def fragments4(place, text, sport, dport):
    """The first fragment of a UDP packet: header and nothing more, as small as there is."""
    whole = udp(place.ip4, place.to_ip4, sport, dport, text)
    return place.frame(ip4(place.ip4, place.to_ip4, UDP, whole[:8], more=True, identity=text[0])) + text


def later4(place, text, source):
    """A later fragment: no ports in it."""
    return place.frame(ip4(source, place.to_ip4, UDP, text, offset=8))


def later6(place, text, source, protocol=UDP):
    return place.frame(ip6(source, place.to_ip6, FRAGMENT, fragment6(protocol, 8) + text))


def echo6(place, text, before=b"", first=ICMP6):
    body = bytes(4) + text
    return place.frame(ip6(place.ip6, place.to_ip6, first, before + icmp6(place.ip6, place.to_ip6, 128, body)))


ATTEMPTS = [
    # whose frames
    Attempt("a MAC address that is not its own", ALL,
            lambda p: p.frame(p.ip(UDP, udp(p.mine, p.to_ip4 if p.ip4 else p.to_ip6, 5000, 7000, BAD)),
                              source="54:c0:00:12:77:77"),
            lambda p: p.udp(GOOD), MAC_BOUND),
    Attempt("another sliver's MAC address", ALL,
            lambda p: p.frame(p.ip(UDP, udp(p.mine, p.to_ip4 if p.ip4 else p.to_ip6, 5000, 7000, BAD)),
                              source=p.other_mac),
            lambda p: p.udp(GOOD), MAC_BOUND),
    # IPv4
    Attempt("an IPv4 address that is not its own", ALL,
            lambda p: p.udp4(BAD, source="198.51.100.7", to=p.to_ip4), lambda p: p.udp(GOOD), FROM4),
    Attempt("another sliver's IPv4 address", WITH4,
            lambda p: p.udp4(BAD, source=p.other_ip4), lambda p: p.udp4(GOOD), FROM4),
    Attempt("the IPv4 address of whom it speaks with", WITH4,
            lambda p: p.udp4(BAD, source=p.to_ip4), lambda p: p.udp4(GOOD), FROM4),
    Attempt("a later IPv4 fragment from another address", WITH4,
            lambda p: later4(p, BAD, p.other_ip4), lambda p: later4(p, bytes(8) + GOOD, p.ip4), FROM4),
    Attempt("a source-routed IPv4 packet", WITH4,
            lambda p: p.frame(ip4(p.ip4, p.to_ip4, UDP, udp(p.ip4, p.to_ip4, 5000, 7000, BAD), options=LSRR)),
            lambda p: p.udp4(GOOD), OPTIONS),
    # IPv6
    Attempt("an IPv6 address that is not its own", ALL,
            lambda p: p.udp6(BAD, source="2001:db8:bad::1", to=p.to_ip6), lambda p: p.udp(GOOD), FROM6),
    Attempt("another sliver's IPv6 address", WITH6,
            lambda p: p.udp6(BAD, source=p.other_ip6), lambda p: p.udp6(GOOD), FROM6),
    Attempt("a link-local address that is not its own", ALL,
            lambda p: p.udp6(BAD, source="fe80::bad", to="fe80::1"),
            lambda p: p.udp6(GOOD, source=p.ll, to="fe80::1"), FROM6),
    Attempt("a later IPv6 fragment from another address", WITH6,
            lambda p: later6(p, BAD, p.other_ip6), lambda p: later6(p, bytes(8) + GOOD, p.ip6), FROM6),
    Attempt("an IPv6 packet with a routing header", WITH6,
            lambda p: p.frame(ip6(p.ip6, p.to_ip6, ROUTING, routing(0, "2001:db8::9")
                                  + udp(p.ip6, p.to_ip6, 5000, 7000, BAD))),
            lambda p: p.udp6(GOOD), IPV6_PROTOCOLS),
    Attempt("an IPv4-mapped source", ALL,
            lambda p: p.udp6(BAD, source="::ffff:192.0.2.1", to=p.to_ip6), lambda p: p.udp(GOOD), FROM6),
    Attempt("an IPv4-mapped destination", WITH6,
            lambda p: p.udp6(BAD, to="::ffff:10.0.2.2"), lambda p: p.udp6(GOOD),
            ("ipv6_own", "ip6 daddr ::ffff:0:0/96 goto refused", "")),
    Attempt("IPv6 options before UDP", WITH6,
            lambda p: p.frame(ip6(p.ip6, p.to_ip6, DESTINATION, extension(UDP)
                                  + udp(p.ip6, p.to_ip6, 5000, 7000, BAD))),
            lambda p: p.udp6(GOOD), IPV6_PROTOCOLS),
    # ARP
    Attempt("an ARP answer for another's address", WITH4,
            lambda p: p.arp(BAD, 2, sender=p.to_ip4), lambda p: p.arp(GOOD, 2), ARP_END),
    Attempt("an ARP answer for another sliver's address", WITH4,
            lambda p: p.arp(BAD, 2, sender=p.other_ip4), lambda p: p.arp(GOOD, 2), ARP_END),
    Attempt("an ARP question from another's address", WITH4,
            lambda p: p.arp(BAD, 1, sender=p.other_ip4), lambda p: p.arp(GOOD, 1), ARP_END),
    Attempt("an ARP answer with another MAC address inside", WITH4,
            lambda p: p.arp(BAD, 2, sender_mac=p.other_mac), lambda p: p.arp(GOOD, 2),
            ("arp_from", "iifname . arp saddr ether != @macs goto spoofed", "")),
    Attempt("an ARP probe for another's address", WITH4,
            lambda p: p.arp(BAD, 1, sender="0.0.0.0", target=p.other_ip4),
            lambda p: p.arp(GOOD, 1, sender="0.0.0.0", target=p.ip4), ARP_END),
    Attempt("reverse ARP", WITH4,
            lambda p: p.arp(BAD, 3), lambda p: p.arp(GOOD, 1),
            ("arp_from", "arp operation != { request, reply } goto refused", "")),
    # neighbour discovery
    Attempt("a neighbour advertisement for another's address", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6), lambda p: p.advert(GOOD), DISCOVERY_END),
    Attempt("a neighbour advertisement for another sliver's address", WITH6,
            lambda p: p.advert(BAD, target=p.other_ip6), lambda p: p.advert(GOOD), DISCOVERY_END),
    Attempt("a neighbour advertisement with another MAC address inside", WITH6,
            lambda p: p.advert(BAD, address=p.other_mac), lambda p: p.advert(GOOD), ADVERTISES_END),
    Attempt("a neighbour solicitation with another MAC address inside", WITH6,
            lambda p: p.solicit(BAD, address=p.other_mac), lambda p: p.solicit(GOOD), DISCOVERY_END),
    Attempt("a neighbour solicitation from another sliver's address", WITH6,
            lambda p: p.solicit(BAD, source=p.other_ip6), lambda p: p.solicit(GOOD), FROM6,
            ),
    Attempt("a probe for another sliver's address", WITH6,
            lambda p: p.probe(BAD, p.other_ip6), lambda p: p.probe(GOOD, p.ip6),
            ("probe", "iifname . @th,64,128 != @targets goto spoofed", "")),
    Attempt("a neighbour advertisement that came through a router", WITH6,
            lambda p: p.advert(BAD, hops=64), lambda p: p.advert(GOOD),
            ("discovery", "ip6 hoplimit != 255 goto refused", "")),
    Attempt("a neighbour advertisement behind options", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6, before=extension(ICMP6), first=DESTINATION),
            lambda p: p.advert(GOOD), IPV6_PROTOCOLS),
    Attempt("a neighbour advertisement behind hop-by-hop options", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6, before=extension(ICMP6), first=HOP),
            lambda p: p.advert(GOOD), IPV6_PROTOCOLS),
    Attempt("a neighbour advertisement in a fragment", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6, before=fragment6(ICMP6), first=FRAGMENT),
            lambda p: echo6(p, GOOD, fragment6(ICMP6), FRAGMENT), FRAGMENT_TYPES),
    Attempt("a neighbour advertisement in the first of several fragments", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6, before=fragment6(ICMP6, more=True), first=FRAGMENT),
            lambda p: later6(p, bytes(8) + GOOD, p.ip6, ICMP6), FRAGMENT_TYPES),
    Attempt("a neighbour advertisement behind options in a fragment", WITH6,
            lambda p: p.advert(BAD, target=p.to_ip6, before=fragment6(DESTINATION) + extension(ICMP6), first=FRAGMENT),
            lambda p: echo6(p, GOOD, fragment6(ICMP6), FRAGMENT), FRAGMENT_PROTOCOLS),
    Attempt("a fragment that hides what it carries", WITH6,
            lambda p: p.frame(ip6(p.ip6, p.to_ip6, FRAGMENT, fragment6(DESTINATION, more=True)
                                  + extension(ICMP6) + BAD)),
            lambda p: p.frame(ip6(p.ip6, p.to_ip6, FRAGMENT, fragment6(UDP, more=True)
                                  + udp(p.ip6, p.to_ip6, 5000, 7000, GOOD))), FRAGMENT_PROTOCOLS),
    # what only routers and servers say
    Attempt("a router advertisement", WITH6,
            lambda p: p.icmp6(BAD, 134, ROUTER, source=p.ll), lambda p: p.icmp6(GOOD, 133, bytes(4), source=p.ll,
                                                                                  to="ff02::2"), ICMP6_END),
    Attempt("a router advertisement behind options", WITH6,
            lambda p: p.icmp6(BAD, 134, ROUTER, source=p.ll, before=extension(ICMP6), first=DESTINATION),
            lambda p: p.advert(GOOD), IPV6_PROTOCOLS),
    Attempt("a router advertisement in a fragment", WITH6,
            lambda p: p.icmp6(BAD, 134, ROUTER, source=p.ll, before=fragment6(ICMP6), first=FRAGMENT),
            lambda p: echo6(p, GOOD, fragment6(ICMP6), FRAGMENT), FRAGMENT_TYPES),
    Attempt("a router solicitation with another MAC address inside", WITH6,
            lambda p: p.icmp6(BAD, 133, bytes(4) + option(1, p.other_mac), source=p.ll, to="ff02::2"),
            lambda p: p.icmp6(GOOD, 133, bytes(4) + option(1, p.mac), source=p.ll, to="ff02::2"), DISCOVERY_END),
    Attempt("a redirect", WITH6,
            lambda p: p.icmp6(BAD, 137, bytes(4) + a6(p.ip6) + a6("2001:db8::77"), source=p.ll),
            lambda p: p.advert(GOOD), ICMP6_END),
    Attempt("a multicast listener query", WITH6,
            lambda p: p.icmp6(BAD, 130, bytes(20), source=p.ll, hops=1), lambda p: p.advert(GOOD), ICMP6_END),
    Attempt("a DHCP answer", WITH4,
            lambda p: p.udp4(dhcp(2) + BAD, sport=67, dport=68), lambda p: p.udp4(dhcp(2) + GOOD), DHCP_FROM, DHCP_TO,
            LOW_UDP),
    Attempt("a DHCP answer from another port", WITH4,
            lambda p: p.udp4(dhcp(2) + BAD, sport=5067, dport=68), lambda p: p.udp4(dhcp(2) + GOOD), DHCP_TO),
    Attempt("a DHCP answer in fragments", WITH4,
            lambda p: fragments4(p, BAD, 5067, 68), lambda p: fragments4(p, GOOD, 5067, 7000), DHCP_TO),
    Attempt("a DHCPv6 answer", WITH6,
            lambda p: p.udp6(BAD, sport=547, dport=546), lambda p: p.udp6(GOOD), DHCP_FROM, DHCP_TO, LOW_UDP),
    # ports and protocols
    Attempt("a low TCP source port", ALL,
            lambda p: p.frame(p.ip(TCP, tcp(p.mine, p.to_ip4 if p.ip4 else p.to_ip6, 1000, 7000, BAD))),
            lambda p: p.frame(p.ip(TCP, tcp(p.mine, p.to_ip4 if p.ip4 else p.to_ip6, 80, 7000, GOOD))), LOW_TCP),
    Attempt("a low UDP source port", ALL,
            lambda p: p.udp(BAD, sport=53), lambda p: p.udp(GOOD, sport=655), LOW_UDP),
    Attempt("a protocol that is not for slivers", WITH4,
            lambda p: p.frame(p.ip(89, BAD)), lambda p: p.frame(p.ip(47, GOOD)),
            ("ipv4_own", "ip protocol != @protocols goto refused", "")),
    Attempt("an IPv6 protocol that is not for slivers", WITH6,
            lambda p: p.frame(ip6(p.ip6, p.to_ip6, 89, BAD)), lambda p: p.frame(ip6(p.ip6, p.to_ip6, 47, GOOD)),
            IPV6_PROTOCOLS),
    # other frames
    Attempt("a VLAN tag", ALL, lambda p: tagged(p.udp(BAD), (VLAN, 42)), lambda p: p.udp(GOOD), TYPES),
    Attempt("two VLAN tags", ALL,
            lambda p: tagged(p.udp(BAD), (VLAN, 1), (VLAN, 42)), lambda p: p.udp(GOOD), TYPES),
    Attempt("a provider's VLAN tag", ALL,
            lambda p: tagged(p.udp(BAD), (QINQ, 42), (VLAN, 43)), lambda p: p.udp(GOOD), TYPES),
    Attempt("a bridge's own protocol", ALL,
            lambda p: mac("01:80:c2:00:00:00") + mac(p.mac) + b"\0\x26\x42\x42\x03" + bytes(35) + BAD,
            lambda p: p.udp(GOOD), TYPES,
            ("sender", "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 goto refused", "")),
    Attempt("something that is not IP", ALL,
            lambda p: eth(p.mac, p.to_mac, 0x8847, BAD), lambda p: p.udp(GOOD), TYPES),
    # whom it reaches on the bridge
    Attempt("an IPv4 host that the member excluded", WITH4,
            lambda p: p.udp4(BAD, to="10.66.0.9"), lambda p: p.udp4(GOOD, to="10.67.0.9"),
            ("ipv4_own", "ip daddr @excluded4 goto refused", "")),
    Attempt("an IPv6 host that the member excluded", WITH6,
            lambda p: p.udp6(BAD, to="2001:db8:66::9"), lambda p: p.udp6(GOOD, to="2001:db8:67::9")
            if p.kind != "management" else p.udp6(GOOD),
            ("ipv6_own", "ip6 daddr @excluded6 goto refused", "")),
    Attempt("the management network from outside it", ("private", "public6", "debug"),
            lambda p: p.udp6(BAD, to="fd65:fc41:c50f:0:2000::1"), lambda p: p.udp6(GOOD),
            ("ipv6_own", "meta mark & 0x07000000 != 0x2000000 ip6 daddr fd65:fc41:c50f::/48 goto refused", "")),
    Attempt("the debug network from outside it", ("private", "management", "public6"),
            lambda p: p.udp6(BAD, to="fd5f:eee5:e6ad:33::2"), lambda p: p.udp6(GOOD),
            ("ipv6_own", "meta mark & 0x07000000 != 0x5000000 ip6 daddr fd5f:eee5:e6ad::/48 goto refused", "")),
]  # fmt: skip
__all__ = ["ALL", "ATTEMPTS", "BAD", "GOOD", "ICMP", "INNER", "OUTER", "Attempt", "Place"]
