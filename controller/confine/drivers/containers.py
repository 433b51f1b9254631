"""Slivers as unprivileged LXC containers: start, stop, and the checks that a started one is confined as asked.

Programs are started for nothing but `lxc-start` itself: state is read from cgroups and /proc, signals go through
pidfds, waiting is polling with deadlines. The limits are set before, by limits.py, on a cgroup above LXC's.

LXC makes a sliver's private interface; for others it runs the worker as a hook (interfaces.py).
"""

import os
import select
import signal
import subprocess
import time

from confine import durable
from confine.core import addressing
from confine.drivers import cgroups, links, lxcconfig, ports, syscalls
from confine.drivers.interfaces import DONE, JOB, Interfaces, command
from confine.drivers.lxcconfig import CAPABILITIES, Container
from confine.drivers.ports import silence
from confine.errors import StepError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.interfaces import SliverInterface
    from confine.core.model import SliverTarget, Step
    from confine.core.settings import Settings

START_S = 60  # for lxc-start as a whole, on the slowest boards
INIT_S = 10
RESTART_S = 5  # for LXC to start a sliver again that restarted itself
STOP_S = 10  # for the sliver to halt in order
KILL_S = 10
CLEAN_UP_S = 10  # for LXC's monitor to clean up behind a sliver
LOG_END = 8000

# Signals that make an init halt, best first: systemd's halt, then what LXC, busybox, procd and sysvinit take, then what
# a plain program takes (busybox restarts at it).
HALT_SIGNALS = (signal.SIGRTMIN + 3, signal.SIGPWR, signal.SIGTERM)

SECCOMP_FILTER = 2  # "Seccomp:" in /proc/<pid>/status


