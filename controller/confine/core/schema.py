"""Declared schemas: what a document from outside may hold, and what becomes of the rest.

A schema is built from the small classes below (`Int`, `Text`, `Choice`, `List`, `Object`, ...). `check()` holds a
value against one and gives a clean copy: only declared members, every value of the declared type and within
its bounds. Unknown members are dropped without a word (the registry may be newer than the node). An unusable
value is named by its JSON pointer, with what was found and what is allowed; then either its default stands in
(`optional`), or the object that needs it is unusable as a whole (`need`).

Nothing here raises for a bad value, whatever it is.
"""

from confine.core.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Resolve = Callable[[str], "str"]

# Bounds on a document as a whole. The captured documents are at most 5 deep with some hundred values.
MAX_DEPTH = 12
MAX_VALUES = 20000
# How many problems of one document are named; one more entry says that there are others.
MAX_PROBLEMS = 20
SHOWN = 40


class Unusable:
    """Stands for "no usable value"; a problem was already noted."""


UNUSABLE = Unusable()


def shown(value: "Any") -> str:
    """`value` for a message: short, printable, harmless in a terminal."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else repr(value[:SHOWN]) + "..."
    if isinstance(value, int):
        # Printing an integer of many thousand digits is an error of its own.
        return str(value) if -(1 << 64) < value < (1 << 64) else "an integer beyond 64 bits"
    if isinstance(value, float):
        return "the fraction " + str(value)
    if isinstance(value, list):
        return "a list of " + str(len(value))
    if isinstance(value, dict):
        return "an object"
    return "a value of another kind"


def printable(text: str) -> bool:
    """Whether `text` can be stored and shown: no control characters but tab and line ends, no lone surrogates."""
    for char in text:
        code = ord(char)
        if code < 32:
            if char not in "\t\n\r":
                return False
        elif 127 <= code < 160 or 0xD800 <= code <= 0xDFFF:
            return False
    return True


def only(text: str, allowed: str) -> bool:
    """Whether every character of `text` is one of `allowed`."""
    return all(char in allowed for char in text)


class Checker:
    """What goes along while one document is checked: the problems so far, and how URIs are made absolute."""

    def __init__(self, resolve: "Resolve | None") -> None:
        self.problems: "list[Problem]" = []
        self._resolve = resolve

    def refuse(self, pointer: str, value: "Any", allowed: str) -> Unusable:
        """Note that `value` at `pointer` is not what is allowed there."""
        return self.note(pointer, "found " + shown(value) + ", allowed is " + allowed)

    def note(self, pointer: str, message: str) -> Unusable:
        """Note a problem; beyond `MAX_PROBLEMS` only that there are more."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(pointer, message))
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append(Problem("", "there are more problems, which are not listed"))
        return UNUSABLE

    def absolute(self, uri: str) -> str:
        """`uri` as the rest of the controller knows it."""
        return uri if self._resolve is None else self._resolve(uri)


class Schema:
    """Base of all schemas: `allowed` says in words what may stand there."""

    allowed = "anything"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        """A clean copy of `value`, or `UNUSABLE` after a problem was noted."""
        raise NotImplementedError


class Bool(Schema):
    """true or false."""

    allowed = "true or false"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if value is True or value is False:
            return value
        return checker.refuse(pointer, value, self.allowed)


