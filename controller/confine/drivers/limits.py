"""The slivers' limits: a cgroup of our own for each, set before anything runs in it and read back from the kernel.

LXC's own cgroup lies below ours (see cgroups.py), so the limits hold whatever LXC or the sliver does, can be changed
while it runs, and one write to cgroup.kill stops everything. A limit that the kernel cannot hold is a failed step
(design: "a limit that does not hold is a failed start, not a warning").
"""

import os

from confine.core.model import MIB, Limits
from confine.drivers import cgroups
from confine.errors import StepError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import SliverObserved, Step

# CPU time is handed out anew each period; cpu.max is in microseconds of it.
PERIOD_US = 100000
# cgroups below a sliver's own (an init system makes some tens): each costs kernel memory.
MAX_DESCENDANTS = 512
DEFAULT_WEIGHT = 100
NO_SWAP = "memory.swap.max"
REMOVE_S = 10
IO_KEYS = ("rbps", "wbps", "riops", "wiops")


class Device:
    """A block device that carries a sliver's reads (and, if `writes`, its writes). number: "major:minor"."""

    def __init__(self, number: str, writes: bool) -> None:
        self.number = number
        self.writes = writes


def controllers(limits: Limits) -> "list[str]":
    """The cgroup controllers without which `limits` cannot be held."""
    needed = ["memory", "pids"]
    if limits.cpu_percent is not None or limits.cpu_weight != DEFAULT_WEIGHT:
        needed.append("cpu")
    if limits.io_mib_s is not None or limits.io_ops is not None:
        needed.append("io")
    return needed


