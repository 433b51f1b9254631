"""From what is asked and what is found to the steps that lead there. Pure."""

from confine.core.model import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import Booking, Desired, Failure, Observed, Problem, Step
    from confine.core.settings import Settings


class Plan(Record):
    """What to do now, and how things stand.

    node_steps: to be done first, in order. sliver_steps: {name: the whole ordered list of steps}, only names with
    something to do; lists of different slivers are independent. states: {name: (state, problems)} for every sliver
    asked for or found. targets: {name: target after the node's state has its say}. node_state: the state to show;
    node_problems: why. boot_sn_done: write it to the journal *before* carrying out node_steps (a reboot among them
    must not come twice); None: nothing to write. keep: sha256 of all cache files in use, not to be evicted.
    """

    FIELDS = (
        "node_steps", "sliver_steps", "states", "targets", "node_state", "node_problems", "boot_sn_done", "keep",
    )  # fmt: skip

    def __init__(
        self,
        node_steps: "list[Step]",
        sliver_steps: "dict[str, list[Step]]",
        states: "dict[str, tuple[str, list[Problem]]]",
        targets: "dict[str, str]",
        node_state: str,
        node_problems: "list[Problem]",
        boot_sn_done: "int | None",
        keep: "list[str]",
    ) -> None:
        self.node_steps = node_steps
        self.sliver_steps = sliver_steps
        self.states = states
        self.targets = targets
        self.node_state = node_state
        self.node_problems = node_problems
        self.boot_sn_done = boot_sn_done
        self.keep = keep


def plan(
    desired: "Desired",
    observed: "Observed",
    bookings: "dict[str, Booking]",
    failures: "dict[str, Failure]",
    settings: "Settings",
    now: float,
    boot_sn_done: "int | None",
    own_problems: "list[Problem] | None" = None,
) -> Plan:
    """The steps from `observed` to `desired`.

    failures: {sliver name, or "node" for node steps: the last failure not yet overcome}. now: same clock as
    `Failure.retry_at`. boot_sn_done: the boot_sn last obeyed (from the journal), None if there is none yet.
    own_problems: the node's own set-up errors that only the caller knows (data partition, journal...).
    A round is over when the plan is empty: plan again as soon as steps were done.
    """
    raise NotImplementedError


def next_retry(count: int, random01: float) -> float:
    """Seconds to wait after the `count`-th failure in a row; `random01` in [0, 1) spreads nodes in time."""
    raise NotImplementedError
