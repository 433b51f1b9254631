"""The last good registry state on disk, so that a node without a registry keeps what it runs, also across a reboot.

Written only when something changed, as a whole or not at all. A damaged file is set aside, and said.
"""

import os

from confine import durable
from confine.paths import Paths
from confine.registry.state import is_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "registry.json"


def load(paths: Paths) -> "tuple[dict[str, Any] | None, str | None]":
    """(the state kept or None, what was wrong with it or None)."""
    path = os.path.join(paths.journal, FILE)
    try:
        state = durable.read_json(path)
    except ValueError as error:
        return None, _aside(path, str(error))
    except OSError as error:
        return None, "the registry state in {} cannot be read: {}".format(path, error.strerror)
    if state is None:
        return None, None
    if not is_state(state):
        return None, _aside(path, "it is not a registry state")
    return state, None


def save(paths: Paths, state: "dict[str, Any]") -> None:
    """Keep `state`. OSError if it cannot be written; the one kept before then stays."""
    durable.make_dir(paths.journal)
    durable.write_json(os.path.join(paths.journal, FILE), state)


def _aside(path: str, why: str) -> str:
    try:
        where = "it was set aside as " + durable.set_aside(path)
    except OSError as error:
        where = "it cannot be set aside: {}".format(error.strerror)
    return "the registry state in {} is damaged ({}); {}; it is read anew from the registry".format(path, why, where)
