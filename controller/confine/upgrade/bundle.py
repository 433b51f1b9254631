"""Bundles as they come: a tar archive of manifest.json, its signatures manifest.json.KEY.sig, and the parts.

A head is the same without the parts: it is what a mirror answers when it is asked what is new. All that stands before
the first part is small and read whole; the parts go by in pieces.
"""

from confine.drivers import tars
from confine.errors import StepError
from confine.upgrade.manifest import MAX_BYTES, Manifest
from confine.upgrade.signatures import MAX_TEXT, BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from confine.upgrade.keyring import Clock, Keyring

MANIFEST = "manifest.json"
SIGNATURE = ".sig"
MAX_SIGNATURES = 32
MAX_HEAD = MAX_BYTES + MAX_SIGNATURES * 4096 + 64 * 1024
PIECE = 256 * 1024
DAY_S = 86400


class Plain:
    """The bytes of a file or of an answer, as tars.Reader reads them. piece(size): some bytes, b"" at the end."""

    def __init__(self, piece: "Callable[[int], bytes]") -> None:
        self._piece = piece
        self._pending = b""
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        data = self._pending
        while len(data) < size:
            more = self._piece(size - len(data))
            if not more:
                break
            data = data + more if data else more
        data, self._pending = data[:size], data[size:]
        self.position += len(data)
        return data


class Bundle:
    """A bundle that is being read. raw: the manifest's bytes, not yet verified. signatures: their texts."""

    def __init__(self, piece: "Callable[[int], bytes]") -> None:
        """Read up to the first part. BundleError if it does not begin as a bundle does."""
        stream: "Any" = Plain(piece)
        self._members = tars.Reader(stream)
        self._iterator = iter(self._members)
        self.raw = b""
        self.signatures: "list[str]" = []
        self._next = self._read_head()

    @property
    def has_parts(self) -> bool:
        """False for a head."""
        return self._next is not None

    def parts(self, manifest: Manifest) -> "Iterator[tuple[str, bytes]]":
        """(name, bytes) of all parts, in the manifest's order, in pieces. BundleError for one it does not name, one
        that is missing, or a size that is not the manifest's; the sha256 is for whoever writes them to compare."""
        member = self._next
        for part in manifest.parts.values():
            if member is None:
                raise BundleError("the bundle ends without its part {}".format(part.name))
            if member.name != part.name or member.kind != tars.FILE:
                raise BundleError("the bundle holds {!r} where {} belongs".format(member.name[:80], part.name))
            if member.size != part.size:
                raise BundleError("part {} has {} bytes; the manifest says {}".format(
                    part.name, member.size, part.size))  # fmt: skip
            left = part.size
            while left:
                data = self._content(min(left, PIECE))
                left -= len(data)
                yield part.name, data
            member = self._member()
        if member is not None:
            raise BundleError("the bundle holds {!r}, which its manifest does not name".format(member.name[:80]))

    def _read_head(self) -> "tars.Member | None":
        member = self._member()
        if member is None or member.name != MANIFEST or member.kind != tars.FILE:
            raise BundleError("this is no bundle: it does not begin with {}".format(MANIFEST))
        self.raw = self._whole(member, MAX_BYTES)
        member = self._member()
        while member is not None and member.name.endswith(SIGNATURE) and member.kind == tars.FILE:
            if len(self.signatures) == MAX_SIGNATURES:
                raise BundleError("the bundle has over {} signatures".format(MAX_SIGNATURES))
            self.signatures.append(self._whole(member, MAX_TEXT).decode("ascii", "replace"))
            member = self._member()
        return member

    def _member(self) -> "tars.Member | None":
        try:
            return next(self._iterator, None)
        except StepError as error:
            raise BundleError("the bundle cannot be read: {}".format(error))

    def _whole(self, member: "tars.Member", limit: int) -> bytes:
        if member.size > limit:
            raise BundleError("{!r} of the bundle has {} bytes; at most {} are allowed".format(
                member.name[:80], member.size, limit))  # fmt: skip
        return self._content(member.size)

    def _content(self, size: int) -> bytes:
        try:
            return self._members.content(size)
        except StepError:
            raise BundleError("the bundle is truncated")


def from_file(handle: "Any") -> Bundle:
    """The bundle in a file that is open for reading."""
    return Bundle(handle.read)


def from_bytes(data: bytes) -> Bundle:
    """The bundle, or head, in `data`."""
    from io import BytesIO

    return Bundle(BytesIO(data).read)


def verified(bundle: Bundle, keyring: "Keyring", clock: "Clock") -> "tuple[Manifest, list[str]]":
    """The manifest, and the numbers of the keys that vouch for it. BundleError if they are too few: then not a byte
    of it was looked at."""
    signers = keyring.verify(bundle.raw, bundle.signatures, clock)
    manifest = Manifest(bundle.raw)
    if clock.now is not None and manifest.published > clock.now + DAY_S:
        raise BundleError("the bundle says it was published on {}, which is yet to come".format(
            manifest.published_text))  # fmt: skip
    return manifest, signers
