"""Which keys may vouch for a bundle on this node, and how many of them have to.

A keyring is a document (manifest.KEYRING): `threshold` of its `keys` must have signed. The first one comes with the
image. A bundle signed by enough of the present keys may bring the next one (higher serial) and may revoke keys. What
a node has learned so is kept on the data partition, whatever slot runs: going back brings no revoked key back.

An epoch once confirmed is a floor below which no bundle is taken any more.
"""

import fcntl
import os
import time

from confine import durable
from confine.core import schema
from confine.upgrade.manifest import KEYRING, NUMBER, Manifest, check_threshold, seconds
from confine.upgrade.signatures import BundleError, is_by, parse_key, parse_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.upgrade.signatures import Key, Signature

MAX_SIGNATURES = 32
TRUST = schema.Object(
    {
        "format": schema.need(schema.Int(1, 1)),
        "keyring": schema.need(schema.Maybe(KEYRING)),
        "revoked": schema.need(schema.List(NUMBER, 4096, strict=True)),
        "epoch": schema.need(schema.Int(0, 1 << 31)),
        "not_before": schema.need(schema.Int(0, 1 << 40)),
    }
)


class Clock:
    """What is known of the time, in seconds since 1970. now: by a clock that was confirmed (NTP), or None.
    not_before: it is at least so late, by what was signed and taken before."""

    def __init__(self, now: "float | None", not_before: int) -> None:
        self.now = now
        self.not_before = not_before


