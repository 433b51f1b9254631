"""The state machines: which state node and slivers are in, and how far up a sliver may go. Pure.

Sliver (node API): registered -> allocated -> deployed -> started; fail_allocate, fail_deploy and fail_start while
the last try to go up failed.

    on the node                            state
    nothing, or not completely allocated   registered
    disk image and number                  allocated
    root populated as well                 deployed
    running, its limits hold               started
    running, its limits do not hold        fail_start

Node (node API, registry API): the registry's set_state, once the node's own checks pass; debug until then.

    set_state           the node shows        slivers
    debug, failure      the same              all removed
    safe                safe, or debug *      up to deployed; what runs is stopped
    production          production, debug *   as asked
    never read          debug                 nothing is changed

* The node's own set-up is wrong: `debug` is shown and nothing goes up, but nothing that runs is stopped or removed
for that. This is on purpose: a fault of the node (its firewall cannot be loaded, its settings were broken by hand) is
no reason to destroy the work of those who use it. What the registry takes down goes down all the same.
Production is only reached through safe: the checks that make a node safe are those that let slivers start.
"""

from confine.core import steps
from confine.core.model import (
    ALLOCATED,
    DEBUG,
    DEPLOY,
    DEPLOYED,
    FAIL_START,
    FAILURE,
    NODE_STATES,
    PRODUCTION,
    REGISTER,
    REGISTERED,
    SAFE,
    START,
    STARTED,
    TARGETS,
    Problem,
)
from confine.core.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import Desired, Failure, Observed, SliverObserved
    from confine.core.settings import Settings

STATES = (REGISTERED, ALLOCATED, DEPLOYED, STARTED)

# The highest target that each state of the node lets through.
CEILINGS = {DEBUG: REGISTER, FAILURE: REGISTER, SAFE: DEPLOY, PRODUCTION: START}

# The level (index in STATES) that each target asks for.
LEVELS = {REGISTER: 0, DEPLOY: 2, START: 3}


class NodeView:
    """What the node's state means for its slivers.

    state: to be shown; problems: why it is not what was asked. ceiling: the highest target there is.
    frozen: nothing at all is to be done with slivers. hold: nothing goes up. startable: containers may be started.
    """

    def __init__(
        self, state: str, problems: "list[Problem]", ceiling: str, frozen: bool, hold: bool, startable: bool
    ) -> None:
        self.state = state
        self.problems = problems
        self.ceiling = ceiling
        self.frozen = frozen
        self.hold = hold
        self.startable = startable


def node_view(
    desired: "Desired", observed: "Observed", failure: "Failure | None", settings: "Settings",
    own_problems: "list[Problem]",
) -> NodeView:  # fmt: skip
    """Where the node stands. own_problems are shown with it; what holds slivers back is found out here."""
    problems = list(own_problems)
    node = desired.node
    if node is None:
        problems.append(Problem("", "There is no usable document of this node from the registry yet."))
        return NodeView(DEBUG, problems, START, True, True, False)
    if node.set_state not in NODE_STATES:
        problems.append(Problem("/set_state", shown(node.set_state) + " is no state: nothing is changed."))
        return NodeView(DEBUG, problems, START, True, True, False)
    setup = setup_problems(settings)
    parts = part_problems(observed, failure)
    problems.extend(setup + parts)
    ready = observed.bridge and observed.firewall
    hold = bool(setup or parts)
    passed = ready and not hold
    state = node.set_state if passed or CEILINGS[node.set_state] == REGISTER else DEBUG
    return NodeView(state, problems, CEILINGS[node.set_state], False, hold, ready)


def setup_problems(settings: "Settings") -> "list[Problem]":
    """Settings without which this is no node of a testbed."""
    problems = []
    if settings.node_id is None:
        problems.append(Problem("/node/id", "The node's id is not set: no sliver goes up."))
    if not settings.registry_uris:
        problems.append(
            Problem("/registry/base_uri", "No registry can be asked with these settings: no sliver goes up.")
        )
    return problems


def part_problems(observed: "Observed", failure: "Failure | None") -> "list[Problem]":
    """Parts of the node that could not be put up and still are not there."""
    if failure is None:
        return []
    there = {"links": observed.bridge, "firewall": observed.firewall}
    if there.get(failure.driver, True):
        return []
    return [Problem("", failure_text(failure))]


def failure_text(failure: "Failure") -> str:
    """A failure as a sentence."""
    times = "" if failure.count == 1 else ", " + str(failure.count) + " times in a row"
    return failure.driver + " " + failure.verb + " failed" + times + ": " + failure.message


def lower(one: str, other: str) -> str:
    """The lower one of two targets."""
    return TARGETS[min(TARGETS.index(one), TARGETS.index(other))]


def level(found: "SliverObserved") -> int:
    """Where a sliver is: index in STATES."""
    if found.running:
        return 3
    if found.allocation is None:
        return 0
    return 1 if found.deployment is None else 2


def sliver_state(found: "SliverObserved", target: str, failure: "Failure | None", refused: bool) -> str:
    """The state to show. `failure`: the last one, if it is not overcome; `refused`: it may not be allocated."""
    here = level(found)
    if found.running and found.limits_held is False:
        return FAIL_START
    if here >= LEVELS[target]:
        return STATES[here]
    if refused and here == 0:
        return steps.FAIL_STATES[steps.ALLOCATE]
    phase = None if failure is None else failure_phase(failure)
    return steps.FAIL_STATES.get(phase or steps.DOWN, STATES[here])


def failure_phase(failure: "Failure") -> str:
    """The phase of the step that failed; of one that is no longer in the table: down."""
    try:
        return steps.phase(failure.driver, failure.verb)
    except KeyError:
        return steps.DOWN
