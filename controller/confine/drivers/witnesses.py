"""Who answers this node: asked right before a change of its network, and again after it (core.network_change.lost).

    registry     read within three intervals before; after the change read anew
    gateways     the kernel is told to ask them again for their link addresses: one that drops pings answers that too
    overlay      peers that tincd says are up, asked by ICMPv6 echo at the addresses that are theirs alone
    neighbours   as gateways, by hardware address. The node's own slivers are none

An entry of the kernel may look alive for minutes, so only answers to questions asked here count.
"""

import os
import socket
import struct
import time

from confine.core import overlay_files
from confine.core.network import INTERNAL
from confine.core.network_change import lost
from confine.core.network_zones import OVERLAY
from confine.drivers import cgroups, rtnetlink, tinc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths
    from confine.reader import Reader

    Known = dict[tuple[str, str], tuple[int, str]]

FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
READ_LATELY = 3  # intervals without a reading that are too many
ASK_AGAIN_S = 5.0
BEFORE_S = 3.0  # the kernel asks a neighbour three times, a second apart
POLL_S = 0.1
MOST = 8
IFF_UP = 1
FIXED = rtnetlink.NUD_NOARP | rtnetlink.NUD_PERMANENT
ALL_NODES = "ff02::1"
ECHO_REQUEST, ECHO_REPLY, ICMP6_FILTER = 128, 129, 1


class Echo:
    """ICMPv6 echo without waiting: ask(), and later heard()."""

    def __init__(self) -> None:
        self._id = os.urandom(4)
        self._heard: set[str] = set()
        self._socket: socket.socket | None = None

    def ask(self, address: str, index: int = 0) -> None:
        """Send a request; index: of the device, for link-local addresses. That it cannot be sent is no answer."""
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6
                )
                blocked = [0xFFFFFFFF] * 8
                blocked[ECHO_REPLY >> 5] &= ~(1 << (ECHO_REPLY & 31))
                self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *blocked))
            self._socket.sendto(bytes((ECHO_REQUEST, 0, 0, 0)) + self._id, (address, 0, 0, index))
        except OSError:
            return

    def heard(self) -> "set[str]":
        """Who answered so far."""
        try:
            while self._socket is not None:
                data, sender = self._socket.recvfrom(64)
                if data[4:8] == self._id:
                    self._heard.add(sender[0].partition("%")[0])
        except OSError:
            pass
        return self._heard

    def close(self) -> None:
        """Ask no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Witnesses:
    """reader: who reads the registry, or None."""

    def __init__(self, paths: "Paths", settings: "Settings", reader: "Reader | None") -> None:
        self._paths = paths
        self._settings = settings
        self._reader = reader
        self._asked = 0.0
        self._since = 0.0  # monotonic; 0.0: the change was applied by a former life of the daemon
        self._echo = Echo()

    def before(self) -> "dict[str, Any]":
        """Who answers now, as core.network_change.lost takes it. Waits some seconds for answers."""
        echo = Echo()
        known = rtnetlink.neighbours()
        peers = self._peers()
        asked = gateways() | set([key for key in sorted(known) if self._counts(key, known[key])][:MOST])
        _ask(asked, known)
        for peer in peers:
            echo.ask(peer)
        deadline = time.monotonic() + BEFORE_S
        while True:
            now = rtnetlink.neighbours()
            heard = echo.heard()
            silent = [key for key in asked if not _answers(now.get(key))]
            if not (silent or set(peers) - heard) or time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        echo.close()
        return self._record(now, heard & set(peers), self._read_lately())

    def forget(self) -> None:
        """A change was applied: what was heard before does not count any more."""
        self._asked, self._since = 0.0, time.monotonic()
        self._echo.close()
        self._echo = Echo()

    def lost(self, before: "dict[str, Any]") -> "list[str]":
        """Who of `before` does not answer again yet. Asks them, so that the next look knows more."""
        if self._asked == 0.0:
            self._ask_again(before)  # what the kernel knows may be from before the change
            return ["it was not asked yet"]
        read = self._reader.read_at if self._reader is not None else None
        # Without a reader there is nobody who could read it again.
        anew = self._reader is None or (read is not None and read > self._since)
        now = self._record(rtnetlink.neighbours(), self._echo.heard(), anew)
        self._ask_again(before)
        found = lost(before, now, self._reader.error if self._reader is not None else None)
        if not found:
            self._echo.close()
        return found

    def _record(self, known: "Known", peers: "set[str]", registry: bool) -> "dict[str, Any]":
        doc: dict[str, Any] = {words: gateway_answers(family, known) for family, words in FAMILIES.items()}
        doc["overlay"] = sorted(peers)[:MOST]
        alive = [
            [*key, value[1]] for key, value in sorted(known.items()) if _answers(value) and self._counts(key, value)
        ]
        doc["neighbours"] = alive[: MOST * MOST]
        doc["registry"] = registry
        return doc

    def _read_lately(self) -> bool:
        reader = self._reader
        if reader is None or reader.error is not None or reader.read_at is None:
            return False
        far = any(not uri.startswith("file:") for uri in self._settings.registry_uris)
        return far and time.monotonic() - reader.read_at < READ_LATELY * self._settings.interval_s

    def _counts(self, key: "tuple[str, str]", value: "tuple[int, str]") -> bool:
        """Whether it is a machine beside this node: neither a sliver of it nor nobody's (multicast)."""
        node = self._settings.node_id or 0
        own = "{}:{:02x}:{:02x}:".format(self._settings.mac_prefix16, node >> 8, node & 255)
        state, mac = value
        return key[0] not in ("", INTERNAL, OVERLAY) and bool(mac) and not state & FIXED and not mac.startswith(own)

    def _peers(self) -> "list[str]":
        """Addresses of the overlay's peers that are up: subnets of one address in their files."""
        found = []
        for name, seen in sorted(tinc.peers_seen(os.path.join(self._paths.run, "overlay")).items()):
            text = cgroups.read(os.path.join(self._paths.tinc, "hosts", name)) if seen.up else None
            for subnet in overlay_files.values_of(overlay_files.options(text or ""), "subnet"):
                address, _, bits = subnet.partition("/")
                if ":" in address and bits in ("", "128"):
                    found.append(str(address))
        return found[:MOST]

    def _ask_again(self, before: "dict[str, Any]") -> None:
        now = time.monotonic()
        if self._asked and now - self._asked < ASK_AGAIN_S:
            return
        self._asked = now
        known = rtnetlink.neighbours()
        former = [neighbour for neighbour in before.get("neighbours") or [] if len(neighbour) == 3][:MOST]
        macs = {mac for _, _, mac in former}
        asked = gateways() | {key for key, (_, mac) in known.items() if mac in macs}
        local = self._settings.local_ifname
        for device in {over for one, _, _ in former for over in (one, master(one), local) if over and index_of(over)}:
            asked |= {(device, address) for _, address, _ in former}
            # Who has other addresses now shows them when it answers.
            self._echo.ask(ALL_NODES, index_of(device))
        _ask(asked, known)
        for peer in before.get("overlay") or []:
            self._echo.ask(str(peer))
        if before.get("registry") and self._reader is not None:
            self._reader.refresh()


