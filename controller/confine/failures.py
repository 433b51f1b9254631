"""Failures not yet overcome, and when to try again. In memory only: a daemon that starts anew tries everything anew.

A sliver whose init ends by itself has failed to start as surely as one that never came up: it is started again with
growing pauses, and only forgiven once it has run for a while.
"""

import random
import threading

from confine.core.model import Failure, Observed, Step
from confine.core.plan import next_retry

STEADY_S = 300.0  # a sliver that ended by itself and then ran for so long is well again


class Failures:
    """{subject: Failure} for slivers and "node". Thread-safe. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, Failure] = {}
        self._running_since: dict[str, float] = {}
        self._crashed: set[str] = set()

    def all(self) -> "dict[str, Failure]":
        """A copy of all there are."""
        with self._lock:
            return dict(self._failures)

    def failed(self, subject: str, step: Step, error: Exception, now: float) -> None:
        """`step` failed for `subject`."""
        with self._lock:
            self._add(subject, step.driver, step.verb, str(error), now)

    def stopped(self, name: str) -> None:
        """The sliver `name` was stopped on purpose."""
        with self._lock:
            self._running_since.pop(name, None)

    def look(self, observed: Observed, busy: "set[str]", now: float) -> "list[str]":
        """Note which slivers run; the names of those that ran and ended by themselves. `busy`: have a job."""
        ended = []
        with self._lock:
            for name in set(observed.slivers) | set(self._running_since):
                found = observed.slivers.get(name)
                if found is not None and found.running:
                    self._running_since.setdefault(name, now)
                elif name in self._running_since and name not in busy:
                    lasted = now - self._running_since.pop(name)
                    message = "its init ended by itself after {:.0f} s; its console log may say why".format(lasted)
                    self._crashed.add(name)
                    self._add(name, "containers", "start", message, now)
                    ended.append(name)
        return ended

    def overcome(self, subjects: "list[str]", now: float) -> None:
        """Forget the failures of `subjects`; of a sliver that ended by itself only once it runs steadily."""
        with self._lock:
            for subject in subjects:
                since = self._running_since.get(subject)
                if subject in self._crashed and since is not None and now - since < STEADY_S:
                    continue
                self._crashed.discard(subject)
                self._failures.pop(subject, None)

    def clear(self) -> None:
        """Forget all: somebody asked to try again now."""
        with self._lock:
            self._failures.clear()
            self._crashed.clear()

    def due_in(self, now: float) -> "float | None":
        """Seconds until the next is to be tried again; None if there is none."""
        with self._lock:
            waits = [failure.retry_at - now for failure in self._failures.values() if failure.retry_at > now]
        return min(waits) if waits else None

    def _add(self, subject: str, driver: str, verb: str, message: str, now: float) -> None:
        before = self._failures.get(subject)
        same = before is not None and (before.driver, before.verb) == (driver, verb)
        count = before.count + 1 if before is not None and same else 1
        delay = next_retry(count, random.random())  # noqa: S311  # spreads load, no secret
        self._failures[subject] = Failure(driver, verb, message, count, now + delay)