def settings(limits: Limits) -> "list[tuple[str, str]]":
    """What is to stand in each file of the sliver's cgroup, block devices apart: (file, text), in order."""
    wanted = [
        (NO_SWAP, "0"),
        ("memory.max", str(limits.memory_mib * MIB)),
        ("pids.max", str(limits.pids)),
        ("cgroup.max.descendants", str(MAX_DESCENDANTS)),
    ]
    if "cpu" in controllers(limits):
        percent = limits.cpu_percent
        quota = "max" if percent is None else str(percent * PERIOD_US // 100)
        wanted.append(("cpu.max", f"{quota} {PERIOD_US}"))
        wanted.append(("cpu.weight", str(limits.cpu_weight)))
    return wanted


def io_line(limits: Limits, device: Device) -> "dict[str, str]":
    """What is to stand in io.max for `device`: {"rbps": bytes a second or "max", "wbps", "riops", "wiops"}."""
    rate = "max" if limits.io_mib_s is None else str(limits.io_mib_s * MIB)
    operations = "max" if limits.io_ops is None else str(limits.io_ops)
    if not device.writes:
        return {"rbps": rate, "wbps": "max", "riops": operations, "wiops": "max"}
    return {"rbps": rate, "wbps": rate, "riops": operations, "wiops": operations}


def parse_io_max(text: str) -> "dict[str, dict[str, str]]":
    """io.max as {device number: {"rbps": "max", ...}}."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words:
            found[words[0]] = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    return found


def same(asked: str, found: "str | None") -> bool:
    """Whether the kernel holds `asked`. It rounds sizes down to whole pages; all else must be equal."""
    if found is None:
        return False
    if asked.isdigit() and found.isdigit():
        return 0 <= int(asked) - int(found) < os.sysconf("SC_PAGE_SIZE") if int(asked) > MIB else asked == found
    return asked == found


class LimitsDriver:
    """Steps `limits apply`, `limits verify`, `limits remove`; observing and counting of what slivers use."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._root = paths.cgroup
        self._inits: dict[str, int] = {}

    def path(self, name: str) -> str:
        """Our cgroup of the sliver `name`."""
        return os.path.join(self._root, cgroups.SLIVERS, name)

    def names(self) -> "list[str]":
        """Names of the slivers that have a cgroup, ours or that of LXC's monitor."""
        trees = (cgroups.SLIVERS, cgroups.MONITORS)
        paths = [path for tree in trees for path in cgroups.inner_directories(os.path.join(self._root, tree))]
        return sorted({os.path.basename(path) for path in paths})

    # Steps

    def apply(self, step: "Step") -> None:
        """Make the sliver's cgroup, set its limits, read them back. On a sliver that runs: change them.

        Its disk has to be mounted. StepError names the controller, file or device that does not hold.
        """
        limits = _asked(step)
        path = self.path(step.subject)
        self._enable(limits)
        devices = self._devices(step.subject, limits)
        os.makedirs(path, exist_ok=True)
        for file, text in settings(limits):
            if file == NO_SWAP and _no_swap(path):
                continue
            cgroups.write(os.path.join(path, file), text)
        self._set_io(path, limits, devices)
        self._compare(step.subject, limits)

    def verify(self, step: "Step") -> None:
        """Check that the running sliver is below its cgroup and the limits still stand there. StepError if not."""
        name = step.subject
        init = cgroups.find_init(self.path(name))
        if init is None:
            raise StepError(f"sliver {name} has no running init in its cgroup; it will be started again")
        inside = f"/{cgroups.SLIVERS}/{name}/"
        where = cgroups.of_process(init) or "nowhere"
        if not where.startswith(inside):
            raise StepError(f"init {init} of sliver {name} runs in cgroup {where}, outside its limits")
        self._compare(name, _asked(step))

    def remove(self, step: "Step") -> None:
        """Remove the sliver's cgroup; ends what still runs in it. StepError if that does not end in time."""
        path = self.path(step.subject)
        if not os.path.isdir(path):
            return
        if not cgroups.kill(path, REMOVE_S):
            left = cgroups.processes(path)
            raise StepError(
                f"processes {left} of sliver {step.subject} do not end, {REMOVE_S} s after they were killed"
            )
        cgroups.remove(path)
        self._inits.pop(step.subject, None)

    def freeze(self, step: "Step") -> None:
        """Keep all processes of the sliver from running. Comes back when the kernel has been told."""
        cgroups.write(f"{self.path(step.subject)}/{cgroups.FREEZE}", "1")

    def thaw(self, step: "Step") -> None:
        """Let the sliver's processes run again; also if all slivers were frozen by one write above them."""
        for path in (os.path.join(self._root, cgroups.SLIVERS), self.path(step.subject)):
            if cgroups.read(f"{path}/{cgroups.FREEZE}") == "1":
                cgroups.write(f"{path}/{cgroups.FREEZE}", "0")

    # Observing

    def observe(self, found: "SliverObserved") -> None:
        """Fill in limited, running, limits_held and init_pid of `found`, against the limits of its allocation.

        limited: there is a cgroup of the sliver, ours or that of LXC's monitor, so there is something to take down.
        """
        name = found.name
        path = self.path(name)
        monitor = os.path.join(self._root, cgroups.MONITORS, name)
        found.limited = os.path.isdir(path) or os.path.isdir(monitor)
        if cgroups.populated(path):
            found.init_pid = cgroups.find_init(path, self._inits.get(name))
        found.running = found.init_pid is not None
        found.frozen = found.running and cgroups.frozen(path)
        if found.init_pid is None:
            self._inits.pop(name, None)
            return
        self._inits[name] = found.init_pid
        found.limits_held = self._held(name, found.allocation)

    def usage(self, name: str) -> "dict[str, Any]":
        """What the sliver `name` uses: memory_bytes, memory_peak_bytes, cpu_usec, cpu_throttled_usec, pids,
        read_bytes, write_bytes (of its own disk and template), and how often it ran into a limit: oom_kills,
        memory_full, pids_refused. A number that the kernel does not give is left out."""
        path = self.path(name)
        cpu = cgroups.flat(cgroups.read(f"{path}/cpu.stat"))
        memory = cgroups.flat(cgroups.read(f"{path}/memory.events"))
        counts = {
            "memory_bytes": _number(f"{path}/memory.current"),
            "memory_peak_bytes": _number(f"{path}/memory.peak"),
            "cpu_usec": cpu.get("usage_usec"),
            "cpu_throttled_usec": cpu.get("throttled_usec"),
            "pids": _number(f"{path}/pids.current"),
            "oom_kills": memory.get("oom_kill"),
            "memory_full": memory.get("max"),
            "pids_refused": self._pids_refused(path),
        }
        counts.update(self._transferred(name))
        return {key: value for key, value in counts.items() if value is not None}

    # Parts

    def _enable(self, limits: Limits) -> None:
        """Hand the controllers down to the slivers' cgroups. StepError for one that is missing and needed."""
        available = (cgroups.read(os.path.join(self._root, "cgroup.controllers")) or "").split()
        missing = [word for word in controllers(limits) if word not in available]
        if missing:
            raise StepError(
                f"the kernel has no cgroup v2 controller {' and '.join(missing)} (only: {' '.join(available)}): "
                f"the limits cannot be held; enable it in the kernel and mount cgroup2 at {self._root}"
            )
        slivers = os.path.join(self._root, cgroups.SLIVERS)
        os.makedirs(slivers, exist_ok=True)
        usable = [word for word in ("cpu", "io", "memory", "pids") if word in available]
        for path in (self._root, slivers):
            control = os.path.join(path, "cgroup.subtree_control")
            enabled = (cgroups.read(control) or "").split()
            for word in usable:
                if word not in enabled:
                    cgroups.write(control, f"+{word}")

    def _devices(self, name: str, limits: Limits) -> "list[Device]":
        """The block devices to put in io.max: those directly below the sliver's two file systems.

        Measured on 6.12: io.max of the loop device holds direct, synced and buffered writes, and reads, whether the
        loop device goes through the page cache or not. That of the disk behind it does not hold direct writes when the
        loop device answers from the page cache, and both together halve the rate of synced ones. The file system's
        own journal is written by the kernel and not counted.
        """
        if limits.io_mib_s is None and limits.io_ops is None:
            return []
        points = os.path.join(self._paths.mounts, "slivers", name)
        own = block_device(os.path.join(points, "disk"))
        if own is None:
            raise StepError(f"the disk of sliver {name} is not mounted: its I/O limit cannot be set")
        template = block_device(os.path.join(points, "lower"))
        devices = [Device(own, writes=True)]
        if template is not None and template != own:
            devices.append(Device(template, writes=False))
        return devices

    def _set_io(self, path: str, limits: Limits, devices: "list[Device]") -> None:
        file = os.path.join(path, "io.max")
        stale = set(parse_io_max(cgroups.read(file) or "")) - {device.number for device in devices}
        for number in sorted(stale):
            cgroups.write(file, number + "".join(f" {key}=max" for key in IO_KEYS))
        for device in devices:
            line = io_line(limits, device)
            cgroups.write(file, device.number + "".join(f" {key}={line[key]}" for key in IO_KEYS))

    def _mismatch(self, name: str, limits: Limits) -> "tuple[str, str, str] | None":
        """The first (file, asked, found) that the kernel does not hold; None if all is held."""
        path = self.path(name)
        for file, asked in settings(limits):
            found = cgroups.read(os.path.join(path, file))
            if not same(asked, found) and not (file == NO_SWAP and _no_swap(path)):
                return file, asked, str(found)
        devices = self._devices(name, limits)
        if not devices:
            return None
        lines = parse_io_max(cgroups.read(os.path.join(path, "io.max")) or "")
        for device in devices:
            line = io_line(limits, device)
            if lines.get(device.number) != line:
                return "io.max", f"{device.number} {line}", str(lines.get(device.number))
        return None

    def _compare(self, name: str, limits: Limits) -> None:
        wrong = self._mismatch(name, limits)
        if wrong is not None:
            file, asked, found = wrong
            raise StepError(f"limit {file} of sliver {name} does not hold: asked for {asked}, the kernel has {found}")

    def _held(self, name: str, allocation: "dict[str, Any] | None") -> bool:
        """Whether the limits of `allocation` stand in the kernel. Without an allocation nothing is known to hold."""
        if not allocation:
            return False
        try:
            return self._mismatch(name, Limits(**allocation["limits"])) is None
        except (StepError, KeyError, TypeError):
            return False

    def _transferred(self, name: str) -> "dict[str, int]":
        own = block_device(os.path.join(self._paths.mounts, "slivers", name, "disk"))
        template = block_device(os.path.join(self._paths.mounts, "slivers", name, "lower"))
        total = {"read_bytes": 0, "write_bytes": 0}
        for number, values in parse_io_max(cgroups.read(f"{self.path(name)}/io.stat") or "").items():
            if number in (own, template):
                total["read_bytes"] += int(values.get("rbytes", 0))
                total["write_bytes"] += int(values.get("wbytes", 0))
        return total

    def _pids_refused(self, path: str) -> "int | None":
        """Forks refused. Linux before 6.11 counts them in the cgroup that forked, later ones in ours."""
        found = [cgroups.flat(cgroups.read(f"{p}/pids.events")).get("max") for p in (path, f"{path}/{cgroups.INNER}")]
        known = [count for count in found if count is not None]
        return max(known) if known else None


def block_device(mount_point: str) -> "str | None":
    """ "major:minor" of the whole block device below the file system at `mount_point`; None if it has none."""
    try:
        device = os.stat(mount_point).st_dev
        if device == os.stat(os.path.dirname(mount_point)).st_dev:
            return None  # nothing is mounted there
    except OSError:
        return None
    if os.major(device) == 0:  # not on a block device: overlay, tmpfs
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(f"/sys/dev/block/{number}/partition"):
        return number
    return cgroups.read(f"/sys/dev/block/{number}/../dev")  # limits are for whole devices


def _asked(step: "Step") -> Limits:
    if step.sliver is None:
        raise StepError(f"step limits {step.verb} for {step.subject} comes without the sliver's limits")
    return step.sliver.limits


def _no_swap(path: str) -> bool:
    """Whether the kernel was built without swap: then there is neither a file for its limit nor any swap."""
    return not os.path.exists(os.path.join(path, NO_SWAP)) and not os.path.exists("/proc/swaps")


def _number(path: str) -> "int | None":
    text = cgroups.read(path)
    return int(text) if text is not None and text.isdigit() else None
