"""Archives as streams of bytes: recognised by what they hold, unpacked piece by piece in bounded memory.

A stream never trusts what it reads: it stops with a StepError once it grows out of proportion (an archive bomb),
is cut short or damaged. gzip and xz are read by Python's own modules, zstd by the tool of that name.
"""

import os
import subprocess

from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SQUASHFS = "squashfs"
GZIP = "tar.gz"
XZ = "tar.xz"
ZSTD = "tar.zst"
MAGIC = ((b"hsqs", SQUASHFS), (b"\x1f\x8b\x08", GZIP), (b"\xfd7zXZ\x00", XZ), (b"\x28\xb5\x2f\xfd", ZSTD))

CHUNK = 64 * 1024
# An archive of real files does not shrink below a few percent. Small ones may (a text file of blanks), hence the floor.
MAX_RATIO = 200
RATIO_FLOOR = 64 * 1024 * 1024
# What a decoder may take of the node's memory: xz -9 needs 65 MiB, zstd -19 8 MiB.
DECODER_MEMORY_MIB = 80


def kind_of(path: str) -> "str | None":
    """SQUASHFS, GZIP, XZ or ZSTD by the first bytes of the file `path`, whatever its name; None for anything else."""
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, kind in MAGIC:
        if start.startswith(magic):
            return kind
    return None


class Stream:
    """The unpacked bytes of the archive at `path`. Use as a context manager.

    position: bytes unpacked so far; packed: bytes of the file read for them.
    """

    def __init__(self, path: str, kind: str) -> None:
        self.position = 0
        self._pending = b""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._decoder = _decoder(kind, self._file)
        except OSError as error:
            os.close(self._file)
            raise StepError("{} archives cannot be unpacked here: {}".format(kind, error))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._decoder.close()
        finally:
            os.close(self._file)

    @property
    def packed(self) -> int:
        """How far the file was read."""
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end. size: at most some MiB, the caller holds it in memory."""
        pieces = []
        missing = size
        while missing > 0:
            if not self._pending:
                self._pending = self._decoder.piece()
                if not self._pending:
                    break
                self.position += len(self._pending)
                self._check_ratio()
            piece, self._pending = self._pending[:missing], self._pending[missing:]
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _check_ratio(self) -> None:
        if self.position > RATIO_FLOOR and self.position > MAX_RATIO * self.packed:
            raise StepError(
                "the archive is refused as a bomb: {} bytes of it unpack to more than {}, over {} times as much".format(
                    self.packed, self.position, MAX_RATIO
                )
            )


def _decoder(kind: str, file: int) -> "_Gzip | _Xz | _Zstd":
    if kind == GZIP:
        return _Gzip(file)
    if kind == XZ:
        return _Xz(file)
    if kind == ZSTD:
        return _Zstd(file)
    raise StepError("a {} is no archive that can be unpacked".format(kind))


def _after_padding(file: int, rest: bytes) -> bytes:
    """What follows the zeros that may pad a compressed stream: the start of the next one, or b"" at the end."""
    data = rest.lstrip(b"\0")
    while not data:
        more = os.read(file, CHUNK)
        if not more:
            return b""
        data = more.lstrip(b"\0")
    return data


class _Gzip:
    """One or more gzip members in a row, padded with zeros at most."""

    def __init__(self, file: int) -> None:
        import zlib

        self._zlib = zlib
        self._file = file
        self._input = b""
        self._member: "Any" = zlib.decompressobj(31)

    def piece(self) -> bytes:
        while True:
            if self._member.eof:
                self._input = _after_padding(self._file, self._member.unused_data)
                if not self._input:
                    return b""
                self._member = self._zlib.decompressobj(31)
            elif not self._input:
                self._input = os.read(self._file, CHUNK)
                if not self._input:
                    raise StepError("the archive is cut short: its gzip stream has no end")
            try:
                out: bytes = self._member.decompress(self._input, CHUNK)
            except self._zlib.error as error:
                raise StepError("the archive is damaged: {}".format(error))
            self._input = self._member.unconsumed_tail
            if out:
                return out

    def close(self) -> None:
        pass


class _Xz:
    """One or more xz streams in a row."""

    def __init__(self, file: int) -> None:
        import lzma

        self._lzma = lzma
        self._file = file
        self._stream = self._fresh()

    def _fresh(self) -> "Any":
        return self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, DECODER_MEMORY_MIB * 1024 * 1024)

    def piece(self) -> bytes:
        data = b""
        while True:
            if self._stream.eof:
                data = _after_padding(self._file, self._stream.unused_data)
                if not data:
                    return b""
                self._stream = self._fresh()
            elif self._stream.needs_input:
                data = os.read(self._file, CHUNK)
                if not data:
                    raise StepError("the archive is cut short: its xz stream has no end")
            try:
                out: bytes = self._stream.decompress(data, CHUNK)
            except self._lzma.LZMAError as error:
                raise StepError(
                    "the archive is damaged, or needs over {} MiB to unpack: {}".format(DECODER_MEMORY_MIB, error)
                )
            data = b""
            if out:
                return out

    def close(self) -> None:
        pass


class _Zstd:
    """The `zstd` tool as a child; it gets the open file, no name."""

    def __init__(self, file: int) -> None:
        self._child = subprocess.Popen(
            ["zstd", "-d", "-q", "-c", "--memory={}MB".format(DECODER_MEMORY_MIB)],
            stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def piece(self) -> bytes:
        if self._child.stdout is None or self._child.stderr is None:
            raise StepError("zstd was started without pipes")
        data = os.read(self._child.stdout.fileno(), CHUNK)
        if data:
            return data
        said = self._child.stderr.read(300).decode("utf-8", "replace").strip()
        if self._child.wait() != 0:
            raise StepError("the archive is cut short or damaged: {}".format(said or "zstd failed"))
        return b""

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
