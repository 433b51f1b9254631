"""The node's network in UCI: sections of ours written, applied, and undone if they cut the node off.

What there should be is core/network.py's to say, what to do core/network_change.py's. Here: the files, the kernel, the
record of the change under way. Its order is what survives a power cut at any point:

    configure   record "written" → sections → reload → record "applied"
    confirm     record removed
    undo        sections put back → reload → record "undone"

Who answered before the change must answer after it: drivers/witnesses.py asks them.
"""

import os
import subprocess
import time

from confine import durable
from confine.core import network, network_change
from confine.core.network import INTERNAL, Device, NetworkFacts
from confine.core.network_change import APPLIED, MOST_CUTS, RETRY_S, UNDONE, WRITTEN, NetworkObserved
from confine.core.network_zones import LOCAL
from confine.drivers import cgroups, rtnetlink, uci
from confine.drivers.witnesses import Witnesses, is_up
from confine.errors import SettingsError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Step
    from confine.core.settings import Settings
    from confine.paths import Paths
    from confine.reader import Reader

RECORD = "network-change.json"
RELOAD_S = 30
COME_UP_S = 15.0
POLL_S = 0.1
# What has to be told of a change of which package, where it is there.
FOLLOWERS = {"firewall": "/etc/init.d/firewall", "dhcp": "/etc/init.d/dnsmasq"}
RELOADING = ("network", "firewall", "dhcp")  # in this order
SLIVERS = ("slv-", "iso-")  # what the names of slivers' own devices begin with


class Network:
    """Steps `network configure`, `confirm` and `undo`, and what they go by. reader: who reads the registry, or None."""

    def __init__(self, paths: "Paths", settings: "Settings", reader: "Reader | None" = None) -> None:
        self._paths = paths
        self._settings = settings
        self._reader = reader
        self._files: dict[str, tuple[Any, Any]] = {}  # {package: (stamp, sections or text of the error)}
        self._witnesses = Witnesses(paths, settings, reader)

    # ---- observation ---------------------------------------------------------------------------------------------

    def observe(self) -> NetworkObserved:
        """What there is. Starts no process, writes no file; unchanged files are not parsed again."""
        change = self.record()
        reader = self._reader
        observed = NetworkObserved(self._facts(), change)
        observed.ready = reader is None or reader.read_at is not None or reader.error is not None
        if change is None:
            return observed
        if change["state"] == APPLIED:
            observed.remaining_s = self._remaining(change)
            observed.lost = self._witnesses.lost(change["before"])
        elif change["state"] == UNDONE:
            aged = not 0 <= time.time() - change["when"] < RETRY_S
            observed.retry = aged or 1 <= change["cut"] <= MOST_CUTS
        return observed

    def changing(self) -> bool:
        """Whether a change waits to be confirmed: somebody should look again soon."""
        return os.path.exists(self._record_path()) and (self.record() or {}).get("state") in (WRITTEN, APPLIED)

    def record(self) -> "dict[str, Any] | None":
        """The change under way or undone, as it lies on disk; None if there is none that can be used."""
        return read_record(self._record_path())

    def _record_path(self) -> str:
        return os.path.join(self._paths.etc, RECORD)

    def _facts(self) -> NetworkFacts:
        files, broken = {}, {}
        for package in network.PACKAGES:
            found = self._package(package)
            if isinstance(found, str):
                broken[package] = found
            elif found is not None:
                files[package] = found
        uplinks = sorted({device for _, device, _ in rtnetlink.default_routes()})
        return NetworkFacts(devices(), rtnetlink.addresses(), uplinks, files, broken)

    def _package(self, package: str) -> "Any":
        """Sections, or why the file cannot be read; None if there is no such file."""
        stamp = uci.stamp(package, self._paths.uci)
        if stamp is None:
            return None
        known = self._files.get(package)
        if known is None or known[0] != stamp:
            try:
                known = (stamp, uci.load(package, self._paths.uci))
            except SettingsError as error:
                known = (stamp, str(error))
            self._files[package] = known
        return known[1]

    def _remaining(self, change: "dict[str, Any]") -> float:
        if change["boot"] != boot_id():
            return 0.0
        return float(change["at"]) + self._settings.network_confirm_s - time.clock_gettime(time.CLOCK_BOOTTIME)

    # ---- steps ---------------------------------------------------------------------------------------------------

    def configure(self, step: "Step") -> None:
        """Write the sections of `step.target` and have them applied; the record says how to undo it."""
        wanted: dict[str, Any] = step.target or {}
        files = self._facts().files
        former = self.record() or {}
        before = network_change.without_overlay(self._witnesses.before(), files, wanted, self._settings)
        record = {
            "state": WRITTEN, "boot": boot_id(), "at": time.clock_gettime(time.CLOCK_BOOTTIME), "when": time.time(),
            "wanted": wanted, "previous": network_change.previous(files, wanted), "before": before,
            "reason": "", "cut": former.get("cut", 0) if former.get("wanted") == wanted else 0,
        }  # fmt: skip
        try:
            durable.make_dir(self._paths.etc, 0o755)
            durable.write_json(self._record_path(), record)
            write_sections(files, wanted, self._paths.uci)
            reload_followers(wanted)
            self._wait_for_devices(wanted)
            record["state"] = APPLIED
            self._witnesses.forget()
            durable.write_json(self._record_path(), record)
        except (SettingsError, OSError) as error:
            raise StepError("the network could not be changed: {}".format(error))

    def confirm(self, step: "Step") -> None:
        """The change holds."""
        self._remove_record()

    def undo(self, step: "Step") -> None:
        """Put the sections back as they were, have that applied, and keep why."""
        record = self.record()
        if record is None:
            return
        try:
            restore(record, self._paths.uci, reload_followers)
            cut = record["cut"] + 1 if record["state"] == WRITTEN or record["boot"] != boot_id() else 0
            record.update(state=UNDONE, when=time.time(), reason=step.why, cut=cut)
            durable.write_json(self._record_path(), record)
            self._witnesses.forget()
        except (SettingsError, OSError) as error:
            raise StepError("the change of the network could not be undone: {}".format(error))

    def forget(self) -> None:
        """Somebody asked: a change that was undone may be tried again."""
        if (self.record() or {}).get("state") == UNDONE:
            self._remove_record()

    def _remove_record(self) -> None:
        try:
            durable.remove(self._record_path())
        except OSError as error:
            raise StepError("{} cannot be removed: {}".format(self._record_path(), error))

    def _wait_for_devices(self, wanted: "dict[str, Any]") -> None:
        """Until the devices of the sections written are up: others go on from there. Not coming up is no failure."""
        names = {str(section.get("device")) for section in (wanted.get("network") or {}).values()
                 if section and section.get("device")}  # fmt: skip
        there = {*devices(), INTERNAL, LOCAL}
        names = {name for name in names if name.rpartition(".")[0] in there or name in there}
        deadline = time.monotonic() + COME_UP_S
        while time.monotonic() < deadline and not all(is_up(name) for name in names):
            time.sleep(POLL_S)


