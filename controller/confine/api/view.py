"""What the API needs of the node; `controller.py` joins the two."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any, Protocol

    class NodeView(Protocol):
        """All methods are called from the API's own thread, and must neither block nor start a process."""

        def revision(self) -> Hashable:
            """A cheap value that is another one whenever `status()` (but for usage, progress and time) or
            `registry_state()` may say something new: for example (rounds so far, when the registry was last read)."""

        def status(self) -> "dict[str, Any]":
            """The node's status as `confine status` shows it (status.py)."""

        def registry_state(self) -> "dict[str, Any] | None":
            """The registry's own documents as last read (registry/state.py); None before the first time."""

        def refresh(self) -> None:
            """Have the registry read soon; returns at once."""
