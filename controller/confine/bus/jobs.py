"""Commands that may take longer than a call on the bus: begun, and asked for again with the same arguments.

Making a key takes a small router minutes, and uhttpd waits 20 s for an answer.
"""

import subprocess
import tempfile
import time

from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAIT_S = 8.0  # of one call
LOOK_S = 0.1
FORGET_S = 60.0  # an answer that nobody fetches
PENDING = {"pending": True}


class Jobs:
    """At most one of each name. What they print lies in a file without a name, not in a pipe that fills up."""

    def __init__(self) -> None:
        self._running: "dict[str, Job]" = {}

    def ask(self, name: str, args: "dict[str, Any]", argv: "list[str]", said: str, env: "dict[str, str]") -> "Job":
        """The job that was begun with these very `args`, or a new one; `ended` tells whether it has an end yet, and
        then it is forgotten. ConfineError: one with others is under way. said: what it reads on standard input."""
        job = self._running.get(name)
        if job is not None and job.args != args and not job.is_over():
            raise ConfineError("confine {} is under way with other words: try again when it has ended".format(name))
        if job is None or job.args != args or (job.is_over() and time.monotonic() - job.asked > FORGET_S):
            job = self._running[name] = Job(args, argv, said, env)
        job.wait()
        if job.ended:
            del self._running[name]
        return job


class Job:
    """One command. out, err: what it said, once it has ended."""

    def __init__(self, args: "dict[str, Any]", argv: "list[str]", said: str, env: "dict[str, str]") -> None:
        self.args = args
        self.asked = time.monotonic()
        self.ended = False
        self.out = self.err = b""
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # as long as the job
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=self._files[0], stderr=self._files[1],
                                         env=env, start_new_session=True)  # fmt: skip
        try:
            self._process.stdin.write(said.encode())  # type: ignore[union-attr]  # a pipe
            self._process.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass  # it ended without reading: what it said tells why

    def is_over(self) -> bool:
        """Whether it has ended. Its status may be lost: the loop of ubus collects it."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait for its end, but no longer than a call may take."""
        self.asked = time.monotonic()
        while not self.is_over():
            if time.monotonic() - self.asked >= WAIT_S:
                return
            time.sleep(LOOK_S)
        self.ended = True
        self.out, self.err = (self._read(file) for file in self._files)

    @staticmethod
    def _read(file: "Any") -> bytes:
        with file:
            file.seek(0)
            return bytes(file.read())
