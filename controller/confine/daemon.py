"""The daemon: one process that reads the registry, plans and has the plan carried out, round after round.

A clean stop leaves slivers running; the next start takes them over by observing them. Signals: TERM and INT stop,
HUP reads the configuration again, USR1 looks at the node now. When its loop hangs it ends by itself, and says where it
hung: init starts it again.
"""

import faulthandler
import fcntl
import functools
import os
import signal
import sys

from confine.configuration import read_settings, unkept
from confine.controller import LOOK_AGAIN_S, Controller
from confine.core.model import Problem
from confine.errors import ConfineError
from confine.log import Log
from confine.paths import Paths

SHORTEST_HANG_S = 2 * LOOK_AGAIN_S  # a loop that only waits is not one that hangs


def lock(paths: Paths) -> int:
    """Hold the one lock of the node's daemon; it goes with the process. ConfineError if another one runs."""
    os.makedirs(paths.run, exist_ok=True)
    # Slivers' roots are mounted below: their ids must get through, and see nothing.
    os.chmod(paths.run, 0o711)  # noqa: S103
    handle = os.open(os.path.join(paths.run, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfineError("another daemon runs already: it holds {}/lock".format(paths.run))
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def main() -> int:
    """Run until told to stop. Exit status: 0 stopped, 1 could not start."""
    paths = Paths(run=os.environ.get("CONFINE_RUN", "/run/confine"))
    log = Log(paths.log)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # share/overlay-peer sends it as soon as the lock has our pid
    try:
        lock(paths)
    except ConfineError as error:
        log.warn("node", str(error))
        return 1
    settings, signals = None, Signals()
    while True:
        settings, problems = read_settings(paths, settings)
        problems += [Problem("", text) for text in (unkept(),) if text]
        paths.data = settings.data_dir
        for problem in problems:
            log.warn("settings", "{} {}".format(problem.member, problem.message).strip())
        try:
            check_format(paths.data)
            controller = Controller(paths, settings, problems, log)
        except (ConfineError, OSError) as error:
            log.warn("node", "cannot start: {}".format(error))
            return 1
        signals.lead_to(controller)
        if settings.watchdog_s:
            controller.beat = functools.partial(end_after, max(SHORTEST_HANG_S, settings.watchdog_s))
        controller.run()
        faulthandler.cancel_dump_traceback_later()
        signals.lead_to(None)
        if not controller.reload:
            return 0


def check_format(data: str) -> None:
    """Raises ConfineError for data of a format that this system does not know. Without the package confine-upgrade no
    other slot could have changed it."""
    try:
        from confine.upgrade.migrations import check_data
    except ModuleNotFoundError:
        return
    check_data(data)


def end_after(limit_s: float) -> None:
    """End this process, without more ado, unless called again within `limit_s`: it says on standard error what each
    thread was at. The interpreter's own timer sees to it, whatever holds the interpreter."""
    faulthandler.dump_traceback_later(limit_s, exit=True, file=2)


class Signals:
    """TERM and INT stop the controller, HUP has it begin again with fresh settings, USR1 has it look now. What comes
    while there is none is for the next one."""

    def __init__(self) -> None:
        self._controller: Controller | None = None
        self._missed: list[bool] = []
        signal.signal(signal.SIGTERM, lambda *_: self._stop(False))
        signal.signal(signal.SIGINT, lambda *_: self._stop(False))
        signal.signal(signal.SIGHUP, lambda *_: self._stop(True))
        signal.signal(signal.SIGUSR1, lambda *_: self._look())

    def lead_to(self, controller: "Controller | None") -> None:
        """`controller` is told from now on."""
        self._controller = controller
        while controller is not None and self._missed:
            controller.stop(self._missed.pop())

    def _look(self) -> None:
        if self._controller is not None:
            self._controller.look()

    def _stop(self, reload: bool) -> None:
        if self._controller is None:
            self._missed.append(reload)
        else:
            self._controller.stop(reload)


if __name__ == "__main__":
    sys.exit(main())
