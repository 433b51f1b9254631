"""What makes an image one node's own: its configuration and keys, as the archive that the node unpacks at its first
start. They never enter the shared image.

From a TOML file:

    name = "mill-roof"                      the image's name; without it the file's
    [confine.node]                          a section of /etc/config/confine; every option as docs/user/ has them
    id = "0012"
    [confine.registry]
    base_uri = ["https://registry.example.org/api/"]
    [files]                                 further files: where on the node, from where beside this file
    "/etc/confine/registry-server.crt" = "registry.crt"
    "/etc/tinc/confine/tinc-up" = { source = "tinc-up", mode = "0755" }

or from a directory or tar archive of such files as image generators put them into images: etc/config/confine,
etc/confine/, etc/tinc/, etc/uhttpd.*, etc/dropbear/. Everything is root's; files are 0600 unless said otherwise.
"""

import gzip
import io
import os
import re
import shlex
import tarfile
import tomllib
from dataclasses import dataclass
from typing import Any

from confine.core import settings
from firmware.openwrt.errors import FirmwareError, meant

CONFIGURATION = "etc/config/confine"
MAX_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODES = ("0600", "0644", "0700", "0755")
# What the shared image decides, and nobody else: users, and what runs with which rights.
_REFUSED = ("etc/passwd", "etc/shadow", "etc/group", "etc/init.d/", "etc/rc.d/", "etc/uci-defaults/", "etc/inittab")


@dataclass(frozen=True)
class Node:
    """One node. files: path below / to (content, mode)."""

    name: str
    files: dict[str, tuple[bytes, int]]


def load(path: str) -> Node:
    """A node from a TOML file, a directory or a tar archive. Raises FirmwareError that names file and member."""
    try:
        if os.path.isdir(path):
            node = Node(os.path.basename(os.path.abspath(path)), _of_directory(path))
        elif path.endswith(".toml"):
            node = _of_toml(path)
        else:
            node = Node(os.path.basename(path).split(".tar")[0].split(".tgz")[0], _of_tar(path))
        _check(node)
    except (OSError, tarfile.TarError, tomllib.TOMLDecodeError, FirmwareError) as error:
        raise FirmwareError(f"{path}: {error}") from None
    return node


def archive(node: Node, path: str) -> None:
    """Write the node's files as tar.gz, readable for its owner alone: the same files give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(node.files):
            content, mode = node.files[name]
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(gzip.compress(packed.getvalue(), mtime=0))


def parse_uci(text: str) -> dict[str, dict[str, Any]]:
    """A UCI file's named sections: name to {".type": type, option: text or list of texts}. Raises FirmwareError."""
    sections: dict[str, dict[str, Any]] = {}
    section: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise FirmwareError(f"{CONFIGURATION}, line {number}: {error}") from None
        if not words:
            continue
        if words[0] == "config" and len(words) == 3:
            section = sections.setdefault(words[2], {".type": words[1]})
        elif words[0] == "option" and len(words) == 3 and sections:
            section[words[1]] = words[2]
        elif words[0] == "list" and len(words) == 3 and sections:
            section[words[1]] = [*section.get(words[1], []), words[2]]
        else:
            raise FirmwareError(f"{CONFIGURATION}, line {number}: {line.strip()!r} is no line of a named section")
    return sections


def _of_toml(path: str) -> Node:
    with open(path, "rb") as file:
        doc = tomllib.load(file)
    known = ("name", "confine", "files")
    for key in doc:
        if key not in known:
            raise FirmwareError(f"unknown key {key!r}{meant(key, known)}")
    name = doc.get("name", os.path.basename(path)[: -len(".toml")])
    files = {CONFIGURATION: (_uci(doc.get("confine", {})).encode(), 0o600)}
    for target, given in doc.get("files", {}).items():
        entry = {"source": given} if isinstance(given, str) else given
        if not isinstance(entry, dict) or set(entry) - {"source", "mode"} or not isinstance(entry.get("source"), str):
            raise FirmwareError(f'files: {target} is {given!r}: a file name, or {{ source = "...", mode = "0600" }}')
        mode = entry.get("mode", "0600")
        if mode not in _MODES:
            raise FirmwareError(f"files: the mode of {target} is {mode!r}: one of {', '.join(_MODES)}")
        with open(os.path.join(os.path.dirname(os.path.abspath(path)), entry["source"]), "rb") as file:
            files[target.lstrip("/")] = (file.read(MAX_BYTES + 1), int(mode, 8))
    return Node(str(name), files)


def _uci(tables: object) -> str:
    """Sections as the text of a UCI file."""
    if not isinstance(tables, dict) or not all(isinstance(options, dict) for options in tables.values()):
        raise FirmwareError("confine: a table for each section is needed, as [confine.node]")
    lines = []
    for name, options in tables.items():
        lines.append(f"config {name} '{name}'")
        for option, value in options.items():
            if isinstance(value, list):
                lines += [f"\tlist {option} {_quoted(option, entry)}" for entry in value]
            else:
                lines.append(f"\toption {option} {_quoted(option, value)}")
        lines.append("")
    return "\n".join(lines)


def _quoted(option: str, value: object) -> str:
    if isinstance(value, bool):
        value = "1" if value else "0"
    if not isinstance(value, (str, int)) or any(ord(char) < 32 for char in str(value)):
        raise FirmwareError(f"{option} is {value!r}: a text, a number, true or false, or a list of them is needed")
    return "'" + str(value).replace("'", "'\\''") + "'"


def _of_directory(path: str) -> dict[str, tuple[bytes, int]]:
    files = {}
    for where, directories, names in os.walk(path):
        links = [name for name in directories if os.path.islink(os.path.join(where, name))]
        for name in [*links, *names]:
            source = os.path.join(where, name)
            if os.path.islink(source) or not os.path.isfile(source):
                raise FirmwareError(f"{os.path.relpath(source, path)} is no plain file")
            with open(source, "rb") as file:
                files[os.path.relpath(source, path)] = (file.read(MAX_BYTES + 1), _mode(os.stat(source).st_mode))
    return files


def _of_tar(path: str) -> dict[str, tuple[bytes, int]]:
    files = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise FirmwareError(f"{member.name} is no plain file")
            if member.size > MAX_BYTES:
                raise FirmwareError(f"{member.name} has {member.size} bytes, more than {MAX_BYTES}")
            files[member.name.removeprefix("./")] = (content.read(), _mode(member.mode))
    return files


def _mode(found: int) -> int:
    return 0o700 if found & 0o100 else 0o600


def _check(node: Node) -> None:
    if not _NAME.fullmatch(node.name):
        raise FirmwareError(f"the name {node.name!r} cannot be a file's: letters, digits and ._- are possible")
    for name in node.files:
        if os.path.normpath(name) != name or not name.startswith("etc/"):
            raise FirmwareError(f"{name} is not below etc/: a node's own files are its configuration and keys")
        if name.startswith(_REFUSED):
            raise FirmwareError(f"{name} is the shared image's, and no node's own")
    size = sum(len(content) for content, _ in node.files.values())
    if size > MAX_BYTES:
        raise FirmwareError(f"the node's files have {size} bytes, more than {MAX_BYTES}")
    if CONFIGURATION not in node.files:
        raise FirmwareError(f"{CONFIGURATION} is not there: the node would not know its testbed")
    try:
        text = node.files[CONFIGURATION][0].decode()
    except UnicodeDecodeError as error:
        raise FirmwareError(f"{CONFIGURATION}: {error}") from None
    _, problems = settings.parse(parse_uci(text))
    if problems:
        raise FirmwareError("; ".join(f"confine{problem.member}: {problem.message}" for problem in problems))
