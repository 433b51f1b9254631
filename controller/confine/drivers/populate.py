"""What the node writes into a sliver's root: host name, resolver, the keys of those who may log in.

Where these stand depends on the template's type: "debian" and everything unknown keep the places most systems
share, "openwrt" keeps its own.
"""

import errno

from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.drivers.inroot import Root

OPENWRT = "openwrt"
DROPBEAR_KEYS = "etc/dropbear/authorized_keys"
ROOT_KEYS = "root/.ssh/authorized_keys"


def keys_text(keys: "list[str]") -> bytes:
    """The content of an authorized_keys file: one key a line, in the order given."""
    for key in keys:
        if any(ord(letter) < 32 for letter in key):
            raise StepError(
                "the key {!r} has a control character: it cannot stand in a file of one key a line".format(key[:80])
            )
    return "".join(key + "\n" for key in keys).encode("utf-8", "surrogateescape")


def write_keys(root: "Root", template_type: str, keys: "list[str]") -> None:
    """Let exactly the holders of `keys` log in. On a full disk the old keys go all the same: who may no longer log
    in must not be let in because a sliver filled its disk."""
    path = DROPBEAR_KEYS if template_type == OPENWRT else ROOT_KEYS
    if template_type == OPENWRT:
        root.make_directory("etc/dropbear", 0o755)
    elif not root.is_directory("root"):
        return  # a template without a home for root has no log-in to keep
    else:
        root.make_directory("root/.ssh", 0o700)
    text = keys_text(keys)
    try:
        root.write(path, text, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        root.remove(path)
        root.write(path, text, 0o600)


def write_name(root: "Root", template_type: str, name: str) -> None:
    """The host name, where the system inside looks for it, and in /etc/hosts."""
    root.make_directory("etc", 0o755)
    root.write("etc/hostname", name.encode() + b"\n", 0o644)
    root.write("etc/hosts", hosts(root.read("etc/hosts") or b"", name), 0o644)
    if template_type == OPENWRT:
        config = root.read("etc/config/system")
        if config is not None:
            root.write("etc/config/system", openwrt_system(config, name), 0o644)


def write_resolver(root: "Root", text: str) -> None:
    """/etc/resolv.conf as the node gives it; a link there (into a /run of another life) is replaced."""
    root.make_directory("etc", 0o755)
    root.write("etc/resolv.conf", text.encode(), 0o644)


def hosts(before: bytes, name: str) -> bytes:
    """/etc/hosts with lines for localhost and for the host's own name; all other lines stay."""
    own = ("127.0.1.1\t{}".format(name)).encode()
    lines = [line for line in before.splitlines() if not line.startswith(b"127.0.1.1")]
    if not any(b"localhost" in line.split() for line in lines):
        lines = [b"127.0.0.1\tlocalhost", b"::1\tlocalhost ip6-localhost ip6-loopback", *lines]
    return b"\n".join([*lines, own]) + b"\n"


def openwrt_system(before: bytes, name: str) -> bytes:
    """/etc/config/system with the host name in its first `system` section; OpenWrt sets it from there."""
    option = ("\toption hostname '{}'".format(name)).encode()
    lines, inside, done = [], False, False
    for line in before.splitlines():
        words = line.split()
        if words[:1] == [b"config"]:
            inside = words[1:2] in ([b"system"], [b"'system'"])
        if inside and words[:2] == [b"option", b"hostname"]:
            continue
        lines.append(line)
        if inside and not done and words[:1] == [b"config"]:
            lines.append(option)
            done = True
    if not done:
        lines += [b"config system", option]
    return b"\n".join(lines) + b"\n"