class Containers:
    """Steps `containers start` and `containers stop`."""

    def __init__(self, paths: Paths, settings: "Settings", interfaces: "Interfaces | None" = None) -> None:
        self._paths = paths
        self._interfaces = interfaces or Interfaces(paths, settings)
        # LXC's own path lies in memory: what is there lives as long as the container. The sliver's root has to be
        # able to look into it, and has no business in the data directory.
        self._lxc = os.path.join(paths.run, "lxc")

    # Steps

    def start(self, step: "Step") -> None:
        """Start the sliver and check how it is confined. Does nothing if it runs in order.

        Its root has to be mounted and its limits applied. A sliver that is not confined as asked is ended again.
        StepError says what failed, with the end of LXC's log.
        """
        sliver, booking = step.sliver, step.booking
        if sliver is None or booking is None:
            raise StepError(f"step containers start for {step.subject} comes without sliver or booking")
        name = step.subject
        if not os.path.isdir(self._limited(name)):
            raise StepError(f"sliver {name} has no cgroup with limits yet: it is not started without them")
        private, job = self._interfaces.at_start(sliver, booking)
        names = [interface.port for interface in private]
        restarting = self._running(name)
        if not restarting:
            self._clear(name)
            hook = self._hook(name, job)
            self._launch(name, lxcconfig.render(self._container(sliver, booking.nr, private, hook)))
            self._await_init(name)
        try:
            self._check(name, booking.nr, names, RESTART_S if restarting else 0)
        except StepError:
            self._clear(name)
            raise

    def stop(self, step: "Step") -> None:
        """Silence the sliver's interfaces, ask its init to halt, wait up to STOP_S, then end it by force (at once if it
        is frozen). Leaves neither processes, LXC's cgroups nor interfaces behind. Does nothing if there is none.
        StepError if something does not go away."""
        name = step.subject
        silence(ports.of(step.booking.nr) if step.booking else _veths_of(os.path.join(self._lxc, name, "config")))
        init = cgroups.find_init(self._limited(name))
        listens = init is not None and not cgroups.frozen(self._limited(name))
        if listens and init is not None and ask_to_halt(init, self._limited(name)):
            cgroups.wait_until(lambda: not cgroups.populated(self._limited(name)), time.monotonic() + STOP_S)
        self._clear(name)

    # Parts

    def _running(self, name: str) -> bool:
        """Whether the sliver runs with its monitor. One that restarts itself may be without init for RESTART_S."""
        if not self._monitor_pids(name):
            return False
        limited = self._limited(name)
        return cgroups.wait_until(lambda: cgroups.find_init(limited) is not None, time.monotonic() + RESTART_S)

    def _check(self, name: str, nr: int, names: "list[str]", patience: float) -> None:
        """Check how the sliver is confined. It may be not yet for `patience` seconds: LXC sets a sliver that restarted
        itself up in the process that becomes its init."""
        deadline = time.monotonic() + patience
        while True:
            try:
                init = cgroups.find_init(self._limited(name))
                if init is None:
                    raise StepError(f"sliver {name} has ended again; its console ends: {self._console_end(name)}")
                check_confinement(init, name, addressing.id_base(nr))
                for port in names:
                    links.isolate(port)
                return
            except StepError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(cgroups.POLL_S)

    def _limited(self, name: str) -> str:
        return os.path.join(self._paths.cgroup, cgroups.SLIVERS, name)

    def _monitor(self, name: str) -> str:
        return os.path.join(self._paths.cgroup, cgroups.MONITORS, name)

    def _monitor_pids(self, name: str) -> "list[int]":
        """LXC's monitor of the sliver: in its own cgroup, or at its very end in the one all monitors end in."""
        pids = cgroups.processes(self._monitor(name))
        for pid in cgroups.processes(os.path.join(self._paths.cgroup, cgroups.PIVOT)):
            command = (cgroups.read(f"/proc/{pid}/cmdline") or "").rstrip("\0 ")
            if command == f"[lxc monitor] {self._lxc} {name}":
                pids.append(pid)
        return pids

    def _hook(self, name: str, job: "dict[str, Any] | None") -> str:
        """Leave the job for the worker, which LXC runs whenever it starts the sliver; its command line, "" if none."""
        if job is None:
            return ""
        path = self._interfaces.job_file(name)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        durable.write_json(path, job)
        return " ".join(command(path))

    def _container(self, sliver: "SliverTarget", nr: int, private: "list[SliverInterface]", hook: str) -> Container:
        return Container(
            name=sliver.name,
            root=os.path.join(self._paths.mounts, "slivers", sliver.name, "root"),
            id_base=addressing.id_base(nr),
            template_type=sliver.template.type if sliver.template else "",
            memory_mib=sliver.limits.memory_mib,
            console_log=self._paths.sliver(sliver.name, "console.log"),
            seccomp=os.path.join(self._paths.share, "sliver.seccomp"),
            port_script=os.path.join(self._paths.share, "isolate-port"),
            apparmor=cgroups.read("/sys/module/apparmor/parameters/enabled") == "Y",
            interfaces=private,
            hook=hook,
        )

    def _launch(self, name: str, config: str) -> None:
        directory = os.path.join(self._lxc, name)
        log = os.path.join(directory, "log")
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for path, content in ((os.path.join(directory, "config"), config), (log, "")):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(content)
        command = ["lxc-start", "-n", name, "-P", self._lxc, "-o", log, "-l", "ERROR", "-d"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        # LXC looks for a name that no interface has: to a process that may load modules the kernel offers one of that
        # name, by a modprobe each time. LXC's monitor, which stays, has no business with modules either.
        syscalls.leave_modules_alone()
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        except FileNotFoundError:
            raise StepError("there is no lxc-start on this node: install LXC")
        status = ended(started, START_S)
        if status is None:
            said = errors_of_lxc(_read_end(log))
            self._clear(name)
            raise StepError(f"lxc-start of sliver {name} took longer than {START_S} s: {said}")
        if status != 0:
            said = self._said_by_worker(name) or errors_of_lxc(_read_end(log))
            self._clear(name)
            raise StepError(f"lxc-start of sliver {name} failed (status {status}): {said}")

    def _said_by_worker(self, name: str) -> str:
        """Why the worker did not let the sliver start; "" if it did."""
        try:
            answer = durable.read_json(self._interfaces.job_file(name) + DONE)
        except ValueError:
            return ""
        return str((answer or {}).get("failed") or "")

    def _await_init(self, name: str) -> None:
        limited = self._limited(name)
        if not cgroups.wait_until(lambda: cgroups.find_init(limited) is not None, time.monotonic() + INIT_S):
            console = self._console_end(name)
            self._clear(name)
            raise StepError(f"sliver {name} has no init {INIT_S} s after its start; its console ends: {console}")

    def _console_end(self, name: str) -> str:
        return one_line(_read_end(self._paths.sliver(name, "console.log")).splitlines()[-5:])

    def _clear(self, name: str) -> None:
        """End what is left of the sliver's processes and of LXC, and remove what LXC made."""
        if not cgroups.kill(self._limited(name), KILL_S):
            pids = cgroups.processes(self._limited(name))
            raise StepError(f"processes {pids} of sliver {name} do not end, {KILL_S} s after they were killed")
        deadline = time.monotonic() + CLEAN_UP_S
        if not cgroups.wait_until(lambda: not self._monitor_pids(name), deadline):
            for pid in self._monitor_pids(name):
                _kill(pid)
            if not cgroups.wait_until(lambda: not self._monitor_pids(name), time.monotonic() + KILL_S):
                raise StepError(f"LXC's monitor {self._monitor_pids(name)} of sliver {name} does not end")
        if not cgroups.kill(self._limited(name), KILL_S):  # the monitor may have restarted the sliver at its own wish
            raise StepError(f"sliver {name} does not end")
        cgroups.remove(os.path.join(self._limited(name), cgroups.INNER))
        cgroups.remove(self._monitor(name))
        self._await_no_interfaces(name)

    def _await_no_interfaces(self, name: str) -> None:
        """The kernel removes the interfaces with the sliver's network namespace, a moment after its last process."""
        config = os.path.join(self._lxc, name, "config")
        veths = _veths_of(config)

        def gone() -> bool:
            return not any(os.path.exists(f"/sys/class/net/{veth}") for veth in veths)

        if not cgroups.wait_until(gone, time.monotonic() + CLEAN_UP_S):
            for veth in veths:
                links.delete(veth)
        for file in ("config", "log", JOB, JOB + DONE):
            _unlink(os.path.join(self._lxc, name, file))
        _rmdir(os.path.dirname(config))


def check_confinement(init: int, name: str, id_base: int) -> None:
    """Check on the running `init` (host pid) what the configuration asked for. StepError names what does not hold."""
    ids = f"0 {id_base} {addressing.IDS_PER_SLIVER}"
    for file in ("uid_map", "gid_map"):
        found = " ".join((cgroups.read(f"/proc/{init}/{file}") or "").split())
        if found != ids:
            raise StepError(f"sliver {name} runs with {file} {found!r}, not {ids!r}")
    where = cgroups.of_process(init) or "nowhere"
    if not (f"{where}/").startswith(f"/{cgroups.SLIVERS}/{name}/{cgroups.INNER}/"):
        raise StepError(f"sliver {name} runs in cgroup {where}, outside its limits")
    status = process_status(init)
    if status.get("Seccomp") != str(SECCOMP_FILTER):
        raise StepError(f"sliver {name} runs without its seccomp policy (Seccomp: {status.get('Seccomp')})")
    allowed = sum(1 << number for number in CAPABILITIES.values())
    bounding = int(status.get("CapBnd", "-1"), 16)
    if bounding != allowed:
        raise StepError(f"sliver {name} runs with capabilities {bounding:x}, not {allowed:x}")


def ended(process: "subprocess.Popen[bytes]", seconds: float) -> "int | None":
    """The exit status of `process`, as soon as it ends; None if it has to be killed after so many seconds.

    subprocess itself would look again and again, up to 50 ms apart: half of that is lost with each start.
    """
    handle = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if poll.poll(seconds * 1000):
            return process.wait()
    finally:
        os.close(handle)
    process.kill()
    process.wait()
    return None


def process_status(pid: int) -> "dict[str, str]":
    """/proc/<pid>/status as {key: text}; empty if there is no such process."""
    lines = (cgroups.read(f"/proc/{pid}/status") or "").splitlines()
    return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


def halt_signal(status: "dict[str, str]") -> "int | None":
    """The signal to halt the init with this /proc status; None if it is known to ignore them.

    The first one that it is seen to listen to: it catches it, or blocks it to read it from a signalfd. An init that
    waits for signals with sigtimedwait (busybox) shows neither; it gets SIGPWR, which the kernel drops if it is wrong.
    """
    listens = int(status.get("SigCgt", "0"), 16) | int(status.get("SigBlk", "0"), 16)
    for number in HALT_SIGNALS:
        if listens >> (number - 1) & 1:
            return number
    ignores = int(status.get("SigIgn", "0"), 16)
    return None if ignores >> (signal.SIGPWR - 1) & 1 else signal.SIGPWR


def ask_to_halt(init: int, path: str) -> bool:
    """Send `init` (host pid) in cgroup `path` the signal to halt. False if it is not there or would ignore it."""
    number = halt_signal(process_status(init))
    if number is None:
        return False
    try:
        handle = os.pidfd_open(init)
    except OSError:
        return False
    try:
        if cgroups.find_init(path) != init:  # it ended, and its pid may have been given to another process
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:  # LXC or a person keeps something there: it is in memory and bounded
        pass


def _read_end(path: str) -> str:
    """The end of a log, at most LOG_END bytes; "" if it is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_END))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def one_line(lines: "list[str]") -> str:
    """Lines of a log as one line that can be shown anywhere."""
    text = "; ".join(line.strip() for line in lines if line.strip())
    return "".join(char if char.isprintable() else "?" for char in text) or "(nothing)"


def errors_of_lxc(log: str) -> str:
    """The messages of LXC's log, the first five: the cause comes first, then what gave up because of it."""
    messages = [line.rpartition(":")[2].partition(" - ")[2] for line in log.splitlines() if " ERROR " in line]
    return one_line(messages[:5])


def _veths_of(config: str) -> "list[str]":
    """Names of the node's ends of the interfaces in the configuration that LXC was started with."""
    text = cgroups.read(config) or ""
    pairs = [line.partition("=") for line in text.splitlines()]
    return [value.strip() for key, _, value in pairs if key.strip().endswith(".veth.pair")]
