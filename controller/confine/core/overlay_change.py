"""A change of the overlay's files is confirmed or undone: a wrong one would leave nobody a way to put it right. Pure.

Before the files of a node that is connected are changed, what they said is kept (`OverlayChange`). Once a peer that the
node connects to is reached with the new ones, the change is confirmed. If none is for UNDO_S, what was before is put
back, and the same change is not tried again for RETRY_S. What follows from the node's own settings (its id, the
testbed's prefix) is its owner's word and not undone.
"""

from confine.core.record import Record
from confine.core.text import only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.overlay import OverlayFound, OverlayWish

UNDO_S = 60.0
RETRY_S = 6 * 3600.0
PENDING, UNDONE = "pending", "undone"
FILE = "change.json"
PATHS = ("tinc.conf", "tinc-up")
HOSTS = "hosts/"
NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


class OverlayChange(Record):
    """before: {path below /etc/tinc/confine: its content, None if there was no file}. wish: what was wished for, as
    `OverlayWish.digest()`. state: PENDING or UNDONE. at: when it was written, wall clock seconds."""

    FIELDS = ("before", "wish", "state", "at")

    def __init__(self, before: "dict[str, str | None]", wish: str, state: str, at: float) -> None:
        self.before = before
        self.wish = wish
        self.state = state
        self.at = at


def is_path(path: object) -> bool:
    """Whether `path` is one of the overlay's files: what comes from disk must name no other."""
    if not isinstance(path, str):
        return False
    return path in PATHS or (path.startswith(HOSTS) and only(path[len(HOSTS) :], NAMES))


def parse(doc: "Any") -> "OverlayChange | None":
    """The change that `as_doc()` gave; None for anything else."""
    if not isinstance(doc, dict) or not isinstance(doc.get("before"), dict) or not isinstance(doc.get("wish"), str):
        return None
    before, at = doc["before"], doc.get("at")
    texts = [text for text in before.values() if text is not None]
    if not all(is_path(path) for path in before) or not all(isinstance(text, str) for text in texts):
        return None
    if doc.get("state") not in (PENDING, UNDONE) or not isinstance(at, (int, float)):
        return None
    return OverlayChange(before, doc["wish"], doc["state"], float(at))


def begun(found: "OverlayFound", wished: "OverlayWish", connected: bool, now: float) -> "OverlayChange | None":
    """What is to be kept before the files of `wished` are written; None if there is nothing to go back to by them."""
    if "tinc-up" in wished.files or HOSTS + wished.name in wished.files:
        return None
    before = {path: _text(found, path) for path in wished.files}
    if found.change is not None and found.change.state == PENDING:
        before.update(found.change.before)  # of two changes in a row the first one's files are known to be good
    elif not connected:
        return None
    return OverlayChange(before, wished.digest(), PENDING, now)


def _text(found: "OverlayFound", path: str) -> "str | None":
    if path == "tinc.conf":
        return found.conf
    return found.up if path == "tinc-up" else found.hosts.get(path[len(HOSTS) :])


def is_connected(found: "OverlayFound", connect: "list[str]") -> bool:
    """Whether a peer that the node connects to is reached, by files that are not older than a pending change."""
    change = found.change if found.change is not None and found.change.state == PENDING else None
    for name in connect:
        seen = found.peers.get(name)
        if found.pid is None or seen is None or not seen.up:
            continue
        if change is None or HOSTS + name not in change.before or seen.since > change.at:
            return True
    return False
