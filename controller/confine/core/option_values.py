"""The values that options of UCI can have: one parser for each datatype.

Each takes text and the bounds that the table of options (settings.py) gives for it, and returns the value; ValueError
says what is allowed.
"""

from confine.core.addressing import MAX_NODE_ID, format_ipv6, parse_ipv4, parse_ipv6, parse_mac_prefix16, parse_prefix24
from confine.core.addressing import parse_prefix48 as prefix48
from confine.core.overlay_documents import is_name
from confine.core.text import HEX_DIGITS, is_decimal, only

TRUE_WORDS = ("1", "on", "true", "yes", "enabled")
FALSE_WORDS = ("0", "off", "false", "no", "disabled")
FILE_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-"
HOST_NAME = "abcdefghijklmnopqrstuvwxyz0123456789-."


def parse_node_id(text: str, bounds: None) -> int:
    """Node id as the image generators write it: up to 4 hex digits, 0001-fff0."""
    lowered = text.lower()
    if only(lowered, HEX_DIGITS) and len(lowered) <= 4 and 1 <= int(lowered, 16) <= MAX_NODE_ID:
        return int(lowered, 16)
    raise ValueError("must be a node id as hex digits, 0001 to fff0")


def parse_int(text: str, bounds: "tuple[int, int]") -> int:
    """A whole decimal number within `bounds`, both included."""
    low, high = bounds
    if is_decimal(text) and len(text) <= 15 and low <= int(text) <= high:
        return int(text)
    raise ValueError("must be a whole number from " + str(low) + " to " + str(high))


def parse_bool(text: str, bounds: None) -> bool:
    """One of UCI's words for yes and no."""
    if text in TRUE_WORDS:
        return True
    if text in FALSE_WORDS:
        return False
    raise ValueError("must be 1 or 0")


def parse_path(text: str, bounds: None) -> str:
    """An absolute path without '..' and control characters; final slashes go."""
    path = text.rstrip("/")
    if not text.startswith("/") or not path or ".." in path.split("/") or any(char < " " for char in text):
        raise ValueError("must be an absolute path below / without '..'")
    return path


def parse_uri(text: str, bounds: "tuple[str, ...]") -> str:
    """A URI with one of the schemes of `bounds`, printable ASCII, with a final slash (a registry's base)."""
    scheme = text.split("://", 1)[0]
    if "://" not in text or scheme not in bounds or not all("!" <= char <= "~" for char in text):
        raise ValueError("must be a URI that begins with " + " or ".join(word + "://" for word in bounds))
    rest = text.split("://", 1)[1]
    if not rest or (scheme != "file" and rest[0] in "/:"):
        raise ValueError("must name a host after " + scheme + "://")
    if scheme == "file" and not rest.startswith("/"):
        raise ValueError("must be an absolute path after file://")
    return text if text.endswith("/") else text + "/"


def parse_ifname(text: str, bounds: None) -> str:
    """A Linux interface name."""
    if (
        1 <= len(text) <= 15
        and text not in (".", "..")
        and all("!" <= char <= "~" and char not in "/:" for char in text)
    ):
        return text
    raise ValueError("must be an interface name of at most 15 characters")


def parse_mac_prefix(text: str, bounds: None) -> str:
    """Two bytes like 54:c0."""
    return parse_mac_prefix16(text)


def parse_ipv4_prefix(text: str, bounds: None) -> str:
    """192.168.241 or 192.168.241.0/24."""
    return parse_prefix24(text)


def parse_ipv6_prefix(text: str, bounds: None) -> str:
    """fdbd:e804:6aa9::/48, with or without the ending."""
    return prefix48(text.lower())


