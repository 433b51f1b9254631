"""The last good registry state on disk, so that a node without a registry keeps what it runs, also across a reboot.

Written only when something changed, as a whole or not at all. A damaged file is set aside, and said: flash wears
out, and a digit that flipped in a sequence number would have a sliver made anew. Hence the checksum.
"""

import hashlib
import json
import os

from confine import durable
from confine.paths import Paths
from confine.registry.state import restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "registry.json"


def load(paths: Paths) -> "tuple[dict[str, Any] | None, str | None]":
    """(the state kept or None, what was wrong with it or None)."""
    path = os.path.join(paths.journal, FILE)
    try:
        kept = durable.read_json(path)
    except ValueError as error:
        return None, _aside(path, str(error))
    except OSError as error:
        return None, "the registry state in {} cannot be read: {}".format(path, error.strerror)
    if kept is None:
        return None, None
    state = restored(kept.get("state")) if isinstance(kept, dict) else None
    if state is None:
        return None, _aside(path, "it is not a registry state")
    if kept.get("sha256") != checksum(kept["state"]):
        return None, _aside(path, "its checksum is wrong")
    return state, None


def save(paths: Paths, state: "dict[str, Any]") -> None:
    """Keep `state`. OSError if it cannot be written; the one kept before then stays."""
    durable.make_dir(paths.journal)
    durable.write_json(os.path.join(paths.journal, FILE), {"sha256": checksum(state), "state": state})


def checksum(state: "dict[str, Any]") -> str:
    """The sha256 of `state` as JSON with sorted members, as hex."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _aside(path: str, why: str) -> str:
    try:
        where = "it was set aside as " + durable.set_aside(path)
    except OSError as error:
        where = "it cannot be set aside: {}".format(error.strerror)
    return "the registry state in {} is damaged ({}); {}; it is read anew from the registry".format(path, why, where)
