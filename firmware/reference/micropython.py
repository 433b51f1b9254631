"""Puts Debian's MicroPython at build/tools/micropython, runnable on this machine though it has an older C library.

The core's tests run under it. The program and the libraries it needs are taken from their packages and started
through that C library's own dynamic linker.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.reference.debian import BUILD, RELEASE, Archive, BuildError, locked, remove_tree, run, unpack

PACKAGES = ["micropython"]
TOOL = BUILD / "tools/micropython"
WRAPPER = """#!/bin/sh
# MicroPython of Debian {release}, with that release's C library.
root={root}
libraries=$root/usr/lib/x86_64-linux-gnu
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$root/usr/bin/micropython" "$@"
"""


def build(tool: Path = TOOL) -> Path:
    """Makes the tool unless it is there; gives its path. Raises BuildError."""
    with locked("micropython"):
        if tool.exists():
            return tool
        root = tool.with_name(tool.name + ".root")
        remove_tree(root)
        for deb in Archive().fetch(PACKAGES):
            unpack(deb, root)
        fresh = tool.with_name(tool.name + ".new")
        fresh.write_text(WRAPPER.format(release=RELEASE, root=root))
        fresh.chmod(0o755)
        version = run([fresh, "-c", "import sys; print(sys.implementation.version)"]).strip()
        if not version.startswith("(1, "):
            raise BuildError(f"{root}/usr/bin/micropython does not run: it said its version is {version!r}")
        fresh.rename(tool)
    return tool


def main() -> int:
    """Prints where the tool is."""
    try:
        print(f"micropython: {os.path.relpath(build())}")
    except BuildError as error:
        print(f"micropython: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
