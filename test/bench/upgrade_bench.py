"""What an upgrade costs: a bundle of the reference image, checked, written and read back, beside sha256sum and dd, and
beside RAUC (Debian package rauc, with a D-Bus of its own); its memory; and what a small change costs to fetch.

    python3 test/bench/upgrade_bench.py
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "test"), ROOT, os.path.join(ROOT, "controller")]

from bench.table import Figure, at_most, missing  # noqa: E402  # after the path is set
from firmware.image import compose, filesystems, layout  # noqa: E402
from upgrade.bundle import __main__ as tool  # noqa: E402

NAMES = ("upgrade",)
REFERENCE = os.path.join(ROOT, "build", "reference")
ROUNDS = 5
MIB = 1024 * 1024
SIZES = {"kernel-a": 16, "root-a": 64, "kernel-b": 16, "root-b": 64, "data": 64}
CHANGED = 100 * 1024
MEMORY_KIB = 32 * 1024
# Where the node's code runs: it has the slots in files, and says how long it took without Python's own start.
CHILD = """
import json, os, sys, time
sys.path[:0] = {path!r}
from confine.core.settings import Settings
from confine.paths import Paths
from confine.upgrade.disk import Disk
from confine.upgrade.install import Installer, Report
from confine.upgrade.node import Node
from confine.upgrade.slots import Slots
slots = Slots(Disk(lambda name: os.path.join({disk!r}, name)), words={{"slot": {running!r}, "boot": "counted"}})
settings = Settings(node_id=1, upgrade_keyring={ring!r}, upgrade_mirrors={mirrors!r})
node = Node(Paths(data={data!r}, run={run!r}), settings, slots, {system!r})
slots.clear_label("b" if {running!r} == "a" else "a")
begun = time.monotonic()
Installer(node, Report({run!r} + "/report")).install({source!r})
took = time.monotonic() - begun
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps({{"s": took, "peak_kib": peak}}))
"""


def figures(wanted: set[str], versions: dict[str, str]) -> Iterator[Figure]:
    """All figures, if any is wanted. Something missing makes a line that says so."""
    if not wanted & set(NAMES):
        return
    if not os.path.exists(os.path.join(REFERENCE, "root.squashfs")):
        yield missing("upgrade", "no reference image: make image")
        return
    for program in ("signify-openbsd", "casync"):
        if not shutil.which(program):
            yield missing("upgrade", f"no {program} on this machine")
            return
    found: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(dir=os.path.join(ROOT, "build"), prefix="upgrade-bench-") as directory,
        contextlib.redirect_stdout(sys.stderr),
    ):
        bench = Bench(directory)
        found += bench.writing()
        found += bench.fetching()
    yield from found


class Bench:
    """Bundles, keys, a disk and a mirror in one directory."""

    def __init__(self, directory: str) -> None:
        self._at = functools.partial(os.path.join, directory)
        self._make_keys()
        self._make_disk()
        self.bundle("one", os.path.join(REFERENCE, "root.squashfs"), "1.0")

    def writing(self) -> Iterator[Figure]:
        """Check, write, read back."""
        source = self._at("one.bundle")
        tool.main(["pack", self._at("one"), "-o", source])
        target = self._at("target")
        with open(target, "wb") as file:
            file.truncate(os.path.getsize(source))
        mine: list[float] = []
        peaks: list[int] = []
        plain: list[float] = []
        others: list[float] = []
        with Rauc(self._at("rauc"), self._at("one")) as rauc:
            for _ in range(ROUNDS):
                found = self._child("a", source, [])
                mine.append(found["s"])
                peaks.append(int(found["peak_kib"]))
                plain.append(timed(lambda: by_hand(source, target)))
                if rauc.why is None:
                    others.append(rauc.install())
        size = f"{os.path.getsize(source) / MIB:.0f} MiB"
        middle = statistics.median(mine)
        yield at_most(f"check, write, read back a bundle of {size}", middle, statistics.median(plain), 1.2, "s",
                      "sha256sum, dd conv=fsync, sha256sum")  # fmt: skip
        if others:
            yield at_most("the same", middle, statistics.median(others), 1.3, "s", "rauc install")
        else:
            yield missing("the same beside rauc install", str(rauc.why))
        peak = max(peaks)
        yield Figure("memory meanwhile, whole process, at most", f"{peak} KiB", "", None, f"<= {MEMORY_KIB} KiB",
                     peak <= MEMORY_KIB)  # fmt: skip

    def fetching(self) -> Iterator[Figure]:
        """One changed file of 100 KiB."""
        self.bundle("two", self._changed_root(), "2.0")
        web = self._at("web")
        for name in ("one", "two"):
            tool.main(["publish", self._at(name), web, "--keyring", self._at("keyring.json")])
        server = Counting(web)
        try:
            self._child("a", server.uri + "stable/bench/1.0", [server.uri])
            self._confirm_b()
            server.sent = 0
            self._child("b", "2.0", [server.uri])
        finally:
            server.close()
        whole = sum(os.path.getsize(self._at("two", name)) for name in ("kernel", "root"))
        share = 100 * server.sent / whole
        yield Figure("bytes fetched for one changed 100 KiB file", f"{server.sent} bytes, {share:.2f} %",
                     f"{whole} bytes: the bundle", None, "<= 1.0 %", share <= 1.0)  # fmt: skip

    # ---- what it takes ----------------------------------------------------------------------------------------------

    def _make_keys(self) -> None:
        pubs = []
        for name in "ab":
            argv = ["signify-openbsd", "-G", "-n", "-p", self._at(name + ".pub"), "-s", self._at(name + ".sec")]
            subprocess.run(argv, check=True)
            pubs.append(self._at(name + ".pub"))
        tool.main(["keyring", *pubs, "--threshold", "2", "--serial", "1", "-o", self._at("keyring.json")])

    def _make_disk(self) -> None:
        vmlinuz, initrd = (os.path.join(REFERENCE, name) for name in ("vmlinuz", "initrd.img"))
        compose.compose(vmlinuz, initrd, os.path.join(REFERENCE, "root.squashfs"), self._at("disk.img"), sizes=SIZES)
        os.mkdir(self._at("disk"))
        with open(self._at("disk.img"), "rb") as disk:
            for part in layout.partitions(SIZES):
                with open(self._at("disk", part.name), "wb") as file:
                    for at in range(0, part.size, MIB):
                        file.write(os.pread(disk.fileno(), MIB, part.start + at))
        for name, text in {"usr/lib/confine/share/board": "bench", "proc/meminfo": "MemTotal: 262144 kB"}.items():
            os.makedirs(os.path.dirname(self._at("system", name)), exist_ok=True)
            with open(self._at("system", name), "w") as file:
                file.write(text + "\n")
        part = next(part for part in layout.partitions(SIZES) if part.name == "kernel-a")
        with tempfile.TemporaryDirectory(dir=self._at()) as work:
            filesystems.write_kernel(self._at("kernel"), part, vmlinuz, initrd, work, 0)

    def bundle(self, name: str, root: str, version: str) -> None:
        """A signed bundle of the reference kernel and `root`."""
        draft = self._at(name)
        tool.main(["make", "--kernel", self._at("kernel"), "--root", root, "--version", version, "--epoch", "1",
                   "--board", "bench", "--published", f"2026-01-0{version[0]}T00:00:00Z", "-o", draft])  # fmt: skip
        tool.main(["sign", draft, "--key", self._at("a.sec"), "--key", self._at("b.sec")])

    def _changed_root(self) -> str:
        """The reference root with one file of 100 KiB or a little more changed."""
        tree, made = self._at("tree"), self._at("changed.squashfs")
        stock = os.path.join(REFERENCE, "root.squashfs")
        subprocess.run(["unsquashfs", "-q", "-n", "-d", tree, stock], check=True, stdout=subprocess.DEVNULL)
        path = min((p for p in regular_files(tree) if os.path.getsize(p) >= CHANGED), key=os.path.getsize)
        with open(path, "rb") as file:
            content = file.read()
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(os.urandom(CHANGED) + content[CHANGED:])
        from firmware.reference.build import COMPRESSION

        subprocess.run(["mksquashfs", tree, made, "-noappend", "-no-progress", "-quiet", "-no-xattrs", *COMPRESSION,
                        "-all-time", "1", "-mkfs-time", "1"], check=True)  # fmt: skip
        return made

    def _confirm_b(self) -> None:
        from confine.upgrade.disk import Disk
        from confine.upgrade.slots import Slots

        slots = Slots(Disk(lambda name: self._at("disk", name)), words={"slot": "a", "boot": "counted"})
        slots.backend.allow("b")
        slots.backend.commit("b")

    def _child(self, running: str, source: str, mirrors: list[str]) -> dict[str, float]:
        os.makedirs(self._at("run"), exist_ok=True)
        text = CHILD.format(
            path=[os.path.join(ROOT, "controller"), ROOT], disk=self._at("disk"), running=running, mirrors=mirrors,
            ring=self._at("keyring.json"), data=self._at("data"), run=self._at("run"), system=self._at("system"),
            source=source,
        )  # fmt: skip
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-1000:])
        found: dict[str, float] = json.loads(done.stdout)
        return found


class Rauc:
    """RAUC installing the same parts, unpacked from a bundle of its own format "plain"; its service runs meanwhile.

    why: why it cannot be measured, or None.
    """

    def __init__(self, directory: str, draft: str) -> None:
        self._at = functools.partial(os.path.join, directory)
        self.why: str | None = None
        self._service: subprocess.Popen[bytes] | None = None
        self._bus: subprocess.Popen[bytes] | None = None
        os.mkdir(directory)
        missing_programs = [name for name in ("rauc", "dbus-daemon", "openssl") if not shutil.which(name)]
        if missing_programs:
            self.why = f"no {' and no '.join(missing_programs)} on this machine"
            return
        self._make(draft)

    def __enter__(self) -> Rauc:
        if self.why is None:
            address = "unix:path=" + self._at("bus")
            self._bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", "--address=" + address],
                                         stderr=subprocess.DEVNULL)  # fmt: skip
            self._env = {**os.environ, "DBUS_STARTER_BUS_TYPE": "session", "DBUS_SESSION_BUS_ADDRESS": address}
            wait_until(lambda: os.path.exists(self._at("bus")))
            with open(self._at("log"), "wb") as log:
                argv = ["rauc", "--conf=" + self._at("system.conf"), "--override-boot-slot=a", "service"]
                self._service = subprocess.Popen(argv, env=self._env, stdout=log, stderr=log)
            try:
                wait_until(lambda: self._run("status").returncode == 0)
                self.install()
            except (RuntimeError, subprocess.SubprocessError) as error:
                self.why = f"rauc does not work here: {str(error)[-200:]}"
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._service, self._bus):
            if process is not None:
                process.terminate()
                process.wait()

    def install(self) -> float:
        """Seconds of one `rauc install`."""
        return timed(lambda: self._checked("install", self._at("bundle.raucb")))

    def _make(self, draft: str) -> None:
        key, cert = self._at("key.pem"), self._at("cert.pem")
        self._call(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
                    "-days", "3650", "-subj", "/CN=bench"])  # fmt: skip
        os.mkdir(self._at("in"))
        manifest = "[update]\ncompatible=bench\nversion=1\n\n[bundle]\nformat=plain\n"
        config = [
            "[system]\ncompatible=bench\nbootloader=noop\nbundle-formats=plain",
            f"mountprefix={self._at('mnt')}\nstatusfile={self._at('status')}",
            f"\n[keyring]\npath={cert}",
        ]
        os.mkdir(self._at("mnt"))
        for name, parent in (("root", ""), ("kernel", "parent=root.{}")):
            shutil.copyfile(os.path.join(draft, name), self._at("in", name + ".img"))
            manifest += f"\n[image.{name}]\nfilename={name}.img\n"
            for slot in (0, 1):
                path = self._at(f"{name}-{slot}")
                with open(path, "wb") as file:
                    file.truncate(64 * MIB)
                more = parent.format(slot) or f"bootname={'ab'[slot]}"
                config.append(f"\n[slot.{name}.{slot}]\ndevice={path}\ntype=raw\n{more}")
        with open(self._at("in", "manifest.raucm"), "w") as file:
            file.write(manifest)
        with open(self._at("system.conf"), "w") as file:
            file.write("\n".join(config) + "\n")
        self._call(["rauc", "bundle", "--cert", cert, "--key", key, "--keyring", cert, self._at("in"),
                    self._at("bundle.raucb")])  # fmt: skip

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["rauc", *words], env=self._env, capture_output=True, text=True, timeout=120, check=False)

    def _checked(self, *words: str) -> None:
        done = self._run(*words)
        if done.returncode != 0:
            raise RuntimeError(done.stderr + done.stdout)

    def _call(self, argv: list[str]) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.why = f"{argv[0]}: {done.stderr[-200:]}"


class Counting:
    """A web host for a directory that counts the bytes of its bodies. Serves ranges."""

    def __init__(self, directory: str) -> None:
        self.sent = 0
        counting = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                try:
                    with open(os.path.join(directory, self.path.lstrip("/")), "rb") as file:
                        content = file.read()
                except OSError:
                    self.send_error(404)
                    return
                asked = self.headers.get("Range", "").removeprefix("bytes=")
                first, _, last = asked.partition("-")
                start, end = int(first or 0), int(last or len(content) - 1)
                body = content[start : end + 1]
                self.send_response(206 if asked else 200)
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                counting.sent += len(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def by_hand(source: str, target: str) -> None:
    """What a careful person does."""
    for argv in (["sha256sum", source], ["dd", "if=" + source, "of=" + target, "bs=1M", "conv=fsync,notrunc"],
                 ["sha256sum", target]):  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)


def regular_files(tree: str) -> Iterator[str]:
    """All regular files below `tree`."""
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def timed(deed: Callable[[], object]) -> float:
    """Seconds that `deed` takes."""
    begun = time.monotonic()
    deed()
    return time.monotonic() - begun


def wait_until(there: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll. RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise RuntimeError("not in time")
        time.sleep(0.05)


if __name__ == "__main__":
    from bench.table import heading, host_versions, line

    print(heading(host_versions()))
    for figure in figures(set(NAMES), {}):
        print(line(figure.cells()))