def _ask(keys: "set[tuple[str, str]]", known: "Known") -> None:
    """Entries that somebody fixed stay so."""
    for device, address in sorted(keys):
        if not known.get((device, address), (0, ""))[0] & FIXED:
            rtnetlink.ask(device, address)


def _answers(value: "tuple[int, str] | None") -> bool:
    return value is not None and value[0] & rtnetlink.ANSWERS != 0


def gateways() -> "set[tuple[str, str]]":
    """(device, address) of the default routes' gateways."""
    return {(device, gateway) for _, device, gateway in rtnetlink.default_routes() if gateway}


def gateway_answers(family: int, known: "Known") -> bool:
    """Whether one of the default gateways does; of a link without gateways, whether it is up."""
    for kind, device, gateway in rtnetlink.default_routes():
        if kind == family and (is_up(device) if gateway is None else _answers(known.get((device, gateway)))):
            return True
    return False


def is_up(name: str) -> bool:
    """Whether the device is there and switched on."""
    return bool(int(cgroups.read("/sys/class/net/" + name + "/flags") or "0", 16) & IFF_UP)


def master(name: str) -> "str | None":
    """The bridge that the device is a port of."""
    try:
        return os.path.basename(os.readlink("/sys/class/net/" + name + "/master"))
    except OSError:
        return None


def index_of(name: str) -> int:
    """The device's index, 0 if it is gone."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
