"""A registry as it is reached at one address: by HTTP (this module), or as a directory (directory.py)."""

import json

from confine.errors import RegistryError
from confine.registry.transport import Response, Transport, soon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DOCUMENT_S = 20.0  # for one document, all redirects and bytes
PROFILE = "http://confine-project.eu/schema/registry/v1/"
RELATION = "http://confine-project.eu/rel/registry/"
MAX_LINKS = 64
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Answer:
    """What a registry said of one document.

    unchanged: it is as it was at the revision given. gone: there is no such object. Otherwise `value` is the parsed
    JSON and `revision` what to give next time. links: {rel without its prefix: URI as sent}. date: "YYYY-MM-DD" by
    the registry's clock if the registry proved who it is, else None.
    """

    def __init__(
        self,
        value: "Any" = None,
        revision: "str | None" = None,
        unchanged: bool = False,
        gone: bool = False,
        links: "dict[str, str] | None" = None,
        date: "str | None" = None,
    ) -> None:
        self.value = value
        self.revision = revision
        self.unchanged = unchanged
        self.gone = gone
        self.links = links or {}
        self.date = date


class Source:
    """What the walk needs of a registry at one address `base` (ends in a slash)."""

    base = ""

    def read(self, uri: str, kind: str, revision: "str | None", deadline: float) -> Answer:
        """The document of `kind` at `uri` (at this address). RegistryError says why it cannot be had or used."""
        raise NotImplementedError


class HttpSource(Source):
    """The registry API at the address `base`."""

    def __init__(self, base: str, transport: Transport, may_go: "Callable[[str], bool]") -> None:
        self.base = base
        self._transport = transport
        self._may_go = may_go
        self._authenticated = base.startswith("https://")  # TLS is always verified

    def read(self, uri: str, kind: str, revision: "str | None", deadline: float) -> Answer:
        """See `Source.read`. Documents of another profile, and HTML, are refused."""
        fields = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if revision is not None and revision.endswith('"'):
            fields["If-None-Match"] = revision
        response = self._transport.get(self.location(uri), fields, soon(deadline, DOCUMENT_S), self._may_go)
        date = http_date(response.head.get("date")) if self._authenticated else None
        if response.status == 304 and revision is not None:
            return Answer(unchanged=True, revision=revision, date=date)
        if response.status == 404 and self.is_gone(response):
            return Answer(gone=True, date=date)
        if response.status != 200:
            raise RegistryError("the registry answered with status {}".format(response.status))
        check_type(response.head.get("content-type"), kind)
        value = parse(response.body)
        return Answer(value, revision_of(response), links=links(response.head.get("link")), date=date)

    def location(self, uri: str) -> str:
        """Where the document `uri` is fetched."""
        return uri

    def is_gone(self, response: Response) -> bool:
        """Whether a 404 is the registry's own word for "no such object": {"detail": ...} as JSON. An HTML page is
        that of a server that knows no such path (registry API)."""
        if media_type(response.head.get("content-type"))[0] != "application/json":
            return False
        try:
            value = parse(response.body)
        except RegistryError:
            return False
        return isinstance(value, dict) and isinstance(value.get("detail"), str)


def media_type(text: str) -> "tuple[str, str]":
    """(type, profile) of a Content-Type, both "" if there is none."""
    kind, _, parameters = text.partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "profile":
            return kind.strip().lower(), value.strip().strip('"')
    return kind.strip().lower(), ""


def check_type(text: str, kind: str) -> None:
    """RegistryError unless `text` is the Content-Type of a document of `kind`."""
    found, profile = media_type(text)
    if found != "application/json":
        raise RegistryError("the answer is {!r}, not application/json".format(found[:80]))
    wanted = PROFILE + ("resource-list" if kind.endswith("-list") else kind)
    if profile and profile != wanted:
        raise RegistryError("the answer has the profile {!r}, not {}".format(profile[:120], wanted))


def revision_of(response: Response) -> str:
    """What names this version of the document: the ETag, or the MD5 of its body where there is none.

    Under gzip the registry puts ";gzip" into the ETag and does not know it when it comes back (registry API).
    """
    etag = response.head.get("etag")
    if len(etag) > 2 and etag.endswith('"') and len(etag) < 200:
        return etag[: -len(';gzip"')] + '"' if etag.endswith(';gzip"') else etag
    return digest(response.body)


def digest(body: bytes) -> str:
    """A name for a version by its content. Nothing is trusted because of it."""
    from hashlib import md5  # lazy: registries send ETags

    return "md5:" + md5(body, usedforsecurity=False).hexdigest()


def parse(body: bytes) -> "Any":
    """JSON text to a value. RegistryError for anything else, NaN and numbers too long for an int included."""
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse)
    except RecursionError:
        raise RegistryError("the document is nested too deeply")
    except ValueError as error:
        raise RegistryError("the document is not usable JSON: {}".format(str(error)[:200]))


def _refuse(word: str) -> None:
    raise ValueError(word + " is not a number of JSON")


def links(text: str, family: str = RELATION) -> "dict[str, str]":
    """The relations of a family (by default the registry's own) in a Link header, {"node-list": URI, ...}. Their order
    means nothing."""
    found: dict[str, str] = {}
    for part in text.split("<")[1 : MAX_LINKS + 1]:
        uri, _, parameters = part.partition(">")
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name.lower() != "rel":
                continue
            for relation in value.strip(' ,"').split():
                if relation.startswith(family):
                    found.setdefault(relation[len(family) :], uri.strip())
    return found


def http_date(text: str) -> "str | None":
    """The day of an HTTP date ("Fri, 20 Nov 2026 06:59:20 GMT") as "2026-11-20", None if it is none."""
    parts = text.split()
    if len(parts) != 6 or parts[2] not in MONTHS or parts[5] != "GMT":
        return None
    day, year = parts[1], parts[3]
    if not (day.isdigit() and year.isdigit() and len(year) == 4 and 1 <= int(day) <= 31):
        return None
    return "{}-{:02d}-{:02d}".format(year, MONTHS.index(parts[2]) + 1, int(day))
