"""What the node has set aside for its slivers: numbers, memory and disk. Pure.

A sliver keeps its number as long as anything of it is on the node, also when it is allocated anew: ids, addresses,
MACs and names on the host side follow from it (node API: `nr` is the lowest that is free, 01-7d).
"""

from confine.core import interfaces, resources
from confine.core.addressing import MAX_SLIVER_NR, MIN_SLIVER_NR
from confine.core.model import Booking, Problem
from confine.core.reading import text, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import NodeTarget, Observed, SliverTarget
    from confine.core.settings import Settings


def lowest_free(taken: "list[int]") -> "int | None":
    """The lowest sliver number that is not in `taken`; None if there is none."""
    for nr in range(MIN_SLIVER_NR, MAX_SLIVER_NR + 1):
        if nr not in taken:
            return nr
    return None


def of_allocation(name: str, allocation: "dict[str, Any] | None") -> "Booking | None":
    """The booking that an allocation document stands for; None if it does not say so."""
    nr, key = whole(allocation, "nr"), text(allocation, "key")
    memory, disk = whole(allocation, "memory_mib"), whole(allocation, "disk_mib")
    if nr is None or not MIN_SLIVER_NR <= nr <= MAX_SLIVER_NR or key is None or memory is None or disk is None:
        return None
    return Booking(key, name, nr, memory, disk)


class Ledger:
    """All that is set aside: bookings, and allocations on disk, which are right where the two differ.

    entries: {name: Booking}, number 0 where it has none of its own. clashing: names whose booking or allocation has a
    number that another sliver holds.
    """

    def __init__(self, bookings: "dict[str, Booking]", observed: "Observed") -> None:
        self.entries: "dict[str, Booking]" = {}
        self.clashing: "list[str]" = []
        self._holders: "dict[int, str]" = {}
        for name in sorted(bookings):
            self._claim(name, bookings[name])
        for name in sorted(observed.slivers):
            allocated = of_allocation(name, observed.slivers[name].allocation)
            if allocated is not None:
                self._claim(name, allocated)

    def _claim(self, name: str, claim: "Booking") -> None:
        """Enter a booking or allocation. Its sizes count in any case, its number only if no other sliver has it."""
        nr, before = claim.nr, self.entries.get(name)
        if not MIN_SLIVER_NR <= nr <= MAX_SLIVER_NR:
            nr = 0
        elif self._holders.setdefault(nr, name) != name:
            nr = before.nr if before else 0
            self.clashing.append(name)
        held = before if claim.vlan_tag is None and not claim.addresses else claim  # allocations do not name these
        tag, addresses = (held.vlan_tag, held.addresses) if held is not None else (None, {})
        self.entries[name] = Booking(claim.key, name, nr, claim.memory_mib, claim.disk_mib, tag, addresses)

    def left(self, total: "resources.Size", name: str) -> "resources.Size":
        """What is left of `total` for the sliver `name`: all that the others do not hold."""
        others = [entry for other, entry in self.entries.items() if other != name]
        memory = total.memory - sum(entry.memory_mib for entry in others)
        disk = total.disk - sum(entry.disk_mib for entry in others)
        return resources.Size(max(0, memory), max(0, disk))

    def number(self, name: str) -> "int | None":
        """The number that `name` has, or the lowest free one."""
        held = self.entries.get(name)
        if held is not None and held.nr:
            return held.nr
        return lowest_free([entry.nr for entry in self.entries.values()])

    def drop(self, name: str) -> None:
        """`name` holds nothing any more."""
        self.entries.pop(name, None)

    def admit(
        self, sliver: "SliverTarget", node: "NodeTarget", settings: "Settings", total: "resources.Size"
    ) -> "tuple[Booking | None, list[Problem]]":
        """Set aside what `sliver` asks for. (booking, []) or (None, why not)."""
        refused = resources.accepts(sliver, settings)
        if refused is not None:
            return None, [refused]
        most = resources.maxima(node, settings, total)
        problems = resources.refuse(sliver.limits, most, self.left(total, sliver.name))
        if problems:
            return None, problems
        nr = self.number(sliver.name)
        if nr is None:
            message = "All " + str(MAX_SLIVER_NR) + " sliver numbers of this node are taken."
            return None, [Problem("", message)]
        wanted = Booking(sliver.key, sliver.name, nr, sliver.limits.memory_mib, sliver.limits.disk_mib)
        wanted, problems, _ = self.with_network(sliver, wanted, settings)
        if problems:
            return None, problems
        before = self.entries.get(sliver.name)
        self.entries[sliver.name] = wanted if before is None else _larger(wanted, before)
        return wanted, []

    def with_network(
        self, sliver: "SliverTarget", wanted: "Booking", settings: "Settings"
    ) -> "tuple[Booking, list[Problem], list[Problem]]":
        """`wanted` with tag and public addresses, as far as they can be had; see `interfaces.book`."""
        before = self.entries.get(sliver.name)
        if before is not None:
            wanted = Booking(wanted.key, wanted.name, wanted.nr, wanted.memory_mib, wanted.disk_mib, before.vlan_tag,
                             before.addresses)  # fmt: skip
        others = [entry for other, entry in self.entries.items() if other != sliver.name]
        return interfaces.book(sliver, wanted, others, settings)


def _larger(wanted: "Booking", before: "Booking") -> "Booking":
    """What counts while a sliver goes from one size to another."""
    memory, disk = max(wanted.memory_mib, before.memory_mib), max(wanted.disk_mib, before.disk_mib)
    return Booking(wanted.key, wanted.name, wanted.nr, memory, disk, wanted.vlan_tag, wanted.addresses)
