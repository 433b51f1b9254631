"""`make run`: the example registry and one virtual node, watched live while the node brings its slivers up.

ONCE=1 ends by itself: status 0 once all slivers are as asked, 1 with the reasons else. FRESH=1 begins with an empty
node; otherwise the node of the last run goes on, as a real one would after its power was off. UPGRADE=1 begins
with an empty node, too, and upgrades it then, with a good bundle and with broken ones.
"""

from __future__ import annotations

import contextlib
import filecmp
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "test"), TOP]

from firmware.image.compose import compose  # noqa: E402  # after the path is set
from qemu import narrate  # noqa: E402
from qemu.harness import NodeError, VirtualNode  # noqa: E402
from registry.testbed import ExampleRegistry  # noqa: E402

WORK = os.environ.get("RUN_DIR") or os.path.join(TOP, "build", "run")
REFERENCE = os.path.join(TOP, "build", "reference")
CONTROL = "/run/confine/control.sock"
NODE_ID = "0001"
DEADLINE_S = float(os.environ.get("RUN_DEADLINE") or 240)
POLL_S = 0.25
ENOUGH_S = 5.0  # all slivers are as asked for so long: it is no passing moment

CONFIG = """
config node 'node'
	option id '{node_id}'

config registry 'registry'
	option base_uri '{base_uri}'
	option cert '/etc/confine/registry-server.crt'
	option interval '10'

config policy 'policy'
	option disk_reserve '64'
"""

LOOK = """
All slivers are as asked. The node goes on running; look at it from another terminal:

  the status, live       {ssh} -t confine status --watch
  a shell in the node    {ssh}
  a shell in a sliver    {ssh} -t lxc-attach -P /run/confine/lxc -n {name} -- /bin/sh
  what it would do       {ssh} confine plan
  its serial port        tail -f {serial}

Change what the testbed asks for and watch the node follow, within 10 s. In {documents}:

  {hint}

Ctrl-C ends the node and the registry.
"""

SSH_CONFIG = """Host node
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {work}/ssh_key
  UserKnownHostsFile {work}/known_hosts
  StrictHostKeyChecking accept-new
"""


class Screen:
    """Lines that stay, and on a terminal one line of progress below them."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._live = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """A line that stays, with the time since the start."""
        self.show("")
        print("{:6.1f} s  {}".format(time.monotonic() - self._begun, text), flush=True)

    def show(self, text: str) -> None:
        """Replace the line of progress."""
        if self._live:
            width = shutil.get_terminal_size().columns
            sys.stdout.write("\r\x1b[K" + text[: width - 1])
            sys.stdout.flush()


def main() -> int:
    """Exit status as the module says."""
    once = os.environ.get("ONCE") == "1"
    count = os.environ.get("NODES") or "1"
    if count != "1":
        from qemu import run_community  # several nodes on a community LAN, with an overlay

        return run_community.main(int(count) if count.isdigit() else 0, once)
    screen = Screen()
    os.makedirs(WORK, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with ExampleRegistry(os.path.join(os.path.dirname(WORK), "testbed")) as registry:
            screen.say("registry  {} serves {}".format(registry.url, os.path.relpath(registry.documents, TOP)))
            with started(screen, registry) as node:
                status = watch_until_as_asked(screen, node)
                if os.environ.get("UPGRADE") == "1":
                    ended = upgrades(screen, node)
                    if once or ended:
                        return ended
                    status = status_of(node) or status
                if once:
                    return verdict(screen, status)
                print(instructions(registry, status), flush=True)
                follow(screen, node, status)
    except KeyboardInterrupt:
        screen.say("ended")
    except NodeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def upgrades(screen: Screen, node: VirtualNode) -> int:
    """A good bundle and broken ones; exit status 0 if the node took them as it should."""
    from qemu import run_upgrade

    def as_asked() -> bool:
        status = status_of(node)
        return status is not None and narrate.as_asked(status)

    return run_upgrade.show(screen, node, os.path.join(WORK, "upgrade"), REFERENCE, TOP, as_asked)


@contextlib.contextmanager
def started(screen: Screen, registry: ExampleRegistry) -> Iterator[VirtualNode]:
    """The node, from the moment its kernel starts; at the end it is shut down in order."""
    disk = os.path.join(WORK, "disk.img")
    key = ssh_key()
    made = compose(
        os.path.join(REFERENCE, "vmlinuz"),
        os.path.join(REFERENCE, "initrd.img"),
        os.path.join(REFERENCE, "root.squashfs"),
        disk,
        configuration(registry, key + ".pub"),
        recovery=os.path.join(REFERENCE, "recovery.squashfs"),
    )
    screen.say("disk      {}".format("made" if made else "as before"))
    forget_old_node(screen, disk)
    port = free_port()
    node = VirtualNode(disk, "node-" + NODE_ID, work=os.path.join(WORK, "node"), wait_until_up=False,
                       forwards={port: 22})  # fmt: skip
    with open(os.path.join(WORK, "ssh_port"), "w") as file:
        file.write(str(port))
    with open(os.path.join(WORK, "ssh_config"), "w") as file:
        file.write(SSH_CONFIG.format(port=port, work=WORK))
    with node:
        screen.say("node      starts through GRUB, kernel and root of slot a")
        try:
            yield node
        finally:
            screen.show("the node shuts down")
            shut_down(node)


def configuration_files(registry: ExampleRegistry) -> dict[str, tuple[bytes, int]]:
    """What makes a node of the shared image node 1 of the example testbed: {path: (content, mode)}."""
    with open(registry.certificate, "rb") as file:
        certificate = file.read()
    base_uri = registry.url.replace("127.0.0.1", "10.0.2.2")
    return {
        "etc/config/confine": (CONFIG.format(node_id=NODE_ID, base_uri=base_uri).encode(), 0o600),
        "etc/confine/registry-server.crt": (certificate, 0o644),
    }


def authorize(node: VirtualNode, registry: ExampleRegistry) -> None:
    """Make a running node node 1 of the example testbed."""
    for path, (content, mode) in configuration_files(registry).items():
        node.write_file("/" + path, content, mode)
    node.must(["/etc/init.d/confine", "restart"], timeout=60)


def configuration(registry: ExampleRegistry, public_key: str) -> str:
    """The node's configuration as a tar.gz that it unpacks at its first start; gives its path."""
    with open(public_key, "rb") as file:
        authorized = file.read()
    files = {**configuration_files(registry), "etc/dropbear/authorized_keys": (authorized, 0o600)}
    path = os.path.join(WORK, "config.tar.gz")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    packed = subprocess.run(["gzip", "-n"], input=buffer.getvalue(), capture_output=True, check=True)
    with open(path, "wb") as file:
        file.write(packed.stdout)
    return path


