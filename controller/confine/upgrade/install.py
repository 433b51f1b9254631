"""From a bundle to a written slot: verified, fetched if it has to be, written, read back.

Order: signatures; what they say of keys is kept; does it fit this node; all parts here (the other slot is still a way
back); only then the slot is written. A cut at any time leaves what runs as it is, and loses at most the last chunk.
"""

import json
import os
import time

from confine.upgrade import bundle, history, writer
from confine.upgrade.chunks import Seed
from confine.upgrade.errors import UpgradeError
from confine.upgrade.mirrors import Mirrors, Web
from confine.upgrade.node import BUNDLE, SIGNATURES, Node
from confine.upgrade.schedule import Rate, within
from confine.upgrade.signatures import BundleError, counted
from confine.upgrade.staging import Staging, check_parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from confine.upgrade.bundle import Bundle
    from confine.upgrade.manifest import Manifest

TELL_EVERY_S = 0.5
FETCHING, WRITING, READING_BACK = "fetching", "writing", "reading back"


class Paused(UpgradeError):
    """Not now; what came is kept, and it goes on by itself."""


class Report:
    """Tells how far an upgrade is: to `show` (doc), and in a file in memory that `status` reads."""

    def __init__(self, path: str, show: "Callable[[dict[str, Any]], None] | None" = None) -> None:
        self._path = path
        self._show = show
        self._last = 0.0
        self.doc: "dict[str, Any]" = {"state": "checking", "version": None, "part": None, "done": 0, "total": 0}

    def state(self, state: str, version: "str | None" = None) -> None:
        """A new step."""
        self.doc.update(state=state, part=None, done=0, total=0, pid=os.getpid())
        if version is not None:
            self.doc["version"] = version
        self._tell()

    def progress(self, part: str, done: int, total: int) -> None:
        """Bytes of a part."""
        new = part != self.doc["part"]
        self.doc.update(part=part, done=done, total=total)
        if new or done == total or time.monotonic() - self._last >= TELL_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        if self._show is not None:
            self._show(self.doc)
        temporary = self._path + ".new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(self.doc, file)
            os.rename(temporary, self._path)
        except OSError:
            pass  # it goes on all the same


def report_path(run: str) -> str:
    """Where `Report` writes."""
    return os.path.join(run, "upgrade.json")


