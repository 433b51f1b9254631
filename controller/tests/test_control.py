"""The control socket answers well-formed and hostile clients, and only root."""

import os
import socket

import pytest

from confine import control
from confine.control import ControlServer, ask
from confine.errors import ConfineError


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "control.sock")
    server = ControlServer(path, handle)
    yield path
    server.close()


def handle(verb, args):
    if verb == "refuse":
        raise ConfineError("not now")
    if verb == "fault":
        raise ZeroDivisionError("oops")
    return {"verb": verb, "args": args}


def raw(path, data):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(65536).decode()


def test_a_verb_is_answered(path):
    assert ask(path, "status", {"a": 1}) == {"verb": "status", "args": {"a": 1}}


def test_a_refusal_gives_the_daemons_own_words(path):
    with pytest.raises(ConfineError, match="^not now$"):
        ask(path, "refuse")


@pytest.mark.parametrize("request_line", [b"\n", b"[]\n", b"{\n", b'{"verb": 1}\n', b'{"verb": "x", "args": []}\n',
                                          b"[" * 60000 + b"\n", b"\xff\n", b""])  # fmt: skip
def test_rubbish_gets_an_answer_and_the_next_client_is_served(path, request_line):
    assert '"ok": false' in raw(path, request_line)
    assert ask(path, "status")


def test_a_fault_in_a_verb_is_told_and_the_next_client_is_served(path):
    with pytest.raises(ConfineError, match="ZeroDivisionError"):
        ask(path, "fault")
    assert ask(path, "status")


def test_only_root_may_open_it(path):
    assert os.stat(path).st_mode & 0o077 == 0


def test_without_a_daemon_the_caller_is_told_what_to_do(tmp_path):
    with pytest.raises(ConfineError, match=r"/etc/init.d/confine start"):
        ask(str(tmp_path / "absent"), "status")


def test_a_socket_left_by_a_killed_daemon_is_replaced(path, tmp_path):
    left = str(tmp_path / "left.sock")
    socket.socket(socket.AF_UNIX).bind(left)
    server = ControlServer(left, handle)
    assert ask(left, "status")
    server.close()


def test_the_first_line_is_the_request_whatever_follows(path):
    assert '"ok": true' in raw(path, b'{"verb": "status"}\n{"verb"')


def test_the_socket_answers_again_after_a_moment_without_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "AGAIN_S", 0.01)
    server = ControlServer(str(tmp_path / "s"), handle)
    real, failed = server._socket, []

    class Exhausted:
        """The listening socket, whose accept fails once."""

        def accept(self):
            if not failed:
                failed.append(1)
                raise OSError(24, "Too many open files")
            return real.accept()

        def __getattr__(self, name):
            return getattr(real, name)

    server._socket = Exhausted()
    assert ask(str(tmp_path / "s"), "status")  # taken by the accept that was under way
    assert ask(str(tmp_path / "s"), "status") and failed
    server.close()


def test_an_answer_that_is_no_json_does_not_end_the_socket(tmp_path):
    server = ControlServer(str(tmp_path / "s"), lambda verb, args: object() if verb == "odd" else "fine")
    with pytest.raises(ConfineError):
        ask(str(tmp_path / "s"), "odd")
    assert ask(str(tmp_path / "s"), "status") == "fine"
    server.close()
