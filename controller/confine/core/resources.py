"""What a sliver may use: what it asks for, what it gets by default, what the node allows, and what is left.

Sizes are MiB. Nothing is ever clipped: what cannot be had in full is refused, with member, asked and allowed.
"""

from confine.core.model import Limits, Problem
from confine.core.reading import entries, mapping, text, whole
from confine.core.text import is_decimal, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import NodeTarget, Observed, SliverTarget
    from confine.core.settings import Settings

MEMORY = "memory"
DISK = "disk"
UNIT = "MiB"
MEMBER = "/resources"
KBIT_UNIT = "kbit"
MIN_KBIT, MAX_KBIT = 8, 10000000


class Size:
    """Memory and disk, MiB."""

    def __init__(self, memory: int, disk: int) -> None:
        self.memory = memory
        self.disk = disk


def _requested(name: str, requests: "list[dict[str, Any]]") -> "tuple[int | None, Problem | None]":
    """What a list of requests {"name", "req", "unit"} says of the resource `name`; None: nothing."""
    for request in requests:
        if request.get("name") != name:
            continue
        amount, unit = whole(request, "req"), text(request, "unit")
        if amount is None or amount < 1:
            return None, Problem(MEMBER, name + ": req is " + shown(request.get("req")) + ", must be a number above 0.")
        if unit != UNIT:
            return None, Problem(MEMBER, name + ": unit is " + shown(unit) + ", must be " + UNIT + ".")
        return amount, None
    return None, None


def _amount(
    name: str, lists: "list[list[dict[str, Any]]]", offers: "dict[str, tuple[int | None, int]]", default: int
) -> "tuple[int, Problem | None]":
    for requests in lists:
        amount, problem = _requested(name, requests)
        if amount is not None or problem is not None:
            return amount or default, problem
    offered = offers.get(name, (None, 0))[1]
    return (offered if offered > 0 else default), None


def effective(
    sliver: "dict[str, Any]",
    defaults: "dict[str, Any]",
    offers: "dict[str, tuple[int | None, int]]",
    settings: "Settings",
) -> "tuple[Limits, list[Problem]]":
    """The limits a sliver asks for: its own resources, else its slice's sliver_defaults, else the node's dflt_req
    (registry API), else the settings. A problem means that they cannot be relied on.
    """
    lists = [entries(sliver, "resources"), entries(defaults, "resources")]
    memory, memory_problem = _amount(MEMORY, lists, offers, settings.sliver_memory_default_mib)
    disk, disk_problem = _amount(DISK, lists, offers, settings.sliver_disk_default_mib)
    problems = [problem for problem in (memory_problem, disk_problem) if problem is not None]
    return Limits(
        memory,
        disk,
        settings.cpu_percent_max,
        settings.cpu_weight,
        settings.pids_max,
        settings.io_mib_s,
        settings.io_ops,
    ), problems


def rates(
    sliver: "dict[str, Any]", defaults: "dict[str, Any]", settings: "Settings"
) -> "tuple[int | None, int | None, list[Problem]]":
    """(egress, ingress, problems): kbit/s that all the sliver's interfaces together may send and receive, None for no
    bound. Asked for as a resource {"name": "egress", "req": 2000, "unit": "kbit"} of the sliver or its slice's
    defaults, or, where a registry takes none of that name, as the sliver's property "egress_kbit".
    """
    problems: "list[Problem]" = []
    found = []
    for name, default, most in (
        ("egress", settings.egress_kbit_default, settings.egress_kbit_max),
        ("ingress", settings.ingress_kbit_default, settings.ingress_kbit_max),
    ):
        asked, problem = _rate(name, sliver, defaults)
        if problem is None and asked is not None and most is not None and asked > most:
            message = name + ": asked for " + str(asked) + " kbit/s, allowed for one sliver are " + str(most) + "."
            problem = Problem(MEMBER, message)
        if problem is not None:
            problems.append(problem)
        found.append(_lowest(default if asked is None else asked, most))
    return found[0], found[1], problems


