"""What the node shows of itself and its slivers, as JSON-ready dicts with the members of the node API's documents.

What only the registry knows (the node's certificate, its place...) is not here; a JSON pointer in `errors`
points into the object's own document.
"""

from confine.core import addressing, interfaces, overlay, resources, rsa, states, wiring
from confine.core.addressing import PRIVATE_IPV4_BITS, PRIVATE_IPV6_BITS
from confine.core.model import REGISTER, SliverObserved
from confine.core.reading import mapping
from confine.core.record import plain
from confine.core.sliver_documents import is_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.interfaces import SliverInterface
    from confine.core.model import Booking, Desired, Interface, Observed, Problem, SliverTarget
    from confine.core.plan import Plan
    from confine.core.settings import Settings

UNITS = {"disk": "MiB", "memory": "MiB", "pub_ipv4": "addrs", "pub_ipv6": "addrs"}


def _errors(problems: "list[Problem]") -> "list[dict[str, Any]]":
    """`errors[]` of the node API, each once."""
    listed: "list[dict[str, Any]]" = []
    for problem in problems:
        doc = problem.as_doc()
        if doc not in listed:
            listed.append(doc)
    return listed


def lent(observed: "Observed", bookings: "dict[str, Booking]", settings: "Settings") -> "dict[str, int]":
    """Memory and disk in MiB: what the node lends in all, and what of it is booked."""
    total = resources.lent(observed, settings)
    return {
        "memory_booked": sum(booking.memory_mib for booking in bookings.values()),
        "memory_total": total.memory,
        "disk_booked": sum(booking.disk_mib for booking in bookings.values()),
        "disk_total": total.disk,
    }


def node(
    desired: "Desired", plan: "Plan", observed: "Observed", bookings: "dict[str, Booking]", settings: "Settings"
) -> "dict[str, Any]":
    """The node's document. Without one from the registry: what the settings say."""
    target = desired.node
    problems = list(plan.node_problems)
    problems.extend(desired.problems)
    if target is not None:
        problems.extend(target.problems)
    node_id = target.id if target is not None else settings.node_id
    errors = _errors(problems)
    return {
        "id": node_id,
        "uri": target.uri if target is not None else None,
        "name": target.name if target is not None else None,
        "description": target.description if target is not None else None,
        "arch": target.arch if target is not None else None,
        "boot_sn": target.boot_sn if target is not None else None,
        "set_state": (target.set_state or None) if target is not None else None,
        "state": plan.node_state,
        "message": errors[0]["message"] if errors else "",
        "errors": errors,
        "addrs": _node_addresses(node_id, settings),
        "tinc": _tinc(desired, observed, settings),
        "direct_ifaces": list(target.direct_ifaces) if target is not None else [],
        "resources": _node_resources(desired, observed, bookings, settings),
        "network": _network(plan),
    }


def _network(plan: "Plan") -> "dict[str, Any] | None":
    """How the node's own network stands: state as in network_change, the community side's device or None, and the
    direct interfaces that can be used; what is wrong with it is among the node's errors."""
    if plan.network is None:
        return None
    target = plan.network.target
    return {
        "state": plan.network.state,
        "local": target.local if target is not None else None,
        "direct": list(target.direct) if target is not None else [],
    }


def _tinc(desired: "Desired", observed: "Observed", settings: "Settings") -> "dict[str, Any] | None":
    """Of the node's tinc member, the name and key that it really has; None where there is no overlay."""
    found, target = observed.overlay, desired.overlay
    if found is None or found.key is None or settings.node_id is None or not overlay.asked(target, found, settings):
        return None
    name = overlay.own_name(target, found, settings.node_id)
    return {"name": name, "pubkey": rsa.public_pem(found.key)}


def _node_addresses(node_id: "int | None", settings: "Settings") -> "dict[str, str | None]":
    mgmt, debug, priv = settings.mgmt_ipv6_prefix48, settings.debug_ipv6_prefix48, settings.priv_ipv6_prefix48
    known = node_id is not None
    return {
        "mgmt": addressing.node_management_ipv6(mgmt, node_id or 0) + "/64" if mgmt and known else None,
        "debug": addressing.node_debug_ipv6(debug, node_id or 0) + "/64" if known else None,
        "internal_ipv4": addressing.gateway_ipv4(settings.priv_ipv4_prefix24) + "/" + str(PRIVATE_IPV4_BITS),
        "internal_ipv6": addressing.gateway_ipv6(priv) + "/" + str(PRIVATE_IPV6_BITS),
        "recovery_ipv4": addressing.recovery_ipv4(settings.priv_ipv4_prefix24) + "/" + str(PRIVATE_IPV4_BITS),
        "recovery_ipv6": addressing.recovery_ipv6(priv) + "/" + str(PRIVATE_IPV6_BITS),
    }


def _node_resources(
    desired: "Desired", observed: "Observed", bookings: "dict[str, Booking]", settings: "Settings"
) -> "list[dict[str, Any]]":
    """The node's resources with live `avail`: what can still be lent, in one piece or many."""
    offers = desired.node.resources if desired.node is not None else {}
    numbers = lent(observed, bookings, settings)
    listed = []
    for name in sorted(set(offers) | {"disk", "memory"}):
        most, default = offers.get(name, (None, 0))
        total, booked = numbers.get(name + "_total"), numbers.get(name + "_booked")
        avail = max(0, total - booked) if total is not None and booked is not None else None
        unit = UNITS.get(name, "")
        listed.append({"name": name, "max_req": most, "dflt_req": default, "unit": unit, "avail": avail})
    return listed


def _target(name: str, desired: "Desired") -> "SliverTarget | None":
    for sliver_ in desired.slivers:
        if sliver_.name == name:
            return sliver_
    return None