class Int(Schema):
    """An integer from `low` to `high`. true and false are none, nor are fractions."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        self.allowed = "an integer from " + str(low) + " to " + str(high)

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if type(value) is int and self.low <= value <= self.high:
            return value
        return checker.refuse(pointer, value, self.allowed)


class Text(Schema):
    """A text of `low` to `high` characters without control characters; `test` may ask for more, told as `words`."""

    def __init__(
        self, high: int, low: int = 0, test: "Callable[[str], bool] | None" = None, words: str = "a text"
    ) -> None:
        self.low = low
        self.high = high
        self.test = test
        self.allowed = words
        if low != high:
            self.allowed += " of " + str(low) + " to " + str(high) + " characters"
        if test is None:
            self.allowed += " without control characters"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if (
            isinstance(value, str)
            and self.low <= len(value) <= self.high
            and printable(value)
            and (self.test is None or self.test(value))
        ):
            return value
        return checker.refuse(pointer, value, self.allowed)


class Uri(Text):
    """A URI, absolute once resolved. `resolved` false: kept as it is, for addresses of others."""

    def __init__(self, resolved: bool = True) -> None:
        Text.__init__(self, 2048, 1, uri_like, "a URI without spaces")
        self.resolved = resolved

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        clean = Text.read(self, value, pointer, checker)
        if clean is UNUSABLE or not self.resolved:
            return clean
        return checker.absolute(clean)


def uri_like(text: str) -> bool:
    """Whether `text` has only characters a URI may hold (RFC 3986), and non-ASCII letters, which some write."""
    return not any(ord(char) <= 32 or char in '"<>\\^`{|}' for char in text)


class Choice(Schema):
    """One of a few words."""

    def __init__(self, words: "tuple[str, ...]") -> None:
        self.words = words
        self.allowed = "one of " + ", ".join(words)

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if isinstance(value, str) and value in self.words:
            return value
        return checker.refuse(pointer, value, self.allowed)


class Maybe(Schema):
    """The schema `inner`, or null."""

    def __init__(self, inner: Schema) -> None:
        self.inner = inner
        self.allowed = inner.allowed + ", or null"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        return None if value is None else self.inner.read(value, pointer, checker)


class EmptyIsNull(Schema):
    """An object, or null; an object without members counts as null (`mgmt_net` of the registry API)."""

    def __init__(self, inner: "Object") -> None:
        self.inner = inner
        self.allowed = inner.allowed + ", {} or null"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        return None if value is None or value == {} else self.inner.read(value, pointer, checker)


class List(Schema):
    """A list of at most `count` items. An unusable item is left out, or makes all unusable when `strict`."""

    def __init__(self, item: Schema, count: int, strict: bool = False) -> None:
        self.item = item
        self.count = count
        self.strict = strict
        self.allowed = "a list of at most " + str(count) + " items"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if not isinstance(value, list) or len(value) > self.count:
            return checker.refuse(pointer, value, self.allowed)
        clean = [self.item.read(item, pointer + "/" + str(nr), checker) for nr, item in enumerate(value)]
        usable = [item for item in clean if item is not UNUSABLE]
        if self.strict and len(usable) < len(clean):
            return UNUSABLE
        return usable


class Map(Schema):
    """An object of at most `count` texts under free names; unusable entries are left out."""

    def __init__(self, count: int, name_high: int, value_high: int) -> None:
        self.count = count
        self.name = Text(name_high, 1)
        self.value = Text(value_high)
        self.allowed = "an object of at most " + str(count) + " texts"

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if not isinstance(value, dict) or len(value) > self.count:
            return checker.refuse(pointer, value, self.allowed)
        clean = {}
        for name, item in value.items():
            usable_name = self.name.read(name, pointer, checker)
            if usable_name is UNUSABLE:
                continue
            usable = self.value.read(item, pointer + "/" + escaped(name), checker)
            if usable is not UNUSABLE:
                clean[name] = usable
        return clean


class Member:
    """A member of an `Object`: its schema, whether the object is unusable without it, and what stands in."""

    def __init__(self, schema: Schema, needed: bool, default: "Any") -> None:
        self.schema = schema
        self.needed = needed
        self.default = default

    def stand_in(self) -> "Any":
        """The default, a new one each time where it can be changed."""
        if isinstance(self.default, list):
            return list(self.default)
        return dict(self.default) if isinstance(self.default, dict) else self.default


def need(schema: Schema) -> Member:
    """A member without which its object is unusable."""
    return Member(schema, True, None)


def optional(schema: Schema, default: "Any") -> Member:
    """A member for which `default` stands in when it is missing (silently) or unusable (with a problem)."""
    return Member(schema, False, default)


class Object(Schema):
    """An object with declared members. Members that are not declared are dropped."""

    allowed = "an object"

    def __init__(self, members: "dict[str, Member]") -> None:
        self.members = members

    def read(self, value: "Any", pointer: str, checker: Checker) -> "Any":
        if not isinstance(value, dict):
            return checker.refuse(pointer, value, self.allowed)
        clean = {}
        usable = True
        for name, member in self.members.items():
            found = self._member(name, member, value, pointer, checker)
            if found is UNUSABLE:
                usable = False
            else:
                clean[name] = found
        return clean if usable else UNUSABLE

    def _member(self, name: str, member: Member, value: "dict[str, Any]", pointer: str, checker: Checker) -> "Any":
        where = pointer + "/" + name
        if name not in value:
            if member.needed:
                return checker.note(where, "is missing, allowed is " + member.schema.allowed)
            return member.stand_in()
        found = member.schema.read(value[name], where, checker)
        if found is UNUSABLE and not member.needed:
            return member.stand_in()
        return found


def escaped(name: str) -> str:
    """`name` as one part of a JSON pointer (RFC 6901)."""
    short = name if len(name) <= SHOWN else name[:SHOWN] + "..."
    return short.replace("~", "~0").replace("/", "~1")


def too_large(value: "Any") -> "str | None":
    """What makes `value` too large to be looked at (depth, number of values), or None."""
    seen = 0
    level = [value]
    depth = 0
    while level:
        depth += 1
        seen += len(level)
        if depth > MAX_DEPTH:
            return "nested deeper than " + str(MAX_DEPTH) + " levels"
        if seen > MAX_VALUES:
            return "more than " + str(MAX_VALUES) + " values"
        below: "list[Any]" = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
    return None


def check(
    schema: Schema, value: "Any", resolve: "Resolve | None" = None
) -> "tuple[dict[str, Any] | None, list[Problem]]":
    """Hold a parsed document against `schema`.

    resolve: makes a URI absolute, as the rest of the controller knows it (None: kept as it is).
    Returns (clean, problems). clean is None if the document is unusable as a whole: not an object, too deep,
    too many values, or a needed member is missing or unusable.
    """
    checker = Checker(resolve)
    excess = too_large(value)
    if excess is not None:
        checker.note("", "found a document with " + excess)
        return None, checker.problems
    clean = schema.read(value, "", checker)
    return (None if clean is UNUSABLE else clean), checker.problems
