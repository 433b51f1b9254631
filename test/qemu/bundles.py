"""Bundles for the tests of trials, made from the reference image, and a node that is upgraded with them."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware.image import filesystems, layout
from firmware.reference.build import write_squashfs
from qemu.harness import VirtualNode

_ENVIRONMENT = ["env", "PYTHONPATH=/usr/lib/confine"]
_PYTHON = [*_ENVIRONMENT, "python3", "-P", "-s", "-c"]

Bundle = tuple[dict[str, Any], dict[str, str]]  # manifest, and for each part a file


class Maker:
    """Makes bundles below `directory` from the image's kernel, initrd and root; each kind once."""

    def __init__(self, directory: str, image: dict[str, str]) -> None:
        self._directory = directory
        self._image = image
        self._made: dict[str, Bundle] = {}
        os.makedirs(directory, exist_ok=True)

    def unchanged(self, version: str) -> Bundle:
        """The image itself: what nodes made from it run, so that they know its pieces again."""
        if version not in self._made:
            self._made[version] = self._described(version, self._image["root"], {})
        return self._made[version]

    def good(self, version: str, **gate: Any) -> Bundle:
        """The same system, which calls itself `version`."""
        return self._bundle(version, {"etc/confine-version": version + "\n"}, gate=gate)

    def panics(self) -> Bundle:
        """A system without an init: the kernel panics."""
        return self._bundle("2.0-panic", {"etc/confine-version": "2.0\n", "usr/sbin/init": ""})

    def with_script(self, version: str, order: str, script: str, deadline_s: int = 120) -> Bundle:
        """A system with one more init script, run by the shell at `order` (S11: before the gate; S13: after)."""
        name = f"etc/rc.d/{order}{version}"
        return self._bundle(version, {name: "#!/bin/sh\n" + script + "\n"}, gate={"deadline_s": deadline_s})

    def without_controller(self) -> Bundle:
        """A system whose controller ends at once, again and again."""
        broken = "raise SystemExit('broken on purpose')\n"
        changed = {"usr/lib/confine/confine/daemon.py": broken, "etc/confine-version": "2.1\n"}
        gone = ["usr/lib/confine/confine/__pycache__/daemon.*"]
        return self._bundle("2.1-daemon", changed, gone, {"deadline_s": 40})

    def _bundle(
        self, version: str, changed: dict[str, str], gone: list[str] | None = None, gate: dict[str, Any] | None = None
    ) -> Bundle:
        if version not in self._made:
            self._made[version] = self._described(version, self._root(version, changed, gone or []), gate or {})
        return self._made[version]

    def _described(self, version: str, root: str, gate: dict[str, Any]) -> Bundle:
        kernel = os.path.join(self._directory, "kernel")
        if not os.path.exists(kernel):
            table = {part.name: part for part in layout.partitions()}
            work = kernel + ".work"
            os.mkdir(work)
            filesystems.write_kernel(
                kernel, table["kernel-b"], self._image["kernel"], self._image["initrd"], work, 1767225600
            )
        parts = {"kernel": kernel, "root": root}
        manifest: dict[str, Any] = {"version": version, "epoch": 1, "board": "reference", "gate": gate}
        manifest["parts"] = {name: described(path) for name, path in parts.items()}
        return manifest, parts

    def _root(self, version: str, changed: dict[str, str], gone: list[str]) -> str:
        tree = os.path.join(self._directory, version)
        subprocess.run(["unsquashfs", "-q", "-n", "-d", tree, self._image["root"]], check=True, capture_output=True)
        # Packed as the image was, so that what did not change is the same bytes.
        time = int(os.stat(os.path.join(tree, "etc")).st_mtime)
        for pattern in gone:
            subprocess.run(["sh", "-c", f"rm -f {tree}/{pattern}"], check=True)
        for name, text in changed.items():
            path = os.path.join(tree, name)
            if os.path.lexists(path):
                os.unlink(path)
            with open(path, "w") as file:
                file.write(text)
            if text.startswith("#!"):
                os.chmod(path, 0o755)
        root = tree + ".squashfs"
        write_squashfs(Path(tree), Path(root), time)
        shutil.rmtree(tree)
        return root


