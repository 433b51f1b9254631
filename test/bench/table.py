"""One line of the table of figures, and the table itself."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass

from qemu.harness_machine import acceleration

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WIDTHS = (44, 24, 30, 7, 24, 8)
TITLES = ("figure", "measured", "compared with", "ratio", "to reach", "reached")


@dataclass(frozen=True)
class Figure:
    """What was measured, beside what. ratio: measured by compared, of one run. reached None: not measured."""

    name: str
    measured: str
    compared: str = ""
    ratio: float | None = None
    to_reach: str = ""
    reached: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts of its line in the table."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        said = {True: "yes", False: "NO", None: "-"}[self.reached]
        return (self.name, self.measured, self.compared, ratio, self.to_reach, said)


def at_most(name: str, mine: float, other: float, limit: float, unit: str, beside: str) -> Figure:
    """A figure that is to be at most `limit` times another one."""
    ratio = mine / other
    return Figure(name, f"{mine:.4g} {unit}", f"{other:.4g} {unit}: {beside}", ratio, f"<= {limit:g} x", ratio <= limit)


def missing(name: str, why: str) -> Figure:
    """A figure that could not be had."""
    return Figure(name, f"not measured: {why}")


def line(cells: tuple[str, ...]) -> str:
    """Cells side by side, each wrapped to its column."""
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)]
    rows = []
    for number in range(max(len(column) for column in columns)):
        texts = [column[number] if number < len(column) else "" for column in columns]
        rows.append("  ".join(text.ljust(width) for text, width in zip(texts, WIDTHS, strict=True)).rstrip())
    return "\n".join(rows)


def heading(versions: dict[str, str]) -> str:
    """The machine and what it runs, then the titles of the columns."""
    facts = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), machine(), *(" ".join(it) for it in versions.items())]
    wrapped = textwrap.fill("; ".join(facts), sum(WIDTHS))
    return "\n".join([wrapped, "", line(TITLES), line(tuple("-" * width for width in WIDTHS))])


def machine() -> str:
    """Processor, number of processors, whether virtual nodes are emulated."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        for text in file:
            if text.startswith("model name"):
                model = text.partition(":")[2].strip()
                break
    virtual = acceleration()[1].partition(",")[0]
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model}, virtual nodes by {virtual}, load {load:.1f}"


def host_versions() -> dict[str, str]:
    """What this machine has of what the figures depend on."""
    found = {"kernel": platform.release(), "Python": platform.python_version(), "commit": commit()}
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
        found["QEMU"] = said.split("\n")[0].partition("version ")[2].split(" ")[0]
    return found


def commit() -> str:
    """The source tree's commit, marked if it has changes."""
    argv = ["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "describe", "--always", "--dirty"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def say(text: str) -> None:
    """What happens now, apart from the table."""
    print(text, file=sys.stderr, flush=True)
