"""Restarting the node."""

import os
import subprocess

from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from confine.core.model import Step

REBOOT_S = 30


class Boot:
    """Step `boot reboot`."""

    def __init__(self, command: "Sequence[str]" = ("reboot",)) -> None:
        """command: what asks the node's init for a restart (busybox and procd have the same one)."""
        self._command = list(command)

    def reboot(self, step: "Step") -> None:
        """Flush what is written and ask init for an orderly restart; it then ends this process like all others.

        Comes back when init has been asked. StepError if it could not be.
        """
        os.sync()
        try:
            done = subprocess.run(
                self._command, stdin=subprocess.DEVNULL, capture_output=True, timeout=REBOOT_S, check=False
            )
        except FileNotFoundError:
            raise StepError(f"there is no {self._command[0]} program on this node")
        except subprocess.TimeoutExpired:
            raise StepError(f"{self._command[0]} did not end within {REBOOT_S} s")
        if done.returncode != 0:
            said = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise StepError(f"{self._command[0]} failed (status {done.returncode}): {said}")
