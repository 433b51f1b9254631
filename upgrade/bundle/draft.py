"""A bundle as a directory on the operator's side: manifest.json, its signatures, the parts and their indexes.

People who sign need manifest.json alone, and give back one small file each.
"""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from confine.upgrade.bundle import MANIFEST, SIGNATURE
from confine.upgrade.chunks import Index
from confine.upgrade.manifest import PARTS, Manifest, canonical
from confine.upgrade.signatures import BundleError, parse_signature

INDEX = ".caibx"
# Measured on the reference image, one changed 100 KiB file: 4K 1.02 %, 8K 0.65 %, 16K 0.50 %, 32K 0.55 % of the bundle.
CHUNK_BYTES = 16 * 1024
PIECE = 1 << 20
SIGNERS = ("signify-openbsd", "signify", "usign")


def make(directory: str, members: "dict[str, Any]", files: "dict[str, str]") -> Manifest:
    """Make the draft `directory`, which must not be there, of `files` (part to path) and all other `members` of the
    manifest. BundleError if a member cannot be."""
    fresh = directory.rstrip("/") + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.makedirs(fresh)
    parts = {}
    for name in PARTS:
        target = os.path.join(fresh, name)
        shutil.copyfile(files[name], target)
        parts[name] = {**described(target), "index": cut(target)}
    raw = canonical({**members, "format": 1, "parts": parts})
    manifest = Manifest(raw)
    with open(os.path.join(fresh, MANIFEST), "wb") as file:
        file.write(raw)
    if os.path.exists(directory):
        raise BundleError(f"{directory} is there already: a bundle that was made is not changed; choose another name")
    os.rename(fresh, directory)
    return manifest


def described(path: str) -> "dict[str, Any]":
    """Size and sha256 of a file, as a manifest has them."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(PIECE):
            digest.update(data)
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def cut(path: str) -> "dict[str, Any] | None":
    """Cut the part `path` into chunks by its content; its index is put beside it. None where there is no casync:
    nodes then fetch all of the part."""
    if shutil.which("casync") is None:
        return None
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as store:
        run(
            ["casync", "make", "--digest=sha256", f"--chunk-size={CHUNK_BYTES}", "--store=" + store, path + INDEX, path]
        )
    with open(path + INDEX, "rb") as file:
        Index(file.read())
    return described(path + INDEX)


def sign(draft: str, secret: str) -> str:
    """Sign with the secret key in the file `secret`, by whichever of signify and usign is there: this project handles
    no secret key itself. The path of the signature."""
    tool = next((name for name in SIGNERS if shutil.which(name)), None)
    if tool is None:
        raise BundleError("to sign takes signify (Debian: signify-openbsd) or usign, and none is there")
    manifest = os.path.join(draft, MANIFEST)
    fresh = manifest + ".new"
    run([tool, "-S", "-s", secret, "-m", manifest, "-x", fresh], interactive=True)
    with open(fresh, encoding="ascii") as file:
        number = parse_signature(file.read()).number
    target = f"{manifest}.{number}{SIGNATURE}"
    os.replace(fresh, target)
    return target


def signatures(draft: str) -> "list[str]":
    """The names of the signatures there are, sorted."""
    return sorted(name for name in os.listdir(draft) if name.startswith(MANIFEST + ".") and name.endswith(SIGNATURE))


def read_manifest(draft: str) -> Manifest:
    """The draft's manifest."""
    with open(os.path.join(draft, MANIFEST), "rb") as file:
        return Manifest(file.read())


def write_tar(draft: str, output: IO[bytes], with_parts: bool) -> None:
    """The bundle, or only its head, as the tar archive that nodes read: the same draft gives the same bytes."""
    names = [MANIFEST, *signatures(draft)]
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in [*names, *(PARTS if with_parts else ())]:
            path = os.path.join(draft, name)
            info = tarfile.TarInfo(name)
            info.size = os.path.getsize(path)
            info.mode = 0o644
            with open(path, "rb") as file:
                tar.addfile(info, file)


def head(draft: str) -> bytes:
    """What a mirror answers when it is asked what is new."""
    output = io.BytesIO()
    write_tar(draft, output, False)
    return output.getvalue()


def check_parts(draft: str) -> None:
    """BundleError if a part or an index is not what the manifest says."""
    manifest = read_manifest(draft)
    for part in manifest.parts.values():
        wanted = [(part.name, part.size, part.sha256)]
        if part.index is not None:
            wanted.append((part.name + INDEX, *part.index))
        for name, size, sha256 in wanted:
            found = described(os.path.join(draft, name))
            if found != {"size": size, "sha256": sha256}:
                raise BundleError(f"{name} is not what the manifest says: {found['size']} bytes, {found['sha256']}")


def chunks_of(draft: str, part: str) -> "Iterator[tuple[bytes, int]]":
    """(id, size) of a part's chunks; nothing where it has no index."""
    path = os.path.join(draft, part + INDEX)
    if os.path.exists(path):
        with open(path, "rb") as file:
            for chunk in Index(file.read()):
                yield chunk.id, chunk.size


def run(argv: "list[str]", interactive: bool = False) -> None:
    """Run a tool. interactive: it may ask for a passphrase. BundleError with what it said."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=None if interactive else subprocess.PIPE, check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr or b"").decode("utf-8", "replace").split())
        raise BundleError(f"{argv[0]} failed (status {done.returncode}) {said}")
