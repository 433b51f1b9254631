"""Registry documents and the node's own settings to `Desired`: what is asked of this node. Pure."""

from confine.core.model import Desired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings


def build(state: "dict[str, Any]", settings: "Settings") -> "Desired":
    """What `state` (the last good registry state) asks of the node that `settings` describe.

    state: {"base": doc|None, "node": doc|None, "docs": {uri: doc}, "gone": [uri],
    "problems": {uri: [{"member", "message"}]}, "date": "YYYY-MM-DD"|None, "complete": bool}.
    Never raises for whatever `state` holds: what cannot be used becomes a `Problem`.
    """
    raise NotImplementedError
