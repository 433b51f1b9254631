"""The verbs of the command line that need no daemon: into a sliver, decisions about slivers, stop and release."""

import os
import sys

from confine import decisions, stop
from confine.core.decisions import ALL, Decisions, Mark
from confine.drivers import cgroups
from confine.errors import ConfineError
from confine.stop import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BEGUN = "CONFINE_STOP_BEGUN"  # set by the program `confine`


def run(verb: str, args: "dict[str, Any]", run_dir: str) -> int:
    """Do `verb` with its checked `args`; its exit status. ConfineError if it cannot be done."""
    paths = stop.known_paths(run_dir)
    return int(VERBS[verb](Node(paths), args))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- into a sliver ------------------------------------------------------------------------------------------------


def _exec(node: Node, args: "dict[str, Any]") -> int:
    words = args["command"][1:] if args["command"][:1] == ["--"] else args["command"]
    if not words:
        raise ConfineError("there is no command: confine exec {} -- COMMAND".format(args["sliver"]))
    return _become(
        node, _running(node, args["sliver"]), "lxc-attach", ["--clear-env", "--keep-var", "TERM", "--", *words]
    )


def _console(node: Node, args: "dict[str, Any]") -> int:
    return _become(node, _running(node, args["sliver"]), "lxc-console", ["-t", "0"])


def _running(node: Node, text: str) -> str:
    """The name of the sliver that `text` means. ConfineError if nothing can be run in it."""
    name = node.sliver(text)
    if not cgroups.populated(node.group(name)):
        raise ConfineError("sliver {} does not run: `confine sliver {}` says why".format(text, text))
    if cgroups.frozen(node.group(name)):
        ended_by = "confine release" if node.book.of(name).stop is not None else "confine resume"
        raise ConfineError("sliver {} is frozen, nothing can run in it: `{}` first".format(text, ended_by))
    return name


def _become(node: Node, name: str, program: str, more: "list[str]") -> int:
    """Turn this process into LXC's tool, which keeps the sliver's own limits, user namespace and seccomp policy."""
    sys.stdout.flush()
    try:
        os.execvp(program, [program, "-P", os.path.join(node.paths.run, "lxc"), "-n", name, *more])  # noqa: S606
    except OSError as error:
        raise ConfineError("{} cannot be started ({}): is LXC installed?".format(program, error.strerror))


# ---- decisions ----------------------------------------------------------------------------------------------------


def _decide(node: Node, name: str, mark: Mark, edit: "Callable[[Decisions], str]") -> int:
    said, durable = node.book.change(edit)
    _say(said)
    stop.note(node.paths, name, mark, said)
    if not durable:
        _say("warning: it holds, but " + stop.VOLATILE)
    return 0 if durable else 1


def _told(node: Node) -> None:
    if not stop.tell(node.paths):
        _say("the daemon does not answer: it will be done when it runs again")


def _pause(node: Node, args: "dict[str, Any]") -> int:
    name = node.sliver(args["sliver"])
    mark = decisions.mark(args["why"], os.environ)
    stop.freeze(node, name, True)
    status = _decide(node, name, mark, lambda all_: all_.pause(name, mark))
    stop.tell(node.paths)
    return status


def _resume(node: Node, args: "dict[str, Any]") -> int:
    name = node.sliver(args["sliver"])
    mark = decisions.mark("", os.environ)
    status = _decide(node, name, mark, lambda all_: all_.resume(name))
    if node.book.of(name).stop is None:
        stop.freeze(node, name, False)
    stop.tell(node.paths)
    return status


def _reset(node: Node, args: "dict[str, Any]") -> int:
    name = node.sliver(args["sliver"])
    mark = decisions.mark(args["why"], os.environ)
    status = _decide(node, name, mark, lambda all_: all_.reset(name, mark))
    _told(node)
    return status


def _set_state(node: Node, args: "dict[str, Any]") -> int:
    name = node.sliver(args["sliver"])
    if args["clear"] == (args["state"] is not None):
        raise ConfineError("either a state or --clear: confine set-state {} deploy".format(args["sliver"]))
    mark = decisions.mark(args["why"], os.environ)
    if args["clear"]:
        status = _decide(node, name, mark, lambda all_: all_.clear_state(name))
    else:
        status = _decide(node, name, mark, lambda all_: all_.set_state(name, args["state"], mark))
    _told(node)
    return status


# ---- stop at once -------------------------------------------------------------------------------------------------


def _scope(node: Node, args: "dict[str, Any]") -> str:
    if args["all"] == (args["sliver"] is not None):
        raise ConfineError("say which: a sliver (5@1), the number of a slice, or --all")
    return ALL if args["all"] else node.sliver(args["sliver"])


def _stop(node: Node, args: "dict[str, Any]") -> int:
    mark = decisions.mark(args["why"], os.environ, kill=args["kill"])
    return stop.stop(node, _scope(node, args), mark, os.environ.get(BEGUN) == "1", _say)


def _release(node: Node, args: "dict[str, Any]") -> int:
    return stop.release(node, _scope(node, args), _say)


def _stop_show(node: Node, args: "dict[str, Any]") -> int:
    from confine import evidence, tables
    from confine.cli import as_json

    stops = node.book.now().stops
    wanted = (
        [node.sliver(args["sliver"])] if args["sliver"] else [name for name in node.names if _is_stopped(node, name)]
    )
    doc = {
        "stops": {scope: mark.as_doc() for scope, mark in stops.items()},
        "evidence": {name: evidence.read(node.paths, name) for name in wanted},
    }
    sys.stdout.write(as_json(doc) if args["json"] else tables.stops(doc, args["sliver"] is not None))
    return 0


def _is_stopped(node: Node, name: str) -> bool:
    return node.book.of(name).stop is not None


VERBS = {
    "exec": _exec,
    "console": _console,
    "pause": _pause,
    "resume": _resume,
    "reset": _reset,
    "set-state": _set_state,
    "stop": _stop,
    "release": _release,
    "stop-show": _stop_show,
}
