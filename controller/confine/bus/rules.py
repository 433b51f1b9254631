"""What the node offers on ubus, made from the table of verbs; and which events follow from two looks at the node. Pure.

python3-ubus (0.1.3) refuses a call that lacks one of the declared arguments or has one more, so every argument of a
method must be given; an empty one ("", 0, false, []) counts as not given. uhttpd adds the caller's session to every
call: hence a second object, the same but for that one argument more.
"""

from confine import verbs
from confine.verbs import INT, SECRET, SWITCH, WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.verbs import Argument, Verb

OBJECT = "confine"
WEB_OBJECT = "confine.web"
SESSION = "ubus_rpc_session"
SOMEBODY = "ubus"  # who did what was asked on the object without a session
# They need a terminal, or none of this node's slivers.
NOT_OFFERED = ("exec", "console", "completion")
STREAMED = ("follow", "watch")
ACTION = "action"  # the argument that makes several methods of one verb
JOB = "job"  # asks for the end of what is slow, by its number
# They make keys, wait for who does not answer, or write whole systems.
SLOW = ("setup", "check", "trace", "overlay", "upgrade_check", "upgrade_install", "upgrade_trial", "upgrade_confirm",
        "upgrade_rollback")  # fmt: skip
LOOKING = ("status", "history", "check")  # the actions of `upgrade` that change nothing here
# What each action of `upgrade` heeds of the verb's arguments: the others would have to be given all the same.
HEEDED = {"check": ("branch",), "install": ("what", "trial", "branch"), "defer": ("what",)}
STRING, INT32, BOOL, ARRAY = "STRING", "INT32", "BOOL", "ARRAY"
TYPES = {INT: INT32, SWITCH: BOOL, WORDS: ARRAY}


class Method:
    """A verb, or one action of a verb that has several (`upgrade check`), so that rights can be given for each.

    slow: it may take longer than a call; while it does the result is {"pending": true, "job": its number}.
    changes: whether it changes what runs here.
    """

    def __init__(self, verb: "Verb", action: "str | None" = None) -> None:
        self.verb = verb
        self.action = action
        self.name = (verb.name + ("_" + action if action else "")).replace("-", "_")
        self.slow = self.name in SLOW
        self.changes = verb.changes and action not in LOOKING


def methods() -> "dict[str, Method]":
    """What is offered, by name: `set-state` is set_state, `upgrade check` is upgrade_check."""
    found = []
    for verb in verbs.VERBS:
        if verb.hidden or verb.name in NOT_OFFERED:
            continue
        actions = [argument.choices for argument in verb.arguments if argument.name == ACTION]
        found += [Method(verb, action) for action in actions[0]] if actions else [Method(verb)]
    return {method.name: method for method in found}


def arguments(method: Method) -> "list[Argument]":
    """Those of the verb's arguments that a program can give."""
    left_out = (*STREAMED, ACTION)
    found = [one for one in method.verb.arguments if not one.only_here and one.name not in left_out]
    if method.verb.name == "upgrade":
        return [one for one in found if one.name in HEEDED.get(method.action or "", ())]
    return found


def signature(method: Method, web: bool) -> "dict[str, str]":
    """{argument: STRING, INT32, BOOL or ARRAY}. web: the caller's session is one of them."""
    types = {argument.name: TYPES.get(argument.kind, STRING) for argument in arguments(method)}
    if web:
        types[SESSION] = STRING
    return types


def job_signature(web: bool) -> "dict[str, str]":
    """As `signature`, of the method that asks for an end."""
    return {JOB: INT32, SESSION: STRING} if web else {JOB: INT32}


def given(method: Method, data: "dict[str, Any]") -> "dict[str, Any]":
    """The arguments of a call that say something. ConfineError names what cannot be."""
    said = {name: value for name, value in data.items() if name != SESSION and value not in ("", 0, False, [], None)}
    if method.action is not None:
        said[ACTION] = method.action
    return verbs.checked(method.verb.name, said, method.verb.by)


def command_line(method: Method, args: "dict[str, Any]") -> "list[str]":
    """The words after `confine` that ask for it. What people wrote stands where it cannot be taken for an option."""
    words, places = [method.verb.name], []
    if any(argument.name == "json" for argument in method.verb.arguments):
        words.append("--json")
    if method.action is not None:
        places.append(method.action)
    for argument in arguments(method):
        value = args.get(argument.name)
        if value is None or value == argument.default:
            continue
        if argument.flag is None:
            places.append(str(value))
        elif argument.kind in (SWITCH, SECRET):
            words.append(argument.flag)
        else:
            words.append(argument.flag + "=" + str(value))
    return [*words, "--", *places] if places else words


def secret(method: Method, args: "dict[str, Any]") -> str:
    """What is said to the command on its standard input."""
    said = [args.get(argument.name) or "" for argument in arguments(method) if argument.kind == SECRET]
    return "".join(said)


def events(before: "dict[str, Any] | None", now: "dict[str, Any]") -> "list[tuple[str, dict[str, Any]]]":
    """(name, data) of what changed between two answers to `status`; all of it if there was none before."""
    found: "list[tuple[str, dict[str, Any]]]" = []
    node = _node_words(now)
    if before is None or _node_words(before) != node:
        found.append(("confine.node", node))
    then = {sliver["name"]: _sliver_words(sliver) for sliver in before["slivers"]} if before is not None else {}
    for sliver in now["slivers"]:
        words = _sliver_words(sliver)
        if then.pop(sliver["name"], None) != words:
            found.append(("confine.sliver", words))
    for gone in then.values():
        found.append(("confine.sliver", {**gone, "state": None, "message": ""}))
    if now.get("upgrade") is not None and (before is None or before.get("upgrade") != now["upgrade"]):
        found.append(("confine.upgrade", now["upgrade"]))
    return found


def _node_words(doc: "dict[str, Any]") -> "dict[str, Any]":
    node = doc["node"]
    return {"id": node["id"], "state": node["state"], "message": node.get("message", ""),
            "registry": doc["registry"]["error"] or ""}  # fmt: skip


def _sliver_words(sliver: "dict[str, Any]") -> "dict[str, Any]":
    errors = sliver.get("errors") or []
    return {"id": sliver["id"], "name": sliver["name"], "state": sliver["state"],
            "message": errors[0]["message"] if errors else ""}  # fmt: skip
