"""The registry as the daemon uses it: several addresses, one round at a time, downloads of templates and data."""

import random
import time

from confine.core.firewall import closed_to_slices
from confine.errors import RegistryError
from confine.paths import Paths
from confine.registry import directory, state, uris
from confine.registry.download import Fetcher
from confine.registry.index import Rounds
from confine.registry.sources import HttpSource, Source
from confine.registry.transport import Transport
from confine.registry.uris import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings

FIRST_PAUSE_S = 5.0
LAST_PAUSE_S = 600.0
JITTER = 0.25  # of the pause, either way: nodes that lost their registry together do not come back together


class Address:
    """One configured address of the registry, and how it did lately. retry_at: monotonic seconds.

    rounds: what is known from round to round, made with the first one.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.rounds: Rounds | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.error = ""

    def failed(self, error: str, now: float) -> None:
        """Note a failure and wait longer each time before the next try."""
        pause = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        self.retry_at = now + pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # spreads load, no secret
        self.error = "{}: {}".format(self.source.base, error)

    def answered(self) -> None:
        """Note a success."""
        self.failures = 0
        self.retry_at = 0.0
        self.error = ""


class Registry:
    """The testbed's registry. One `refresh()` at a time; `close()` and `retry()` may come from other threads.

    fetcher: downloads templates (`Fetcher`), whose addresses the testbed's operators write; also while a round runs.
    data_fetcher: downloads data, whose addresses slices' users write: not from what is closed to them.
    """

    def __init__(self, settings: "Settings", paths: Paths) -> None:
        self._node_id = settings.node_id
        bases = [base_of(address) for address in settings.registry_uris]
        self._names = Names(bases) if bases else None
        self._origins = {uris.origin(base) for base in bases if not base.startswith("file:")}
        self._transport = Transport(settings.registry_cert, self._origins, settings.plain_http)
        self._addresses = [
            Address(self._source(address, base)) for address, base in zip(settings.registry_uris, bases, strict=True)
        ]
        self.fetcher = Fetcher(settings.registry_cert, bases)
        self.data_fetcher = Fetcher(settings.registry_cert, bases, closed_to_slices(settings))

    def _source(self, address: str, base: str) -> Source:
        if base.startswith("file:"):
            return directory.DirectorySource(base)
        kind = directory.StaticSource if directory.is_static(address) else HttpSource
        return kind(base, self._transport, self._origins.__contains__)

    def refresh(self, previous: "dict[str, Any] | None", deadline: float) -> "tuple[dict[str, Any], bool]":
        """Read the registry and return (the new state, whether it says anything that `previous` does not).

        previous: the state before (`confine.registry.state`), or None. deadline: monotonic seconds; what was not
        read until then keeps its last good version. The addresses are tried in order, one that failed lately
        only after a pause. RegistryError, the same text as long as the reason is the same, if none answered.
        """
        names, node_id = self._configured()
        before = state.prepared(previous, names.bases)
        partial: dict[str, Any] | None = None
        for address in self._addresses:
            now = time.monotonic()
            if now < address.retry_at:
                continue
            address.rounds = address.rounds or Rounds(address.source, names, node_id)
            try:
                found, healthy = address.rounds.run(before, deadline)
            except RegistryError as error:
                address.failed(str(error), now)
                continue
            address.answered()
            if healthy:
                return found, state.differs(found, previous)
            partial = partial or found
        if partial is None:
            raise RegistryError("no registry could be read: " + "; ".join(self._errors()))
        return partial, state.differs(partial, previous)

    @property
    def index_error(self) -> str:
        """Why the index that the registry offers is not followed, or ""."""
        errors = [address.rounds.error for address in self._addresses if address.rounds is not None]
        return next((error for error in errors if error), "")

    def retry(self) -> None:
        """Try all addresses at the next `refresh()`, without waiting for their pauses to end."""
        for address in self._addresses:
            address.retry_at = 0.0

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()
        self.fetcher.close()
        self.data_fetcher.close()

    def _configured(self) -> "tuple[Names, int]":
        if self._names is None:
            raise RegistryError("no registry is set: base_uri of section registry in /etc/config/confine")
        if self._node_id is None:
            raise RegistryError("no node id is set: id of section node in /etc/config/confine")
        return self._names, self._node_id

    def _errors(self) -> "list[str]":
        return [address.error for address in self._addresses if address.error]


def base_of(address: str) -> str:
    """The base URI, with its final slash, that a configured address stands for. RegistryError for an unusable one."""
    if directory.is_path(address):
        path = address[len("file://") :] if address.startswith("file://") else address
        return "file://" + path.rstrip("/") + "/"
    base = address.rstrip("/")[: -len(directory.INDEX)] if directory.is_static(address) else address
    uris.place(base)  # raises where it cannot be used
    return base if base.endswith("/") else base + "/"
