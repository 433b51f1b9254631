"""What the tests of the registry client work with: settings, a client, documents to edit."""

import json
import os
import time
from typing import Any

from confine.core import settings as core_settings
from confine.core.settings import Settings
from confine.registry.client import Registry

State = dict[str, Any]
LIMIT_S = 20.0


def make_settings(uris: list[str], cert: str | None = None, plain_http: bool = False, node: str = "0001") -> Settings:
    """Settings as of a configuration file with these registry options."""
    registry: dict[str, Any] = {".type": "registry", "base_uri": uris, "plain_http": "1" if plain_http else "0"}
    if cert is not None:
        registry["cert"] = cert
    parsed, problems = core_settings.parse({"node": {".type": "node", "id": node}, "registry": registry})
    assert problems == []
    return parsed


class Client:
    """The registry client of one node, with the state from round to round."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.state: State | None = None

    def round(self, seconds: float = LIMIT_S) -> tuple[State, bool]:
        """One refresh on top of the last."""
        self.registry.retry()
        state, changed = self.registry.refresh(self.state, time.monotonic() + seconds)
        self.state = state
        return state, changed


class Documents:
    """The testbed's files, to be edited as a person would."""

    def __init__(self, path: str, files: str) -> None:
        self.path = path
        self.files = files

    def edit(self, name: str, **members: Any) -> None:
        """Change members of the file `name` ("slices/1")."""
        path = os.path.join(self.path, name + ".json")
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        document.update(members)
        self.write(name, json.dumps(document))

    def write(self, name: str, text: str) -> None:
        """Put `text` into the file `name`."""
        path = os.path.join(self.path, name + ".json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".new", path)

    def read(self, name: str) -> Any:
        """What is in the file `name`."""
        with open(os.path.join(self.path, name + ".json"), encoding="utf-8") as file:
            return json.load(file)

    def remove(self, name: str) -> None:
        """Delete the file `name`."""
        os.unlink(os.path.join(self.path, name + ".json"))
