"""The node's overlay key on its way to the registry, by a member's token."""

from typing import Any

import pytest

from confine.errors import ConfineError
from confine.registry.publish import publish
from registry.clients import make_settings
from registry.faults import FaultyServer

KEY = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
TOKEN = "0123456789abcdef"  # of the test's own registry


@pytest.fixture
def settings(server: FaultyServer, certificate: tuple[str, str]) -> Any:
    server.token = TOKEN
    return make_settings([server.base], certificate[0], False, "0001")


def test_a_member_with_the_token_gives_the_key_and_the_nodes_addresses_stay(
    server: FaultyServer, settings: Any, documents: Any
) -> None:
    places = [{"addr": "10.0.0.1", "port": 655, "island": None}]
    documents.edit("nodes/1", tinc={"name": "node_1", "pubkey": "old", "addresses": places})
    assert publish(settings, TOKEN + "\n", KEY) == server.base
    assert documents.read("nodes/1")["tinc"] == {"name": "node_1", "pubkey": KEY, "addresses": places}


def test_without_the_right_token_nothing_is_changed_and_the_token_is_not_told(settings: Any, documents: Any) -> None:
    before = documents.read("nodes/1")
    with pytest.raises(ConfineError, match="status 403: the token is not known") as refused:
        publish(settings, "wrongtoken", KEY)
    assert "wrongtoken" not in str(refused.value)
    assert documents.read("nodes/1") == before


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Evil: 1", "x" * 600])
def test_what_is_no_token_is_not_sent(settings: Any, server: FaultyServer, token: str) -> None:
    with pytest.raises(ConfineError, match="that is no token"):
        publish(settings, token, KEY)
    assert server.requests == []


def test_the_token_never_goes_over_plain_http_unless_that_is_allowed() -> None:
    settings = make_settings(["http://127.0.0.1:9/api/"], None, True, "0001")
    settings.plain_http = False
    with pytest.raises(ConfineError, match="plain http"):
        publish(settings, TOKEN, KEY)


def test_another_address_is_tried_where_one_is_dead(server: FaultyServer, settings: Any, documents: Any) -> None:
    settings.registry_uris = ["https://127.0.0.1:9/api/", *settings.registry_uris]
    assert publish(settings, TOKEN, KEY) == server.base
    assert documents.read("nodes/1")["tinc"]["pubkey"] == KEY
