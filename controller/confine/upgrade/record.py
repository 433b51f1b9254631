"""The record of a trial, on the data partition both slots share: what the other side must know, and what became of it.

    python3 -m confine.upgrade.record     at each start: what became of the last trial is written down

`trial.json` is there from before a trial starts until its end is in the history; `trial-said.json` has the last words
of one that gave itself up.
"""

import os
import sys

from confine import durable
from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import history, watchdog
from confine.upgrade.slots import Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECORD = "trial.json"
WORDS = "trial-said.json"


def write(record: "dict[str, Any]", paths: Paths) -> None:
    """Keep the record of a trial that begins. OSError if it cannot be kept."""
    durable.make_dir(paths.upgrade)
    durable.write_json(os.path.join(paths.upgrade, RECORD), record)


def read(paths: Paths) -> "dict[str, Any] | None":
    """The record of the trial under way, or of the last one that nobody has looked at yet."""
    try:
        record = durable.read_json(os.path.join(paths.upgrade, RECORD))
    except (OSError, ValueError):
        return {"slot": None, "manifest": {}, "before": {}}
    return record if isinstance(record, dict) else None


def forget(paths: Paths) -> None:
    """The trial does not begin after all."""
    try:
        durable.remove(os.path.join(paths.upgrade, RECORD))
    except OSError:
        pass  # the next start takes it for one that failed


def say_why(paths: Paths, why: str) -> None:
    """The trial gives itself up: its last words, for the slot that starts then."""
    try:
        durable.make_dir(paths.upgrade)
        durable.write_json(os.path.join(paths.upgrade, WORDS), {"why": why})
    except OSError:
        pass  # a full or broken disk: the slot before says that it ended without a word


def last_words(paths: Paths) -> str:
    """Why the last trial was given up, if it could say so."""
    try:
        doc = durable.read_json(os.path.join(paths.upgrade, WORDS))
    except (OSError, ValueError):
        return ""
    return str(doc.get("why", "")) if isinstance(doc, dict) else ""


def after(paths: Paths, slots: Slots) -> "dict[str, Any] | None":
    """At each start of a confirmed slot: write down what became of the last trial. The event; None without one."""
    record = read(paths)
    if record is None or slots.on_trial:
        return None
    event = "confirmed" if slots.backend.confirmed() == record.get("slot") else "failed"
    why = ""
    if event == "failed":
        why = last_words(paths) or _silent_end()
    found = remember(event, record, paths, why)
    durable.remove(os.path.join(paths.upgrade, WORDS))
    durable.remove(os.path.join(paths.upgrade, RECORD))
    return found


def has_failed(manifest: "dict[str, Any]", paths: "Paths | None" = None) -> str:
    """Why the bundle of this manifest failed its last trial on this node; "" if it did not."""
    sha256 = manifest.get("parts", {}).get("root", {}).get("sha256")
    for event in reversed(history.read(paths=paths)):
        if event.get("root") == sha256 and event.get("event") in ("failed", "confirmed"):
            return str(event.get("why") or "failed") if event["event"] == "failed" else ""
    return ""


def remember(event: str, record: "dict[str, Any]", paths: Paths, why: str) -> "dict[str, Any]":
    """Put `event` about the trial `record` into the history; what was put there."""
    manifest = record.get("manifest") or {}
    found = {"event": event, "slot": record.get("slot"), "version": manifest.get("version"),
             "epoch": manifest.get("epoch"), "bundle": manifest.get("bundle"), "why": why,
             "root": manifest.get("parts", {}).get("root", {}).get("sha256")}  # fmt: skip
    history.append(found, paths)
    return found


def _silent_end() -> str:
    if watchdog.reset_by_watchdog():
        return "the watchdog ended it: it hung"
    return "it ended without a word: a panic, a hang or a power cut"


def main() -> int:
    """Exit status 0."""
    from confine.configuration import read_settings

    paths = Paths()
    settings, _ = read_settings(paths)
    paths.data = settings.data_dir
    try:
        event = after(paths, Slots())
    except (ConfineError, OSError) as error:
        sys.stderr.write("upgrade: the end of the last trial cannot be written down: {}\n".format(error))
        return 1
    if event is not None:
        sys.stderr.write("upgrade: trial of slot {}: {} {}\n".format(event["slot"], event["event"], event["why"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
