"""Changes of the node's network: confirmed or undone. Pure.

    nothing on disk   sections differ from what is asked: configure
    "written"         the daemon or the power was cut off while the change was made: undo
    "applied"         wait until who answered before answers again (`lost`): confirm; if not in time: undo
    "undone"          the same change is not tried again for RETRY_S, unless somebody asks; one that was cut off by
                      chance (cut: how often in a row) is, MOST_CUTS times

The record lies on disk from before the first file is written until the change is confirmed (drivers/network.py). At the
start of the node, before its network comes up, an unconfirmed change is undone (undo_network.py).
"""

from confine.core import addressing, network
from confine.core.model import Problem, Step
from confine.core.network_zones import PREFIX
from confine.core.record import Record
from confine.core.steps import NETWORK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Failure, NodeTarget
    from confine.core.network import NetworkFacts, NetworkTarget, Sections
    from confine.core.settings import Settings

WRITTEN, APPLIED, UNDONE = "written", "applied", "undone"
RETRY_S = 6 * 3600.0
MOST_CUTS = 2

FAMILIES = ("IPv4", "IPv6")

# Words for how the network stands (status, node API).
AS_ASKED, CHANGING, BY_HAND, BROKEN = "as asked", "changing", "by hand", "broken"


class NetworkObserved(Record):
    """The network and the change under way. change: the record on disk or None. lost: what answered before the change
    and does not yet again, in words. remaining_s: until it is undone. retry: an undone one may be tried again.
    ready: it is known whether the registry answers, so that a change can be judged by it."""

    FIELDS = ("facts", "change", "lost", "remaining_s", "retry", "ready")

    def __init__(
        self,
        facts: "NetworkFacts",
        change: "dict[str, Any] | None" = None,
        lost: "list[str] | None" = None,
        remaining_s: float = 0.0,
        retry: bool = False,
        ready: bool = True,
    ) -> None:
        self.facts = facts
        self.change = change
        self.lost = lost or []
        self.remaining_s = remaining_s
        self.retry = retry
        self.ready = ready


class NetworkPlan(Record):
    """state: one of the words above, or "undone". steps: to be done now. problems: to be shown. target: what there
    should be, None if nothing is to be changed. overcome: the last failure may be forgotten."""

    FIELDS = ("state", "steps", "problems", "target")

    def __init__(self, state: str, target: "NetworkTarget | None", problems: "list[Problem]") -> None:
        self.state = state
        self.target = target
        self.problems = problems
        self.steps: "list[Step]" = []
        self.overcome = False


def plan(
    settings: "Settings", node: "NodeTarget | None", observed: NetworkObserved, failure: "Failure | None", now: float,
    tinc_port: "int | None" = None,
) -> NetworkPlan:  # fmt: skip
    """What to do about the network now. failure: the last one of a network step that is not overcome. tinc_port: as
    `network.build` has it."""
    target = network.build(settings, node, observed.facts, tinc_port)
    result = NetworkPlan(BY_HAND if target is None else AS_ASKED, target, list(target.problems) if target else [])
    for package in sorted(observed.facts.broken):
        text = observed.facts.broken[package] + ". It is left as it is, and nothing of the network is changed."
        result.problems.append(Problem("", text))
        result.state = BROKEN
    _decide(result, observed)
    if failure is not None:
        result.problems.append(Problem("", "network " + failure.verb + " failed: " + failure.message))
        if failure.retry_at > now:
            result.steps = [step for step in result.steps if step.verb != failure.verb]
        result.overcome = not result.steps and result.state != CHANGING and failure.retry_at <= now
    return result


def _decide(result: NetworkPlan, observed: NetworkObserved) -> None:
    change, target = observed.change, result.target
    state = change["state"] if change is not None else None
    if change is not None and state in (WRITTEN, APPLIED):
        result.state = CHANGING
        _under_way(result, change, observed)
    elif target is not None:
        differing = network.changes(observed.facts.files, target)
        if not differing:
            result.problems.extend(network.missing(target, observed.facts))
        elif change is not None and change.get("wanted") == differing and not observed.retry:
            result.state = UNDONE
            again = " It is tried again after some hours, when something else is asked for, or with: confine refresh"
            result.problems.append(Problem("", "A change of the network was undone: " + change["reason"] + again))
        elif observed.ready:
            step = Step("network", "configure", NETWORK, "Network sections differ: " + listed(differing) + ".")
            step.target = differing
            result.state = CHANGING
            result.steps.append(step)


