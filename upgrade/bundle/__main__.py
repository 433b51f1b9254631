"""The command `confine-bundle`."""

import argparse
import json
import os
import sys
import tempfile
import time
from typing import Any

from confine import durable
from confine.upgrade import bundle, keyring
from confine.upgrade.keyring import Clock, Keyring
from confine.upgrade.manifest import DATE_FORMAT, Manifest, canonical, check_threshold
from confine.upgrade.signatures import BundleError, parse_key
from upgrade.bundle import draft, publish


def main(argv: "list[str] | None" = None) -> int:
    """Exit status: 0 done, 1 not, 2 the command line is wrong."""
    args = _parser().parse_args(argv)
    try:
        args.verb(args)
    except (BundleError, OSError) as error:
        sys.stderr.write(f"confine-bundle: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="confine-bundle", description="Makes, signs and publishes upgrades of nodes.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    one = verbs.add_parser("make", help="a bundle of a kernel and a root")
    one.set_defaults(verb=_make)
    one.add_argument("--kernel", help="the kernel part as it is written to the slot")
    one.add_argument("--vmlinuz", help="or the kernel itself,")
    one.add_argument("--initrd", help="and its initrd: the part is made of both")
    one.add_argument("--root", required=True, help="squashfs")
    one.add_argument("--version", required=True)
    one.add_argument(
        "--epoch", required=True, type=int, help="never lower than before; nodes take nothing below theirs"
    )
    one.add_argument("--board", required=True)
    one.add_argument("--branch", default="stable")
    one.add_argument("--published", help="2026-11-20T10:00:00Z, now if not given")
    one.add_argument("--priority-days", type=int, default=0, help="all nodes have it after so many days; 0: at once")
    one.add_argument("--need-memory", type=int, default=0, metavar="MIB")
    one.add_argument("--need-epoch", type=int, default=0, help="the lowest epoch it can be installed from")
    one.add_argument("--gate-seconds", type=int, default=300, help="the trial's time for its health gate")
    one.add_argument("--gate-skip", action="append", default=[], metavar="CHECK")
    one.add_argument("--notes", default="", help="what changed, for people")
    one.add_argument("--keyring", help="the keyring that holds from now on (file)")
    one.add_argument("--revoke", action="append", default=[], metavar="NUMBER", help="a key nobody is to believe again")
    one.add_argument("-o", "--output", required=True, help="the bundle, a directory")

    one = verbs.add_parser("sign", help="add a signature (signify or usign makes it)")
    one.set_defaults(verb=_sign)
    one.add_argument("bundle")
    one.add_argument("--key", required=True, action="append", help="a secret key of signify or usign")

    one = verbs.add_parser("verify", help="signatures, by a keyring, and parts")
    one.set_defaults(verb=_verify)
    one.add_argument("bundle", help="directory, packed file or head")
    one.add_argument("--keyring", required=True)

    one = verbs.add_parser("show", help="what is in it")
    one.set_defaults(verb=_show)
    one.add_argument("bundle", help="directory, packed file or head")
    one.add_argument("--since", help="another bundle's directory: how much a node that runs it has to fetch")

    one = verbs.add_parser("pack", help="as one file, for `confine upgrade install FILE`")
    one.set_defaults(verb=_pack)
    one.add_argument("bundle")
    one.add_argument("-o", "--output", required=True)

    one = verbs.add_parser("publish", help="into a directory for web hosts and mirrors")
    one.set_defaults(verb=_publish)
    one.add_argument("bundle")
    one.add_argument("directory")
    one.add_argument("--keyring", required=True)

    one = verbs.add_parser("keyring", help="a keyring of public keys")
    one.set_defaults(verb=_keyring)
    one.add_argument(
        "key", nargs="+", help="FILE.pub of signify or usign; FILE.pub:2026-01-01:2028-12-31 with validity"
    )
    one.add_argument("--threshold", type=int, required=True, help="how many of them have to sign")
    one.add_argument("--serial", type=int, required=True, help="higher than that of the keyring before")
    one.add_argument("--revoke", action="append", default=[], metavar="NUMBER")
    one.add_argument("-o", "--output", required=True)
    return parser


def _make(args: argparse.Namespace) -> None:
    members: dict[str, Any] = {
        "version": args.version,
        "epoch": args.epoch,
        "board": args.board,
        "branch": args.branch,
        "published": args.published or time.strftime(DATE_FORMAT, time.gmtime()),
        "priority_days": args.priority_days,
        "needs": {"memory_mib": args.need_memory, "epoch": args.need_epoch},
        "gate": {"deadline_s": args.gate_seconds, "skip": args.gate_skip, "slivers": True},
        "notes": args.notes,
        "keyring": keyring.load(args.keyring) if args.keyring else None,
        "revoked": args.revoke,
    }
    if members["keyring"]:
        keyring.check_enough(members["keyring"], set(args.revoke))
    with tempfile.TemporaryDirectory() as work:
        manifest = draft.make(args.output, members, {"kernel": _kernel(args, work), "root": args.root})
    print(f"{args.output}: version {manifest.version}, {manifest.size} bytes; to be signed: manifest.json")


def _kernel(args: argparse.Namespace, work: str) -> str:
    if args.kernel:
        return str(args.kernel)
    if not args.vmlinuz or not args.initrd:
        raise BundleError("give --kernel, or both --vmlinuz and --initrd")
    from firmware.image import filesystems, layout

    made = os.path.join(work, "kernel-part")
    part = next(part for part in layout.partitions() if part.name == "kernel-a")
    filesystems.write_kernel(made, part, args.vmlinuz, args.initrd, work, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    return made


def _sign(args: argparse.Namespace) -> None:
    for key in args.key:
        print(draft.sign(args.bundle, key))


def _open(path: str) -> "tuple[bundle.Bundle, bytes]":
    """The head in a directory, a packed file or a head."""
    if os.path.isdir(path):
        raw = draft.head(path)
        return bundle.from_bytes(raw), raw
    with open(path, "rb") as file:
        return bundle.from_file(file), b""


def _verify(args: argparse.Namespace) -> None:
    found, _ = _open(args.bundle)
    doc = keyring.load(args.keyring)
    manifest, signers = bundle.verified(found, Keyring(doc), Clock(time.time(), 0))
    if os.path.isdir(args.bundle):
        draft.check_parts(args.bundle)
    elif found.has_parts:
        _check_packed(args.bundle, manifest)
    print(f"version {manifest.version} is signed by {', '.join(signers)} ({doc['threshold']} needed)")


def _check_packed(path: str, manifest: Manifest) -> None:
    import hashlib

    sums = {name: hashlib.sha256() for name in manifest.parts}
    with open(path, "rb") as file:
        for name, data in bundle.from_file(file).parts(manifest):
            sums[name].update(data)
    for name, part in manifest.parts.items():
        if sums[name].hexdigest() != part.sha256:
            raise BundleError(f"part {name} is not what the manifest says: {sums[name].hexdigest()}")


def _show(args: argparse.Namespace) -> None:
    found, _ = _open(args.bundle)
    manifest = Manifest(found.raw)
    print(json.dumps(json.loads(found.raw), indent=2, sort_keys=True, ensure_ascii=False))
    for text in found.signatures:
        print("signed:", text.strip().splitlines()[-1][:24] + "...")
    print(f"id {manifest.id}, {manifest.size} bytes, {len(found.signatures)} signatures (not verified here)")
    if args.since:
        there = {digest for part in manifest.parts for digest, _ in draft.chunks_of(args.since, part)}
        fetched = sum(
            size
            for part in manifest.parts
            for digest, size in draft.chunks_of(args.bundle, part)
            if digest not in there
        )
        fetched += sum(part.index[0] for part in manifest.parts.values() if part.index)
        print(f"a node that runs {args.since} fetches {fetched} bytes, {100 * fetched / manifest.size:.2f} %")


def _pack(args: argparse.Namespace) -> None:
    temporary = args.output + ".new"
    with open(temporary, "wb") as file:
        draft.write_tar(args.bundle, file, True)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, args.output)
    print(f"{args.output}: {os.path.getsize(args.output)} bytes")


def _publish(args: argparse.Namespace) -> None:
    manifest = publish.publish(args.bundle, args.directory, keyring.load(args.keyring), time.time())
    print(f"version {manifest.version} is in {os.path.join(args.directory, manifest.branch, manifest.board)}")


def _keyring(args: argparse.Namespace) -> None:
    keys = []
    for text in args.key:
        path, _, validity = text.partition(":")
        first, _, last = validity.partition(":")
        with open(path, encoding="ascii") as file:
            line = file.read().strip().splitlines()[-1]
        name = os.path.basename(path).removesuffix(".pub")
        keys.append({"key": line, "name": name, "from": first or None, "until": last or None})
        print(parse_key(line).number, name)
    doc = {"serial": args.serial, "threshold": args.threshold, "keys": keys, "revoked": args.revoke}
    check_threshold(doc)
    keyring.check_enough(doc, set())
    durable.write_atomic(args.output, canonical(doc), 0o644)
    keyring.load(args.output)


if __name__ == "__main__":
    sys.exit(main())
