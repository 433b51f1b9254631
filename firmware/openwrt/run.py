"""Runs OpenWrt's own tools, all they say written to the build's log."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from firmware.openwrt.errors import FirmwareError

_KEPT = ("PATH", "HOME", "TERM", "http_proxy", "https_proxy", "no_proxy")
_TAIL = 25


class Runner:
    """log: the file that is added to. epoch: the time (seconds since 1970) that tools shall write everywhere."""

    def __init__(self, log: str, epoch: int, timeout_s: int = 3 * 3600) -> None:
        self._log, self._epoch, self._timeout_s = log, epoch, timeout_s

    def run(self, argv: Sequence[str], directory: str, extra: Mapping[str, str] | None = None) -> None:
        """Run a command in a directory. extra: further environment. Raises FirmwareError with its last lines."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment.update(LC_ALL="C", TZ="UTC", SOURCE_DATE_EPOCH=str(self._epoch), **(extra or {}))
        with open(self._log, "ab") as log:
            log.write(f"\n$ {' '.join(argv)}\n".encode())
            log.flush()
            began = log.tell()
            try:
                done = subprocess.run(
                    list(argv), cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, timeout=self._timeout_s, check=False,
                )  # fmt: skip
            except FileNotFoundError:
                raise FirmwareError(f"{argv[0]} is not on this machine: see tools/firmware-packages.txt") from None
            except subprocess.TimeoutExpired:
                raise FirmwareError(f"{' '.join(argv)}: not done after {self._timeout_s} s; see {self._log}") from None
        if done.returncode != 0:
            said = self._said(began)
            raise FirmwareError(
                f"{' '.join(argv)}: exit status {done.returncode}. It ends with\n{said}\nAll of it: {self._log}"
            )

    def _said(self, began: int) -> str:
        with open(self._log, "rb") as log:
            log.seek(began)
            lines = log.read().decode("utf-8", "replace").splitlines()[-_TAIL:]
        return "\n".join("  " + line for line in lines)