def _under_way(result: NetworkPlan, change: "dict[str, Any]", observed: NetworkObserved) -> None:
    if change["state"] == WRITTEN:
        result.steps.append(Step("network", "undo", NETWORK, "A change of the network was cut off half-way."))
    elif not observed.lost:
        result.steps.append(Step("network", "confirm", NETWORK, "The network was changed and all answers as before."))
    elif observed.remaining_s <= 0:
        why = "Cut off by the change of the network: " + ", ".join(observed.lost) + "."
        result.steps.append(Step("network", "undo", NETWORK, why))


def lost(before: "dict[str, Any]", now: "dict[str, Any]", error: "str | None" = None) -> "list[str]":
    """Of who answered before a change, who has to answer again and does not, in words.

    Both: {"registry", "IPv4", "IPv6" (a default gateway): bool, "overlay": [addresses of peers], "neighbours":
    [[device, address, MAC address]]}. error: why the registry was not read.

    The registry and a gateway of each family have to. Where none of these did, overlay peers count, any one that did
    will do; where none of those did either, neighbours, so too. A neighbour may have changed its network in the same
    minute: it is known by its hardware address, whatever its address, and whatever bridge is over the device now.
    """
    found = []
    if before.get("registry") and not now.get("registry"):
        found.append("the registry is not read" + (" (" + error + ")" if error else ""))
    for words in FAMILIES:
        if before.get(words) and not now.get(words):
            found.append("no default gateway answers by " + words)
    peers = before.get("overlay") or []
    neighbours = [neighbour for neighbour in before.get("neighbours") or [] if len(neighbour) == 3]
    if before.get("registry") or any(before.get(words) for words in FAMILIES):
        return found
    if peers:
        there = now.get("overlay") or []
        if not any(peer in there for peer in peers):
            found.append("no peer of the overlay answers that did, " + str(peers[0]) + " for one")
    elif neighbours:
        macs = [neighbour[-1] for neighbour in now.get("neighbours") or []]
        if not any(neighbour[-1] in macs for neighbour in neighbours):
            found.append("no neighbour answers that did, " + str(neighbours[0][1]) + " for one")
    return found


def without_overlay(
    before: "dict[str, Any]", files: "dict[str, Sections]", wanted: "dict[str, Any]", settings: "Settings"
) -> "dict[str, Any]":
    """`before` (as `lost` has it) without those whom a change of the node's management address cuts off by itself: with
    it comes another name in the overlay, which the others do not know before they are told the node's key under that
    name. Those are the overlay's peers, and a registry with no address outside the management network."""
    name = PREFIX + "mgmt"
    section = (wanted.get("network") or {}).get(name)
    present = files.get("network", {}).get(name)
    prefix = settings.mgmt_ipv6_prefix48
    if section is None or present is None or prefix is None or section.get("ip6addr") == present.get("ip6addr"):
        return before
    found = dict(before)
    found["overlay"] = []
    if all(_within(uri, prefix) for uri in settings.registry_uris):
        found["registry"] = False
    return found


def _within(uri: str, prefix: str) -> bool:
    """Whether the address of `uri` is one of the management network's: its first 48 bits are `prefix`."""
    host = uri.partition("//[")[2].partition("]")[0]
    try:
        return addressing.parse_ipv6(host)[:3] == addressing.parse_ipv6(prefix + "::")[:3]
    except ValueError:
        return False


def listed(differing: "dict[str, dict[str, Any]]") -> str:
    """The sections of a change, as a person finds them in UCI."""
    names = [package + "." + name for package in sorted(differing) for name in sorted(differing[package])]
    return ", ".join(names[:6]) + (" and " + str(len(names) - 6) + " more" if len(names) > 6 else "")


def previous(files: "dict[str, Sections]", differing: "dict[str, dict[str, Any]]") -> "dict[str, dict[str, Any]]":
    """What the sections of a change are now: the change that undoes it."""
    return {
        package: {name: files.get(package, {}).get(name) for name in sections}
        for package, sections in differing.items()
    }


def remaining(files: "dict[str, Sections]", wanted: "dict[str, dict[str, Any]]") -> "dict[str, dict[str, Any]]":
    """Those sections of `wanted` that are not so yet. Names that are not ours are left out, whoever wrote them."""
    found: "dict[str, dict[str, Any]]" = {}
    for package, sections in wanted.items():
        for name, section in sections.items():
            if name.startswith(PREFIX) and files.get(package, {}).get(name) != section:
                found.setdefault(package, {})[name] = section
    return found