def parse_address(text: str, bounds: None) -> str:
    """An IPv4 or IPv6 address."""
    try:
        if ":" in text:
            parse_ipv6(text)
        else:
            parse_ipv4(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address")
    return text


def parse_word(text: str, bounds: "tuple[str, ...]") -> str:
    """One of the words `bounds`."""
    if text in bounds:
        return text
    raise ValueError("must be one of " + ", ".join(bounds))


def parse_plain_ipv4(text: str, bounds: None) -> str:
    """An IPv4 address that a host can have."""
    parts = parse_ipv4(text)
    if parts[0] in (0, 127) or parts[0] >= 224:
        raise ValueError("cannot be given to interfaces")
    return text


def parse_plain_ipv6(text: str, bounds: None) -> str:
    """An IPv6 address."""
    return format_ipv6(parse_ipv6(text.lower()))


def parse_host_address(text: str, bounds: None) -> str:
    """192.0.2.5/24, or 192.0.2.5 for the same."""
    address, _, bits = text.partition("/")
    if bits and not (is_decimal(bits) and len(bits) <= 2 and 8 <= int(bits) <= 32):
        raise ValueError("must be an IPv4 address, with a prefix length from 8 to 32 after '/' or without")
    return parse_plain_ipv4(address, None) + "/" + str(int(bits or "24"))


def parse_ipv6_prefix64(text: str, bounds: None) -> str:
    """2001:db8:1:2::/64 as its four groups '2001:db8:1:2'."""
    address, _, bits = text.lower().partition("/")
    groups = parse_ipv6(address)
    if bits not in ("", "64") or any(groups[4:]) or groups[0] == 0 or groups[0] >= 0xFE80:
        raise ValueError("must be a /64 prefix like 2001:db8:1:2::/64")
    return ":".join(["{:x}".format(group) for group in groups[:4]])


def parse_tinc_name(text: str, bounds: None) -> str:
    """A name in tinc."""
    if is_name(text):
        return text
    raise ValueError("must be a name of letters, digits and '_'")


def parse_host_name(text: str, bounds: None) -> str:
    """A host name, in lower case."""
    name = text.lower()
    if only(name, HOST_NAME) and len(name) <= 253 and name[0] not in "-." and name[-1] not in "-." and ".." not in name:
        return name
    raise ValueError("must be a host name of letters, digits, '-' and '.'")


def parse_prefix(text: str, bounds: None) -> str:
    """An IPv4 or IPv6 prefix like 10.0.0.0/8; a bare address means itself, and bits beyond the length do not count:
    192.168.1.1/24, as people write their own network, is 192.168.1.0/24."""
    address, slash, length = text.partition("/")
    try:
        groups = parse_ipv6(address) if ":" in address else parse_ipv4(address)
    except ValueError:
        raise ValueError("must be a prefix like 10.0.0.0/8 or fd00::/8")
    size = 16 if len(groups) == 8 else 8
    width = size * len(groups)
    if slash and not (is_decimal(length) and len(length) <= 3 and int(length) <= width):
        raise ValueError("must have a prefix length of at most " + str(width))
    kept = int(length) if slash else width
    mask = (1 << width) - (1 << (width - kept))
    inside = [group & mask >> (width - size * (place + 1)) for place, group in enumerate(groups)]
    network = format_ipv6(inside) if size == 16 else ".".join([str(byte) for byte in inside])
    return network + ("/" + str(kept) if slash else "")


def parse_name(text: str, bounds: None) -> str:
    """A version or branch: part of a file name on a mirror."""
    if only(text, FILE_NAME) and len(text) <= 64 and text[0] not in "._-":
        return text
    raise ValueError("must be a name of letters, digits and . _ + ~ -")


def parse_hours(text: str, bounds: None) -> str:
    """Two hours of the day: "3-6" is from 3:00 to 6:00, "22-5" goes over midnight."""
    first, dash, last = text.partition("-")
    usable = dash and is_decimal(first) and is_decimal(last) and len(text) <= 5
    if usable and int(first) <= 23 and int(last) <= 24 and int(first) != int(last):
        return text
    raise ValueError("must be two hours from 0 to 24, like 3-6 or 22-5")
