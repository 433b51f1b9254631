"""When something was, on a node whose clock may be wrong: wall clock, time since boot, and whether to believe it.

A node boots without a clock and is set right later. Records carry the time since boot (it never jumps) beside the wall
clock; `Clocks` works the true wall clock out afterwards, with the first confirmed reading of the same boot.
"""

import time

from confine.clock import ntp_date

BOOT_ID = "/proc/sys/kernel/random/boot_id"
BOOT_DIGITS = 8


class Moment:
    """wall: seconds since 1970 as the node's clock says. up: seconds since boot, sleep included. boot: the first digits
    of the kernel's boot id. sure: the clock was confirmed (NTP) at that moment."""

    __slots__ = ("boot", "sure", "up", "wall")

    def __init__(self, wall: float, up: float, boot: str, sure: bool) -> None:
        self.wall = wall
        self.up = up
        self.boot = boot
        self.sure = sure


def now() -> Moment:
    """This moment."""
    return Moment(time.time(), uptime(), boot_id(), ntp_date() is not None)


def uptime() -> float:
    """Seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_boot: "list[str]" = []


def boot_id() -> str:
    """What tells this boot from all others; "" if the kernel does not say."""
    if not _boot:
        try:
            with open(BOOT_ID, encoding="ascii") as file:
                _boot.append(file.read().replace("-", "")[:BOOT_DIGITS])
        except (OSError, ValueError):
            _boot.append("")
    return _boot[0]


class Clocks:
    """What is known of the wall clock in each boot: `note` every reading first, then ask."""

    def __init__(self) -> None:
        self._notes: dict[tuple[str, bool], list[tuple[float, float]]] = {}

    def note(self, moment: Moment) -> None:
        """A reading."""
        found = self._notes.setdefault((moment.boot, moment.sure), [])
        offset = moment.wall - moment.up
        if not found or abs(found[-1][1] - offset) > 0.5:  # the same clock, read again
            found.append((moment.up, offset))

    def wall(self, boot: str, up: float) -> "tuple[float, bool] | None":
        """(seconds since 1970, confirmed) of the moment `up` seconds after the start of `boot`: by the nearest
        confirmed reading, else the nearest. None: nothing is known of that boot."""
        for sure in (True, False):
            notes = self._notes.get((boot, sure))
            if notes:
                _, offset = min(notes, key=lambda note: abs(note[0] - up))
                return up + offset, sure
        return None
