"""What upgrades have to know of this node: its board, slots, memory, keys, and what was decided about upgrades."""

import fcntl
import os
import time

from confine import durable
from confine.clock import ntp_date
from confine.upgrade import bundle, history, keyring
from confine.upgrade.errors import UpgradeError
from confine.upgrade.kexec import can_kexec
from confine.upgrade.keyring import Keyring, Trust
from confine.upgrade.manifest import Manifest, canonical, seconds
from confine.upgrade.signatures import BundleError
from confine.upgrade.slots import Slots, other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths

# Written by whoever makes an image; on others OpenWrt's own name of the board.
BOARD_FILES = ("usr/lib/confine/share/board", "tmp/sysinfo/board_name")
WATCHDOGS = "sys/class/watchdog"
SOFTDOG = "Software Watchdog"
FAILED, CONFIRMED = "failed", "confirmed"  # how a trial ends, in the history
SIGNATURES = "signatures"
MAX_DEFER_DAYS = 90
BUNDLE = "bundle"


class Running:
    """What runs: version (None where no label says it), epoch, order as of Manifest."""

    def __init__(self, label: "dict[str, Any] | None") -> None:
        label = label or {}
        self.version: "str | None" = label.get("version")
        self.epoch: int = label.get("epoch") or 0
        try:
            self.order = (self.epoch, seconds(str(label.get("published"))))
        except ValueError:
            self.order = (self.epoch, 0)


