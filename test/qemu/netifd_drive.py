"""Runs in the node, in a network namespace of its own: replays UCI changes against the stand-in for netifd.

Argument: a JSON file [{"name": ..., "batch": [uci commands], "command": shell or null}, ...] and the directory of the
recording's own UCI files. Prints what there is after each: {name: {"devices", "addresses", "status", "routes"}}.
"""

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys

CONFIG, STATUS = "/tmp/netifd/config", "/tmp/netifd/status.json"


def ip(text):
    """iproute2's: the shell of the node would take busybox's."""
    return subprocess.run(["ip", *text.split()], check=True, capture_output=True, text=True).stdout


def load():
    spec = importlib.util.spec_from_file_location("netifd_standin", "/usr/libexec/netifd-standin.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CLIENT = ["sh", "-c", "exec sleep 1000"]  # no DHCP server here
    module.RESOLV = "/tmp/netifd/resolv"
    return module


def listen(standin, seconds=1.0):
    """Take in what happened to devices."""
    while select.select([standin._events.fileno()], [], [], seconds)[0]:
        standin.look()


def found():
    links = json.loads(ip("-j -d link"))
    return {
        "devices": {link["ifname"]: [link["ifindex"], link["mtu"], link.get("master")] for link in links},
        "addresses": {
            link["ifname"]: sorted(
                f"{address['local']}/{address['prefixlen']}"
                for address in link["addr_info"]
                if address["scope"] != "link"
            )
            for link in json.loads(ip("-j addr"))
        },
        "status": json.load(open(STATUS)),
        "routes": ip("-6 route show default"),
    }


def main():
    with open(sys.argv[1]) as file:
        steps = json.load(file)
    shutil.copytree(sys.argv[2], CONFIG)
    ip("link set lo up")
    for name in ("eth0", "eth1"):
        ip(f"link add {name} type dummy")
    module = load()
    standin = module.Standin(CONFIG, STATUS, "/tmp/netifd/settled")
    standin.reload()
    listen(standin)
    answer = {"start": found()}
    for step in steps:
        batch = "\n".join([*step["batch"], "commit network"]) + "\n"
        subprocess.run(["uci", "-c", CONFIG, "batch"], input=batch, text=True, check=True, capture_output=True)
        if step["name"].startswith("12"):
            with open(CONFIG + "/network", "a") as file:
                file.write("config interface 'x\n")
        standin.reload()
        listen(standin)
        answer[step["name"]] = found()
        if step["name"].startswith("06"):
            ip("link add eth9 type dummy")
            listen(standin)
            answer["appeared"] = found()
            ip("link del eth9")
            listen(standin)
            answer["gone"] = found()
    standin.stop()
    print(json.dumps(answer))


os.makedirs("/tmp/netifd", exist_ok=True)
main()
