"""One QEMU process: how it is started, watched and killed. What a node is made of stands in harness.py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from qemu.harness_channel import Agent, Lines, NoAnswer, NodeError, Qmp

QEMU = "qemu-system-x86_64"
AGENT_PORT = "org.confine.agent.0"
_TAIL_LINES = 25

T = TypeVar("T")


class Machine:
    """A QEMU process with QMP, a serial log and (always) an agent port.

    Its working directory is made below the system's temporary one, unless `work` says where, and goes with it.
    QEMU is killed with the thread that started it, so start it from a thread that stays.
    """

    def __init__(
        self, name: str, arguments: Sequence[str] = (), work: str | None = None, console: str | None = None
    ) -> None:
        """arguments: QEMU's, on top of no devices at all. console: path of a UNIX socket for a person's terminal."""
        self.name = name
        self.arguments = list(arguments)
        self._own_work = work is None
        self.work = work or tempfile.mkdtemp(prefix="confine-node-")
        os.makedirs(self.work, exist_ok=True)
        self.serial_path = os.path.join(self.work, "serial.log")
        self._errors_path = os.path.join(self.work, "qemu.log")
        self._console = console
        self._process: subprocess.Popen[bytes] | None = None
        self.qmp: Qmp
        self.agent: Agent
        self._channels: list[Lines] = []

    def start(self, descriptors: Sequence[int] = ()) -> None:
        """Start QEMU. descriptors: open files it inherits under the same numbers."""
        qmp, their_qmp = socket.socketpair()
        agent, their_agent = socket.socketpair()
        argv = ["setpriv", "--pdeathsig", "KILL", QEMU, "-no-user-config", "-nodefaults", "-display", "none"]
        argv += ["-name", self.name]
        argv += ["-chardev", f"socket,id=qmp,fd={their_qmp.fileno()}", "-mon", "chardev=qmp,mode=control"]
        argv += ["-chardev", self._serial_backend(), "-serial", "chardev:serial"]
        argv += ["-chardev", f"socket,id=agent,fd={their_agent.fileno()}", "-device", "virtio-serial-pci"]
        argv += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}", *self.arguments]
        inherited = (their_qmp.fileno(), their_agent.fileno(), *descriptors)
        try:
            with open(self._errors_path, "wb") as errors:
                # A group of its own: Ctrl-C on the terminal is ours to handle, not QEMU's.
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=inherited, process_group=0
                )
        except FileNotFoundError:
            raise NodeError(f"{QEMU} or setpriv is not on this machine: install the packages of tools/packages.txt")
        finally:
            their_qmp.close()
            their_agent.close()
        self._channels = [Lines(qmp, self.check_alive), Lines(agent, self.check_alive)]
        self.qmp = Qmp(self._channels[0])
        self.agent = Agent(self._channels[1])

    def stop(self) -> None:
        """Kill QEMU, whatever state it is in, and remove its working directory unless it was given."""
        try:
            self._kill()
        finally:
            for channel in self._channels:
                channel.close()
            if self._own_work:
                shutil.rmtree(self.work, ignore_errors=True)

    @property
    def pid(self) -> int:
        """QEMU's process id. Raises NodeError if it does not run."""
        self.check_alive()
        assert self._process is not None
        return self._process.pid

    def check_alive(self) -> None:
        """Raises NodeError with QEMU's last words if it has ended."""
        if self._process is None:
            raise NodeError(f"{self.name} was not started")
        status = self._process.poll()
        if status is not None:
            with open(self._errors_path, errors="replace") as file:
                said = file.read()[-2000:]
            raise NodeError(f"{self.name}: QEMU ended with status {status}: {said}{self.serial_tail()}")

    def serial(self) -> str:
        """All that came over the serial port so far, from GRUB on; across resets and restarts."""
        try:
            with open(self.serial_path, "rb") as file:
                return file.read().decode(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def serial_tail(self) -> str:
        """The last lines of the serial log, made to be put at the end of an error message."""
        lines = self.serial().splitlines()[-_TAIL_LINES:]
        return f"\n--- last lines on the serial port of {self.name} ---\n" + "\n".join(lines)

    def wait_for(self, sentence: str, predicate: Callable[[], T], timeout: float, every: float = 0.1) -> T:
        """Poll until `predicate` gives something true, and give that back.

        sentence: what is waited for, as a statement ("sliver 1 is started"). A NodeError from the predicate counts as
        not yet, unless QEMU has ended. At the deadline (seconds): NoAnswer with the last value and the serial tail.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen: object
            try:
                value = predicate()
                if value:
                    return value
                seen = value
            except NodeError as error:
                seen = str(error).splitlines()[0]
            self.check_alive()
            if time.monotonic() > deadline:
                raise NoAnswer(f"{self.name}: not after {timeout:g} s: {sentence} (last: {seen!r}){self.serial_tail()}")
            time.sleep(every)

    def wait_for_serial(self, text: str, timeout: float, times: int = 1) -> str:
        """Wait until `text` has come over the serial port (so many times); gives the log back."""

        def found() -> str:
            log = self.serial()
            return log if log.count(text) >= times else ""

        return self.wait_for(f"{text!r} comes over the serial port, {times} times", found, timeout)

    def _serial_backend(self) -> str:
        if self._console is None:
            return f"file,id=serial,path={self.serial_path}"
        return f"socket,id=serial,path={self._console},server=on,wait=off,logfile={self.serial_path}"

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def acceleration() -> list[str]:
    """QEMU's options for the fastest processor this machine offers.

    Without hardware help cx16 is left out: with it, 6.12 kernels panicked now and then (measured, QEMU 7.2).
    """
    if _has_kvm():
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]


def _has_kvm() -> bool:
    with open("/proc/cpuinfo") as file:
        words = set(file.read().split())
    if not words & {"vmx", "svm"}:
        return False
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
