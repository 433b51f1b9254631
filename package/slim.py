"""Copies Python sources as they go onto a node: without what only people who change them read.

    PYTHONPATH=PROJECT python3 -m package.slim SOURCE TARGET      directories

Flash is scarce there. Left out are docstrings, comments, annotations and what stands below `if TYPE_CHECKING:`
(slim_cuts.py), and blanks that nothing needs (slim_lines.py). Names stay, and each statement stays on the line it
began on, so that a traceback from a node is found in the sources of the repository. Nothing that
runs changes: each file is parsed before and after, and one whose code would not be the same stops the build. Files
that are no Python are copied as they are; byte code, caches and tests are not copied.

Needs Python 3.8 and nothing else: OpenWrt's build has one on the host.
"""

import ast
import os
import shutil
import sys
import tokenize

from package.slim_cuts import Finder, Plain, without
from package.slim_lines import tight

LEFT_OUT = ("__pycache__", "tests")


class SlimError(Exception):
    """A file that cannot be slimmed: it does not parse, or its code would not be the same."""


def slimmed(text: bytes) -> bytes:
    """The Python source `text` without what does not run. Raises SlimError."""
    try:
        finder = Finder(text)
        finder.visit(ast.parse(text))
        small = tight(without(text, finder.cuts))
        same = alike(Plain().visit(ast.parse(text)), Plain().visit(ast.parse(small)))
    except (SyntaxError, tokenize.TokenError) as error:
        raise SlimError(f"cannot be read as Python {sys.version.split()[0]}: {error}") from error
    if not same:
        raise SlimError("would not be the same program: slim.py takes too much away")
    return small


def alike(one: object, other: object) -> bool:
    """Are two trees the same, each statement on the same line?"""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if not isinstance(one, ast.AST) or not isinstance(other, ast.AST):
        return type(one) is type(other) and one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, (ast.stmt, ast.excepthandler)) and one.lineno != other.lineno:  # type: ignore[attr-defined]
        return False
    return all(alike(getattr(one, name, None), getattr(other, name, None)) for name in one._fields)


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
