"""What a bundle may look like, and what becomes of one that looks otherwise."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest
from bundle_world import Keys, make, packed, published, some_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from confine.upgrade import bundle
from confine.upgrade.chunks import Index, Seed
from confine.upgrade.manifest import MAX_BYTES, Manifest, canonical
from confine.upgrade.signatures import BundleError
from upgrade.bundle import __main__ as tool
from upgrade.bundle import draft

FILE = {"size": 5, "sha256": "0" * 64}
DOC = {"format": 1, "version": "1", "epoch": 1, "board": "b", "branch": "stable",
       "published": "2026-11-20T10:00:00Z", "parts": {"kernel": FILE, "root": FILE}}  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(str(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def source(keys, tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("draft")), keys)


def test_a_manifest_is_the_same_bytes_whoever_writes_it():
    assert Manifest(canonical(DOC)).id == Manifest(canonical(dict(reversed(DOC.items())))).id
    with pytest.raises(BundleError, match="not canonical"):
        Manifest(json.dumps(DOC).encode())


@pytest.mark.parametrize(("member", "value", "why"), [
    ("version", "../../etc/passwd", "/version"),
    ("version", "latest", "/version"),
    ("board", ".", "/board"),
    ("branch", "a/b", "/branch"),
    ("epoch", -1, "/epoch"),
    ("epoch", True, "/epoch"),
    ("format", 2, "/format"),
    ("published", "yesterday", "/published"),
    ("parts", {"kernel": FILE}, "/parts/root"),
    ("parts", {"kernel": FILE, "root": {"size": 0, "sha256": "0" * 64}}, "/parts/root/size"),
    ("parts", {"kernel": FILE, "root": {"size": 1, "sha256": "Z" * 64}}, "/parts/root/sha256"),
    ("needs", {"moon": 1}, "needs 'moon'"),
    ("gate", {"deadline_s": 0}, "/gate/deadline_s"),
    ("revoked", ["all"], "/revoked/0"),
    ("priority_days", 0.5, "/priority_days"),
])  # fmt: skip
def test_a_manifest_with_an_unusable_member_is_refused_and_the_member_named(member, value, why):
    with pytest.raises(BundleError, match=why):
        Manifest(canonical({**DOC, member: value}))


def test_a_manifest_as_large_as_a_disk_is_refused():
    with pytest.raises(BundleError, match="larger than"):
        Manifest(canonical({**DOC, "notes": "x" * MAX_BYTES}))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*DOC, "needs", "gate", "keyring", "x"]), inner, max_size=6)
        ),
    )
)
def test_no_document_makes_the_manifest_fall_over(value):
    try:
        Manifest(canonical({**DOC, **value} if isinstance(value, dict) else value))
    except BundleError:
        pass


def contents(path):
    with open(path, "rb") as file:
        found = bundle.from_file(file)
        manifest = Manifest(found.raw)
        parts = dict.fromkeys(manifest.parts, b"")
        for name, data in found.parts(manifest):
            parts[name] += data
    return parts


def test_a_packed_bundle_gives_back_its_parts_and_is_the_same_each_time(source):
    first = packed(source)
    with open(first, "rb") as file:
        before = file.read()
    assert contents(first) == {"kernel": some_bytes(1, 100_000), "root": some_bytes(2, 400_000)}
    with open(packed(source), "rb") as file:
        assert file.read() == before


def rebuilt(path, change):
    """The packed bundle with its members changed: change({name: bytes}) in order."""
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    members = change(members)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()


def drain(data):
    found = bundle.from_bytes(data)
    for _ in found.parts(Manifest(found.raw)):
        pass


@pytest.mark.parametrize(("change", "why"), [
    (lambda m: {**m, "extra": b"x"}, "'extra', which its manifest does not name"),
    (lambda m: {k: v for k, v in m.items() if k != "root"}, "ends without its part root"),
    (lambda m: {("../root" if k == "root" else k): v for k, v in m.items()}, "where root belongs"),
    (lambda m: {k: (v + b"x" if k == "root" else v) for k, v in m.items()}, "the manifest says 400000"),
    (lambda m: {k: v for k, v in m.items() if k != "manifest.json"}, "this is no bundle"),
    (lambda m: dict(reversed(m.items())), "this is no bundle"),
])  # fmt: skip
def test_a_bundle_that_holds_other_things_than_its_manifest_names_is_refused(source, change, why):
    with pytest.raises(BundleError, match=why):
        drain(rebuilt(packed(source), change))


def test_a_bundle_cut_short_anywhere_is_refused(source):
    with open(packed(source), "rb") as file:
        whole = file.read()
    for size in (0, 100, 600, 5000, 50_000, 300_000, len(whole) - 11_000):
        with pytest.raises(BundleError, match="truncated|cannot be read|no bundle|ends without"):
            drain(whole[:size])


def test_a_link_in_place_of_a_part_is_refused(source, tmp_path):
    output = io.BytesIO()
    with tarfile.open(packed(source)) as tar, tarfile.open(fileobj=output, mode="w") as new:
        for info in tar:
            if info.name == "kernel":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/dev/vda", 0
            new.addfile(info, tar.extractfile(info.name) if info.isfile() else None)
    with pytest.raises(BundleError, match="where kernel belongs"):
        drain(output.getvalue())


def test_an_index_that_is_damaged_is_refused(source):
    with open(os.path.join(source, "root.caibx"), "rb") as file:
        raw = file.read()
    assert Index(raw).size == 400_000
    for bad in (raw[:-1], raw[:100], b"", raw[40:], bytes(len(raw))):
        with pytest.raises(BundleError, match="index"):
            Index(bad)
    swapped = raw[:64] + (1 << 40).to_bytes(8, "little") + raw[72:]
    with pytest.raises(BundleError, match="a chunk of"):
        Index(swapped)


def test_a_seed_gives_only_what_has_the_right_sum(source):
    with open(os.path.join(source, "root.caibx"), "rb") as file:
        index = Index(file.read())
    content = some_bytes(2, 400_000)
    chunks = list(index)
    assert b"".join(Seed(lambda at, size: content[at : at + size], index).get(chunk) for chunk in chunks) == content
    damaged = content[:200_000] + b"?" + content[200_001:]
    found = [Seed(lambda at, size: damaged[at : at + size], index).get(chunk) for chunk in chunks]
    assert found.count(None) == 1
    assert all(
        data is None or data == content[c.offset : c.offset + c.size] for c, data in zip(chunks, found, strict=True)
    )


def test_publishing_leaves_a_directory_in_which_all_that_is_named_is_there(keys, source, tmp_path):
    web = str(tmp_path / "web")
    manifest = published(web, keys, source)
    with open(os.path.join(web, "stable", manifest.board, "latest"), "rb") as file:
        head = bundle.from_bytes(file.read())
    assert not head.has_parts
    assert head.raw == manifest.raw
    for part in manifest.parts.values():
        assert draft.described(f"{web}/parts/{part.sha256}") == {"size": part.size, "sha256": part.sha256}
        size, sha256 = part.index
        assert draft.described(f"{web}/parts/{part.sha256}.caibx") == {"size": size, "sha256": sha256}
    with open(f"{web}/stable/index.json") as file:
        assert [entry["version"] for entry in json.load(file)["boards"][manifest.board]] == ["2.0"]
    published(web, keys, source)  # once more changes nothing


def test_nothing_that_is_older_changed_or_signed_too_little_is_published(keys, source, tmp_path):
    web = str(tmp_path / "web")
    published(web, keys, source)
    with pytest.raises(BundleError, match="is older than"):
        published(web, keys, make(str(tmp_path / "1"), keys, version="1.0", epoch=1))
    with pytest.raises(BundleError, match="is another bundle"):
        published(web, keys, make(str(tmp_path / "2"), keys, epoch=3))
    with pytest.raises(BundleError, match="signed by 1 of the 2"):
        published(web, keys, make(str(tmp_path / "3"), keys, "a", version="3.0"))
    bad = make(str(tmp_path / "4"), keys, version="4.0", epoch=4)
    with open(os.path.join(bad, "root"), "r+b") as file:
        file.write(b"swapped")
    with pytest.raises(BundleError, match="root is not what the manifest says"):
        published(web, keys, bad)
    with open(f"{web}/stable/test-board/latest", "rb") as file:
        assert Manifest(bundle.from_bytes(file.read()).raw).version == "2.0"


def test_the_operators_command_goes_from_keys_to_a_published_bundle(keys, tmp_path, capsys):
    at = str(tmp_path)
    for name in ("kernel", "root"):
        with open(f"{at}/{name}", "wb") as file:
            file.write(some_bytes(3, 200_000))
    pubs = [keys.secret(name)[:-4] + ".pub" for name in "ab"]
    common = ["--kernel", f"{at}/kernel", "--root", f"{at}/root", "--board", "b1", "--epoch", "1"]
    ring = ["--keyring", f"{at}/ring.json"]
    for argv in (
        ["keyring", pubs[0], pubs[1] + ":2026-01-01:2099-01-01", "--threshold", "2", "--serial", "1", "-o", ring[1]],
        ["make", *common, "--version", "1.0", "-o", f"{at}/one"],
        ["sign", f"{at}/one", "--key", keys.secret("a"), "--key", keys.secret("b")],
        ["verify", f"{at}/one", *ring],
        ["pack", f"{at}/one", "-o", f"{at}/one.bundle"],
        ["verify", f"{at}/one.bundle", *ring],
        ["publish", f"{at}/one", f"{at}/web", *ring],
        ["verify", f"{at}/web/stable/b1/latest", *ring],
        ["show", f"{at}/one", "--since", f"{at}/one"],
    ):
        assert tool.main(argv) == 0, capsys.readouterr().err
    assert "version 1.0 is signed by" in capsys.readouterr().out
    assert tool.main(["make", *common, "--version", "1.0", "-o", f"{at}/one"]) == 1
    assert "is there already" in capsys.readouterr().err
    number = keys.number("a")
    assert tool.main(["make", *common, "--version", "2.0", *ring, "--revoke", number, "-o", f"{at}/two"]) == 1
    assert "until 1 of the 2 needed are left" in capsys.readouterr().err
    assert not os.path.exists(f"{at}/two")
    with open(f"{at}/one.bundle", "r+b") as file:
        file.seek(-30_000, os.SEEK_END)
        file.write(b"swapped")
    assert tool.main(["verify", f"{at}/one.bundle", *ring]) == 1
    assert "part root is not what the manifest says" in capsys.readouterr().err
