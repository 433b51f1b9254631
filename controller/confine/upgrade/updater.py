"""The daemon's part in upgrades: looks what is offered, and has it installed when it is the node's turn.

What is heavy is done by a process of its own, the same that a person would start: it takes its memory with it, and
its end, whatever the reason, leaves the daemon as it was.
"""

import random
import subprocess
import sys
import threading
import time

from confine.upgrade import look, overview
from confine.upgrade.errors import UpgradeError
from confine.upgrade.mirrors import Mirrors, Web
from confine.upgrade.node import Node
from confine.upgrade.schedule import GO, OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.settings import Settings
    from confine.log import Log
    from confine.paths import Paths
    from confine.upgrade.slots import Slots

JUDGE_S = 60.0  # between two judgements of what was seen
BUSY_S = 2.0  # between two looks at an installation under way
JITTER = 0.2
# After a start nothing is tried before registry, overlay and slivers had time to come up: the gate goes by what held.
SETTLE_S = 900.0
RELOAD_S = 120.0  # the same after settings were read again
RETRY_S = 600.0  # after an installation that did not come to its end
STOP_S = 10.0


class Updater:
    """Works in a thread of its own. properties(): of the registry's node document. on_change(): something new is to be
    shown. start_process: for tests."""

    def __init__(
        self,
        paths: "Paths",
        settings: "Settings",
        log: "Log",
        properties: "Callable[[], dict[str, Any]]",
        on_change: "Callable[[], None]",
        slots: "Slots | None" = None,
        start_process: "Callable[[list[str]], subprocess.Popen[bytes]] | None" = None,
        root: str = "/",
        settle_s: float = SETTLE_S,
        judge_s: float = JUDGE_S,
        began: "float | None" = None,
    ) -> None:
        """began: when this process did, monotonic seconds; None: now."""
        self._paths = paths
        self._settings = settings
        self._log = log
        self._properties = properties
        self._on_change = on_change
        self._slots = slots
        self._root = root
        self._start_process = start_process or _start
        self._child: "subprocess.Popen[bytes] | None" = None
        self._settle_s = settle_s
        self._judge_s = judge_s
        self._began = began
        self._first = True
        self._next_look = 0.0
        self._not_before = 0.0
        self._said = ""
        self._shown: "dict[str, Any]" = overview.unavailable("nothing was looked at yet")
        self._closed = False
        self._due = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="updater", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def shown(self) -> "dict[str, Any]":
        """The overview as it last was."""
        return self._shown

    def close(self) -> None:
        """Stop; an installation that this one began is ended, what was fetched is kept."""
        with self._due:
            self._closed = True
            self._due.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait(STOP_S)

    def _node(self) -> "Node | None":
        """This node. None where it has no slots: there is nothing to do, ever."""
        while not self._closed:
            try:
                node = Node(self._paths, self._settings, self._slots, self._root)
                node.slots.state()
                return node
            except UpgradeError as error:
                self._shown = overview.unavailable(str(error))
                return None
            except OSError as error:  # a disk that fails to read once may read the next time
                self._shown = overview.unavailable(str(error))
            with self._due:
                self._due.wait_for(lambda: self._closed, self._judge_s)
        return None

    def _work(self) -> None:
        node = self._node()
        if node is None:
            return
        lookout = look.Lookout(node, Mirrors(self._settings.upgrade_mirrors, Web(), node.own))
        while not self._closed:
            try:
                self.turn(node, lookout, time.monotonic())
            except Exception as error:  # whatever mirrors, disk or keys are at fault, the daemon goes on
                self._say("upgrades: {}".format(error if isinstance(error, UpgradeError) else repr(error)))
            with self._due:
                self._due.wait_for(lambda: self._closed, BUSY_S if self._child is not None else self._judge_s)

    def turn(self, node: Node, lookout: look.Lookout, now: float) -> None:
        """Look if it is time to, judge, act, and show it. now: monotonic seconds."""
        if self._first:
            self._first = False
            began = now if self._began is None else self._began
            self._not_before = max(began + self._settle_s, now + min(self._settle_s, RELOAD_S))
        if self._child is not None:
            self._watch_child(now)
        elif self._settings.upgrade_mode != OFF:
            fetch = now >= self._next_look
            if fetch:
                minutes = self._settings.upgrade_interval_min
                spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # spreads load, no secret
                self._next_look = now + minutes * 60 * spread
            found = lookout.look(self._properties(), fetch)
            look.keep(self._paths.run, found)
            self._act(node, found, now)
        shown = overview.overview(node)
        news = any(
            value != self._shown.get(name) for name, value in shown.items() if name not in ("progress", "checked")
        )
        self._shown = shown
        if news:
            self._on_change()

    def _act(self, node: Node, found: "dict[str, Any]", now: float) -> None:
        if found["offered"] is not None:
            self._say("upgrade {}: {}".format(found["offered"]["version"], found["reason"]))
        if found["verdict"] != GO or now < self._not_before or node.is_locked() or node.slots.on_trial:
            return
        branch = found["source"][1]
        words = ["upgrade", "install", found["offered"]["version"], "--auto", "--trial"]
        if branch != self._settings.upgrade_branch:
            words += ["--branch", branch]
        self._log.info("node", "upgrade {} is installed".format(found["offered"]["version"]))
        self._child = self._start_process(words)

    def _watch_child(self, now: float) -> None:
        child = self._child
        if child is None or child.poll() is None:
            return
        self._child = None
        # Also after one that ended well: if its trial begins, nobody lives to see this, and if not, it was refused.
        self._not_before = now + RETRY_S
        if child.returncode != 0:
            said = child.stderr.read(2048).decode("utf-8", "replace") if child.stderr is not None else ""
            self._log.warn("node", "the upgrade did not come to its end: {}".format(" ".join(said.split())))

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._log.info("node", text)


def _start(words: "list[str]") -> "subprocess.Popen[bytes]":
    """`confine WORDS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", "confine.cli", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
