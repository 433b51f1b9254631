"""A node's overlay driver and a testbed's server with a real tincd each, in a network namespace of their own.

    unshare -n -m python3 overlay_world.py SCENARIO DIRECTORY

Each scenario is a function; it fails by an assertion. The namespace is what keeps it off the machine's own network.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.join(TOP, "controller"))

from worlds import WAIT_S, wait  # noqa: E402

from confine.core import overlay as rules  # noqa: E402
from confine.core import overlay_change, overlay_documents, rsa  # noqa: E402
from confine.core.settings import Settings  # noqa: E402
from confine.drivers import probe, tinc  # noqa: E402
from confine.drivers.overlay import Overlay  # noqa: E402
from confine.paths import Paths  # noqa: E402

BASE = "http://[fd65:fc41:c50f::2]/api/"
PREFIX = "fd65:fc41:c50f"
PORT = 6655
SERVICE = """#!/bin/sh
# Stands in for the init script.
stop() {
	[ ! -f RUN/tinc.pid ] || kill $(cut -d' ' -f1 RUN/tinc.pid) || true
	while [ -f RUN/tinc.pid ] && [ -d /proc/$(cut -d' ' -f1 RUN/tinc.pid) ]; do sleep 0.05; done
}
start() {
	tincd -D -c ETC -n confine --pidfile=RUN/tinc.pid -o MaxTimeout=3 </dev/null >>RUN/tincd.log 2>&1 &
}
case $1 in
start) start ;;
stop) stop ;;
restart) stop; start ;;
esac
"""


class Server:
    """The testbed's server 2: a tincd of its own on this namespace's loopback."""

    def __init__(self, work, node_key):
        self.etc = os.path.join(work, "server")
        self.pid_file = os.path.join(work, "server.pid")
        os.makedirs(os.path.join(self.etc, "hosts"))
        self.write("tinc.conf", f"Name = server_2\nInterface = server\nBindToAddress = 127.0.0.1 {PORT}\n")
        self.new_key()
        self.know(node_key)

    def write(self, name, text):
        with open(os.path.join(self.etc, name), "w") as file:
            file.write(text)

    def new_key(self):
        shutil.rmtree(os.path.join(self.etc, "scratch"), ignore_errors=True)
        key = tinc.make_key(self.etc)
        self.key = rsa.public_pem(rsa.numbers(key, rsa.PRIVATE))
        self.write("rsa_key.priv", key)
        os.chmod(os.path.join(self.etc, "rsa_key.priv"), 0o600)
        self.write("hosts/server_2", f"Subnet = {PREFIX}::2/128\nPort = {PORT}\n{self.key}")

    def know(self, node_key, name="node_18"):
        self.write("hosts/" + name, f"Subnet = {PREFIX}:12::/64\n{rsa.public_pem(node_key)}")

    def start(self):
        command = ["tincd", "-D", "-c", self.etc, "-n", "server", "--pidfile=" + self.pid_file]
        with open(os.path.join(self.etc, "log"), "ab") as log:
            self.process = subprocess.Popen([*command, "-o", "PingTimeout=2"], stdout=log, stderr=log)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def document(self, **members):
        tinc = {"name": "server_2", "pubkey": self.key.replace("\n", "\r\n"), "addresses": [
            {"addr": "127.0.0.1", "port": PORT, "island": None}]}  # fmt: skip
        return {"uri": BASE + "servers/2/", "id": 2, "mgmt_net": {"backend": "tinc", "addr": PREFIX + "::2"},
                "tinc": {**tinc, **members}}  # fmt: skip


class World:
    """The node 18 (0x12) with its driver."""

    def __init__(self, work):
        self.work = work
        run, etc = os.path.join(work, "run"), os.path.join(work, "etc")
        os.makedirs(run)
        self.paths = Paths(
            run=run, tinc=etc, share=os.path.join(TOP, "package/confine-node/files/usr/lib/confine/share")
        )
        os.environ["CONFINE_RUN"] = run
        service = os.path.join(work, "service")
        with open(service, "w") as file:
            file.write(SERVICE.replace("RUN", run).replace("ETC", etc))
        self.service = ("sh", service)
        self.settings = Settings(node_id=0x12, mgmt_ipv6_prefix48=PREFIX, overlay=True)
        self.driver = Overlay(self.paths, self.settings, self.service)
        self.servers = []
        self.own_key = None

    def with_settings(self, **values):
        self.settings = Settings(**{"node_id": 0x12, "mgmt_ipv6_prefix48": PREFIX, "overlay": True, **values})
        self.driver = Overlay(self.paths, self.settings, self.service)

    def target(self):
        docs = {doc["uri"]: doc for doc in self.servers}
        return overlay_documents.build({"base": {"uri": BASE}, "docs": docs, "lists": {BASE + "servers/": list(docs)},
                                        "node": {"tinc": self.own_key}}, self.settings)  # fmt: skip

    def plan(self):
        return rules.plan(self.target() if self.servers else None, self.driver.observe(), self.settings, time.time())

    def converge(self):
        """Rounds until nothing is to be done; gives the verbs that were."""
        done = []
        for _ in range(4):
            steps, _ = self.plan()
            if not steps:
                return done
            for step in steps:
                getattr(self.driver, step.verb)(step)
                done.append(step.verb)
        raise AssertionError(f"it does not converge: {done!r}")

    def up(self, name="server_2"):
        seen = self.driver.observe().peers.get(name)
        return seen is not None and seen.up

    def said(self):
        return " ".join(problem.message for problem in self.plan()[1])

    def file(self, name):
        with open(os.path.join(self.paths.tinc, name)) as file:
            return file.read()

    def put(self, name, text, mode=0o644):
        os.makedirs(os.path.join(self.paths.tinc, "hosts"), exist_ok=True)
        with open(os.path.join(self.paths.tinc, name), "w") as file:
            file.write(text)
        os.chmod(os.path.join(self.paths.tinc, name), mode)

    def joined(self):
        """A node that is connected to its server."""
        self.converge()
        self.server = Server(self.work, self.driver.observe().key)
        self.server.start()
        self.servers = [self.server.document()]
        self.converge()
        wait("the server is reached", self.up)


def first_start(world):
    assert world.converge() == ["key", "configure", "start"]
    found = world.driver.observe()
    assert found.interface and found.pid
    assert os.stat(os.path.join(world.paths.tinc, "rsa_key.priv")).st_mode & 0o777 == 0o600
    assert "Subnet = fd65:fc41:c50f:12::/64" in world.file("hosts/node_18")
    link = subprocess.run(["ip", "address", "show", "confine"], capture_output=True, text=True).stdout
    assert "mtu 1400" in link and "fd65:fc41:c50f:12::2/48" in link, link


def joins(world):
    world.joined()
    assert "ConnectTo = server_2" in world.file("tinc.conf")
    assert world.converge() in ([], ["confirm"])
    assert world.plan()[0] == []
    shown = rules.report(world.target(), world.driver.observe(), world.settings, time.time())
    assert [(peer["name"], peer["reachable"], peer["connect"]) for peer in shown["peers"]] == [("server_2", True, True)]
    assert shown["peers"][0]["at"] == f"127.0.0.1 {PORT}"
    assert shown["published"] is False and "The registry has no key" in world.said()


def idle_round(world):
    world.joined()
    world.own_key = {"name": "node_18", "pubkey": rsa.public_pem(world.driver.observe().key)}

    def forbidden(*_args, **_kwargs):
        raise AssertionError("an idle round started a process or wrote a file")

    world.driver.observe()
    real_open = open
    with (
        mock.patch("subprocess.Popen", forbidden),
        mock.patch(
            "builtins.open",
            lambda path, mode="r", **more: real_open(path, mode, **more) if mode == "r" else forbidden(),
        ),
    ):
        assert world.plan() == ([], [])


def daemon_killed(world):
    world.joined()
    pid = world.driver.observe().pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait("it is gone", lambda: world.driver.observe().pid is None)
    assert [step.verb for step in world.plan()[0]] == ["start"]
    world.converge()
    wait("the server is reached again", world.up)


def key_changed(world):
    world.joined()
    world.server.stop()
    wait("the server is gone", lambda: not world.up())
    world.server.new_key()
    world.server.start()
    wait("it is said by name", lambda: "server_2 cannot be reached: 127.0.0.1 port 6655 answers" in world.said())
    world.servers = [world.server.document()]
    assert world.converge() == ["configure", "reload"]
    wait("the server is reached with its new key", world.up)
    assert world.converge() == []


def addresses_dead(world):
    world.joined()
    pid = world.driver.observe().pid
    world.server.stop()
    wait("it is said by name", lambda: "server_2 cannot be reached: no address of it answers: 127.0.0.1 port 6655"
         " (Connection refused)" in world.said())  # fmt: skip
    world.server.start()
    wait("the server is reached again", world.up)
    wait("it is said no more", lambda: "server_2" not in world.said())
    assert world.driver.observe().pid == pid


def new_address(world):
    world.joined()
    pid = world.driver.observe().pid
    entries = [{"addr": "127.0.0.9", "port": 1, "island": {"uri": "/api/islands/6/", "id": 6}},
               {"addr": "127.0.0.1", "port": PORT, "island": None}]  # fmt: skip
    world.servers = [world.server.document(addresses=entries)]
    assert world.converge() in (["configure", "reload"], ["configure", "reload", "confirm"])
    assert "Address = 127.0.0.9 1\nAddress = 127.0.0.1 6655\n" in world.file("hosts/server_2")
    wait("the server is reached", world.up)
    assert world.driver.observe().pid == pid


def node_id_changed(world):
    world.joined()
    world.with_settings(node_id=0x13)
    assert world.converge() == ["configure", "start"]
    assert "Name = node_19" in world.file("tinc.conf")
    assert not os.path.exists(os.path.join(world.paths.tinc, "hosts/node_18"))
    world.server.know(world.driver.observe().key, "node_19")
    wait("the server takes the new name", world.up)


def injected(world):
    key = tinc.make_key(world.work)
    world.server = Server(world.work, rsa.numbers(key, rsa.PRIVATE))
    world.server.start()
    own = "Subnet = fd65:fc41:c50f:12::/64\nAddress = 10.0.0.9\n" + rsa.public_pem(rsa.numbers(key, rsa.PRIVATE))
    given = {"tinc.conf": "Name = node_18\nConnectTo = server_2\nAddressFamily = any\n",
             "hosts/server_2": f"Address = 127.0.0.1 {PORT}\nSubnet = {PREFIX}::2/128\n{world.server.key}",
             "hosts/node_18": own}  # fmt: skip
    for name, text in given.items():
        world.put(name, text)
    world.put("rsa_key.priv", key, 0o644)
    world.with_settings(overlay=None)
    assert world.converge() == ["configure", "start"]
    wait("the server is reached", world.up)
    world.servers = [world.server.document()]
    assert world.converge() == []
    assert {name: world.file(name) for name in given} == given
    assert os.stat(os.path.join(world.paths.tinc, "rsa_key.priv")).st_mode & 0o777 == 0o600


def wrong_key_undone(world):
    world.joined()
    world.converge()
    right = world.file("hosts/server_2")
    real, world.server.key = world.server.key, rsa.public_pem(rsa.Numbers(b"\xc3" * 256, b"\1\0\1"))
    world.servers = [world.server.document()]
    world.server.key = real
    assert world.converge() == ["configure", "reload"]
    wait("the server is lost", lambda: not world.up())
    assert world.file("hosts/server_2") != right
    wait("what was before is put back", lambda: world.converge() and world.file("hosts/server_2") == right)
    wait("the server is reached again", world.up)
    assert "was undone" in world.said() and world.converge() == []
    world.servers = [world.server.document()]
    wait("it is said no more", lambda: not world.converge() and "was undone" not in world.said())


def changed_again(world):
    """Before tinc's clock, of whole seconds, goes on."""
    world.joined()
    wrong = rsa.public_pem(rsa.Numbers(b"\xc3" * 256, b"\1\0\1"))
    for key in (wrong, world.server.key) * 2:
        real, world.server.key = world.server.key, key
        world.servers = [world.server.document()]
        world.server.key = real
        steps, _ = world.plan()
        assert [step.verb for step in steps] == ["configure", "reload"]
        for step in steps:
            getattr(world.driver, step.verb)(step)
        wait("the changed key is taken up", lambda key=key, real=real: world.up() == (key == real))
        world.driver.confirm(None)  # it is not this test's to be undone
    # Another server comes, and tincd connects to it: the connection to this one stays.
    note = os.path.join(world.paths.run, "overlay/server_2")
    before = os.stat(note)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        entry = {"addr": "127.0.0.1", "port": listening.getsockname()[1], "island": None}
        other = {**world.server.document(name="server_3", addresses=[entry]), "uri": BASE + "servers/3/", "id": 3}
        world.servers.append({**other, "mgmt_net": {"backend": "tinc", "addr": PREFIX + "::3"}})
        assert world.converge()[:2] == ["configure", "reload"]
        listening.accept()[0].close()
    assert os.path.samestat(os.stat(note), before) and world.up()


