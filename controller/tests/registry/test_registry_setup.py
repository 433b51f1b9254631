"""`confine setup` against the example registry: joins, or says what stands in the way and changes nothing."""

import hashlib
import json
import shutil
import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confine import join
from confine.core import joining
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


@given(st.text())
def test_what_is_no_token_is_refused_in_words(text):
    for word in (text, joining.PREFIX + text):
        try:
            assert all(isinstance(value, str) for value in joining.parse_token(word).values())
        except ValueError as error:
            assert "token" in str(error)


def test_the_command_says_what_it_looked_at_and_fails_with_a_damaged_token(place, capsys):
    args = {"token": "confine-join:%%%", "check": True, "json": True, **dict.fromkeys(joining.FIELDS)}
    assert join.run(args, place.paths.run) == 1
    assert json.loads(capsys.readouterr().out)[0]["what"] == "token"
