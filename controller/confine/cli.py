"""The command `confine`: looks at the node's daemon and tells it what to do."""

import argparse
import json
import os
import sys
import time

from confine import __version__, tables
from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

WATCH_S = 1.0
CLEAR = "\x1b[H\x1b[J"


def main(argv: "list[str] | None" = None) -> int:
    """Exit status: 0 done, 1 the daemon said no or does not answer, 2 the command line is wrong."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except ConfineError as error:
        sys.stderr.write("confine: {}\n".format(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="confine", description="The controller of this testbed node.")
    parser.add_argument("--version", action="version", version="confine " + __version__)
    parser.add_argument("--socket", default=Paths(run=os.environ.get("CONFINE_RUN", "/run/confine")).control,
                        help="the daemon's control socket (default: %(default)s)")  # fmt: skip
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    status = verbs.add_parser("status", help="the node and its slivers, in a table")
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    status.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")
    status.set_defaults(run=_status)
    plan = verbs.add_parser("plan", help="what would be done now, and why")
    plan.add_argument("--json", action="store_true", help="as JSON, for programs")
    plan.set_defaults(run=_plan)
    refresh = verbs.add_parser("refresh", help="read the registry now, and try again what failed")
    refresh.set_defaults(run=_refresh)
    log = verbs.add_parser("log", help="the daemon's last log lines")
    log.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (default: %(default)s)")
    log.set_defaults(run=_log)
    return parser


def _status(args: argparse.Namespace) -> int:
    while True:
        doc = ask(args.socket, "status")
        text = _json(doc) if args.json else tables.status(doc, sys.stdout.isatty())
        sys.stdout.write(CLEAR + text if args.watch and sys.stdout.isatty() else text)
        sys.stdout.flush()
        if not args.watch:
            return 0
        time.sleep(WATCH_S)


def _plan(args: argparse.Namespace) -> int:
    doc = ask(args.socket, "plan")
    sys.stdout.write(_json(doc) if args.json else tables.plan(doc))
    return 0


def _refresh(args: argparse.Namespace) -> int:
    sys.stdout.write(ask(args.socket, "refresh")["message"] + "\n")
    return 0


def _log(args: argparse.Namespace) -> int:
    for line in ask(args.socket, "log", {"lines": args.lines}):
        sys.stdout.write(line + "\n")
    return 0


def _json(doc: "Any") -> str:
    return json.dumps(doc, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
