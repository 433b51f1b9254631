"""Who may vouch for a bundle: real signify keys, and every way to have too few of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import pytest
from bundle_world import CLOCK, NOON, Keys, edited, make, verify
from hypothesis import given, settings
from hypothesis import strategies as st

from confine.upgrade import ed25519, keyring
from confine.upgrade.keyring import Clock, Keyring, Trust
from confine.upgrade.signatures import BundleError, is_by, parse_key, parse_signature
from upgrade.bundle import publish

# RFC 8032, 7.1: TEST 1, 2, 3 and SHA(abc).
VECTORS = (
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246551"
     "41438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d"
     "291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027"
     "beceea1ec40a"),
    ("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", hashlib.sha512(b"abc").hexdigest(),
     "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9be"
     "f1177331a704"),
)  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(str(tmp_path_factory.mktemp("keys")))


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_signatures_of_rfc_8032_are_good_and_no_flipped_bit_is(public, message, signature):
    public, message, signature = (bytes.fromhex(text) for text in (public, message, signature))
    assert ed25519.verify(public, signature, message)
    for bit in range(0, 512, 37):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not ed25519.verify(public, bytes(flipped), message)
    assert not ed25519.verify(public, signature, message + b"\0")


def test_a_signature_cannot_be_turned_into_another_one_and_weak_keys_vouch_for_nothing():
    public, message, signature = (bytes.fromhex(text) for text in VECTORS[1])
    factor = int.from_bytes(signature[32:], "little") + ed25519.ORDER
    assert not ed25519.verify(public, signature[:32] + factor.to_bytes(32, "little"), message)
    # A key in the small subgroup would take R = neutral, S = 0 for (nearly) any message.
    neutral = (1).to_bytes(32, "little")
    for weak in (neutral, bytes(32), (ed25519.P - 1).to_bytes(32, "little")):
        assert not ed25519.verify(weak, neutral + bytes(32), message)
    # y = p + 1 is another writing of the neutral point.
    assert not ed25519.verify((ed25519.P + 1).to_bytes(32, "little"), neutral + bytes(32), message)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fall_over(data):
    for parse in (parse_key, parse_signature):
        try:
            parse(data.decode("latin-1"))
        except BundleError:
            pass
    assert not ed25519.verify(data[:32], data[32:96], data)


@pytest.mark.parametrize("tool", ["signify-openbsd", "usign"])
def test_what_the_tools_sign_the_node_believes_and_the_other_way_round(tool, tmp_path):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} on this machine")
    path = str(tmp_path / "k")
    comment = ["-n", "-c", "it"] if tool == "signify-openbsd" else []
    subprocess.run([tool, "-G", *comment, "-p", path + ".pub", "-s", path + ".sec"], check=True)
    (tmp_path / "m").write_bytes(b"a manifest\n")
    subprocess.run([tool, "-S", "-s", path + ".sec", "-m", str(tmp_path / "m"), "-x", path + ".sig"], check=True)
    key, signature = parse_key((tmp_path / "k.pub").read_text()), parse_signature((tmp_path / "k.sig").read_text())
    assert is_by(signature, key, b"a manifest\n")
    assert not is_by(signature, key, b"another one\n")


def test_the_signatures_of_a_bundle_are_checked_by_signify_itself(keys, tmp_path):
    source = make(str(tmp_path), keys, "a")
    sig = f"{source}/manifest.json.{keys.number('a')}.sig"
    pub = keys.secret("a")[:-4] + ".pub"
    argv = ["signify-openbsd", "-V", "-q", "-p", pub, "-m", source + "/manifest.json", "-x", sig]
    subprocess.run(argv, check=True)


def test_enough_of_the_trusted_keys_vouch_for_a_bundle(keys, tmp_path):
    manifest = verify(make(str(tmp_path), keys, "ac"), keys.keyring("a", "b", "c"))
    assert (manifest.version, manifest.epoch) == ("2.0", 2)


def refused(why, source, doc, trust=None, clock=CLOCK):
    with pytest.raises(BundleError, match=why):
        verify(source, doc, trust, clock)


def test_a_wrong_key_vouches_for_nothing(keys, tmp_path):
    refused("signed by 1 of the 2 keys needed: key [0-9a-f]+ is not one", make(str(tmp_path), keys, "ax"),
            keys.keyring("a", "b", "c"))  # fmt: skip


def test_one_signature_too_few_is_too_few(keys, tmp_path):
    refused("signed by 2 of the 3 keys needed", make(str(tmp_path), keys, "ab"), keys.keyring(*"abc", threshold=3))


def test_the_same_key_twice_counts_once(keys, tmp_path):
    source = make(str(tmp_path), keys, "a")
    own = f"{source}/manifest.json.{keys.number('a')}.sig"
    with open(own) as file, open(f"{source}/manifest.json.{'0' * 16}.sig", "w") as copy:
        copy.write(file.read().replace("comment: ", "comment: once more, "))
    refused("signed by 1 of the 2", source, keys.keyring("a", "b"))
    # ... also where the keyring lists it twice, under another number.
    doc = keys.keyring("a", "a", "b")
    refused("signed by 1 of the 2", source, doc)


def test_a_key_that_only_claims_the_number_of_a_trusted_one_is_found_out(keys, tmp_path):
    import base64

    source = make(str(tmp_path), keys, "a")
    own = f"{source}/manifest.json.{keys.number('a')}.sig"
    with open(own) as file:
        raw = base64.b64decode(file.read().splitlines()[-1])
    forged = raw[:2] + bytes.fromhex(keys.number("b")) + raw[10:]
    with open(f"{source}/manifest.json.{keys.number('b')}.sig", "w") as file:
        file.write("untrusted comment: b\n" + base64.b64encode(forged).decode() + "\n")
    refused("is not that of this manifest", source, keys.keyring("a", "b"))


def test_a_manifest_swapped_after_signing_is_refused(keys, tmp_path):
    source = make(str(tmp_path), keys, "ab")
    edited(source, epoch=9)
    refused("is not that of this manifest", source, keys.keyring("a", "b"))


def test_a_revoked_key_vouches_no_more_and_the_revocation_outlives_everything(keys, tmp_path):
    path = str(tmp_path / "data/upgrade/trust.json")
    doc = keys.keyring("a", "b", "c")
    old = make(str(tmp_path / "1"), keys, "ab", version="1.0")
    news = verify(make(str(tmp_path / "2"), keys, "ac", revoked=[keys.number("b")]), doc)
    trust = Trust(path)
    assert trust.learn(news, doc["serial"])
    # The image's own keyring still lists it: whatever slot runs, what is on the data partition counts.
    refused("is revoked", old, doc, Trust(path))
    assert not Trust(path).learn(news, doc["serial"])


def test_a_keyring_follows_another_only_if_the_old_keys_signed_it(keys, tmp_path):
    path = str(tmp_path / "trust.json")
    old, new = keys.keyring("a", "b"), keys.keyring("c", "d", serial=2)
    by_new = make(str(tmp_path / "1"), keys, "cd", version="1.0")
    refused("not one this node trusts", by_new, old, Trust(path))
    refused("not one this node trusts", make(str(tmp_path / "2"), keys, "cd", keyring=new), old, Trust(path))
    rotation = verify(make(str(tmp_path / "3"), keys, "ab", keyring=new), old, Trust(path))
    Trust(path).learn(rotation, old["serial"])
    verify(by_new, old, Trust(path))
    refused("not one this node trusts", make(str(tmp_path / "4"), keys, "ab"), old, Trust(path))


def test_an_older_keyring_does_not_come_back(keys, tmp_path):
    path = str(tmp_path / "trust.json")
    shipped = keys.keyring("a", "b", serial=5)
    stale = verify(make(str(tmp_path / "1"), keys, "ab", keyring=keys.keyring("x", "y", serial=4)), shipped)
    Trust(path).learn(stale, shipped["serial"])
    verify(make(str(tmp_path / "2"), keys, "ab"), shipped, Trust(path))
    # ... nor after one that is newer than both was learned.
    for number, serial in (("3", 7), ("4", 6)):
        ring = keys.keyring("a", "b", *("c" if serial == 7 else "x"), serial=serial)
        news = verify(make(str(tmp_path / number), keys, "ab", keyring=ring), shipped, Trust(path))
        Trust(path).learn(news, keyring.Keyring(shipped, Trust(path)).serial)
    verify(make(str(tmp_path / "5"), keys, "ac"), shipped, Trust(path))


def test_a_keyring_nobody_could_satisfy_is_refused(keys, tmp_path):
    with pytest.raises(BundleError, match="asks for 3 of 2 keys"):
        make(str(tmp_path), keys, "ab", keyring=keys.keyring("a", "b", threshold=3, serial=2))


def test_a_key_counts_only_within_its_validity(keys, tmp_path):
    source = make(str(tmp_path), keys, "ab")
    doc = keys.keyring("a", "b")
    doc["keys"][0].update({"from": "2026-01-01", "until": "2026-11-19"})
    refused("was good until 2026-11-19", source, doc)
    doc["keys"][0]["until"] = "2026-11-20"
    verify(source, doc)
    doc["keys"][0]["from"] = "2026-11-21"
    refused("is good from 2026-11-21 on", source, doc)


def test_without_a_clock_a_key_expires_by_what_was_signed_later(keys, tmp_path):
    source = make(str(tmp_path), keys, "ab")
    doc = keys.keyring("a", "b")
    doc["keys"][0]["until"] = "2026-06-01"
    verify(source, doc, clock=Clock(None, 0))
    refused("was good until", source, doc, clock=Clock(None, int(NOON)))


def test_a_bundle_from_the_future_is_refused_where_the_time_is_known(keys, tmp_path):
    source = make(str(tmp_path), keys, "ab", published="2027-01-01T00:00:00Z")
    refused("yet to come", source, keys.keyring("a", "b"))
    verify(source, keys.keyring("a", "b"), clock=Clock(None, 0))


def test_damaged_memory_of_revoked_keys_stops_upgrades_instead_of_forgetting(tmp_path):
    path = tmp_path / "trust.json"
    for text in ("{", '{"format":1}', '{"format":1,"keyring":null,"revoked":["zz"],"epoch":0,"not_before":0}'):
        path.write_text(text)
        with pytest.raises(BundleError, match="are not known"):
            Trust(str(path))


def test_no_keyring_is_no_trust(tmp_path):
    with pytest.raises(BundleError, match="there is no keyring"):
        keyring.load(str(tmp_path / "none.json"))
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be used"):
        keyring.load(str(tmp_path / "empty.json"))


def test_what_was_learned_survives_a_cut_at_any_write(keys, tmp_path, monkeypatch):
    path = str(tmp_path / "trust.json")
    doc = keys.keyring("a", "b", "c")
    first = verify(make(str(tmp_path / "1"), keys, "ab", version="1.0", revoked=["0" * 16]), doc)
    second = verify(make(str(tmp_path / "2"), keys, "ab", revoked=["1" * 16]), doc)
    Trust(path).learn(first, 1)
    for name in ("fsync", "rename"):
        with monkeypatch.context() as cut:
            cut.setattr(os, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                Trust(path).learn(second, 1)
        assert Trust(path).revoked == {"0" * 16}
    Trust(path).learn(second, 1)
    assert Trust(path).revoked == {"0" * 16, "1" * 16}


def test_a_bundle_that_would_leave_too_few_keys_is_not_learned_from_nor_published(keys, tmp_path):
    doc = keys.keyring("a", "b")
    last = make(str(tmp_path / "1"), keys, "ab", revoked=[keys.number("b")])
    with pytest.raises(BundleError, match="until 1 of the 2 needed are left"):
        Keyring(doc).check_left(verify(last, doc))
    with pytest.raises(BundleError, match="it has to bring a new keyring"):
        publish.publish(last, str(tmp_path / "web"), doc, NOON)
    assert not os.path.exists(tmp_path / "web")
    # With a keyring that has enough others it is right.
    follows = make(str(tmp_path / "2"), keys, "ab", revoked=[keys.number("b")],
                   keyring=keys.keyring("a", "c", serial=2))  # fmt: skip
    Keyring(doc).check_left(verify(follows, doc))
    publish.publish(follows, str(tmp_path / "web"), doc, NOON)


def test_what_two_processes_learn_at_once_is_all_kept(keys, tmp_path):
    doc = keys.keyring("a", "b")
    path = str(tmp_path / "trust.json")
    first = verify(make(str(tmp_path / "1"), keys, "ab", revoked=["0" * 16]), doc)
    second = verify(make(str(tmp_path / "2"), keys, "ab", revoked=["1" * 16], version="3.0"), doc)
    daemon, command = Trust(path), Trust(path)  # both read before either wrote
    daemon.learn(first, 1)
    command.raise_floor(7)
    command.learn(second, 1)
    assert Trust(path).revoked == {"0" * 16, "1" * 16}
    assert Trust(path).epoch == 7
    daemon.raise_floor(3)
    assert Trust(path).epoch == 7
