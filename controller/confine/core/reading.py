"""Looking into documents without trusting them: a member of another type counts as missing.

Documents were checked against their schemas when they were read; the ones kept on disk may be older than the
schemas. Nothing here raises.
"""

from confine.core.model import Problem
from confine.core.uris import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def text(doc: "Any", member: str) -> "str | None":
    """A text that is not empty."""
    value = doc.get(member) if isinstance(doc, dict) else None
    return value if isinstance(value, str) and value else None


def whole(doc: "Any", member: str) -> "int | None":
    """A whole number; true and false are none."""
    value = doc.get(member) if isinstance(doc, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def entries(doc: "Any", member: str) -> "list[Any]":
    """The objects in a list."""
    value = doc.get(member) if isinstance(doc, dict) else None
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def texts(doc: "Any", member: str) -> "list[str]":
    """The texts in a list."""
    value = doc.get(member) if isinstance(doc, dict) else None
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def mapping(doc: "Any", member: str) -> "dict[str, Any]":
    """An object."""
    value = doc.get(member) if isinstance(doc, dict) else None
    return value if isinstance(value, dict) else {}


def reference(doc: "Any", member: str, base: str) -> "tuple[str | None, int | None]":
    """(absolute URI, id) of a reference {"uri", "id"} in the document at `base`."""
    ref = mapping(doc, member)
    uri = text(ref, "uri")
    return (join(base, uri) if uri else None), whole(ref, "id")


class Documents:
    """The registry's documents by absolute URI, with what is known to be gone and what was wrong at the last read."""

    def __init__(self, state: "Any") -> None:
        self.docs = mapping(state, "docs")
        self._gone = texts(state, "gone")
        self._problems = mapping(state, "problems")

    def find(self, uri: "str | None") -> "dict[str, Any] | None":
        """The last good version of the document at `uri`, or None."""
        doc = self.docs.get(uri) if uri else None
        return doc if isinstance(doc, dict) else None

    def is_gone(self, uri: "str | None") -> bool:
        """Whether the registry said that there is no such document any more."""
        return uri in self._gone

    def problems(self, uri: "str | None", label: str = "") -> "list[Problem]":
        """What was wrong with `uri` at the last read. `label`: the document is another one than is reported on."""
        found = self._problems.get(uri) if uri else None
        read = []
        for entry in found if isinstance(found, list) else []:
            member, message = text(entry, "member") or "", text(entry, "message") or "is not usable"
            if label:
                member, message = "", label + " (" + str(uri) + member + "): " + message
            read.append(Problem(member, message))
        return read