class Trust:
    """What this node learned: a keyring newer than the image's, revoked keys, the lowest epoch, the least time."""

    def __init__(self, path: str) -> None:
        """path: its file on the data partition. BundleError if it is there and unusable: what is not known to be
        revoked must not be believed."""
        self._path = path
        self.keyring: "dict[str, Any] | None" = None
        self.revoked: "set[str]" = set()
        self.epoch = 0
        self.not_before = 0
        try:
            found = durable.read_json(path)
        except (OSError, ValueError) as error:
            raise BundleError("the keys revoked on this node are not known: {} cannot be read: {}".format(path, error))
        if found is not None:
            self._take(found)

    def _take(self, found: object) -> None:
        doc, problems = schema.check(TRUST, found)
        if doc is None or problems:
            raise BundleError("the keys revoked on this node are not known: {} is damaged: {} {}".format(
                self._path, problems[0].member, problems[0].message))  # fmt: skip
        self.keyring = doc["keyring"]
        self.revoked = set(doc["revoked"])
        self.epoch = doc["epoch"]
        self.not_before = doc["not_before"]

    def learn(self, manifest: Manifest, serial: int) -> bool:
        """Take over what the verified `manifest` says of keys. serial: of the keyring in force. True if that is new.

        Written before anything else is done with the bundle, so that a power cut forgets no revocation.
        """
        news = set(manifest.revoked)
        keyring = manifest.keyring
        if keyring is not None and keyring["serial"] > serial:
            news.update(keyring["revoked"])
        else:
            keyring = None
        if news <= self.revoked and keyring is None and manifest.published <= self.not_before:
            return False
        self.revoked |= news
        self.keyring = keyring or self.keyring
        self.not_before = max(self.not_before, manifest.published)
        self._save()
        return True

    def raise_floor(self, epoch: int) -> None:
        """An image of `epoch` is confirmed: nothing older is taken any more."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._save()

    def _save(self) -> None:
        """Together with what others learned meanwhile: the daemon and a command may both be at it."""
        durable.make_dir(os.path.dirname(self._path))
        held = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._merge(Trust(self._path))
            self._write()
        finally:
            os.close(held)

    def _merge(self, now: "Trust") -> None:
        self.revoked |= now.revoked
        self.epoch = max(self.epoch, now.epoch)
        self.not_before = max(self.not_before, now.not_before)
        if now.keyring is not None and (self.keyring is None or now.keyring["serial"] > self.keyring["serial"]):
            self.keyring = now.keyring

    def _write(self) -> None:
        durable.write_json(
            self._path,
            {
                "format": 1,
                "keyring": self.keyring,
                "revoked": sorted(self.revoked),
                "epoch": self.epoch,
                "not_before": self.not_before,
            },
        )


class Keyring:
    """The keys in force: the image's keyring or a newer one that was learned, without all that was revoked."""

    def __init__(self, shipped: "dict[str, Any]", trust: "Trust | None" = None) -> None:
        doc = shipped
        revoked = set(shipped["revoked"])
        if trust is not None:
            if trust.keyring is not None and trust.keyring["serial"] > shipped["serial"]:
                doc = trust.keyring
            revoked |= trust.revoked | set(doc["revoked"])
        self.serial: int = doc["serial"]
        self.threshold: int = doc["threshold"]
        self.revoked = revoked
        self._doc = doc
        self.keys: "list[tuple[Key, dict[str, Any]]]" = [(parse_key(entry["key"]), entry) for entry in doc["keys"]]

    def verify(self, raw: bytes, signatures: "list[str]", clock: Clock) -> "list[str]":
        """The names of the keys that vouch for the manifest `raw`. BundleError if they are too few, and why.

        A key counts once, by its public half, however often it signed or is listed.
        """
        if len(signatures) > MAX_SIGNATURES:
            raise BundleError("{} signatures are too many: at most {}".format(len(signatures), MAX_SIGNATURES))
        good: "dict[bytes, str]" = {}
        why: "list[str]" = []
        for text in signatures:
            try:
                signature = parse_signature(text)
            except BundleError as error:
                why.append(str(error))
                continue
            key, refusal = self._signer(signature, raw, clock)
            if key is None:
                why.append(refusal)
            else:
                good[key.public] = key.number
        if len(good) < self.threshold:
            said = "; ".join(dict.fromkeys(why)) or "there are no others"
            raise BundleError("signed by {} of the {} keys needed: {}".format(len(good), self.threshold, said))
        return sorted(good.values())

    def check_left(self, manifest: Manifest) -> None:
        """BundleError if what `manifest` revokes would leave fewer keys than are needed: nothing, not even the bundle
        that mends it, could be trusted any more."""
        doc = manifest.keyring
        if doc is None or doc["serial"] <= self.serial:
            doc = self._doc
        check_enough(doc, self.revoked | set(manifest.revoked))

    def _signer(self, signature: "Signature", raw: bytes, clock: Clock) -> "tuple[Key | None, str]":
        why = "key {} is not one this node trusts".format(signature.number)
        for key, entry in self.keys:
            if key.number != signature.number:
                continue
            refusal = self._refusal(key, entry, clock)
            if not refusal and is_by(signature, key, raw):
                return key, ""
            why = refusal or "the signature by key {} is not that of this manifest".format(signature.number)
        return None, why

    def _refusal(self, key: "Key", entry: "dict[str, Any]", clock: Clock) -> str:
        if key.number in self.revoked:
            return "key {} is revoked".format(key.number)
        latest = max(clock.now or 0, clock.not_before)
        if entry["until"] is not None and latest >= seconds(entry["until"]) + 86400:
            return "key {} was good until {}".format(key.number, entry["until"])
        if entry["from"] is not None and clock.now is not None and clock.now < seconds(entry["from"]):
            return "key {} is good from {} on".format(key.number, entry["from"])
        return ""


def check_enough(doc: "dict[str, Any]", revoked: "set[str]") -> None:
    """BundleError if fewer keys of the keyring `doc` than it needs are left without the `revoked` ones and its own."""
    revoked = revoked | set(doc["revoked"])
    keys = {parse_key(entry["key"]) for entry in doc["keys"]}
    left = {key.public for key in keys if key.number not in revoked}
    if len(left) < doc["threshold"]:
        raise BundleError("the bundle revokes keys until {} of the {} needed are left: it has to bring a new keyring, "
                          "too".format(len(left), doc["threshold"]))  # fmt: skip


def load(path: str) -> "dict[str, Any]":
    """The keyring in the file `path`. BundleError if there is none that can be used."""
    try:
        found = durable.read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError("the keyring {} cannot be read: {}".format(path, error))
    if found is None:
        raise BundleError("there is no keyring {}: without keys no bundle can be trusted".format(path))
    doc, problems = schema.check(KEYRING, found)
    if doc is None or problems:
        raise BundleError("the keyring {} cannot be used: {} {}".format(path, problems[0].member, problems[0].message))
    check_threshold(doc)
    return doc


def clock(trust: Trust) -> Clock:
    """What this node knows of the time."""
    from confine.clock import ntp_date

    return Clock(time.time() if ntp_date() is not None else None, trust.not_before)
