"""The list of a part's chunks: casync's blob index (.caibx), and where their bytes may be had without fetching them.

The operator's side cuts a part by its content (casync), so that a small change leaves nearly all chunks as they were.
The node cuts nothing: it knows the chunks of what it runs by the list that came with it. A chunk is believed for its
sha256 alone, wherever it was found; the list itself is named by the signed manifest.
"""

import hashlib
import struct

from confine.upgrade.signatures import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NamedTuple

    class Chunk(NamedTuple):
        """offset, size: of its bytes in the part. id: their sha256."""

        offset: int
        size: int
        id: bytes

else:
    from collections import namedtuple

    Chunk = namedtuple("Chunk", ("offset", "size", "id"))

MAX_INDEX = 4 * 1024 * 1024
MAX_CHUNK = 1024 * 1024
# casync's caformat.h: header and item sizes, type marks.
HEADER = struct.Struct("<QQQQQQ")
TABLE = struct.Struct("<QQ")
ITEM = struct.Struct("<Q32s")
TAIL = struct.Struct("<QQQQQ")
INDEX_MARK = 0x96824D9C7B129FF9
TABLE_MARK = 0xE75B9E112F17417D
TAIL_MARK = 0x4B4F050E5549ECD1
SHA512_256 = 0x2000000000000000
UNBOUNDED = (1 << 64) - 1


class Index:
    """A part's chunks in their order. size: of the part. Kept packed: 40 bytes each."""

    def __init__(self, raw: bytes) -> None:
        """BundleError if `raw` is no such index by sha256."""
        if len(raw) > MAX_INDEX or len(raw) < HEADER.size + TABLE.size + TAIL.size:
            raise BundleError("an index of {} bytes is none, or too large".format(len(raw)))
        length, mark, flags, _, _, _ = HEADER.unpack_from(raw)
        if length != HEADER.size or mark != INDEX_MARK or TABLE.unpack_from(raw, length) != (UNBOUNDED, TABLE_MARK):
            raise BundleError("this is no casync index of a blob (.caibx)")
        if flags & SHA512_256:
            raise BundleError("the index is by sha512-256: make it with --digest=sha256")
        self._raw = raw
        self._first = HEADER.size + TABLE.size
        self._count, rest = divmod(len(raw) - self._first - TAIL.size, ITEM.size)
        if rest or TAIL.unpack_from(raw, len(raw) - TAIL.size)[-1] != TAIL_MARK:
            raise BundleError("the index is truncated")
        self.size = 0
        for chunk in self:
            if not 0 < chunk.size <= MAX_CHUNK:
                raise BundleError("the index has a chunk of {} bytes at {}".format(chunk.size, chunk.offset))
            self.size = chunk.offset + chunk.size

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> "Iterator[Chunk]":
        offset = 0
        for number in range(self._count):
            end, digest = ITEM.unpack_from(self._raw, self._first + number * ITEM.size)
            yield Chunk(offset, end - offset, digest)
            offset = end


class Seed:
    """What is at hand already: `read(offset, size)` of some image, and its own index if that is known.

    Without an index a chunk is looked for where it would lie in the new part: most images begin alike.
    """

    def __init__(self, read: "Callable[[int, int], bytes]", index: "Index | None") -> None:
        self._read = read
        self._known = {chunk.id: chunk.offset for chunk in index} if index is not None else None

    def get(self, chunk: Chunk) -> "bytes | None":
        """The chunk's bytes, verified; None if they are not here."""
        offset = chunk.offset if self._known is None else self._known.get(chunk.id)
        if offset is None:
            return None
        try:
            data = self._read(offset, chunk.size)
        except OSError:
            return None  # a bad sector: the chunk is fetched
        return data if is_right(chunk, data) else None


def is_right(chunk: Chunk, data: bytes) -> bool:
    """Whether `data` is what the index promises."""
    return len(data) == chunk.size and hashlib.sha256(data).digest() == chunk.id


def runs(chunks: "list[Chunk]", most: int) -> "Iterator[list[Chunk]]":
    """`chunks` (in order) in runs that follow one another without a gap, each of at most `most` bytes or one chunk:
    what one request can ask for."""
    run: "list[Chunk]" = []
    size = 0
    for chunk in chunks:
        if run and (run[-1].offset + run[-1].size != chunk.offset or size + chunk.size > most):
            yield run
            run, size = [], 0
        run.append(chunk)
        size += chunk.size
    if run:
        yield run
