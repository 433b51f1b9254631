"""What people decided about slivers on this very node: stops, pauses, lowered states, resets. Pure.

The node's owner has the last word (design; GENI: emergency shutdown), so that a decision only ever takes away: nothing
here makes a sliver do more than the registry asks for. Kept as one document (decisions.py of the daemon writes it):

    {"stops": {"all" or sliver name: mark}, "slivers": {sliver name: {"pause": mark, "state": mark, "reset": mark}}}

A mark is {"who", "when", "why"}; that of a stop has "kill", that of a state "target", that of a reset "count".
"""

from confine.core.addressing import hostname, parse_hostname
from confine.core.model import DEPLOY, REGISTER, TARGETS
from confine.core.record import Record
from confine.core.text import is_decimal, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALL = "all"
MAX_TEXT = 200
MAX_SLIVERS = 256
OWNER = "the node's owner"  # who decided, where no mark says more
PAUSE, STATE, RESET = "pause", "state", "reset"
# What the override of a state may be: to start is what the registry decides.
LOWER_TARGETS = (REGISTER, DEPLOY)


class Mark(Record):
    """Who decided, when (UTC, "YYYY-MM-DDTHH:MM:SSZ", by the node's clock) and why; what else belongs to it.

    kill: a stop that ended the sliver's processes instead of freezing them. target: of a lowered state. count: of a
    reset, how many there were.
    """

    FIELDS = ("who", "when", "why", "kill", "target", "count")

    def __init__(
        self, who: str, when: str, why: str, kill: bool = False, target: "str | None" = None, count: int = 0
    ) -> None:
        self.who = who[:MAX_TEXT]
        self.when = when[:MAX_TEXT]
        self.why = why[:MAX_TEXT]
        self.kill = kill
        self.target = target
        self.count = count

    def words(self) -> str:
        """Who, when and why, as they follow after what was done."""
        reason = ": " + self.why if self.why else ""
        return "by " + self.who + " at " + self.when + reason


class Decision(Record):
    """All that was decided about one sliver. stop: of the sliver or of all; pause, state: Mark or None; reset: count
    of resets asked for so far, returned: the Mark of the last. scope: what `confine release` takes to end the stop."""

    FIELDS = ("stop", "scope", "pause", "state", "reset", "returned")

    def __init__(
        self,
        stop: "Mark | None" = None,
        scope: str = "",
        pause: "Mark | None" = None,
        state: "Mark | None" = None,
        reset: int = 0,
        returned: "Mark | None" = None,
    ) -> None:
        self.stop = stop
        self.scope = scope
        self.pause = pause
        self.state = state
        self.reset = reset
        self.returned = returned

    @property
    def quiet(self) -> bool:
        """Whether the sliver must not run: stopped or paused."""
        return self.stop is not None or self.pause is not None

    def sentences(self) -> "list[str]":
        """What a person has to know of it, a sentence each."""
        said = []
        if self.stop is not None:
            what = "Stopped " if self.scope != "--all" else "Stopped with all slivers "
            said.append(what + self.stop.words() + ". Only `confine release " + self.scope + "` ends this.")
        if self.pause is not None:
            said.append("Paused " + self.pause.words() + ". `confine resume` lets it go on.")
        if self.state is not None:
            target = str(self.state.target)
            said.append("Held at " + target + " " + self.state.words() + ". `confine set-state --clear` ends this.")
        return said


