"""Talking to a virtual machine: JSON, one object a line, over a socket; QMP (the machine) and the agent (the guest)."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NodeError(Exception):
    """Something went wrong with a virtual node; the message says what, and what the node last wrote."""


class NoAnswer(NodeError):
    """A deadline passed."""


@dataclass(frozen=True)
class Result:
    """How a command ended. status: exit status, 128 + signal, 124 time up, 127 not started. out, err: text."""

    status: int
    out_bytes: bytes
    err_bytes: bytes

    @property
    def out(self) -> str:
        return self.out_bytes.decode(errors="replace")

    @property
    def err(self) -> str:
        return self.err_bytes.decode(errors="replace")


class Lines:
    """JSON objects, one a line, both ways. alive: called while waiting, raises when waiting has become useless."""

    def __init__(self, sock: socket.socket, alive: Callable[[], None]) -> None:
        self._socket = sock
        self._alive = alive
        self._pending: list[bytes] = []  # pieces of what came in, newest last; only the last one may have whole lines

    def send(self, document: dict[str, Any], deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        """Send one object. A guest that does not read makes the socket full: then NoAnswer at the deadline."""
        # The empty line ends what an earlier, cut off sender may have left.
        data = memoryview(b"\n" + json.dumps(document).encode() + b"\n")
        if descriptors:
            data = data[socket.send_fds(self._socket, [data], list(descriptors)) :]
        while data:
            self._wait(deadline)
            try:
                data = data[self._socket.send(data) :]
            except TimeoutError:
                continue

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next object. deadline: of time.monotonic()."""
        while True:
            line = self._line()
            if line is not None:
                try:
                    document = json.loads(line)
                except ValueError:
                    continue
                if isinstance(document, dict):
                    return document
                continue
            self._wait(deadline)
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                more = b""
            if not more:
                # The machine is gone or going: give `alive` the time to see why.
                time.sleep(0.05)
            self._pending.append(more)

    def close(self) -> None:
        self._socket.close()

    def _line(self) -> bytes | None:
        """The next whole line of what came in."""
        last, separator, rest = (self._pending or [b""])[-1].partition(b"\n")
        if not separator:
            return None
        line = b"".join([*self._pending[:-1], last])
        self._pending = [rest]
        return line

    def _wait(self, deadline: float) -> None:
        self._alive()
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer("no answer in time")
        self._socket.settimeout(min(left, 0.25))


class Qmp:
    """QEMU's machine protocol: commands and events."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._lock = threading.RLock()
        self.events: list[dict[str, Any]] = []
        self._ready = False

    def __call__(
        self, command: str, timeout: float = 10, descriptors: tuple[int, ...] = (), **arguments: Any
    ) -> dict[str, Any]:
        """Carry out `command`; `_` in the names of arguments stands for `-`. Raises NodeError if QEMU refuses."""
        deadline = time.monotonic() + timeout
        with self._lock:
            if not self._ready:
                self._handshake(deadline)
            return self._execute(
                command, {name.replace("_", "-"): arguments[name] for name in arguments}, deadline, descriptors
            )

    def count(self, event: str) -> int:
        """How many events of this name came so far, e.g. RESET, WATCHDOG."""
        self("query-status")
        return sum(1 for seen in self.events if seen["event"] == event)

    def _handshake(self, deadline: float) -> None:
        while "QMP" not in self._lines.receive(deadline):
            pass
        self._ready = True
        self._execute("qmp_capabilities", {}, deadline, ())

    def _execute(
        self, command: str, arguments: dict[str, Any], deadline: float, descriptors: tuple[int, ...]
    ) -> dict[str, Any]:
        self._lines.send({"execute": command, "arguments": arguments}, deadline, descriptors)
        while True:
            answer = self._lines.receive(deadline)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise NodeError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            elif "return" in answer:
                value = answer["return"]
                return value if isinstance(value, dict) else {"value": value}


class Agent:
    """The guest's side of the virtio-serial port org.confine.agent.0; protocol: firmware/reference/agent.py.

    Threads may ask side by side: each takes the answers of all and leaves the others' where they find them.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._given_up: set[int] = set()

    def request(self, document: dict[str, Any], timeout: float) -> Result:
        """Have one request carried out. Raises NoAnswer if no answer comes in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._last += 1
            number = self._last
            self._lines.send({"id": number, **document}, deadline)
        try:
            answer = self._await(number, deadline)
        except NodeError:
            self._given_up.add(number)
            raise
        out = base64.b64decode(answer.get("out_b64") or "")
        err = base64.b64decode(answer.get("err_b64") or "")
        return Result(int(answer["status"]), out, err)

    def _await(self, number: int, deadline: float) -> dict[str, Any]:
        while True:
            if number in self._answers:
                return self._answers.pop(number)
            if not self._reading.acquire(timeout=0.05):
                if time.monotonic() > deadline:
                    raise NoAnswer("no answer in time")
                continue
            try:
                if number in self._answers:
                    continue
                # In short turns, so that another thread's answer that we read does not wait for ours.
                turn = min(deadline, time.monotonic() + 0.2)
                try:
                    answer = self._lines.receive(turn)
                except NoAnswer:
                    if time.monotonic() >= deadline:
                        raise
                    continue
            finally:
                self._reading.release()
            found = answer.get("id")
            if isinstance(found, int) and found not in self._given_up and found <= self._last:
                self._answers[found] = answer
