"""Runs in the node: carries out cache and storage steps with the real drivers, in one process.

Input (JSON on stdin): {"steps": [[driver, verb, nr], ...], "observe": [nr, ...], "template": {...}, "data": {...},
"disk_mib": ..., "keys": [...], "kills": [seconds, ...], "recover": {"up": steps, "down": steps} or null}.
With kills the steps run once for each of them, in a child that is killed (SIGKILL) so long after it began; what it
left is then recovered: "down", every second time after "up".
Output (JSON): {"error": message or null, "observed": {nr: {...}}, "unpacked": [...], "traces": [...], "killed": how
many children were killed before they were done}.
"""

import glob
import json
import os
import signal
import sys
import time

from confine.core.addressing import hostname
from confine.core.model import Booking, Data, Interface, Limits, SliverTarget, Step, Template
from confine.drivers.cache import Cache
from confine.drivers.storage import Storage
from confine.errors import StepError
from confine.paths import Paths
from confine.registry.download import Fetcher

NODE_ID = 0x12
request = json.load(sys.stdin)
paths = Paths()
cache = Cache(paths, Fetcher(None, []), 512, lambda *_: None, 16)
drivers = {"cache": cache, "storage": Storage(paths, cache, lambda: "nameserver 192.168.241.126\n", 16)}


def make_step(driver, verb, nr):
    name, disk = hostname(nr, NODE_ID), request["disk_mib"]
    template = Template(1, "test", archs=["x86_64"], **request["template"])
    data = Data(**request["data"]) if request["data"] else None
    target = SliverTarget(
        f"{nr}@{NODE_ID}", name, f"https://r/{nr}/", nr, f"slice{nr}", 1, NODE_ID, "", "start", 1, 1, template, data,
        [Interface(0, "priv", "private", None)], Limits(32, disk, None, 100, 64, None, None), request["keys"], None,
        None, {}, [], False,
    )  # fmt: skip
    return Step(driver, verb, name, "test", target, Booking(target.key, name, nr, 32, disk))


def carry_out(steps):
    for driver, verb, nr in steps:
        try:
            getattr(drivers[driver], verb)(make_step(driver, verb, nr))
        except StepError as failed:
            return f"{driver} {verb} {nr}: {failed}"
    return None


def traces():
    """Everything of slivers that is mounted, attached or on disk."""
    with open("/proc/self/mountinfo") as file:
        found = [line.split()[4] for line in file if " /run/confine/mounts/" in line]
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        with open(path) as file:
            found += [line for line in file if line.startswith("/srv/")]
    for place in (paths.slivers, paths.mounts + "/slivers", paths.mounts + "/templates"):
        found += os.listdir(place) if os.path.isdir(place) else []
    return found


def killed_after(seconds):
    """Carry the steps out in a child that is killed. True if it was not done before."""
    child = os.fork()
    if child == 0:
        carry_out(request["steps"])
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def recover(up_again):
    """A fresh process sees what was left, brings it up or not, takes it down, and nothing is left."""
    nr, storage = request["steps"][0][2], drivers["storage"]
    name = hostname(nr, NODE_ID)
    storage.snapshot()
    assert not traces() or storage.names() == [name], traces()
    found = storage.observe(name)
    if up_again:
        anew = [["storage", "undeploy", nr]] if found.formatted and found.deployment is None else []  # as the plan does
        assert (error := carry_out(anew + request["recover"]["up"])) is None, error
        storage.snapshot()
        assert storage.observe(name).mounted
    assert (error := carry_out(request["recover"]["down"])) is None, error
    assert traces() == [], traces()


killed, error = 0, None
for number, seconds in enumerate(request["kills"]):
    killed += killed_after(seconds)
    if request["recover"]:
        recover(up_again=number % 2 == 1)
if not request["kills"]:
    error = carry_out(request["steps"])
drivers["storage"].snapshot()
observed = {nr: drivers["storage"].observe(hostname(nr, NODE_ID)).as_doc() for nr in request["observe"]}
json.dump(
    {"error": error, "observed": observed, "unpacked": cache.unpacked(), "traces": traces(), "killed": killed},
    sys.stdout,
)