def read_record(path: str) -> "dict[str, Any] | None":
    """A change under way or undone. What cannot be used is as good as none: nothing is known that could be undone."""
    try:
        doc = durable.read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(doc, dict) or doc.get("state") not in (WRITTEN, APPLIED, UNDONE):
        return None
    kinds: dict[str, Any] = {"wanted": dict, "before": dict, "at": (int, float), "when": (int, float),
             "boot": str, "reason": str, "cut": int}  # fmt: skip
    sound = all(isinstance(doc.get(member), kind) for member, kind in kinds.items())
    return doc if sound and _is_change(doc.get("previous")) else None


def _is_change(doc: object) -> bool:
    """Whether `doc` is {package: {section: {".type": text, ...} or None}}."""
    if not isinstance(doc, dict) or not set(doc) <= set(network.PACKAGES):
        return False
    parts = [sections.values() if isinstance(sections, dict) else [0] for sections in doc.values()]
    every = [section for sections in parts for section in sections]
    return all(one is None or (isinstance(one, dict) and isinstance(one.get(".type"), str)) for one in every)


def write_sections(files: "dict[str, Any]", wanted: "dict[str, Any]", directory: str) -> None:
    """Make our sections in the files what `wanted` says, only those that are not. SettingsError."""
    for package, sections in network_change.remaining(files, wanted).items():
        uci.change(package, sections, directory)


def restore(record: "dict[str, Any]", directory: str, then: "Any" = None) -> None:
    """Put the sections of a change back. then(sections): called when they are. SettingsError."""
    there = {name: part for name, part in record["previous"].items() if uci.stamp(name, directory) is not None}
    write_sections({package: uci.load(package, directory) for package in there}, there, directory)
    if then is not None:
        then(there)


def reload_followers(changed: "dict[str, Any]") -> None:
    """Have the network, firewall and resolver take over what changed. StepError if the network's reload cannot be
    started; what became of it is looked for in the kernel, for netifd's reload always says that it went well."""
    for package in RELOADING:
        if package not in changed:
            continue
        command = [FOLLOWERS.get(package, ""), "reload"]
        if package == "network":
            import shutil  # lazy: memory of the daemon's

            by_ubus = shutil.which("ubus") is not None
            command = ["ubus", "call", "network", "reload"] if by_ubus else ["/etc/init.d/network", "reload"]
        elif not os.path.exists(command[0]):
            continue
        _run(command)


def _run(command: "list[str]") -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RELOAD_S, check=False, close_fds=True
        )
    except OSError as error:
        raise StepError("{} cannot be started: {}".format(command[0], error.strerror))
    except subprocess.TimeoutExpired:
        raise StepError("{} did not end within {} s".format(" ".join(command), RELOAD_S))
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise StepError("{} failed (status {}): {}".format(" ".join(command), done.returncode, said))


def devices() -> "dict[str, Device]":
    """All network devices but slivers' own."""
    base = "/sys/class/net/"
    try:
        names = os.listdir(base)
    except OSError:
        return {}
    return {name: _device(base + name) for name in sorted(names) if not name.startswith(SLIVERS)}


def _device(path: str) -> Device:
    kind = network.BRIDGE if os.path.isdir(path + "/bridge") else network.OTHER
    if kind == network.OTHER and os.path.exists("/proc/net/vlan/" + os.path.basename(path)):
        kind = network.VLAN
    try:
        master = os.path.basename(os.readlink(path + "/master"))
    except OSError:
        master = None
    up = is_up(os.path.basename(path))
    # The kernel refuses to say it of a device that is down.
    return Device(kind, master, cgroups.read(path + "/address") or None, up, cgroups.read(path + "/carrier") == "1")


def boot_id() -> str:
    """Differs after each start of the kernel."""
    return cgroups.read("/proc/sys/kernel/random/boot_id") or ""
