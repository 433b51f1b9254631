"""The command `confine`: looks at the node, tells its daemon what to do, and does at once what must not wait for it.

Parser, help and completion are made from the table in verbs.py; what a verb does is in VERBS below it and in
cli_slivers.py.
"""

import argparse
import json
import os
import sys
import time

from confine import __version__, verbs
from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths
from confine.verbs import CHOICE, INT, SECRET, SWITCH, WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WATCH_S = 1.0
FOLLOW_S = 0.3
CLEAR = "\x1b[H\x1b[J"
RUN = "/run/confine"


def main(argv: "list[str] | None" = None) -> int:
    """Exit status: 0 done, 1 not or not all of it, 2 the command line is wrong; of `exec`, the command's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:2] == ["stop", "show"]:
        words[:2] = ["stop-show"]
    args = _parser().parse_args(words)
    try:
        given = {argument.name: getattr(args, argument.name) for argument in args.verb.arguments}
        return _run(args.verb, verbs.checked(args.verb.name, given, verbs.COMMAND) if args.verb.by == verbs.COMMAND
                    else given, args.run_dir)  # fmt: skip
    except ConfineError as error:
        sys.stderr.write("confine: {}\n".format(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="confine", description="The controller of this testbed node.", allow_abbrev=False,
        epilog="SLIVER is SLICE@NODE (5@1), a host name, or the number of a slice (5), which has one sliver on a node.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version="confine " + __version__)
    parser.add_argument("--run-dir", default=os.environ.get("CONFINE_RUN", RUN), help=argparse.SUPPRESS)
    parsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in verbs.VERBS:
        if verb.hidden:
            continue
        # Without a help text argparse lists a verb under no name at all: "stop show" is told with stop.
        shown: dict[str, Any] = {"help": verb.help} if verb.spoken == verb.name else {}
        one = parsers.add_parser(verb.name, description=_sentence(verb), prog="confine " + verb.spoken,
                                 allow_abbrev=False, **shown)  # fmt: skip
        one.set_defaults(verb=verb)
        for argument in verb.arguments:
            _add(one, argument)
    return parser


def _sentence(verb: verbs.Verb) -> str:
    more = " See also `confine stop show`." if verb.name == "stop" else ""
    return verb.help[:1].upper() + verb.help[1:] + "." + more


def _add(parser: argparse.ArgumentParser, argument: verbs.Argument) -> None:
    options: dict[str, Any] = {"help": argument.help, "default": argument.default}
    if argument.flag is None:
        options["metavar"] = argument.name.upper()
        if argument.kind == CHOICE:
            options["metavar"] = "|".join(argument.choices)
        if argument.kind == WORDS:
            options["nargs"] = argparse.REMAINDER
        elif not argument.required:
            options["nargs"] = "?"
        parser.add_argument(argument.name, **options)
        return
    flags = [flag for flag in (argument.short, argument.flag) if flag]
    if argument.kind in (SWITCH, SECRET):
        options["action"] = "store_true"
    else:
        options["metavar"] = argument.name.upper()
        options["type"] = int if argument.kind == INT else str
        if argument.kind == CHOICE:
            options["metavar"] = "|".join(argument.choices)
    parser.add_argument(*flags, dest=argument.name, **options)


def _run(verb: verbs.Verb, args: "dict[str, Any]", run: str) -> int:
    own = VERBS.get(verb.name)
    if own is not None:
        return int(own(args, run))
    from confine import cli_slivers  # lazy: looking at the node is the most common

    return cli_slivers.run(verb.name, args, run)


# ---- looking ------------------------------------------------------------------------------------------------------


def _status(args: "dict[str, Any]", run: str) -> int:
    from confine import tables

    while True:
        doc = _ask(run, "status")
        live = args["watch"] and sys.stdout.isatty()
        text = as_json(doc) if args["json"] else tables.status(doc, sys.stdout.isatty())
        sys.stdout.write(CLEAR + text if live else text)
        sys.stdout.flush()
        if not args["watch"]:
            return 0
        time.sleep(WATCH_S)


def _slivers(args: "dict[str, Any]", run: str) -> int:
    from confine import tables

    slivers = _ask(run, "slivers")["slivers"]
    sys.stdout.write(as_json(slivers) if args["json"] else tables.slivers(slivers, sys.stdout.isatty()))
    return 0


def _sliver(args: "dict[str, Any]", run: str) -> int:
    from confine import tables

    doc = _ask(run, "sliver", {"sliver": args["sliver"]})
    sys.stdout.write(as_json(doc) if args["json"] else tables.sliver(doc))
    return 0


def _plan(args: "dict[str, Any]", run: str) -> int:
    from confine import tables

    doc = _ask(run, "plan")
    sys.stdout.write(as_json(doc) if args["json"] else tables.plan(doc))
    return 0


def _refresh(args: "dict[str, Any]", run: str) -> int:
    sys.stdout.write(_ask(run, "refresh")["message"] + "\n")
    return 0


def _log(args: "dict[str, Any]", run: str) -> int:
    from confine.log import tail

    path = Paths(run=run).log
    place = _size(path)
    lines = tail(path, args["lines"])
    sys.stdout.write("".join(line + "\n" for line in lines))
    while args["follow"]:
        sys.stdout.flush()
        time.sleep(FOLLOW_S)
        size = _size(path)
        if size < place:  # the full file was put aside, a new one begun
            place = 0
        if size > place:
            with open(path, encoding="utf-8", errors="replace") as file:
                file.seek(place)
                sys.stdout.write(file.read())
                place = file.tell()
    return 0


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _check(args: "dict[str, Any]", run: str) -> int:
    from confine import check, check_facts, tables

    findings = check.all_findings(run)
    doc = [finding.as_doc() for finding in findings]
    sys.stdout.write(as_json(doc) if args["json"] else tables.check(doc, sys.stdout.isatty()))
    return 1 if any(finding.state == check_facts.FAIL for finding in findings) else 0


def _trace(args: "dict[str, Any]", run: str) -> int:
    from confine import cli_trace

    return cli_trace.run(args, run)


def _history(args: "dict[str, Any]", run: str) -> int:
    from confine import cli_records

    return cli_records.history(args, run)


def _figures(args: "dict[str, Any]", run: str) -> int:
    from confine import cli_records

    return cli_records.figures(args, run)


def _overlay(args: "dict[str, Any]", run: str) -> int:
    from confine import cli_overlay

    return cli_overlay.run(args, run)


def _setup(args: "dict[str, Any]", run: str) -> int:
    from confine import join

    return join.run(args, run)


def _settings(args: "dict[str, Any]", run: str) -> int:
    from confine import cli_settings

    return cli_settings.run(args, run)


def _upgrade(args: "dict[str, Any]", run: str) -> int:
    try:
        from confine.upgrade.command import run as upgrade
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("confine.upgrade"):
            raise
        raise ConfineError(
            "upgrades are not installed on this node: they are the package confine-upgrade, for devices with two slots "
            "(apk add confine-upgrade, or opkg install confine-upgrade)"
        )
    return upgrade(args, run)


def _completion(args: "dict[str, Any]", run: str) -> int:
    from confine import completion

    sys.stdout.write(completion.script())
    return 0


def _ask(run: str, verb: str, args: "dict[str, Any] | None" = None) -> "Any":
    return ask(Paths(run=run).control, verb, args)


def as_json(doc: "Any") -> str:
    """`doc` as programs and people can read it."""
    return json.dumps(doc, indent=2, sort_keys=True) + "\n"


VERBS = {
    "status": _status,
    "slivers": _slivers,
    "sliver": _sliver,
    "plan": _plan,
    "refresh": _refresh,
    "log": _log,
    "check": _check,
    "overlay": _overlay,
    "trace": _trace,
    "history": _history,
    "figures": _figures,
    "upgrade": _upgrade,
    "completion": _completion,
    "settings": _settings,
    "setup": _setup,
}

if __name__ == "__main__":
    sys.exit(main())
