"""`make run UPGRADE=1`: what an operator publishes, and what becomes of it on the node of `make run`.

First a good bundle: fetched, checked, written to slot b, tried by kexec, confirmed with all slivers back. Then bundles
broken on purpose: the node is back on b by itself each time, says why, and takes none of them again by itself.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from qemu import bundles
from qemu.harness import NodeError, VirtualNode

WAIT_S = float(os.environ.get("RUN_DEADLINE") or 300)
KEYS, NEEDED = 3, 2
KEYRING = "/etc/confine/upgrade-keyring.json"
# version, what it does on purpose, order and script of the init script that does it
BROKEN = (
    ("2.0", "panics", "S13", "echo c >/proc/sysrq-trigger"),
    ("2.1", "hangs", "S13", "sleep 100000"),
    ("2.2", "comes up without its network", "S13", "rmmod virtio_net"),
)
GATE_S = 180


class Operator:
    """Makes bundles of `image` (files by name), signs and publishes them with confine-bundle, below `directory`."""

    def __init__(self, directory: str, image: dict[str, str], top: str) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self._directory = directory
        self._top = top
        self.mirror = os.path.join(directory, "mirror")
        self.keyring = os.path.join(directory, "keyring.json")
        self.maker = bundles.Maker(os.path.join(directory, "made"), image)
        for number in range(KEYS):
            key = self._key(number)
            argv = ["signify-openbsd", "-G", "-n", "-c", f"key {number}", "-p", key + ".pub", "-s", key + ".sec"]
            subprocess.run(argv, check=True)
        public = [self._key(number) + ".pub" for number in range(KEYS)]
        self._tool("keyring", *public, "--threshold", str(NEEDED), "--serial", "1", "-o", self.keyring)

    def publish(self, bundle: bundles.Bundle, notes: str) -> None:
        """Sign the bundle with as many keys as are needed, and publish it."""
        manifest, parts = bundle
        draft = os.path.join(self._directory, "draft-" + manifest["version"])
        self._tool("make", "--kernel", parts["kernel"], "--root", parts["root"], "--version", manifest["version"],
                   "--epoch", "1", "--board", "reference", "--gate-seconds", str(GATE_S), "--notes", notes,
                   "-o", draft)  # fmt: skip
        signers = [word for number in range(NEEDED) for word in ("--key", self._key(number) + ".sec")]
        self._tool("sign", draft, *signers)
        self._tool("publish", draft, self.mirror, "--keyring", self.keyring)

    def unchanged(self) -> bundles.Bundle:
        """The image that nodes were made from: with its index on the mirror they fetch what differs, and no more."""
        return self.maker.unchanged("1.0")

    def good(self) -> bundles.Bundle:
        return self.maker.good("1.1")

    def broken(self, version: str, order: str, script: str) -> bundles.Bundle:
        return self.maker.with_script(version, order, script, GATE_S)

    def _key(self, number: int) -> str:
        return os.path.join(self._directory, f"key{number}")

    def _tool(self, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.path.join(self._top, "controller") + os.pathsep + self._top}
        done = subprocess.run([sys.executable, "-m", "upgrade.bundle", *words], env=environment, capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode != 0:
            raise NodeError(f"confine-bundle {words[0]}: {done.stderr.strip()}")


@contextlib.contextmanager
def served(directory: str) -> Iterator[str]:
    """A plain web host for `directory`, as any mirror is one; its address as the node sees it."""
    os.makedirs(directory, exist_ok=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            """Pieces of files, too, which http.server itself does not give."""
            asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
            path = self.translate_path(self.path)
            if asked is None or not os.path.isfile(path):
                super().do_GET()
                return
            size = os.path.getsize(path)
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            with open(path, "rb") as file:
                file.seek(first)
                self.wfile.write(file.read(last + 1 - first))

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A node that has what it wanted hangs up."""

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://10.0.2.2:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class Show:
    """The upgrades of one node, told to a screen (run.Screen)."""

    def __init__(self, screen: Any, node: VirtualNode, as_asked: Callable[[], bool]) -> None:
        self._screen = screen
        self._node = node
        self._as_asked = as_asked
        self._heard = 0

    def configure(self, mirror: str, keyring: str) -> None:
        """Tell the node where bundles come from and whom to believe."""
        with open(keyring) as file:
            self._node.write_file(KEYRING, file.read())
        self._node.sh(
            "uci set confine.upgrade=upgrade; uci set confine.upgrade.mode=off; uci set confine.upgrade.keyring="
            + KEYRING + "; uci -q delete confine.upgrade.mirror || true; uci add_list confine.upgrade.mirror="
            + mirror + "; uci commit confine; /etc/init.d/confine reload"
        )  # fmt: skip

    def upgrade(self, confirmed: str) -> bool:
        """Have the newest bundle installed and tried. True if slot `confirmed` is the confirmed one afterwards."""
        self._heard = len(self._node.serial())
        before = self._node.boot_id()
        self._node.sh("confine upgrade install latest --trial >/tmp/upgrade.log 2>&1 </dev/null &")
        self._until("the new slot starts", lambda: self._boot() not in ("", before), self._progress)
        self._until("the trial has ended", lambda: self._ended(), self._listen)
        state = json.loads(self._node.must(["confine", "upgrade", "status", "--json"], timeout=60))
        self._screen.say("node      slot {} is confirmed".format(state["slots"]["confirmed"]))
        self._until("all slivers are as asked", self._as_asked, self._listen)
        self._screen.say("node      all slivers are as asked")
        return bool(state["slots"]["confirmed"] == confirmed)

    def refused(self) -> str:
        """What the node says of the last bundle when it looks again."""
        found = json.loads(self._node.run(["confine", "upgrade", "check", "--json"], timeout=60).out)
        return str(found.get("reason"))

    def _ended(self) -> bool:
        events = self._node.run(["confine", "upgrade", "history", "--json"], timeout=60)
        last = (json.loads(events.out) if events.status == 0 else []) or [{}]
        if last[-1].get("event") not in ("confirmed", "failed"):
            return False
        for event in [one for one in last if one["event"] == "written"][-1:]:
            self._screen.say("node      had fetched {:.2f} MB of it".format((event.get("fetched") or 0) / 1e6))
        self._screen.say("history   version {}: {} {}".format(last[-1]["version"], last[-1]["event"], last[-1]["why"]))
        return True

    def _boot(self) -> str:
        return self._node.boot_id(timeout=2)

    def _progress(self) -> None:
        try:
            doc = json.loads(self._node.read_file("/run/confine/upgrade.json"))
        except (NodeError, ValueError):
            doc = {}
        total = doc.get("total") or 0
        if total:
            filled = 30 * doc["done"] // total
            self._screen.show("{} {} [{}{}] {:.0f} of {:.0f} MB".format(
                doc["state"], doc.get("part") or "", "#" * filled, "." * (30 - filled), doc["done"] / 1e6,
                total / 1e6))  # fmt: skip
        self._listen()

    def _listen(self) -> None:
        """What trial, kernel and GRUB said since the last time."""
        *lines, _ = self._node.serial()[self._heard :].split("\n")
        self._heard += sum(len(line) + 1 for line in lines)
        for line in lines:
            for sign in ("confine: trial:", "confine: slot=", "Kernel panic", "Starting new kernel"):
                if sign in line:
                    self._screen.say("console   " + line[line.index(sign) :].strip())

    def _until(self, sentence: str, done: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            meanwhile()
            try:
                if done():
                    meanwhile()
                    return
            except (NodeError, ValueError):
                self._node.check_alive()
            if time.monotonic() > deadline:
                said = self._node.run(["cat", "/tmp/upgrade.log"]).out
                raise NodeError(f"not after {WAIT_S:.0f} s: {sentence}\n{said}{self._node.serial_tail()}")
            time.sleep(0.3)


def show(screen: Any, node: VirtualNode, directory: str, reference: str, top: str, as_asked: Callable[[], bool]) -> int:
    """All of it. Exit status 0: the good bundle was confirmed, and none of the others."""
    screen.show("bundles are made and signed")
    files = (("kernel", "vmlinuz"), ("initrd", "initrd.img"), ("root", "root.squashfs"))
    operator = Operator(directory, {name: os.path.join(reference, file) for name, file in files}, top)
    with served(operator.mirror) as mirror:
        told = Show(screen, node, as_asked)
        told.configure(mirror, operator.keyring)
        operator.publish(operator.unchanged(), "the image itself")
        operator.publish(operator.good(), "all is well with it")
        screen.say(f"operator  bundle 1.1 is published, signed with {NEEDED} of {KEYS} keys")
        if not told.upgrade("b"):
            screen.say("the good bundle was not confirmed")
            return 1
        for version, what, order, script in BROKEN:
            operator.publish(operator.broken(version, order, script), "broken on purpose: it " + what)
            screen.say(f"operator  bundle {version} is published: it {what}, on purpose")
            if not told.upgrade("b"):
                screen.say(f"bundle {version} was confirmed")
                return 1
            screen.say("node      of {} it says: {}".format(version, told.refused()))
    screen.say(f"one good bundle was confirmed, {len(BROKEN)} broken ones were not: slot b runs, with all slivers")
    return 0
