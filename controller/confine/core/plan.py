"""From what is asked and what is found to the steps that lead there. Pure."""

from confine.core import network_change, overlay, states
from confine.core.addressing import parse_hostname
from confine.core.booking import Ledger
from confine.core.decisions import Decisions
from confine.core.model import DEPLOY, REGISTER, Problem, SliverObserved, Step
from confine.core.reading import mapping, text
from confine.core.record import Record
from confine.core.sliver_plan import Case, Round, plan_sliver
from confine.core.steps import NETWORK, NODE
from confine.core.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.decisions import Decision
    from confine.core.model import Booking, Desired, Failure, Observed, SliverTarget
    from confine.core.network_change import NetworkPlan
    from confine.core.settings import Settings
    from confine.core.sliver_plan import Outcome

FIRST_WAIT_S = 10.0
LONGEST_WAIT_S = 900.0
SPREAD = 0.2


class Plan(Record):
    """What to do now, and how things stand.

    node_steps: to be done first, in order. sliver_steps: {name: the whole ordered list of steps}, only names with
    something to do; lists of different slivers are independent. states: {name: (state, problems)} for every sliver
    asked for or found. targets: {name: target after the node's state and its owner's decisions have their say}.
    working: {name: the target as its steps carry it: what was allocated stays as it was allocated}. node_state: the
    state to show; node_problems: why. boot_sn_done: write it to the journal *before* carrying out node_steps (a reboot
    among them must not come twice); None: nothing to write. keep: sha256 of all cache files in use, not to be evicted.
    overcome: subjects whose failure may be forgotten; no other may (a step down that succeeds does not end the
    back-off of the step up that failed). decisions: those that were counted in. network: how the node's own network
    stands; None: it is not looked after.
    """

    FIELDS = (
        "node_steps", "sliver_steps", "states", "targets", "working", "node_state", "node_problems", "boot_sn_done",
        "keep", "overcome", "network",
    )  # fmt: skip

    def __init__(self, node_state: str, node_problems: "list[Problem]") -> None:
        self.node_steps: "list[Step]" = []
        self.sliver_steps: "dict[str, list[Step]]" = {}
        self.states: "dict[str, tuple[str, list[Problem]]]" = {}
        self.targets: "dict[str, str]" = {}
        self.working: "dict[str, SliverTarget]" = {}
        self.node_state = node_state
        self.node_problems = node_problems
        self.boot_sn_done: "int | None" = None
        self.keep: "list[str]" = []
        self.overcome: "list[str]" = []
        self.decisions = Decisions()
        self.network: "NetworkPlan | None" = None


def plan(
    desired: "Desired",
    observed: "Observed",
    bookings: "dict[str, Booking]",
    failures: "dict[str, Failure]",
    settings: "Settings",
    now: float,
    boot_sn_done: "int | None",
    own_problems: "list[Problem] | None" = None,
    decisions: "Decisions | None" = None,
    wall: float = 0.0,
) -> Plan:
    """The steps from `observed` to `desired`.

    failures: {sliver name, or "node" for node steps: the last failure not yet overcome}. now: same clock as
    `Failure.retry_at`. boot_sn_done: the boot_sn last obeyed (from the journal), None if there is none yet.
    own_problems: what else is wrong with the node, to be shown with it; they hold nothing back by themselves.
    decisions: those of the node's owner. wall: wall clock seconds.
    A round is over when the plan is empty: plan again as soon as steps were done.
    """
    node_failure = failures.get(NODE)
    view = states.node_view(desired, observed, node_failure, settings, own_problems or [])
    result = Plan(view.state, view.problems)
    result.decisions = decisions or Decisions()
    _plan_network(result, desired, observed, failures.get(NETWORK), settings, now)
    _plan_node(result, desired, observed, node_failure, settings, now, boot_sn_done)
    _plan_overlay(result, desired, observed, failures.get(overlay.OVERLAY), settings, now, wall)
    ledger = Ledger(bookings, observed)
    round_ = Round(desired, observed, bookings, failures, settings, now, view, ledger, result.decisions)
    _plan_asked(result, round_)
    _plan_others(result, round_)
    if any(step.verb == "reboot" for step in result.node_steps):
        result.sliver_steps = {}
    result.keep = _in_use(result, observed)
    known = set(result.states)
    result.overcome.extend(
        name for name in sorted(failures) if name not in known and name not in (NODE, NETWORK, overlay.OVERLAY)
    )
    return result


