"""Slivers' interfaces as the daemon sees them: observed without a process, made and removed by a worker (wiring.py).

LXC makes the private interface as it starts a sliver; all others are made by the worker, as LXC's hook right before
the sliver's init, and later whenever something differs from what is asked. A port that only lost its bridge (netifd
made the bridge anew) is put back by one ioctl.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time

from confine import durable
from confine.core import interfaces, wiring
from confine.core.wiring import SHAPERS, Link, Port, Wired
from confine.drivers import cgroups, classes
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.interfaces import SliverInterface
    from confine.core.model import Booking, SliverTarget, Step
    from confine.core.settings import Settings
    from confine.paths import Paths

NETWORK = "/sys/class/net"
VLANS = "/proc/net/vlan/config"
WORKER = "confine.drivers.wiring"
WORKER_S = 120
JOB, DONE = "interfaces", ".done"  # for LXC's hook, and its answer
COUNTED_S = 0.5
SIOCBRADDIF = 0x89A2
IFF_UP = 1


class Interfaces:
    """Steps `interfaces attach` and `interfaces detach`, and what is observed of ports and links."""

    def __init__(self, paths: "Paths", settings: "Settings") -> None:
        self._cgroup = paths.cgroup
        self._lxc = os.path.join(paths.run, "lxc")
        self._settings = settings
        self.links: "dict[str, Link]" = {}
        self.reserved: "dict[str, str]" = {}  # the node's own devices, and why they are not lent
        self._ports: "dict[str, Port]" = {}
        self._vlans: "dict[str, tuple[str, int]]" = {}
        self._classes: "dict[str, dict[int, classes.Class]]" = {}
        self._counts: "dict[str, dict[int, classes.Class]]" = {}
        self._counted_until = 0.0

    # Steps

    def attach(self, step: "Step") -> None:
        """Make the running sliver's interfaces what they should be; those that are right already are not touched.
        StepError names each that cannot be."""
        sliver, booking = step.sliver, step.booking
        if sliver is None or booking is None:
            raise StepError(f"step interfaces attach for {step.subject} comes without sliver or booking")
        self.snapshot()
        wanted, shaped = self.wanted(sliver, booking)
        wired = self.wired(booking.nr)
        kept = self._kept(sliver, booking, wired, shaped)
        for interface in wanted:
            port = wired.ports.get(interface.port)
            if port is not None and interface.bridge is not None:
                put_back(interface, port)
        self.snapshot()
        if wiring.differs(wanted, self.wired(booking.nr), shaped, kept) is None:
            return
        self._keep_job(sliver.name, booking.nr, wanted, shaped)
        init = cgroups.find_init(os.path.join(self._cgroup, cgroups.SLIVERS, sliver.name))
        if init is None:
            raise StepError(f"sliver {sliver.name} does not run (any more)")
        self._work(sliver.name, booking.nr, wanted, shaped, init, kept)
        self.snapshot()
        wrong = wiring.differs(wanted, self.wired(booking.nr), shaped, kept)
        if wrong is not None:
            raise StepError(f"after the interfaces of sliver {sliver.name} were made: {wrong}")

    def detach(self, step: "Step") -> None:
        """Remove what is left of a stopped sliver's interfaces: VLAN devices, ports, classes."""
        if step.booking is None:
            return
        nr = step.booking.nr
        self.snapshot()
        wired = self.wired(nr)
        if wired.ports or wired.vlans or wired.rates:
            self._work(step.subject, nr, None, {"up": None, "down": None}, None)

    # For the start of a sliver

    def wanted(
        self, sliver: "SliverTarget", booking: "Booking"
    ) -> "tuple[list[SliverInterface], dict[str, dict[str, Any] | None]]":
        """What can be made for `sliver` now, and its bounds."""
        made = interfaces.of_sliver(sliver, booking, self._settings)[0]
        ready = [one for one in made if wiring.waits_for(one, self.links, self._settings) is None]
        return ready, wiring.shape(sliver, self._settings)

    def _kept(
        self, sliver: "SliverTarget", booking: "Booking", wired: Wired, shaped: "dict[str, dict[str, Any] | None]"
    ) -> "list[str]":
        """Ports of interfaces that wait, and stay as they are meanwhile."""
        made = interfaces.of_sliver(sliver, booking, self._settings)[0]
        waiting = [one for one in made if wiring.waits_for(one, self.links, self._settings) is not None]
        return [one.port for one in waiting if wiring.stays(one, wired, self.links, self._settings, shaped)]

    def at_start(
        self, sliver: "SliverTarget", booking: "Booking"
    ) -> "tuple[list[SliverInterface], dict[str, Any] | None]":
        """(interfaces that LXC makes, job for the worker as LXC's hook or None if LXC makes all)."""
        self.snapshot()
        wanted, shaped = self.wanted(sliver, booking)
        private = [interface for interface in wanted if interface.type == interfaces.PRIVATE]
        if wiring.by_lxc_alone(wanted, shaped):
            return private, None
        return private, {**wiring.job(sliver.name, booking.nr, wanted, shaped), **self._where(sliver.name, None)}

    def job_file(self, name: str) -> str:
        """Where the job for LXC's hook lies, beside LXC's configuration of the sliver."""
        return os.path.join(self._lxc, name, JOB)

    def _keep_job(
        self, name: str, nr: int, wanted: "list[SliverInterface]", shaped: "dict[str, dict[str, Any] | None]"
    ) -> None:
        """A sliver that restarts itself gets what is asked for now: the tag it had may be another slice's."""
        if os.path.exists(self.job_file(name)):
            job = {**wiring.job(name, nr, wanted, shaped), **self._where(name, None)}
            durable.write_json(self.job_file(name), job)

    # What is there

    def snapshot(self) -> None:
        """Look at all interfaces. No process; some reads for each."""
        links, ports = {}, {}
        for name in _listed(NETWORK):
            base = f"{NETWORK}/{name}/"
            if name.startswith("slv-"):
                isolated = cgroups.read(base + "brport/isolated") == "1"
                ports[name] = Port(_master(base), isolated, cgroups.read(base + "ifalias") or "")
            elif not name.startswith("iso-"):
                up = int(cgroups.read(base + "flags") or "0", 16) & IFF_UP != 0
                bridge = os.path.exists(base + "bridge")
                carrier = cgroups.read(base + "carrier") == "1"
                links[name] = Link(bridge, _master(base), cgroups.read(base + "address") or "", up, carrier,
                                   self.reserved.get(name))  # fmt: skip
        self.links, self._ports = links, ports
        self._vlans = parse_vlans(cgroups.read(VLANS))
        self._classes = {way: classes.of(name) for way, name in SHAPERS.items() if name in links}

    def wired(self, nr: int) -> Wired:
        """What the last snapshot shows of sliver `nr`."""
        port, vlan = "slv-{:02x}-".format(nr), "iso-{:02x}-".format(nr)
        rates = {}
        for way, found in self._classes.items():
            own, every = found.get(wiring.shape_class(nr)), found.get(1)
            if own is not None:
                total = every.rate if every is not None and every.rate != wiring.NO_TOTAL else None
                rates[way] = (own.rate, own.ceil, total)
        return Wired(
            {name: found for name, found in self._ports.items() if name.startswith(port)},
            {name: found for name, found in self._vlans.items() if name.startswith(vlan)},
            rates,
        )

    def usage(self, nr: int) -> "dict[str, int]":
        """Of a sliver whose bandwidth is bounded: egress_bytes, egress_drops (packets), and so for ingress. Figures are
        up to COUNTED_S old: who asks for all slivers has them read once."""
        now = time.monotonic()
        if now >= self._counted_until:
            self._counts = {name: classes.of(SHAPERS[way]) for way, name in (("up", "egress"), ("down", "ingress"))}
            self._counted_until = now + COUNTED_S
        found = {}
        for name, counts in self._counts.items():
            own = counts.get(wiring.shape_class(nr))
            if own is not None:
                found[name + "_bytes"] = own.bytes
                found[name + "_drops"] = own.drops
        return found

    # The worker

    def _where(self, name: str, pid: "int | None") -> "dict[str, Any]":
        return {"pid": pid, "cgroup": f"/{cgroups.SLIVERS}/{name}"}

    def _work(self, name: str, nr: int, wanted: "list[SliverInterface] | None",
              shaped: "dict[str, dict[str, Any] | None]", pid: "int | None",
              kept: "list[str] | None" = None) -> None:  # fmt: skip
        """Have the worker do a job. StepError with what it could not do."""
        job = {**wiring.job(name, nr, wanted, shaped, kept), **self._where(name, pid)}
        try:
            done = subprocess.run(
                command("-"), input=json.dumps(job).encode(), capture_output=True, timeout=WORKER_S,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}, cwd="/", check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise StepError(f"the interfaces of sliver {name} were not made within {WORKER_S} s")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            said = " ".join(done.stderr.decode("utf-8", "replace").split())[-500:]
            raise StepError(f"the worker for interfaces failed (status {done.returncode}): {said}")
        problems = told(answer)
        if problems:
            raise StepError(problems)


