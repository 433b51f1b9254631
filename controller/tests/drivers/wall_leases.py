"""What slivers try on an interface that has to ask for its address by DHCP; a part of wall_lab.py."""

import time

import wall_attempts as table
from wall_frames import UDP, eth, ip4, udp
from wall_world import DEADLINE_S, LAN_MAC, Namespace, Tap, Trial, load, reinstall, tried

from confine.core import firewall as rules


def leases(world):
    """A port that asks by DHCP says nothing else until it was given an address."""
    mac = "54:c0:00:12:03:02"
    world.slivers[3] = Namespace(world.node)
    world._pair(world.slivers[3], "slv-03-02", "e2", mac, "ip link set slv-03-02 master br-local;")
    tap, lan = Tap(world.slivers[3], "e2"), world.taps["lan"]
    reinstall(world)
    world.firewall._become(3, [rules.Port("slv-03-02", "public4", 3, mac, [], [], True)])
    world.text = world.firewall._whole()
    place = table.Place(kind="public4", mac=mac, ip4="203.0.113.77", ip6=None, to_mac=LAN_MAC, to_ip4="203.0.113.99",
                        other_ip4="203.0.113.11")  # fmt: skip

    def one(*arguments):
        return tried([Trial(world, *arguments)])

    def discover(who, text, source="0.0.0.0"):
        to = "255.255.255.255"
        body = udp(source, to, 68, 67, table.dhcp(1) + text)
        return eth(who.mac, "ff:ff:ff:ff:ff:ff", 0x0800, ip4(source, to, UDP, body))

    load(world.text)
    deadline = time.monotonic() + DEADLINE_S
    while not lan.until(b"primed", 0.5)[1]:  # a new link carries a moment after it is up
        assert time.monotonic() < deadline, "nothing of the new interface is seen"
        tap.send(discover(place, b"primed"))
    yield from one(
        "an address nobody gave it",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD),
        discover(place, table.GOOD),
        (table.FROM4,),
    )
    reinstall(world)
    world.firewall.lease("slv-03-02", place.ip4, 600)
    world.text = world.firewall._whole()
    yield from one(
        "another address than it was given",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD, source="203.0.113.78"),
        place.udp4(table.GOOD),
        (table.FROM4,),
    )
    yield from one(
        "an ARP answer for another address than it was given",
        "DHCP",
        tap,
        lan,
        place.arp(table.BAD, 2, sender="203.0.113.78"),
        place.arp(table.GOOD, 2),
        (table.ARP_END,),
    )
    reinstall(world)
    world.firewall.lease("slv-03-02", "203.0.113.80", 600)
    world.text = world.firewall._whole()
    yield from one(
        "the address before the last one",
        "DHCP",
        tap,
        lan,
        place.udp4(table.BAD),
        place.udp4(table.GOOD, source="203.0.113.80"),
        (table.FROM4,),
    )
    static = world.place(1, "public4")
    yield from one(
        "a DHCP question with an address of its own",
        "public4",
        world.taps[1, "public4"],
        lan,
        discover(static, table.BAD),
        static.udp4(table.GOOD),
        (table.FROM4,),
    )
