"""Carries steps out: in order for one sliver, side by side across slivers.

Two small pools of threads, one for fetching (waits for the network) and one for work on this machine, so that a
long fetch blocks nobody. A job goes from one pool to the other as its steps need.
"""

import queue
import threading
import time

from confine.core.model import Step
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 3
FETCHERS = 4
FETCHING = ("fetch_template", "fetch_data")


class Cancelled(StepError):
    """The job was called off: what it works towards is no longer asked for."""


class Job:
    """A sliver's steps under way. what, fetched, size: of the download under way, in bytes (size None: unknown)."""

    def __init__(self, name: str, steps: "list[Step]") -> None:
        self.name = name
        self.steps = list(steps)
        self.sliver = steps[0].sliver
        self.current: Step | None = None
        self.cancelled = False
        self.what = ""
        self.fetched = 0
        self.size: int | None = None


class Crew:
    """Runs jobs. `run(step)` does one step; `finished(job, step, error)` is told when a job ends (error None: all
    done; else the step that failed). Both are called from the crew's threads; what they raise stays there."""

    def __init__(
        self,
        run: "Callable[[Step], None]",
        finished: "Callable[[Job, Step | None, StepError | None], None]",
        workers: int = WORKERS,
        fetchers: int = FETCHERS,
    ) -> None:
        self._run = run
        self._finished = finished
        self._sizes = {True: fetchers, False: workers}
        self._queues: dict[bool, queue.SimpleQueue[Job | None]] = {
            True: queue.SimpleQueue(),
            False: queue.SimpleQueue(),
        }
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._idle = threading.Condition(self._lock)
        self._closed = False

    def assign(self, name: str, steps: "list[Step]") -> bool:
        """Begin `steps` for the sliver `name`. False if it already has a job, or the crew is closed."""
        if not steps:
            return False
        with self._lock:
            if name in self._jobs or self._closed:
                return False
            self._staff()
            job = self._jobs[name] = Job(name, steps)
        self._queues[_fetches(job.steps[0])].put(job)
        return True

    def jobs(self) -> "dict[str, Job]":
        """{sliver name: Job} of what is under way."""
        with self._lock:
            return dict(self._jobs)

    def cancel(self, name: str) -> None:
        """Call the job of `name` off, after the step it is at (a download ends within a block)."""
        job = self.jobs().get(name)
        if job is not None:
            job.cancelled = True

    def progress(self, name: str, what: str, fetched: int, size: "int | None") -> None:
        """Note how far `what` (a download, an unpacking) is for `name`. Raises Cancelled if its job was called off."""
        job = self.jobs().get(name)
        if job is None:
            return
        job.what, job.fetched, job.size = what, fetched, size
        if job.cancelled:
            raise Cancelled("called off")

    def close(self, timeout: float) -> bool:
        """Take no more jobs, call off those that run, wait for the steps they are at. False: some still run."""
        with self._lock:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
            deadline = time.monotonic() + timeout
            while self._jobs and deadline > time.monotonic():
                self._idle.wait(max(0.0, deadline - time.monotonic()))
            left = bool(self._jobs)
        for fetches, size in self._sizes.items():
            for _ in range(size):
                self._queues[fetches].put(None)
        return not left

    def _staff(self) -> None:
        """Start the threads with the first job, not before: an idle node has none."""
        if self._threads:
            return
        for fetches, size in self._sizes.items():
            for _ in range(size):
                thread = threading.Thread(target=self._work, args=(fetches,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self, fetches: bool) -> None:
        while True:
            job = self._queues[fetches].get()
            if job is None:
                return
            self._serve(job, fetches)

    def _serve(self, job: Job, fetches: bool) -> None:
        while job.steps and not job.cancelled:
            step = job.steps[0]
            if _fetches(step) != fetches:
                self._queues[not fetches].put(job)
                return
            job.current, job.what, job.fetched, job.size = step, "", 0, None
            error = self._try(step)
            if error is not None:
                self._end(job, step, error)
                return
            job.steps.pop(0)
        self._end(job, job.current, Cancelled("called off") if job.cancelled and job.steps else None)

    def _try(self, step: Step) -> "StepError | None":
        try:
            self._run(step)
        except StepError as error:
            return error
        except Exception as error:  # a fault in one driver stays with this sliver
            return StepError("unexpected {}: {}".format(type(error).__name__, error))
        return None

    def _end(self, job: Job, step: "Step | None", error: "StepError | None") -> None:
        with self._lock:
            self._jobs.pop(job.name, None)
            self._idle.notify_all()
        self._finished(job, step, error)


def _fetches(step: Step) -> bool:
    return step.verb in FETCHING
