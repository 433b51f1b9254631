"""SSH keys: who gets in, and what a token may look like."""

from core_world import BASE, ECDSA_KEY, KEY, OTHER_KEY, messages, raised

from confine.core import keys
from confine.core.reading import Documents

GROUP = BASE + "groups/1/"


def test_keys_of_known_types_are_taken_with_their_comment() -> None:
    for key in (KEY, OTHER_KEY, ECDSA_KEY):
        assert keys.parse(key) == key
        assert keys.parse(key + " ann@example.org") == key + " ann@example.org"


def test_line_ends_and_blanks_around_a_key_go() -> None:
    for token in (KEY + " a\r\n", "  " + KEY + "\ta \n", KEY.replace(" ", "   ") + " a"):
        assert keys.parse(token) == KEY + " a", token


def test_a_comment_cannot_do_harm() -> None:
    assert keys.parse(KEY + " Jo\u00e3o \u2028 x") == KEY + " Jo_o _ x"
    assert len(keys.parse(KEY + " " + "c" * 500)) == len(KEY) + 1 + keys.MAX_COMMENT


def test_what_is_not_exactly_one_plain_key_is_refused() -> None:
    blob = KEY.split(" ")[1]
    for token in (
        "",
        "ssh-ed25519",
        'command="/bin/sh" ' + KEY,
        "no-pty " + KEY,
        KEY + " a\n" + OTHER_KEY,
        KEY + " a\rssh-rsa",
        KEY + "\x00",
        "ssh-dss " + blob,
        "ssh-rsa " + blob,
        ECDSA_KEY.replace("nistp256 ", "nistp384 ", 1),
        "ssh-ed25519-cert-v01@openssh.com " + blob,
        "ssh-ed25519 " + blob[:-4],
        "ssh-ed25519 " + blob + "AAAA",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 " + blob.replace("A", "-", 1),
        "-----BEGIN RSA PRIVATE KEY-----",
        "x" * 10000,
        None,
        5,
        ["ssh-ed25519"],
    ):
        raised(lambda: keys.parse(token))  # noqa: B023  # called at once


def test_base64_with_bits_to_spare_is_refused() -> None:
    assert ECDSA_KEY.endswith("Jc=")
    assert "usually written" in raised(lambda: keys.parse(ECDSA_KEY[:-2] + "d="))


def test_the_same_key_counts_once_whatever_its_comment() -> None:
    assert keys.merge([KEY + " b", OTHER_KEY, KEY + " a", OTHER_KEY]) == sorted([KEY + " a", OTHER_KEY])


def test_the_digest_is_of_the_file_as_it_is_written() -> None:
    assert keys.digest([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert keys.digest([KEY]) != keys.digest([OTHER_KEY]) != keys.digest([KEY, OTHER_KEY])
    assert len(keys.digest([KEY])) == 64


def test_a_certificate_among_the_tokens_is_passed_over_silently() -> None:
    lines, problems = keys.of_user({"name": "ann", "auth_tokens": ["-----BEGIN CERTIFICATE-----\nMIID\n-----END", KEY]})
    assert lines == [KEY] and problems == []


def test_a_garbage_token_is_a_problem_that_names_the_user_and_the_rest_goes_on() -> None:
    lines, problems = keys.of_user({"name": "ann", "auth_tokens": ["garbage", KEY, None]})
    assert lines == [KEY]
    assert len(problems) == 2 and "Key 1 of user 'ann'" in messages(problems)
    assert keys.of_user({"auth_tokens": None}) == ([], [])


def group_keys(roles: "tuple[str, ...]", **users: "dict[str, object]") -> "tuple[list[str], str]":
    """Keys and problems of a group with one user for each keyword; "roles" says which flags it has."""
    docs: "dict[str, object]" = {}
    entries = []
    for name, user in users.items():
        uri = BASE + "users/" + name + "/"
        given = user.get("roles", [])
        entry: "dict[str, object]" = {"user": {"uri": uri, "id": 1}}
        for role in (keys.GROUP_ADMIN, keys.SLICE_ADMIN, keys.NODE_ADMIN):
            entry[role] = role in given  # type: ignore[operator]
        entries.append(entry)
        if "auth_tokens" in user:
            docs[uri] = user
    lines, problems = keys.of_group(Documents({"docs": docs}), GROUP, {"user_roles": entries}, roles)
    return lines, messages(problems)


def test_only_users_with_the_role_who_are_active_get_in() -> None:
    lines, problems = group_keys(
        (keys.SLICE_ADMIN,),
        ann={"roles": [keys.SLICE_ADMIN], "is_active": True, "auth_tokens": [KEY]},
        bob={"roles": [keys.NODE_ADMIN], "is_active": True, "is_superuser": True, "auth_tokens": [OTHER_KEY]},
        cem={"roles": [keys.SLICE_ADMIN], "is_active": False, "auth_tokens": [ECDSA_KEY]},
    )
    assert lines == [KEY] and problems == ""


def test_a_user_who_cannot_be_read_is_a_problem_and_the_others_get_in() -> None:
    lines, problems = group_keys(
        (keys.SLICE_ADMIN,),
        ann={"roles": [keys.SLICE_ADMIN]},
        bob={"roles": [keys.SLICE_ADMIN], "is_active": True, "auth_tokens": [KEY]},
    )
    assert lines == [KEY] and "users/ann/" in problems
