"""The example testbed's documents: JSON files a person edits, made into the registry API's documents.

What the files leave out is filled in: `uri` and `id`, the lists that follow from other documents, references
("@groups/1"), files with their sha256 ("@files/debian"), days from today ("@days/30"). README.md tells how.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

KINDS = {
    "nodes": "node",
    "slices": "slice",
    "slivers": "sliver",
    "templates": "template",
    "users": "user",
    "groups": "group",
    "islands": "island",
    "servers": "server",
    "hosts": "host",
}
BASE = "base"
INDEX = "x-node-index"
ROLES = ("is_group_admin", "is_node_admin", "is_slice_admin")


class Broken(Exception):
    """A file of the testbed cannot be used as it is; the message names file and line."""


class Missing(Exception):
    """There is no such object."""


class Testbed:
    """The documents below the directory `path`; `files`: the directory with template archives and their .json.

    Files are read again when they changed. Not thread-safe.
    """

    __test__ = False  # pytest takes every Test... for tests

    def __init__(self, path: str, files: str) -> None:
        self.path = path
        self.files = files
        self._read: dict[str, tuple[tuple[int, int, int], Any]] = {}

    def raw(self, name: str) -> Any:
        """The JSON file `name` ("slices/1") as it is written. `Missing` if it is not there, `Broken` if damaged."""
        path = os.path.join(self.path, name + ".json")
        try:
            info = os.stat(path)
        except OSError:
            self._read.pop(name, None)
            raise Missing(name) from None
        stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
        if name not in self._read or self._read[name][0] != stamp:
            self._read[name] = (stamp, load(path))
        value = self._read[name][1]
        if not isinstance(value, dict):
            raise Broken(f"{path}: holds no object")
        return value

    def change(self, name: str, members: dict[str, Any]) -> None:
        """Set members of the JSON file `name`, as a whole or not at all."""
        path = os.path.join(self.path, name + ".json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({**self.raw(name), **members}, file, indent=2)
        os.replace(path + ".new", path)

    def numbers(self, collection: str) -> list[int]:
        """The ids of all objects of a collection."""
        try:
            names = os.listdir(os.path.join(self.path, collection))
        except OSError:
            return []
        stems = [name[: -len(".json")] for name in names if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdigit() and stem.isascii())

    def document(self, collection: str, number: int, base: str) -> dict[str, Any]:
        """The document of one object, as served at the base URI `base`."""
        name = f"{collection}/{number}"
        filled = self._filled(self.raw(name), name, base)
        made = {"uri": f"{base}{name}/", "id": self.identity(collection, number)}
        made.update(self._derived(collection, number, base))
        made.update(filled)
        return made

    def base(self, base: str) -> dict[str, Any]:
        """The base document."""
        return {"uri": base, **self._filled(self.raw(BASE), BASE, base)}

    def identity(self, collection: str, number: int) -> int | str:
        """The `id` member: a number, of a sliver "SLICE@NODE"."""
        if collection != "slivers":
            return number
        sliver = self.raw(f"slivers/{number}")
        return "@".join(str(sliver.get(member, "")).rpartition("/")[2] for member in ("slice", "node"))

    def _reference(self, collection: str, number: int, base: str) -> dict[str, Any]:
        try:
            identity = self.identity(collection, number)
        except Missing:
            identity = number
        return {"uri": f"{base}{collection}/{number}/", "id": identity}

    def _derived(self, collection: str, number: int, base: str) -> dict[str, Any]:
        """The lists of an object that follow from the documents of others."""
        name = f"@{collection}/{number}"
        if collection in ("nodes", "slices"):
            return {"slivers": self._users_of(name, "slivers", KINDS[collection], base)}
        if collection == "groups":
            return {kind: self._users_of(name, kind, "group", base) for kind in ("slices", "nodes")}
        if collection == "users":
            return {"group_roles": list(self._roles(name, base))}
        return {}

    def _users_of(self, name: str, collection: str, member: str, base: str) -> list[dict[str, Any]]:
        numbers = [number for number in self.numbers(collection) if self.raw(f"{collection}/{number}")[member] == name]
        return [self._reference(collection, number, base) for number in numbers]

    def _roles(self, name: str, base: str) -> Iterator[dict[str, Any]]:
        for number in self.numbers("groups"):
            for role in self.raw(f"groups/{number}").get("user_roles", []):
                if role.get("user") == name:
                    roles = {role_name: role.get(role_name, False) for role_name in ROLES}
                    yield {"group": self._reference("groups", number, base), **roles}

    def _filled(self, value: Any, name: str, base: str) -> Any:
        """`value` of the file `name` with everything behind an "@" put in."""
        if isinstance(value, list):
            return [self._filled(item, name, base) for item in value]
        if isinstance(value, dict):
            return self._filled_object(value, name, base)
        if isinstance(value, str) and value.startswith("@"):
            return self._behind(value, name, base)
        return value

    def _filled_object(self, value: dict[str, Any], name: str, base: str) -> dict[str, Any]:
        filled = {member: self._filled(item, name, base) for member, item in value.items()}
        for member in ("image", "data"):
            file = value.get(member + "_uri")
            if isinstance(file, str) and file.startswith("@files/") and member + "_sha256" not in value:
                filled[member + "_sha256"] = self.file_record(file[len("@files/") :], name)["sha256"]
        return filled

    def _behind(self, text: str, name: str, base: str) -> Any:
        collection, _, rest = text[1:].partition("/")
        if collection == "files":
            return base[: -len("api/")] + "files/" + self.file_record(rest, name)["file"]
        if collection in KINDS and rest.isdigit():
            return self._reference(collection, int(rest), base)
        if collection == "days" and rest.lstrip("-").isdigit():
            return (datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=int(rest))).isoformat()
        raise Broken(f"{os.path.join(self.path, name)}.json: {text!r} is not @files/NAME, @days/N or @COLLECTION/N")

    def file_record(self, file: str, name: str) -> dict[str, Any]:
        """{"file", "sha256", "size", "type"} of a file by its name with or without its ending."""
        for stem in (file, file.partition(".")[0]):
            path = os.path.join(self.files, stem + ".json")
            if os.path.isfile(path):
                record = load(path)
                if isinstance(record, dict):
                    return record
        raise Broken(f"{os.path.join(self.path, name)}.json: there is no {file}.json in {self.files}; build it first")

    def needed(self, number: int, base: str) -> Iterator[tuple[str, Any]]:
        """(URI, document or None if there is none) of all that the node `number` reads, itself included."""
        yield base, self.base(base)
        for name in ("servers", "hosts"):
            yield f"{base}{name}/", [self.document(name, one, base) for one in self.numbers(name)]
        seen: set[str] = set()
        queue = [f"{base}nodes/{number}/"]
        while queue:
            uri = queue.pop()
            collection, _, rest = uri.removeprefix(base).partition("/")
            if uri in seen or collection not in KINDS:
                continue
            seen.add(uri)
            try:
                document = self.document(collection, int(rest.rstrip("/")), base)
            except Missing:
                yield uri, None
                continue
            yield uri, document
            queue += [ref["uri"] for ref in followed(collection, document) if ref and ref["uri"]]

    def index(self, number: int, base: str, encode: "Callable[[Any], bytes]") -> dict[str, Any]:
        """The index of a node's documents (docs/developer/registry-index.md). encode: a document as it is served."""
        return {
            "uri": f"{base}{INDEX}/{number}/",
            "node": self._reference("nodes", number, base),
            "documents": [
                {"uri": uri, "revision": None if document is None else hashlib.md5(encode(document)).hexdigest()}
                for uri, document in self.needed(number, base)
            ],
        }


