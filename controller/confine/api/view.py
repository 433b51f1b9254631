"""What the API needs of the node, and the node as the daemon has it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, Protocol

    from confine.reader import Reader
    from confine.status import Board

    class NodeView(Protocol):
        """All methods are called from the API's own thread, and must neither block nor start a process."""

        def revision(self) -> Hashable:
            """A cheap value that is another one whenever `status()` (but for usage, progress and time) or
            `registry_state()` may say something new."""

        def status(self) -> "dict[str, Any]":
            """The node's status as `confine status` shows it (status.py)."""

        def registry_state(self) -> "dict[str, Any] | None":
            """The registry's own documents as last read (registry/state.py); None before the first time."""

        def refresh(self) -> None:
            """Have the registry read soon; returns at once."""


class DaemonView:
    """The daemon's own node. refresh: what the verb of that name does."""

    def __init__(self, board: "Board", reader: "Reader", refresh: "Callable[[], object]") -> None:
        self._board = board
        self._reader = reader
        self._refresh = refresh

    def revision(self) -> "Hashable":
        """How often something was shown, and when the registry was last read."""
        return self._board.shown, self._reader.last_read

    def status(self) -> "dict[str, Any]":
        """As the board has it."""
        return self._board.status()

    def registry_state(self) -> "dict[str, Any] | None":
        """As the reader has it."""
        return self._reader.state

    def refresh(self) -> None:
        """As a person would ask for it."""
        self._refresh()
