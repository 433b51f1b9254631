"""Whatever /etc/config/confine holds: libuci reads or refuses it, each bad value is named, and its default stands."""

import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from confine.core import settings as table
from confine.core import unclear
from confine.drivers import uci
from confine.errors import SettingsError
from torture import mutate, seeds

pytest.importorskip("uci", reason="libuci is not built for this machine: make setup")

SHARE, ALL = 2000, 40_000
BATCH = 1000

GOOD = """config node 'node'
\toption id '001b'
\toption mac_prefix16 '54:c0'
\toption sync_node_admins '1'

config registry 'registry'
\tlist base_uri 'https://registry.example.net/api/'
\tlist base_uri 'http://[fd65:fc41:c50f::2]/api/'
\toption cert '/etc/confine/registry.crt'
\toption plain_http '1'
\toption interval '60'

config testbed 'testbed'
\toption mgmt_ipv6_prefix48 'fd65:fc41:c50f::/48'

config policy 'policy'
\toption memory_reserve '64'
\tlist accept_groups '3'

config sliver 'sliver'
\toption pids_max '512'
\tlist dns '192.0.2.53'
"""
VALUES = [
    "", " ", "0", "1", "-1", "60", "1e3", "0x10", "99999999999999999999", "true", "maybe", "001b", "ffff", "zzzz",
    "https://r.example/api/", "http://r.example/api/", "ftp://x/", "https://", "file:///srv/r/", "file://../x",
    "/etc/x.crt", "etc/x.crt", "/a/../b", "10.0.0.0/24", "192.168.241", "fd00::/48", "fd00:1:2::", "::", "54:c0",
    "a" * 600, "two words", "ü", "\t", "١٢", "+5", "5_0",
]  # fmt: skip
OPTIONS = sorted({row[1] for row in table.OPTIONS} | {"unknown", "interva"})
LINES: "list[Callable[[random.Random], str]]" = [
    lambda dice: f"config {dice.choice([*table.SECTIONS, 'x'])} '{dice.choice([*table.SECTIONS, 'x', ''])}'",
    lambda dice: f"config {dice.choice(table.SECTIONS)}",
    lambda dice: f"\toption {dice.choice(OPTIONS)} '{dice.choice(VALUES)}'",
    lambda dice: f"\tlist {dice.choice(OPTIONS)} '{dice.choice(VALUES)}'",
    lambda dice: f'\toption {dice.choice(OPTIONS)} "{dice.choice(VALUES)}"',
    lambda dice: f"\toption {dice.choice(OPTIONS)} {dice.choice(VALUES)}",
    lambda dice: dice.choice(["package other", "config", "option", "list x", "# note", "'", "\\", "\x00", "end", ";"]),
    lambda dice: "".join(chr(dice.choice([9, 10, 32, 34, 39, 92, dice.randrange(1, 0x250)])) for _ in range(20)),
]


def some_text(dice: random.Random) -> bytes:
    """A configuration file: good lines and bad ones, or a good one damaged."""
    if dice.randrange(3) == 0:
        return mutate.damaged(GOOD.encode(), dice)
    lines = GOOD.split("\n")
    for _ in range(dice.randint(1, 8)):
        lines.insert(dice.randrange(len(lines) + 1), dice.choice(LINES)(dice))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def named_or_default(raw: "dict[str, Any]", parsed: Any, problems: "list[Any]") -> None:
    """Each option of the table has the value that was written, or its default and a problem that names it."""
    members = [problem.member for problem in problems]
    said = " ".join(problem.message for problem in problems)
    for section, option, attribute, parser, bounds, default, is_list in table.OPTIONS:
        options = raw.get(section)
        if attribute is None or not isinstance(options, dict) or options.get(".type") != section:
            continue
        if option in unclear.WHO and unclear.NO_SLICE in parsed.accept_slices:
            continue  # who is accepted is unclear: see closed()
        until = unclear.until(section, option).strip()
        if until and until in said:
            assert getattr(parsed, attribute) == unclear.closed(section, option, default), (section, option)
        elif option not in options:
            assert getattr(parsed, attribute) == (list(default or ()) if is_list else default)
        elif not is_list:
            try:
                assert isinstance(options[option], str) and len(options[option]) <= 512
                wanted = parser(options[option].strip(), bounds)
            except (ValueError, AssertionError):
                assert getattr(parsed, attribute) == default, (section, option)
                assert f"/{section}/{option}" in members
            else:
                assert getattr(parsed, attribute) == wanted
    for section in raw:
        assert section in table.SECTIONS or f"/{section}" in members


def closed(raw: "dict[str, Any]", parsed: Any, problems: "list[Any]") -> None:
    """Nothing that says whom to trust is guessed."""
    uris = parsed.registry_uris
    assert parsed.plain_http or not [uri for uri in uris if uri.startswith("http://")]
    if any(problem.member == "/registry/cert" for problem in problems):
        assert parsed.registry_cert is None
        assert not [uri for uri in uris if uri.startswith("https://")]
    assert all(uri.startswith(("https://", "http://", "file:///")) and uri.endswith("/") for uri in uris)
    policy = [problem.member for problem in problems if problem.member.startswith("/policy")]
    assert unclear.NO_SLICE not in parsed.accept_slices or policy
    if any(member == f"/policy/{option}" for member in policy for option in unclear.WHO):
        assert unclear.NO_SLICE in parsed.accept_slices
    if any(problem.member in ("/api/enabled", "/api") for problem in problems):
        assert parsed.api_enabled is False
    assert parsed.node_id is None or 1 <= parsed.node_id <= 0xFFF0
    assert parsed.data_dir.startswith("/") and ".." not in parsed.data_dir.split("/")


def check_one(dice: random.Random, directory: Path) -> None:
    (directory / "confine").write_bytes(some_text(dice))
    try:
        raw = uci.load("confine", str(directory))
    except SettingsError as error:
        assert str(directory / "confine") in str(error)
        return
    parsed, problems = table.parse(raw)
    named_or_default(raw, parsed, problems)
    closed(raw, parsed, problems)
    for problem in problems:
        assert problem.message
        (problem.member + problem.message).encode()
        assert all(char >= " " for char in problem.member + problem.message), problem


def apart(work: "Callable[[], None]", what: str) -> None:
    """`work` in a process of its own: a crash of libuci is a failed test, not the end of all tests."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), f"{what}: killed by {signal.Signals(os.WTERMSIG(status)).name}"
    assert os.WEXITSTATUS(status) == 0, what


def tried(directory: Path, count: int) -> None:
    for batch in seeds.numbers((count + BATCH - 1) // BATCH):

        def work(first: int = batch * BATCH) -> None:
            for number in range(first, min(count, first + BATCH)):
                with seeds.example("settings", number) as dice:
                    check_one(dice, directory)

        apart(work, f"SEED={seeds.seed()}, examples from {batch * BATCH} on, file {directory}/confine")


def test_no_configuration_file_crashes_the_node_and_bad_values_are_named(tmp_path: Path) -> None:
    tried(tmp_path, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_of_very_many_configuration_files_none_crashes_the_node(tmp_path: Path) -> None:
    tried(tmp_path, ALL)


def test_the_good_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "confine").write_text(GOOD)
    parsed, problems = table.parse(uci.load("confine", str(tmp_path)))
    assert problems == []
    assert parsed.node_id == 27
