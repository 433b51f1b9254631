"""`confine overlay`: the state of the node's overlay, its key, its peers; and the key's way to the registry."""

import sys

from confine.configuration import read_settings
from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: "dict[str, Any]", run_dir: str) -> int:
    """Exit status: 0, or 1 where there is to be an overlay and no peer is reached."""
    from confine import tables
    from confine.cli import as_json

    paths = Paths(run=run_dir)
    doc = ask(paths.control, "status")["overlay"]
    if args["publish"]:
        return _publish(paths, doc, args["json"])
    if args["json"]:
        sys.stdout.write(as_json(doc))
    else:
        sys.stdout.write(tables.overlay(doc, sys.stdout.isatty()))
    return 1 if doc["asked"] and not any(peer["reachable"] for peer in doc["peers"] if peer["connect"]) else 0


def read_token() -> str:
    """A member's token, from the terminal (not shown) or standard input."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass("Token of a member who administers this node: ")
    return sys.stdin.readline(1024)


def _publish(paths: Paths, doc: "dict[str, Any]", json: bool) -> int:
    from confine.cli import as_json
    from confine.registry.publish import publish

    if not doc["pubkey"]:
        raise ConfineError("the node has no key yet: switch the overlay on with overlay.enabled '1'")
    token = read_token()
    settings, _ = read_settings(paths)
    base = publish(settings, token, doc["pubkey"])
    sys.stdout.write(as_json({"registry": base}) if json else "The key was given to the registry at {}\n".format(base))
    return 0
