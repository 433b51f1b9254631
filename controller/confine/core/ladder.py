"""A sliver's way up and down as lists of steps. Pure.

`Works` knows what was found and what will be there once the steps so far are done, so that a list can lead down
and up again, and asks for nothing that is there already.
"""

from confine.core.model import Data, Interface, Limits, SliverTarget, Step, Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Booking, Observed, SliverObserved
    from confine.core.record import Record

# What is there after a step: {(driver, verb): ((member of Works, value), ...)}.
EFFECTS = {
    ("storage", "allocate"): (("allocated", True),),
    ("storage", "format"): (("formatted", True),),
    ("storage", "mount"): (("mounted", True),),
    ("storage", "populate"): (("deployed", True),),
    ("limits", "apply"): (("limited", True),),
    ("firewall", "admit"): (("admitted", True),),
    ("firewall", "dismiss"): (("admitted", False),),
    ("containers", "start"): (("running", True),),
    ("containers", "stop"): (("running", False),),
    ("interfaces", "detach"): (("wired", False),),
    ("limits", "remove"): (("limited", False), ("frozen", False)),
    ("limits", "freeze"): (("frozen", True),),
    ("limits", "thaw"): (("frozen", False),),
    ("storage", "unmount"): (("mounted", False),),
    ("storage", "undeploy"): (("formatted", False), ("deployed", False)),
    ("storage", "mend"): (),
    ("storage", "remove"): (("formatted", False), ("deployed", False), ("allocated", False)),
}


class Works:
    """The steps for one sliver in the making. sliver, booking, who: what the steps carry from now on."""

    def __init__(
        self,
        name: str,
        found: "SliverObserved",
        observed: "Observed",
        sliver: "SliverTarget | None",
        booking: "Booking | None",
    ) -> None:
        self.name = name
        self.sliver = sliver
        self.booking = booking
        self.who = ""
        self.steps: "list[Step]" = []
        self.allocated = found.allocation is not None
        self.deployed = found.deployment is not None
        self.formatted = found.formatted
        self.mounted = found.mounted
        self.limited = found.limited
        self.running = found.running
        self.frozen = found.frozen
        self.wired = needs_detach(found, booking)
        self.admitted = bool(found.admitted)
        self._cached = list(observed.cached)
        self._unpacked = list(observed.unpacked)

    def add(self, driver: str, verb: str, why: str) -> None:
        """One more step."""
        self.steps.append(Step(driver, verb, self.name, why, self.sliver, self.booking, who=self.who))
        for member, value in EFFECTS.get((driver, verb), ()):
            setattr(self, member, value)

    # Down

    def stop(self, why: str) -> None:
        """Down to deployed. A cgroup without a running init may still hold processes: stopping covers those."""
        if self.running or self.limited:
            self._halt(why)
            self.add("limits", "remove", why)
        self.detach(why)

    def detach(self, why: str) -> None:
        """What outlives the sliver's network namespace goes."""
        if self.wired and not self.running:
            self.add("interfaces", "detach", why)

    def undeploy(self, why: str) -> None:
        """Down to allocated."""
        self.stop(why)
        if self.mounted:
            self.add("storage", "unmount", why)
        if self.formatted or self.deployed:
            self.add("storage", "undeploy", why)

    def remove(self, why: str) -> None:
        """Down to nothing but the booking. Directory and cgroup may be there though neither is complete: both are
        removed in any case."""
        if self.running or self.limited:
            self._halt(why)
        self.dismiss(why)
        self.add("limits", "remove", why)
        self.detach(why)
        if self.mounted:
            self.add("storage", "unmount", why)
        self.add("storage", "remove", why)

    def _halt(self, why: str) -> None:
        if self.frozen:
            self.add("limits", "thaw", "It can only halt in order if its processes run.")
        self.add("containers", "stop", why)
        self.dismiss(why)

    def dismiss(self, why: str) -> None:
        """Its interfaces may say nothing any more."""
        if self.admitted:
            self.add("firewall", "dismiss", why)

    # Up

    def allocate(self) -> None:
        """From nothing, but booked, to allocated. Everything is fetched before the disk image is made: a download
        that fails is a failed allocation (node API)."""
        self._fetch_template()
        self._fetch_data()
        self.add("storage", "allocate", "The sliver has no disk image of its own yet.")

    def deploy(self) -> None:
        """From allocated to deployed, with a new file system."""
        self._fetch_data()
        self._unpack_template()
        self.add("storage", "format", "The disk image holds no file system yet.")
        self.mount()
        self.add("storage", "populate", "The root has neither data nor host name, resolver and keys yet.")

    def mount(self) -> None:
        """Have the root mounted, also after a reboot, which leaves it unmounted."""
        if not self.mounted:
            self._unpack_template()
            self.add("storage", "mount", "The sliver's root is not mounted.")

    def start(self, why: str) -> None:
        """From deployed to started."""
        self.mount()
        self.add("limits", "apply", "The limits must stand before anything runs under them.")
        self.add("firewall", "admit", "The firewall must know its interfaces before they speak.")
        self.add("containers", "start", why)
        self.add("limits", "verify", "A sliver counts as started only if its limits hold.")

    def _fetch_template(self) -> None:
        template = self.sliver.template if self.sliver else None
        if template is not None and template.sha256 not in self._cached + self._unpacked:
            self.add("cache", "fetch_template", "Template '" + template.name + "' is not in the cache.")
            self._cached.append(template.sha256)

    def _fetch_data(self) -> None:
        data = self.sliver.data if self.sliver else None
        if data is not None and data.sha256 not in self._cached:
            self.add("cache", "fetch_data", "The sliver's data is not in the cache.")
            self._cached.append(data.sha256)

    def _unpack_template(self) -> None:
        template = self.sliver.template if self.sliver else None
        if template is not None and template.sha256 not in self._unpacked:
            self._fetch_template()
            self.add("cache", "unpack_template", "Template '" + template.name + "' is not ready to be mounted.")
            self._unpacked.append(template.sha256)


def needs_detach(found: "SliverObserved", booking: "Booking | None") -> bool:
    """Whether something of the sliver's interfaces outlives its processes: VLAN devices, classes, ports of nobody."""
    wired = found.wired
    if wired is None or booking is None:
        return False
    return bool(wired.vlans or wired.rates or (wired.ports and not found.running and not found.limited))


def with_changes(sliver: SliverTarget, **changes: "Any") -> SliverTarget:
    """A copy of `sliver` with other values for some members."""
    values = {field: getattr(sliver, field) for field in SliverTarget.FIELDS}
    values.update(changes)
    return SliverTarget(**values)


def _record(kind: "type[Record]", doc: "Any") -> "Any":
    """The record that `doc` is the document of, or None."""
    if not isinstance(doc, dict) or not all(field in doc for field in kind.FIELDS):
        return None
    return kind(**{field: doc[field] for field in kind.FIELDS})


def as_allocated(sliver: SliverTarget, allocation: "dict[str, Any]") -> SliverTarget:
    """`sliver` made from what was set aside for it: template, data, interfaces and limits are those of its
    allocation until its instance_sn changes, whatever its documents say meanwhile (registry API).
    """
    template = _record(Template, allocation.get("template"))
    limits = _record(Limits, allocation.get("limits"))
    interfaces = allocation.get("interfaces")
    kept = [_record(Interface, doc) for doc in interfaces] if isinstance(interfaces, list) else [None]
    return with_changes(
        sliver,
        template=template or sliver.template,
        data=_record(Data, allocation.get("data")) if template else sliver.data,
        limits=limits or sliver.limits,
        interfaces=kept if all(kept) else sliver.interfaces,
    )
