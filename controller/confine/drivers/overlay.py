"""The tinc overlay on the node: its files below /etc/tinc/confine/, its daemon, and what that says of its peers.

tincd is kept running by the init script confine-overlay. It calls hosts/NAME-up and -down (links to
share/overlay-peer) when a peer comes and goes; they leave a file in /run/confine/overlay/ for each. So everything is
observed by reading a few small files, with tinc 1.0 and 1.1 alike, and an idle round starts nothing.
"""

import os
import shutil
import signal
import subprocess
import time

from confine import durable
from confine.core import overlay as rules
from confine.core import overlay_files, rsa
from confine.core.overlay import OverlayFound, PeerSeen
from confine.core.overlay_documents import is_name
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
KEY_BITS = 2048
KEY_S = 300.0
SERVICE_S = 60
UP_S = 30.0
MAX_FILE = 65536
MAX_HOSTS = 1024
IFF_UP = 1
KEY = "rsa_key.priv"
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

    # ---- looking --------------------------------------------------------------------------------------------------

    def observe(self) -> OverlayFound:
        """What is there now. Starts no process, writes nothing; unchanged files are not read again."""
        hosts = self._hosts()
        found = OverlayFound(
            conf=self._text("tinc.conf"),
            up=self._text("tinc-up"),
            hosts=hosts,
            key=self._own_key(),
            pid=self._pid(),
            peers=self._peers(),
            program=shutil.which("tincd") is not None,
            seen=self._seen,
        )
        found.loaded = self._read_loaded(found.pid)
        if found.pid is not None:
            found.interface = self._interface_right(found)
            self._probe_missing(found)
        found.refused = self._probe.said
        return found

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
        """The public half of the node's key. None: absent, cut off, or open to others' eyes and not to be mended."""
        path = os.path.join(self._etc, KEY)
        try:
            info = os.stat(path)
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            if self._key[0] != stamp:
                with open(path, encoding="ascii", errors="replace") as file:
                    self._key = (stamp, usable_key(file.read(MAX_FILE)))
        except OSError:
            return None
        return self._key[1]

    def _pid(self) -> "int | None":
        """The tincd of our pid file, if that process is one."""
        try:
            with open(self._pid_file, encoding="ascii") as file:
                pid = int(file.read(64).split()[0])  # 1.1 writes its control cookie behind it
            with open("/proc/{}/stat".format(pid), encoding="ascii", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
        except (OSError, ValueError, IndexError):
            return None
        return pid if name == "tincd" and rest.split()[0] not in ("Z", "X") else None

    def _read_loaded(self, pid: "int | None") -> "tuple[str, str] | None":
        try:
            with open(self._loaded, encoding="ascii") as file:
                words = file.read(128).split()
        except (OSError, ValueError):
            return None
        return (words[1], words[2]) if len(words) == 3 and words[0] == str(pid) else None

    def _peers(self) -> "dict[str, PeerSeen]":
        """What the scripts left: a file for each peer, "up ADDRESS" or "down", as old as that."""
        found = {}
        try:
            with os.scandir(self._seen) as entries:
                for entry in entries:
                    if is_name(entry.name):
                        with open(entry.path, encoding="ascii", errors="replace") as file:
                            words = file.read(128).split()
                        if words:
                            found[entry.name] = PeerSeen(words[0] == "up", entry.stat().st_mtime, " ".join(words[1:]))
        except OSError:
            pass
        return found

    def _interface_right(self, found: OverlayFound) -> bool:
        """Whether tincd's interface is up, with the MTU and the address that tinc-up gives it."""
        conf = overlay_files.options(found.conf or "")
        base = "/sys/class/net/" + (overlay_files.value_of(conf, "interface") or NET)
        try:
            with open(base + "/flags", encoding="ascii") as file:
                up = int(file.read(), 16) & IFF_UP
            with open(base + "/mtu", encoding="ascii") as file:
                mtu = int(file.read())
            with open("/proc/net/if_inet6", encoding="ascii") as file:
                addresses = [line.split() for line in file]
        except (OSError, ValueError):
            return False
        name = os.path.basename(base)
        there = [words[0] for words in addresses if len(words) == 6 and words[5] == name and words[2] == "30"]
        wanted = [line.split()[4].partition("/")[0] for line in (found.up or "").splitlines() if "replace" in line]
        return bool(up) and mtu == overlay_files.MTU and all(packed(address) in there for address in wanted)

    def _probe_missing(self, found: OverlayFound) -> None:
        """Find out, now and then, why peers that should be connected are not."""
        missing = {}
        for name in overlay_files.values_of(overlay_files.options(found.conf or ""), "connectto"):
            seen = found.peers.get(name)
            if name in found.hosts and (seen is None or not seen.up):
                lines = overlay_files.values_of(overlay_files.options(found.hosts[name]), "address")
                missing[name] = [address_of(line) for line in lines]
        self._probe.look(missing)

    # ---- steps ----------------------------------------------------------------------------------------------------

    def key(self, step: "Step") -> None:
        """Make the node's key, durably, in one piece; one that cannot be used is put aside."""
        path = os.path.join(self._etc, KEY)
        self._directories()
        if usable_key(made_key := make_key(self._etc)) is None:
            raise StepError("the key that tinc made for {} cannot be read".format(path))
        if os.path.lexists(path):
            durable.set_aside(path)
        durable.write_atomic(path, made_key.encode(), 0o600)

    def configure(self, step: "Step") -> None:
        """Write the files that do not say what they should, tinc.conf last: it is what names the others."""
        self._directories()
        found = self.observe()
        wished = self._wish(step.target, found)
        try:
            for path in sorted(wished.files, key=lambda path: (path == "tinc.conf", path)):
                content = wished.files[path]
                where = os.path.join(self._etc, path)
                if content is None:
                    durable.remove(where)
                else:
                    durable.write_atomic(where, content.encode(), 0o755 if path == "tinc-up" else 0o644)
            os.chmod(os.path.join(self._etc, KEY), 0o600)
            self._link_scripts(wished.watched, wished.name)
        except OSError as error:
            raise StepError("the overlay's files in {} cannot be written: {}".format(self._etc, error))

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
        verb = "start" if self._pid() is None else "restart"
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
        os.kill(found.pid, signal.SIGHUP)
        self._note_loaded(found)

    def stop(self, step: "Step") -> None:
        """Stop tincd."""
        self._run_service("stop")

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


def usable_key(text: str) -> "rsa.Numbers | None":
    """The public numbers of a whole private key, else None."""
    try:
        return rsa.numbers(text, rsa.PRIVATE)
    except ValueError:
        return None


def packed(address: str) -> str:
    """An IPv6 address as /proc/net/if_inet6 has it."""
    import socket

    try:
        return socket.inet_pton(socket.AF_INET6, address).hex()
    except OSError:
        return address


def address_of(line: str) -> "tuple[str, int]":
    """(host, port) of the value of an Address line."""
    words = line.split()
    port = int(words[1]) if len(words) > 1 and words[1].isdigit() else 655
    return words[0], port


def make_key(etc: str) -> str:
    """A new private key, made by tinc itself (1.1 by its program tinc, 1.0 by tincd) in a directory of its own."""
    scratch = os.path.join(etc, durable.TEMPORARY + "key")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        os.mkdir(scratch, 0o700)
        os.mkdir(os.path.join(scratch, "hosts"), 0o700)
        with open(os.path.join(scratch, "tinc.conf"), "w", encoding="ascii") as file:
            file.write("Name = new\n")
        if shutil.which("tinc") is not None:
            command = ["tinc", "-b", "-c", scratch, "generate-rsa-keys", str(KEY_BITS)]
        else:
            command = ["tincd", "-c", scratch, "-K{}".format(KEY_BITS)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KEY_S, check=False)
        with open(os.path.join(scratch, KEY), encoding="ascii") as file:
            return file.read()
    except FileNotFoundError as error:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:] if "done" in locals() else str(error)
        raise StepError("tinc made no key: " + said)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError("no key can be made in {}: {}".format(etc, error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
