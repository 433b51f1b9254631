"""The node's machine as the controller sees it: all drivers together, one way to observe, one way to do a step."""

import os

from confine.core import interfaces, steps
from confine.core.model import MIB, Observed, SliverObserved, Step
from confine.core.network import management_devices
from confine.core.settings import Settings
from confine.decisions import DecisionBook
from confine.drivers import ports, rtnetlink
from confine.drivers.boot import Boot
from confine.drivers.cache import Cache
from confine.drivers.containers import Containers
from confine.drivers.dhcp import Leases
from confine.drivers.firewall import Firewall
from confine.drivers.interfaces import Interfaces
from confine.drivers.limits import LimitsDriver
from confine.drivers.links import Links
from confine.drivers.network import Network
from confine.drivers.overlay import Overlay
from confine.drivers.storage import Storage
from confine.drivers.usage import disk_and_traffic
from confine.journal import Journal
from confine.paths import Paths
from confine.stop import patterns_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.model import Booking, SliverTarget
    from confine.drivers.cache import Fetcher
    from confine.reader import Reader


class Machine:
    """Owner of the drivers. `do(step)` finds the driver and verb that the step names."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        journal: Journal,
        book: DecisionBook,
        fetcher: "Fetcher",
        on_progress: "Callable[[str, str, int, int | None], None]",
        reader: "Reader | None" = None,
        wake: "Callable[[], None]" = lambda: None,
    ) -> None:
        self.paths = paths
        self._settings = settings
        self.journal = journal
        self.book = book
        reserve = settings.disk_reserve_mib
        self.cache = Cache(paths, fetcher, settings.cache_max_mib, on_progress, reserve, settings.template_max_mib,
                           reader.data_fetcher if reader is not None else fetcher)  # fmt: skip
        self.storage = Storage(paths, self.cache, lambda: resolver_lines(settings), reserve)
        self.limits = LimitsDriver(paths)
        self.network = Network(paths, settings, reader)
        self.interfaces = Interfaces(paths, settings)
        self.leases = Leases(os.path.join(paths.run, "leases"), self._lease)
        self.containers = Containers(paths, settings, self.interfaces)
        self.links = Links(settings)
        self.overlay = Overlay(paths, settings)
        last = os.path.join(paths.run, "firewall.nft")
        self.firewall = Firewall(settings, paths.share, self._to_be_silent, wake, last)
        self._drivers: dict[str, object] = {
            "boot": Boot(),
            "cache": self.cache,
            "containers": self.containers,
            "firewall": self.firewall,
            "interfaces": self.interfaces,
            "journal": journal,
            "limits": self.limits,
            "links": self.links,
            "overlay": self.overlay,
            "network": self.network,
            "storage": self.storage,
        }

    def do(self, step: Step) -> None:
        """Carry `step` out. StepError says why it could not be; KeyError: it is not in the table of steps."""
        steps.phase(step.driver, step.verb)
        verb: Callable[[Step], None] = getattr(self._drivers[step.driver], step.verb)
        verb(step)

    def _to_be_silent(self) -> "list[str]":
        numbers = {name: booking.nr for name, booking in self.journal.bookings().items()}
        return patterns_of(self.book.now(), numbers)

    def silence(self, name: str) -> None:
        """Take the interfaces of the sliver `name` down at once: it is to be stopped, and others may come first."""
        booking = self.journal.bookings().get(name)
        if booking is not None:
            ports.silence(ports.of(booking.nr))

    def observe(self) -> Observed:
        """What is there now, read from kernel, LXC and disk. No process is started and no file written."""
        self.storage.snapshot()
        network = self.network.observe()
        self.interfaces.reserved = management_devices(self._settings, network.facts)
        self.interfaces.snapshot()
        bookings = self.journal.bookings()
        names = set(self.storage.names()) | set(self.limits.names()) | set(bookings)
        slivers = {name: self._sliver(name, bookings.get(name)) for name in names}
        total, free = self.storage.disk_mib()
        return Observed(
            slivers=slivers,
            cached=self.cache.cached(),
            unpacked=self.cache.unpacked(),
            bridge=self.links.bridge_ok(),
            firewall=self.firewall.ok(),
            disk_total_mib=total,
            disk_free_mib=free,
            memory_total_mib=memory_mib(),
            overlay=self.overlay.observe(),
            network=network,
            links=self.interfaces.links,
        )

    def usage(self, name: str) -> "dict[str, Any]":
        """What the sliver `name` uses now, as the kernel counts it."""
        found = self.limits.usage(name)
        booking = self.journal.bookings().get(name)
        if booking is not None:
            found.update(disk_and_traffic(self.paths, name, booking.nr))
            found.update(self.interfaces.usage(booking.nr))
        return found

    def _sliver(self, name: str, booking: "Booking | None") -> SliverObserved:
        found = self.storage.observe(name)
        self.limits.observe(found)
        if booking is not None:
            found.wired = self.interfaces.wired(booking.nr)
            given, ports = self.leases.now(), found.wired.ports
            found.wired.leases = {port: given[port].address for port in ports if port in given}
            found.wired.unleased = {port: self.leases.problems[port] for port in ports if port in self.leases.problems}
            found.admitted = self.firewall.admitted(booking.nr)
        return found

    def listen(self, slivers: "dict[str, SliverTarget]") -> None:
        """Hear DHCP servers for the interfaces of `slivers` (by name) that may ask for an address. Costs nothing if
        they are the same as before."""
        bookings, links = self.journal.bookings(), self.interfaces.links
        bridge = interfaces.local_bridge(self._settings)
        ports = {}
        for name, sliver in slivers.items():
            if name in bookings and self._settings.public4_proto == "dhcp":
                made = interfaces.of_sliver(sliver, bookings[name], self._settings)[0]
                ports.update({one.mac or "": one.port for one in made if one.dhcp})
        uplinks = sorted(name for name, link in links.items() if link.master == bridge) if ports else []
        own = [address.partition("/")[0] for _, address in rtnetlink.addresses()] if ports else []
        self.leases.watch(ports, uplinks, own)

    def _lease(self, port: str, address: str, seconds: int) -> None:
        self.firewall.lease(port, address, seconds)

    def close(self) -> None:
        """Nothing of this object goes on."""
        self.leases.close()
        self.firewall.close()


def memory_mib() -> int:
    """The machine's memory, MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB


def resolver_lines(settings: Settings) -> str:
    """The content of a sliver's resolv.conf: the configured servers, else the node's own upstream ones.

    A server on the node's loopback is no use to a sliver: the node's address on the slivers' bridge, where its
    dnsmasq listens, stands in for it.
    """
    servers = list(settings.dns) or _upstream_servers()
    gateway = settings.priv_ipv4_prefix24 + ".126"
    usable = [gateway if server.startswith("127.") or server == "::1" else server for server in servers]
    return "".join("nameserver {}\n".format(server) for server in (usable or [gateway])[:3])


def _upstream_servers() -> "list[str]":
    for path in ("/tmp/resolv.conf.d/resolv.conf.auto", "/etc/resolv.conf"):  # noqa: S108  # OpenWrt's own place
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file]
        except OSError:
            continue
        return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return []
