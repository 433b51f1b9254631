"""Fetches files from OpenWrt's servers into a cache: bounded, resumed after a break, never taken unfinished."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable

from firmware.openwrt.errors import FirmwareError

TIMEOUT_S = 60
PIECE = 1 << 20
TRIES = 3

Say = Callable[[str], None]


def small(url: str, limit: int) -> bytes:
    """The content of `url`, at most `limit` bytes. Raises FirmwareError; .missing is true when the server has none."""
    try:
        with _open(url, 0) as answer:
            content: bytes = answer.read(limit + 1)
    except (OSError, ValueError) as error:
        raise _failed(url, error) from None
    if len(content) > limit:
        raise FirmwareError(f"{url} is larger than {limit} bytes: this is not what it should be")
    return content


class Missing(FirmwareError):
    """The server says that there is no such thing."""


def large(url: str, path: str, sha256: str, limit: int, say: Say) -> None:
    """Fetch `url` to `path`, unless it is there with this sha256. limit: bytes. Raises FirmwareError.

    What arrived stays as `path`.part and is continued by the next call.
    """
    if os.path.exists(path) and sha256_of(path) == sha256:
        return
    part = path + ".part"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _continue(url, part, limit, say)
            break
        except FirmwareError:
            raise
        except (OSError, ValueError) as error:
            if attempt == TRIES or not _may_pass(error):
                raise _failed(url, error) from None
            say(f"{url}: {error}; trying again")
    found = sha256_of(part)
    if found != sha256:
        os.unlink(part)
        raise FirmwareError(f"{url}: its sha256 is {found}, the signed list says {sha256}; it was thrown away")
    os.replace(part, path)


def sha256_of(path: str) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _continue(url: str, part: str, limit: int, say: Say) -> None:
    there = os.path.getsize(part) if os.path.exists(part) else 0
    try:
        answer = _open(url, there)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing more: it is all there, or another file
            return
        raise
    with answer:
        resumed = answer.status == 206
        if there and resumed:
            say(f"{url}: continued at {there >> 20} MiB")
        size = (there if resumed else 0) + int(answer.headers.get("Content-Length") or 0)
        if size > limit:
            raise FirmwareError(f"{url} has {size} bytes, more than {limit}: this is not what it should be")
        with open(part, "ab" if resumed else "wb") as file:
            while piece := answer.read(PIECE):
                file.write(piece)
                if file.tell() > limit:
                    raise FirmwareError(f"{url} has more than {limit} bytes: this is not what it should be")
            if size and file.tell() < size:
                raise ConnectionError(f"broken off at {file.tell()} of {size} bytes")


def _open(url: str, start: int):  # type: ignore[no-untyped-def]  # urllib's own answer, of which there is no one type
    headers = {"User-Agent": "confine-firmware"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


def _may_pass(error: Exception) -> bool:
    """Is it worth another try?"""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return isinstance(error, (ConnectionError, TimeoutError, urllib.error.URLError)) and not _is_full(error)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (28, 122)


def _failed(url: str, error: Exception) -> FirmwareError:
    if isinstance(error, urllib.error.HTTPError) and error.code in (404, 410):
        return Missing(f"{url}: the server has no such file")
    if _is_full(error):
        return FirmwareError(f"{url}: the disk is full; make room below build/ and start again, it is continued")
    return FirmwareError(f"{url}: {error}; what arrived is kept, start again later")
