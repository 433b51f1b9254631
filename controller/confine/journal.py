"""What cannot be observed and must survive: bookings, the last boot_sn carried out, people's decisions.

Each is a small JSON file below `Paths.journal`, replaced as a whole. A damaged file is set aside and named; what
it held is rebuilt from what is observed, as far as that goes. A checksum goes with the content: a digit that flipped
in a boot number would have the node reboot, one in a sliver's number would move its ids and addresses.
"""

import os
import threading

from confine import durable
from confine.core.interfaces import MAX_TAG, MIN_TAG
from confine.core.model import Booking, Step
from confine.errors import StepError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOKINGS = "bookings.json"
BOOT = "boot.json"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Journal:
    """Owner of the journal's files. `problems`: damaged files found at start, one sentence each."""

    def __init__(self, paths: Paths, boot_id: str = BOOT_ID) -> None:
        """boot_id: file that differs after each start of the kernel."""
        self._paths = paths
        self._lock = threading.Lock()
        self.problems: list[str] = []
        durable.make_dir(paths.journal)
        self._bookings = _bookings(self._load(BOOKINGS))
        self._boot_id = _boot_id(boot_id)
        self._boot_sn = self._last_boot_sn(self._load(BOOT))

    def bookings(self) -> "dict[str, Booking]":
        """{sliver name: Booking}, a copy."""
        with self._lock:
            return dict(self._bookings)

    def book(self, step: Step) -> None:
        """Step: keep the booking that the plan worked out."""
        booking = step.booking
        if booking is None:
            raise StepError("no booking was worked out for sliver {}".format(step.subject))
        with self._lock:
            holder = [name for name, other in self._bookings.items() if other.nr == booking.nr and name != booking.name]
            if holder:
                raise StepError("sliver number {} is held by {}".format(booking.nr, holder[0]))
            self._change({**self._bookings, booking.name: booking})

    def release(self, step: Step) -> None:
        """Step: forget the booking of the sliver `step.subject`."""
        with self._lock:
            if step.subject in self._bookings:
                self._change({name: value for name, value in self._bookings.items() if name != step.subject})

    def recover(self, allocations: "dict[str, dict[str, Any]]") -> None:
        """Book what is allocated on disk ({name: allocation document}) and has no booking: a lost journal file.
        StepError where that cannot be written; it holds all the same, until the daemon ends."""
        with self._lock:
            found = dict(self._bookings)
            taken = {booking.nr for booking in found.values()}
            for name, doc in sorted(allocations.items()):
                booking = _booking(doc)
                if name not in found and booking is not None and booking.name == name and booking.nr not in taken:
                    found[name] = booking
                    taken.add(booking.nr)
            if len(found) != len(self._bookings):
                try:
                    self._change(found)
                finally:
                    self._bookings = found

    @property
    def boot_sn_done(self) -> "int | None":
        """The node's boot_sn that was last carried out or first seen; None before that."""
        return self._boot_sn

    def record_boot_sn(self, boot_sn: int) -> None:
        """Keep `boot_sn` as carried out. Must be durable before the reboot it stands for: a node reboots once.

        One that stands for a reboot is kept with the start of the kernel it was asked in: a daemon that finds itself
        in the same one came back before the node went down, and asks for the reboot again.
        """
        before = self._boot_sn
        if before == boot_sn:
            return
        doc: dict[str, Any] = {"boot_sn": boot_sn}
        if before is not None and boot_sn > before:
            doc.update(before=before, boot_id=self._boot_id)
        self._write(BOOT, doc)
        self._boot_sn = boot_sn

    def _last_boot_sn(self, doc: "Any") -> "int | None":
        if not isinstance(doc, dict):
            return None
        pending = self._boot_id is not None and doc.get("boot_id") == self._boot_id
        value = doc.get("before" if pending else "boot_sn")
        return value if isinstance(value, int) else None

    def _change(self, bookings: "dict[str, Booking]") -> None:
        docs = [bookings[name].as_doc() for name in sorted(bookings)]
        try:
            self._write(BOOKINGS, docs)
        except OSError as error:
            raise StepError("the bookings could not be written to {}: {}".format(self._paths.journal, error))
        self._bookings = bookings

    def _write(self, name: str, content: "Any") -> None:
        durable.write_checked(os.path.join(self._paths.journal, name), content)

    def _load(self, name: str) -> "Any":
        path = os.path.join(self._paths.journal, name)
        try:
            kept = durable.read_json(path)
            if kept is None and not os.path.lexists(path):
                return None
            if isinstance(kept, list) or (isinstance(kept, dict) and list(kept) == ["boot_sn"]):
                return kept  # as it was written before there were checksums
            return durable.checked(kept)
        except (ValueError, OSError) as error:
            self.problems.append(
                "{} is damaged ({}){}; rebuilt from what is found".format(path, error, _set_aside(path))
            )
            return None


def _set_aside(path: str) -> str:
    """What became of the damaged file, for a message. Where it cannot be moved, it is written over in time."""
    try:
        durable.set_aside(path)
    except OSError as error:
        return " and cannot be set aside ({})".format(error.strerror)
    return " and was set aside"


def _boot_id(path: str) -> "str | None":
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() or None
    except OSError:
        return None


def _bookings(docs: "Any") -> "dict[str, Booking]":
    found = {}
    for doc in docs if isinstance(docs, list) else []:
        booking = _booking(doc)
        if booking is not None:
            found[booking.name] = booking
    return found


def _booking(doc: "Any") -> "Booking | None":
    if not isinstance(doc, dict):
        return None
    key, name, nr = doc.get("key"), doc.get("name"), doc.get("nr")
    memory, disk = doc.get("memory_mib"), doc.get("disk_mib")
    if not (isinstance(key, str) and isinstance(name, str) and isinstance(nr, int) and 1 <= nr <= 0x7D):
        return None
    memory = memory if isinstance(memory, int) else 0
    disk = disk if isinstance(disk, int) else 0
    tag, addresses = doc.get("vlan_tag"), doc.get("addresses")
    if not isinstance(tag, int) or isinstance(tag, bool) or not MIN_TAG <= tag <= MAX_TAG:
        tag = None
    if not isinstance(addresses, dict) or not all(isinstance(address, str) for address in addresses.values()):
        addresses = {}
    return Booking(key, name, nr, memory, disk, tag, addresses)