def command(job: str) -> "list[str]":
    """The worker's command line, which needs nothing of the environment."""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return ["env", f"PYTHONPATH={top}", sys.executable or "python3", "-P", "-s", "-m", WORKER, job]


def told(answer: "dict[str, Any]") -> str:
    """What went wrong by an answer of the worker; "" if nothing did."""
    parts = [answer["failed"]] if answer.get("failed") else []
    parts += [f"{port}: {text}" for port, text in sorted((answer.get("errors") or {}).items())]
    return "; ".join(parts)


def put_back(interface: "SliverInterface", port: Port) -> None:
    """Have the port on its bridge again, isolated. StepError if it cannot be."""
    if port.bridge == interface.bridge and port.isolated:
        return
    bridge = interface.bridge or ""
    try:
        if port.bridge is None:
            index = socket.if_nametoindex(interface.port)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as query:
                fcntl.ioctl(query, SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
    except OSError as error:
        raise StepError(f"{interface.port} cannot be put on {bridge}: {error.strerror}")
    cgroups.write(f"{NETWORK}/{interface.port}/brport/isolated", "1")


def parse_vlans(text: "str | None") -> "dict[str, tuple[str, int]]":
    """{device: (parent, tag)} by /proc/net/vlan/config; None: no VLANs here."""
    found = {}
    for line in (text or "").splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) == 3 and words[1].isdigit():
            found[words[0]] = (words[2], int(words[1]))
    return found


def _listed(path: str) -> "list[str]":
    try:
        return os.listdir(path)
    except OSError:
        return []


def _master(base: str) -> "str | None":
    try:
        return os.path.basename(os.readlink(base + "master"))
    except OSError:
        return None
