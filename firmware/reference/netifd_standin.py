"""Stands in for OpenWrt's netifd in the reference image, and nowhere else: brings /etc/config/network up with pyroute2.

It is held to what a genuine netifd was seen to do (test/qemu/test_netifd_standin.py): a reload always succeeds;
sections that did not change are left alone; a changed one takes its interface down and up, and a bridge or VLAN that no
other interface is on is made anew; one bad address keeps the whole interface down; an absent device is waited for; an
unknown protocol counts as up; a file that cannot be parsed changes nothing.

Left out: wireless, tunnels, bridge VLAN filtering, prefix delegation, ubus. `dhcpv6` takes what router advertisements
give. Signals: HUP reloads, TERM ends it and leaves the devices as they are. How interfaces stand is in STATUS.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

import uci
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_LINK

CONFIG = "/etc/config"
STATUS = "/run/netifd-standin.json"
SETTLED = "/run/netifd-standin.settled"
RESOLV = "/tmp/resolv.conf.d/resolv.conf.auto"  # OpenWrt's own place
SETTLE_S = 10.0
LOOK_S = 0.2
CLIENT = ["udhcpc", "-f", "-S", "-R", "-t", "10", "-T", "1", "-A", "3", "-s", "/usr/share/udhcpc/default.script"]
VLANS = ("8021q", "8021ad")
MIN_MTU, MAX_VLAN = 68, 4094
IFF_UP, IFF_RUNNING = 1, 0x40
RTM_NEWLINK, RTM_DELLINK, IFLA_IFNAME = 16, 17, 3
DATAGRAM = 1 << 16

Section = dict[str, Any]


class Refused(Exception):
    """An interface cannot be brought up; the text is netifd's code for it."""


def words(value: Any) -> list[str]:
    """A UCI option as a list."""
    return value.split() if isinstance(value, str) else list(value or ())


def load(directory: str) -> dict[str, Section] | None:
    """All sections of the file `network`; None if it cannot be parsed."""
    try:
        handle = uci.Uci(confdir=directory, savedir="/nonexistent")
        sections = handle.get_all("network")
        return {name: {**options, ".type": handle.get("network", name)} for name, options in sections.items()}
    except uci.UciException:
        return None


class Interface:
    """A logical interface: its section, what it stands on, and what it has put there."""

    def __init__(self, name: str, section: Section, stands_on: list[Section]) -> None:
        self.name = name
        self.section = section
        self.stands_on = stands_on
        self.device: str = (words(section.get("device")) or [""])[0]
        self.proto: str = section.get("proto", "none")
        self.up = False
        self.error: str | None = None
        self.claimed = False
        self.addresses: list[tuple[str, int]] = []
        self.client: subprocess.Popen[bytes] | None = None

    def same_as(self, other: Interface) -> bool:
        """Whether nothing has to be done to get from one to the other."""
        return (self.section, self.stands_on) == (other.section, other.stands_on)


