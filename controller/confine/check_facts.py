"""What the checks of `confine check` are given, and what they give."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Problem
    from confine.core.settings import Settings
    from confine.paths import Paths

OK, WARN, FAIL = "ok", "warn", "fail"


class Finding:
    """state: OK, WARN or FAIL. what: was looked at. said: what was found. todo: what to do, "" if nothing."""

    def __init__(self, state: str, what: str, said: str, todo: str = "") -> None:
        self.state = state
        self.what = what
        self.said = said
        self.todo = todo

    def as_doc(self) -> "dict[str, str]":
        """As JSON has it."""
        return {"state": self.state, "what": self.what, "said": self.said, "todo": self.todo}


class Facts:
    """What the checks look at. status: the daemon's, or None if it does not answer. root: "/", but for tests."""

    def __init__(
        self,
        paths: "Paths",
        settings: "Settings",
        problems: "list[Problem]",
        status: "dict[str, Any] | None",
        root: str = "/",
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.problems = problems
        self.status = status
        self.root = root

    def text(self, path: str) -> "str | None":
        """The text of a file below the root, None if it cannot be read."""
        try:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None
