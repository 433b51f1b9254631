"""Looks what the mirrors offer this node, and decides by the node's policy what is to become of it."""

import os
import time

from confine import durable
from confine.upgrade import bundle
from confine.upgrade.bundle import MAX_HEAD
from confine.upgrade.manifest import Manifest, is_name
from confine.upgrade.mirrors import Mirrors
from confine.upgrade.schedule import NOTHING, Now, Offer, decide, draw
from confine.upgrade.signatures import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.upgrade.node import Node

LATEST = "latest"
PROPERTY = "upgrade"  # of the registry's node: VERSION or VERSION@BRANCH, once


def newest(
    node: "Node", mirrors: Mirrors, seen: "dict[str, tuple[str, bytes]]", version: str, branch: str
) -> "tuple[bytes | None, Manifest | None, list[str]]":
    """(head, manifest, problems): the newest bundle for this node that the mirrors have and enough keys vouch for.

    seen: see Mirrors.head: what was refused once, for a reason that may have passed, is judged anew. MirrorError if no
    mirror answers.
    """
    board = node.board()
    best: "tuple[bytes | None, Manifest | None]" = (None, None)
    problems: "list[str]" = []
    for raw in mirrors.head("{}/{}/{}".format(branch, board, version), MAX_HEAD, seen):
        try:
            found = bundle.from_bytes(raw)
            if found.has_parts:  # nobody vouches for them, and what is offered is fetched part by part
                raise BundleError("the head of {}/{} holds more than a manifest and signatures".format(branch, board))
            manifest, _ = node.accept(found)
            if (manifest.board, manifest.branch) != (board, branch):
                raise BundleError("the bundle at {}/{} is one for {}/{}".format(
                    branch, board, manifest.branch, manifest.board))  # fmt: skip
            if version not in (LATEST, manifest.version):
                raise BundleError("the bundle at {} is version {}".format(version, manifest.version))
        except BundleError as error:
            problems.append(str(error))
            continue
        if best[1] is None or manifest.order > best[1].order:
            best = (raw, manifest)
    return best[0], best[1], problems + mirrors.errors


class Lookout:
    """Remembers what it saw, so that asking again costs one conditional request for each mirror.

    shown: the last `look()` as `confine upgrade check --json` shows it.
    """

    def __init__(self, node: "Node", mirrors: Mirrors) -> None:
        self._node = node
        self._mirrors = mirrors
        self._seen: "dict[str, tuple[str, bytes]]" = {}
        self._place = ("", "")
        self._found: "tuple[tuple[str, str], Manifest | None, list[str], float] | None" = None
        self._checked: "int | None" = None
        self._error = ""

    def look(self, properties: "dict[str, Any]", fetch: bool = True) -> "dict[str, Any]":
        """Ask the mirrors (or not: `fetch` False judges anew what was seen), and decide.

        properties: of the registry's node document. Members: offered (None, or version, epoch, published,
        priority_days, size, notes, id), verdict and reason and due as schedule.decide gives them, source (what to
        install), problems, checked (when the mirrors were asked, s).
        """
        settings = self._node.settings
        asked = wish(properties, settings.upgrade_branch)
        version, branch = asked or (settings.upgrade_pin or LATEST, settings.upgrade_branch)
        if fetch and settings.upgrade_mirrors:
            self._checked = int(time.time())
            self._error = ""
            try:
                self._fetch(version, branch)
            except BundleError as error:
                self._error = str(error)
        known = self._found if self._found is not None and self._found[0] == (version, branch) else None
        manifest = known[1] if known is not None else None
        doc: "dict[str, Any]" = {
            "checked": self._checked,
            "offered": described(manifest) if manifest is not None else None,
            "source": [version, branch],
            "problems": [self._error] if self._error else (known[2] if known is not None else []),
        }
        if not settings.upgrade_mirrors:
            doc.update(verdict=NOTHING, reason="no mirror is set (upgrade.mirror)", due=None)
            return doc
        verdict, reason, due = self._decide(manifest, asked is not None, known[3] if known is not None else 0.0)
        doc.update(verdict=verdict, reason=reason, due=due)
        return doc

    def _fetch(self, version: str, branch: str) -> None:
        if self._place != (version, branch):
            self._place, self._seen = (version, branch), {}
        _, manifest, problems = newest(self._node, self._mirrors, self._seen, version, branch)
        before = self._found
        if manifest is None and before is not None and before[0] == self._place:
            manifest = before[1]  # a mirror that went bad takes back nothing that was verified
        if before is not None and before[1] is not None and manifest is not None and before[1].id == manifest.id:
            since = before[3]
        else:
            since = time.monotonic()
        self._found = (self._place, manifest, problems, since)

    def _decide(self, manifest: "Manifest | None", asked: bool, since: float) -> "tuple[str, str, float | None]":
        node, settings = self._node, self._node.settings
        if manifest is None:
            return NOTHING, "nothing is offered for this node", None
        try:
            node.check_fits(manifest)
        except BundleError as error:
            return NOTHING, str(error), None
        offer = Offer(
            manifest.version, manifest.order, manifest.priority_days, draw(node.own, manifest.id), asked,
            node.has_failed(manifest.id),
        )  # fmt: skip
        running = node.running()
        policy = {
            "mode": settings.upgrade_mode,
            "pin": None if asked else settings.upgrade_pin,
            "hours": settings.upgrade_hours,
            "metered": settings.upgrade_metered,
            "unwatched": settings.upgrade_unwatched,
        }
        now, hour = node.clock()
        moment = Now(now, hour, time.monotonic() - since, node.deferred_until(), node.watched())
        return decide(offer, (running.version, running.order), policy, moment)


def wish(properties: "dict[str, Any]", branch: str) -> "tuple[str, str] | None":
    """(version, branch) that the operator asks of this one node in the registry, or None."""
    text = properties.get(PROPERTY)
    if not isinstance(text, str):
        return None
    version, _, other = text.strip().partition("@")
    other = other or branch
    usable = all(len(word) <= 64 and is_name(word) for word in (version, other) if word)
    return (version, other) if version and usable else None


def described(manifest: Manifest) -> "dict[str, Any]":
    """A manifest for people and programs."""
    return {
        "version": manifest.version,
        "epoch": manifest.epoch,
        "published": manifest.published_text,
        "priority_days": manifest.priority_days,
        "size": manifest.size,
        "notes": manifest.notes,
        "id": manifest.id,
    }


def keep(run: str, doc: "dict[str, Any]") -> None:
    """Keep what `look()` gave for `status`, in memory."""
    if kept(run) == doc:
        return
    path = _path(run)
    temporary = path + ".new"
    try:
        import json

        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(doc, file)
        os.rename(temporary, path)
    except OSError:
        pass  # shown later


def kept(run: str) -> "dict[str, Any] | None":
    """What `keep()` kept; None if nothing was looked at since the node started."""
    try:
        doc = durable.read_json(_path(run))
    except (OSError, ValueError):
        return None
    return doc if isinstance(doc, dict) else None


def _path(run: str) -> str:
    return os.path.join(run, "upgrade-look.json")
