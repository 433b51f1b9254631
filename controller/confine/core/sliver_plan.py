"""The plan for one sliver: from where it is to where it should be. Pure.

Down comes first: what must not stay as it is (asked for no longer, to be made anew, limits that do not hold), then
up again as far as sliver, node and failures allow. See states.py for what the states mean.
"""

from confine.core import firewall, interfaces, keys, resources, states, wiring
from confine.core.booking import of_allocation
from confine.core.decisions import OWNER
from confine.core.ladder import Works, as_allocated, with_changes
from confine.core.model import Problem, SliverObserved
from confine.core.reading import text, whole
from confine.core.redo import DEPLOYED, REGISTERED, STARTED, Redo, redo_of
from confine.core.sliver_documents import is_unknown
from confine.core.steps import DOWN

STOPPED = "Stopped by the node's owner."
DAEMON = "the node's daemon"  # who keeps limits, whoever asked for the sliver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.booking import Ledger
    from confine.core.decisions import Decisions, Mark
    from confine.core.model import Booking, Desired, Failure, Observed, SliverTarget, Step
    from confine.core.settings import Settings
    from confine.core.states import NodeView


class Round:
    """What is the same for all slivers of one plan."""

    def __init__(
        self,
        desired: "Desired",
        observed: "Observed",
        bookings: "dict[str, Booking]",
        failures: "dict[str, Failure]",
        settings: "Settings",
        now: float,
        view: "NodeView",
        ledger: "Ledger",
        decisions: "Decisions",
    ) -> None:
        self.desired = desired
        self.observed = observed
        self.bookings = bookings
        self.failures = failures
        self.settings = settings
        self.now = now
        self.view = view
        self.ledger = ledger
        self.decisions = decisions
        self.total = resources.lent(observed, settings)


class Outcome:
    """The plan for one sliver. working: the target as the steps carry it, None for one not asked for."""

    def __init__(
        self, state: str, problems: "list[Problem]", steps: "list[Step]", working: "SliverTarget | None", overcome: bool
    ) -> None:
        self.state = state
        self.problems = problems
        self.steps = steps
        self.working = working
        self.overcome = overcome


class Case:
    """One sliver. sliver: None if it is not asked for, `why_gone` says why. target: after the node's say."""

    def __init__(self, name: str, sliver: "SliverTarget | None", target: str, why_gone: str, round_: Round) -> None:
        self.name = name
        self.decision = round_.decisions.of(name)
        self.sliver = sliver if sliver is None else with_changes(sliver, reset=self.decision.reset)
        self.target = target
        self.why_gone = why_gone
        self.round = round_
        self.want = states.LEVELS[target]
        self.found = round_.observed.slivers.get(name) or SliverObserved(name)
        self.booking = round_.bookings.get(name)
        self.failure = round_.failures.get(name)
        self.refusals: "list[Problem]" = []
        self.lacking: "list[Problem]" = []  # of its interfaces, while it goes up or runs
        self.unwired = False  # something of them is to be changed

    @property
    def waits(self) -> bool:
        """Whether the last failure is too fresh to try again."""
        return self.failure is not None and self.failure.retry_at > self.round.now

    @property
    def damaged(self) -> "Booking | None":
        """What was set aside for the sliver whose documents are damaged: they can be written anew. None if they are
        whole, or nothing says so any more."""
        return (self.booking or of_allocation(self.name, self.found.allocation)) if self.found.damaged else None

    @property
    def present(self) -> bool:
        """Whether anything of the sliver is on the node."""
        return self.booking is not None or self.name in self.round.observed.slivers

    def ports_differ(self, working: "SliverTarget | None", booking: "Booking | None") -> bool:
        """Whether the firewall lets the running sliver's interfaces say something else than they may."""
        if working is None or booking is None or is_unknown(working) or not self.found.running:
            return False
        found = interfaces.of_sliver(working, booking, self.round.settings)[0]
        return firewall.ports_of(found) != self.found.admitted

    def keys_differ(self) -> bool:
        """Whether the keys in the deployed sliver are others than those asked for."""
        if self.sliver is None or self.sliver.blocked or self.found.deployment is None:
            return False
        return text(self.found.deployment, "keys_digest") != keys.digest(self.sliver.keys)


