"""Joins the parts: state and settings to desired, desired and observed to a plan, the plan to the crew, and a report.

One thread plans. It wakes when the registry was read, a job ended, somebody asked, or it is time to look again.
"""

import os
import time

from confine import stop, verbs
from confine.clock import ntp_date
from confine.control import ControlServer
from confine.core import desired as desired_rules
from confine.core import plan as plan_rules
from confine.core.decisions import Decision
from confine.core.model import Desired, Observed, Problem, SliverTarget, Step
from confine.core.settings import Settings
from confine.crew import Cancelled, Crew, Job
from confine.decisions import DecisionBook
from confine.drivers.watch import Watch
from confine.errors import StepError
from confine.failures import Failures
from confine.journal import Journal
from confine.log import Log
from confine.machine import Machine
from confine.paths import Paths
from confine.reader import Reader
from confine.recording import Recording
from confine.status import Board
from confine.wake import Wake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.api.server import ApiServer
    from confine.upgrade.updater import Updater
    from confine.upgrade.watchdog import Guard

BEGAN = time.monotonic()  # this process, whatever settings it read since
LOOK_AGAIN_S = 30.0
CHANGING_S = 2.0  # while a change of the network waits to be confirmed
STOPPING = ("containers", "stop")
STOP_TIMEOUT_S = 20.0
WORKED_FOR = ("uri", "target", "sliver_instance_sn", "slice_instance_sn", "template", "data", "limits", "blocked",
              "reset")  # fmt: skip
GATHER_S = 0.05  # what comes together is planned for together
BUSY_SHARE = 2.0  # while jobs run: rest so many times as long as the last turn took, else turns take the jobs' time
LONGEST_REST_S = 1.0


