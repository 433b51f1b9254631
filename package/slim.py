"""Copies Python sources as they go onto a node: without what only people who change them read.

    PYTHONPATH=PROJECT python3 -m package.slim SOURCE TARGET      directories

Flash is scarce there. Left out are docstrings, comments, annotations and what stands below `if TYPE_CHECKING:`
(slim_cuts.py), and blanks that nothing needs (slim_lines.py); variables of functions get short names (slim_names.py).
All other names stay, and each statement stays on the line it began on, so that a traceback from a node names file,
line and function as they are in the repository. Nothing that runs changes: each file is parsed before and after, and
one whose code would not be the same stops the build. Files that are no Python are copied as they are; byte code, caches
and tests are not copied.

Needs Python 3.8 and nothing else: OpenWrt's build has one on the host.
"""

import ast
import os
import shutil
import sys
import tokenize

from package.slim_cuts import Finder, Plain, alike, without
from package.slim_lines import tight
from package.slim_names import same_names, shortened

LEFT_OUT = ("__pycache__", "tests")


class SlimError(Exception):
    """A file that cannot be slimmed: it does not parse, or its code would not be the same."""


def slimmed(text: bytes) -> bytes:
    """The Python source `text` without what does not run. Raises SlimError."""
    try:
        finder = Finder(text)
        finder.visit(ast.parse(text))
        lean = tight(without(text, finder.cuts))
        small = shortened(lean)
        same = alike(Plain().visit(ast.parse(text)), Plain().visit(ast.parse(lean))) and same_names(lean, small)
    except (SyntaxError, tokenize.TokenError) as error:
        raise SlimError(f"cannot be read as Python {sys.version.split()[0]}: {error}") from error
    if not same:
        raise SlimError("would not be the same program: slim.py takes too much away")
    return small


def copy(source: str, target: str) -> None:
    """Copy the file tree `source` to `target`, Python sources slimmed. Raises SlimError, which names the file."""
    for where, directories, names in os.walk(source):
        directories[:] = sorted(name for name in directories if name not in LEFT_OUT)
        goal = os.path.join(target, os.path.relpath(where, source))
        os.makedirs(goal, exist_ok=True)
        for name in sorted(names):
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                content = file.read()
            if name.endswith(".py"):
                try:
                    content = slimmed(content)
                except SlimError as error:
                    raise SlimError(f"{path}: {error}") from error
            if not name.endswith(".pyc"):
                with open(os.path.join(goal, name), "wb") as file:
                    file.write(content)
                shutil.copymode(path, os.path.join(goal, name))


def main() -> int:
    """Command line. Gives the exit status."""
    if len(sys.argv) != 3 or not os.path.isdir(sys.argv[1]):
        print("usage: slim SOURCE TARGET: directories", file=sys.stderr)
        return 2
    try:
        copy(sys.argv[1], sys.argv[2])
    except (SlimError, OSError) as error:
        print(f"slim: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
