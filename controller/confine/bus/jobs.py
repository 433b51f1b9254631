"""Commands that may take longer than a call on the bus: begun by one call, their end asked for by others.

Making a key takes a small router minutes, and uhttpd waits 20 s for an answer. Asking for an end never begins anything.
"""

import os
import signal
import subprocess
import tempfile
import time

from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAIT_S = 0.3  # of the call that begins one: all others stand still meanwhile, a stop among them
LOOK_S = 0.02
LIMIT_S = 300.0  # for what changes nothing; what changes something is never broken off
KEPT = 16  # ends that can still be asked for


class Jobs:
    """At most one of each name goes on. Each has a number, by which its end is asked for."""

    def __init__(self) -> None:
        self._running: "dict[str, Job]" = {}
        self._kept: "dict[int, Job]" = {}  # in the order in which they were begun
        self._count = 0

    def begin(
        self, name: str, args: "dict[str, Any]", argv: "list[str]", said: str, env: "dict[str, str]", breakable: bool
    ) -> "Job":
        """A new job, or the one under way with these very `args`. ConfineError: one with others is under way.

        said: what it reads on standard input. breakable: it may be broken off once it has taken too long.
        """
        job = self._running.get(name)
        if job is not None and breakable and job.age() > LIMIT_S:
            job.break_off()
        if job is None or job.is_over():
            self._count += 1
            job = self._running[name] = self._kept[self._count] = Job(self._count, args, argv, said, env)
            for number in list(self._kept)[:-KEPT]:
                if self._kept[number].is_over():
                    del self._kept[number]
        elif job.args != args:
            raise ConfineError("confine {} is under way with other words: try again when it has ended".format(name))
        job.wait()
        return job

    def find(self, number: "Any") -> "Job":
        """The job of this number, as it is now. ConfineError if it is not known any more."""
        job = self._kept.get(number) if isinstance(number, int) else None
        if job is None:
            raise ConfineError("nothing is known of this any more: look at the state, or try again")
        return job


class Job:
    """One command. What it prints lies in files without a name, not in a pipe that fills up."""

    def __init__(
        self, number: int, args: "dict[str, Any]", argv: "list[str]", said: str, env: "dict[str, str]"
    ) -> None:
        self.number = number
        self.args = args
        self._began = time.monotonic()
        self._over = False
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # as long as the job
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=self._files[0], stderr=self._files[1],
                                         env=env, start_new_session=True)  # fmt: skip
        try:
            self._process.stdin.write(said.encode())  # type: ignore[union-attr]  # a pipe
            self._process.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass  # it ended without reading: what it said tells why

    def age(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self._began

    def is_over(self) -> bool:
        """Whether it has ended. Its status may be lost: the loop of ubus collects it."""
        if not self._over and self._process.poll() is not None:
            self._over = True
            self.args = {}  # a secret may be among them
        return self._over

    def wait(self) -> None:
        """Wait a moment for its end: most need no longer."""
        until = time.monotonic() + WAIT_S
        while not self.is_over() and time.monotonic() < until:
            time.sleep(LOOK_S)

    def break_off(self) -> None:
        """End it, and what it has begun."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except OSError:
            pass  # it has just ended
        self._over = True

    def said(self, limit: int) -> "tuple[bytes, bytes]":
        """What it wrote on its standard output and error, each up to a little more than `limit` bytes."""
        return self._read(0, limit + 1), self._read(1, limit + 1)

    def _read(self, which: int, size: int) -> bytes:
        return os.pread(self._files[which].fileno(), size, 0)
