"""Members of a tar archive, read one after the other from a stream that nobody vouches for.

The 512-byte headers are decoded by Python's tarfile; what goes around them (long names, pax records, the end of the
archive) is done here, so that each has its bound: tarfile itself takes what an archive claims, and takes a damaged
header for the end.
"""

from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from tarfile import TarInfo

    from confine.drivers.streams import Stream

BLOCK = 512
FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symbolic link"
HARDLINK = "hard link"
DEVICE = "device node"
KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARDLINK, b"2": SYMLINK, b"5": DIRECTORY,
         b"3": DEVICE, b"4": DEVICE, b"6": DEVICE}  # fmt: skip

# Headers that describe the next member rather than being one.
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, SPARSE = b"L", b"K", b"x", b"g", b"S"
# The pax records that count here, one of each at a time: global ones are kept from member to member.
RECORDS = ("path", "linkpath", "size", "uid", "gid", "mtime")
SPARSE_RECORD = "GNU.sparse."
MAX_EXTENSION = 1024 * 1024  # extended attributes of a file stand in there: up to 64 KiB each
MAX_EXTENSIONS_IN_A_ROW = 8
MAX_TRAILER = 1024 * 1024


class Member:
    """One file, directory or link of an archive. name, link: as they stand in it, undecodable bytes escaped.
    mode: permission bits. mtime: seconds since 1970. size: bytes of content that follow."""

    def __init__(self, name: str, kind: str, mode: int, uid: int, gid: int, mtime: int, size: int, link: str) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = size
        self.link = link


class Reader:
    """Reads the members of `stream`. After each one, exactly its `size` bytes are to be had by `content()`."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._global: "dict[str, str]" = {}

    def __iter__(self) -> "Iterator[Member]":
        while True:
            member = self._next()
            if member is None:
                self._check_end()
                return
            yield member

    def content(self, size: int) -> bytes:
        """The next at most `size` bytes of the present member; b"" at its end."""
        data = self._stream.read(min(size, self._left))
        if len(data) < min(size, self._left):
            raise StepError("the archive is cut short within a member")
        self._left -= len(data)
        return data

    def _next(self) -> "Member | None":
        self._skip_rest()
        extensions: "dict[str, str]" = {}
        for _ in range(MAX_EXTENSIONS_IN_A_ROW):
            header = self._header()
            if header is None:
                return None
            if header.type in (LONG_NAME, LONG_LINK):
                key = "path" if header.type == LONG_NAME else "linkpath"
                extensions[key] = _text(self._extension(header).rstrip(b"\0"))
            elif header.type in (PAX, PAX_GLOBAL):
                target = extensions if header.type == PAX else self._global
                target.update(_pax_records(self._extension(header)))
            else:
                return self._member(header, {**self._global, **extensions})
        raise StepError("the archive has over {} extended headers in a row".format(MAX_EXTENSIONS_IN_A_ROW))

    def _skip_rest(self) -> None:
        while self._left:
            self.content(BLOCK * 128)
        if len(self._stream.read(self._padding)) < self._padding:
            raise StepError("the archive is cut short after a member")
        self._padding = 0

    def _header(self) -> "TarInfo | None":
        import tarfile

        block = self._stream.read(BLOCK)
        if block == bytes(BLOCK):
            return None
        if len(block) < BLOCK:
            raise StepError("the archive is cut short: it ends without its end mark")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise StepError("the archive is damaged, or no tar inside: {}".format(error))
        if header.size < 0:
            raise StepError("the archive is damaged: a member of {} bytes".format(header.size))
        return header

    def _extension(self, header: "TarInfo") -> bytes:
        if header.size > MAX_EXTENSION:
            raise StepError(
                "the archive has an extended header of {} bytes; at most {} are allowed".format(
                    header.size, MAX_EXTENSION
                )
            )
        data = self._stream.read(header.size)
        padding = -header.size % BLOCK
        if len(data) < header.size or len(self._stream.read(padding)) < padding:
            raise StepError("the archive is cut short within an extended header")
        return data

    def _member(self, header: "TarInfo", extensions: "dict[str, str]") -> Member:
        name = extensions.get("path", header.name)
        if header.type == SPARSE or SPARSE_RECORD in extensions:
            raise StepError("{!r} is a sparse member: pack the archive without --sparse".format(name))
        kind = KINDS.get(header.type)
        if kind is None:
            raise StepError("{!r} is a member of unknown type {!r}".format(name, header.type))
        size = _number(extensions, "size", header.size) if kind == FILE else 0
        if size < 0:
            raise StepError("the archive is damaged: a member of {} bytes".format(size))
        if kind == FILE and name.endswith("/"):  # how archives older than ustar write a directory
            kind = DIRECTORY
        self._left = size
        self._padding = -size % BLOCK
        uid, gid = _number(extensions, "uid", header.uid), _number(extensions, "gid", header.gid)
        mtime = _number(extensions, "mtime", int(header.mtime))
        return Member(
            name, kind, header.mode & 0o7777, uid, gid, mtime, size, extensions.get("linkpath", header.linkname)
        )

    def _check_end(self) -> None:
        """Read what pads the archive, so that the compressed stream's own check sum is compared."""
        end = self._stream.position
        while block := self._stream.read(BLOCK * 128):
            if block.strip(b"\0"):
                raise StepError("the archive is damaged: something follows its end mark")
            if self._stream.position - end > MAX_TRAILER:
                raise StepError("the archive is padded with more than {} bytes".format(MAX_TRAILER))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> "dict[str, str]":
    """The records "LENGTH KEY=VALUE\\n" of a pax header (POSIX.1-2001) that count here; all of sparse files as one."""
    records: "dict[str, str]" = {}
    position = 0
    while position < len(data):
        digits, blank, _ = data[position : position + 20].partition(b" ")
        if not blank or not digits.isdigit():
            raise StepError("the archive is damaged: a pax record without length")
        length = int(digits)
        record = data[position + len(digits) + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or position + length > len(data):
            raise StepError(
                "the archive is damaged: a pax record of {} bytes does not end where it says".format(length)
            )
        name = SPARSE_RECORD if key.startswith(SPARSE_RECORD.encode()) else _text(key)
        if name in RECORDS or name == SPARSE_RECORD:
            records[name] = _text(value[:-1])
        position += length
    return records


def _number(extensions: "dict[str, str]", key: str, otherwise: int) -> int:
    """A pax record that holds a number (a fraction is cut off), else what the header says."""
    text = extensions.get(key)
    if text is None:
        return otherwise
    digits = text.partition(".")[0]
    if not digits.lstrip("-").isdigit() or len(digits) > 20:
        raise StepError("the archive is damaged: {} is {!r}, not a number".format(key, text[:40]))
    return int(digits)
