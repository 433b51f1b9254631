"""Keys, keyrings and bundles of the tests' own, made with the real tools: signify, casync."""

from __future__ import annotations

import json
import os
import random
import subprocess
from typing import Any

from confine.upgrade import bundle
from confine.upgrade.keyring import Clock, Keyring, Trust
from confine.upgrade.manifest import Manifest, canonical
from upgrade.bundle import draft, publish

PUBLISHED = "2026-11-20T10:00:00Z"
NOON = 1795176000.0  # 2026-11-20T12:00:00Z
BOARD = "test-board"
CLOCK = Clock(NOON, 0)


class Keys:
    """Key pairs by name, in one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, exist_ok=True)

    def secret(self, name: str) -> str:
        path = os.path.join(self._directory, name)
        if not os.path.exists(path + ".sec"):
            argv = ["signify-openbsd", "-G", "-n", "-p", path + ".pub", "-s", path + ".sec", "-c", name]
            subprocess.run(argv, check=True)
        return path + ".sec"

    def public(self, name: str) -> str:
        with open(self.secret(name)[:-4] + ".pub") as file:
            return file.read().strip().splitlines()[-1]

    def number(self, name: str) -> str:
        from confine.upgrade.signatures import parse_key

        return parse_key(self.public(name)).number

    def keyring(self, *names: str, threshold: int = 2, serial: int = 1, **more: Any) -> dict[str, Any]:
        keys = [{"key": self.public(name), "name": name, "from": None, "until": None} for name in names]
        return {"serial": serial, "threshold": threshold, "keys": keys, "revoked": [], **more}


def some_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def make(directory: str, keys: Keys, signers: str = "ab", parts: dict[str, bytes] | None = None, **members: Any) -> str:
    """A draft, signed by the keys named by the letters of `signers`; its directory."""
    parts = parts or {"kernel": some_bytes(1, 100_000), "root": some_bytes(2, 400_000)}
    files = {}
    os.makedirs(directory, exist_ok=True)
    for name, content in parts.items():
        files[name] = os.path.join(directory, "in-" + name)
        with open(files[name], "wb") as file:
            file.write(content)
    version = members.setdefault("version", "2.0")
    wanted = {"epoch": 2, "board": BOARD, "branch": "stable", "published": PUBLISHED, **members}
    made = os.path.join(directory, version)
    draft.make(made, wanted, files)
    for name in signers:
        draft.sign(made, keys.secret(name))
    return made


def packed(source: str) -> str:
    """The draft as one file."""
    path = source + ".bundle"
    with open(path, "wb") as file:
        draft.write_tar(source, file, True)
    return path


def published(web: str, keys: Keys, source: str, names: str = "abc") -> Manifest:
    return publish.publish(source, web, keys.keyring(*names), NOON)


def verify(source: str, keyring: dict[str, Any], trust: Trust | None = None, clock: Clock = CLOCK) -> Manifest:
    """As a node does: from the head, by keyring and trust."""
    return bundle.verified(bundle.from_bytes(draft.head(source)), Keyring(keyring, trust), clock)[0]


def edited(source: str, **members: Any) -> None:
    """Change members of a draft's manifest behind the signers' backs."""
    path = os.path.join(source, bundle.MANIFEST)
    with open(path, "rb") as file:
        doc = json.loads(file.read())
    with open(path, "wb") as file:
        file.write(canonical({**doc, **members}))
