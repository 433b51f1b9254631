"""The daemon's control socket: one JSON line asked, one JSON line answered, over a UNIX socket only root may open.

A request is {"verb": name, "args": {...}}; the answer {"ok": true, "result": ...} or {"ok": false, "error": text}.
"""

import json
import os
import socket
import threading
import time

from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LINE_LIMIT = 64 * 1024
ANSWER_LIMIT = 16 * 1024 * 1024
TIMEOUT = 5.0
AGAIN_S = 0.5


class ControlServer:
    """Answers requests in a thread of its own, one after another; a client that dawdles is dropped after 5 s."""

    def __init__(self, path: str, handle: "Callable[[str, dict[str, Any]], Any]") -> None:
        self._path = path
        self._handle = handle
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._unlink()
        before = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(before)
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._closed = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._unlink()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(AGAIN_S)  # no descriptor is left, say: that passes
                continue
            try:
                with client:
                    client.settimeout(TIMEOUT)
                    self._answer(client)
            except Exception:  # noqa: S110
                pass  # the client went away, or the answer cannot be written as JSON: the next one is answered

    def _answer(self, client: socket.socket) -> None:
        try:
            request = json.loads(_read_line(client, LINE_LIMIT, time.monotonic() + TIMEOUT))
            verb, args = request["verb"], request.get("args", {})
            if not isinstance(verb, str) or not isinstance(args, dict):
                raise ValueError("verb must be a string and args an object")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            answer = {"ok": False, "error": "the request is not {{verb, args}} in JSON: {}".format(error)}
        else:
            answer = self._run(verb, args)
        client.settimeout(TIMEOUT)
        client.sendall(json.dumps(answer).encode() + b"\n")

    def _run(self, verb: str, args: "dict[str, Any]") -> "dict[str, Any]":
        try:
            return {"ok": True, "result": self._handle(verb, args)}
        except ConfineError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # a fault in one verb must not take the socket down
            return {"ok": False, "error": "unexpected {}: {}".format(type(error).__name__, error)}

    def _unlink(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


def ask(path: str, verb: str, args: "dict[str, Any] | None" = None, timeout: float = 30.0) -> "Any":
    """The daemon's answer to `verb`. Raises ConfineError with what to do if there is none or it says no."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with client:
        client.settimeout(timeout)
        try:
            client.connect(path)
            client.sendall(json.dumps({"verb": verb, "args": args or {}}).encode() + b"\n")
            answer = json.loads(_read_line(client, ANSWER_LIMIT, time.monotonic() + timeout))
        except (OSError, ValueError) as error:
            raise ConfineError(
                "the daemon does not answer on {} ({}): is it running? /etc/init.d/confine start".format(path, error)
            )
    if not answer.get("ok"):
        raise ConfineError(answer.get("error", "the daemon refused without a reason"))
    return answer["result"]


def _read_line(client: socket.socket, limit: int, end: float) -> bytes:
    """All up to the first line end, or to the end of what is sent. OSError after `end` (monotonic seconds)."""
    parts = []
    size = 0
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole line in time")
        client.settimeout(left)
        part = client.recv(65536)
        line, newline, _ = part.partition(b"\n")
        parts.append(line)
        size += len(part)
        if newline or not part:
            return b"".join(parts)
        if size > limit:
            raise ValueError("a line of over {} bytes".format(limit))
