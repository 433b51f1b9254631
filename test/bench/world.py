"""A daemon on this machine, in namespaces of its own, that finds as many slivers running as it is told.

    unshare --mount --net --pid --fork --kill-child --mount-proc python3 test/bench/world.py SLIVERS

The daemon, its configuration, the registry client, TLS, the bridge and nftables are real. Faked, as thin as can be,
is what LXC and cgroup v2 would show of running slivers: each has a `sleep` as process 1 of a pid and a network
namespace with an interface, files that stand for its cgroup, a file bound over /proc/PID/cgroup, a sparse file for its
disk, and its three mounts as bind mounts. All goes with the namespaces. One line of JSON on stdout says what was
measured.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BINDING = os.path.join(ROOT, "build", "uci", "host", "python")
INSTALLED = "/run/bench/installed"  # the controller as packages have it
sys.path[:0] = [os.path.join(ROOT, "test"), os.path.join(ROOT, "controller"), ROOT]

from bench import testbed  # noqa: E402  # after the path is set
from bench.processes import (  # noqa: E402
    children,
    cpu_ms,
    ended_children,
    memory_kib,
    newest_file,
    spawn_init,
    wait_for,
)
from confine.control import ask  # noqa: E402
from confine.core import desired as desired_rules  # noqa: E402
from confine.core import interfaces  # noqa: E402
from confine.core import settings as settings_table  # noqa: E402
from confine.core.model import MIB, Booking, SliverTarget  # noqa: E402
from confine.drivers import cgroups, images, layers, limits, storage, syscalls  # noqa: E402
from confine.durable import checksum  # noqa: E402
from confine.paths import Paths  # noqa: E402
from confine.registry.client import Registry as RegistryClient  # noqa: E402
from package import slim  # noqa: E402
from registry.clients import Client  # noqa: E402
from registry.documents import Testbed  # noqa: E402
from registry.server import Handler, Registry, Server, make_certificate  # noqa: E402

MS_BIND, MS_PRIVATE, MS_REC = 4096, 1 << 18, 16384
ROUNDS = 5
STARTS = 5
INTERVAL_S = 5
PYTHON = ["/usr/bin/python3", "-P", "-s"]
DAEMON = [*PYTHON, "-m", "confine.daemon"]
IMPORTS = "import asyncio, ssl, http.client"
CONFIG = """
config node 'node'
	option id '0001'
config registry 'registry'
	option base_uri '{uri}'
	option cert '{cert}'
	option interval '{interval}'
config policy 'policy'
	option memory_total '16384'
	option disk_total '65536'
	option disk_reserve '0'