def followed(collection: str, document: dict[str, Any]) -> list[Any]:
    """The references in a document that a node follows."""
    if collection == "nodes":
        addresses = (document.get("tinc") or {}).get("addresses", [])
        islands = [document.get("island"), *(address.get("island") for address in addresses)]
        return [*document["slivers"], document["group"], *islands]
    if collection == "slivers":
        return [document["slice"], document["template"]]
    if collection == "slices":
        return [document["group"], document["sliver_defaults"]["template"]]
    if collection == "groups":
        return [role["user"] for role in document["user_roles"] if any(role.get(name) for name in ROLES)]
    return []


def load(path: str) -> Any:
    """The JSON in a file. `Broken` with file and line if it is none (say, half edited)."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise Broken(f"{path}:{error.lineno}: {error.msg} (column {error.colno})") from None
    except (OSError, ValueError) as error:
        raise Broken(f"{path}: {error}") from None


def export(testbed: Testbed, directory: str, base: str) -> None:
    """Write the documents as a directory for any static web host: `<directory>/api/<path>/index.json`.

    base: the URI the documents shall say, ending in "api/". The nodes' indexes are written last: an index must
    not be newer than the documents it speaks of.
    """
    write(os.path.join(directory, "api"), testbed.base(base))
    for collection in KINDS:
        documents = [testbed.document(collection, number, base) for number in testbed.numbers(collection)]
        write(os.path.join(directory, "api", collection), documents)
        for document in documents:
            write(os.path.join(directory, "api", document["uri"][len(base) :]), document)
    for number in testbed.numbers("nodes"):
        write(os.path.join(directory, "api", INDEX, str(number)), testbed.index(number, base, as_file))


def write(directory: str, value: Any) -> None:
    """Put `value` into the directory's index.json, as a whole; one that says so already is left as it is."""
    os.makedirs(directory, exist_ok=True)
    path, content = os.path.join(directory, "index.json"), as_file(value)
    try:
        with open(path, "rb") as file:
            if file.read() == content:
                return
    except FileNotFoundError:
        pass
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.replace(path + ".new", path)


def as_file(value: Any) -> bytes:
    """A document as it stands in its file."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
