"""`confine setup` against the example registry: joins, or says what stands in the way and changes nothing."""

import base64
import hashlib
import io
import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confine import join
from confine.core import joining, rsa
from confine.core.settings import parse
from confine.drivers import uci
from confine.paths import Paths

DEFAULTS = Path(__file__).parents[3] / "files/etc/config/confine"


class Place:
    """A node before it joined: its configuration, and one try at a time."""

    def __init__(self, work: Path) -> None:
        self.paths = Paths(run=str(work / "run"), uci=str(work / "config"))
        self.certificates = work / "certificates"
        (work / "config").mkdir()
        self.file = work / "config" / "confine"
        shutil.copy(DEFAULTS, self.file)

    def look(self, **given: str) -> join.Joining:
        one = join.Joining(self.paths, str(self.certificates))
        one.good = one.look(given)
        return one


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def pin(certificate):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(certificate[0]).read_text())).hexdigest()


def last(one):
    return one.findings[-1].what, one.findings[-1].said


def test_a_node_joins_with_address_pin_and_id_and_its_settings_are_usable(place, server, pin):
    one = place.look(registry=server.base, pin=pin.upper(), node="1", mgmt="fd65:fc41:c50f::/48")
    assert one.good, last(one)
    assert "web-attic" in last(one)[1] or last(one)[0] == "node"
    one.keep()
    settings, problems = parse(uci.load("confine", place.paths.uci))
    assert problems == []
    assert (settings.node_id, settings.registry_uris, settings.mgmt_ipv6_prefix48) == (
        1,
        [server.base],
        "fd65:fc41:c50f",
    )
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(settings.registry_cert).read_text())).hexdigest() == pin


def test_leave_for_plain_http_ends_with_the_registry_it_was_given_for(place, server, pin):
    uci.change("confine", {"registry": {".type": "registry", "plain_http": "1"}}, place.paths.uci)
    one = place.look(registry=server.base, pin=pin, node="1")
    one.keep()
    assert not parse(uci.load("confine", place.paths.uci))[0].plain_http


def test_without_encryption_a_member_is_warned_and_no_token_is_sent(place, server):
    one = place.look(registry="http://127.0.0.1:9/api/", node="1")
    one.findings.clear()
    assert not one.publish("0123456789abcdef")
    assert "without encryption" in one.findings[-1].said and server.requests == []


def test_looking_changes_nothing(place, server, pin):
    before = place.file.read_bytes()
    assert place.look(registry=server.base, pin=pin, node="1").good
    assert place.file.read_bytes() == before
    assert not place.certificates.exists()
    assert list(Path(place.paths.run).iterdir()) == []


def test_another_certificate_than_the_pinned_one_is_refused_with_both_fingerprints(place, server, pin):
    one = place.look(registry=server.base, pin="0" * 64, node="1")
    assert not one.good
    assert last(one)[0] == "certificate"
    assert pin in last(one)[1]


def test_without_a_pin_an_unknown_certificate_is_refused_and_its_fingerprint_told(place, server, pin):
    one = place.look(registry=server.base, node="1")
    assert not one.good
    assert pin in one.findings[-1].todo


def test_a_node_the_registry_does_not_know_is_named(place, server, pin):
    one = place.look(registry=server.base, pin=pin, node="0ff0")
    assert not one.good
    assert last(one) == ("node", "the registry knows no node 0ff0")


def test_an_address_where_nobody_listens_is_named(place):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one = place.look(registry=f"https://127.0.0.1:{port}/api/", pin="0" * 64, node="1")
    assert not one.good
    assert last(one)[0] == "registry"
    assert str(port) in last(one)[1]


def test_a_name_that_does_not_exist_is_told_as_such(place):
    one = place.look(registry="https://no.such.host.invalid/", pin="0" * 64, node="1")
    assert last(one)[0] == "name"


