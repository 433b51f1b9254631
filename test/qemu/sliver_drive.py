"""Runs in the node: carries out the steps it is given with the real drivers, in one process.

Input (JSON on stdin): {"steps": [[driver, verb, nr], ...], "limits": {nr: {...}}, "type": ..., "sha256": ...}.
Output (JSON): {"error": message or null, "seconds": [...], "observed": {nr: {...}}, "usage": {nr: {...}}}.
"""

import json
import sys
import time

from confine.core.addressing import hostname
from confine.core.model import Booking, Interface, Limits, SliverTarget, Step, Template
from confine.core.settings import Settings
from confine.drivers.boot import Boot
from confine.drivers.cache import Cache
from confine.drivers.containers import Containers
from confine.drivers.firewall import Firewall
from confine.drivers.limits import LimitsDriver
from confine.drivers.links import Links
from confine.drivers.storage import Storage
from confine.errors import StepError
from confine.paths import Paths

NODE_ID = 0x12
request = json.load(sys.stdin)
paths = Paths(cgroup=request["cgroup"])
settings = Settings(node_id=NODE_ID, mgmt_ipv6_prefix48="fd65:fc41:c50f")
storage = Storage(paths, Cache(paths, None, 512, lambda *_: None), lambda: "nameserver 192.168.241.126\n")
drivers = {
    "storage": storage,
    "limits": LimitsDriver(paths),
    "containers": Containers(paths, settings),
    "links": Links(settings),
    "firewall": Firewall(settings),
    "boot": Boot(),
}


def limits_of(nr):
    values = {"memory_mib": 48, "disk_mib": 24, "cpu_percent": None, "cpu_weight": 100, "pids": 64, "io_mib_s": None,
              "io_ops": None}  # fmt: skip
    values.update(request["limits"].get(str(nr), {}))
    return Limits(**values)


def make_step(driver, verb, nr):
    if not nr:
        return Step(driver, verb, "node", "test")
    name, limits = hostname(nr, NODE_ID), limits_of(nr)
    template = Template(1, "test", request["type"], "", request["sha256"], ["x86_64"])
    target = SliverTarget(
        f"{nr}@{NODE_ID}", name, f"https://r/{nr}/", nr, f"slice{nr}", 1, NODE_ID, "", "start", 1, 1, template, None,
        [Interface(0, "priv", "private", None)], limits, [], None, None, {}, [], False,
    )  # fmt: skip
    booking = Booking(target.key, name, nr, limits.memory_mib, limits.disk_mib)
    return Step(driver, verb, name, "test", target, booking)


def observe(nr):
    found = storage.observe(hostname(nr, NODE_ID))
    drivers["limits"].observe(found)
    return found.as_doc()


seconds, error = [], None
for driver, verb, nr in request["steps"]:
    began = time.monotonic()
    try:
        getattr(drivers[driver], verb)(make_step(driver, verb, nr))
    except StepError as failed:
        error = f"{driver} {verb} {nr}: {failed}"
        break
    seconds.append(time.monotonic() - began)
numbers = request["observe"]
json.dump(
    {
        "error": error,
        "seconds": seconds,
        "observed": {nr: observe(nr) for nr in numbers},
        "usage": {nr: drivers["limits"].usage(hostname(nr, NODE_ID)) for nr in numbers},
        "bridge_ok": drivers["links"].bridge_ok(),
        "firewall_ok": drivers["firewall"].ok(),
    },
    sys.stdout,
)
