"""`make bench`: the table of figures. ONLY=name[,name] takes some of them. Nothing here fails for being slow.

All ratios are of one run, of the same machine or the same virtual node. Each part is bounded in time; one that
cannot be measured says why in its line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "test"), TOP, os.path.join(TOP, "controller")]

from bench import host, virtual  # noqa: E402  # after the path is set
from bench.table import Figure, heading, host_versions, line, missing, say  # noqa: E402

API = "api"


def api() -> Iterator[Figure]:
    """The figures of the node API: those of api_bench.py's `figures()`, where there is one."""
    name = "node API, one document and 304"
    if importlib.util.find_spec("confine.api") is None:
        yield missing(name, "no node API")
        return
    if importlib.util.find_spec("bench.api_bench") is None:
        yield missing(name, "no test/bench/api_bench.py")
        return
    module = importlib.import_module("bench.api_bench")
    yield from module.figures()


def guarded(what: str, figures: Iterable[Figure]) -> Iterator[Figure]:
    """`figures`; where they break off, a line that says why."""
    try:
        yield from figures
    except Exception as error:  # one part's fault must not take the others' lines away
        say(f"{what}: {type(error).__name__}: {error}")
        yield missing(what, f"{type(error).__name__}: {str(error)[-200:]}")


def main() -> int:
    """Measure, print. Exit status 2 for a name that is none."""
    names = {*host.NAMES, *virtual.NAMES, API}
    wanted = set(filter(None, os.environ.get("ONLY", "").replace(",", " ").split())) or names
    if wanted - names:
        print(f"ONLY={' '.join(sorted(wanted - names))}: there is only {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    versions = host_versions()
    found: list[Figure] = []
    if wanted & set(host.NAMES):
        found += guarded("figures of this machine", host.figures(wanted))
    if wanted & set(virtual.NAMES):
        figures = virtual.figures(wanted, versions) if virtual.built() else virtual.without_image()
        found += guarded("figures of the virtual node", figures)
    if API in wanted:
        found += guarded("figures of the node API", api())
    print(heading(versions))
    for figure in found:
        print(line(figure.cells()))
    print(f"\n{sum(figure.reached is True for figure in found)} of {len(found)} reached; "
          f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
