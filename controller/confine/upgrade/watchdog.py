"""The watchdog: hardware's if there is one, else the kernel's own. Whoever holds it must show that it is alive.

A hardware watchdog outlives the kernel: armed across a kexec it brings a node back from a trial that hangs. softdog
dies with the kernel that it runs in. procd, where it runs, gives the device away when asked to.
"""

import fcntl
import os
import struct
import subprocess
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.log import Log

SYS = "/sys/class/watchdog"
SOFTWARE = "Software Watchdog"
TOOL_S = 10
RETRY_S = 60.0
# What drivers of small chips can still count: shorter ones are tried one after another.
_SHORTER_S = (60, 30, 20, 15, 10)
_WDIOC_SETTIMEOUT = 6


class WatchdogError(Exception):
    """There is no watchdog, or it cannot be had: says why."""


def devices(sys: str = SYS) -> "list[tuple[str, str]]":
    """All watchdogs there are, (name, what it calls itself), hardware first."""
    found = []
    for name in sorted(os.listdir(sys) if os.path.isdir(sys) else []):
        try:
            with open(os.path.join(sys, name, "identity"), encoding="utf-8", errors="replace") as file:
                found.append((name, file.read().strip()))
        except OSError:
            continue
    return sorted(found, key=lambda one: one[1] == SOFTWARE)


def has_hardware(sys: str = SYS) -> bool:
    """Is there a watchdog that a hanging kernel does not stop? Without one, a trial that hangs early needs a hand."""
    return any(identity != SOFTWARE for _, identity in devices(sys))


def reset_by_watchdog(sys: str = SYS) -> bool:
    """Does the hardware say that it was its watchdog that restarted this machine?"""
    for name, _ in devices(sys):
        try:
            with open(os.path.join(sys, name, "bootstatus"), encoding="ascii") as file:
                if int(file.read()) & 0x20:
                    return True
        except (OSError, ValueError):
            continue
    return False


class Watchdog:
    """One open watchdog: it counts from now on, and restarts the machine unless fed in time."""

    def __init__(self, timeout_s: int, sys: str = SYS, dev: str = "/dev") -> None:
        """timeout_s: at most so long without being fed. WatchdogError if there is none or it is somebody else's."""
        if not devices(sys):
            _call(["modprobe", "softdog"])
        found = devices(sys)
        if not found:
            raise WatchdogError("this machine has no watchdog, and the kernel has no softdog")
        name, self.identity = found[0]
        self.hardware = self.identity != SOFTWARE
        path = os.path.join(dev, name)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            _call(["ubus", "call", "system", "watchdog", '{"magicclose":true,"stop":true}'])
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise WatchdogError("{} ({}) cannot be had: {}".format(path, self.identity, error.strerror))
        self.timeout_s = self._set_timeout(timeout_s)

    def feed(self) -> None:
        """It counts from the beginning again."""
        os.write(self._fd, b"\0")

    def disarm(self) -> None:
        """It stops counting, and is given back."""
        os.write(self._fd, b"V")
        os.close(self._fd)
        _call(["ubus", "call", "system", "watchdog", '{"stop":false}'])

    def leave_armed(self) -> None:
        """Let go of it while it counts."""
        self.feed()
        os.close(self._fd)

    def _set_timeout(self, wanted: int) -> int:
        for seconds in (wanted, *(one for one in _SHORTER_S if one < wanted)):
            value = bytearray(struct.pack("i", seconds))
            try:
                fcntl.ioctl(self._fd, _both_ways(_WDIOC_SETTIMEOUT), value)
            except OSError:
                continue
            return int(struct.unpack("i", value)[0])
        return min(_SHORTER_S)  # it has one time-out, and keeps it to itself


def _both_ways(number: int) -> int:
    """The ioctl `number` of watchdogs with an int that is read and written."""
    machine = os.uname().machine
    direction = 6 << 29 if machine.startswith(("mips", "ppc", "sparc")) else 3 << 30
    return direction | 4 << 16 | ord("W") << 8 | number


class Guard:
    """Feeds the watchdog as long as a loop is alive: beat() at each turn. A thread of its own, so that a watchdog
    that counts only a few seconds is fed in time; it stops feeding when no beat came for `limit_s`."""

    def __init__(self, limit_s: int, log: "Log | None" = None) -> None:
        self._limit = limit_s
        self._log = log
        self._beat = time.monotonic()
        self._end = threading.Event()
        self._said = ""
        self._watchdog: "Watchdog | None" = None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    @property
    def hardware(self) -> bool:
        """Is a hardware watchdog held?"""
        return self._watchdog is not None and self._watchdog.hardware

    def beat(self) -> None:
        """The loop is alive."""
        self._beat = time.monotonic()

    def close(self) -> None:
        """Give the watchdog back: nothing restarts the node any more."""
        self._end.set()
        self._thread.join(TOOL_S)
        if self._watchdog is not None:
            self._watchdog.disarm()
            self._watchdog = None

    def _run(self) -> None:
        while not self._end.is_set():
            pause = RETRY_S
            try:
                if self._watchdog is None:
                    self._watchdog = Watchdog(max(10, self._limit * 2 // 3))
                    self._say("{} restarts the node when its controller hangs".format(self._watchdog.identity))
                pause = self._watchdog.timeout_s / 4
                if time.monotonic() - self._beat < self._limit:
                    self._watchdog.feed()
            except (WatchdogError, OSError) as error:
                self._say("no watchdog: {}".format(error))
                if not devices():
                    return  # there is none, and none comes: nothing to look for again and again
            self._end.wait(pause)

    def _say(self, text: str) -> None:
        if self._log is not None and text != self._said:
            self._log.info("node", text)
        self._said = text


def _call(argv: "list[str]") -> None:
    """Run a tool that need not be there."""
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        pass
