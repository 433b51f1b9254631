"""`make bench`: the table of figures. ONLY=name[,name] takes some of them. Nothing here fails for being slow.

All ratios are of one run, of the same machine or the same virtual node. Each part is bounded in time; one that
cannot be measured says why in its line.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "test"), TOP, os.path.join(TOP, "controller")]

from bench.table import Figure, heading, host_versions, line, missing, say  # noqa: E402  # after the path is set

FIRST = ("host", "virtual")  # then every *_bench.py, by name


def parts() -> dict[str, Any]:
    """{name: module} of what has figures: NAMES, a word for each that ONLY takes, and figures(wanted, versions)."""
    found = sorted(
        name[:-3] for name in os.listdir(HERE) if name.endswith("_bench.py") and not name.startswith("test_")
    )
    return {name: importlib.import_module("bench." + name) for name in (*FIRST, *found)}


def guarded(what: str, figures: Iterable[Figure]) -> Iterator[Figure]:
    """`figures`; where they break off, a line that says why."""
    try:
        yield from figures
    except Exception as error:  # one part's fault must not take the others' lines away
        say(f"{what}: {type(error).__name__}: {error}")
        yield missing(what, f"{type(error).__name__}: {str(error)[-200:]}")


def main() -> int:
    """Measure, print. Exit status 2 for a name that is none."""
    modules = parts()
    names = {name for module in modules.values() for name in module.NAMES}
    wanted = set(filter(None, os.environ.get("ONLY", "").replace(",", " ").split())) or names
    if wanted - names:
        print(f"ONLY={' '.join(sorted(wanted - names))}: there is only {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    versions = host_versions()
    found: list[Figure] = []
    for part, module in modules.items():
        if wanted & set(module.NAMES):
            found += guarded(f"figures of {part}", module.figures(wanted, versions))
    print(heading(versions))
    for figure in found:
        print(line(figure.cells()))
    print(f"\n{sum(figure.reached is True for figure in found)} of {len(found)} reached; "
          f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
