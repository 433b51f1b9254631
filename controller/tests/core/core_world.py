"""Helpers of the core's tests: an invented testbed's documents, and a model of what steps do to a node.

Stays in the MicroPython subset, as the tests that use it do.
"""

from confine.core import addressing, firewall, interfaces, keys, resources, wiring
from confine.core.decisions import Decisions
from confine.core.model import (
    START,
    Data,
    Desired,
    Failure,
    Interface,
    Limits,
    NodeTarget,
    Observed,
    SliverObserved,
    SliverTarget,
    Template,
)
from confine.core.plan import plan
from confine.core.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.model import Booking, Problem, Step
    from confine.core.plan import Plan

NODE_ID = 0x2A
BASE = "https://registry.example.org/api/"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM8DxTEFjJ8VAKRIyt6KrPzafURV/U+33wlHMiijngyq"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHB9d/YJuQM02Pa3nL00JzL5m25+JFJOkKBGhgQDC0MU"
ECDSA_KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBIfwJ08vgO4joOhdCISBAWvkTpHloM26ms"
    "Gz3lDL1T6kePczrPcT8CksRExwuhpRu3/M26fhYdkqeEJ0YwFd4Jc="
)
DEBIAN = Template(3, "Debian", "debian", BASE + "t/debian.squashfs", "a1" * 32, ["x86_64"])
OPENWRT = Template(4, "OpenWrt", "openwrt", BASE + "t/openwrt.tgz", "b2" * 32, ["x86_64", "i586"])
DATA = Data(BASE + "d/data.tgz", "d4" * 32)


def settings(**values: "Any") -> Settings:
    """Settings of a node that is set up."""
    values.setdefault("node_id", NODE_ID)
    values.setdefault("registry_uris", [BASE])
    return Settings(**values)


def raised(call: "Callable[[], object]") -> str:
    """The message of the ValueError that `call` raises; fails if it raises none."""
    try:
        result = call()
    except ValueError as error:
        return str(error)
    raise AssertionError("no ValueError, but " + repr(result))


def name_of(slice_id: int) -> str:
    """The name of the sliver of a slice on the node."""
    return addressing.hostname(slice_id, NODE_ID)


def node_target(**values: "Any") -> NodeTarget:
    """The node of the tests, in production."""
    made = {
        "id": NODE_ID,
        "uri": BASE + "nodes/42/",
        "name": "mill",
        "description": "",
        "arch": "x86_64",
        "set_state": "production",
        "boot_sn": 1,
        "group_id": 1,
        "keys": [],
        "resources": {"disk": (1000, 100), "memory": (500, 50)},
        "direct_ifaces": ["eth1"],
        "mgmt_addr": None,
        "problems": [],
    }
    made.update(values)
    return NodeTarget(**made)


def limits(memory: int = 50, disk: int = 100) -> Limits:
    """Limits with the default settings' other members."""
    return Limits(memory, disk, None, 100, 512, None, None)


def sliver_target(slice_id: int, **values: "Any") -> SliverTarget:
    """A sliver that is asked to be started."""
    made = {
        "key": str(slice_id) + "@" + str(NODE_ID),
        "name": name_of(slice_id),
        "uri": BASE + "slivers/" + str(slice_id + 100) + "/",
        "slice_id": slice_id,
        "slice_name": "slice " + str(slice_id),
        "group_id": 1,
        "node_id": NODE_ID,
        "description": "",
        "target": START,
        "sliver_instance_sn": 0,
        "slice_instance_sn": 0,
        "template": DEBIAN,
        "data": None,
        "interfaces": [Interface(0, "priv", "private", None)],
        "limits": limits(),
        "keys": [KEY + " ann@example.org"],
        "vlan_tag": None,
        "expires_on": None,
        "properties": {},
        "problems": [],
        "blocked": False,
    }
    made.update(values)
    return SliverTarget(**made)


def desired(*slivers: SliverTarget, **values: "Any") -> Desired:
    """What is asked of the node; `values` are those of the node."""
    return Desired(node_target(**values), list(slivers), True, [])


class Broken(Exception):
    """A step was asked for that cannot work on what is there: a fault of the plan."""