@pytest.mark.parametrize(
    ("given", "members"),
    [
        ({}, ["registry", "node"]),
        ({"registry": "ftp://x/", "node": "1"}, ["registry"]),
        ({"registry": "https://x/", "node": "fff1"}, ["node"]),
        ({"registry": "https://x/", "node": "1", "pin": "12"}, ["pin"]),
        ({"registry": "https://x/", "node": "1", "mgmt": "10.0.0.0/8"}, ["mgmt"]),
    ],
    ids=str,
)  # fmt: skip
def test_every_unusable_word_is_named_before_anything_is_asked(place, given, members):
    one = place.look(**given)
    assert not one.good
    assert [finding.what for finding in one.findings] == members


def test_a_configuration_that_cannot_be_written_stays_as_it_was(place, server, pin):
    one = place.look(registry=server.base, pin=pin, node="1")
    place.file.write_text("config node 'node\n\toption id\n")
    before = place.file.read_bytes()
    with pytest.raises(join.ConfineError):
        one.keep()
    assert place.file.read_bytes() == before


@given(st.fixed_dictionaries({}, optional={name: st.text(min_size=1, max_size=80) for name in joining.FIELDS}))
def test_a_token_gives_back_what_was_put_in(doc):
    assert joining.parse_token(" " + joining.make_token(doc) + "\n") == doc


def test_a_token_of_brackets_is_refused_in_words():
    word = joining.PREFIX + base64.b64encode(b"[" * 1500).decode()
    with pytest.raises(ValueError, match="damaged"):
        joining.parse_token(word)


@given(st.text())
def test_what_is_no_token_is_refused_in_words(text):
    for word in (text, joining.PREFIX + text):
        try:
            assert all(isinstance(value, str) for value in joining.parse_token(word).values())
        except ValueError as error:
            assert "token" in str(error)


def test_the_command_says_what_it_looked_at_and_fails_with_a_damaged_token(place, capsys):
    args = {"token": "confine-join:%%%", "check": True, "publish": None, "show": False, "json": True,
            **dict.fromkeys(joining.FIELDS)}  # fmt: skip
    assert join.run(args, place.paths.run) == 1
    assert json.loads(capsys.readouterr().out)[0]["what"] == "token"


TOKEN = "0123456789abcdef"  # of the test's own registry
MGMT = "fd65:fc41:c50f::/48"


@pytest.fixture
def joining_node(tmp_path, server, pin, monkeypatch):
    """Runs `confine setup` with words and a token on standard input; gives (exit status, its findings)."""
    if shutil.which("tinc") is None and shutil.which("tincd") is None:
        pytest.skip("there is no tinc here to make a key")
    server.token = TOKEN
    paths = Paths(run=str(tmp_path / "run"), uci=str(tmp_path / "config"), etc=str(tmp_path / "etc"),
                  tinc=str(tmp_path / "etc/tinc"))  # fmt: skip
    (tmp_path / "config").mkdir()
    shutil.copy(DEFAULTS, tmp_path / "config/confine")
    monkeypatch.setattr(join, "Paths", lambda run: paths)
    monkeypatch.setattr(join, "RELOAD", ["true"])

    def run(token=TOKEN, **given):
        monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        words = {"token": None, "check": False, "publish": None, "show": False, "json": True}
        status = join.run({**words, **dict.fromkeys(joining.FIELDS), **given}, paths.run)
        return status, {one["what"]: one for one in json.loads(out.getvalue())}

    run.paths = paths
    run.given = {"registry": server.base, "pin": pin, "node": "1", "mgmt": MGMT}
    return run