def _rate(name: str, sliver: "dict[str, Any]", defaults: "dict[str, Any]") -> "tuple[int | None, Problem | None]":
    for requests in (entries(sliver, "resources"), entries(defaults, "resources")):
        for request in requests:
            if request.get("name") == name:
                return _in_bounds(name, whole(request, "req"), request.get("req"), text(request, "unit"))
    asked = text(mapping(sliver, "properties"), name + "_kbit")
    if asked is None:
        return None, None
    number = int(asked) if is_decimal(asked) and len(asked) <= 12 else None
    return _in_bounds(name, number, asked, KBIT_UNIT)


def _in_bounds(
    name: str, number: "int | None", asked: object, unit: "str | None"
) -> "tuple[int | None, Problem | None]":
    if number is not None and MIN_KBIT <= number <= MAX_KBIT and unit == KBIT_UNIT:
        return number, None
    allowed = "a number of " + KBIT_UNIT + " from " + str(MIN_KBIT) + " to " + str(MAX_KBIT)
    return None, Problem(MEMBER, name + " is " + shown(asked) + " " + str(unit) + ", must be " + allowed + ".")


def lent(observed: "Observed", settings: "Settings") -> Size:
    """What the node lends in all: its size, or what its member set if that is less, minus the reserve."""

    def total(there: int, agreed: "int | None", reserve: int) -> int:
        return max(0, (there if agreed is None else min(there, agreed)) - reserve)

    return Size(
        total(observed.memory_total_mib, settings.memory_total_mib, settings.memory_reserve_mib),
        total(observed.disk_total_mib, settings.disk_total_mib, settings.disk_reserve_mib),
    )


def _lowest(*bounds: "int | None") -> "int | None":
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


def maxima(node: "NodeTarget", settings: "Settings", total: Size) -> "dict[str, int | None]":
    """The most that one sliver may have: the registry's max_req and the member's own maximum, the lower one; and
    the share of what is lent that one slice may have (a slice has one sliver on a node at most).
    """
    offers = node.resources
    share = settings.slice_share_percent
    return {
        MEMORY: _lowest(
            offers.get(MEMORY, (None, 0))[0], settings.sliver_memory_max_mib, total.memory * share // 100
        ),
        DISK: _lowest(offers.get(DISK, (None, 0))[0], settings.sliver_disk_max_mib, total.disk * share // 100),
    }  # fmt: skip


def accepts(sliver: "SliverTarget", settings: "Settings") -> "Problem | None":
    """Whether the node's member lets slivers of this slice and group in: refused slices never; if slices or groups
    to be accepted are named, only those.
    """
    if sliver.slice_id in settings.refuse_slices:
        return Problem("/slice", "Slice " + str(sliver.slice_id) + " is refused by this node's member.")
    if not settings.accept_slices and not settings.accept_groups:
        return None
    if sliver.slice_id in settings.accept_slices or sliver.group_id in settings.accept_groups:
        return None
    message = "Neither slice " + str(sliver.slice_id) + " nor its group " + str(sliver.group_id)
    return Problem("/slice", message + " is among those that this node's member accepts.")


def _over(name: str, asked: int, allowed: "int | None", whose: str) -> "Problem | None":
    if allowed is None or asked <= allowed:
        return None
    message = name + ": asked for " + str(asked) + " MiB, " + whose + " " + str(allowed) + " MiB."
    return Problem(MEMBER, message)


def refuse(limits: "Limits", most: "dict[str, int | None]", left: Size) -> "list[Problem]":
    """Why `limits` cannot be had, given the maxima for one sliver and what is left of what is lent; [] if they can."""
    problems = []
    for name, asked, free in ((MEMORY, limits.memory_mib, left.memory), (DISK, limits.disk_mib, left.disk)):
        problem = _over(name, asked, most[name], "allowed for one sliver are") or _over(
            name, asked, free, "not yet lent to other slivers are"
        )
        if problem is not None:
            problems.append(problem)
    return problems