class Decisions:
    """All decisions of a node. stops: {ALL or sliver name: Mark}; slivers: {name: {PAUSE, STATE, RESET: Mark}}."""

    def __init__(self, stops: "dict[str, Mark] | None" = None,
                 slivers: "dict[str, dict[str, Mark]] | None" = None) -> None:  # fmt: skip
        self.stops = stops if stops is not None else {}
        self.slivers = slivers if slivers is not None else {}

    def of(self, name: str) -> Decision:
        """What was decided about the sliver `name`."""
        own = self.slivers.get(name, {})
        scope = ALL if ALL in self.stops else name
        reset = own.get(RESET)
        return Decision(
            self.stops.get(scope),
            "--all" if scope == ALL else spoken(name),
            own.get(PAUSE),
            own.get(STATE),
            reset.count if reset is not None else 0,
            reset,
        )

    # Changes. Each gives what is to be said of it; ValueError if it cannot be done.

    def stop(self, scope: str, mark: Mark) -> str:
        """Stop the sliver `scope`, or ALL. The first stop of the same keeps its mark."""
        before = self.stops.get(scope)
        if before is None:
            self.stops[scope] = mark
        elif mark.kill:
            before.kill = True
        return "stopped: " + self.words_of(scope)

    def release(self, scope: str) -> str:
        """End a stop: the sliver goes on as it is asked for."""
        if scope not in self.stops:
            if ALL in self.stops:
                raise ValueError("it is stopped with all slivers: only `confine release --all` ends this")
            raise ValueError(self.words_of(scope) + " is not stopped: there is nothing to release")
        del self.stops[scope]
        left = [self.words_of(other) for other in sorted(self.stops)]
        more = "; still stopped on their own: " + ", ".join(left) if left else ""
        return "released: " + self.words_of(scope) + more

    def pause(self, name: str, mark: Mark) -> str:
        """Freeze the sliver until it is resumed."""
        self._note(name, PAUSE, mark)
        return "paused: " + spoken(name)

    def resume(self, name: str) -> str:
        """Let a paused sliver go on."""
        if PAUSE not in self.slivers.get(name, {}):
            raise ValueError("sliver " + spoken(name) + " is not paused")
        self._drop(name, PAUSE)
        still = " (but it stays stopped)" if self.of(name).stop is not None else ""
        return "resumed: " + spoken(name) + still

    def set_state(self, name: str, target: str, mark: Mark) -> str:
        """Hold the sliver at `target` or lower, whatever the registry asks for."""
        if target not in LOWER_TARGETS:
            raise ValueError(
                "the state can only be lowered, to " + " or ".join(LOWER_TARGETS) + ", not " + shown(target)
            )
        mark.target = target
        self._note(name, STATE, mark)
        return "held at " + target + ": " + spoken(name)

    def clear_state(self, name: str) -> str:
        """The registry's word counts again."""
        if STATE not in self.slivers.get(name, {}):
            raise ValueError("the state of sliver " + spoken(name) + " is not held back here")
        self._drop(name, STATE)
        return "as the registry asks again: " + spoken(name)

    def reset(self, name: str, mark: Mark) -> str:
        """Have the sliver made anew from its template, once. The count is what tells it from the resets before."""
        before = self.slivers.get(name, {}).get(RESET)
        mark.count = 1 + (before.count if before is not None else 0)
        self._note(name, RESET, mark)
        return "will be returned to its template: " + spoken(name)

    def words_of(self, scope: str) -> str:
        """A scope for a person."""
        return "all slivers" if scope == ALL else spoken(scope)

    def _note(self, name: str, what: str, mark: Mark) -> None:
        if name not in self.slivers and len(self.slivers) >= MAX_SLIVERS:
            raise ValueError("there are decisions about " + str(MAX_SLIVERS) + " slivers already: clear some first")
        self.slivers.setdefault(name, {})[what] = mark

    def _drop(self, name: str, what: str) -> None:
        del self.slivers[name][what]
        if not self.slivers[name]:
            del self.slivers[name]

    def as_doc(self) -> "dict[str, Any]":
        """The document of it."""
        own = {}
        for name, marks in self.slivers.items():
            own[name] = {what: mark.as_doc() for what, mark in marks.items()}
        return {"stops": {scope: mark.as_doc() for scope, mark in self.stops.items()}, "slivers": own}


def parse(doc: "Any") -> Decisions:
    """The decisions that `doc` holds. What is no decision in it is left out; a stop without its words still stops."""
    found = Decisions()
    if not isinstance(doc, dict):
        return found
    for scope, mark in _items(doc.get("stops")):
        if scope == ALL or parse_hostname(scope) is not None:
            found.stops[scope] = _mark(mark)
    for name, marks in _items(doc.get("slivers")):
        if parse_hostname(name) is None:
            continue
        own = {what: _mark(mark) for what, mark in _items(marks) if what in (PAUSE, STATE, RESET)}
        if STATE in own and own[STATE].target not in TARGETS:
            own[STATE].target = DEPLOY  # somebody held it back: at least it does not run
        if own:
            found.slivers[name] = own
    return found


def _items(doc: "Any") -> "list[tuple[str, Any]]":
    return sorted(doc.items()) if isinstance(doc, dict) else []


def _mark(doc: "Any") -> Mark:
    doc = doc if isinstance(doc, dict) else {}
    texts = [doc.get(member) for member in ("who", "when", "why")]
    who, when, why = [text if isinstance(text, str) else "(not known)" for text in texts]
    target, count = doc.get("target"), doc.get("count")
    return Mark(
        who,
        when,
        why,
        doc.get("kill") is True,
        target if isinstance(target, str) else None,
        count if isinstance(count, int) else 0,
    )


def parse_sliver(text: str, node_id: "int | None") -> str:
    """The host name of the sliver that a person means on this node: "5@1", the host name itself, "5" or "slice:5" for
    the sliver of slice 5. ValueError if there can be none of that name here."""
    plain = text[6:] if text.startswith("slice:") else text
    slice_text, _, node_text = plain.partition("@")
    ids = parse_hostname(plain)
    if ids is None and is_decimal(slice_text) and len(slice_text) <= 15 and int(slice_text) > 0:
        if node_text and is_decimal(node_text) and len(node_text) <= 5:
            ids = (int(slice_text), int(node_text))
        elif "@" not in plain:
            if node_id is None:
                raise ValueError("the node has no id yet: say SLICE@NODE instead of " + shown(text))
            ids = (int(slice_text), node_id)
    if ids is None:
        raise ValueError(
            shown(text) + " is no sliver: must be SLICE@NODE (5@1), its host name, or the number of its slice (5)"
        )
    if node_id is not None and ids[1] != node_id:
        raise ValueError("sliver " + shown(text) + " belongs on node " + str(ids[1]) + ", this is node " + str(node_id))
    return hostname(*ids)


def spoken(name: str) -> str:
    """A sliver's name as people say it, "5@1"; what is none as it is."""
    ids = parse_hostname(name)
    return name if ids is None else str(ids[0]) + "@" + str(ids[1])
