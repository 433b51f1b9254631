"""A registry that is nothing but files: the documents of the API as a directory, on disk or on any web host.

Layout: the document at `<base>nodes/27/` is the file `<base>nodes/27/index.json`; the base document is
`<base>index.json`, a collection's list `<base>servers/index.json`. References are URIs as in the API: absolute
(as the base document's `uri` begins), or relative to the document.

An address is a directory if it is a path ("/srv/registry/api/"), a file: URI, or an http(s) URI that ends in
"/index.json". A file that is missing is a problem, never "gone": only the node's list removes a sliver.
"""

import os

from confine.errors import RegistryError
from confine.registry.download import open_file, read_piece
from confine.registry.sources import Answer, HttpSource, Source, parse
from confine.registry.transport import MAX_DOCUMENT, Response

INDEX = "index.json"


def is_static(address: str) -> bool:
    """Whether the configured `address` is a directory on a web host."""
    return address.startswith(("http://", "https://")) and address.rstrip("/").endswith("/" + INDEX)


def is_path(address: str) -> bool:
    """Whether the configured `address` is a directory on this machine."""
    return address.startswith(("/", "file://"))


class StaticSource(HttpSource):
    """The directory on a web host. Its ETags are used as they come; it knows no profiles and no Link headers."""

    def location(self, uri: str) -> str:
        """The file of the document `uri`."""
        return uri + INDEX if uri.endswith("/") else uri + "/" + INDEX

    def is_gone(self, response: Response) -> bool:
        """A web host cannot know what is gone."""
        return False


class DirectorySource(Source):
    """The directory on a disk. `base`: "file:///path/". A file's revision is its inode, size and time."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._root = base[len("file://") :]

    def read(self, uri: str, kind: str, revision: "str | None", deadline: float) -> Answer:
        """See `Source.read`."""
        path = self._path(uri)
        with open_file(path) as file:
            info = os.fstat(file.fileno())
            found = "file:{}-{}-{}".format(info.st_ino, info.st_size, info.st_mtime_ns)
            if found == revision:
                return Answer(unchanged=True, revision=found)
            body = read_piece(file, path, MAX_DOCUMENT + 1)
        if len(body) > MAX_DOCUMENT:
            raise RegistryError("{} is larger than {} MiB".format(path, MAX_DOCUMENT // (1024 * 1024)))
        return Answer(parse(body), found)

    def _path(self, uri: str) -> str:
        inner = uri[len(self.base) :] if uri.startswith(self.base) else None
        if inner is None or ".." in inner.split("/") or "\0" in inner:
            raise RegistryError("the document {} is not below {}".format(uri[:200], self.base))
        return os.path.join(self._root, inner, INDEX)
