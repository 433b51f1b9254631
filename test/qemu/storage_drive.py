"""Runs in the node: carries out cache and storage steps with the real drivers, in one process.

Input (JSON on stdin): {"steps": [[driver, verb, nr], ...], "observe": [nr, ...], "template": {...}, "data": {...} or
null, "disk_mib": ..., "keys": [...], "kill_after": seconds or null}. With kill_after the steps run in a child that is
killed (SIGKILL) so many seconds after it began.
Output (JSON): {"error": message or null, "done": number of steps, "observed": {nr: {...}}, "unpacked": [...]}.
"""

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


def carry_out():
    done = 0
    for driver, verb, nr in request["steps"]:
        try:
            getattr(drivers[driver], verb)(make_step(driver, verb, nr))
        except StepError as failed:
            return f"{driver} {verb} {nr}: {failed}", done
        done += 1
    return None, done


def carry_out_until_killed():
    child = os.fork()
    if child == 0:
        carry_out()
        os._exit(0)
    time.sleep(request["kill_after"])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else "not killed: done before", 0


error, done = carry_out() if request["kill_after"] is None else carry_out_until_killed()
drivers["storage"].snapshot()
observed = {nr: drivers["storage"].observe(hostname(nr, NODE_ID)).as_doc() for nr in request["observe"]}
json.dump({"error": error, "done": done, "observed": observed, "unpacked": cache.unpacked()}, sys.stdout)
