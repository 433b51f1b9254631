"""The node's own nftables tables in the kernel: put up as a whole, changed for one sliver, watched.

Every change is one transaction over all of our tables, which either holds or changes nothing. Nobody but this driver
changes them: a guard (guard.py) cuts all slivers off when somebody does, until they have been put up again. So it is
known without looking whether they stand; an idle round asks the kernel for one number.

What people stopped is cut off by a table of its own, confine_stop, to which only rules are added here: `confine stop`
adds to it too, daemon or no daemon, and only `confine release` takes rules away.
"""

import fnmatch
import json
import os
import struct
import threading
import time

from confine import durable
from confine.api import firewall as api_firewall
from confine.core import firewall as rules
from confine.core import interfaces
from confine.drivers import nft, nft_elements, ports
from confine.drivers.cgroups import read
from confine.drivers.guard import Guard
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from confine.core.firewall import Port
    from confine.core.model import Step
    from confine.core.settings import Settings

STOP_TABLE = "confine_stop"
STOP_CHAINS = ("from_sliver", "to_sliver")
STOP_FILE = "stop.nft"
OWN_TABLES = {(family, rules.TABLE) for family in rules.FAMILIES} | {("inet", api_firewall.TABLE)}
# Sets that count what was dropped, by reason: what was not the sliver's own, what is not for slivers, too much of it.
REASONS = {"spoofed": "spoofed_by", "refused": "refused_by", "flooded": "flooded_by"}