"""


class CountingHandler(Handler):
    """Notes of each request whether it was conditional and what was answered."""

    def send_response(self, code: int, message: str | None = None) -> None:
        """As ever, and note it."""
        noted.append((time.monotonic(), self.path, "If-None-Match" in self.headers, code))
        super().send_response(code, message)


noted: list[tuple[float, str, bool, int]] = []


class World:
    """Everything the daemon sees, and the daemon."""

    def __init__(self, slivers: int) -> None:
        self.slivers = slivers
        self.paths = Paths()
        self.names: list[str] = []
        self._mount_all()
        slim.copy(os.path.join(ROOT, "controller", "confine"), os.path.join(INSTALLED, "confine"))
        self.documents, files = testbed.make("/run/bench", slivers, squashfs_header())
        cert, key = make_certificate("/run/bench/tls", ["127.0.0.1"])
        self.server = Server(Registry(Testbed(self.documents, files), note), cert=cert, key=key)
        self.server.RequestHandlerClass = CountingHandler
        config = CONFIG.format(uri=self.server.base, cert=cert, interval=INTERVAL_S)
        with open("/etc/config/confine", "w") as file:
            file.write(config)
        uci: dict[str, dict[str, Any]] = {"node": {".type": "node", "id": "0001"},
               "registry": {".type": "registry", "base_uri": [self.server.base], "cert": cert}}  # fmt: skip
        self.settings, _ = settings_table.parse(uci)

    def _mount_all(self) -> None:
        syscalls.mount("none", "/", "", MS_PRIVATE | MS_REC, "")
        syscalls.mount("none", "/sys", "sysfs", 0, "")  # that of this network namespace
        for point in ("/sys/fs/cgroup", "/run", "/srv"):
            syscalls.mount("none", point, "tmpfs", 0, "")
        for name in ("upper", "work"):
            os.makedirs("/run/etc/" + name)
        syscalls.mount("etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work")
        os.makedirs("/etc/config", exist_ok=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def fill(self) -> None:
        """Make every sliver that the registry asks for look as if it ran."""
        state, _ = Client(RegistryClient(self.settings, self.paths)).round()
        wanted = desired_rules.build(state, self.settings).slivers
        assert len(wanted) == self.slivers, [target.problems for target in wanted]
        template = wanted[0].template
        assert template is not None
        write(os.path.join(self.paths.cache, "objects", template.sha256), squashfs_header())
        docs = []
        for nr, target in enumerate(sorted(wanted, key=lambda one: one.slice_id), start=1):
            booking = Booking(target.key, target.name, nr, target.limits.memory_mib, testbed.DISK_MIB)
            docs.append(booking.as_doc())
            self._fake(target, booking)
            self.names.append(target.name)
        write(os.path.join(self.paths.journal, "bookings.json"), json.dumps(docs).encode())
        write(os.path.join(self.paths.journal, "boot.json"), b'{"boot_sn": 0}')

    def _fake(self, target: SliverTarget, booking: Booking) -> None:
        name = target.name
        write(self.paths.sliver(name, storage.ALLOCATION), checked(storage._allocation(target, booking)))
        write(self.paths.sliver(name, storage.DEPLOYMENT), checked(storage._deployment(target)))
        image = self.paths.sliver(name, storage.IMAGE)
        write(image, bytes(images.MAGIC_OFFSET) + images.MAGIC)
        os.truncate(image, booking.disk_mib * MIB)
        for layer in layers.LAYERS:
            point = os.path.join(self.paths.mounts, "slivers", name, layer)
            os.makedirs(os.path.join(point, "root"))
            syscalls.mount(point, point, "", MS_BIND, "")
        init = spawn_init()
        group = os.path.join(self.paths.cgroup, cgroups.SLIVERS, name)
        write(f"{group}/{cgroups.INNER}/cgroup.procs", f"{init}\n".encode())
        files = {"cgroup.procs": "", "cgroup.events": "populated 1\nfrozen 0", **dict(limits.settings(target.limits))}
        for file, text in files.items():
            write(f"{group}/{file}", text.encode() + b"\n")
        for interface in interfaces.of_sliver(target, booking, self.settings)[0]:  # the daemon puts it on its bridge
            end = ["type", "veth", "peer", "name", interface.name, "netns", str(init)]
            subprocess.run(["ip", "link", "add", interface.port, *end], check=True)
        where = f"/run/bench/of_process/{init}"
        write(where, f"0::/{cgroups.SLIVERS}/{name}/{cgroups.INNER}/init.scope\n".encode())
        syscalls.mount(where, f"/proc/{init}/cgroup", "", MS_BIND, "")

    def start(self, argv: list[str] = DAEMON, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start the daemon."""
        where = os.pathsep.join([INSTALLED, BINDING])
        environment = {**os.environ, **started_with(), "PYTHONPATH": where}
        environment["PYTHONPYCACHEPREFIX"] = "/run/bench/bytecode"
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the image has byte code
        return subprocess.Popen(argv, env=environment, stdout=stdout, stderr=subprocess.DEVNULL)

    def await_settled(self) -> None:
        """Wait until the daemon has read the registry and finds nothing to do."""

        def settled() -> bool:
            status = ask(self.paths.control, "status")
            states = {sliver["state"] for sliver in status["slivers"]}
            plan = ask(self.paths.control, "plan")
            steps = (
                plan["node_steps"]
                or status["node"]["errors"]
                or any(work["steps"] for work in plan["slivers"].values())
            )
            done: bool = status["registry"]["last_read"] is not None and states == {"started"} and not steps
            return done and not status["node"]["errors"]

        try:
            wait_for("nothing is left to do", settled, 0.25)
        except TimeoutError:
            with open(self.paths.log) as file:
                raise TimeoutError("not settled: " + "".join(file.readlines()[-15:]))


def started_with() -> dict[str, str]:
    """The environment that the init script gives the daemon."""
    with open(os.path.join(ROOT, "files", "etc", "init.d", "confine")) as file:
        words = re.findall(r"^\tprocd_set_param env (.*)$", file.read(), re.M)[0].split()
    return dict(word.split("=", 1) for word in words)


def note(text: str) -> None:
    """What the registry says to people."""
    print("registry:", text, file=sys.stderr)


def checked(content: dict[str, Any]) -> bytes:
    """A document as the daemon keeps it, with its checksum."""
    return json.dumps({"content": content, "sha256": checksum(content)}).encode()


