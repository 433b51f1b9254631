"""Runs in the node: 125 slivers with four interfaces each, made and removed by the real driver and worker.

A sliver is a process in a network namespace and a cgroup of its own: what makes interfaces sees no more of one. Prints
one line of JSON: {"ports", "vlans", "again": steps a second round would take, "look_ms", "left": names left over}
"""

import json
import os
import subprocess
import sys
import time

from confine.core import wiring
from confine.core.addressing import hostname
from confine.core.model import Booking, Interface, Limits, SliverTarget, Step
from confine.core.settings import Settings
from confine.drivers import cgroups
from confine.drivers.interfaces import Interfaces
from confine.paths import Paths

NODE_ID = 0x12
COUNT = int(sys.argv[1])
TYPES = [Interface(0, "priv", "private", None), Interface(1, "mgmt0", "management", None),
         Interface(4, "dbg0", "debug", None), Interface(5, "iso0", "isolated", "eth1")]  # fmt: skip
paths = Paths()
settings = Settings(node_id=NODE_ID, mgmt_ipv6_prefix48="fd65:fc41:c50f")
driver = Interfaces(paths, settings)


def step(nr):
    name = hostname(nr, NODE_ID)
    limits = Limits(24, 24, None, 100, 64, None, None)
    sliver = SliverTarget(
        f"{nr}@{NODE_ID}", name, "", nr, "", 1, NODE_ID, "", "start", 1, 1, None, None, TYPES, limits, [], None, None,
        {}, [], False, 0, 8 * nr, None,
    )  # fmt: skip
    return Step("interfaces", "attach", name, "", sliver, Booking(sliver.key, name, nr, 24, 24, 0x100 + nr))


def begin(name):
    cgroup = os.path.join(paths.cgroup, "confine", name, "sliver")
    os.makedirs(cgroup, exist_ok=True)
    script = f"echo $$ >{cgroup}/cgroup.procs; exec unshare -n -p -f sleep 100000"
    return subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True)


def named(*prefixes):
    return sorted(name for name in os.listdir("/sys/class/net") if name.startswith(prefixes))


steps = [step(nr) for nr in range(1, COUNT + 1)]
running = [begin(one.subject) for one in steps]
time.sleep(2)
for one in steps:
    driver.attach(one)
begun = time.monotonic()
driver.snapshot()
look = time.monotonic() - begun
again = []
for one in steps:
    wanted, shaped = driver.wanted(one.sliver, one.booking)
    why = wiring.differs(wanted, driver.wired(one.booking.nr), shaped)
    if why is not None:
        again.append(f"{one.subject}: {why}")
found = {"ports": len(named("slv-")), "vlans": len(named("iso-")), "again": again, "look_ms": look * 1000}
for one, process in zip(steps, running, strict=True):
    cgroups.kill(os.path.join(paths.cgroup, "confine", one.subject), 20)
    process.wait()
cgroups.wait_until(lambda: not named("slv-"), time.monotonic() + 60)
for one in steps:
    driver.detach(one)
print(json.dumps({**found, "left": named("slv-", "iso-", "shape-")}))
