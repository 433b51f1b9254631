"""Figures of the machine for the metrics: small files of the kernel read, no process started. What cannot be read is
left out, never guessed."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CPU_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_dropped", "tx_dropped")
SLIVER_PORT = "slv-"
OF_SLIVERS = (SLIVER_PORT, "iso-", "shape-")
MOST_DEVICES = 64


class Machine:
    """Where to read: the roots of sysfs and procfs, and the data partition's directory."""

    def __init__(self, data: str, mounts: str, sys: str = "/sys", proc: str = "/proc") -> None:
        self._data = data
        self._mounts = mounts
        self._sys = sys
        self._proc = proc

    def cpu_seconds(self) -> "dict[str, float]":
        """Time the processors spent, by mode, since the machine started."""
        words = _read(f"{self._proc}/stat").split("\n", 1)[0].split()
        ticks = os.sysconf("SC_CLK_TCK")
        if not words or words[0] != "cpu":
            return {}
        return {mode: int(word) / ticks for mode, word in zip(CPU_MODES, words[1:], strict=False)}

    def memory_bytes(self) -> "dict[str, int]":
        """total, free, available."""
        found = {}
        for line in _read(f"{self._proc}/meminfo").splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemFree", "MemAvailable"):
                found[name[3:].lower()] = int(rest.split()[0]) * 1024
        return found

    def disk_bytes(self) -> "dict[str, int]":
        """total and free of the data partition."""
        return _filesystem(self._data)

    def sliver_disk_bytes(self, name: str) -> "dict[str, int]":
        """total and free of the sliver's own file system, if it is mounted."""
        point = f"{self._mounts}/slivers/{name}/disk"
        return _filesystem(point) if os.path.ismount(point) else {}

    def load(self) -> "list[float]":
        """Load averages over 1, 5 and 15 minutes."""
        return [float(word) for word in _read(f"{self._proc}/loadavg").split()[:3]]

    def uptime(self) -> "float | None":
        """Seconds since the machine started."""
        words = _read(f"{self._proc}/uptime").split()
        return float(words[0]) if words else None

    def drops(self) -> "dict[tuple[int, str], int]":
        """{(sliver number, reason): packets} that the firewall dropped."""
        from confine.drivers.firewall import drops  # lazy: only for the metrics

        return drops()

    def own(self) -> "dict[str, float]":
        """This process: memory (resident bytes), cpu (seconds), descriptors and threads (counts)."""
        times = os.times()
        found: dict[str, float] = {"cpu": times.user + times.system}
        words = _read(f"{self._proc}/self/statm").split()
        if len(words) > 1:
            found["memory"] = int(words[1]) * os.sysconf("SC_PAGE_SIZE")
        for name, directory in (("descriptors", "fd"), ("threads", "task")):
            try:
                found[name] = len(os.listdir(f"{self._proc}/self/{directory}"))
            except OSError:
                pass
        return found

    def devices(self) -> "list[str]":
        """The node's network devices, without loopback."""
        try:
            names = sorted(os.listdir(f"{self._sys}/class/net"))
        except OSError:
            return []
        return [name for name in names if name != "lo"]

    def counters(self, device: str) -> "dict[str, int]":
        """What a network device counted."""
        found = {}
        for counter in COUNTERS:
            text = _read(f"{self._sys}/class/net/{device}/statistics/{counter}").strip()
            if text.isdigit():
                found[counter] = int(text)
        return found


def _filesystem(path: str) -> "dict[str, int]":
    try:
        found: Any = os.statvfs(path)
    except OSError:
        return {}
    return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