def next_retry(count: int, random01: float) -> float:
    """Seconds to wait after the `count`-th failure in a row: doubling from 10 s to 15 min at most, and up to a fifth
    less by `random01` in [0, 1), so that nodes do not come back all at once.
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * (1 << min(max(count, 1) - 1, 10)))
    return longest * (1 - SPREAD * random01)


def _plan_network(
    result: Plan, desired: "Desired", observed: "Observed", failure: "Failure | None", settings: "Settings", now: float
) -> None:
    """Comes first: what else there is stands on it. Its faults are shown and hold nothing back by themselves."""
    if observed.network is None:
        return
    port = overlay.own_port(observed.overlay, settings) if observed.overlay is not None else None
    result.network = network_change.plan(settings, desired.node, observed.network, failure, now, port)
    result.node_steps.extend(result.network.steps)
    result.node_problems.extend(result.network.problems)
    if result.network.overcome:
        result.overcome.append(NETWORK)


def _plan_node(
    result: Plan,
    desired: "Desired",
    observed: "Observed",
    failure: "Failure | None",
    settings: "Settings",
    now: float,
    boot_sn_done: "int | None",
) -> None:
    """The node's own steps. A reboot comes once for each grown boot_sn (registry API); the first one ever seen, and
    one that went down, are only taken note of.

    Settings without an id are those of a file that says too little, or cannot be read: the bridge stays as it is (the
    node may be reached by its address), and the firewall of slivers is kept as it stands (drivers/firewall.py).
    """
    named = settings.node_id is not None
    if failure is not None and not states.part_problems(observed, failure):
        result.overcome.append(NODE)
    if failure is None or failure.retry_at <= now:
        if named and not observed.bridge:
            result.node_steps.append(Step("links", "bridge", NODE, "The slivers' bridge is not as it should be."))
        if not observed.firewall:
            why = "are not there" if named else "are to be watched over"
            result.node_steps.append(Step("firewall", "install", NODE, "The node's nftables tables " + why + "."))
    node = desired.node
    if node is None or node.boot_sn < 0 or node.boot_sn == boot_sn_done:
        return
    result.boot_sn_done = node.boot_sn
    if boot_sn_done is not None and node.boot_sn > boot_sn_done:
        why = (
            "The registry asks for a reboot: boot_sn is " + str(node.boot_sn) + ", last was " + str(boot_sn_done) + "."
        )
        result.node_steps.append(Step("boot", "reboot", NODE, why))


def _plan_overlay(
    result: Plan,
    desired: "Desired",
    observed: "Observed",
    failure: "Failure | None",
    settings: "Settings",
    now: float,
    wall: float,
) -> None:
    """The overlay's own steps: what fails there holds nothing else back."""
    if observed.overlay is None:
        return
    steps, problems = overlay.plan(desired.overlay, observed.overlay, settings, wall)
    result.node_problems.extend(problems)
    if failure is not None and not steps:
        result.overcome.append(overlay.OVERLAY)
    elif failure is not None:
        result.node_problems.append(Problem("", states.failure_text(failure)))
    if failure is None or failure.retry_at <= now:
        result.node_steps.extend(steps)


def _plan_asked(result: Plan, round_: Round) -> None:
    """The slivers that are asked for, by slice id: what others hold already counts before any is let in."""
    for sliver in sorted(round_.desired.slivers, key=lambda sliver: sliver.slice_id):
        running = sliver.name in round_.observed.slivers and round_.observed.slivers[sliver.name].running
        target = states.lower(sliver.target, round_.view.ceiling)
        target = lowered(target, round_.decisions.of(sliver.name), running)
        outcome = plan_sliver(Case(sliver.name, sliver, target, "", round_))
        _take(result, outcome, sliver.name)
        result.targets[sliver.name] = target
        if outcome.working is not None:
            result.working[sliver.name] = outcome.working


def lowered(target: str, decision: "Decision", running: bool) -> str:
    """`target` after the owner's decision, which only ever lowers it. A paused sliver stays up if it runs, and is not
    started if it does not (after a reboot)."""
    if decision.state is not None:
        target = states.lower(target, str(decision.state.target))
    if decision.stop is not None or (decision.pause is not None and not running):
        target = states.lower(target, DEPLOY)
    return target


def _take(result: Plan, outcome: "Outcome", name: str) -> None:
    result.states[name] = (outcome.state, outcome.problems)
    if outcome.steps:
        result.sliver_steps[name] = outcome.steps
    if outcome.overcome:
        result.overcome.append(name)


def _plan_others(result: Plan, round_: Round) -> None:
    """What is on the node and not asked for: removed if it is certain that it is not, left alone otherwise."""
    certain = round_.desired.complete or round_.view.ceiling == REGISTER
    for name in sorted(set(round_.observed.slivers) | set(round_.bookings)):
        if name in result.states:
            continue
        found = round_.observed.slivers.get(name) or SliverObserved(name)
        ids = parse_hostname(name)
        node = round_.desired.node
        if round_.decisions.of(name).stop is not None:
            _take(result, plan_sliver(Case(name, None, REGISTER, "", round_)), name)
            continue
        if node is not None and (ids is None or ids[1] != node.id):
            message = shown(name) + " is not the name of a sliver of this node: it is left alone. Remove it by hand."
            result.node_problems.append(Problem("", message))
        elif certain and not round_.view.frozen:
            why = "The registry does not list this sliver any more."
            _take(result, plan_sliver(Case(name, None, REGISTER, why, round_)), name)
            continue
        result.states[name] = (states.STATES[states.level(found)], [])


def _in_use(result: Plan, observed: "Observed") -> "list[str]":
    """sha256 of templates and data that a sliver is made from or will be."""
    kept: "set[str]" = set()
    for name, sliver in result.working.items():
        if result.targets[name] != REGISTER:
            kept.update(part.sha256 for part in (sliver.template, sliver.data) if part is not None)
    for found in observed.slivers.values():
        for member in ("template", "data"):
            sha256 = text(mapping(found.allocation, member), "sha256")
            if sha256 is not None:
                kept.add(sha256)
    return sorted(kept)
