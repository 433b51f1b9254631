"""What an image was made from, said so that somebody else can make the same: versions, checksums, host tools."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable

from firmware.openwrt.download import sha256_of
from firmware.openwrt.errors import FirmwareError

_TOOLS = (
    ("grub-mkimage", "--version"), ("mksquashfs", "-version"), ("mkfs.ext4", "-V"), ("mkfs.fat", "--help"),
    ("sfdisk", "--version"), ("casync", "--version"), ("python3", "--version"),
)  # fmt: skip


def git(repository: str, *words: str) -> str:
    """What git says of the repository. Raises FirmwareError."""
    # As root, git refuses somebody else's repository unless told that this is meant.
    argv = ["git", "-c", "safe.directory=*", "-C", repository, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FirmwareError(f"{' '.join(argv)}: {done.stderr.strip()}; the version comes from git")
    return done.stdout.strip()


class Source:
    """The state of this repository. epoch: the time of its commit, in seconds since 1970, or SOURCE_DATE_EPOCH."""

    def __init__(self, repository: str) -> None:
        self.commit = git(repository, "rev-parse", "HEAD")
        self.changed = bool(git(repository, "status", "--porcelain", "--untracked-files=no"))
        given = os.environ.get("SOURCE_DATE_EPOCH", "")
        if given and not given.isdigit():
            raise FirmwareError(f"SOURCE_DATE_EPOCH is {given!r}: seconds since 1970 are needed")
        self.epoch = int(given or git(repository, "log", "-1", "--format=%ct"))

    @property
    def version(self) -> str:
        """A short name of the state, as part of a version."""
        return self.commit[:9] + ("+changed" if self.changed else "")


def text(source: Source, facts: dict[str, str], files: Iterable[str]) -> str:
    """inputs.json. facts: what else it depends on, by name. files: all input files."""
    doc = {
        "commit": source.commit, "uncommitted changes": source.changed, "SOURCE_DATE_EPOCH": source.epoch, **facts,
        "tools": tools(), "files": {os.path.basename(path): sha256_of(path) for path in files},
    }  # fmt: skip
    return json.dumps(doc, indent=1, sort_keys=True) + "\n"


def tools() -> dict[str, str]:
    """First line of what each of the host's tools says of itself."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = {}
    for name, word in _TOOLS:
        tool = shutil.which(name, path=path)
        if tool:
            done = subprocess.run([tool, word], capture_output=True, text=True, check=False)
            found[name] = (done.stdout + done.stderr).strip().splitlines()[0]
    return found
