"""What goes wrong when firmware is made, and the nearest right word for a wrong one."""

import difflib
from collections.abc import Iterable


class FirmwareError(Exception):
    """The firmware cannot be made: says what, with which value, and what to do."""


def meant(word: str, known: Iterable[str]) -> str:
    """`: did you mean ...?` for a wrong word that is near a known one, else the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