def plan_sliver(case: Case) -> Outcome:
    """State, problems and steps of one sliver."""
    working = _working(case)
    works = Works(case.name, case.found, case.round.observed, working, case.booking)
    if case.decision.stop is not None:
        return _stopped(case, works, working)
    if case.damaged is not None and case.want != REGISTERED:
        return _damaged(case, works, case.damaged)
    redo = None if case.want == REGISTERED else redo_of(case)
    if not case.round.view.frozen:
        _go(case, works, redo, working)
    rest = _at_rest(case, redo) and not case.ports_differ(working, works.booking)
    rest = rest or (bool(case.refusals) and not case.present)
    problems = list(case.sliver.problems) if case.sliver is not None else []
    problems.extend(case.refusals)
    problems.extend(case.lacking)
    if case.found.running and case.found.limits_held is False:
        problems.append(Problem("", "The limits of the running sliver do not hold: it is stopped."))
    if case.failure is not None and not rest:
        problems.append(Problem("", states.failure_text(case.failure)))
    shown = None if rest else case.failure
    refused = bool(case.refusals) or (case.sliver is not None and case.sliver.blocked)
    state = states.sliver_state(case.found, case.target, shown, refused)
    return Outcome(state, problems, works.steps, working, rest and case.failure is not None)


def _stopped(case: Case, works: Works, working: "SliverTarget | None") -> Outcome:
    """A sliver that people stopped: it does not run, and stays as it is, whatever else is asked, so that what it did
    can be looked into."""
    stop, found = case.decision.stop, case.found
    waits = case.waits and case.failure is not None and states.failure_phase(case.failure) == DOWN
    if stop is not None and not waits:
        why = "Stopped " + stop.words() + "."
        works.who = stop.who
        if stop.kill and (found.running or found.limited):
            works.add("containers", "stop", why)
            works.add("limits", "remove", why)
        elif not stop.kill and found.running and not found.frozen:
            works.add("limits", "freeze", why)
    problems = [Problem("", STOPPED)]  # who, from where and why is the owner's (`decisions` of confine status)
    if case.sliver is not None:
        problems.extend(case.sliver.problems)
    rest = not works.steps and not waits
    if case.failure is not None and not rest:
        problems.append(Problem("", states.failure_text(case.failure)))
    state = states.STATES[min(states.level(found), DEPLOYED)]
    return Outcome(state, problems, works.steps, working, rest and case.failure is not None)


def _damaged(case: Case, works: Works, booking: "Booking") -> Outcome:
    """A sliver one of whose documents is damaged: it stays as it is until that is written anew, from the other one,
    the booking and what the registry asks for; where that cannot be had yet, it waits."""
    view, sliver = case.round.view, case.sliver
    problems = [Problem("", text) for text in case.found.damaged]
    problems.extend(sliver.problems if sliver is not None else [])
    ready = sliver is not None and not sliver.blocked and not view.frozen and not view.hold
    if case.failure is not None:
        problems.append(Problem("", states.failure_text(case.failure)))
    if ready and not case.waits:
        works.booking = booking
        works.sliver = _as_it_was(works.sliver, case.found)
        works.add("storage", "mend", " ".join(case.found.damaged))
    state = states.STATES[states.level(case.found)]
    return Outcome(state, problems, works.steps, works.sliver, False)


def _as_it_was(sliver: "SliverTarget | None", found: "SliverObserved") -> "SliverTarget | None":
    """`sliver` of the instance that is on the node, as far as a whole document says: a new one is a change that comes
    afterwards."""
    serial = whole(found.deployment, "sliver_instance_sn")
    if sliver is None or found.allocation or serial is None:
        return sliver
    return with_changes(sliver, sliver_instance_sn=serial)


