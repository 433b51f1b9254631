"""Runs on a virtual node: answers what uhttpd and rpcd would pass on there, over one connection to the tests' host.

Standing in for ubus itself, which the reference image has not: the object's answers are the real ones. `uci` is real,
too; the delta of a session is kept here, and what procd's reload trigger would do is done by hand.
"""

import json
import os
import socket
import subprocess
import sys

from confine.bus import rules
from confine.bus.main import Offer
from confine.paths import Paths

DELTA = {}


def uci_get(data):
    import uci

    with uci.Uci() as handle:
        try:
            found = handle.get_all(data["config"])
        except uci.UciExceptionNotFound:
            return [4]
    values = {name: {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
              for name, options in found.items()}  # fmt: skip
    for section, changes in DELTA.items():
        values.setdefault(section, {}).update(changes)
    return [0, {"values": values}]


def uci_set(data):
    DELTA.setdefault(data["section"], {}).update(data["values"])
    return [0]


def uci_apply(data):
    for section, values in DELTA.items():
        for option, value in values.items():
            name = "confine.{}.{}".format(section, option)
            subprocess.run(["uci", "-q", "delete", name], check=False)
            for word in value if isinstance(value, list) else []:
                subprocess.run(["uci", "add_list", name + "=" + word], check=True)
            if isinstance(value, str) and value:
                subprocess.run(["uci", "set", name + "=" + value], check=True)
    subprocess.run(["uci", "commit", "confine"], check=True)
    DELTA.clear()
    subprocess.run(["/etc/init.d/confine", "reload"], check=True)
    return [0]


def answer(offer, request):
    name, method, data = request["object"], request["method"], request["data"]
    if name == "uci":
        verbs = {"get": uci_get, "set": uci_set, "apply": uci_apply, "confirm": lambda data: [0]}
        return verbs[method](data) if method in verbs else [3]
    if name == "luci-rpc":
        devices = {one: {"name": one, "devtype": "ethernet"} for one in os.listdir("/sys/class/net")}
        return [0, devices]
    if method == rules.JOB:
        return [0, offer.end(data[rules.JOB])]
    found = rules.methods().get(method)
    if found is None:
        return [3]
    if set(data) != set(rules.signature(found, False)):
        return [2]  # python3-ubus wants each argument, and no other
    return [0, offer.answer(found, data)]


def main():
    offer = Offer(Paths(), [sys.executable, "-P", "-s", "-m", "confine.cli"])
    link = socket.create_connection((sys.argv[1], int(sys.argv[2]))).makefile("rw")
    for line in link:
        link.write(json.dumps(answer(offer, json.loads(line))) + "\n")
        link.flush()


main()