class Firewall:
    """Steps `firewall install`, `admit` and `dismiss`, and the observation whether they are needed.

    share: directory of the package's files. cut(): patterns of the interfaces that must be silent. wake(): have the
    controller look at once. last: file for the rules that were put up last.
    """

    def __init__(
        self,
        settings: "Settings",
        share: str = "",
        cut: "Callable[[], list[str]]" = list,
        wake: "Callable[[], None]" = lambda: None,
        last: str = "",
    ) -> None:
        self._settings = settings
        self._share = share
        self._cut = cut
        self._wake = wake
        self._last = last
        self._lock = threading.RLock()
        self._ports: dict[int, list[Port]] = {}  # by sliver number, as the kernel has them
        self._leases: dict[tuple[str, str], float] = {}  # (port, address): end, monotonic
        self._guard: Guard | None = None
        self._standing = False
        self._silent: list[str] = []  # patterns found cut off when last compared
        self._stop_changes = -1  # of the guard, when last compared
        self._failed: tuple[float, str] | None = None  # since when the tables cannot be put up, and why
        self._kept = ""  # the rules that were put up last, where settings do not say which should be

    # Steps

    def install(self, step: "Step | None") -> None:
        """Put our tables up as they should be, in one transaction. StepError with nft's words; then the rules are as
        they were, and slivers that were cut off stay so.

        Settings that do not say which node this is (a file that cannot be read) do not say what should be, either:
        where slivers have interfaces, the tables stay as an earlier daemon put them up; without them slivers are cut
        off."""
        with self._lock:
            guard = self._guarded()
            guard.caught_up()  # what happened before this is mended by this
            silent = self._cut()
            standing = standing_cuts()
            cuts = [cut_text(self._share, pattern) for pattern in silent if pattern not in standing]
            try:
                if self._settings.node_id is None and not self._kept and ports.of(None):
                    self._kept = self._put_up_last(guard)
                mended = self._transact(guard, self._whole() + "".join(cuts))
            except StepError as error:
                self._failed = self._failed or (time.time(), str(error))
                raise
            if cuts and self._cut() != silent:  # released meanwhile: nobody else takes away what was just put in
                silent = self._cut()
                only_cut(self._share, silent)
            self._silent, self._stop_changes = silent, guard.changes
            self._standing, self._failed = True, None
            self._remember()
        guard.reopen(mended, self._has_to_be_silent)

    def admit(self, step: "Step") -> None:
        """Let the sliver's interfaces say what they may, and nothing else. Does nothing where they do. StepError: as
        `install`."""
        if step.sliver is None or step.booking is None:
            raise StepError(f"step firewall admit for {step.subject} comes without sliver or booking")
        found = interfaces.of_sliver(step.sliver, step.booking, self._settings)[0]
        self._become(step.booking.nr, rules.ports_of(found))

    def dismiss(self, step: "Step") -> None:
        """Let the sliver's interfaces say nothing. Does nothing where there are none. StepError: as `install`."""
        if step.booking is not None:
            self._become(step.booking.nr, [])

    def lease(self, port: str, address: str, seconds: int) -> None:
        """`port` was given the IPv4 `address` by a DHCP server for so long, and has no other; 0: it has to give it
        back. StepError for a port that may not ask for one."""
        with self._lock:
            if not any(one.name == port and one.dhcp for group in self._ports.values() for one in group):
                raise StepError(f"port {port} was given {address}, but asks for no address: it is not let through")
            others = [old for name, old in self._leases if name == port and old != address]
            self._change(rules.lease_lines(port, address, seconds, others))
            for old in [address, *others]:
                self._leases.pop((port, old), None)
            if seconds > 0:
                self._leases[port, address] = time.monotonic() + seconds

    # Observation

    def ok(self) -> bool:
        """Whether our tables stand as we put them up. False until this object has put them up itself."""
        guard = self._guard
        if guard is None or not self._standing or not guard.caught_up() or guard.reason is not None:
            return False
        silent = self._cut()
        if silent != self._silent or (silent and guard.changes != self._stop_changes):
            changes = guard.changes
            standing = standing_cuts() if silent else []
            if not all(pattern in standing for pattern in silent):
                return False
            self._silent, self._stop_changes = silent, changes
        return True

    def admitted(self, nr: int) -> "list[Port]":
        """The ports of sliver `nr` that may say something."""
        return self._ports.get(nr, [])

    def trouble(self) -> "tuple[float, str] | None":
        """(since when, wall clock; what): slivers are cut off because the tables are not as they should be."""
        guard = self._guard
        if guard is not None and guard.reason is not None and guard.since is not None:
            failed = "; they cannot be put up again: " + self._failed[1] if self._failed else ""
            return guard.since, guard.reason + failed
        return self._failed

    def close(self) -> None:
        """End the guard; the tables stay."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    # Parts

    def _guarded(self) -> Guard:
        if self._guard is None:
            try:
                self._guard = Guard(OWN_TABLES, {("bridge", STOP_TABLE)}, self._wake)
            except OSError as error:
                raise StepError(f"changes to nftables cannot be followed: {error.strerror}. Does the kernel have them?")
            self._take_over()
        return self._guard

    def _change(self, text: str, come: "dict[tuple[str, str], list[str]] | None" = None) -> None:
        """One transaction on tables that stand; come: as `_transact`."""
        guard = self._guarded()
        stood = guard.reason is None
        mended = self._transact(guard, text, come)
        if stood and guard.reason is not None:
            guard.reopen(mended, self._has_to_be_silent)

    def _transact(self, guard: Guard, text: str, come: "dict[tuple[str, str], list[str]] | None" = None) -> int:
        """Have nft do `text`; where all of it is to put in the elements `come`, that is done without a process. The
        guard's count of shuts that need no more looking at: those before this, and those for this itself, where it does
        not carry the pid of our nft (a wrapper may stand in for the program). It was the only change if the kernel
        counts one."""
        shut_count, before = guard.shut_count, nft.generation()
        if come:
            nft_elements.add(rules.TABLE, come)
        else:
            nft.run(["-f", "-"], text)
        after = nft.generation()
        if before is None or after != (before + 1) % (1 << 32) or not guard.caught_up():
            return shut_count
        now = guard.shut_count
        return now if nft.generation() == after else shut_count

    def _has_to_be_silent(self, port: str) -> bool:
        return any(fnmatch.fnmatchcase(port, pattern) for pattern in self._silent)

    def _take_over(self) -> None:
        """What an earlier daemon let through, as far as the interfaces are still there."""
        try:
            listing = json.loads(nft.run(["-j", "list", "table", "bridge", rules.TABLE]))["nftables"]
            found, leases = rules.read(listing)
        except (StepError, ValueError, KeyError, TypeError, AttributeError):
            return  # none, or not one of ours
        there = ports.of(None)
        for port in found:
            if port.name in there:
                self._ports.setdefault(port.nr, []).append(port)
        now = time.monotonic()
        self._leases = {key: now + seconds for key, seconds in leases.items() if key[0] in there}

    def _whole(self) -> str:
        every = [port for nr in sorted(self._ports) for port in self._ports[nr]]
        now = time.monotonic()
        self._leases = {key: end for key, end in self._leases.items() if end > now + 1}
        leases = [rules.lease_lines(*key, int(end - now)) for key, end in sorted(self._leases.items())]
        return self._rules() + rules.element_lines("add", rules.elements(every)) + "".join(leases)

    def _rules(self) -> str:
        return self._kept or rules.render(self._settings) + api_firewall.render(self._settings)

    def _remember(self) -> None:
        """Keep the rules for a daemon whose settings do not say them: newer versions of nft do not read what they list.
        It is no fault of this step if that cannot be."""
        if not self._last or self._settings.node_id is None:
            return
        text = self._rules().encode()
        try:
            if read(self._last) != text.decode().strip():
                durable.write_atomic(self._last, text)
        except OSError:
            pass

    def _put_up_last(self, guard: Guard) -> str:
        """The rules that an earlier daemon put up, if its tables stand. StepError if not; then slivers are cut off."""
        try:
            for family in rules.FAMILIES:
                nft.run(["-t", "list", "table", family, rules.TABLE])
            with open(self._last, encoding="ascii") as file:
                return file.read()
        except (StepError, OSError, ValueError) as error:
            guard.shut("its tables do not stand, or it is not known any more how")
            raise StepError(f"the settings do not say how the firewall should be, and the last one is gone: {error}")

    def _become(self, nr: int, after: "list[Port]") -> None:
        with self._lock:
            before = self._ports.get(nr, [])
            if before == after:
                return
            if not self._standing:
                raise StepError("the node's nftables tables are not up yet")
            names = [port.name for port in after]
            gone = [key for key in self._leases if key[0] in [port.name for port in before] and key[0] not in names]
            lines = "".join(rules.lease_lines(*key, 0) for key in gone)
            text = lines + rules.change(before, after)
            self._change(text, None if before else rules.elements(after))
            for key in gone:
                del self._leases[key]
            self._ports[nr] = after
            if not after:
                del self._ports[nr]


def drops() -> "dict[tuple[int, str], int]":
    """{(sliver number, one of REASONS): packets dropped} since the tables were put up. No process."""
    found: dict[tuple[int, str], int] = {}
    for reason, name in REASONS.items():
        for key, packets in nft.counted("bridge", rules.TABLE, name).items():
            port = key.rstrip(b"\0").decode("ascii", "replace")
            if port[:4] == rules.PREFIX and port[4:6].isalnum():
                _count(found, int(port[4:6], 16), reason, packets)
        for key, packets in nft.counted("inet", rules.TABLE, name).items() if reason != "spoofed" else ():
            owner = rules.of_mark(struct.unpack("=I", key)[0]) if len(key) == 4 else None
            if owner is not None:
                _count(found, owner[1], reason, packets)
    return found


def _count(found: "dict[tuple[int, str], int]", nr: int, reason: str, packets: int) -> None:
    found[nr, reason] = found.get((nr, reason), 0) + packets


def cut(share: str, patterns: "list[str]") -> None:
    """Cut interfaces off whose names fit `patterns`, on top of those that are, in one transaction. StepError if nft
    cannot."""
    nft.run(["-f", "-"], "".join(cut_text(share, pattern) for pattern in patterns))


def only_cut(share: str, patterns: "list[str]") -> None:
    """As `cut`, and all other interfaces are let go, in the same transaction."""
    emptied = "add table bridge {0}\ndelete table bridge {0}\n".format(STOP_TABLE)
    nft.run(["-f", "-"], emptied + "".join(cut_text(share, pattern) for pattern in patterns))


def cut_text(share: str, pattern: str) -> str:
    """What nft has to do to cut off the interfaces that fit `pattern`."""
    try:
        with open(os.path.join(share, STOP_FILE), encoding="ascii") as file:
            return file.read().replace("$port", '"' + pattern + '"')
    except OSError as error:
        raise StepError(f"{error.filename} cannot be read ({error.strerror}): the package is not complete")


def standing_cuts() -> "list[str]":
    """The patterns whose interfaces are cut off both ways."""
    try:
        listing = nft.run(["list", "table", "bridge", STOP_TABLE]).decode("utf-8", "replace")
    except StepError:
        return []
    return parse_cuts(listing)


def parse_cuts(listing: str) -> "list[str]":
    """The patterns that a listing of our table drops both ways."""
    found: dict[str, set[str]] = {"iifname": set(), "oifname": set()}
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] in found and words[2] == "drop":
            found[words[0]].add(words[1].strip('"'))
    return sorted(found["iifname"] & found["oifname"])
