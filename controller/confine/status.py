"""What the daemon shows of itself: put together only when somebody asks."""

import os
import threading
import time

from confine import __version__, clock
from confine.core import overlay, report
from confine.core.decisions import parse_sliver
from confine.core.model import Booking, Desired, Observed
from confine.core.plan import Plan
from confine.core.settings import Settings
from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.crew import Crew, Job
    from confine.journal import Journal
    from confine.machine import Machine
    from confine.reader import Reader
    from confine.recording import Recording


class Board:
    """Holds what the last round came to and renders it as the answers to `status` and `plan`."""

    def __init__(
        self,
        settings: Settings,
        machine: "Machine",
        journal: "Journal",
        reader: "Reader",
        crew: "Crew",
        recording: "Recording",
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._journal = journal
        self._reader = reader
        self._crew = crew
        self._recording = recording
        self._lock = threading.Lock()
        self._round: tuple[Desired, Plan, Observed] | None = None
        self._rounds = 0
        self._shown = 0
        self.trouble = ""  # why there was no round yet
        self.upgrade: "Callable[[], dict[str, Any] | None]" = lambda: None  # upgrade/overview.py

    def show(self, desired: Desired, plan: Plan, observed: Observed, ended: bool = True) -> None:
        """Take over what a round came to; ended False: what it has come to so far."""
        with self._lock:
            self._round = (desired, plan, observed)
            self._rounds += ended
            self._shown += 1

    @property
    def shown(self) -> int:
        """How often something was shown: what `status()` says may be new when this is."""
        return self._shown

    def status(self) -> "dict[str, Any]":
        """The node, its registry, and each sliver: state, target, what happens, usage."""
        with self._lock:
            shown, rounds = self._round, self._rounds
        if shown is None:
            return self._before_the_first_round()
        desired, plan, observed = shown
        bookings = self._journal.bookings()
        jobs = self._crew.jobs()
        names = sorted(plan.states, key=lambda name: _order(name, desired, bookings))
        return {
            "version": __version__,
            "time": time.time(),
            "round": rounds,
            "node": {
                **report.node(desired, plan, observed, bookings, self._settings),
                "clock": self._clock(),
                "cpus": os.cpu_count() or 1,
            },
            "registry": self._registry(),
            "overlay": self._overlay(desired, observed),
            "firewall": self._firewall(observed),
            "upgrade": self.upgrade(),
            "lent": report.lent(observed, bookings, self._settings),
            "records": self._recording.status(),
            "slivers": [self._sliver(name, shown, bookings, jobs.get(name)) for name in names],
        }

    def sliver(self, text: str) -> "dict[str, Any]":
        """All about the sliver that `text` means (parse_sliver). ConfineError if there is none."""
        try:
            name = parse_sliver(text, self._settings.node_id)
        except ValueError as error:
            raise ConfineError(str(error))
        with self._lock:
            shown = self._round
        if shown is None or name not in shown[1].states:
            raise ConfineError("there is no sliver {} on this node: `confine slivers` lists them".format(text))
        return self._sliver(name, shown, self._journal.bookings(), self._crew.jobs().get(name))

    def planned(self) -> "dict[str, Any]":
        """The steps to be done now, and what is waited for."""
        with self._lock:
            shown = self._round
        if shown is None:
            return {"node_steps": [], "slivers": {}}
        desired, plan, _ = shown
        jobs = self._crew.jobs()
        keys = {sliver.name: sliver.key for sliver in desired.slivers}
        slivers = {}
        for name in sorted(
            set(plan.sliver_steps) | set(jobs) | {n for n, (_, errors) in plan.states.items() if errors}
        ):
            job = jobs.get(name)
            slivers[name] = {
                "key": keys.get(name, name),
                "under_way": _step_words(job) if job else None,
                "steps": [step.as_doc() for step in (job.steps if job else plan.sliver_steps.get(name, []))],
                "waiting": "; ".join(error.message for error in plan.states.get(name, ("", []))[1]),
            }
        return {"node_steps": [step.as_doc() for step in plan.node_steps], "slivers": slivers}

    def _firewall(self, observed: Observed) -> "dict[str, Any]":
        """ok, and if not: since when (wall clock, if it is known) and why slivers are cut off."""
        since, said = self._machine.firewall.trouble() or (None, None)
        return {"ok": observed.firewall and said is None, "since": since, "said": said}

    def _before_the_first_round(self) -> "dict[str, Any]":
        errors = [{"member": "", "message": self.trouble}] if self.trouble else []
        node: dict[str, Any] = {"id": self._settings.node_id, "name": None, "state": "debug", "errors": errors}
        lent = {"memory_booked": 0, "memory_total": 0, "disk_booked": 0, "disk_total": 0}
        return {"version": __version__, "time": time.time(), "round": 0, "node": node, "registry": self._registry(),
                "upgrade": self.upgrade(), "lent": lent, "records": self._recording.status(),
                "slivers": []}  # fmt: skip

    def _clock(self) -> "dict[str, Any]":
        return clock.report((self._reader.state or {}).get("date"))

    def _registry(self) -> "dict[str, Any]":
        reader = self._reader
        return {
            "uris": self._settings.registry_uris,
            "last_read": reader.last_read,
            "last_try": reader.last_try,
            "error": reader.error,
        }

    def _overlay(self, desired: Desired, observed: Observed) -> "dict[str, Any] | None":
        if observed.overlay is None:
            return None
        return overlay.report(desired.overlay, observed.overlay, self._settings, time.time())

    def _sliver(
        self,
        name: str,
        shown: "tuple[Desired, Plan, Observed]",
        bookings: "dict[str, Booking]",
        job: "Job | None",
    ) -> "dict[str, Any]":
        desired, plan, observed = shown
        doc: dict[str, Any] = report.sliver(name, desired, plan, observed, bookings, self._settings)
        found = observed.slivers.get(name)
        doc["usage"] = self._machine.usage(name) if found is not None and found.running else None
        doc["progress"] = _progress(job) if job else None
        return doc


def _order(name: str, desired: Desired, bookings: "dict[str, Booking]") -> "tuple[int, str]":
    """Slivers in the order of their numbers, those without one last."""
    booking = bookings.get(name)
    return (booking.nr if booking else 1000, name)


def _progress(job: "Job") -> "dict[str, Any]":
    return {"step": _step_words(job), "what": job.what, "done": job.fetched, "total": job.size}


def _step_words(job: "Job") -> str:
    step = job.current
    return (step.driver + " " + step.verb).replace("_", " ") if step else "waits for its turn"
