"""What a client says it can take: media type, encoding, revision; and under which name it called this node."""

from confine.core.addressing import format_ipv6, parse_ipv4, parse_ipv6
from confine.core.text import DECIMAL_DIGITS, only

MOST = 32  # entries of one header field that are looked at
GZIP_ENDING = "-gzip"
NAME_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789-."


def _weighed(field: str) -> "list[tuple[str, float]]":
    """(word, weight 0-1) for each entry of an Accept field. An entry that cannot be read weighs nothing."""
    found = []
    for entry in field.split(",")[:MOST]:
        word, *parameters = (part.strip() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                weight = _weight(value.strip())
        if word:
            found.append((word.lower(), weight))
    return found


def _weight(text: str) -> float:
    whole, _, part = text.partition(".")
    if whole not in ("0", "1") or len(part) > 3 or (part and not only(part, DECIMAL_DIGITS)):
        return 0.0
    return min(1.0, float(text))


def wants_html(accept: str) -> bool:
    """Does a client with this Accept field rather take HTML than JSON? Browsers do; who does not care gets JSON."""
    html = json = 0.0
    for word, weight in _weighed(accept):
        if word == "text/html":
            html = max(html, weight)
        elif word in ("application/json", "application/*", "*/*"):
            json = max(json, weight)
    return html > json


def takes_gzip(accept_encoding: str) -> bool:
    """Whether gzip is accepted."""
    gzip = anything = None
    for word, weight in _weighed(accept_encoding):
        if word in ("gzip", "x-gzip"):
            gzip = weight
        elif word == "*":
            anything = weight
    chosen = gzip if gzip is not None else anything
    return chosen is not None and chosen > 0


def matches(if_none_match: str, etag: str) -> bool:
    """Does the field name the revision `etag` (unquoted, without ending), in any encoding? Weak ones, lists and *
    are understood; so is an ETag without its quotes."""
    if if_none_match.strip() == "*":
        return True
    for entry in if_none_match.split(",")[:MOST]:
        word = entry.strip()
        if word.startswith("W/"):
            word = word[2:]
        if len(word) >= 2 and word[0] == '"' and word[-1] == '"':
            word = word[1:-1]
        if word.endswith(GZIP_ENDING):
            word = word[: -len(GZIP_ENDING)]
        if word == etag:
            return True
    return False


def authority(host: str, names: "list[str]") -> str:
    """The Host field in its canonical form, `name`, `1.2.3.4` or `[::1]`, with `:port` if one was given.

    ValueError if it is none, or a name that is not in `names` (lower case): a page on the web could give a name of
    its own this node's address, and have a visitor's browser read it. Addresses cannot be abused so.
    """
    literal, port = _split_port(host)
    if literal.startswith("["):
        if not literal.endswith("]"):
            raise ValueError("the Host is not an address or a name")
        return "[" + format_ipv6(parse_ipv6(literal[1:-1])) + "]" + port
    name = literal.lower().rstrip(".")
    if name and only(name.replace(".", ""), DECIMAL_DIGITS):
        return ".".join(str(part) for part in parse_ipv4(name)) + port
    if not name or not only(name, NAME_CHARS):
        raise ValueError("the Host is not an address or a name")
    if name not in names:
        raise ValueError("this node does not know itself by the name " + name[:64])
    return name + port


def _split_port(host: str) -> "tuple[str, str]":
    """(address or name, ":port" or "")."""
    cut = host.rfind(":")
    if cut < 0 or "]" in host[cut:]:
        return host, ""
    port = host[cut + 1 :]
    if not port:
        return host[:cut], ""
    if len(port) > 5 or not only(port, DECIMAL_DIGITS) or not 1 <= int(port) <= 65535:
        raise ValueError("the Host's port is not a number from 1 to 65535")
    return host[:cut], ":" + str(int(port))