class Standin:
    """All interfaces of one network namespace."""

    def __init__(self, directory: str = CONFIG, status: str = STATUS, settled: str = SETTLED) -> None:
        self._directory = directory
        self._status = status
        self._settled = settled
        self._ip = IPRoute()
        # Read by hand: slivers' interfaces come and go by the dozen, and pyroute2 takes 10 ms for each note of one.
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._events.bind((0, RTMGRP_LINK))
        self._told: dict[str, Any] | None = None
        self._devices: dict[str, Section] = {}
        self._interfaces: dict[str, Interface] = {}
        self._users: dict[str, set[str]] = {}  # {device: who claims it: interfaces, and "device NAME"}

    # ---- the file ------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Take over the file as it is now."""
        sections = load(self._directory)
        if sections is None:
            return
        named = [section for section in sections.values() if section[".type"] == "device" and section.get("name")]
        devices = {section["name"]: section for section in named}
        wanted = {}
        for name, section in sections.items():
            if section[".type"] == "interface":
                device = (words(section.get("device")) or [""])[0]
                wanted[name] = Interface(name, section, chain(devices, device))
        for name, interface in list(self._interfaces.items()):
            if name not in wanted or not interface.same_as(wanted[name]):
                self._down(interface)
                del self._interfaces[name]
        self._devices = devices
        for name, interface in wanted.items():
            if name not in self._interfaces:
                self._interfaces[name] = interface
                self._up(interface)
        self._tell()

    def stop(self) -> None:
        """Devices and addresses stay; leases are given back."""
        for interface in self._interfaces.values():
            self._end_client(interface)

    def _tell(self) -> None:
        doc = {
            interface.name: {
                "up": interface.up,
                "available": interface.claimed or interface.error not in (None, "NO_DEVICE"),
                "proto": interface.proto if interface.proto in ("static", "dhcp", "dhcpv6") else "none",
                "l3_device": interface.device if interface.up else None,
                "error": interface.error,
            }
            for interface in self._interfaces.values()
        }
        if doc == self._told:
            return
        self._told = doc
        with open(self._status + ".new", "w") as file:
            json.dump(doc, file, indent=1)
        os.rename(self._status + ".new", self._status)

    # ---- interfaces ----------------------------------------------------------------------------------------------

    def _up(self, interface: Interface) -> None:
        interface.error = None
        try:
            self._claim(interface.device, interface.name)
            interface.claimed = True
            if interface.proto == "static":
                self._static(interface)
            elif interface.proto == "dhcp":
                self._start_client(interface)
            interface.up = True
        except Refused as refused:
            interface.error = str(refused)
            print(f"interface {interface.name}: {refused}", flush=True)

    def _static(self, interface: Interface) -> None:
        section = interface.section
        try:
            texts = words(section.get("ipaddr")) + words(section.get("ip6addr"))
            wanted = [ipaddress.ip_interface(text) for text in texts]
            gateways = [ipaddress.ip_address(section[key]) for key in ("gateway", "ip6gw") if section.get(key)]
        except ValueError:
            raise Refused("INVALID_ADDRESS") from None
        index = self._index(interface.device)
        for address in wanted:
            interface.addresses.append((str(address.ip), address.network.prefixlen))
            self._ip.addr("replace", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for gateway in gateways:
            family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
            try:
                self._ip.route("replace", family=family, dst="default", gateway=str(gateway), oif=index)
            except NetlinkError as error:
                print(f"interface {interface.name}: gateway {gateway}: {error}", flush=True)
        with open(RESOLV, "a") as file:
            file.writelines(f"nameserver {server}\n" for server in words(section.get("dns")))

    def _down(self, interface: Interface) -> None:
        self._end_client(interface)
        index = self._index(interface.device)
        for address, bits in interface.addresses:
            if index:
                self._quietly(lambda a=address, b=bits: self._ip.addr("del", index=index, address=a, prefixlen=b))
        interface.addresses = []
        interface.up = False
        if interface.claimed:
            interface.claimed = False
            self._release(interface.device, interface.name)

    def _start_client(self, interface: Interface) -> None:
        command = [*CLIENT, "-i", interface.device, "-x", f"hostname:{socket.gethostname()}"]
        interface.client = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def _end_client(self, interface: Interface) -> None:
        if interface.client is not None:
            interface.client.terminate()
            interface.client.wait()
            interface.client = None

    # ---- devices -------------------------------------------------------------------------------------------------

    def _index(self, name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return 0

    def _claim(self, name: str, user: str) -> None:
        """Have the device there and up. Refused leaves nothing claimed."""
        if not self._users.get(name):
            self._make(name)
        self._users.setdefault(name, set()).add(user)
        self._ip.link("set", index=self._index(name), state="up")

    def _make(self, name: str) -> None:
        section = self._devices.get(name, {})
        base, _, tag = name.rpartition(".")
        if section.get("type") == "bridge":
            self._make_bridge(name, section)
        elif section.get("type") in VLANS:
            self._make_vlan(name, section.get("ifname", ""), section.get("vid", ""), section["type"])
        elif base and tag.isdigit() and (self._index(base) or base in self._devices) and not self._index(name):
            self._make_vlan(name, base, tag, "8021q")
        elif not name or not self._index(name):
            raise Refused("NO_DEVICE")
        self._settings(name, section)

    def _settings(self, name: str, section: Section) -> None:
        index = self._index(name)
        mtu = section.get("mtu", "")
        if mtu.isdigit() and int(mtu) >= MIN_MTU:
            self._quietly(lambda: self._ip.link("set", index=index, mtu=int(mtu)))
        if section.get("macaddr"):
            self._quietly(lambda: self._ip.link("set", index=index, address=section["macaddr"]))

    def _make_bridge(self, name: str, section: Section) -> None:
        if self._index(name):  # as a netifd that finds one of a former life
            self._ip.link("del", index=self._index(name))
        self._ip.link("add", ifname=name, kind="bridge", br_stp_state=0)
        for port in words(section.get("ports")):
            try:
                self._claim(port, "device " + name)
            except Refused:
                continue  # a bridge comes up without ports that are not there
            self._ip.link("set", index=self._index(port), master=self._index(name))

    def _make_vlan(self, name: str, base: str, tag: str, protocol: str) -> None:
        if not tag.isdigit() or not 1 <= int(tag) <= MAX_VLAN:
            raise Refused("DEVICE_CLAIM_FAILED")
        self._claim(base, "device " + name)
        if self._index(name):
            self._ip.link("del", index=self._index(name))
        number = 0x8100 if protocol == "8021q" else 0x88A8
        self._ip.link(
            "add", ifname=name, kind="vlan", link=self._index(base), vlan_id=int(tag), vlan_protocol=number
        )  # fmt: skip

    def _release(self, name: str, user: str) -> None:
        users = self._users.get(name, set())
        users.discard(user)
        if users:
            return
        self._users.pop(name, None)
        section = self._devices.get(name, {})
        index = self._index(name)
        made = section.get("type") in ("bridge", *VLANS) or os.path.exists(f"/proc/net/vlan/{name}")
        if index and made:
            self._quietly(lambda: self._ip.link("del", index=index))
        elif index and name != "lo":
            self._quietly(lambda: self._ip.link("set", index=index, state="down"))
        for below in [other for other, claims in self._users.items() if "device " + name in claims]:
            self._release(below, "device " + name)

    def _quietly(self, change: Any) -> None:
        """What cannot be done because the device or address is gone, or the kernel does not want it."""
        try:
            change()
        except NetlinkError as error:
            print(f"refused by the kernel: {error}", flush=True)

    # ---- what happens --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """After devices came, went or changed."""
        try:
            news = self._heard()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            news = []
            self._look_at_all()
        for gone, name, flags in news:
            self._device_changed(gone, name, flags)
        self._tell()

    def _heard(self) -> list[tuple[bool, str, int]]:
        """(whether it is gone, name, flags) of the devices in what has arrived (rtnetlink(7))."""
        try:
            data = self._events.recv(DATAGRAM)
        except BlockingIOError:
            return []
        found = []
        while len(data) >= 32:
            length, kind = struct.unpack_from("=IH", data)
            flags = struct.unpack_from("=I", data, 24)[0]
            attributes = data[32:length]
            while len(attributes) >= 4 and kind in (RTM_NEWLINK, RTM_DELLINK):
                size, number = struct.unpack_from("=HH", attributes)
                if number == IFLA_IFNAME:
                    found.append((kind == RTM_DELLINK, attributes[4:size].rstrip(b"\0").decode(), flags))
                    break
                attributes = attributes[max(4, size + 3 & ~3) :]
            data = data[max(16, length + 3 & ~3) :]
        return found

    def _look_at_all(self) -> None:
        """The kernel told more than was listened to. One by one: a list is refused while devices come and go."""
        for name in {interface.device for interface in self._interfaces.values()}:
            if not self._index(name):
                self._device_changed(True, name, 0)
        for index, name in socket.if_nameindex():
            try:
                flags = self._ip.link("get", index=index)[0]["flags"]
            except NetlinkError:
                continue  # it has just gone, which will be told
            self._device_changed(False, name, flags)

    def _device_changed(self, gone: bool, name: str, flags: int) -> None:
        for interface in self._interfaces.values():
            on_it = interface.device == name or (interface.error == "NO_DEVICE" and below(interface, name))
            if not on_it:
                continue
            if gone and interface.up and not self._index(name):
                self._down(interface)
                interface.error = "NO_DEVICE"
            elif not gone and interface.error == "NO_DEVICE":
                self._up(interface)
            elif not gone and interface.proto == "dhcp" and interface.up:
                self._carrier(interface, bool(flags & IFF_RUNNING))

    def _carrier(self, interface: Interface, there: bool) -> None:
        if there and interface.client is None:
            self._start_client(interface)
        elif not there and interface.client is not None:
            self._end_client(interface)

    def leased(self) -> bool:
        """Whether all that ask for an address have one."""
        asking = [interface for interface in self._interfaces.values() if interface.client is not None]
        return all(os.path.exists(f"/run/udhcpc-{interface.device}.address") for interface in asking)

    def run(self, descriptor: int) -> None:
        """Serve events and signals, whose numbers arrive at `descriptor`, until TERM."""
        self.reload()
        began = time.monotonic()
        settled = False
        while True:
            pause = None if settled else LOOK_S
            ready = select.select([self._events.fileno(), descriptor], [], [], pause)[0]
            if descriptor in ready:
                numbers = os.read(descriptor, 64)
                if signal.SIGTERM in numbers:
                    return self.stop()
                self.reload()
            if self._events.fileno() in ready:
                self.look()
            if not settled and (self.leased() or time.monotonic() - began > SETTLE_S):
                settled = True
                with open(self._settled, "w"):
                    pass


def chain(devices: dict[str, Section], name: str) -> list[Section]:
    """The device sections that the device `name` is made from, its own first."""
    section = devices.get(name)
    if section is None:
        base = name.rpartition(".")[0]
        return chain(devices, base) if base else []
    found = [section]
    for below_it in words(section.get("ports")) + words(section.get("ifname")):
        found += chain(devices, below_it)
    return found


def below(interface: Interface, name: str) -> bool:
    """Whether the interface's device is made over `name`."""
    over = [part for section in interface.stands_on for part in words(section.get("ifname"))]
    return name in over or interface.device.rpartition(".")[0] == name


def main() -> int:
    """Run until TERM."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with open(RESOLV, "w"):
        pass
    Standin().run(read)
    return 0


if __name__ == "__main__":
    sys.exit(main())
