"""URIs of registry documents: taking apart, resolving, and the many names of one registry.

A registry writes the address it was reached at into its documents, so the same document has another URI at each
of its addresses. The node knows it by one name: below the first configured address (`Names`).
"""

from confine.core.uris import join
from confine.errors import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Place(NamedTuple):
        """Where an HTTP URI points to. path: with the query, at least "/"."""

        scheme: str
        host: str
        port: int
        path: str

else:
    from collections import namedtuple

    Place = namedtuple("Place", ("scheme", "host", "port", "path"))

PORTS = {"http": 80, "https": 443}
# What may stand in a request line as it is; all else is escaped. "%" stays, since URIs come escaped.
PLAIN_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+,;=%"
PLAIN = frozenset(PLAIN_BYTES)
# What no host or port has in it: blanks and control characters.
UNUSABLE = frozenset([chr(code) for code in range(33)] + ["\x7f"])


def place(uri: str) -> Place:
    """Take an absolute http or https URI apart. RegistryError for any other."""
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in PORTS:
        raise RegistryError(
            "the URI {!r} cannot be fetched: it has to begin with http:// or https://".format(uri[:200])
        )
    rest = rest.partition("#")[0]
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    host, port = _host_and_port(rest[:cut], uri, PORTS[scheme])
    path = rest[cut:]
    return Place(scheme, host, port, path if path.startswith("/") else "/" + path)


def _host_and_port(authority: str, uri: str, default: int) -> "tuple[str, int]":
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        known = bool(bracket) and (tail == "" or tail.startswith(":"))
        port = tail[1:]
    else:
        host, _, port = authority.partition(":")
        known = True
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else (default if not port else -1)
    bad = not host or "@" in authority or not UNUSABLE.isdisjoint(authority)
    if bad or not known or not 0 < number < 65536:
        raise RegistryError("the URI {!r} cannot be fetched: its host or port is not usable".format(uri[:200]))
    return host.lower(), number


def origin(uri: str) -> str:
    """Scheme, host and port of an http(s) URI as one normal text, "https://[fd00::2]:443"."""
    return origin_of(place(uri))


def origin_of(where: Place) -> str:
    """As `origin`, of a URI taken apart."""
    return "{}://{}:{}".format(where.scheme, bracketed(where.host), where.port)


def origin_as_written(uri: str) -> str:
    """The beginning of an http(s) URI up to its path. RegistryError for others."""
    place(uri)
    return uri[: uri.index("/", uri.index("://") + 3)]


def bracketed(host: str) -> str:
    """`host` as it stands in a URI: an IPv6 address in brackets."""
    return "[" + host + "]" if ":" in host else host


def escaped(path: str) -> str:
    """`path` with everything percent-encoded (as UTF-8) that may not stand in a request line."""
    raw = path.encode("utf-8", "replace")
    if not raw.translate(None, PLAIN_BYTES):
        return path
    return "".join(chr(byte) if byte in PLAIN else "%{:02X}".format(byte) for byte in raw)


class Names:
    """Which URIs mean the same document. `canonical` is the first configured address, `bases` all of them.

    All end in a slash. `own` is how the registry calls itself in its base document.
    """

    def __init__(self, bases: "list[str]") -> None:
        self.bases = [base if base.endswith("/") else base + "/" for base in bases]
        self.canonical = self.bases[0]

    def known(self, uri: str, document: str, own: "str | None") -> str:
        """The name of `uri`, found in the document that calls itself `document`. Other hosts' URIs stay.

        Never raises: what is no usable URI comes back as it is, and fails when it is fetched.
        """
        absolute = join(document, uri)
        aliases = self.bases if own is None else [own, *self.bases]
        for alias in aliases:
            if absolute.startswith(alias):
                return self.canonical + absolute[len(alias) :]
        for alias in aliases:
            moved = _moved(absolute, alias, self.canonical)
            if moved is not None:
                return moved
        return absolute

    def at(self, uri: str, base: str) -> str:
        """Where the document of name `uri` is to be fetched when the registry is reached at `base`.

        RegistryError if the document is not this registry's.
        """
        if uri.startswith(self.canonical):
            return base + uri[len(self.canonical) :]
        raise RegistryError(
            "the document {} is not below the registry's address {}; it is not fetched".format(
                uri[:200], self.canonical
            )
        )


def _moved(uri: str, alias: str, canonical: str) -> "str | None":
    """`uri` with the origin of `canonical` if it has that of `alias` (files beside the API), else None."""
    try:
        if origin(uri) != origin(alias):
            return None
        return origin_as_written(canonical) + place(uri).path
    except RegistryError:
        return None