def comes_in(world):
    world.with_settings(overlay_port=6677)
    world.converge()
    own = world.driver.observe().key
    world.server = Server(world.work, own)
    # The node has no way to the server: only the server's way to the node is left.
    world.servers = [world.server.document(addresses=[{"addr": "127.0.0.1", "port": 1, "island": None}])]
    world.converge()
    world.server.write("tinc.conf", "Name = server_2\nInterface = server\nConnectTo = node_18\n"
                       f"BindToAddress = 127.0.0.1 {PORT}\n")  # fmt: skip
    world.server.write("hosts/node_18", f"Address = 127.0.0.1 6677\nSubnet = {PREFIX}:12::/64\n{rsa.public_pem(own)}")
    world.server.start()
    wait("the server has come in", world.up)


def half_written(world):
    whole = tinc.make_key(world.work)
    world.put("tinc.conf", "Name = node_18\nConnectT")
    world.put("rsa_key.priv", whole[: len(whole) // 2])
    world.put("hosts/server_2", "Address = 127.0.0.1 6655\n-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkq")
    world.put("hosts/.tmp-server_2", "left by a cut")
    assert world.converge() == ["key", "configure", "start"]
    assert os.path.exists(os.path.join(world.paths.tinc, "rsa_key.priv.damaged"))
    world.server = Server(world.work, world.driver.observe().key)
    world.server.start()
    world.servers = [world.server.document()]
    assert world.converge() == ["configure", "reload"]
    wait("the server is reached", world.up)


def another_island(world):
    world.joined()
    shown = world.server.document(addresses=[{"addr": "127.0.0.1", "port": PORT, "island": 6},
                                             {"addr": "127.0.0.1", "port": 1, "island": 1}])  # fmt: skip
    world.servers = [shown]
    docs = {shown["uri"]: shown}
    state = {"base": {"uri": BASE}, "docs": docs, "lists": {BASE + "servers/": list(docs)}}
    state["node"] = {"island": {"id": 6}}
    target = overlay_documents.build(state, world.settings)
    assert [peer.addresses for peer in target.peers] == [[("127.0.0.1", PORT)]]


SCENARIOS = [first_start, joins, idle_round, daemon_killed, key_changed, addresses_dead, new_address, node_id_changed,
             injected, wrong_key_undone, changed_again, comes_in, half_written, another_island]  # fmt: skip


def main():
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: who tincd's parent leaves it to may not collect it
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    probe.FIRST_S, probe.PAUSE_S = 0.5, 3.0  # 1.1 lets nobody in who connects too often
    rules.DOWN_S = 0.5
    overlay_change.UNDO_S = 5.0
    world = World(sys.argv[2])
    try:
        {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]](world)
    except BaseException:
        for log in (world.paths.run + "/tincd.log", sys.argv[2] + "/server/log"):
            if os.path.exists(log):
                with open(log) as file:
                    print(log, file.read()[-3000:])
        raise
    finally:
        subprocess.run([*world.service, "stop"], check=False)
        if hasattr(world, "server"):
            world.server.stop()


if __name__ == "__main__":
    main()