def subject_of(path):
    command = ["openssl", "x509", "-in", path, "-noout", "-subject", "-issuer"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_member_joins_and_gives_the_nodes_keys_in_one_go(joining_node, documents):
    status, found = joining_node(publish=True, **joining_node.given)
    assert (status, {one["state"] for one in found.values()}) == (0, {"ok"})
    own = Path(joining_node.paths.tinc, "rsa_key.priv").read_text()
    assert documents.read("nodes/1")["tinc"]["pubkey"] == rsa.public_pem(rsa.numbers(own, rsa.PRIVATE))
    subject, issuer = subject_of(Path(joining_node.paths.etc, "node.crt"))
    assert subject.replace(" ", "") == "subject=CN=fd65:fc41:c50f:1::2"
    assert issuer.partition("=")[2] != subject.partition("=")[2]
    assert parse(uci.load("confine", joining_node.paths.uci))[0].node_id == 1
    assert list(Path(joining_node.paths.run).iterdir()) == []


def test_with_a_wrong_token_nothing_is_kept_and_the_token_is_not_told(joining_node, documents):
    before = Path(joining_node.paths.uci, "confine").read_bytes(), documents.read("nodes/1")
    status, found = joining_node("wrongtoken", publish=True, **joining_node.given)
    assert (status, found["overlay key"]["state"]) == (1, "fail")
    assert "wrongtoken" not in json.dumps(found)
    assert (Path(joining_node.paths.uci, "confine").read_bytes(), documents.read("nodes/1")) == before
    assert "configuration" not in found


def test_who_breaks_off_at_the_question_for_the_token_leaves_the_node_as_it_was(joining_node, monkeypatch):
    before = Path(joining_node.paths.uci, "confine").read_bytes()

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("confine.cli_overlay.read_token", interrupted)
    with pytest.raises(KeyboardInterrupt):
        joining_node(publish=True, **joining_node.given)
    assert Path(joining_node.paths.uci, "confine").read_bytes() == before


def test_a_node_that_has_joined_gives_its_keys_later(joining_node, documents):
    assert joining_node(**joining_node.given)[0] == 0
    assert documents.read("nodes/1")["tinc"] is None or "pubkey" in documents.read("nodes/1")["tinc"]
    status, found = joining_node(publish=True)
    assert (status, set(found)) == (0, {"overlay key", "certificate request"})
    assert "BEGIN PUBLIC KEY" in documents.read("nodes/1")["tinc"]["pubkey"]


def test_a_registry_that_signs_nothing_gets_the_key_and_the_node_keeps_its_own_certificate(joining_node, server):
    server.registry.signs = False
    status, found = joining_node(publish=True, **joining_node.given)
    assert (status, found["certificate request"]["state"]) == (0, "warn")
    subject, issuer = subject_of(Path(joining_node.paths.etc, "node.crt"))
    assert subject.partition("=")[2] == issuer.partition("=")[2]


@pytest.mark.parametrize("pem", ["", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", None])
def test_a_certificate_that_is_not_of_the_nodes_key_is_not_taken(joining_node, server, certificate, pem, monkeypatch):
    sent = Path(certificate[0]).read_text() if pem is None else pem  # None: a good one, of another key
    monkeypatch.setattr(server, "signed", lambda request: sent)
    status, found = joining_node(publish=True, **joining_node.given)
    assert (status, found["certificate request"]["state"]) == (0, "warn")
    assert Path(joining_node.paths.etc, "node.crt").read_text() != sent


def test_the_operator_is_shown_both_and_nothing_is_sent_or_kept(joining_node, server):
    before = Path(joining_node.paths.uci, "confine").read_bytes()
    status, found = joining_node(show=True, node="0001", mgmt=MGMT)
    assert status == 0
    assert found["overlay key"]["said"].startswith("\n-----BEGIN PUBLIC KEY-----\n")
    assert found["certificate request"]["said"].startswith("\n-----BEGIN CERTIFICATE REQUEST-----\n")
    assert server.requests == []
    assert Path(joining_node.paths.uci, "confine").read_bytes() == before


def test_without_a_management_network_there_is_nothing_to_show_and_it_says_so(joining_node):
    status, found = joining_node(show=True, node="0001")
    assert (status, found["overlay key"]["state"]) == (1, "fail")
    assert "management prefix" in found["overlay key"]["said"]


@pytest.mark.root
def test_with_a_full_flash_nothing_is_half_kept_and_it_says_so(place, server, pin, tmp_path):
    config = tmp_path / "config"
    before = place.file.read_bytes()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", config], check=True)
    try:
        place.file.write_bytes(before)
        one = place.look(registry=server.base, pin=pin, node="1")
        with (config / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(join.ConfineError, match="cannot be written"):
            one.keep()
        assert place.file.read_bytes() == before
        assert sorted(path.name for path in config.iterdir()) == ["confine", "filler"]
    finally:
        subprocess.run(["umount", config], check=True)
