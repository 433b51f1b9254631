"""The tinc overlay on the node: its files below /etc/tinc/confine/, its daemon, and what that says of its peers.

tincd is kept running by the init script confine-overlay. It calls hosts/NAME-up and -down (links to
share/overlay-peer) when a peer comes and goes; they leave a file in /run/confine/overlay/ for each. So everything is
observed by reading a few small files, with tinc 1.0 and 1.1 alike, and an idle round starts nothing.
"""

import contextlib
import json
import os
import signal
import subprocess
import time

from confine import durable
from confine.core import overlay as rules
from confine.core import overlay_change as changes
from confine.core import overlay_files, rsa
from confine.core.overlay import OverlayFound
from confine.core.overlay_documents import is_name
from confine.drivers import tinc
from confine.drivers.probe import Probe
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import Step
    from confine.core.overlay_documents import OverlayTarget
    from confine.core.settings import Settings
    from confine.paths import Paths

NET = "confine"
SERVICE = "confine-overlay"
SERVICE_S = 60
UP_S = 30.0
MAX_FILE = 1 << 20
MAX_HOSTS = 1024
TICK_S = 0.05  # more than the kernel's coarse clock, which tincd reads, is behind
SCRIPTS = ("-up", "-down")


class Overlay:
    """Steps `overlay ...`, and what is there of the overlay.

    service: the command that the init script is run by, with start, restart or stop after it.
    """

    def __init__(
        self, paths: "Paths", settings: "Settings", service: "tuple[str, ...]" = ("/etc/init.d/" + SERVICE,)
    ) -> None:
        self._settings = settings
        self._service = service
        self._etc = paths.tinc
        self._seen = os.path.join(paths.run, "overlay")
        self._pid_file = os.path.join(paths.run, "tinc.pid")
        self._loaded = os.path.join(paths.run, "tinc.loaded")
        self._script = os.path.join(paths.share, "overlay-peer")
        self._texts: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._key: tuple[tuple[int, int, int] | None, rsa.Numbers | None] = (None, None)
        self._probe = Probe()
        self._change_since: tuple[str, float] = ("", 0.0)

    # ---- looking --------------------------------------------------------------------------------------------------

    def observe(self) -> OverlayFound:
        """What is there now. Starts no process, writes nothing; unchanged files are not read again."""
        hosts = self._hosts()
        found = OverlayFound(
            conf=self._text("tinc.conf"),
            up=self._text("tinc-up"),
            hosts=hosts,
            key=self._own_key(),
            pid=tinc.running(self._pid_file),
            peers=tinc.peers_seen(self._seen),
            program=tinc.installed("tincd"),
            seen=self._seen,
        )
        found.loaded = self._read_loaded(found.pid)
        if found.pid is not None:
            found.interface = tinc.interface_right(overlay_files.value_of(conf_of(found), "interface") or NET, found.up)
            self._probe_missing(found)
        found.refused = self._probe.said
        self._look_at_change(found)
        return found

    def _look_at_change(self, found: OverlayFound) -> None:
        """A change that is under way or was undone, and how long it has been seen so."""
        text = self._text(changes.FILE)
        if text is None:
            self._change_since = ("", 0.0)
            return
        if self._change_since[0] != text:
            self._change_since = (text, time.monotonic())
        try:
            found.change = changes.parse(json.loads(text))
        except (ValueError, RecursionError):
            found.change = None
        found.age = time.monotonic() - self._change_since[1]

    def _text(self, name: str) -> "str | None":
        """The text of a file below /etc/tinc/confine, None if it is no file of a usable size."""
        path = os.path.join(self._etc, name)
        try:
            info = os.stat(path)
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            held = self._texts.get(name)
            if held is not None and held[0] == stamp:
                return held[1]
            if info.st_size > MAX_FILE:
                return None
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            self._texts.pop(name, None)
            return None
        self._texts[name] = (stamp, text)
        return text

    def _hosts(self) -> "dict[str, str]":
        try:
            names = sorted(os.listdir(os.path.join(self._etc, "hosts")))[:MAX_HOSTS]
        except OSError:
            return {}
        texts = {name: self._text("hosts/" + name) for name in names if is_name(name)}
        return {name: text for name, text in texts.items() if text is not None}

    def _own_key(self) -> "rsa.Numbers | None":
        """The public half of the node's key. None: absent, or cut off."""
        path = os.path.join(self._etc, tinc.KEY)
        try:
            info = os.stat(path)
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            if self._key[0] != stamp:
                with open(path, encoding="ascii", errors="replace") as file:
                    self._key = (stamp, tinc.usable_key(file.read(rsa.MAX_PEM)))
        except OSError:
            return None
        return self._key[1]

    def _read_loaded(self, pid: "int | None") -> "tuple[str, str] | None":
        try:
            with open(self._loaded, encoding="ascii") as file:
                words = file.read(128).split()
        except (OSError, ValueError):
            return None
        return (words[1], words[2]) if len(words) == 3 and words[0] == str(pid) else None

    def _probe_missing(self, found: OverlayFound) -> None:
        """Find out, now and then, why peers that should be connected are not."""
        missing = {}
        for name in overlay_files.values_of(conf_of(found), "connectto"):
            seen = found.peers.get(name)
            if name in found.hosts and (seen is None or not seen.up):
                lines = overlay_files.values_of(overlay_files.options(found.hosts[name]), "address")
                missing[name] = [tinc.address_of(line) for line in lines]
        self._probe.look(missing)

    # ---- steps ----------------------------------------------------------------------------------------------------

    def key(self, step: "Step") -> None:
        """Make the node's key, durably, in one piece; one that cannot be used is put aside."""
        path = os.path.join(self._etc, tinc.KEY)
        self._directories()
        if tinc.usable_key(made_key := tinc.make_key(self._etc)) is None:
            raise StepError("the key that tinc made for {} cannot be read".format(path))
        if os.path.lexists(path):
            durable.set_aside(path)
        durable.write_atomic(path, made_key.encode(), 0o600)

    def configure(self, step: "Step") -> None:
        """Write the files that do not say what they should, tinc.conf last: it is what names the others."""
        self._directories()
        found = self.observe()
        wished = self._wish(step.target, found)
        connected = changes.is_connected(found, overlay_files.values_of(conf_of(found), "connectto"))
        change = changes.begun(found, wished, connected, time.time())
        try:
            if change is not None:
                durable.write_json(os.path.join(self._etc, changes.FILE), change.as_doc())
            else:
                durable.remove(os.path.join(self._etc, changes.FILE))
            for path in sorted(wished.files, key=lambda path: (path == "tinc.conf", path)):
                self._put(path, wished.files[path])
            os.chmod(os.path.join(self._etc, tinc.KEY), 0o600)
            self._link_scripts(wished.watched, wished.name)
        except OSError as error:
            raise StepError("the overlay's files in {} cannot be written: {}".format(self._etc, error))

    def _last_load(self) -> float:
        """When tincd was last started or told to read its files, wall clock seconds; 0 if that is not known."""
        try:
            return os.stat(self._loaded).st_mtime
        except OSError:
            return 0.0

    def _put(self, path: str, content: "str | None") -> None:
        where = os.path.join(self._etc, path)
        if content is None:
            durable.remove(where)
        else:
            durable.write_atomic(where, content.encode(), 0o755 if path == "tinc-up" else 0o644)
            # tincd lets go of a connection whose file is newer than its last reload, by whole seconds, and the kernel's
            # clock for files is some milliseconds behind: the next second is newer for certain (see reload).
            following = int(time.time()) + 1
            os.utime(where, (following, following))

    def _newest(self) -> float:
        """Modification time of the file below hosts/ that was written last, wall clock seconds."""
        times = []
        for name in self._hosts():
            with contextlib.suppress(OSError):
                times.append(os.stat(os.path.join(self._etc, "hosts", name)).st_mtime)
        return max(times, default=0.0)

    def confirm(self, step: "Step") -> None:
        """The changed files stay."""
        durable.remove(os.path.join(self._etc, changes.FILE))

    def undo(self, step: "Step") -> None:
        """Put back what the files said before the change, and start tincd with it."""
        change = self.observe().change
        if change is None or change.state != changes.PENDING:
            return
        try:
            for path in sorted(change.before):
                self._put(path, change.before[path])
            change.state = changes.UNDONE
            durable.write_json(os.path.join(self._etc, changes.FILE), change.as_doc())
        except OSError as error:
            raise StepError("the overlay's files in {} cannot be put back: {}".format(self._etc, error))
        self.start(step)

    def _directories(self) -> None:
        try:
            durable.make_dir(os.path.join(self._etc, "hosts"), 0o755)
        except OSError as error:
            raise StepError("{}/hosts cannot be made: {}".format(self._etc, error))

    def _link_scripts(self, watched: "list[str]", own: str) -> None:
        """Each watched peer's scripts are links to ours; those of others are gone."""
        hosts = os.path.join(self._etc, "hosts")
        wanted = {name + ending for name in watched if name != own for ending in SCRIPTS}
        for name in os.listdir(hosts):
            path = os.path.join(hosts, name)
            if not name.endswith(SCRIPTS) or not os.path.islink(path):
                continue
            if name in wanted and os.readlink(path) == self._script:
                wanted.discard(name)
            elif os.path.basename(os.readlink(path)) == os.path.basename(self._script):
                os.unlink(path)
        for name in sorted(wanted):
            if not os.path.lexists(os.path.join(hosts, name)):
                os.symlink(self._script, os.path.join(hosts, name))

    def start(self, step: "Step") -> None:
        """Start tincd, anew if it runs. StepError if it does not run, or its interface is not as it should be."""
        verb = "start" if tinc.running(self._pid_file) is None else "restart"
        self._link_scripts_of(step.target)
        self._run_service(verb)
        deadline = time.monotonic() + UP_S
        while True:
            found = self.observe()
            if found.pid is not None and found.interface:
                break
            if time.monotonic() > deadline:
                what = "its interface is not as tinc-up should make it" if found.pid else "it ended by itself"
                raise StepError("tincd was started, but {}: see its messages in the system log".format(what))
            time.sleep(0.1)
        self._note_loaded(found)

    def _link_scripts_of(self, target: "OverlayTarget | None") -> None:
        found = self.observe()
        wished = self._wish(target, found)
        self._link_scripts(wished.watched, wished.name)

    def reload(self, step: "Step") -> None:
        """Have tincd take up changed peers; connections to unchanged ones stay."""
        self._link_scripts_of(step.target)
        found = self.observe()
        if found.pid is None:
            raise StepError("tincd does not run: it cannot be told of its new peers")
        ahead = self._newest() - time.time()
        if self._last_load() > time.time() or ahead > 1:
            self.start(step)  # the clock was put back: tincd would take files for old ones, or for new ones ever again
            return
        if ahead > -TICK_S:  # else the reload after this one would take the files for new once more
            time.sleep(ahead + TICK_S)
        os.kill(found.pid, signal.SIGHUP)
        self._note_loaded(found)

    def stop(self, step: "Step") -> None:
        """Stop tincd; what it told is gone with it."""
        import shutil  # lazy: memory of the daemon's

        self._run_service("stop")
        shutil.rmtree(self._seen, ignore_errors=True)
        for path in (self._loaded, self._pid_file):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _wish(self, target: "OverlayTarget | None", found: OverlayFound) -> rules.OverlayWish:
        try:
            return rules.wish(target, found, self._settings)
        except ValueError as error:
            raise StepError(str(error))

    def _note_loaded(self, found: OverlayFound) -> None:
        text = " ".join([str(found.pid), *rules.fingerprints(found)])
        with open(self._loaded, "w", encoding="ascii") as file:
            file.write(text + "\n")

    def _run_service(self, verb: str) -> None:
        try:
            done = subprocess.run(
                [*self._service, verb], stdin=subprocess.DEVNULL, capture_output=True, timeout=SERVICE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StepError("{} {} failed: {}".format(self._service[0], verb, error))
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())
            raise StepError("{} {} failed (status {}): {}".format(self._service[0], verb, done.returncode, said))


def conf_of(found: OverlayFound) -> "overlay_files.Options":
    """The options of tinc.conf as it is."""
    return overlay_files.options(found.conf or "")
