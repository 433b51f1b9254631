"""Debian packages as raw material: fetched with the host's apt, checked by it, and unpacked without being installed.

apt works below a directory of its own (sources, lists, status, packages), so the host's state is neither read nor
changed. Which mirror is used follows from the host's own sources: the same addresses, another release.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build"
RELEASE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class BuildError(Exception):
    """Something could not be built; the message says what, with which value, and what to do."""


@dataclass(frozen=True)
class Deb:
    """One fetched package."""

    name: str
    version: str
    architecture: str
    path: Path
    sha256: str


def run(
    argv: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None, cwd: Path | None = None, data: str = ""
) -> str:
    """Runs a command and gives its standard output; `data` is its standard input.

    Raises BuildError with the command and what it said.
    """
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(words, input=data, capture_output=True, text=True, env=env, cwd=cwd, check=False)
    except FileNotFoundError:
        raise BuildError(f"{words[0]} is not on this machine: install the packages of tools/packages.txt") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-4000:]
        raise BuildError(f"{' '.join(words)[:300]} ended with status {done.returncode}: {said}")
    return done.stdout


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the build lock `name`: two builds of the same thing wait for each other."""
    locks = BUILD / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def host_sources() -> list[tuple[str, str]]:
    """(address, release as the host's sources name it) of each Debian archive the host itself uses."""
    shown = run(["apt-get", "indextargets", "--format", "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"])
    found: list[tuple[str, str]] = []
    for line in shown.splitlines():
        kind, uri, release, component, origin = line.split("|")
        source = (uri, release)
        if kind == "Packages" and component == "main" and origin in ("Debian", "") and source not in found:
            found.append(source)
    return found


def source_list() -> str:
    """The source list for RELEASE on the host's mirrors: the release itself and its security updates.

    Raises BuildError when the host names no Debian mirror.
    """
    lines: dict[str, str] = {}
    for uri, release in host_sources():
        if release.endswith(("-updates", "-backports")):
            continue
        suite = RELEASE + "-security" if "security" in release else RELEASE
        lines.setdefault(suite, f"deb [signed-by={KEYRING}] {uri} {suite} main")
    if RELEASE not in lines:
        raise BuildError("this machine's apt sources name no Debian mirror: add one to /etc/apt/sources.list.d")
    return "\n".join(lines.values()) + "\n"


class Archive:
    """The packages of one Debian release, fetched with apt below `directory`."""

    def __init__(self, directory: Path = BUILD / "debian") -> None:
        self.directory = directory
        self.updated = False

    def _apt(self, *words: str, into: str = "packages") -> str:
        """Runs apt-get; `into` is where fetched packages are kept: `none` is always empty, so that all are new."""
        here = self.directory
        options = {
            "Dir::Etc::SourceList": here / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": here / "state",
            "Dir::State::status": here / "status",
            "Dir::Cache": here / "cache",
            "Dir::Cache::archives": here / into,
            "Acquire::ForceHash": "SHA256",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        argv = ["apt-get", "-q", "-y"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        # `apt-get download` knows only the current directory.
        return run([*argv, *words], env, cwd=here / into)

    def _update(self) -> None:
        """Fetches the lists of packages, once for each build that needs any package."""
        if self.updated:
            return
        for part in ("state/lists/partial", "cache", "packages/partial", "none/partial"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").write_text("")
        (self.directory / "sources.list").write_text(source_list())
        self._apt("update", "--error-on=any")
        self.updated = True

    def fetch(self, names: Sequence[str], dependencies: bool = True) -> list[Deb]:
        """Fetches packages, with what they depend on unless told otherwise, sorted by name.

        What was fetched before is not fetched again. Raises BuildError for an unknown package or a wrong checksum.
        """
        with locked("debian"):
            self._update()
            command = "install" if dependencies else "download"
            shown = self._apt("--print-uris", command, *names, into="none")
            self._apt("--download-only", command, *names)
        debs = [self._deb(line) for line in shown.splitlines() if line.startswith("'")]
        if not debs:
            raise BuildError(f"apt offered nothing for {' '.join(names)}: it said {shown[:500]}")
        return sorted(debs, key=lambda deb: deb.name)

    def _deb(self, line: str) -> Deb:
        """Reads a line of --print-uris ('uri' file size SHA256:checksum) and checks the file it names."""
        _, file, _, checksum = line.split()
        path = self.directory / "packages" / file
        sha256 = sha256_of(path)
        if checksum != "SHA256:" + sha256:
            raise BuildError(f"{path} has sha256 {sha256}, but the archive says {checksum}: remove it and try again")
        name, version, architecture = file.removesuffix(".deb").split("_")
        return Deb(name, version.replace("%3a", ":"), architecture, path, sha256)


def unpack(deb: Deb, directory: Path) -> None:
    """Unpacks the files of a package below `directory`, with their owners and modes; its scripts do not run.

    A directory that is a symbolic link already (/lib → /usr/lib) stays one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tar = ["tar", "--extract", "--preserve-permissions", "--numeric-owner", "--keep-directory-symlink"]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb.path], stdout=subprocess.PIPE) as reader:
        done = subprocess.run([*tar, "--directory", directory], stdin=reader.stdout, capture_output=True, check=False)
    if reader.returncode != 0 or done.returncode != 0:
        raise BuildError(f"{deb.path} could not be unpacked: {done.stderr.decode(errors='replace').strip()}")


def remove_tree(path: Path) -> None:
    """Removes a directory and all below it; nothing to do when there is none."""
    if path.exists():
        shutil.rmtree(path)
