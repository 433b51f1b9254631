"""Virtual nodes: the real kernel, LXC, GRUB and kexec in QEMU.

    with VirtualNode("build/reference/disk.img") as node:          # starts it cold, through GRUB
        assert node.run(["uci", "get", "confine.node.id"]).out == "7\\n"
        node.write_file("/etc/config/confine", text)
        node.wait_for("sliver 3 is started", lambda: "3" in node.must(["confine", "status"]), timeout=60)

The disk is never written to: each node runs on an overlay of its own, gone with it. Other ways to start:

    VirtualNode(disk, kernel=KernelBoot(vmlinuz, initrd))          # without GRUB: 2 s less; the same disk
    VirtualNode.from_snapshot(snapshot)                            # 0.5 s; made by node.save(directory)

In pytest the fixtures do it (conftest.py): `node` is a started node of one's own, from a snapshot; `fresh_node` started
cold; `make_node(...)` makes others, or several, with VirtualNode's arguments; `disk` is the image they run on. Tests
that use one of these get the mark `qemu` and a time limit by themselves.

The host is 10.0.2.2 and fec0::2 as the node sees it: a server that a test starts on 127.0.0.1 or ::1 is reached there.
Everything that waits has a deadline, and says at its end what the serial port last said. When a test ends, fails, is
interrupted or killed, QEMU is killed with it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qemu.harness_channel import NoAnswer, NodeError, Result
from qemu.harness_machine import Machine, acceleration

__all__ = ["KernelBoot", "NoAnswer", "NodeError", "Result", "Snapshot", "VirtualNode"]

# On the loaded machines of CI a command can wait for a processor; a deadline is for hangs, not for slowness.
_SLACK_S = 20.0
_PER_MIB_S = 15.0  # of a file, through the serial port
_START_S = 120.0
_numbers = itertools.count(1)

# What upgrade/boot/grub.cfg gives the kernel, for starts without GRUB.
_COMMAND_LINE = (
    "console=ttyS0,115200 panic=5 apparmor=0 watchdog.stop_on_reboot=0 "
    "confine.root=PARTLABEL=root-a confine.slot=a confine.confirmed=a confine.pointer=copy1 confine.boot=uncounted"
)


@dataclass(frozen=True)
class KernelBoot:
    """Start this kernel without GRUB. options: further words for its command line."""

    kernel: str
    initrd: str
    options: str = ""


@dataclass(frozen=True)
class Hardware:
    """What a node is made of. A snapshot only runs on the hardware it was made on.

    netdevs: QEMU netdev specifications without the id, one further network card for each (eth1, ...).
    forwards: TCP port on the host's 127.0.0.1 to port of the node. uplink: such a specification for eth0, in place of
    QEMU's own network that the host is on (then there are no forwards). mac: the first five bytes of all its hardware
    addresses, "52:54:00:00:01"; without it all nodes have the same ones.
    """

    memory_mib: int = 768
    cpus: int = 1
    netdevs: Sequence[str] = ()
    watchdog: bool = True
    forwards: Mapping[int, int] = field(default_factory=dict)
    uplink: str = ""
    mac: str = ""
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Snapshot:
    """A node, stopped while it ran: memory and disk in `directory`, for any number of nodes side by side.

    QEMU's migration to a file rather than savevm: the copies share both files, nothing has to be copied to start one.
    """

    directory: str
    hardware: Hardware

    @property
    def memory(self) -> str:
        return os.path.join(self.directory, "memory")

    @property
    def disk(self) -> str:
        return os.path.join(self.directory, "disk.qcow2")


class VirtualNode(Machine):
    """A node in QEMU. Use as a context manager; see the module's first lines."""

    def __init__(
        self,
        disk: str,
        name: str | None = None,
        kernel: KernelBoot | None = None,
        hardware: Hardware | None = None,
        snapshot: Snapshot | None = None,
        work: str | None = None,
        console: str | None = None,
        wait_until_up: bool = True,
        descriptors: Sequence[int] = (),
        **changes: Any,
    ) -> None:
        """disk: a raw or qcow2 image, read only. changes: fields of Hardware (memory_mib=256, netdevs=[...]).

        wait_until_up: entering the context waits until the node has started; without, it gives a node that starts.
        work: directory for the log and the overlay, kept; console: path of a UNIX socket for a person's terminal.
        descriptors: open files that QEMU inherits under the same numbers, for netdevs that name them.
        """
        self.hardware = Hardware(**{**(vars(hardware) if hardware else {}), **changes})
        self._disk = os.path.abspath(disk)
        self._kernel = kernel
        self._snapshot = snapshot
        self._wait_until_up = wait_until_up
        self._descriptors = tuple(descriptors)
        super().__init__(name or f"node-{os.getpid()}-{next(_numbers)}", [], work, console)

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, name: str | None = None, work: str | None = None) -> VirtualNode:
        """A node that goes on where the snapshot was made, with its own name and the right time."""
        return cls(snapshot.disk, name, hardware=snapshot.hardware, snapshot=snapshot, work=work)

    def start(self, descriptors: Sequence[int] = ()) -> None:
        """Start the node; comes back when it is up, unless made with wait_until_up=False."""
        descriptors = (*self._descriptors, *descriptors)
        overlay = os.path.join(self.work, "disk.qcow2")
        if not os.path.exists(overlay):
            _make_overlay(self._disk, overlay)
        self.arguments = _arguments(self.hardware, overlay, self._kernel)
        if self._snapshot is None:
            super().start(descriptors)
            if self._wait_until_up:
                self.wait_until_up()
            return
        with open(self._snapshot.memory, "rb") as memory:
            self.arguments += ["-incoming", f"fd:{memory.fileno()}"]
            super().start([*descriptors, memory.fileno()])
            self._go_on()

    def run(self, argv: Sequence[str], timeout: float = 30, stdin: bytes = b"") -> Result:
        """Run a command in the node, as root, in /. timeout in seconds: then it is killed and its status is 124."""
        request = {"argv": list(argv), "timeout": timeout, "stdin_b64": base64.b64encode(stdin).decode()}
        return self._ask(request, timeout, " ".join(argv))

    def must(self, argv: Sequence[str], timeout: float = 30, stdin: bytes = b"") -> str:
        """As run, for commands that have to succeed: gives their output; NodeError with all they said if not."""
        result = self.run(argv, timeout, stdin)
        if result.status != 0:
            raise NodeError(f"{self.name}: {' '.join(argv)}: status {result.status}\n{result.out}{result.err}")
        return result.out

    def sh(self, script: str, timeout: float = 30) -> str:
        """As must, for a few lines of shell."""
        return self.must(["sh", "-euc", script], timeout)

    def read_file(self, path: str) -> bytes:
        """The content of a file in the node; NodeError if it cannot be read."""
        return self._file_request({"read": path}, "read " + path, timeout=60).out_bytes

    def write_file(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Replace a file in the node as a whole, its directories made."""
        data = content.encode() if isinstance(content, str) else content
        encoded = base64.b64encode(data).decode()
        timeout = 10 + len(data) / (1 << 20) * _PER_MIB_S
        self._file_request({"write": path, "data_b64": encoded, "mode": mode}, "write " + path, timeout)

    def ask(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        """Send `data` to a UNIX socket in the node, give the line it answers; starts no process in the node."""
        request = {"ask": path, "data_b64": base64.b64encode(data).decode(), "timeout": timeout}
        return self._file_request(request, "ask " + path, timeout).out_bytes

    def boot_id(self, timeout: float = 10) -> str:
        """Differs after each start of the node's kernel."""
        request = {"read": "/proc/sys/kernel/random/boot_id"}
        return self.agent.request(request, timeout).out.strip()

    def wait_until_up(self, timeout: float = _START_S, not_boot: str = "") -> None:
        """Wait until the agent answers and all init scripts have run. not_boot: the boot_id that must be over."""

        def started() -> bool:
            now = self.boot_id(timeout=2)
            return bool(now) and now != not_boot

        self.wait_for("the node's agent answers", started, timeout)
        self.wait_for("all init scripts have run", lambda: "rcS S boot" not in self.must(["ps"]), timeout)

    def reset(self) -> None:
        """The reset button: no chance for the node to flush anything. Comes back at once."""
        self.qmp("system_reset")

    def command_line(self) -> dict[str, str]:
        """The running kernel's command line: word to value, empty for words without one."""
        words = self.read_file("/proc/cmdline").decode().split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    def save(self, directory: str) -> Snapshot:
        """Stop the node and keep it as a snapshot in the new `directory`."""
        os.makedirs(directory)
        snapshot = Snapshot(directory, self.hardware)
        self.must(["sync"])
        self.qmp("stop")
        self.qmp("migrate-set-parameters", max_bandwidth=1 << 40)
        with open(snapshot.memory, "wb") as memory:
            self.qmp("getfd", descriptors=(memory.fileno(),), fdname="memory")
            self.qmp("migrate", uri="fd:memory")
            self.wait_for("the node's memory is saved", lambda: self._migration("completed"), timeout=60)
        overlay = os.path.join(self.work, "disk.qcow2")
        self._kill()
        shutil.move(overlay, snapshot.disk)
        with open(os.path.join(directory, "hardware.json"), "w") as file:
            json.dump(asdict(self.hardware), file)
        return snapshot

    def _migration(self, wanted: str) -> bool:
        state = self.qmp("query-migrate")
        if state.get("status") == "failed":
            raise NodeError(f"{self.name}: the snapshot cannot be made: {state.get('error-desc')}")
        return state.get("status") == wanted

    def _go_on(self) -> None:
        """A restored node has the time and the name of the one it was made of: put both right."""
        self.wait_for("the snapshot is loaded", lambda: self.qmp("query-status")["status"] != "inmigrate", 60, 0.02)
        self.qmp("cont")
        self.must(["date", "-u", "-s", f"@{int(time.time())}"])
        self.must(["hostname", self.name])

    def _ask(self, request: dict[str, Any], timeout: float, what: str) -> Result:
        try:
            return self.agent.request(request, timeout + _SLACK_S)
        except NoAnswer:
            raise NoAnswer(f"{self.name}: no answer after {timeout + _SLACK_S:g} s to: {what}{self.serial_tail()}")

    def _file_request(self, request: dict[str, Any], what: str, timeout: float = 10) -> Result:
        result = self._ask(request, timeout, what)
        if result.status != 0:
            raise NodeError(f"{self.name}: cannot {what}: {result.err}")
        return result

    def __enter__(self) -> VirtualNode:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self


def _arguments(hardware: Hardware, disk: str, kernel: KernelBoot | None) -> list[str]:
    argv = ["-M", "q35", *acceleration(), "-m", str(hardware.memory_mib), "-smp", str(hardware.cpus)]
    # The overlay is gone with the node, so flushing it to the host's disk would be time for nothing.
    argv += ["-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap"]
    argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=1", "-device", "virtio-rng-pci"]
    uplink = f"{hardware.uplink},id=net0"
    if not hardware.uplink:
        uplink = "user,id=net0,ipv4=on,ipv6=on"  # ipv6=on alone switches IPv4 off
        uplink += "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{guest}" for port, guest in hardware.forwards.items())
    argv += ["-netdev", uplink, "-device", "virtio-net-pci,netdev=net0,romfile=" + _mac(hardware, 0)]
    for number, netdev in enumerate(hardware.netdevs, start=1):
        device = f"virtio-net-pci,netdev=net{number},romfile={_mac(hardware, number)}"
        argv += ["-netdev", f"{netdev},id=net{number}", "-device", device]
    if hardware.watchdog:
        argv += ["-device", "i6300esb", "-action", "watchdog=reset"]
    if kernel is not None:
        argv += ["-kernel", kernel.kernel, "-initrd", kernel.initrd]
        argv += ["-append", f"{_COMMAND_LINE} {kernel.options}".strip()]
    return [*argv, *hardware.arguments]


def _mac(hardware: Hardware, number: int) -> str:
    return f",mac={hardware.mac}:{number:02x}" if hardware.mac else ""


def _make_overlay(disk: str, overlay: str) -> None:
    with open(disk, "rb") as file:
        kind = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", kind, overlay]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"no overlay on {disk}: {done.stderr.strip()}")
