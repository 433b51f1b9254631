"""Why a peer of the overlay is not reached: its addresses are tried by TCP, at a slow pace, in a thread that ends.

An address that takes a connection while tincd is not let in says something else than one that is dead.
"""

import socket
import threading
import time

from confine.registry.http import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    Missing = dict[str, list[tuple[str, int]]]

PAUSE_S = 60.0
FIRST_S = 10.0  # tincd gets so long to connect before anybody wonders
CONNECT_S = 4.0
MAX_ADDRESSES = 8
NOT_TAKEN = (
    "{} answers, but this node is not connected: one side has an old key of the other (`confine overlay` shows ours)"
)


class Probe:
    """said: {peer: what its addresses said when they were tried last}, of those that are missing now."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self._missing_since: dict[str, float] = {}
        self._again_at = 0.0
        self._thread: threading.Thread | None = None

    def look(self, missing: "Missing") -> None:
        """Told each round who is missing; comes back at once."""
        now = time.monotonic()
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        self.said = {name: text for name, text in self.said.items() if name in missing}
        late = {name: missing[name] for name, since in self._missing_since.items() if now - since >= FIRST_S}
        if not late or now < self._again_at or (self._thread is not None and self._thread.is_alive()):
            return
        self._again_at = now + PAUSE_S
        self._thread = threading.Thread(target=self._try, args=(late,), daemon=True)
        self._thread.start()

    def _try(self, missing: "Missing") -> None:
        found = {name: tried(addresses) for name, addresses in missing.items()}
        self.said = {**self.said, **found}


def tried(addresses: "list[tuple[str, int]]") -> str:
    """What came of connecting to each address, in one sentence."""
    if not addresses:
        return "no address of it is known"
    dead = []
    for host, port in addresses[:MAX_ADDRESSES]:
        label = "{} port {}".format(host, port)
        try:
            socket.create_connection((host, port), CONNECT_S).close()
            return NOT_TAKEN.format(label)
        except (OSError, UnicodeError) as error:
            dead.append("{} ({})".format(label, reason(error) if isinstance(error, OSError) else error))
    return "no address of it answers: " + ", ".join(dead)
