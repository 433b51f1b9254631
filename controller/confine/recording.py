"""What the daemon keeps of what happens here: actions, whose slivers are, flows, figures. Joins the parts of records/.

Nothing of it holds the daemon up or ends it; what cannot be kept is said in `problems()`.
"""

import threading

from confine.core.decisions import parse_sliver, spoken
from confine.core.model import Step
from confine.core.settings import Settings
from confine.errors import ConfineError
from confine.journal import Journal
from confine.paths import Paths
from confine.records.actions import ActionLog
from confine.records.figures import Figures, Sampler
from confine.records.flows import FlowRecorder
from confine.records.owners import Owners, booked_addresses, step_record
from confine.records.rings import SPANS
from confine.records.viewers import OPERATOR, known_viewer, may_see, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.model import Desired, Observed


class Recording:
    """One life of the daemon's records, from `start()` to `close()`. usage: `LimitsDriver.usage`."""

    def __init__(
        self, paths: Paths, settings: Settings, journal: Journal, usage: "Callable[[str], dict[str, Any]]"
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._lock = threading.Lock()
        self._running: list[tuple[str, int]] = []
        self.actions = ActionLog(paths, settings)
        self.figures = Figures(paths, settings)
        self._owners = Owners(self.actions, settings)
        self._flows = FlowRecorder(paths, settings, lambda: booked_addresses(settings, journal.bookings()))
        self._sampler = Sampler(paths, self.figures, self._names, usage)

    def start(self) -> None:
        """Begin to listen and to sample."""
        self._flows.start()
        self._sampler.start()

    def close(self) -> None:
        """Write what is not yet written, and end."""
        self._sampler.close()
        self._flows.close()
        self.actions.close()

    def step(self, step: Step, state: "dict[str, Any] | None", took_s: float, error: "str | None") -> None:
        """A step was carried out, or failed with `error`."""
        self.actions.add(**step_record(step, state, took_s, error))

    def look(self, state: "dict[str, Any] | None", desired: "Desired", observed: "Observed") -> None:
        """Whose slivers are here, and which of them run."""
        bookings = self._journal.bookings()
        self._owners.look(state, desired.slivers, bookings)
        found = [
            (name, bookings[name].nr) for name, one in observed.slivers.items() if one.running and name in bookings
        ]
        with self._lock:
            self._running = found

    def flush(self) -> bool:
        """Have written what is known by now, before somebody searches. False if the disk refuses or is slow."""
        return self.actions.flush() and self._flows.flush()

    def status(self) -> "dict[str, dict[str, Any]]":
        """{"actions", "flows", "figures": their `status()`, each with error and problems}"""
        figures = self.figures.status()
        figures["error"] = figures["error"] or self._sampler.error
        return {"actions": self.actions.status(), "flows": self._flows.status(), "figures": figures}

    def problems(self) -> "list[str]":
        """Why something is not recorded, and what of the records was found damaged, a sentence each."""
        found = []
        for what, status in self.status().items():
            if status["error"]:
                found.append("{} are not recorded: {}".format(what, status["error"]))
            damage = status["problems"]
            more = " (and {} more)".format(len(damage) - 1) if len(damage) > 1 else ""
            if damage:
                found.append("the record of {} was damaged: {}{}".format(what, damage[0], more))
        return found

    def asked(self, args: "dict[str, Any]", state: "dict[str, Any] | None") -> "dict[str, Any]":
        """The answer to the verb `figures`: {"slivers": {name: rows}, "total": sums or None}. ConfineError: no such
        sliver or user, or it is none of theirs."""
        who = OPERATOR if args["user"] is None else known_viewer(state, args["user"])
        if args["sliver"] is None:
            return visible(self.figures.latest(), who)
        try:
            name = parse_sliver(args["sliver"], self._settings.node_id)
        except ValueError as error:
            raise ConfineError(str(error))
        if not may_see(name, who):
            raise ConfineError("{} may not see the figures of {}".format(args["user"], spoken(name)))
        return {"slivers": {name: self.figures.read(name, step=SPANS[args["span"]])}, "total": None}

    def _names(self) -> "list[tuple[str, int]]":
        with self._lock:
            return list(self._running)
