"""The one table of what people and programs can ask of a node: verbs, their arguments, who answers.

The daemon's control socket checks requests by it; the command line's parser, help and shell completion are made from
it. A verb that must work without the daemon is answered by the command itself.
"""

from confine.core.decisions import LOWER_TARGETS, MAX_TEXT
from confine.core.text import nearest, shown
from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DAEMON, COMMAND = "daemon", "command"
# Kinds of arguments. A sliver is named as core.decisions.parse_sliver says.
SLIVER, INT, TEXT, CHOICE, SWITCH, WORDS = "sliver", "int", "text", "choice", "switch", "words"
# On the command line a flag: the text comes by terminal or standard input, where no list of processes shows it.
SECRET = "secret"  # noqa: S105  # the name of the kind
MAX_SECRET = 512
MAX_WORD = 4096
UPGRADE_ACTIONS = ("status", "check", "install", "trial", "confirm", "rollback", "history", "defer")


class Argument:
    """One argument. flag: "--lines", None for one that is told by its place. bounds: (lowest, highest) of an INT.
    choices: of a CHOICE. only_here: for the command line alone, never sent."""

    def __init__(
        self,
        name: str,
        kind: str,
        help: str,
        flag: "str | None" = None,
        short: "str | None" = None,
        default: "Any" = None,
        required: bool = False,
        bounds: "tuple[int, int]" = (0, 0),
        choices: "tuple[str, ...]" = (),
        only_here: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.flag = flag
        self.short = short
        self.default = default
        self.required = required
        self.bounds = bounds
        self.choices = choices
        self.only_here = only_here

    def check(self, value: "Any") -> "Any":
        """`value` if it can be one of this argument; ValueError says what is allowed."""
        if self.kind == INT:
            low, high = self.bounds
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError("must be a whole number from {} to {}".format(low, high))
        elif self.kind == SWITCH:
            if not isinstance(value, bool):
                raise ValueError("must be true or false")
        elif self.kind == SECRET:
            if value is not True and not (isinstance(value, str) and len(value) <= MAX_SECRET):
                raise ValueError("must be a text of at most {} letters".format(MAX_SECRET))
        elif self.kind == CHOICE:
            if value not in self.choices:
                raise ValueError("must be " + " or ".join(self.choices))
        elif self.kind == WORDS:
            if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
                raise ValueError("must be a list of words, at least one")
        elif not isinstance(value, str) or not 1 <= len(value) <= (MAX_WORD if self.kind == TEXT else 64):
            raise ValueError("must be a text that is not empty and not too long")
        return value


class Verb:
    """A verb. changes: whether it changes what runs here. by: DAEMON or COMMAND. spoken: as people type it. hidden:
    the parts of the node use it among themselves."""

    def __init__(
        self,
        name: str,
        help: str,
        arguments: "tuple[Argument, ...]" = (),
        changes: bool = False,
        by: str = COMMAND,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.spoken = name.replace("stop-", "stop ")
        self.help = help
        self.arguments = arguments
        self.changes = changes
        self.by = by
        self.hidden = hidden


_SLIVER = Argument("sliver", SLIVER, "5@1, its host name, or the number of its slice", required=True)
_SCOPE = Argument("sliver", SLIVER, "5@1, a host name, or the number of a slice")
_ALL = Argument("all", SWITCH, "all slivers, also those that come later", "--all", default=False)
_WHY = Argument("why", TEXT, "the reason, up to {} letters; it is kept and shown".format(MAX_TEXT), "--why", default="")
_JSON = Argument("json", SWITCH, "as JSON, for programs", "--json", default=False, only_here=True)

VERBS = (
    Verb("status", "the node and its slivers, in a table",
         (_JSON, Argument("watch", SWITCH, "again each second, until Ctrl-C", "--watch", default=False,
                          only_here=True)), by=DAEMON),
    Verb("slivers", "only the slivers", (_JSON,), by=DAEMON),
    Verb("sliver", "all about one sliver", (_SLIVER, _JSON), by=DAEMON),
    Verb("plan", "what would be done now, and why", (_JSON,), by=DAEMON),
    Verb("refresh", "read the registry now, and try again what failed", by=DAEMON, changes=True),
    Verb("look", "plan anew now", by=DAEMON, hidden=True),
    Verb("flush", "write down the flows seen so far", by=DAEMON, hidden=True),
    Verb("log", "the daemon's last log lines",
         (Argument("lines", INT, "how many", "--lines", "-n", 50, bounds=(1, 10000)),
          Argument("follow", SWITCH, "go on with new ones, until Ctrl-C", "--follow", "-f", default=False))),
    Verb("exec", "run a command as root of a sliver; its exit status is passed on",
         (_SLIVER, Argument("command", WORDS, "-- and the command with its arguments", required=True)), changes=True),
    Verb("console", "a sliver's console; Ctrl-a q leaves it", (_SLIVER,), changes=True),
    Verb("pause", "keep a sliver's processes from running, until `resume`", (_SLIVER, _WHY), changes=True),
    Verb("resume", "let a paused sliver go on", (_SLIVER,), changes=True),
    Verb("reset", "return a sliver to its template: what it wrote is lost", (_SLIVER, _WHY), changes=True),
    Verb("set-state", "hold a sliver at a state or lower, whatever the registry asks for",
         (_SLIVER, Argument("state", CHOICE, "the highest it may get to", choices=LOWER_TARGETS),
          Argument("clear", SWITCH, "the registry's word counts again", "--clear", default=False), _WHY),
         changes=True),
    Verb("stop", "stop a sliver or all at once: traffic first, then processes; needs no daemon",
         (_SCOPE, _ALL, _WHY,
          Argument("kill", SWITCH, "end the processes instead of freezing them", "--kill", default=False)),
         changes=True),
    Verb("stop-show", "what is stopped, by whom and why, and what it was doing", (_SCOPE, _JSON)),
    Verb("release", "end a stop: the only way to", (_SCOPE, _ALL), changes=True),
    Verb("overlay", "the management network: its state, this node's key, its peers",
         (_JSON, Argument("publish", SWITCH, "give the key to the registry, by a member's token from standard input",
                          "--publish", default=False)), changes=True),
    Verb("trace", "whose traffic it was: slice and people behind an address at a time",
         (Argument("address", TEXT, "IPv4 or IPv6 address, as seen from outside or inside", required=True),
          Argument("time", TEXT, "2026-11-20T10:15:00Z (UTC), or seconds since 1970", required=True),
          Argument("port", INT, "its port: without it all slivers that share the address are named", "--port",
                   bounds=(0, 65535)),
          Argument("protocol", TEXT, "tcp, udp, icmp or a number", "--protocol"), _JSON)),
    Verb("history", "what was done with a sliver or all, on whose word, and why",
         (_SCOPE, Argument("lines", INT, "how many, the newest", "--lines", "-n", 50, bounds=(1, 100000)),
          Argument("since", TEXT, "only from then on: 2026-11-20T10:15:00Z (UTC), or seconds since 1970", "--since"),
          _JSON)),
    Verb("figures", "what slivers used over time: CPU, memory, disk, network",
         (_SCOPE, Argument("span", CHOICE, "of a sliver: the last ten minutes, three hours or fourteen days", "--span",
                           default="minutes", choices=("minutes", "hours", "days")),
          Argument("user", TEXT, "only what this user of the registry may see", "--user"), _JSON), by=DAEMON),
    Verb("setup", "join a testbed: says what is in the way, and keeps nothing until all is well",
         (Argument("token", TEXT, "a join token, with all the rest in it", "--token"),
          Argument("registry", TEXT, "address of the registry's API", "--registry"),
          Argument("pin", TEXT, "SHA-256 fingerprint of its certificate", "--pin"),
          Argument("node", TEXT, "the node's id there, 4 hex digits", "--node"),
          Argument("mgmt", TEXT, "the testbed's management prefix, like fd65:fc41:c50f::/48", "--mgmt"),
          Argument("check", SWITCH, "only try, keep nothing", "--check", default=False),
          Argument("publish", SECRET, "give the node's keys to the registry, by a member's token from standard input; "
                   "alone: of a node that has joined", "--publish"),
          Argument("show", SWITCH, "only show the node's keys, for the operator", "--show", default=False), _JSON),
         changes=True),
    Verb("settings", "the settings in force, and what is wrong with them",
         (Argument("values", TEXT, 'what if: a JSON object {"section.option": value}; nothing is saved', "--values"),
          _JSON)),
    Verb("upgrade", "the node's own system: what runs, what is offered; install, try, confirm, go back",
         (Argument("action", CHOICE, "what to do; without it, the status", default="status", choices=UPGRADE_ACTIONS),
          Argument("what", TEXT, "of install: a FILE, a URL or a version; of defer: how many days, 0 ends it"),
          Argument("trial", SWITCH, "of install: start it on trial at once", "--trial", default=False),
          Argument("branch", TEXT, "another than the node's own", "--branch"),
          Argument("auto", SWITCH, "of install: as the daemon does, within what is set", "--auto", default=False),
          _JSON), changes=True),
    Verb("check", "find what is wrong with the set-up, and say what to do", (_JSON,)),
    Verb("completion", "shell completion: . <(confine completion)"),
)  # fmt: skip


def find(name: str) -> Verb:
    """The verb `name`. ConfineError with what it was most likely meant to be."""
    for verb in VERBS:
        if verb.name == name:
            return verb
    names = [verb.name for verb in VERBS if not verb.hidden]
    near = nearest(name, names)
    hint = "did you mean {}?".format(near) if near else "there are " + ", ".join(names)
    raise ConfineError("there is no verb {}: {}".format(shown(name), hint))


def checked(name: str, args: "dict[str, Any]", by: str = DAEMON) -> "dict[str, Any]":
    """All arguments of a request, defaults filled in. ConfineError names the verb or argument that cannot be."""
    verb = find(name)
    if verb.by != by:
        raise ConfineError("verb {} is answered by the command line itself, not by the daemon".format(name))
    known = {argument.name: argument for argument in verb.arguments if not (by == DAEMON and argument.only_here)}
    for given in args:
        if given not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfineError("verb {} has no argument {} (there are: {})".format(name, shown(given), there))
    found = {}
    for argument in known.values():
        value = args.get(argument.name, argument.default)
        if value is None and argument.required:
            raise ConfineError("verb {} needs its argument {}: {}".format(name, argument.name, argument.help))
        if value is not None and value != argument.default:
            try:
                argument.check(value)
            except ValueError as error:
                told = "not usable" if argument.kind == SECRET else shown(value)
                raise ConfineError("{} of verb {} is {}: {}".format(argument.name, name, told, error))
        found[argument.name] = value
    return found
