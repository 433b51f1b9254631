"""A release of OpenWrt for one target: its signed list of files, and its SDK and ImageBuilder, checked and unpacked.

Everything begins with `sha256sums`: its signature `sha256sums.sig` (usign: Ed25519) has to be by the key of the
release's branch (keys/, or a directory of one's own). Names and checksums of all other files are taken from it.
"""

import os
import re
import shutil
import subprocess

from confine.upgrade.signatures import BundleError, is_by, parse_key, parse_signature
from firmware.openwrt import download
from firmware.openwrt.download import Say
from firmware.openwrt.errors import FirmwareError, meant

# The one place that names it: all that is fetched is checked against signatures, whoever serves it.
SERVER = "https://downloads.openwrt.org"
KEYS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keys")
LIST, SIGNATURE = "sha256sums", "sha256sums.sig"
LIST_LIMIT = 4 << 20
ARCHIVE_LIMIT = 2 << 30
_RELEASE = re.compile(r"\d\d\.\d\d(\.\d+)?(-rc\d+)?|SNAPSHOT")
_TARGET = re.compile(r"[a-z0-9_]+/[a-z0-9_]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_KINDS = {"sdk": "SDK", "imagebuilder": "ImageBuilder"}


class Release:
    """A release's files for one target.

    source: a directory that has them (for use offline), or an address; "": OpenWrt's server. cache: a directory.
    """

    def __init__(self, version: str, target: str, cache: str, source: str = "", keys: str = "") -> None:
        if not _RELEASE.fullmatch(version):
            raise FirmwareError(f"RELEASE={version!r}: a release of OpenWrt is named as 25.12.2 or 24.10.4")
        if not _TARGET.fullmatch(target):
            raise FirmwareError(f"TARGET={target!r}: it is TARGET/SUBTARGET, as x86/64")
        self.version, self.target = version, target
        self._local = source if source and "://" not in source else ""
        self._url = f"{(source or SERVER).rstrip('/')}/releases/{version}/targets/{target}"
        self._cache = os.path.join(cache, version, target.replace("/", "-"))
        self._keys = keys or KEYS
        self.sums: dict[str, str] = {}
        self.signer = ""

    def open(self, say: Say) -> None:
        """Get the list and check its signature. Raises FirmwareError."""
        listed = self._read(LIST, LIST_LIMIT)
        signature = self._read(SIGNATURE, 4096)
        self.signer = self._check(listed, signature)
        self.sums = parse(listed)
        say(f"release {self.version} {self.target}: {len(self.sums)} files, list signed by {self.signer}")

    def name_of(self, kind: str) -> str:
        """The name of the file of a kind: sdk, imagebuilder. Raises FirmwareError if the list has none, or several."""
        target = self.target.replace("/", "-")
        found = [name for name in self.sums if f"-{kind}-" in name and f"{target}" in name and ".tar." in name]
        if len(found) != 1:
            raise FirmwareError(
                f"the list of release {self.version} has {len(found) or 'no'} {_KINDS[kind]}s for {self.target}"
            )
        return found[0]

    def archive(self, kind: str, say: Say) -> str:
        """The path of the SDK's or ImageBuilder's archive, its checksum checked. Raises FirmwareError."""
        name = self.name_of(kind)
        wanted = self.sums[name]
        if self._local:
            path = os.path.join(self._local, name)
            if not os.path.exists(path):
                raise FirmwareError(f"{path} is not there, though the list in {self._local} has it")
            found = download.sha256_of(path)
            if found != wanted:
                raise FirmwareError(f"{path}: its sha256 is {found}, the signed list says {wanted}")
            return path
        path = os.path.join(self._cache, name)
        say(f"{_KINDS[kind]}: {name}")
        download.large(f"{self._url}/{name}", path, wanted, ARCHIVE_LIMIT, say)
        return path

    def _read(self, name: str, limit: int) -> bytes:
        if not self._local:
            try:
                return download.small(f"{self._url}/{name}", limit)
            except download.Missing:
                raise FirmwareError(
                    f"{self._url}/{name} is not there: does release {self.version} exist, and has it {self.target}?"
                ) from None
        path = os.path.join(self._local, name)
        try:
            with open(path, "rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            raise FirmwareError(
                f"{path} is not there: SOURCE= takes a directory with the files of "
                f"releases/{self.version}/targets/{self.target}/, {LIST} and {SIGNATURE} too"
            ) from None

    def _check(self, listed: bytes, signature: bytes) -> str:
        branch = ".".join(self.version.split("-")[0].split(".")[:2])
        path = os.path.join(self._keys, branch + ".pub")
        try:
            with open(path, encoding="ascii") as file:
                key = parse_key(file.read())
        except FileNotFoundError:
            known = [name[:-4] for name in sorted(os.listdir(self._keys)) if name.endswith(".pub")]
            raise FirmwareError(
                f"there is no key for OpenWrt {branch}{meant(branch, known)}. KEYS=DIRECTORY with {branch}.pub has one"
            ) from None
        except (BundleError, ValueError) as error:
            raise FirmwareError(f"{path}: {error}") from None
        try:
            made = parse_signature(signature.decode("ascii"))
        except (BundleError, ValueError) as error:
            raise FirmwareError(f"{SIGNATURE} of release {self.version}: {error}") from None
        if made.number != key.number:
            raise FirmwareError(
                f"{LIST} is signed by the key {made.number}, releases {branch} by {key.number} ({path}). "
                "If OpenWrt has changed its key: KEYS=DIRECTORY"
            )
        if not is_by(made, key, listed):
            raise FirmwareError(f"{LIST} of release {self.version} is not what the key {key.number} signed: not used")
        return key.number


def parse(listed: bytes) -> dict[str, str]:
    """sha256sums as name to sha256: `HEX *NAME` or `HEX  NAME`. Names with a path (packages/...) are left out.

    Raises FirmwareError for a line that is none.
    """
    sums = {}
    for number, line in enumerate(listed.decode("utf-8", "replace").splitlines(), 1):
        digest, _, name = line.partition(" ")
        name = name.lstrip(" *")
        if not re.fullmatch("[0-9a-f]{64}", digest) or not name:
            raise FirmwareError(f"{LIST}, line {number}: {line[:80]!r} is no sha256 and name")
        if _NAME.fullmatch(name):
            sums[name] = digest
    return sums


def unpack(archive: str, directory: str, sha256: str, say: Say) -> str:
    """Unpack an SDK or ImageBuilder below `directory`, once; its only top directory. Raises FirmwareError.

    Unpacked aside and renamed: what is there is whole. tar refuses members that lead out of the directory.
    """
    target = os.path.join(directory, sha256[:16])
    if not os.path.isdir(target):
        say(f"unpacking {os.path.basename(archive)}")
        fresh = target + ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        os.makedirs(fresh)
        argv = ["tar", "-x", "--no-same-owner", "-C", fresh, "-f", archive]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            todo = "; make room below build/" if "No space left" in done.stderr else ""
            raise FirmwareError(f"{archive} cannot be unpacked: {done.stderr.strip()[-300:]}{todo}")
        os.rename(fresh, target)
    inside = os.listdir(target)
    if len(inside) != 1:
        raise FirmwareError(f"{archive} holds {len(inside)} directories at its top, one is expected")
    return os.path.join(target, inside[0])