def forget_old_node(screen: Screen, disk: str) -> None:
    """A node of another image, or one that is not wanted any more, is thrown away."""
    directory = os.path.join(WORK, "node")
    belongs = os.path.join(directory, "image.json")
    recipe = disk + ".json"
    known = os.path.exists(belongs) and filecmp.cmp(recipe, belongs, shallow=False)
    if "1" in (os.environ.get("FRESH"), os.environ.get("UPGRADE")) or not known:
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        shutil.copy(recipe, belongs)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(WORK, "known_hosts"))  # a new node has a new key
        screen.say("node      new, with an empty data partition")
    else:
        screen.say("node      that of the last run goes on (FRESH=1 begins anew)")


def ssh_key() -> str:
    """The person's key into the node, made once."""
    key = os.path.join(WORK, "ssh_key")
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "make run", "-f", key], check=True)
    return key


def free_port() -> int:
    """The port of the last run if it is still free, so that a command line can be used again; else any."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(WORK, "ssh_port")) as file:
        port = int(file.read())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(node: VirtualNode) -> dict[str, Any] | None:
    """The controller's status, or None while it does not answer."""
    try:
        answer = json.loads(node.ask(CONTROL, b'{"verb": "status"}\n', timeout=5))
    except (NodeError, ValueError):
        node.check_alive()
        return None
    result: dict[str, Any] | None = answer.get("result")
    return result


def watch_until_as_asked(screen: Screen, node: VirtualNode) -> dict[str, Any]:
    """Say what happens until all slivers are as asked for a while, or the deadline is over; the last status."""
    before: dict[str, Any] | None = None
    settled_since: float | None = None
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        after = status_of(node)
        if after is None:
            screen.show("the node boots")
        else:
            if before is None:
                screen.say("node      the controller answers")
            for line in narrate.changes(before, after):
                screen.say(line)
            screen.show(narrate.progress(after))
            before = after
            if not narrate.as_asked(after):
                settled_since = None
            elif settled_since is None:
                settled_since = time.monotonic()
            elif time.monotonic() - settled_since > ENOUGH_S or os.environ.get("ONCE") != "1":
                break
        time.sleep(POLL_S)
    if before is None:
        raise NodeError("the controller did not answer within {:.0f} s{}".format(DEADLINE_S, node.serial_tail()))
    return before


def verdict(screen: Screen, status: dict[str, Any]) -> int:
    """Status 0 if all is as asked, else 1 and why."""
    if narrate.as_asked(status):
        screen.say("all {} slivers are as asked".format(len(status["slivers"])))
        return 0
    for reason in narrate.shortcomings(status):
        print("not as asked: " + reason, file=sys.stderr)
    return 1


def instructions(registry: ExampleRegistry, status: dict[str, Any]) -> str:
    """How to look at the node, and what to change."""
    work = os.path.relpath(WORK, os.getcwd())
    ssh = "ssh -F {}/ssh_config node".format(work)
    running = [sliver["name"] for sliver in status["slivers"] if sliver["state"] == "started"]
    return LOOK.format(
        ssh=ssh,
        name=running[0] if running else "NAME",
        serial=os.path.join(work, "node", "serial.log"),
        documents=os.path.relpath(registry.documents, os.getcwd()),
        hint=registry.hint,
    )


def follow(screen: Screen, node: VirtualNode, before: dict[str, Any]) -> None:
    """Say what changes, until interrupted."""
    while True:
        after = status_of(node)
        if after is not None:
            for line in narrate.changes(before, after):
                screen.say(line)
            screen.show(narrate.progress(after))
            before = after
        time.sleep(POLL_S)


def shut_down(node: VirtualNode) -> None:
    """Power the node off as a person would, at most 20 s; then it is killed."""
    try:
        node.run(["poweroff"], timeout=5)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            node.check_alive()
            time.sleep(0.1)
    except NodeError:
        pass  # it is off


if __name__ == "__main__":
    sys.exit(main())
