"""Documents as they came, held against their schema and named as the node names them."""

from confine.core.documents import SCHEMAS
from confine.core.schema import check, printable, uri_like
from confine.core.uris import join
from confine.errors import RegistryError
from confine.registry.uris import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Problem

MAX_ITEMS = 1024


class Checked:
    """A document after the check. doc: the clean one, or None if it is unusable as a whole: then `failure` says why.

    uri: its name. problems: of single members.
    """

    def __init__(self, uri: str, doc: "dict[str, Any] | None", problems: "list[Problem]", failure: str) -> None:
        self.uri = uri
        self.doc = doc
        self.problems = problems
        self.failure = failure


def own_uri(base: "Any", address: str) -> "str | None":
    """How the registry reached at `address` calls itself in its base document, None if that cannot be used."""
    own = base.get("uri") if isinstance(base, dict) else None
    if not isinstance(own, str) or not 0 < len(own) <= 2048:
        return None
    absolute = join(address, own)
    return absolute if absolute.endswith("/") else absolute + "/"


def check_document(kind: str, value: "Any", uri: str, names: Names, own: "str | None") -> Checked:
    """The document `value` of `kind`, fetched as `uri`; `own` as from `own_uri`."""
    said = value.get("uri") if isinstance(value, dict) else None
    document = said if isinstance(said, str) and "://" in said else uri
    clean, problems = check(SCHEMAS[kind], value, lambda found: names.known(found, document, own))
    if clean is None:
        words = ["{} {}".format(problem.member, problem.message).strip() for problem in problems[:3]]
        return Checked(uri, None, problems, "the document cannot be used: " + "; ".join(words))
    return Checked(clean["uri"], clean, problems, "")


def check_list(kind: str, value: "Any", uri: str, names: Names, own: "str | None") -> "list[Checked]":
    """The documents of `kind` in the list `value`, fetched as `uri`. RegistryError if it is no usable list.

    An item has to lie below the list, or one that calls itself a sliver would take that sliver's place. One that is
    unusable is named by its URI, or by its place in the list where it has none that can be used.
    """
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise RegistryError("the document is not a list of at most {} items".format(MAX_ITEMS))
    found: dict[str, Checked] = {}
    for nr, item in enumerate(value):
        said = item.get("uri") if isinstance(item, dict) else None
        # What is no URI must not become a name: a lone surrogate, say, could not be kept on disk.
        known = isinstance(said, str) and 0 < len(said) <= 2048 and printable(said) and uri_like(said)
        name = names.known(said, uri, own) if known and isinstance(said, str) else "{}#/{}".format(uri, nr)
        checked = check_document(kind, item, name, names, own)
        if not checked.uri.startswith(uri):
            failure = "the item says it is {}, which is not below the list".format(checked.uri[:200])
            checked = Checked("{}#/{}".format(uri, nr), None, [], failure)
        found.setdefault(checked.uri, checked)
    return list(found.values())
