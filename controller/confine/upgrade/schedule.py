"""When a node takes an upgrade by itself. Pure.

The curve is that of gluon's autoupdater: the part of all nodes that have upgraded rises from 0 at the time of
publication to 1 after the bundle's days of priority, as 3x² - 2x³, slowly at both ends. Where gluon throws a die each
night, a node here has one number for each bundle, so its time can be told in advance.
"""

import hashlib
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DAY_S = 86400
OFF, NOTIFY, AUTO = "off", "notify", "auto"
# Verdicts.
GO, WAIT, TELL, NOTHING = "go", "wait", "tell", "nothing"


def draw(own: str, bundle: str) -> float:
    """The node's number from 0 to 1 for a bundle. own: what tells the node from others. bundle: the manifest's id."""
    return int.from_bytes(hashlib.sha256("{} {}".format(own, bundle).encode()).digest()[:6], "big") / float(1 << 48)


def share(days: float, priority_days: float) -> float:
    """The part of the nodes that have upgraded `days` after publication."""
    if days < 0:
        return 0.0
    if days >= priority_days:
        return 1.0
    x = days / priority_days
    return 3 * x * x - 2 * x * x * x


def delay(number: float, priority_days: float) -> float:
    """Seconds from publication to the turn of the node with `number`: where `share` reaches it."""
    x = 0.5 - math.sin(math.asin(1 - 2 * number) / 3)
    return min(1.0, max(0.0, x)) * priority_days * DAY_S


def within(hours: "list[str]", hour: int) -> bool:
    """Whether `hour` (0-23) lies in one of the spans ("3-6", "22-5": core/settings.py); without any, always."""
    for text in hours:
        start, end = (int(word) for word in text.split("-"))
        if start <= hour < end if start < end else (hour >= start or hour < end):
            return True
    return not hours


class Offer:
    """A verified bundle as the policy sees it. order: as of its manifest; number: draw(); asked: by the operator for
    this node alone, once; failed: it was tried here and did not hold."""

    def __init__(
        self, version: str, order: "tuple[int, int]", priority_days: int, number: float, asked: bool, failed: bool
    ) -> None:
        self.version = version
        self.order = order
        self.priority_days = priority_days
        self.number = number
        self.asked = asked
        self.failed = failed


class Now:
    """now: confirmed wall clock (s) or None; hour: local, or None. seen_s: since this offer was first seen, by a clock
    that only goes forward. deferred_until: seconds or None. watched: is there a hardware watchdog."""

    def __init__(
        self,
        now: "float | None",
        hour: "int | None",
        seen_s: float,
        deferred_until: "float | None",
        watched: bool,
    ) -> None:
        self.now = now
        self.hour = hour
        self.seen_s = seen_s
        self.deferred_until = deferred_until
        self.watched = watched


def decide(
    offer: "Offer | None",
    running: "tuple[str | None, tuple[int, int]]",
    policy: "dict[str, Any]",
    now: Now,
) -> "tuple[str, str, float | None]":
    """(verdict, reason, due). running: (version, order). policy: mode, pin, hours, metered, unwatched.

    due: when the node's turn is, in seconds since 1970, if that can be told.
    """
    if offer is None:
        return NOTHING, "nothing is offered for this node", None
    if offer.version == running[0]:
        return NOTHING, "version {} runs".format(offer.version), None
    if policy["pin"] and offer.version != policy["pin"]:
        return NOTHING, "pinned to version {}, {} is offered".format(policy["pin"], offer.version), None
    if not policy["pin"] and not offer.asked and offer.order <= running[1]:
        return NOTHING, "version {} is not newer than what runs".format(offer.version), None
    if offer.failed:
        return NOTHING, "version {} was tried here and failed; only a person tries it again".format(offer.version), None
    return _of_a_new_one(offer, policy, now)


def _of_a_new_one(offer: Offer, policy: "dict[str, Any]", now: Now) -> "tuple[str, str, float | None]":
    if policy["mode"] == OFF:
        return TELL, "automatic upgrades are off (upgrade.mode)", None
    if policy["mode"] == NOTIFY and not offer.asked:
        return TELL, "this node only tells of upgrades (upgrade.mode): `confine upgrade install`", None
    if not now.watched and not policy["unwatched"]:
        return TELL, ("no hardware watchdog guards a trial here: a system that hangs early would need a hand; "
                      "upgrade.unwatched '1' consents"), None  # fmt: skip
    deferred = now.deferred_until
    if deferred is not None and (now.now is None or now.now < deferred):
        return WAIT, "deferred by the node's manager", deferred
    if policy["metered"]:
        return TELL, "the link is metered (upgrade.metered): nothing is fetched unasked", None
    due = None if offer.asked else _due(offer, now)
    if due is not None and (now.now is None or due > now.now):
        return WAIT, "its turn is yet to come: the bundle spreads over {} days".format(offer.priority_days), due
    if now.hour is not None and not within(policy["hours"], now.hour):
        return WAIT, "only during the hours {}".format(", ".join(policy["hours"])), None
    return GO, "asked for by the operator" if offer.asked else "it is this node's turn", due


def _due(offer: Offer, now: Now) -> "float | None":
    """When it is the node's turn; None if it is. Without a clock days are counted from when the offer was seen."""
    wait = delay(offer.number, offer.priority_days)
    if now.now is not None:
        return offer.order[1] + wait
    return None if now.seen_s >= wait else offer.order[1] + wait


class Rate:
    """Holds the mean rate of what is fetched below `kib_s` KiB/s (0: no limit). sleep, clock: for tests."""

    def __init__(self, kib_s: int, sleep: "Any", clock: "Any") -> None:
        self._bytes_s = kib_s * 1024
        self._sleep = sleep
        self._clock = clock
        self._free_at = clock()

    def __call__(self, size: int) -> None:
        """`size` bytes came: wait as long as they should have taken. What was not used before is not made up for."""
        if not self._bytes_s:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now) + size / self._bytes_s
        if self._free_at > now:
            self._sleep(self._free_at - now)