class Node:
    """This node. root: "/", but for tests. slots: None takes those of this machine."""

    def __init__(self, paths: "Paths", settings: "Settings", slots: "Slots | None" = None, root: str = "/") -> None:
        self.paths = paths
        self.settings = settings
        self.slots = slots or Slots()
        self._root = root

    @property
    def own(self) -> str:
        """What tells this node from others."""
        return str(self.settings.node_id or os.uname().nodename)

    def board(self) -> str:
        """The name of its kind of machine. UpgradeError if nothing says it."""
        for name in BOARD_FILES:
            text = self._text(name)
            if text:
                return text.replace(",", "_")
        raise UpgradeError("nothing says what board this is: put its name into /" + BOARD_FILES[0])

    def memory_mib(self) -> int:
        """All of its memory."""
        for line in self._text("proc/meminfo").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) // 1024
        return 0

    def watched(self) -> bool:
        """Whether a watchdog in hardware, one that outlives the kernel, guards a trial here: one that the boot loader
        starts is guarded by nothing until it is up."""
        if not can_kexec(self.paths, os.path.join(self._root, "sys")):
            return False
        directory = os.path.join(self._root, WATCHDOGS)
        try:
            names = os.listdir(directory)
        except OSError:
            return False
        return any(self._text(os.path.join(WATCHDOGS, name, "identity")) not in ("", SOFTDOG) for name in names)

    def running(self) -> Running:
        """What runs now."""
        slot = self.slots.running
        return Running(self.slots.label(slot) if slot else None)

    def free_slot(self) -> str:
        """The slot an upgrade is written to. UpgradeError if none runs that it would be the other of."""
        slot = self.slots.running
        if slot is None:
            slot = self.slots.backend.confirmed()
        if slot is None:
            raise UpgradeError("neither a running nor a confirmed slot is known: write the pointer first")
        return other(slot)

    def trust(self) -> Trust:
        """What it learned of keys. The floor of epochs is brought up to what is confirmed."""
        trust = Trust(os.path.join(self.paths.upgrade, "trust.json"))
        confirmed = self.slots.backend.confirmed()
        label = self.slots.label(confirmed) if confirmed else None
        if label is not None and isinstance(label.get("epoch"), int):
            trust.raise_floor(label["epoch"])
        return trust

    def accept(self, found: "bundle.Bundle") -> "tuple[Manifest, list[str]]":
        """The verified manifest of a bundle and who vouches for it; what it says of keys is learned. BundleError if
        they are too few."""
        trust = self.trust()
        shipped = keyring.load(self.settings.upgrade_keyring)
        keys = Keyring(shipped, trust)
        manifest, signers = bundle.verified(found, keys, keyring.clock(trust))
        keys.check_left(manifest)
        trust.learn(manifest, keys.serial)
        return manifest, signers

    def verify_label(self, label: "dict[str, Any]") -> Manifest:
        """The manifest of a written slot, verified anew by the keys that hold now. BundleError if they are too few."""
        doc = {name: value for name, value in label.items() if name not in (SIGNATURES, BUNDLE)}
        trust = self.trust()
        keys = Keyring(keyring.load(self.settings.upgrade_keyring), trust)
        raw = canonical(doc)
        keys.verify(raw, [str(text) for text in label.get(SIGNATURES, [])], keyring.clock(trust))
        return Manifest(raw)

    def check_fits(self, manifest: Manifest) -> None:
        """BundleError if this bundle is not for this node as it is: board, epoch, what it needs."""
        board, running = self.board(), self.running()
        if manifest.board != board:
            raise BundleError("the bundle is for the board {}, this is a {}".format(manifest.board, board))
        floor = max(self.trust().epoch, running.epoch)
        if manifest.epoch < floor:
            raise BundleError("the bundle's epoch {} is older than {}, below which this node takes nothing: what it "
                              "mends would come back".format(manifest.epoch, floor))  # fmt: skip
        if running.epoch < manifest.needs["epoch"]:
            raise BundleError("the bundle can be installed from epoch {} on, this is {}: take one in between".format(
                manifest.needs["epoch"], running.epoch))  # fmt: skip
        if self.memory_mib() < manifest.needs["memory_mib"]:
            raise BundleError("the bundle needs {} MiB of memory, this node has {}".format(
                manifest.needs["memory_mib"], self.memory_mib()))  # fmt: skip

    def has_failed(self, manifest_id: str) -> bool:
        """Whether the last trial of this bundle here did not hold."""
        for event in reversed(history.read(paths=self.paths)):
            if event.get(BUNDLE) == manifest_id and event.get("event") in (FAILED, CONFIRMED):
                return bool(event["event"] == FAILED)
        return False

    # ---- decisions --------------------------------------------------------------------------------------------------

    def deferred_until(self) -> "float | None":
        """Until when (seconds since 1970) the node's manager wants no upgrade to begin by itself."""
        try:
            doc = durable.read_json(self._deferral)
        except (OSError, ValueError):
            return None
        until = doc.get("until") if isinstance(doc, dict) else None
        now = time.time()
        # One that lies further ahead than any could be set was set by a clock that was wrong.
        return float(until) if isinstance(until, int) and now < until <= now + (MAX_DEFER_DAYS + 1) * 86400 else None

    def defer(self, days: int) -> None:
        """Let no upgrade begin by itself for `days`; 0 ends that."""
        if days:
            durable.make_dir(self.paths.upgrade)
            durable.write_json(self._deferral, {"until": int(time.time()) + days * 86400})
        else:
            durable.remove(self._deferral)

    @property
    def _deferral(self) -> str:
        return os.path.join(self.paths.upgrade, "defer.json")

    # ---- one at a time ----------------------------------------------------------------------------------------------

    def lock(self) -> int:
        """Held by whoever fetches and writes; goes with the process. UpgradeError if somebody does."""
        held = self._try_lock()
        if held is None:
            raise UpgradeError("another upgrade is under way: `confine upgrade status` shows how far it is")
        return held

    def is_locked(self) -> bool:
        """Whether an upgrade is under way."""
        held = self._try_lock()
        if held is not None:
            os.close(held)
        return held is None

    def _try_lock(self) -> "int | None":
        os.makedirs(self.paths.run, mode=0o700, exist_ok=True)
        path = os.path.join(self.paths.run, "upgrade.run")
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            return None
        return held

    def clock(self) -> "tuple[float | None, int | None]":
        """(wall clock, local hour), both None where the clock is not confirmed."""
        if ntp_date() is None:
            return None, None
        now = time.time()
        return now, time.localtime(now).tm_hour

    def _text(self, name: str) -> str:
        try:
            with open(os.path.join(self._root, name), encoding="utf-8", errors="replace") as file:
                return file.read(65536).strip()
        except OSError:
            return ""
