"""Makes the firmware of a kind of machine from a release of OpenWrt and this repository: `make firmware`.

    python3 -m firmware.openwrt.build --release 25.12.2 --target x86/64

Into build/firmware/RELEASE/BOARD/: the disk image, the upgrade bundle (unsigned), the packages, sha256sums,
sbom.spdx.json, inputs.json, build.log. It appears there as a whole or not at all.
"""

import argparse
import contextlib
import fcntl
import gzip
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confine.upgrade import keyring
from confine.upgrade.manifest import DATE_FORMAT, is_name
from confine.upgrade.signatures import BundleError
from firmware.image import boot, compose, filesystems, layout, tools
from firmware.openwrt import boards, imagebuilder, inputs, kernel, personal, sbom, sdk
from firmware.openwrt.boards import Board
from firmware.openwrt.download import Say, sha256_of
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.imagebuilder import Built
from firmware.openwrt.release import Release, unpack
from firmware.openwrt.run import Runner
from upgrade.bundle import draft

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUTPUT = os.path.join(REPOSITORY, "build", "firmware")
CACHE = os.path.join(REPOSITORY, "build", "openwrt")
FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files")
SHARE = "usr/lib/confine/share"
# What GRUB gives the kernel anyway: see upgrade/boot/grub.cfg.
_CONSOLE = "ttyS0,115200"


@dataclass(frozen=True)
class Order:
    """What to make. luci: a checkout of LuCI's feed, or "". keyring: who may sign upgrades (file), or "".
    epoch: of the bundle. nodes: files and directories, one for each personalised image."""

    release: str
    board: Board
    source: str = ""
    keys: str = ""
    luci: str = ""
    keyring: str = ""
    version: str = ""
    epoch: int = 0
    branch: str = "stable"
    nodes: tuple[str, ...] = ()
    output: str = OUTPUT
    cache: str = CACHE


