"""Runs the host's tools with an environment that makes their output the same every time."""

import os
import subprocess
from collections.abc import Sequence


class ToolError(RuntimeError):
    """A tool failed or is not there: carries its name, status and last words."""


def run(argv: Sequence[str], epoch: int, stdin: str = "") -> str:
    """Run a tool and give back its output. epoch: the time (seconds since 1970) that it shall write everywhere.

    Raises ToolError with what the tool said, or with the name of the tool if the host lacks it.
    """
    environment = {
        "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "E2FSPROGS_FAKE_TIME": str(epoch),
        "MTOOLSRC": "/dev/null",
        "MTOOLS_SKIP_CHECK": "1",
    }
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, env=environment, timeout=120, check=False
        )
    except FileNotFoundError:
        raise ToolError(f"{argv[0]} is not on this machine: install the packages of tools/packages.txt") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ToolError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return done.stdout