def write(path: str, content: bytes) -> None:
    """Make a file with its directories."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def squashfs_header() -> bytes:
    """So much of a squashfs that the cache takes it for a whole one: magic and, at byte 40, its size."""
    header = bytearray(4096)
    header[0:4] = b"hsqs"
    header[12:16] = (131072).to_bytes(4, "little")
    header[20:22] = (1).to_bytes(2, "little")
    header[22:24] = (17).to_bytes(2, "little")
    header[28:30] = (4).to_bytes(2, "little")
    header[40:48] = (4096).to_bytes(8, "little")
    return bytes(header)


def await_quiet(pid: int, since: int) -> None:
    """Wait until a round that began after the `since`-th request is over."""

    def over() -> bool:
        return len(noted) > since and time.monotonic() - noted[-1][0] > 0.5

    wait_for("a round is over", over, 0.05)
    before = cpu_ms(pid)
    while time.sleep(0.3) or cpu_ms(pid) - before > 0.5:  # type: ignore[func-returns-value]
        before = cpu_ms(pid)


def measure_rounds(world: World, daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Rounds in which nothing changed: CPU of each, requests, processes, files."""
    await_quiet(daemon.pid, len(noted))
    begun, first, faults = time.time(), len(noted), ended_children(daemon.pid)
    each = []
    for _ in range(ROUNDS):
        before, requests = cpu_ms(daemon.pid), len(noted)
        await_quiet(daemon.pid, requests)
        each.append(cpu_ms(daemon.pid) - before)
    asked = noted[first:]
    written = newest_file("/srv", "/run/confine")
    return {
        "cpu_ms": statistics.median(each),
        "cpu_each": each,
        "requests": len(asked) / ROUNDS,
        "conditional": sum(conditional and code == 304 for _, _, conditional, code in asked) / ROUNDS,
        "processes": ended_children(daemon.pid) != faults or children(daemon.pid) != [],
        "written": written[1] if written[0] > begun else "",
    }


def measure_change(world: World) -> dict[str, Any]:
    """One sliver gets other people's keys: the steps that come of it, by sliver, and documents read anew."""
    nr = (world.slivers + 1) // 2
    size, first = os.path.getsize(world.paths.log), len(noted)
    path = os.path.join(world.documents, "slices", f"{nr}.json")
    with open(path) as file:
        doc = json.load(file)
    testbed.put(world.documents, f"slices/{nr}", {**doc, "group": "@groups/2"})

    def log() -> list[str]:
        with open(world.paths.log) as file:
            file.seek(size)
            return file.readlines()

    wait_for("the change was carried out", lambda: any("storage keys" in line for line in log()), 0.1)
    world.await_settled()
    steps = [line for line in log() if re.search(r" \(\d+ ms\): | failed: ", line)]
    mine = world.names[nr - 1]
    return {
        "steps": len(steps),
        "others": sum(mine not in line for line in steps),
        "read": sum(code == 200 for _, _, _, code in noted[first:]),
    }


def measure_memory(daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """PSS of the daemon beside the interpreter's, at the same time."""
    bare = subprocess.Popen([*PYTHON, "-c", IMPORTS + "; print(flush=True); input()"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)  # fmt: skip
    assert bare.stdout is not None
    bare.stdout.readline()
    (pss, rss), (bare_pss, bare_rss) = memory_kib(daemon.pid), memory_kib(bare.pid)
    bare.communicate(b"\n")
    return {"pss_kib": pss, "rss_kib": rss, "bare_pss_kib": bare_pss, "bare_rss_kib": bare_rss}


def measure_start(world: World) -> dict[str, Any]:
    """Seconds from the daemon's start to its first plan, and of the interpreter with its imports; best of some."""
    mine, bare = [], []
    for _ in range(STARTS):
        begun = time.monotonic()
        subprocess.run([*PYTHON, "-c", IMPORTS], check=True)
        bare.append(time.monotonic() - begun)
        begun = time.monotonic()
        daemon = world.start([*PYTHON, os.path.join(HERE, "planned_drive.py")], subprocess.PIPE)
        assert daemon.stdout is not None
        daemon.stdout.readline()
        mine.append(time.monotonic() - begun)
        stop(daemon)
    return {"start_s": min(mine), "bare_start_s": min(bare)}


def stop(daemon: subprocess.Popen[bytes]) -> None:
    """End the daemon."""
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)


def main() -> None:
    """Measure, print, end."""
    world = World(int(sys.argv[1]))
    with world.server:
        world.fill()
        daemon = world.start()
        world.await_settled()
        found = measure_rounds(world, daemon)
        found.update(measure_memory(daemon))
        if "change" in sys.argv:
            found["change"] = measure_change(world)
        stop(daemon)
        if "start" in sys.argv:
            found.update(measure_start(world))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
