"""What all records of the controller have in common: members that compare, print and become JSON.

MicroPython has no dataclasses, hence the written-out constructors of records; `FIELDS` names the members that count for
equality and for `as_doc()`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def plain(value: "Any") -> "Any":
    """`value` as what JSON can hold: records become dicts, tuples lists, all the way down."""
    if isinstance(value, Record):
        return value.as_doc()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


class Record:
    """Base of all records: equality, printing and `as_doc()` over `FIELDS`."""

    FIELDS: "tuple[str, ...]" = ()

    def as_doc(self) -> "dict[str, Any]":
        """The record as a JSON-ready dict with the members of `FIELDS`."""
        return {field: plain(getattr(self, field)) for field in self.FIELDS}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        return all(getattr(self, field) == getattr(other, field) for field in self.FIELDS)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # records compare by value and are mutable

    def __repr__(self) -> str:
        inner = ", ".join(field + "=" + repr(getattr(self, field)) for field in self.FIELDS)
        return type(self).__name__ + "(" + inner + ")"