def _working(case: Case) -> "SliverTarget | None":
    """The target as steps carry it: with what was allocated, unless it is to be allocated anew."""
    if case.sliver is None:
        return None
    sliver = with_changes(case.sliver, target=case.target)
    redo = None if sliver.blocked else redo_of(case)
    if case.found.allocation is None or (redo is not None and redo.level == REGISTERED):
        return sliver
    return as_allocated(sliver, case.found.allocation)


def _at_rest(case: Case, redo: "Redo | None") -> bool:
    """Whether the sliver is where it should be, so that nothing is left to do or to fail."""
    if case.want == REGISTERED:
        return not case.present
    found = case.found
    here = states.level(found) == case.want and redo is None and not case.keys_differ()
    here = here and not case.unwired and (not found.running or found.frozen == (case.decision.pause is not None))
    return here and found.limits_held is not False and (case.want == STARTED or not found.limited)


def _go(case: Case, works: Works, redo: "Redo | None", working: "SliverTarget | None") -> None:
    """Fill `works` with the steps that may be done now."""
    if case.waits and case.failure is not None and states.failure_phase(case.failure) == DOWN:
        return
    if case.want == REGISTERED:
        _leave(case, works)
        return
    if case.want == DEPLOYED:
        held = _held(case)
        works.who = held.who if held is not None else ""
        works.stop(_words(held) or "The sliver is asked to be " + states.STATES[case.want] + ", not to run.")
    if case.found.running and case.found.limits_held is False:
        works.who = DAEMON
        works.stop("The limits of the running sliver do not hold.")
    works.who = ""
    held_back = case.round.view.hold or (case.sliver is not None and case.sliver.blocked)
    if redo is not None and not held_back:
        works.who = redo.who
        _descend(works, redo)
        works.who = ""
    fresh = redo is not None and redo.fresh
    if not case.round.view.hold and (fresh or not case.waits) and working is not None:
        _climb(case, works, working)
    known = redo is not None or not case.ports_differ(working, works.booking)
    if works.running and not known and case.round.observed.firewall and not case.waits:
        works.add("firewall", "admit", "The firewall does not know its interfaces as they are.")
    if working is not None and works.running:
        _wire(case, works, working)
    if not works.running and not works.steps:
        works.detach("The sliver does not run.")
        works.dismiss("The sliver does not run.")
    _freeze_or_thaw(case, works)


def _wire(case: Case, works: Works, working: "SliverTarget") -> None:
    """A running sliver's interfaces follow what is asked, one by one: the others stay as they are."""
    booking, wired = works.booking, case.found.wired
    if booking is None or is_unknown(working):
        return
    settings, links = case.round.settings, case.round.observed.links
    made, problems = interfaces.of_sliver(working, booking, settings)
    said = [problem.member for problem in case.lacking]
    case.lacking.extend(problem for problem in problems if problem.member not in said)
    ready, kept = [], []
    shaped = wiring.shape(working, settings)
    for interface in made:
        waits = wiring.waits_for(interface, links, settings) if wired is not None else None
        if waits is None:
            ready.append(interface)
            waits = wiring.unleased(interface, wired) if wired is not None else None
        elif wired is not None and wiring.stays(interface, wired, links, settings, shaped):
            kept.append(interface.port)
        if waits is not None:
            case.lacking.append(Problem("/interfaces", interface.name + " (" + interface.type + "): " + waits + "."))
    if wired is None or not case.found.running:
        return
    why = wiring.differs(ready, wired, shaped, kept)
    case.unwired = why is not None
    if why is not None and not case.waits and not case.round.view.hold:
        works.add("interfaces", "attach", why)


def _freeze_or_thaw(case: Case, works: Works) -> None:
    """A sliver that runs is frozen as long as it is paused, and no longer."""
    if not works.running:
        return
    pause = case.decision.pause
    works.who = pause.who if pause is not None else OWNER  # whoever ended a pause or stop left no mark but the record
    if pause is not None and not works.frozen:
        works.add("limits", "freeze", "Paused " + pause.words() + ".")
    elif pause is None and works.frozen:
        works.add("limits", "thaw", "It is neither paused nor stopped any more.")