def described(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": os.path.getsize(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextlib.contextmanager
def served(parts: dict[str, str]) -> Iterator[dict[str, str]]:
    """The files of `parts` on a web server of the host; gives their addresses as a node sees them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with open(parts[self.path.strip("/")], "rb") as file:
                self.send_response(200)
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile, 1 << 20)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {name: f"http://10.0.2.2:{server.server_address[1]}/{name}" for name in parts}
    finally:
        server.shutdown()
        server.server_close()


class Upgrading:
    """A node and what is done to it."""

    def __init__(self, node: VirtualNode, made: Maker) -> None:
        self.node = node
        self.made = made

    def python(self, code: str, timeout: float = 120) -> str:
        """What Python prints in the node, with the node's own packages."""
        return self.node.must([*_PYTHON, code], timeout)

    def install(self, bundle: Bundle) -> None:
        """Write the bundle into slot b, as an updater does."""
        manifest, parts = bundle
        with served(parts) as urls:
            code = f"""
import json, urllib.request
from confine.upgrade import writer
with writer.open({self.other()!r}, json.loads({json.dumps(manifest)!r})) as sink:
    for name, url in {urls!r}.items():
        with urllib.request.urlopen(url) as answer:
            while data := answer.read(1 << 20):
                sink.write(name, data)
    sink.finish()
"""
            self.python(code, 300)

    def trial(self) -> None:
        """Start the trial; comes back when the old system has been told to end."""
        self.python(f"from confine.upgrade import trial; trial.start({self.other()!r})", 300)

    def refused_trial(self) -> str:
        """What is said when the trial is refused."""
        result = self.node.run([*_PYTHON, f"from confine.upgrade import trial; trial.start({self.other()!r})"], 300)
        assert result.status != 0
        return result.err

    def other(self) -> str:
        return "a" if self.node.command_line().get("confine.slot") == "b" else "b"

    def wait_confirmed(self, slot: str, timeout: float) -> None:
        """Wait until `slot` runs and is the confirmed one."""
        self.node.wait_for(f"slot {slot} runs", lambda: self.node.command_line().get("confine.slot") == slot, timeout)
        self.node.wait_for(f"slot {slot} is confirmed", lambda: self.state()["confirmed"] == slot, timeout, 1.0)
        self.node.wait_for("the gate has ended", lambda: self.last_event()["event"] == "confirmed", 60, 1.0)

    def wait_back(self, slot: str, timeout: float) -> None:
        """Wait until the trial is over and `slot` runs as the confirmed one again."""
        self.node.wait_for_serial("Starting new kernel", timeout)
        times = self.node.serial().count("confine: slot=" + slot)
        self.node.wait_for_serial("confine: slot=" + slot, timeout, times + 1)
        self.node.wait_until_up(timeout)
        self.node.wait_for("the end of the trial is written down", lambda: self.last_event()["event"] == "failed", 60)

    def reset(self) -> None:
        before = self.node.boot_id()
        self.node.must(["sync"])
        self.node.reset()
        self.node.wait_until_up(not_boot=before)

    def state(self) -> dict[str, Any]:
        """The node's slots."""
        found: dict[str, Any] = json.loads(
            self.python("import json; from confine.upgrade import slots; print(json.dumps(slots.state()))")
        )
        return found

    def events(self) -> list[dict[str, Any]]:
        """The node's history of upgrades."""
        found: list[dict[str, Any]] = json.loads(
            self.python("import json; from confine.upgrade import history; print(json.dumps(history.read()))")
        )
        return found

    def last_event(self) -> dict[str, Any]:
        return (self.events() or [{"event": ""}])[-1]
