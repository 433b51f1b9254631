"""The example registry as `make run` and the virtual-node tests start it: a copy of the testbed, served on a port
that stays the same from run to run."""

import os
import shutil
import socket
from collections.abc import Callable

from registry.documents import Testbed
from registry.server import ROOT, Registry, Server, make_certificate

SOURCE = os.path.join(ROOT, "test", "registry", "testbed")
FILES = os.path.join(ROOT, "build", "templates")
NAMES = ["10.0.2.2", "127.0.0.1", "localhost"]  # 10.0.2.2: this machine as a virtual node sees it
HINT = """in slivers/1.json   "set_state": "deploy"  stops it; null starts it again
  in slices/2.json    "set_state": "deploy" stops the whole slice, "register" removes its slivers' disks
  in slivers/2.json   raise "instance_sn": its disk is made anew; in slices/2.json: its root is made anew
  in slivers/1.json   "resources": [{"name": "memory", "req": 96, "unit": "MiB"}], raise "instance_sn": another limit
  in slices/4.json    "set_state": "start" brings up the one that waits
  in users/2.json     add or remove a key in "auth_tokens"
  in nodes/1.json     "set_state": "safe" stops all slivers; raise "boot_sn": the node reboots once
  mv slivers/3.json /tmp: the sliver is removed; mv it back, and it comes up as new
  An empty or half-written file changes nothing on the node. Remove the whole directory to begin anew."""


class ExampleRegistry:
    """The example testbed over HTTPS, in a thread, as a context manager.

    work: directory for the copy of the documents that a person edits (`documents`), certificate, key and port;
    all is kept for the next time. The copy is made anew when the testbed in the source tree changed. url: base URI
    as this machine sees it. certificate: PEM file to pin. hint: what to change, for a person. say: told when a
    file cannot be used.
    """

    hint = HINT

    def __init__(self, work: str, files: str = FILES, say: Callable[[str], None] = print) -> None:
        os.makedirs(work, exist_ok=True)
        self.documents = os.path.join(work, "documents")
        self._work = work
        self._copy()
        self.certificate, key = make_certificate(os.path.join(work, "tls"), NAMES)
        self.registry = Registry(Testbed(self.documents, files), say)
        self.server = Server(self.registry, "127.0.0.1", self._port(), self.certificate, key)
        with open(os.path.join(work, "port"), "w", encoding="ascii") as file:
            file.write(str(self.server.server_port))
        self.url = self.server.base

    def __enter__(self) -> "ExampleRegistry":
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)

    def _copy(self) -> None:
        original = os.path.join(self._work, "original")
        if os.path.isdir(self.documents) and same(SOURCE, original):
            return
        for copy in (self.documents, original):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(SOURCE, copy)
        give_to_caller(self.documents)

    def _port(self) -> int:
        """The port of the last run if it is free: nodes have it in their configuration."""
        try:
            with open(os.path.join(self._work, "port"), encoding="ascii") as file:
                port = int(file.read())
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            return port
        except (OSError, ValueError, OverflowError):
            return 0


def contents(directory: str) -> dict[str, bytes]:
    """All files below `directory` by their path in it."""
    found = {}
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


def same(one: str, other: str) -> bool:
    """Whether two directories hold the same files."""
    return contents(one) == contents(other)


def give_to_caller(directory: str) -> None:
    """Let the person who called sudo edit the files."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not uid.isdigit() or not gid.isdigit():
        return
    for where, _, names in os.walk(directory):
        os.chown(where, int(uid), int(gid))
        for name in names:
            os.chown(os.path.join(where, name), int(uid), int(gid))