def _leave(case: Case, works: Works) -> None:
    """Off the node, number and all."""
    if not case.present:
        return
    held = _held(case)
    works.who = held.who if held is not None else ""
    why = case.why_gone or _words(held)
    if not why:
        of_node = case.sliver is not None and case.sliver.target != case.target
        why = "The node's state asks for no sliver." if of_node else "The sliver is asked to be registered only."
    works.remove(why)
    if case.booking is not None:
        works.add("journal", "release", why)


def _held(case: Case) -> "Mark | None":
    """The owner's mark, if the sliver is lower for it than it would be."""
    mark, sliver = case.decision.state, case.sliver
    if mark is None or sliver is None or mark.target != case.target:
        return None
    return mark if states.lower(sliver.target, case.round.view.ceiling) != case.target else None


def _words(held: "Mark | None") -> str:
    return "Held at " + str(held.target) + " " + held.words() + "." if held is not None else ""


def _descend(works: Works, redo: Redo) -> None:
    if redo.level == REGISTERED:
        works.remove(redo.why)
    else:
        works.undeploy(redo.why)


def _climb(case: Case, works: Works, working: "SliverTarget") -> None:
    """Up as far as may be."""
    if working.blocked:
        _restart_blocked(case, works, working)
        return
    if not works.allocated:
        if not _admit(case, works, working):
            return
    else:
        _rebook(case, works)
    old_keys = works.deployed and case.keys_differ()
    if not works.deployed:
        works.deploy()
    if old_keys:
        works.mount()
        works.add("storage", "keys", "The keys allowed into the sliver changed.")
    if _may_start(case, works):
        works.start(_why_start(working))


def _restart_blocked(case: Case, works: Works, working: "SliverTarget") -> None:
    """Documents that cannot be used build nothing new; what was deployed by good ones runs again, after a reboot."""
    deployed = works.allocated and works.deployed and case.name not in case.round.ledger.clashing
    if deployed and not is_unknown(working) and _may_start(case, works):
        _rebook(case, works)
        works.start(_why_start(working))


def _may_start(case: Case, works: Works) -> bool:
    wanted = case.want == STARTED and case.decision.pause is None
    return wanted and case.round.view.startable and not works.running


def _why_start(working: "SliverTarget") -> str:
    return "Slice " + str(working.slice_id) + " asks for start and the sliver does not run."


def _admit(case: Case, works: Works, working: "SliverTarget") -> bool:
    """Allocate if the node lets the sliver in; else give back what was booked for it."""
    node = case.round.desired.node
    if node is None:
        return False
    booking, case.refusals = case.round.ledger.admit(working, node, case.round.settings, case.round.total)
    if booking is None:
        _give_back(case, works)
        return False
    works.booking = booking
    if booking != case.booking:
        sizes = str(booking.memory_mib) + " MiB of memory and " + str(booking.disk_mib) + " MiB of disk"
        works.add("journal", "book", "Number " + str(booking.nr) + ", " + sizes + " are set aside for the sliver.")
    works.allocate()
    return True


def _give_back(case: Case, works: Works) -> None:
    """A sliver that is not let in holds nothing."""
    why = "The node cannot let the sliver in: what was set aside for it is given back."
    if case.present and not works.steps:
        works.remove(why)
    if case.booking is not None:
        works.add("journal", "release", why)


def _rebook(case: Case, works: Works) -> None:
    """A booking that was lost, or never written, is what the allocation on disk says."""
    ledger = case.round.ledger
    held = ledger.entries.get(case.name)
    if held is None or not held.nr:
        return
    why = "The booking of what is allocated is missing in the journal."
    if held == case.booking:
        why = "Its VLAN tag or public addresses changed."
    if works.sliver is not None and not is_unknown(works.sliver):
        held, refused, waiting = ledger.with_network(works.sliver, held, case.round.settings)
        ledger.entries[case.name] = held
        case.lacking = refused + waiting
    if held != case.booking:
        works.booking = held
        works.add("journal", "book", why)