class Installer:
    """One installation at a time. auto: heeds the node's hours and deferral while it fetches."""

    def __init__(self, node: Node, report: Report, auto: bool = False, web: "Web | None" = None) -> None:
        self._node = node
        self._report = report
        self._auto = auto
        self._web = web or Web()

    def install(self, source: str) -> "tuple[Manifest, str]":
        """Write the bundle `source` to the free slot; its manifest and the slot. source: a file; the URI of a packed
        bundle or of a head; a version that the mirrors have, or "latest".

        UpgradeError says why not; it is in the history, too, unless nothing vouches for the bundle.
        """
        held = self._node.lock()
        try:
            self._report.state("checking")
            return self._installed(source)
        finally:
            self._report.state("idle")
            os.close(held)
            self._web.close()

    def _installed(self, source: str) -> "tuple[Manifest, str]":
        found, mirrors = self._open(source)
        manifest, signers = self._node.accept(found)
        event: "dict[str, Any]" = {"version": manifest.version, "epoch": manifest.epoch, BUNDLE: manifest.id}
        event["by"] = "schedule" if self._auto else "hand"
        signatures = counted(found.signatures, signers)
        try:
            self._node.check_fits(manifest)
            slot = self._node.free_slot()
            event["slot"] = slot
            if (self._node.slots.label(slot) or {}).get(BUNDLE) == manifest.id and self._reads_back(slot):
                return manifest, slot  # it is there as a whole; whoever starts it reads it once more
            if found.has_parts:
                self._write_packed(slot, manifest, signatures, found, source)
            else:
                event["fetched"] = self._fetch_and_write(slot, manifest, signatures, mirrors)
        except Paused:
            raise
        except (UpgradeError, OSError) as error:
            history.append({"event": "refused", "why": str(error), **event}, self._node.paths)
            raise UpgradeError(str(error))
        history.append({"event": "written", "signers": signers, **event}, self._node.paths)
        return manifest, slot

    def _reads_back(self, slot: str) -> bool:
        """Is all that the label of `slot` says on the medium? If not, writing it once more may mend it."""
        try:
            writer.check(slot, self._node.slots)
        except (UpgradeError, OSError):
            return False
        return True

    def _open(self, source: str) -> "tuple[Bundle, Mirrors]":
        """The bundle, and where its parts are fetched if it is a head."""
        if "://" not in source and not os.path.exists(source):
            return self._of_mirrors(source)
        if "://" not in source:
            source = "file://" + os.path.abspath(source)
        pieces = self._web.pieces(source, 0, None)
        pending = b""

        def piece(size: int) -> bytes:
            nonlocal pending
            data = pending or next(pieces, b"")
            data, pending = data[:size], data[size:]
            return data

        # BASE/BRANCH/BOARD/VERSION
        return bundle.Bundle(piece), Mirrors([source.rsplit("/", 3)[0] + "/"], self._web, self._node.own)

    def _of_mirrors(self, version: str) -> "tuple[Bundle, Mirrors]":
        from confine.upgrade.look import newest

        settings = self._node.settings
        mirrors = Mirrors(settings.upgrade_mirrors, self._web, self._node.own)
        raw = newest(self._node, mirrors, {}, version, settings.upgrade_branch)[0]
        if raw is None:
            raise BundleError("no mirror offers version {} on branch {} for this node; and there is no file of that "
                              "name".format(version, settings.upgrade_branch))  # fmt: skip
        return bundle.from_bytes(raw), mirrors

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _write_packed(self, slot: str, manifest: "Manifest", signatures: "list[str]", found: "Bundle",
                      source: str) -> None:  # fmt: skip
        """From a packed bundle, after all of it was seen: a file is read twice, what is fetched is kept first."""
        if "://" in source:
            staging = self._staging(Mirrors([], self._web, self._node.own))
            self._report.state(FETCHING, manifest.version)
            staging.take(manifest, found.parts(manifest))
            self._write(slot, manifest, signatures, staging.kept(manifest))
            staging.empty(set())
            return
        check_parts(manifest, found.parts(manifest))
        again = self._open(source)[0]
        if again.raw != manifest.raw:
            raise BundleError("{} changed while it was read".format(source))
        self._write(slot, manifest, signatures, again.parts(manifest))

    def _staging(self, mirrors: Mirrors) -> Staging:
        rate = Rate(self._node.settings.upgrade_rate_kib, time.sleep, time.monotonic)
        return Staging(os.path.join(self._node.paths.upgrade, "parts"), mirrors, self._fetched, rate)

    def _fetch_and_write(self, slot: str, manifest: "Manifest", signatures: "list[str]", mirrors: Mirrors) -> int:
        staging = self._staging(mirrors)
        self._report.state(FETCHING, manifest.version)
        seeds, keep = self._seeds(staging)
        try:
            staging.fetch(manifest, {name: seed for name, (seed, _) in seeds.items()})
            self._write(slot, manifest, signatures,
                        staging.pieces(manifest, {name: seed for name, (seed, _) in seeds.items()}))  # fmt: skip
        finally:
            for _, handle in seeds.values():
                os.close(handle)
        staging.empty(keep | {part.sha256 for part in manifest.parts.values()})
        return staging.fetched

    def _fetched(self, part: str, done: int, total: int) -> None:
        if self._auto:
            hour = self._node.clock()[1]
            if hour is not None and not within(self._node.settings.upgrade_hours, hour):
                raise Paused("the hours for upgrades are over; it goes on in the next ones")
            if self._node.deferred_until() is not None:
                raise Paused("upgrades were deferred meanwhile")
        self._report.progress(part, done, total)

    def _seeds(self, staging: Staging) -> "tuple[dict[str, tuple[Seed, int]], set[str]]":
        """What the running slot holds, by the part's name, with its open partition; and the sums of its parts."""
        slots = self._node.slots
        seeds: "dict[str, tuple[Seed, int]]" = {}
        keep: "set[str]" = set()
        if slots.running is None:
            return seeds, keep
        parts = (slots.label(slots.running) or {}).get("parts") or {}
        for name in ("kernel", "root"):
            sha256 = parts.get(name, {}).get("sha256")
            index = staging.index(sha256, None) if sha256 else None
            try:
                handle = slots.disk.open(name + "-" + slots.running)
            except UpgradeError:
                continue
            keep.update([sha256] if sha256 else [])
            seeds[name] = (Seed(lambda offset, size, handle=handle: os.pread(handle, size, offset), index), handle)  # type: ignore[misc]
        return seeds, keep

    def _write(self, slot: str, manifest: "Manifest", signatures: "list[str]",
               parts: "Iterator[tuple[str, bytes]]") -> None:  # fmt: skip
        label = json.loads(manifest.raw)
        label[BUNDLE] = manifest.id
        label[SIGNATURES] = signatures
        self._report.state(WRITING, manifest.version)
        lock = os.path.join(self._node.paths.run, "upgrade.lock")
        with writer.open(slot, label, self._node.slots, lock) as sink:
            done: "dict[str, int]" = {}
            for name, data in parts:
                sink.write(name, data)
                done[name] = done.get(name, 0) + len(data)
                self._report.progress(name, done[name], manifest.parts[name].size)
            self._report.state(READING_BACK)
            sink.finish()
