"""Whatever comes over the control socket: each client is answered or dropped, and the next one is served in time."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from confine import control
from confine.control import ControlServer, ask
from confine.errors import ConfineError
from torture import mutate, seeds

SHARE, ALL = 500, 20_000
GOOD: "list[dict[str, Any]]" = [
    {"verb": "status", "args": {}},
    {"verb": "log", "args": {"lines": 50}},
    {"verb": "stop", "args": {"scope": "1@1", "who": "root", "why": "too loud", "all": False, "names": ["a", "b"]}},
]


def handle(verb: str, args: "dict[str, Any]") -> Any:
    """A verb that looks at what it was given."""
    assert isinstance(verb, str) and isinstance(args, dict)
    if verb == "log" and not isinstance(args.get("lines"), int):
        raise ConfineError("lines is {!r}: must be a number".format(args.get("lines")))
    return {"verb": verb, "args": args}


@pytest.fixture
def path(tmp_path: Path) -> "Iterator[str]":
    where = str(tmp_path / "control.sock")
    server = ControlServer(where, handle)
    yield where
    server.close()


def request(dice: random.Random) -> bytes:
    """A request, most often a bad one."""
    good = dice.choice(GOOD)
    kind = dice.randrange(4)
    if kind == 0:
        return mutate.damaged(mutate.encoded(good) + b"\n", dice)
    if kind == 1:
        return mutate.encoded(mutate.changed(good, dice, GOOD)) + b"\n"
    if kind == 2:
        return mutate.encoded(mutate.garbled(good, dice)[0]) + b"\n" + mutate.encoded(good) + b"\n"
    return bytes(dice.getrandbits(8) for _ in range(dice.choice([0, 1, 10, 1000, 70_000]))) + dice.choice([b"", b"\n"])


def converse(path: str, data: bytes) -> bytes:
    """Send `data`, say that it is all, and return what comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # dropped before all was said
        parts = []
        try:
            while part := client.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def answered(path: str, dice: random.Random) -> None:
    data = request(dice)
    answer = converse(path, data)
    if not answer:
        assert len(data) > control.LINE_LIMIT
        return
    said = json.loads(answer)
    assert set(said) in ({"ok", "result"}, {"ok", "error"}), said
    assert said["ok"] or said["error"]
    assert not said.get("error", "").startswith("unexpected "), said


def tried(path: str, count: int) -> None:
    for number in seeds.numbers(count):
        with seeds.example("control", number) as dice:
            answered(path, dice)
    assert ask(path, "status")


def test_bad_requests_are_answered_and_the_next_client_is_served(path: str) -> None:
    tried(path, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_very_many_bad_requests_are_answered(path: str) -> None:
    tried(path, ALL)


def drip(client: socket.socket) -> None:
    """A byte now and then, never a whole line."""
    client.sendall(b" ")


def stuff(client: socket.socket) -> None:
    """A line and the beginning of another: the end of what was sent is no end of a line."""
    client.sendall(b'{"verb": "status"}\n{"verb"')


@pytest.mark.parametrize("dawdle", [drip, stuff, lambda client: None])
def test_a_client_that_dawdles_holds_the_others_up_for_a_bounded_time(
    path: str, dawdle: "Callable[[socket.socket], None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 0.5)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(path)
        end = time.monotonic() + 3
        result: list[Any] = []
        other = threading.Thread(target=lambda: result.append(ask(path, "status")))
        other.start()
        while other.is_alive() and time.monotonic() < end:
            try:
                dawdle(slow)
            except OSError:
                pass  # it was dropped
            other.join(0.1)
        other.join(0)
        assert result, "the other client was not answered in 3 s"