class Controller:
    """One life of the daemon, from one set of settings. reload: after `run()`, it is to begin again."""

    def __init__(self, paths: Paths, settings: Settings, problems: "list[Problem]", log: Log) -> None:
        self._settings = settings
        self._log = log
        self._waker = Wake()
        self._asked = Wake()  # told of all but the end of a job while others go on
        self._took_s = 0.0
        self._journal = Journal(paths)
        self._own_problems = problems + [Problem("", text) for text in self._journal.problems]
        self._reader = Reader(paths, settings, log, self._wake)
        self._crew = Crew(self._carry_out, self._finished)
        self._book = DecisionBook(paths)
        self._machine = Machine(
            paths, settings, self._journal, self._book, self._reader.fetcher, self._crew.progress, self._reader,
            self._wake,
        )  # fmt: skip
        self._paths = paths
        self._sentences: dict[str, list[str]] = {}
        self._failures = Failures()
        self._peers: set[str] = set()
        self._looked = False
        self._stopping = False
        self.reload = False
        self.beat: Callable[[], None] = lambda: None  # called as long as the loop goes on: before and after each turn
        self._watch = Watch(paths.cgroup, self._waker.handle)
        self._recording = Recording(paths, settings, self._journal, self._machine.limits.usage)
        self._board = Board(settings, self._machine, self._journal, self._reader, self._crew, self._recording)

    # ---- from outside -------------------------------------------------------------------------------------------

    def stop(self, reload: bool = False) -> None:
        """End `run()` soon. Only sets a flag and writes a byte: safe in a signal handler. No reload undoes a stop."""
        self.reload = reload and (self.reload or not self._stopping)
        self._stopping = True
        self._wake()

    def look(self) -> None:
        """Plan anew soon: a peer of the overlay came or went. Safe in a signal handler."""
        self._wake()

    def run(self) -> None:
        """Work until stopped. Slivers are left running."""
        self._log.info("node", "controller started")
        self.beat()
        try:
            self._first_look()
        except Exception as error:  # each turn tries again; whoever asks meanwhile is told
            self._round_failed(error)
        control = ControlServer(self._paths.control, self._verb)
        api = self._api_server()
        self._reader.start()
        self._recording.start()
        guard = self._guard()
        updater = self._updater()
        while not self._stopping:
            begun = time.monotonic()
            self._turn()
            self._took_s = time.monotonic() - begun
            self.beat()
            if guard is not None:
                guard.beat()
            self._sleep()
        if guard is not None:
            guard.close()
        control.close()
        if api is not None:
            api.close()
        if updater is not None:
            updater.close()
        self._reader.close()
        if not self._crew.close(STOP_TIMEOUT_S):
            self._log.warn("node", "steps still run after {:.0f} s: they end with the daemon".format(STOP_TIMEOUT_S))
        self._recording.close()
        self._watch.close()
        self._machine.close()
        self._waker.close()
        self._asked.close()
        self._log.info("node", "controller stopped, slivers go on" if not self.reload else "reading settings again")

    def _verb(self, verb: str, args: "dict[str, Any]") -> "Any":
        args = verbs.checked(verb, args)
        if verb == "refresh":
            self._machine.network.forget()
            self._refresh()
            return {"message": "the registry is read now"}
        if verb == "flush":
            return {"flushed": self._recording.flush()}
        if verb == "figures":
            return self._recording.asked(args, self._reader.state)
        if verb == "look":
            self._wake()
            return {"message": "the node is looked at now"}
        if verb == "plan":
            return self._board.planned()
        if verb == "sliver":
            return self._board.sliver(args["sliver"])
        return self._board.status()

    def _refresh(self) -> None:
        self._log.info("node", "refresh asked for")
        self._failures.clear()
        self._reader.refresh()

    def _api_server(self) -> "ApiServer | None":
        """The node API, serving; None if it is switched off."""
        if not self._settings.api_enabled:
            return None
        from confine.api.server import ApiServer  # lazy: much to load, for those who want it
        from confine.api.view import DaemonView

        view = DaemonView(self._board, self._reader, self._refresh)
        server = ApiServer(view, self._paths, self._settings, self._log)
        server.start()
        return server

    def _guard(self) -> "Guard | None":
        """What restarts a node of ours when this loop hangs; None where that is not wanted, or no slot was started."""
        if not self._settings.watchdog_s or not has_slots():
            return None
        from confine.upgrade.watchdog import Guard

        return Guard(max(2 * int(LOOK_AGAIN_S), self._settings.watchdog_s), self._log)

    def _updater(self) -> "Updater | None":
        """What looks for upgrades, at work; None on a machine whose boot loader knows no slots."""
        if not has_slots():
            return None
        from confine.upgrade.updater import Updater  # lazy: not all have slots

        updater = Updater(self._paths, self._settings, self._log, self._properties, self._wake, began=BEGAN)
        self._board.upgrade = updater.shown
        updater.start()
        return updater

    def _properties(self) -> "dict[str, Any]":
        """Those of the node in the registry."""
        node = (self._reader.state or {}).get("node") or {}
        found: dict[str, Any] = node.get("properties") or {}
        return found

    # ---- the round ----------------------------------------------------------------------------------------------

    def _first_look(self) -> None:
        """What there is before anything is planned. Nothing once it was done."""
        if self._looked:
            return
        observed = self._machine.observe()
        allocations = {name: found.allocation for name, found in observed.slivers.items() if found.allocation}
        try:
            self._journal.recover(allocations)
        except StepError as error:  # what was recovered holds as long as the daemon runs
            self._log.warn("node", str(error))
            self._own_problems.append(Problem("", str(error)))
        self._prepare_stop()
        self._looked = True

    def _round_failed(self, error: Exception) -> None:
        self._board.trouble = str(error)
        self._log.warn("node", "round failed: {}: {}".format(type(error).__name__, error))
        if os.environ.get("CONFINE_DEBUG"):
            raise error

    def _prepare_stop(self) -> None:
        """What `confine stop` needs to be quick, and to keep its decision on a full disk."""
        try:
            self._book.prepare()
            stop.prepare(self._paths, self._journal.bookings)
        except OSError as error:
            self._log.warn("node", "stopping at once is not prepared, it may take longer: {}".format(error))

    def _turn(self) -> None:
        try:
            self._first_look()
            desired = self._desired()
            busy = set(self._crew.jobs())  # before observing: of these the plan may see half a job
            plan, observed = self._plan(desired, busy)
            if plan.node_steps:
                self._board.show(desired, plan, observed, ended=False)  # they may take long
                if self._do_node_steps(plan.node_steps):
                    plan, observed = self._plan(desired, busy)
            self._tell_decisions(plan)
            self._assign(plan, busy)
            self._heed_overlay(observed)
            self._machine.listen(plan.working)
            self._board.show(desired, plan, observed)
            self._recording.look(self._reader.state, desired, observed)
            self._watch.follow({name for name, found in observed.slivers.items() if found.running})
        except Exception as error:  # a round that fails must not end the daemon; the next one looks anew
            self._round_failed(error)

    def _desired(self) -> Desired:
        state = self._reader.state
        if state is None:
            return Desired(None, [], False, [])
        date = ntp_date() or state["date"]
        return desired_rules.build({**state, "date": date}, self._settings)

    def _plan(self, desired: Desired, busy: "set[str]") -> "tuple[plan_rules.Plan, Observed]":
        observed = self._machine.observe()
        now = time.monotonic()
        decisions = self._book.now()
        for name in self._failures.look(observed, busy, now):
            self._log.warn(name, "its init ended by itself")
        plan = plan_rules.plan(
            desired,
            observed,
            self._journal.bookings(),
            self._failures.all(),
            self._settings,
            now,
            self._journal.boot_sn_done,
            self._own_problems + [Problem("", text) for text in self._book.problems() + self._recording.problems()],
            decisions,
            time.time(),
        )
        self._machine.cache.keep = set(plan.keep)
        self._failures.overcome(plan.overcome, now)
        self._record_boot_sn(plan)
        return plan, observed

    def _record_boot_sn(self, plan: "plan_rules.Plan") -> None:
        """Before the reboot it stands for; where it cannot be kept, the node must not reboot, for ever and again."""
        if plan.boot_sn_done is None:
            return
        try:
            self._journal.record_boot_sn(plan.boot_sn_done)
        except OSError as error:
            self._log.warn("node", "boot_sn {} cannot be kept, no reboot: {}".format(plan.boot_sn_done, error))
            plan.node_steps = [step for step in plan.node_steps if step.verb != "reboot"]

    def _do_node_steps(self, steps: "list[Step]") -> bool:
        """True if any could be done: then the plan is to be made anew. One that fails ends those of its subject."""
        done, failed = False, set()
        for step in steps:
            if step.subject in failed:
                continue
            try:
                self._carry_out(step)
                done = True
            except StepError as error:
                self._failures.failed(step.subject, step, error, time.monotonic())
                failed.add(step.subject)
        return done

    def _heed_overlay(self, observed: Observed) -> None:
        """A peer came: the way to the registry may be open that was not."""
        seen = observed.overlay.peers.items() if observed.overlay is not None else ()
        peers = {name for name, peer in seen if peer.up}
        if peers - self._peers and (self._reader.error is not None or self._reader.last_read is None):
            self._reader.refresh()
        self._peers = peers

    def _assign(self, plan: "plan_rules.Plan", busy: "set[str]") -> None:
        """Hand out the plan's lists. `busy`: had a job when the round began; their turn comes when it has ended."""
        for name, job in self._crew.jobs().items():
            if not job.cancelled and outdated(job.sliver, plan.working.get(name)):
                self._log.info(name, "what is asked changed: job called off")
                self._crew.cancel(name)
        for name, steps in plan.sliver_steps.items():
            if (steps[0].driver, steps[0].verb) == STOPPING:
                self._machine.silence(name)
            if name not in busy:
                self._crew.assign(name, steps)

    def _tell_decisions(self, plan: "plan_rules.Plan") -> None:
        """Write what people decided since the last turn into the log."""
        found = {name: plan.decisions.of(name).sentences() for name in plan.states}
        for name, sentences in found.items():
            before = self._sentences.get(name, [])
            for text in sentences:
                if text not in before:
                    self._log.info(name, text)
            if before and not sentences:
                self._log.info(name, "No decision holds it back any more.")
        self._sentences = found

    def _carry_out(self, step: Step) -> None:
        begun = time.monotonic()
        if held_back(step, self._book.of(step.subject)):
            raise Cancelled("stopped or paused meanwhile")
        try:
            self._machine.do(step)
        except Cancelled:
            raise
        except StepError as error:
            self._recording.step(step, self._reader.state, time.monotonic() - begun, str(error))
            self._log.warn(step.subject, "{} {} failed: {}".format(step.driver, step.verb, error))
            raise
        if (step.driver, step.verb) == STOPPING:
            self._failures.stopped(step.subject)
        if step.driver == "journal":
            self._prepare_stop()
        took = time.monotonic() - begun
        self._recording.step(step, self._reader.state, took, None)
        self._log.info(step.subject, "{} {} ({:.0f} ms): {}".format(step.driver, step.verb, took * 1000, step.why))

    def _finished(self, job: Job, step: "Step | None", error: "StepError | None") -> None:
        if error is not None and step is not None and not isinstance(error, Cancelled):
            self._failures.failed(job.name, step, error, time.monotonic())
        if self._crew.jobs():
            self._waker.tell()
        else:
            self._wake()

    # ---- sleeping and waking ------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Have a turn come soon, whatever goes on. Safe in a signal handler."""
        self._asked.tell()
        self._waker.tell()

    def _sleep(self) -> None:
        """Until there is something to look at. While jobs go on, the ends of others and of slivers wait for each other,
        since a turn looks at all there is. Whoever asks, and the last job, waits for no more than GATHER_S."""
        if self._stopping:
            return
        if not self._watch.sleep(self._pause()):
            return
        time.sleep(GATHER_S)
        if self._crew.jobs():
            self._asked.wait(min(LONGEST_REST_S, BUSY_SHARE * self._took_s))
        self._asked.clear()
        self._waker.clear()

    def _pause(self) -> float:
        """Until it is time to look again, or to try again what failed."""
        due = self._failures.due_in(time.monotonic())
        longest = CHANGING_S if self._machine.network.changing() else LOOK_AGAIN_S
        return longest if due is None else max(0.1, min(longest, due))


def has_slots() -> bool:
    """Did our boot loader start this system from a slot? Without the package confine-upgrade it counts as none."""
    try:
        from confine.upgrade.words import boot_words
    except ModuleNotFoundError:
        return False
    return "slot" in boot_words()


def held_back(step: Step, decision: Decision) -> bool:
    """Was it decided, since `step` was planned, that it must not be done? (A paused sliver is thawed to be halted.)"""
    if (step.driver, step.verb) == ("containers", "start"):
        return decision.quiet
    return (step.driver, step.verb) == ("limits", "thaw") and decision.stop is not None


def outdated(worked_for: "SliverTarget | None", asked: "SliverTarget | None") -> bool:
    """Is what a job works towards no longer what is asked? Keys and descriptions do not call a job off."""
    if worked_for is None or asked is None:
        return worked_for is not asked
    return any(getattr(worked_for, field) != getattr(asked, field) for field in WORKED_FOR)
