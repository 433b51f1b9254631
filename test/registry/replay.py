"""Recorded answers of the original registry, given back step by step to a client that asks in its own order.

The format of the recording is told in its README; it is other people's data and not part of this project.
"""

import json
import os
from typing import Any

from registry.server import ROOT

CAPTURE = os.path.join(os.path.dirname(ROOT), "shared", "registry-capture")


class Recording:
    """One step at a time of the recording in the directory `path`. `step`: its name, to be set.

    steps: their names in order. asked: paths that were asked for in this step.
    """

    def __init__(self, path: str = CAPTURE) -> None:
        self._path = path
        with open(os.path.join(path, "index.json"), encoding="utf-8") as file:
            index = json.load(file)
        self.node_id: int = index["node"]
        self.base: str = index["base_uri"]
        self.steps = [step["step"] for step in index["steps"] if step["step"] not in ("errors", "extras")]
        self._records = {step["step"]: self._read(step["step"]) for step in index["steps"]}
        self.asked: list[str] = []
        self.step = self.steps[0]

    def _read(self, step: str) -> list[dict[str, Any]]:
        with open(os.path.join(self._path, step, "index.json"), encoding="utf-8") as file:
            records: list[dict[str, Any]] = json.load(file)["responses"]
        return [record for record in records if record["method"] == "GET"]

    def records(self, step: str) -> list[dict[str, Any]]:
        """All recorded GETs of a step."""
        return self._records[step]

    def body(self, record: dict[str, Any]) -> bytes:
        """The body of a recorded answer."""
        with open(os.path.join(self._path, record["body_file"]), "rb") as file:
            return file.read()

    def answer(self, path: str, fields: dict[str, str]) -> bytes:
        """The bytes the original sent for this request, or for one that it answers in the same way."""
        self.asked.append(path)
        records = [record for record in self._records[self.step] if record["path"] == path]
        full = {record["variant"]: record for record in records if record["status"] == 200}
        missing = [record for record in records if record["status"] == 404]
        known = fields.get("if-none-match")
        if known is not None and known in (field(record, "ETag") for record in full.values()):
            # For a document that changed in this step no 304 was recorded; they are all alike.
            return self._bytes(next(record for record in self._records[self.step] if record["status"] == 304))
        if missing:
            return self._bytes(missing[0])
        for variant in ("gzip", "identity", "conditional"):
            if variant in full and (variant != "gzip" or "gzip" in fields.get("accept-encoding", "")):
                return self._bytes(full[variant])
        return self._bytes(next(record for record in self._records["errors"] if record["variant"] == "404"))

    def _bytes(self, record: dict[str, Any]) -> bytes:
        head = "\r\n".join([record["status_line"], *(f"{name}: {value}" for name, value in record["headers"])])
        body = self.body(record) if record["body_file"] else b""
        return head.encode() + b"\r\n\r\n" + body


def field(record: dict[str, Any], name: str) -> str | None:
    """A header field of a recorded answer."""
    for known, value in record["headers"]:
        if known == name:
            text: str = value
            return text
    return None
