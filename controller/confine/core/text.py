"""Small text helpers, most of them because MicroPython lacks the method one would use."""

HEX_DIGITS = "0123456789abcdef"
DECIMAL_DIGITS = "0123456789"


def only(text: str, allowed: str) -> bool:
    """Whether `text` is not empty and made of characters of `allowed` alone."""
    return bool(text) and all(char in allowed for char in text)


def is_decimal(text: str) -> bool:
    """Whether `text` is made of ASCII digits alone: `int()` takes signs, blanks, underscores and other scripts."""
    return only(text, DECIMAL_DIGITS)


def shown(value: object, limit: int = 60) -> str:
    """`value` as it may stand in a message: quoted, and cut after `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def several(count: int, word: str, ending: str = "s") -> str:
    """So many of something: "1 line", "2 lines"."""
    return str(count) + " " + word + ("" if count == 1 else ending)


def distance(one: str, other: str) -> int:
    """How many letters must be changed, added or dropped to get from `one` to `other` (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        before, row[0] = row[0], i + 1
        for j, b in enumerate(other):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (a != b))
    return row[-1]


def nearest(word: str, choices: "list[str]") -> "str | None":
    """The one of `choices` that `word` is most likely meant to be, or None if none is near."""
    best, best_distance = None, len(word) // 3 + 2
    for choice in sorted(choices):
        far = distance(word[:64], choice)
        if far < best_distance:
            best, best_distance = choice, far
    return best
