"""The process that offers the node on ubus. It holds nothing: each call is passed on to the daemon or the command line.

It is one of its own because python3-ubus holds the interpreter while it waits, and its loop collects other processes'
children. When the bus is lost it ends, and procd starts it again; the daemon does not notice.
"""

import importlib
import json
import os
import subprocess
import sys

from confine.bus import jobs, rules
from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths
from confine.verbs import DAEMON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SOCKET = "/var/run/ubus/ubus.sock"
LOOK_MS = 1000
ASK_S = 5.0
COMMAND_S = 40.0  # a stop of all gathers evidence for 20 s, and tells the daemon
SESSION_MS = 2000
# A message of ubus holds 1 MiB, in which a small number needs four times the room it has in JSON; rpcd falls over a
# larger one.
ANSWER_LIMIT = 256 * 1024
TOO_LARGE = "the answer has {} bytes or more, which is more than ubus carries: ask `confine` on the node"


class Offer:
    """Answers calls. command: the words that start the command line."""

    def __init__(self, paths: Paths, command: "list[str]") -> None:
        self._paths = paths
        self._command = command
        self._jobs = jobs.Jobs()

    def answer(self, method: rules.Method, data: "dict[str, Any]", who: str = rules.SOMEBODY) -> "dict[str, Any]":
        """{"ok": true, "result": ...} or {"ok": false, "error": what is wrong}, always one. who: is recorded."""
        return _answer(lambda: self._result(method, data, who))

    def end(self, number: "Any") -> "dict[str, Any]":
        """The answer of what was begun with this number, as far as there is one."""
        return _answer(lambda: _end(self._jobs.find(number)))

    def _result(self, method: rules.Method, data: "dict[str, Any]", who: str) -> "Any":
        args = rules.given(method, data)
        if method.verb.by == DAEMON:
            return ask(self._paths.control, method.verb.name, args, ASK_S)
        argv = [*self._command, *rules.command_line(method, args)]
        said = rules.secret(method, args)
        environment = {**os.environ, "CONFINE_RUN": self._paths.run, "LOGNAME": who}
        environment.pop("SUDO_USER", None)
        if method.slow:
            job = self._jobs.begin(method.name, args, argv, said, environment, not method.changes)
            return _end(job)
        try:
            done = subprocess.run(
                argv, input=said.encode(), capture_output=True, timeout=COMMAND_S, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfineError("confine {} did not end within {:.0f} s".format(method.verb.spoken, COMMAND_S))
        return _told(done.stdout, done.stderr, "--json" in argv, done.returncode != 0)


def _answer(work: "Callable[[], Any]") -> "dict[str, Any]":
    try:
        result = work()
    except ConfineError as error:
        return {"ok": False, "error": str(error)}
    size = len(json.dumps(result))
    if size > ANSWER_LIMIT:
        return {"ok": False, "error": TOO_LARGE.format(size)}
    return {"ok": True, "result": result}


def _end(job: jobs.Job) -> "Any":
    if not job.is_over():
        return {"pending": True, rules.JOB: job.number}
    out, err = job.said(ANSWER_LIMIT)
    if len(out) > ANSWER_LIMIT:
        raise ConfineError(TOO_LARGE.format(len(out)))
    return _told(out, err, True, True)


def _told(out: bytes, err: bytes, as_json: bool, failed: bool) -> "Any":
    """What a command said. ConfineError with its words if it failed."""
    said, wrong = (text.decode("utf-8", "replace").strip() for text in (out, err))
    if as_json:
        try:
            return json.loads(said)
        except ValueError:
            pass
    if failed:
        words = "\n".join(part for part in (said, wrong.removeprefix("confine: ")) if part)
        raise ConfineError(words or "it ended without a word: see `confine log`, then try again")
    return {"message": said}


class Watch:
    """Looks, when the daemon has logged something, at what is new. send: of an event, by name and data."""

    def __init__(self, paths: Paths, send: "Callable[[str, dict[str, Any]], object]") -> None:
        self._paths = paths
        self._send = send
        self._seen: tuple[int, int] | None = None
        self._last: dict[str, Any] | None = None

    def look(self) -> None:
        """Send what has changed since the last look. An idle node costs one look at a file's date."""
        try:
            found = os.stat(self._paths.log)
        except OSError:
            return
        seen = (found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return
        try:
            now = ask(self._paths.control, "status", {}, ASK_S)
        except ConfineError:
            return  # it is not up: asked again at the next look
        self._seen = seen
        for name, data in rules.events(self._last, now):
            self._send(name, data)
        self._last = now


def add(bus: "Any", offer: Offer) -> None:
    """Offer both objects on `bus`, the module of python3-ubus."""
    for name, web in ((rules.OBJECT, False), (rules.WEB_OBJECT, True)):
        offered = {
            word: {"method": _handler(bus, offer, method), "signature": _types(bus, rules.signature(method, web))}
            for word, method in rules.methods().items()
        }
        offered[rules.JOB] = {"method": _ends(offer), "signature": _types(bus, rules.job_signature(web))}
        bus.add(name, offered)


def _handler(bus: "Any", offer: Offer, method: rules.Method) -> "Callable[[Any, dict[str, Any]], None]":
    def handle(request: "Any", data: "dict[str, Any]") -> None:
        who = rules.SOMEBODY
        if method.changes and rules.SESSION in data:
            who = user(bus, data[rules.SESSION]) + " by LuCI"
        request.reply(offer.answer(method, data, who))

    return handle


def _ends(offer: Offer) -> "Callable[[Any, dict[str, Any]], None]":
    def handle(request: "Any", data: "dict[str, Any]") -> None:
        request.reply(offer.end(data[rules.JOB]))

    return handle


def user(bus: "Any", session: "Any") -> str:
    """Who logged in with this session of rpcd; "somebody" if it cannot be known."""
    try:
        (found,) = bus.call("session", "get", {rules.SESSION: session}, SESSION_MS)
        name = found["values"]["username"]
    except (RuntimeError, OSError, ValueError, TypeError, KeyError):
        return "somebody"
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 64 else "somebody"


def _types(bus: "Any", signature: "dict[str, str]") -> "dict[str, Any]":
    return {name: getattr(bus, "BLOBMSG_TYPE_" + kind) for name, kind in signature.items()}


def main() -> int:
    """Serve until the bus is lost. Exit status 1: it was, or it never was there."""
    paths = Paths(run=os.environ.get("CONFINE_RUN", "/run/confine"))
    bus = importlib.import_module("ubus")
    try:
        bus.connect(os.environ.get("UBUS_SOCKET", SOCKET))
        add(bus, Offer(paths, [sys.executable, "-P", "-s", "-m", "confine.cli"]))
        watch = Watch(paths, bus.send)
        while bus.objects(rules.OBJECT):
            watch.look()
            bus.loop(LOOK_MS)
    except (RuntimeError, OSError) as error:
        sys.stderr.write("confine on ubus: {}\n".format(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
