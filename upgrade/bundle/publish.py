"""Publishes a bundle into a directory that any static web host, mirror or USB stick can serve.

    BRANCH/BOARD/latest        head of the newest bundle: the one file that changes, replaced as a whole
    BRANCH/BOARD/VERSION       head of each bundle, never changed
    parts/SHA256[.caibx]       parts and their indexes, never changed
    BRANCH/index.json          what there is, for people and tools; nodes believe none of it

Parts go first and `latest` last, so that whoever mirrors it at any time finds all that is named.
"""

import hashlib
import json
import os
import shutil
from typing import Any

from confine import durable
from confine.upgrade import bundle
from confine.upgrade.keyring import Clock, Keyring
from confine.upgrade.manifest import Manifest
from confine.upgrade.signatures import BundleError
from upgrade.bundle import draft

LATEST = "latest"
INDEX = "index.json"
MAX_HEAD = bundle.MAX_HEAD


def publish(source: str, web: str, keyring: "dict[str, Any]", now: float) -> Manifest:
    """Publish the draft `source` into the directory `web`. keyring: it must be signed well enough for that one.

    BundleError if it is not, if a part is not right, or if it is older than what is published.
    """
    raw = draft.head(source)
    keys = Keyring(keyring)
    manifest, _ = bundle.verified(bundle.from_bytes(raw), keys, Clock(now, 0))
    keys.check_left(manifest)
    draft.check_parts(source)
    directory = os.path.join(web, manifest.branch, manifest.board)
    _check_order(directory, manifest, raw)
    for part in manifest.parts.values():
        _put(os.path.join(source, part.name), web, part.sha256)
        if part.index is not None:
            _put(os.path.join(source, part.name + draft.INDEX), web, part.sha256 + draft.INDEX)
    durable.make_dir(directory, 0o755)
    durable.write_atomic(os.path.join(directory, manifest.version), raw, 0o644)
    durable.write_atomic(os.path.join(directory, LATEST), raw, 0o644)
    _write_index(os.path.join(web, manifest.branch))
    return manifest


def _check_order(directory: str, manifest: Manifest, raw: bytes) -> None:
    same = os.path.join(directory, manifest.version)
    if os.path.exists(same):
        with open(same, "rb") as file:
            if file.read() != raw:
                raise BundleError(f"version {manifest.version} is published already, and is another bundle")
    latest = os.path.join(directory, LATEST)
    if os.path.exists(latest):
        old = _manifest(latest)
        if manifest.order < old.order:
            raise BundleError(
                f"version {manifest.version} (epoch {manifest.epoch}, {manifest.published_text}) is older than "
                f"{old.version} (epoch {old.epoch}, {old.published_text}), which is published"
            )


def _put(path: str, web: str, name: str) -> None:
    target = os.path.join(web, "parts", name)
    if os.path.exists(target) and os.path.getsize(target) == os.path.getsize(path):
        return
    durable.make_dir(os.path.dirname(target), 0o755)
    temporary = target + ".new"
    with open(path, "rb") as source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, draft.PIECE)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.rename(temporary, target)
    durable.fsync_dir(os.path.dirname(target))


def _write_index(branch: str) -> None:
    boards: dict[str, list[dict[str, Any]]] = {}
    for board in sorted(os.listdir(branch)):
        directory = os.path.join(branch, board)
        if not os.path.isdir(directory):
            continue
        heads = [os.path.join(directory, name) for name in os.listdir(directory) if name != LATEST]
        found = sorted(((_manifest(path), path) for path in heads), key=lambda one: one[0].order, reverse=True)
        boards[board] = [_entry(manifest, path) for manifest, path in found]
    text = json.dumps({"boards": boards}, indent=1, sort_keys=True) + "\n"
    durable.write_atomic(os.path.join(branch, INDEX), text.encode(), 0o644)


def _entry(manifest: Manifest, path: str) -> "dict[str, Any]":
    with open(path, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    return {
        "version": manifest.version,
        "epoch": manifest.epoch,
        "published": manifest.published_text,
        "priority_days": manifest.priority_days,
        "size": manifest.size,
        "head_sha256": sha256,
    }


def _manifest(path: str) -> Manifest:
    with open(path, "rb") as file:
        return Manifest(bundle.from_bytes(file.read(MAX_HEAD)).raw)
