"""Registries in good health to begin from: the example testbed, and recorded answers of the original where present."""

import hashlib
import json
import os
import time
from typing import Any

from confine.core.settings import Settings
from confine.registry.sources import Answer, Source, parse
from confine.registry.uris import Names
from confine.registry.walk import Walk
from registry.documents import KINDS, Testbed
from registry.replay import CAPTURE, Recording, field
from registry.testbed import SOURCE

BASE = "https://registry.example.net/api/"
TODAY = "2026-11-20"
ROUND_S = 60.0


class Gone:
    """Served instead of a document: that there is none."""


GONE = Gone()


class Registry(Source):
    """Answers from `documents` ({URI: value}); `news` are what it serves instead now: values, bytes as sent, `GONE`.

    What is no news is unchanged to whom holds it. asked: the URIs read, in any order.
    """

    def __init__(self, base: str, documents: dict[str, Any]) -> None:
        self.base = base
        self.documents = documents
        self.news: dict[str, Any] = {}
        self.asked: list[str] = []

    def read(self, uri: str, kind: str, revision: str | None, deadline: float) -> Answer:
        """See `Source.read`."""
        self.asked.append(uri)
        if uri in self.news:
            value = self.news[uri]
            if value is GONE:
                return Answer(gone=True)
            return Answer(parse(value) if isinstance(value, bytes) else value, "news")
        if revision == "good":
            return Answer(unchanged=True, revision=revision)
        if uri not in self.documents:
            return Answer(gone=True)
        return Answer(self.documents[uri], "good", links={}, date=TODAY)


class Seed:
    """A registry in good health, the settings of a node in it, and the state after that node's first round."""

    def __init__(self, name: str, base: str, node_id: int, documents: dict[str, Any]) -> None:
        self.name = name
        self.registry = Registry(base, documents)
        self.settings = Settings(node_id=node_id, registry_uris=[base])
        self.names = Names([base])
        self.state = self.round(empty(base))
        self.uris = sorted(set(self.registry.asked))
        self.values = [documents[uri] for uri in self.uris]

    def round(self, before: dict[str, Any]) -> dict[str, Any]:
        """One round of the node on top of `before`."""
        node_id = self.settings.node_id
        assert node_id is not None
        return Walk(self.registry, self.names, node_id, before, time.monotonic() + ROUND_S).run()


def empty(base: str) -> dict[str, Any]:
    """The state before the first round."""
    from confine.registry import state

    return state.empty([base])


def example(files: str) -> Seed:
    """The example testbed. files: an empty directory for its templates' records."""
    for name in ("debian", "openwrt", "generic", "data-hello"):
        record = {"file": name + ".img", "sha256": hashlib.sha256(name.encode()).hexdigest(), "type": name}
        with open(os.path.join(files, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(record, file)
    testbed = Testbed(SOURCE, files)
    documents: dict[str, Any] = {BASE: testbed.base(BASE)}
    for collection in KINDS:
        found = [testbed.document(collection, number, BASE) for number in testbed.numbers(collection)]
        documents[f"{BASE}{collection}/"] = found
        documents.update({document["uri"]: document for document in found})
    return Seed("example testbed", BASE, 1, documents)


def recorded(step: str = "09a-key-added") -> Seed | None:
    """The original registry as it was recorded at `step`, its node in production; None if the recording is absent."""
    if not os.path.exists(os.path.join(CAPTURE, "index.json")):
        return None
    recording = Recording()
    documents: dict[str, Any] = {}
    for record in recording.records(step):
        plain = record["variant"] == "identity" and record["status"] == 200
        if plain and (field(record, "Content-Type") or "").startswith("application/json"):
            documents[recording.base[: -len("/api/")] + record["path"]] = parse(recording.body(record))
    node = recording.base + f"nodes/{recording.node_id}/"
    documents[node] = {**documents[node], "set_state": "production"}
    return Seed("recording", recording.base, recording.node_id, documents)
