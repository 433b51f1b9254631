"""Makes good documents and files bad, in the ways that people, software and hardware do."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

# No member that decides about a sliver may be any of these.
GARBAGE: list[Callable[[random.Random], Any]] = [
    lambda dice: -1 - dice.getrandbits(dice.randint(1, 80)),
    lambda dice: 10 ** dice.randint(20, 400),
    lambda dice: dice.random() + 0.5,
    lambda dice: "\x00" + "x" * dice.randint(0, 5),
    lambda dice: "no such value " * dice.randint(1, 3),
    lambda dice: "\ud800 \x1b[2J",
    lambda dice: "x y" * 5000,
    lambda dice: [["x"]] * dice.randint(1, 3),
    lambda dice: {"x y": [{}]},
    lambda dice: nested(dice.randint(1, 40)),
    lambda dice: ["garbage \x00"] * dice.choice([1, 30, 2000]),
]
# These may be good somewhere: then they are a change that is asked for.
PLAUSIBLE: list[Callable[[random.Random], Any]] = [
    lambda dice: None,
    lambda dice: dice.choice([True, False]),
    lambda dice: dice.randint(0, 3),
    lambda dice: dice.getrandbits(dice.randint(1, 48)),
    lambda dice: dice.choice(["start", "deploy", "register", "production", "safe", "debug", "failure", "START", ""]),
    lambda dice: dice.choice(["2020-01-01", "2999-12-31", "2026-02-29", "fd::1", "a" * 64, "1@1", "2@1", "1@2"]),
    lambda dice: dice.choice(["https://other.example/api/x/", "../../slices/2/", "/api/", "//", "http://[", "#", "?"]),
    lambda dice: [],
    lambda dice: {},
    lambda dice: {"uri": "../../templates/2/", "id": dice.randint(0, 9)},
]


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = "x y"
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside `value`."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += places(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`."""
    made = copy.deepcopy(value)
    inside = made
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = new
    return made


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy of `value` without what is at `path`."""
    made = copy.deepcopy(value)
    inside = made
    for step in path[:-1]:
        inside = inside[step]
    del inside[path[-1]]
    return made


def garbled(document: Any, dice: random.Random) -> tuple[Any, tuple[Any, ...]]:
    """(`document` with garbage at one place, that place)."""
    path = dice.choice(places(document))
    return replaced(document, path, dice.choice(GARBAGE)(dice)), path


def changed(document: Any, dice: random.Random, others: list[Any]) -> Any:
    """`document` with up to four changes, some garbage, some plausible, some parts of `others`."""
    for _ in range(dice.randint(1, 4)):
        ways = places(document)
        if not ways:
            return document
        path = dice.choice(ways)
        kind = dice.randrange(5)
        if kind == 0:
            document = without(document, path)
        elif kind == 1:
            document = replaced(document, path, dice.choice(GARBAGE)(dice))
        elif kind == 2:
            document = replaced(document, path, dice.choice(PLAUSIBLE)(dice))
        elif kind == 3:
            other = dice.choice(others)
            document = replaced(document, path, other if dice.randrange(3) == 0 else at(other, dice))
        else:
            document = doubled(document, path)
    return document


def at(value: Any, dice: random.Random) -> Any:
    """What is at some place in `value`."""
    for step in dice.choice(places(value) or [()]):
        value = value[step]
    return copy.deepcopy(value)


def doubled(document: Any, path: tuple[Any, ...]) -> Any:
    """A copy where a list at `path` holds everything twice; other things lie in a list."""
    value = document
    for step in path:
        value = value[step]
    return replaced(document, path, [*value, *value] if isinstance(value, list) else [value])


def flipped(content: bytes, position: int, bit: int) -> bytes:
    """`content` with one bit the other way round."""
    return content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]


def damaged(content: bytes, dice: random.Random) -> bytes:
    """`content` as bad memory, bad flash, a power cut or an editor leaves it."""
    for _ in range(dice.randint(1, 3)):
        if not content:
            return bytes(dice.getrandbits(8) for _ in range(dice.randrange(9)))
        begin = dice.randrange(len(content))
        end = min(len(content), begin + dice.choice([1, 1, 2, 8, 512, 4096]))
        kind = dice.randrange(6)
        if kind == 0:
            content = flipped(content, begin, dice.randrange(8))
        elif kind == 1:
            content = content[:begin]
        elif kind == 2:
            content = content[:begin] + b"\0" * (end - begin) + content[end:]
        elif kind == 3:
            content = content[:begin] + content[end:]
        elif kind == 4:
            content = content[:end] + content[begin:]
        else:
            content = content[:begin] + bytes(dice.getrandbits(8) for _ in range(end - begin)) + content[end:]
    return content


def encoded(document: Any) -> bytes:
    """`document` as a registry sends it, lone surrogates as escapes."""
    return json.dumps(document).encode()