class World:
    """A node as the drivers would make it: does steps, strictly. `fails`: the (driver, verb) pairs that fail."""

    def __init__(self, memory: int = 1000, disk: int = 5000, **values: "Any") -> None:
        self.settings = settings(**values)
        self.observed = Observed({}, [], [], False, False, disk, disk, memory)
        self.bookings: "dict[str, Booking]" = {}
        self.failures: "dict[str, Failure]" = {}
        self.content: "dict[str, tuple[int, int]]" = {}
        self.boot_sn_done: "int | None" = None
        self.reboots = 0
        self.now = 1000.0
        self.decisions = Decisions()
        self.fails: "set[tuple[str, str]]" = set()
        self.done: "list[tuple[str, str, str]]" = []
        self.wires = False  # whether interfaces are looked at and made

    # One round as the daemon does it

    def plan(self, asked: Desired) -> "Plan":
        """The plan for what is there now."""
        return plan(
            asked, self.observed, self.bookings, self.failures, self.settings, self.now, self.boot_sn_done,
            None, self.decisions,
        )  # fmt: skip

    def round(self, asked: Desired, cut_after: "int | None" = None) -> "Plan":
        """Plan, and carry it out up to `cut_after` steps."""
        made = self.plan(asked)
        if made.boot_sn_done is not None:
            self.boot_sn_done = made.boot_sn_done
        for subject in made.overcome:
            self.failures.pop(subject, None)
        left = [cut_after]
        self._do_list(made.node_steps, left)
        for name in sorted(made.sliver_steps):
            self._do_list(made.sliver_steps[name], left)
        return made

    def _do_list(self, steps: "list[Step]", left: "list[int | None]") -> None:
        for step in steps:
            if left[0] is not None:
                if left[0] <= 0:
                    return
                left[0] -= 1
            if (step.driver, step.verb) in self.fails:
                before = self.failures.get(step.subject)
                count = before.count + 1 if before else 1
                self.failures[step.subject] = Failure(step.driver, step.verb, "it is broken", count, self.now + 10)
                return
            self.do(step)

    def settle(self, asked: Desired, rounds: int = 12) -> "Plan":
        """Rounds until there is nothing to do; fails if that takes too many."""
        for _ in range(rounds):
            made = self.round(asked)
            if not made.node_steps and not made.sliver_steps:
                return made
            self.now += 100
        raise AssertionError("still not settled: " + repr(made.sliver_steps))

    def reboot(self) -> None:
        """What a reboot leaves."""
        self.reboots += 1
        self.observed.bridge = self.observed.firewall = False
        for found in self.observed.slivers.values():
            found.admitted = []
            found.mounted = found.limited = found.running = found.frozen = False
            found.limits_held = found.init_pid = None

    def damage(self, name: str, member: str) -> None:
        """A document of a sliver, "allocation" or "deployment", is damaged."""
        found = self.found(name)
        setattr(found, member, {})
        found.damaged.append(member + ".json is damaged.")

    # Steps

    def found(self, name: str) -> SliverObserved:
        """What there is of a sliver."""
        if name not in self.observed.slivers:
            self.observed.slivers[name] = SliverObserved(name)
        return self.observed.slivers[name]

    def do(self, step: "Step") -> None:
        """One step, with all that it needs to be there."""
        self.done.append((step.driver, step.verb, step.subject))
        if not step.why.endswith("."):
            raise Broken("why is no sentence: " + repr(step.why))
        getattr(self, step.driver + "_" + step.verb)(step)
        for name in list(self.observed.slivers):
            if name not in self.bookings and self.observed.slivers[name] == SliverObserved(name):
                del self.observed.slivers[name]
        self.check()

    def check(self) -> None:
        """What must always hold."""
        numbers = [booking.nr for booking in self.bookings.values()]
        need(len(numbers) == len(set(numbers)), "a number is booked twice")
        total = resources.lent(self.observed, self.settings)
        need(sum(booking.memory_mib for booking in self.bookings.values()) <= total.memory, "too much memory")
        need(sum(booking.disk_mib for booking in self.bookings.values()) <= total.disk, "too much disk")

    def links_bridge(self, step: "Step") -> None:
        self.observed.bridge = True

    def firewall_install(self, step: "Step") -> None:
        self.observed.firewall = True

    def firewall_admit(self, step: "Step") -> None:
        need(step.sliver is not None and step.booking is not None, "nobody to admit")
        need(self.observed.firewall, "admit without tables")
        found = interfaces.of_sliver(step.sliver, step.booking, self.settings)[0]  # type: ignore[arg-type]
        self.found(step.subject).admitted = firewall.ports_of(found)

    def firewall_dismiss(self, step: "Step") -> None:
        self.found(step.subject).admitted = []

    def boot_reboot(self, step: "Step") -> None:
        self.reboot()

    def journal_book(self, step: "Step") -> None:
        need(step.booking is not None and step.booking.name == step.subject, "nothing to book")
        self.bookings[step.subject] = step.booking  # type: ignore[assignment]

    def journal_release(self, step: "Step") -> None:
        need(self.found(step.subject) == SliverObserved(step.subject), "release of what is still there")
        del self.bookings[step.subject]

    def cache_fetch_template(self, step: "Step") -> None:
        self.observed.cached.append(template_of(step).sha256)

    def cache_fetch_data(self, step: "Step") -> None:
        need(step.sliver is not None and step.sliver.data is not None, "no data")
        self.observed.cached.append(step.sliver.data.sha256)  # type: ignore[union-attr]

    def cache_unpack_template(self, step: "Step") -> None:
        need(template_of(step).sha256 in self.observed.cached, "unpack without a file")
        self.observed.unpacked.append(template_of(step).sha256)

    def storage_allocate(self, step: "Step") -> None:
        sliver, booking, found = step.sliver, step.booking, self.found(step.subject)
        need(sliver is not None and booking is not None, "no sliver to allocate for")
        need(self.bookings.get(step.subject) == booking, "allocate without a booking")
        need(found.allocation is None and not found.formatted, "allocate over what is there")
        found.allocation = allocation_of(sliver, booking)  # type: ignore[arg-type]

    def storage_format(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(found.allocation is not None and not found.mounted, "format of no image, or a mounted one")
        need(not found.formatted, "format does nothing over an old file system")
        found.formatted = True

    def storage_mount(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(found.formatted and found.allocation is not None, "mount without a file system")
        need(template_of(step).sha256 in self.observed.unpacked, "mount without a template")
        need(template_of(step).sha256 == found.allocation["template"]["sha256"], "mount of another template")  # type: ignore[index]
        need(step.booking is not None and step.booking.nr == found.allocation["nr"], "mount with other ids")  # type: ignore[index]
        found.mounted = True

    def storage_populate(self, step: "Step") -> None:
        sliver, found = step.sliver, self.found(step.subject)
        need(found.mounted and sliver is not None, "populate without a root")
        need(step.subject not in self.content, "populate over old content")
        if sliver.data is not None:  # type: ignore[union-attr]
            need(sliver.data.sha256 in self.observed.cached, "populate without its data")  # type: ignore[union-attr]
        self.content[step.subject] = (sliver.sliver_instance_sn, sliver.slice_instance_sn)  # type: ignore[union-attr]
        found.deployment = deployment_of(sliver)  # type: ignore[arg-type]

    def storage_keys(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(found.mounted and found.deployment is not None, "keys without a root")
        found.deployment["keys_digest"] = keys.digest(step.sliver.keys)  # type: ignore[index,union-attr]

    def storage_mend(self, step: "Step") -> None:
        sliver, booking, found = step.sliver, step.booking, self.found(step.subject)
        need(
            bool(found.damaged) and sliver is not None and booking is not None,
            "nothing to mend, or nothing to do it by",
        )
        if found.allocation == {}:
            found.allocation = allocation_of(sliver, booking)  # type: ignore[arg-type]
        if found.deployment == {}:
            found.deployment = deployment_of(sliver)  # type: ignore[arg-type]
            found.deployment["keys_digest"] = ""
        found.damaged = []

    def limits_apply(self, step: "Step") -> None:
        need(self.found(step.subject).mounted, "limits before the disk is mounted")
        need(not self.found(step.subject).running, "limits of what runs already")
        need(step.sliver is not None and step.sliver.limits is not None, "no limits")
        self.found(step.subject).limited = True

    def containers_start(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(found.limited and found.mounted and found.deployment is not None, "start of what is not ready")
        need(self.observed.bridge and self.observed.firewall, "start on a node that is not ready")
        need(not found.running, "start of what runs")
        need(bool(found.admitted) or not step.sliver.interfaces, "start of what may not speak")  # type: ignore[union-attr]
        found.running, found.limits_held, found.init_pid = True, True, 77
        if self.wires:
            self.interfaces_attach(step)

    def interfaces_attach(self, step: "Step") -> None:
        found, sliver, booking = self.found(step.subject), step.sliver, step.booking
        need(found.running and sliver is not None and booking is not None, "interfaces of what does not run")
        shape = wiring.shape(sliver, self.settings)  # type: ignore[arg-type]
        former, found.wired = found.wired, wiring.Wired({}, {}, {})
        for one in interfaces.of_sliver(sliver, booking, self.settings)[0]:  # type: ignore[arg-type]
            if wiring.waits_for(one, self.observed.links, self.settings) is None:
                found.wired.ports[one.port] = wiring.Port(one.bridge, one.bridge is not None, wiring.mark(one, shape))
                if one.vlan is not None:
                    found.wired.vlans[one.vlan] = (one.parent, one.tag)  # type: ignore[assignment]
            elif former is not None and wiring.stays(one, former, self.observed.links, self.settings, shape):
                found.wired.ports[one.port] = former.ports[one.port]
        for direction, rates in shape.items():
            if rates is not None:
                found.wired.rates[direction] = (rates["rate"], rates["ceil"], rates["total"])

    def interfaces_detach(self, step: "Step") -> None:
        need(not self.found(step.subject).running, "interfaces taken from what runs")
        self.found(step.subject).wired = None

    def limits_verify(self, step: "Step") -> None:
        need(self.found(step.subject).running, "verify of what does not run")

    def limits_freeze(self, step: "Step") -> None:
        need(self.found(step.subject).running, "freeze of what does not run")
        self.found(step.subject).frozen = True

    def limits_thaw(self, step: "Step") -> None:
        self.found(step.subject).frozen = False

    def containers_stop(self, step: "Step") -> None:
        found = self.found(step.subject)
        found.running, found.limits_held, found.init_pid = False, None, None
        if found.wired is not None:
            found.wired.ports = {}  # they go with the sliver's network namespace

    def limits_remove(self, step: "Step") -> None:
        need(not self.found(step.subject).running, "limits taken from what runs")
        self.found(step.subject).limited = self.found(step.subject).frozen = False

    def storage_unmount(self, step: "Step") -> None:
        need(not self.found(step.subject).running, "unmount below what runs")
        self.found(step.subject).mounted = False

    def storage_undeploy(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(not found.running and not found.mounted, "undeploy of what is in use")
        found.formatted, found.deployment = False, None
        found.damaged = [text for text in found.damaged if "deployment" not in text]
        self.content.pop(step.subject, None)

    def storage_remove(self, step: "Step") -> None:
        found = self.found(step.subject)
        need(not found.running and not found.mounted, "removal of what is in use")
        found.formatted, found.deployment, found.allocation, found.damaged = False, None, None, []
        self.content.pop(step.subject, None)

    # Looking

    def state(self, asked: Desired, slice_id: int) -> str:
        """The state that the sliver of a slice shows now."""
        return self.plan(asked).states[name_of(slice_id)][0]

    def messages(self, asked: Desired, slice_id: int) -> str:
        """Its problems' messages, as one text."""
        return " ".join(problem.message for problem in self.plan(asked).states[name_of(slice_id)][1])

    def verbs(self, asked: Desired, slice_id: int) -> str:
        """What the plan would do with the sliver of a slice, as one text."""
        steps = self.plan(asked).sliver_steps.get(name_of(slice_id), [])
        return " ".join(step.verb for step in steps)


def allocation_of(sliver: SliverTarget, booking: "Booking") -> "dict[str, Any]":
    """The document that `storage allocate` writes."""
    need(sliver.template is not None, "no template")
    return {
        "key": sliver.key,
        "uri": sliver.uri,
        "name": sliver.name,
        "nr": booking.nr,
        "sliver_instance_sn": sliver.sliver_instance_sn,
        "template": sliver.template.as_doc(),  # type: ignore[union-attr]
        "data": sliver.data.as_doc() if sliver.data else None,
        "disk_mib": booking.disk_mib,
        "memory_mib": booking.memory_mib,
        "limits": sliver.limits.as_doc(),
        "interfaces": [interface.as_doc() for interface in sliver.interfaces],
    }


def deployment_of(sliver: SliverTarget) -> "dict[str, Any]":
    """The document that `storage populate` writes."""
    return {
        "sliver_instance_sn": sliver.sliver_instance_sn,
        "slice_instance_sn": sliver.slice_instance_sn,
        "hostname": sliver.name,
        "keys_digest": keys.digest(sliver.keys),
        "reset": sliver.reset,
    }


def need(held: bool, message: str) -> None:
    """Broken with `message` unless `held`."""
    if not held:
        raise Broken(message)


def template_of(step: "Step") -> Template:
    """The template that a step is about."""
    need(step.sliver is not None and step.sliver.template is not None, "no template")
    return step.sliver.template  # type: ignore[union-attr,return-value]


def messages(problems: "list[Problem]") -> str:
    """All messages as one text."""
    return " ".join(problem.member + " " + problem.message for problem in problems)


def one(**values: "Any") -> Desired:
    """One sliver with data, asked to be started."""
    values.setdefault("data", DATA)
    return desired(sliver_target(5, **values))


def settled(asked: Desired, **values: "Any") -> World:
    """A node where `asked` is carried out."""
    world = World(**values)
    world.settle(asked)
    return world


def at(target: str, **values: "Any") -> World:
    """A node where one sliver is at `target`; `values` are the sliver's."""
    return settled(one(target=target, **values))
