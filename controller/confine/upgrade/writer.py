"""Writes a bundle's parts into the slot that does not run.

    with writer.open("b", manifest) as sink:
        sink.write("kernel", data)      # in any portions, part after part or in turns
        sink.write("root", data)
        sink.finish()                   # all on the medium, read back and compared: the slot is whole

Before the first byte the slot is taken from the boot loader and loses its label; finish() gives the label back, not
the trust: only a trial that passes its gate does. Left without finish(), the slot stays one that nothing starts.

manifest: {"version": text, "epoch": number, "board": text, "parts": {"kernel"|"root": {"size": bytes,
"sha256": hex}}, ...}; whatever else it says is kept in the label, which has room for 63 KiB.
"""

import fcntl
import hashlib
import os

from confine.upgrade import overlay
from confine.upgrade.disk import KERNEL, MIB, PARTS, ROOT, sha256_on_disk, write_all
from confine.upgrade.errors import UpgradeError
from confine.upgrade.slots import Slots
from upgrade import label

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOCK = "/run/confine/upgrade.lock"
_FLUSH_EVERY = 8 * MIB


def open(slot: str, manifest: "dict[str, Any]", slots: "Slots | None" = None, lock: str = LOCK) -> "Sink":
    """Begin to write `slot`. UpgradeError if it must not be written, another upgrade is under way, or the parts do not
    fit; then nothing was changed."""
    slots = slots or Slots()
    held = hold(lock)
    try:
        slots.check_free(slot)
        parts = _checked_parts(slot, manifest, slots)
        slots.backend.forbid(slot)
        slots.clear_label(slot)
        return Sink(slot, manifest, parts, slots, held)
    except BaseException:
        os.close(held)
        raise


class Sink:
    """Takes the parts' bytes. Use as a context manager, or call close()."""

    def __init__(
        self, slot: str, manifest: "dict[str, Any]", parts: "dict[str, tuple[int, str]]", slots: Slots, held: int
    ) -> None:
        self._slot = slot
        self._manifest = manifest
        self._slots = slots
        self._held = held
        self._parts = {name: _Part(slots, slot, name, size, sha256) for name, (size, sha256) in parts.items()}

    def write(self, part: str, data: "bytes | memoryview") -> None:
        """The next bytes of `part`. UpgradeError if the manifest names no such part or it has no more bytes."""
        if part not in self._parts:
            raise UpgradeError("the manifest names no part {!r}: nothing of it is written".format(part))
        self._parts[part].write(data)

    def finish(self) -> None:
        """All parts are there: compare them with the manifest, bring them onto the medium, read them back.

        UpgradeError: the slot stays one that nothing starts.
        """
        for part in self._parts.values():
            part.finish()
        for part in self._parts.values():
            part.read_back()
        overlay.clear(self._slots.disk, self._slot)
        self._slots.write_label(self._slot, self._manifest)
        if self._slots.label(self._slot) is None:
            raise UpgradeError("the label of slot {} does not read back: replace the disk".format(self._slot))

    def close(self) -> None:
        """Let go of the slot. Without finish() it stays one that nothing starts."""
        for part in self._parts.values():
            part.close()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Part:
    """One part on its way into its partition."""

    def __init__(self, slots: Slots, slot: str, name: str, size: int, sha256: str) -> None:
        self._disk = slots.disk
        self._name = name + "-" + slot
        self._part = name
        self._size = size
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._at = 0
        self._told = 0
        self._fd = slots.disk.open(self._name, os.O_RDWR)

    def write(self, data: "bytes | memoryview") -> None:
        if self._at + len(data) > self._size:
            raise UpgradeError("part {} has more than the {} bytes of its manifest".format(self._part, self._size))
        write_all(self._fd, data, self._at)
        self._digest.update(data)
        self._at += len(data)
        if self._at - self._told >= _FLUSH_EVERY:
            # Begin to write it out, so that the memory it takes stays small; nothing is waited for.
            os.posix_fadvise(self._fd, 0, self._at, os.POSIX_FADV_DONTNEED)
            self._told = self._at

    def finish(self) -> None:
        if self._at != self._size:
            raise UpgradeError("part {} ends at {} of {} bytes".format(self._part, self._at, self._size))
        found = self._digest.hexdigest()
        if found != self._sha256:
            raise UpgradeError("part {} has sha256 {}, its manifest says {}".format(self._part, found, self._sha256))
        os.fsync(self._fd)

    def read_back(self) -> None:
        self.close()
        found = sha256_on_disk(self._disk, self._name, self._size)
        if found != self._sha256:
            raise UpgradeError(
                "partition {} gives back other bytes than were written (sha256 {}): replace the disk".format(
                    self._name, found
                )
            )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check(slot: str, slots: Slots) -> "dict[str, Any]":
    """Read all of `slot` from the medium and compare it with its label; the label. UpgradeError says what is wrong."""
    manifest = slots.label(slot)
    if manifest is None:
        raise UpgradeError("slot {} holds no whole system: install a bundle first".format(slot))
    for name, (size, sha256) in _checked_parts(slot, manifest, slots).items():
        found = sha256_on_disk(slots.disk, name + "-" + slot, size)
        if found != sha256:
            raise UpgradeError(
                "partition {}-{} has changed since it was written (sha256 {} instead of {}): install the bundle "
                "again; if that happens again, replace the disk".format(name, slot, found, sha256)
            )
    return manifest


def _checked_parts(slot: str, manifest: "dict[str, Any]", slots: Slots) -> "dict[str, tuple[int, str]]":
    """Size and sha256 of each part. UpgradeError if one is missing, unknown or does not fit."""
    given = manifest.get("parts")
    if not isinstance(given, dict) or sorted(given) != sorted(PARTS):
        raise UpgradeError("the manifest must name the parts {}: {!r}".format(" and ".join(PARTS), given))
    room = {KERNEL: label.SIZE, ROOT: overlay.MINIMUM}
    parts = {}
    for name in PARTS:
        size, sha256 = given[name].get("size"), given[name].get("sha256")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1 or not isinstance(sha256, str):
            raise UpgradeError("part {} must have a size and a sha256: {!r}".format(name, given[name]))
        there = slots.disk.size(name + "-" + slot) - room[name]
        if size > there:
            raise UpgradeError("part {} has {} bytes, partition {}-{} takes {}".format(name, size, name, slot, there))
        parts[name] = (size, sha256)
    try:
        label.make(manifest)
    except (TypeError, ValueError) as error:
        raise UpgradeError("the manifest cannot be kept in the slot: {}".format(error))
    return parts


def hold(path: str) -> int:
    """Held by whoever upgrades; goes with the process. UpgradeError if somebody does."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise UpgradeError("another upgrade is under way: wait for its end (`confine upgrade status`)")
    return held