def sliver(
    name: str,
    desired: "Desired",
    plan: "Plan",
    observed: "Observed",
    bookings: "dict[str, Booking]",
    settings: "Settings",
) -> "dict[str, Any]":
    """A sliver's document, also of one that is on the node and no longer asked for (most members are None then)."""
    state, problems = plan.states.get(name, (states.STATES[0], []))
    asked = _target(name, desired)
    working = plan.working.get(name, asked)
    found = observed.slivers.get(name) or SliverObserved(name)
    booking = bookings.get(name)
    decision = plan.decisions.of(name)
    doc: "dict[str, Any]" = {
        "id": _key(name, asked),
        "name": name,
        "state": state,
        "set_state": _set_state(name, plan, asked),
        "nr": booking.nr if booking is not None else None,
        "errors": _errors(problems),
        "allocated": found.allocation is not None,
        "init_pid": found.init_pid,
        "frozen": found.frozen,
        "stopped": decision.stop is not None,
        "paused": decision.pause is not None,
        "decisions": decision.sentences(),
    }
    doc.update(_asked_members(asked, working))
    doc["interfaces"] = _interfaces(working, booking, settings, observed)
    private = [entry for entry in doc["interfaces"] if entry["type"] == "private"]
    doc["address"] = private[0]["ipv4_addr"] if private else None
    doc["limits"] = _limits(working, found)
    doc["resources"] = _resources(asked, booking)
    doc["bandwidth"] = _bandwidth(working, found, settings)
    return doc


def _key(name: str, asked: "SliverTarget | None") -> str:
    if asked is not None:
        return asked.key
    ids = addressing.parse_hostname(name)
    return str(ids[0]) + "@" + str(ids[1]) if ids is not None else name


def _set_state(name: str, plan: "Plan", asked: "SliverTarget | None") -> "str | None":
    """The effective target; None if it is not known or the sliver is not asked for."""
    target = plan.targets.get(name)
    if asked is None or (is_unknown(asked) and target != REGISTER):
        return None
    return target


def _asked_members(asked: "SliverTarget | None", working: "SliverTarget | None") -> "dict[str, Any]":
    if asked is None or working is None:
        return {"uri": None, "slice": None, "slice_name": None, "template": None, "instance_sn": None}
    known = not is_unknown(asked)
    data = working.data
    return {
        "uri": asked.uri,
        "slice": {"id": asked.slice_id},
        "slice_name": asked.slice_name,
        "description": asked.description,
        "instance_sn": asked.sliver_instance_sn if known else None,
        "properties": dict(asked.properties),
        "expires_on": asked.expires_on,
        "template": plain(working.template),
        "data_uri": data.uri if data is not None else None,
        "data_sha256": data.sha256 if data is not None else None,
    }


def _interfaces(
    working: "SliverTarget | None", booking: "Booking | None", settings: "Settings", observed: "Observed"
) -> "list[dict[str, Any]]":
    """Interfaces with the addresses that the sliver has by its booking; without one, without addresses."""
    if working is None:
        return []
    made = {}
    if booking is not None and not is_unknown(working):
        made = {interface.nr: interface for interface in interfaces.of_sliver(working, booking, settings)[0]}
    found = observed.slivers.get(working.name)
    leases = found.wired.leases if found is not None and found.wired is not None else {}
    return [_interface(asked, made.get(asked.nr), observed, leases) for asked in working.interfaces]


def _interface(
    asked: "Interface", made: "SliverInterface | None", observed: "Observed", leases: "dict[str, str]"
) -> "dict[str, Any]":
    """Members of the node API. An isolated interface has its parent's MAC, one that asks DHCP the address it got."""
    parent = observed.links.get(made.parent or "") if made is not None else None
    return {
        "nr": asked.nr,
        "name": asked.name,
        "type": asked.type,
        "parent_name": asked.parent,
        "vlan_tag": made.tag if made is not None else None,
        "mac_addr": parent.mac if parent is not None else made.mac if made is not None else None,
        "ipv4_addr": (made.ipv4[0] if made.ipv4 else leases.get(made.port)) if made is not None else None,
        "ipv6_addr": made.ipv6[0] if made is not None and made.ipv6 else None,
    }


def _limits(working: "SliverTarget | None", found: "SliverObserved") -> "dict[str, Any]":
    """The limits in force, or asked for as long as nothing is allocated; `held`: read back and equal."""
    limits = working.limits.as_doc() if working is not None else dict(mapping(found.allocation, "limits"))
    limits["held"] = found.limits_held
    return limits


def _resources(asked: "SliverTarget | None", booking: "Booking | None") -> "list[dict[str, Any]]":
    """req: what the documents ask for now; alloc: what was set aside."""
    listed = []
    for name in ("disk", "memory"):
        req = getattr(asked.limits, name + "_mib") if asked is not None else None
        alloc = getattr(booking, name + "_mib") if booking is not None else None
        listed.append({"name": name, "req": req, "unit": "MiB", "alloc": alloc})
    return listed


def _bandwidth(
    working: "SliverTarget | None", found: "SliverObserved", settings: "Settings"
) -> "dict[str, dict[str, Any]]":
    """{"egress": {"kbit", "held"}, "ingress": ...}. kbit: the bound, None without one; held: read back and equal, None
    while there is nothing to read."""
    shape = wiring.shape(working, settings) if working is not None else {"up": None, "down": None}
    doc = {}
    for name, way in (("egress", "up"), ("ingress", "down")):
        rates, kept = shape[way], found.wired.rates.get(way) if found.wired is not None else None
        held = kept is not None and rates is not None and kept == (rates["rate"], rates["ceil"], rates["total"])
        known = rates is not None and found.running and found.wired is not None
        doc[name] = {"kbit": rates["ceil"] if rates is not None else None, "held": held if known else None}
    return doc
