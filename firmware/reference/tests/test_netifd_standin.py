"""The stand-in for netifd, in a network namespace of its own. What it does like a genuine one: test/qemu."""

import json
import os
import subprocess
import sys

import pytest

STANDIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "netifd_standin.py")
NETWORK = """
config device
	option type 'bridge'
	option name 'br-test'

config interface 'test'
	option device 'br-test'
	option proto 'static'
	option ipaddr '192.0.2.1/24'

config interface 'late'
	option device 'late0'
	option proto 'none'

config interface 'lost'
	option device 'lost0'
	option proto 'none'
"""
# A reload, then many more devices come and go than the socket of the stand-in holds notes of, then it looks.
DRIVE = """
import importlib.util, json, select, socket, subprocess, sys
def ip(lines):
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
spec = importlib.util.spec_from_file_location("netifd_standin", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.RESOLV = "resolv"
ip("link add lost0 type bridge")
standin = module.Standin(".", "status.json", "settled")
standin.reload()
standin._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
before = socket.if_nametoindex("br-test")
ip("".join(f"link add v{number} type veth peer name w{number}\\n" for number in range(64)))
ip("link add late0 type bridge\\nlink del lost0\\n")
overruns = 0
heard = standin._heard
def counted():
    global overruns
    try:
        return heard()
    except OSError:
        overruns += 1
        raise
standin._heard = counted
while select.select([standin._events.fileno()], [], [], 0.5)[0]:
    standin.look()
with open("status.json") as file:
    up = {name: shown["up"] for name, shown in json.load(file).items()}
print(json.dumps([overruns > 0, socket.if_nametoindex("br-test") == before, up]))
"""


@pytest.mark.root
def test_more_news_of_devices_than_can_be_heard_leaves_bridges_alone_and_misses_nothing(tmp_path):
    (tmp_path / "network").write_text(NETWORK)
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", DRIVE, STANDIN],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, {"test": True, "late": True, "lost": False}]