def make(order: Order, say: Say, repository: str = REPOSITORY) -> str:
    """Make the firmware; the directory it is in. Raises FirmwareError, and then an earlier one stays as it was."""
    nodes = [personal.load(path) for path in order.nodes]
    if order.keyring:
        _keyring(order.keyring)
    source = inputs.Source(repository)
    version = order.version or f"{order.release}-{source.version}"
    if not is_name(version):
        raise FirmwareError(f"VERSION={version!r}: letters, digits and . _ + ~ - are possible")
    if source.changed:
        say("the sources have changes that are not committed: nobody else can make this image")
    target = os.path.join(order.output, order.release, order.board.name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with _alone(order.cache), tempfile.TemporaryDirectory(prefix=".new-", dir=os.path.dirname(target)) as work:
        fresh = os.path.join(work, "firmware")
        os.mkdir(fresh)
        _make(order, source, version, nodes, fresh, say, repository)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(fresh, target)
    return target


def _make(
    order: Order, source: inputs.Source, version: str, nodes: list[personal.Node], out: str, say: Say, repository: str
) -> None:
    """Into the empty directory `out`."""
    log = os.path.join(order.cache, "build.log")
    with open(log, "w"):
        pass  # that of an earlier build
    runner = Runner(log, source.epoch)
    downloads = os.path.join(order.cache, "downloads")
    release = Release(order.release, order.board.target, downloads, order.source, order.keys)
    release.open(say)
    archives = {kind: release.archive(kind, say) for kind in ("imagebuilder", "sdk")}
    trees = {kind: unpack(path, os.path.join(order.cache, kind), release.sums[os.path.basename(path)], say)
             for kind, path in archives.items()}  # fmt: skip
    # First what can be known before anything is built.
    config = imagebuilder.kernel_config(trees["imagebuilder"])
    for line in kernel.demand(kernel.check(config, order.board.kernel, order.board.kernel_wanted)):
        say("note: " + line)
    packages = sdk.build(trees["sdk"], repository, order.luci, runner, say)
    files = _files(order, out)
    names = sdk.names(repository) + sdk.translations(packages)
    built = imagebuilder.build(trees["imagebuilder"], order.board, names, packages, files, out, runner, say)
    shutil.rmtree(files)
    os.mkdir(os.path.join(out, "packages"))
    for path in packages:
        shutil.copy(path, os.path.join(out, "packages"))
    with _epoch(source.epoch):
        products = _compose(order, built, version, source.epoch, trees["imagebuilder"], out, say)
        _personalise(order, built, version, trees["imagebuilder"], nodes, out, say)
    shutil.copyfile(log, os.path.join(out, "build.log"))
    _describe(order, release, source, version, built, products, archives, trees["imagebuilder"], out)


def _compose(
    order: Order, built: Built, version: str, epoch: int, builder: str, out: str, say: Say
) -> list[str]:  # fmt: skip
    """Disk image and bundle; the names of what is shared with everybody."""
    if order.board.boot != "grub":
        for path in built.images:
            shutil.copy(path, out)
        say(f"{order.board.name}: OpenWrt's own image; slots are its loader's, see docs/user/hardware.md")
        return [os.path.basename(path) for path in built.images]
    image = os.path.join(out, f"{order.board.name}.img")
    _disk(order, built, version, builder, image)
    part = os.path.join(out, "kernel.part")
    table = {part.name: part for part in layout.partitions(order.board.sizes_mib)}
    with tempfile.TemporaryDirectory(dir=out) as work:
        filesystems.write_kernel(part, table["kernel-a"], built.kernel, None, work, epoch)
    members = {
        "version": version, "epoch": order.epoch, "board": order.board.name, "branch": order.branch,
        "published": time.strftime(DATE_FORMAT, time.gmtime(epoch)),
        "keyring": _keyring(order.keyring) if order.keyring else None,
    }  # fmt: skip
    draft.make(os.path.join(out, "bundle"), members, {"kernel": part, "root": built.root})
    os.unlink(part)
    return [os.path.basename(image) + ".gz", "vmlinuz", "root.squashfs", "bundle/manifest.json"]


def _disk(order: Order, built: Built, version: str, builder: str, path: str, config_tar: str | None = None) -> None:
    """A disk image, packed, at `path`.gz. config_tar: what makes it one node's own."""
    console = order.board.console
    options = f"console={console}" if console and console != _CONSOLE else ""
    # The host's GRUB is for the host's kind of machine; for others the ImageBuilder has one.
    foreign = not set(order.board.platforms) <= set(boot.PC)
    tree = os.path.join(builder, "staging_dir", "host") if foreign else ""
    compose.compose(
        built.kernel, None, built.root, path, config_tar, order.board.sizes_mib, options, version,
        platforms=order.board.platforms, grub=tree,
    )  # fmt: skip
    for suffix in (".json", ".lock"):
        os.unlink(path + suffix)
    handle = os.open(path + ".gz", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if config_tar else 0o644)
    with (
        open(path, "rb") as image,
        os.fdopen(handle, "wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
    ):
        shutil.copyfileobj(image, packed, 1 << 20)
    os.unlink(path)


def _personalise(
    order: Order, built: Built, version: str, builder: str, nodes: list[personal.Node], out: str, say: Say
) -> None:
    """One disk image for each node, beside the shared one: readable for its owner alone, since it holds keys."""
    if nodes and order.board.boot != "grub":
        raise FirmwareError(f"images of nodes are made for boards that GRUB starts, and {order.board.name} is none")
    for node in nodes:
        directory = os.path.join(out, "nodes")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        packed = os.path.join(directory, node.name + ".tgz")
        path = os.path.join(directory, node.name + ".img")
        if os.path.exists(path + ".gz"):
            raise FirmwareError(f"two nodes are called {node.name}")
        personal.archive(node, packed)
        _disk(order, built, version, builder, path, packed)
        os.unlink(packed)
        say(f"node {node.name}: {os.path.relpath(path, out)}.gz, {len(node.files)} files of its own")


def _files(order: Order, out: str) -> str:
    """The directory of files that is laid over the root: the board's name, the keyring."""
    files = os.path.join(out, "files")
    shutil.copytree(FILES, files)
    share = os.path.join(files, SHARE)
    os.makedirs(share)
    with open(os.path.join(share, "board"), "w", encoding="ascii") as file:
        file.write(order.board.name + "\n")
    if order.keyring:
        shutil.copyfile(order.keyring, os.path.join(share, "upgrade-keyring.json"))
    return files


def _keyring(path: str) -> dict[str, object]:
    try:
        return keyring.load(path)
    except (BundleError, OSError) as error:
        raise FirmwareError(f"KEYRING={path}: {error}") from None


def _describe(
    order: Order, release: Release, source: inputs.Source, version: str, built: Built, products: list[str],
    archives: dict[str, str], builder: str, out: str,
) -> None:  # fmt: skip
    """inputs.json, sbom.spdx.json, sha256sums."""
    facts = {"release": order.release, "target": order.board.target, "board": order.board.name, "version": version,
             "list signed by": release.signer}  # fmt: skip
    own = set(os.listdir(os.path.join(out, "packages")))
    fetched = [path for path in imagebuilder.inputs(builder) if os.path.basename(path) not in own]
    with open(os.path.join(out, "inputs.json"), "w", encoding="utf-8") as file:
        file.write(inputs.text(source, facts, [*archives.values(), order.board.path, *fetched]))
    sums = {name: sha256_of(os.path.join(out, name)) for name in products}
    with open(os.path.join(out, "sbom.spdx.json"), "w", encoding="utf-8") as file:
        file.write(sbom.document(f"confine-{order.board.name}", version, source.epoch, built.packages, sums))
    listed = {**sums, **{name: sha256_of(os.path.join(out, name)) for name in ("inputs.json", "sbom.spdx.json")}}
    for name in sorted(own):
        listed[f"packages/{name}"] = sha256_of(os.path.join(out, "packages", name))
    with open(os.path.join(out, "sha256sums"), "w", encoding="utf-8") as file:
        file.write("".join(f"{listed[name]} *{name}\n" for name in sorted(listed)))
    shutil.rmtree(os.path.join(out, "openwrt"))


@contextlib.contextmanager
def _alone(cache: str) -> Iterator[None]:
    """One at a time: the SDK and the ImageBuilder are worked in."""
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _epoch(epoch: int) -> Iterator[None]:
    """The time that images are made with."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _order(args: argparse.Namespace) -> Order:
    if not args.target and not args.board:
        raise FirmwareError(f"TARGET= or BOARD= says for what; there are boards {', '.join(boards.names())}")
    board = boards.find(args.board) if args.board else boards.of_target(args.target)
    if args.target and board.target != args.target:
        raise FirmwareError(f"BOARD={args.board} is of the target {board.target}, not {args.target}")
    return Order(
        args.release, board, args.source, args.keys, args.luci, args.keyring, args.version, args.epoch, args.branch,
        tuple(args.node.split(",")) if args.node else (), args.output, args.cache,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status 0, or 1 with what is wrong."""
    parser = argparse.ArgumentParser(prog="firmware", description="Make firmware from a release of OpenWrt.")
    parser.add_argument("--release", required=True, help="25.12.2")
    parser.add_argument("--target", default="", help="x86/64")
    parser.add_argument("--board", default="", help="of firmware/openwrt/boards, or a file; by default the target's")
    parser.add_argument("--source", default="", help="a directory with the release's files, or another server")
    parser.add_argument("--keys", default="", help="a directory with the keys that sign releases, BRANCH.pub")
    parser.add_argument("--luci", default="", help="a checkout of LuCI's feed, to work offline")
    parser.add_argument("--keyring", default="", help="who may sign upgrades: of confine-bundle keyring")
    parser.add_argument("--version", default="", help="of the system; by default release and commit")
    parser.add_argument("--epoch", type=int, default=0, help="the bundle's")
    parser.add_argument("--branch", default="stable", help="the bundle's")
    parser.add_argument("--node", default="", help="files or directories, with commas: an image for each node")
    parser.add_argument("--output", default=OUTPUT)
    parser.add_argument("--cache", default=CACHE)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    try:
        made = make(_order(parser.parse_args(argv)), say)
    except (FirmwareError, BundleError, OSError, ValueError, tools.ToolError) as error:
        print(f"firmware: {error}", file=sys.stderr)
        return 1
    with open(os.path.join(made, "sha256sums"), encoding="utf-8") as file:
        print(file.read(), end="")
    say(f"done: {os.path.relpath(made)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
