"""Boards: what an image for a kind of machine is made of, one TOML file for each in boards/.

name       what bundles are made for, and nodes compare with (/usr/lib/confine/share/board)
title      for people
target     OpenWrt's TARGET/SUBTARGET;   profile: the ImageBuilder's name of the device
boot       grub: an A/B disk image.  u-boot: OpenWrt's own image, packages in it; slots are the loader's
platforms  GRUB's names: i386-pc (BIOS), x86_64-efi, arm64-efi
console    the kernel's serial console
packages   beside the profile's own ("-NAME": without)
[sizes_mib]      partitions that differ from firmware/image/layout.py
[kernel]         options that have to be on: "y" (built in) or "m" (a module will do)
[kernel_wanted]  options worth having: what is lost without them
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firmware.image import layout
from firmware.openwrt.errors import FirmwareError, meant

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boards")
BOOTS = ("grub", "u-boot")
PLATFORMS = ("i386-pc", "x86_64-efi", "arm64-efi")
_WORD = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


@dataclass(frozen=True)
class Board:
    """One board. sizes_mib: partition to MiB. kernel: option to "y" or "m". kernel_wanted: option to what is lost."""

    name: str
    title: str
    target: str
    profile: str
    boot: str
    platforms: tuple[str, ...]
    console: str
    packages: tuple[str, ...]
    sizes_mib: Mapping[str, int]
    kernel: Mapping[str, str]
    kernel_wanted: Mapping[str, str]
    path: str


_TEXTS = ("name", "title", "target", "profile", "boot", "console")
_LISTS = ("platforms", "packages")
_TABLES = ("sizes_mib", "kernel", "kernel_wanted")
_OPTIONAL = {"console", "platforms", "packages", *_TABLES}


def load(path: str) -> Board:
    """The board of one file. Raises FirmwareError that names the file, the key and its value."""
    try:
        with open(path, "rb") as file:
            doc = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FirmwareError(f"board file {path}: {error}") from None
    try:
        return _board(doc, path)
    except FirmwareError as error:
        raise FirmwareError(f"board file {path}: {error}") from None


def find(word: str) -> Board:
    """The board called `word`, or of the file of that name. Raises FirmwareError with the nearest right name."""
    if os.sep in word or word.endswith(".toml"):
        return load(word)
    known = names()
    if word not in known:
        raise FirmwareError(f"there is no board {word!r}{meant(word, known)}")
    return load(os.path.join(DIRECTORY, word + ".toml"))


def of_target(target: str) -> Board:
    """The board for a target of OpenWrt. Raises FirmwareError if there is none, or more than one."""
    boards = [find(name) for name in names()]
    fitting = [board for board in boards if board.target == target]
    if not fitting:
        raise FirmwareError(f"no board file is for the target {target!r}{meant(target, {b.target for b in boards})}")
    if len(fitting) > 1:
        raise FirmwareError(f"several boards are for {target}: BOARD= one of {', '.join(b.name for b in fitting)}")
    return fitting[0]


def names() -> list[str]:
    """All boards there are, sorted."""
    return sorted(name[:-5] for name in os.listdir(DIRECTORY) if name.endswith(".toml"))


def _board(doc: dict[str, Any], path: str) -> Board:
    known = (*_TEXTS, *_LISTS, *_TABLES)
    for key in doc:
        if key not in known:
            raise FirmwareError(f"unknown key {key!r}{meant(key, known)}")
    for key in known:
        if key not in doc and key not in _OPTIONAL:
            raise FirmwareError(f"the key {key!r} is missing")
    for key in _TEXTS:
        if not isinstance(doc.get(key, ""), str):
            raise FirmwareError(f"{key} is {doc[key]!r}: a text is needed")
    lists = {key: _words(key, doc.get(key, [])) for key in _LISTS}
    for platform in lists["platforms"]:
        _one_of("platforms", platform, PLATFORMS)
    _one_of("boot", doc["boot"], BOOTS)
    for key in ("name", "profile"):
        _words(key, [doc[key]])
    if len(_words("target", doc["target"].split("/"))) != 2:
        raise FirmwareError(f"target is {doc['target']!r}: it is TARGET/SUBTARGET, as x86/64")
    if doc["boot"] == "grub" and not lists["platforms"]:
        raise FirmwareError("boot is grub: platforms says for which, " + ", ".join(PLATFORMS))
    return Board(
        name=doc["name"],
        title=doc["title"],
        target=doc["target"],
        profile=doc["profile"],
        boot=doc["boot"],
        console=doc.get("console", ""),
        platforms=lists["platforms"],
        packages=lists["packages"],
        sizes_mib=_sizes(doc.get("sizes_mib", {})),
        kernel=_options(doc.get("kernel", {})),
        kernel_wanted=_losses(doc.get("kernel_wanted", {})),
        path=path,
    )


def _words(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FirmwareError(f"{key} is {value!r}: a list of texts is needed")
    for word in value:
        if not word or set(word) - _WORD:
            raise FirmwareError(f"{key} has {word!r}: letters, digits and ._+- are possible")
    return tuple(value)


def _one_of(key: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise FirmwareError(f"{key} is {word!r}{meant(word, known)}")


def _sizes(table: object) -> dict[str, int]:
    if not isinstance(table, dict) or not all(type(size) is int for size in table.values()):
        raise FirmwareError(f"sizes_mib is {table!r}: a whole number of MiB for each partition is needed")
    for name in table:
        if name not in layout.NAMES:
            raise FirmwareError(f"sizes_mib: unknown key {name!r}{meant(name, layout.NAMES)}")
    try:
        layout.partitions(table)
    except layout.LayoutError as error:
        raise FirmwareError(f"sizes_mib: {error}") from None
    return table


def _options(table: object) -> dict[str, str]:
    if not isinstance(table, dict):
        raise FirmwareError(f"kernel is {table!r}: a table is needed")
    for name, value in table.items():
        if value not in ("y", "m"):
            raise FirmwareError(f'kernel: {name} is {value!r}: "y" (built in) or "m" (a module will do)')
    return table


def _losses(table: object) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise FirmwareError(f"kernel_wanted is {table!r}: for each option a text that says what is lost without it")
    return table
