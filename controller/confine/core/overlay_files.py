"""The files below /etc/tinc/confine/: read without trusting them, and written. Pure.

tinc.conf and hosts/NAME hold lines "Key = value" (keys in any case); a host's file also its public key as PEM. Two
files are the same if they say the same: what an image generator or a person wrote is then left as it is.
"""

from confine.core import rsa

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.overlay_documents import OverlayPeer

    Options = list[tuple[str, str]]

MARK = "# Kept up to date by the node's controller"
CONF_HEAD = MARK + ": Name, and the ConnectTo lines that follow from the registry. Others are left.\n"
HOST_HEAD = MARK + " from what the registry says: changes here are lost.\n"
MTU = 1400
MAX_LINE = 1024


def options(text: str) -> "Options":
    """(key in lower case, value) of each line; comments, keys' text and what is no option are left out."""
    found = []
    for line in rsa.without_blocks(text):
        line = line.strip()
        if not line or line.startswith("#") or len(line) > MAX_LINE:
            continue
        key, separator, value = line.partition("=")
        if not separator:
            key, _, value = line.partition(" ")
        if key.strip() and value.strip():
            found.append((key.strip().lower(), value.strip()))
    return found


def is_whole(text: str) -> bool:
    """Whether every line says something: tincd gives up on a file with a line that is cut off."""
    lines = [line.strip() for line in rsa.without_blocks(text)]
    return all(not line or line.startswith("#") or len(options(line)) == 1 for line in lines)


def value_of(found: "Options", key: str) -> "str | None":
    """The first value of `key` (lower case), or None."""
    for name, value in found:
        if name == key:
            return value
    return None


def values_of(found: "Options", key: str) -> "list[str]":
    """All values of `key`, in their order."""
    return [value for name, value in found if name == key]


def is_ours(text: str) -> bool:
    """Whether the controller wrote this file."""
    return text.startswith(MARK)


def key_of(text: str) -> "rsa.Numbers | None":
    """The public key in a host's file, or None if there is no usable one."""
    try:
        return rsa.numbers(text)
    except ValueError:
        return None


def same_host(one: "str | None", other: str) -> bool:
    """Whether two files of a host say the same."""
    return one is not None and is_whole(one) and key_of(one) == key_of(other) and options(one) == options(other)


def same_conf(one: "str | None", other: str) -> bool:
    """Whether two tinc.conf say the same."""
    return one is not None and is_whole(one) and options(one) == options(other)


def host(addresses: "list[tuple[str, int]]", subnet: str, key: str, port: "int | None" = None) -> str:
    """A host's file. port: it listens on, if not the usual one."""
    lines = ["Address = " + name + " " + str(number) + "\n" for name, number in addresses]
    lines.append("Subnet = " + subnet + "\n")
    if port is not None:
        lines.append("Port = " + str(port) + "\n")
    return HOST_HEAD + "".join(lines) + key


def of_peer(peer: "OverlayPeer") -> str:
    """The file of a server or host."""
    return host(peer.addresses, peer.subnet, peer.key)


def conf(before: "str | None", name: str, connect: "list[str]") -> str:
    """tinc.conf with this name and these ConnectTo; other options of `before` stay."""
    lines = ["Name = " + name + "\n"]
    lines += ["ConnectTo = " + peer + "\n" for peer in connect]
    for line in rsa.without_blocks(before or ""):
        key = line.replace("=", " ").split()[:1]
        is_option = len(options(line)) == 1
        if is_option and key and key[0].lower() not in ("name", "connectto"):
            lines.append(line.strip() + "\n")
    return CONF_HEAD + "".join(lines)


def up(address: str, seen: str) -> str:
    """tinc-up: gives the interface the node's management address in the testbed's /48 and the overlay's MTU.

    seen: directory where what was seen of peers lies; what another tincd saw there is gone.
    """
    return (
        "#!/bin/sh\n" + MARK + ".\nset -eu\n"
        "rm -f '" + seen + "'/*\n"
        'ip link set dev "$INTERFACE" mtu ' + str(MTU) + " up\n"
        "ip -6 address replace " + address + '/48 dev "$INTERFACE"\n'
    )
