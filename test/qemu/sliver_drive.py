"""Runs in the node: carries out the steps it is asked for with the real drivers, in one process like the daemon's.

Listens on the UNIX socket SOCKET; a request and its answer are one line of JSON each:
    {"steps": [[driver, verb, nr], ...], "limits": {nr: {...}}, "type": ..., "sha256": ..., "observe": [nr, ...],
     "listen": [nr, ...], "network": {nr: {"interfaces": [[nr, name, type, parent], ...], "tag": ...,
     "addresses": {...}, "egress_kbit": ..., "ingress_kbit": ...}}, "settings": {...}}
    {"error": message or null, "seconds": [...], "observed": {nr: {...}}, "usage": {nr: {...}}, ...}
"""

import json
import socket
import time
import traceback
import types

from confine.core.addressing import hostname
from confine.core.model import Booking, Interface, Limits, SliverTarget, Step, Template
from confine.core.settings import Settings
from confine.drivers.boot import Boot
from confine.drivers.cache import Cache
from confine.drivers.containers import Containers
from confine.drivers.dhcp import Leases
from confine.drivers.firewall import Firewall
from confine.drivers.interfaces import Interfaces
from confine.drivers.limits import LimitsDriver
from confine.drivers.links import Links
from confine.drivers.storage import Storage
from confine.errors import StepError
from confine.machine import Machine
from confine.paths import Paths

SOCKET = "/run/sliver_drive.sock"
NODE_ID = 0x12
SPEAKS = (("containers", "start"), ("interfaces", "attach"))  # the plan has the firewall know its interfaces before
LIMITS = {"memory_mib": 48, "disk_mib": 24, "cpu_percent": None, "cpu_weight": 100, "pids": 64, "io_mib_s": None,
          "io_ops": None}  # fmt: skip
paths = Paths()
settings = Settings(node_id=NODE_ID, mgmt_ipv6_prefix48="fd65:fc41:c50f")
cache = Cache(paths, None, 512, lambda *_: None)
wiring = Interfaces(paths, settings)
drivers = {
    "storage": Storage(paths, cache, lambda: "nameserver 192.168.241.126\n"),
    "limits": LimitsDriver(paths),
    "containers": Containers(paths, settings, wiring),
    "interfaces": wiring,
    "links": Links(settings),
    "firewall": Firewall(settings),
    "boot": Boot(),
}
bookings = {}
# What the daemon's Machine hears DHCP servers with, and nothing else of it.
machine = types.SimpleNamespace(
    _settings=settings, interfaces=wiring, journal=types.SimpleNamespace(bookings=lambda: bookings),
    leases=Leases("/run/leases", lambda *lease: drivers["firewall"].lease(*lease)),
)  # fmt: skip


def listen(request):
    """As each turn of the daemon does."""
    steps = [make_step(request, "", "", nr) for nr in request.get("listen", [])]
    bookings.update({step.subject: step.booking for step in steps})
    wiring.snapshot()
    Machine.listen(machine, {step.subject: step.sliver for step in steps})


def make_step(request, driver, verb, nr):
    if not nr:
        return Step(driver, verb, "node", "test")
    name = hostname(nr, NODE_ID)
    limits = Limits(**{**LIMITS, **request["limits"].get(str(nr), {})})
    network = request.get("network", {}).get(str(nr), {})
    interfaces = [Interface(*words) for words in network.get("interfaces", [[0, "priv", "private", None]])]
    template = Template(1, "test", request["type"], "", request["sha256"], ["x86_64"])
    target = SliverTarget(
        f"{nr}@{NODE_ID}", name, f"https://r/{nr}/", nr, f"slice{nr}", 1, NODE_ID, "", "start", 1, 1, template, None,
        interfaces, limits, [], None, None, {}, [], False, 0, network.get("egress_kbit"), network.get("ingress_kbit"),
    )  # fmt: skip
    booking = Booking(
        target.key, name, nr, limits.memory_mib, limits.disk_mib, network.get("tag"), network.get("addresses")
    )
    return Step(driver, verb, name, "test", target, booking)


def observe(request, nr):
    found = drivers["storage"].observe(hostname(nr, NODE_ID))
    if found.allocation:
        found.allocation["limits"].update(request["limits"].get(str(nr), {}))
    drivers["limits"].observe(found)
    wiring.snapshot()
    found.wired = wiring.wired(nr)
    return found.as_doc()


def answer(request):
    seconds, error = [], None
    for name, value in request.get("settings", {}).items():
        setattr(settings, name, value)
    for driver, verb, nr in request["steps"]:
        began = time.monotonic()
        try:
            step = make_step(request, driver, verb, nr)
            if (driver, verb) in SPEAKS and drivers["firewall"].ok():
                drivers["firewall"].admit(step)
            getattr(drivers[driver], verb)(step)
        except StepError as failed:
            error = f"{driver} {verb} {nr}: {failed}"
            break
        seconds.append(time.monotonic() - began)
    listen(request)
    numbers = request["observe"]
    return {
        "error": error,
        "seconds": seconds,
        "observed": {nr: observe(request, nr) for nr in numbers},
        "usage": {nr: drivers["limits"].usage(hostname(nr, NODE_ID)) for nr in numbers},
        "bridge_ok": drivers["links"].bridge_ok(),
        "firewall_ok": drivers["firewall"].ok(),
        "leases": {port: lease.address for port, lease in machine.leases.now().items()},
        "unleased": machine.leases.problems,
    }


with socket.socket(socket.AF_UNIX) as server:
    server.bind(SOCKET)
    server.listen()
    while True:
        client, _ = server.accept()
        with client, client.makefile("rwb") as stream:
            try:
                reply = answer(json.loads(stream.readline()))
            except Exception:  # of the test or the driver: the test shows it
                reply = {"error": traceback.format_exc()}
            stream.write(json.dumps(reply).encode() + b"\n")
