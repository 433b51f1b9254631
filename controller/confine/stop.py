"""Stopping slivers at once, and releasing them: done by the command line itself, so that it works whether the daemon
is alive, busy, hung or dead, and with the disk full.

In this order: traffic (one nft transaction; freezing alone does not silence a sliver, its kernel goes on answering ARP
and ping), processes (one write to a cgroup), the decision kept, and only then evidence for `confine stop show`. The
program `confine` does the first two before Python has started, from the files that `prepare` keeps.
"""

import os
import threading

from confine import decisions, durable
from confine.control import ask
from confine.core.addressing import MAX_SLIVER_NR, MIN_SLIVER_NR, parse_hostname
from confine.core.decisions import ALL, Decisions, Mark, parse_sliver, spoken
from confine.core.text import HEX_DIGITS, only
from confine.decisions import DecisionBook
from confine.drivers import cgroups, firewall, ports
from confine.errors import ConfineError, StepError
from confine.journal import BOOKINGS
from confine.paths import DATA, Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from confine.core.model import Booking

FAST = "stop"  # below Paths.run: for each sliver what the program `confine` needs to stop it
TELL_S = 2.0
NOTE_S = 3.0
_preparing = threading.Lock()
VOLATILE = "the disk does not take it, so that it ends when the node restarts: make room there and repeat the command"


class Node:
    """What the command line can find out without the daemon. names: of all slivers that are or were here."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.book = DecisionBook(paths)
        self.numbers = _numbers(paths)
        below = [os.path.join(paths.cgroup, cgroups.SLIVERS), paths.slivers]
        found = {name for path in below for name in _entries(path)} | set(self.numbers)
        self.names = sorted(name for name in found if parse_hostname(name) is not None)

    def sliver(self, text: str) -> str:
        """The name of the sliver that `text` means (parse_sliver). ConfineError if it can mean none here."""
        ids = [ids[1] for ids in map(parse_hostname, self.names) if ids is not None]
        try:
            return parse_sliver(text, ids[0] if ids else self._configured_id())
        except ValueError as error:
            raise ConfineError(str(error))

    def group(self, scope: str) -> str:
        """The cgroup of a sliver, or of ALL."""
        top = os.path.join(self.paths.cgroup, cgroups.SLIVERS)
        return top if scope == ALL else os.path.join(top, scope)

    def patterns(self, scope: str) -> "list[str]":
        """What the interfaces of a sliver, or of ALL, are called. None for a sliver that never had a number here."""
        if scope == ALL:
            return [ports.pattern(None)]
        return [ports.pattern(self.numbers[scope])] if scope in self.numbers else []

    def _configured_id(self) -> "int | None":
        from confine.configuration import read_settings  # lazy: only on a node without any sliver

        return read_settings(self.paths)[0].node_id


def stop(node: Node, scope: str, mark: Mark, begun: bool, say: "Callable[[str], None]") -> int:
    """Stop the sliver `scope`, or ALL. begun: traffic and processes were seen to already. 0, or 1 if part of it could
    not be done, which is said."""
    faults = []
    if not begun:
        faults += _silence(node, scope)
    faults += _still(node, scope, mark.kill)
    try:
        said, durable = node.book.change(lambda decisions: decisions.stop(scope, mark))
        say(said + " " + mark.words())
        faults += [] if durable else ["the decision holds, but " + VOLATILE]
    except (ConfineError, OSError) as error:
        faults.append("the decision is not recorded, the daemon may start it again: {}".format(error))
    if begun:  # again, in case a release had just been under way
        faults += _silence(node, scope)
    tell(node.paths)
    from confine import evidence  # lazy: what matters is done

    faults += evidence.keep(node, scope, mark)
    note(node.paths, scope, mark, "stop --kill" if mark.kill else "stop")
    for fault in faults:
        say("warning: " + fault)
    return 1 if faults else 0


def release(node: Node, scope: str, say: "Callable[[str], None]") -> int:
    """End the stop of `scope`. What was decided otherwise (other stops, pauses) stays. ConfineError if it cannot, or
    there is nothing to release; what a release that was interrupted left is let go all the same."""
    try:
        said, durable = node.book.change(lambda decisions: decisions.release(scope))
    except ConfineError as error:
        if node.book.now().of(scope).stop is not None:
            raise
        restore(node, scope)
        tell(node.paths)
        raise ConfineError("{}; traffic and processes are as decided".format(error))
    say(said)
    if not durable:
        say("warning: the release holds, but " + VOLATILE)
    restore(node, scope)
    tell(node.paths)
    note(node.paths, scope, decisions.mark("", os.environ), said)
    return 0 if durable else 1


def restore(node: Node, scope: str) -> None:
    """Cut off and frozen is what the decisions say, and nothing else; `scope` was released. ConfineError if the kernel
    refuses."""
    now = node.book.now()
    firewall.only_cut(node.paths.share, patterns_of(now, node.numbers))
    if ALL not in now.stops:
        _write(node.group(ALL), cgroups.FREEZE, "0")
    for name in node.names:
        decision = now.of(name)
        if decision.stop is None and name in node.numbers and scope in (ALL, name):
            ports.let_speak(ports.of(node.numbers[name]))  # where nft could not cut it off, they were taken down
        if not decision.quiet:
            _write(node.group(name), cgroups.FREEZE, "0")


def note(paths: Paths, subject: str, mark: Mark, what: str) -> None:
    """Have the decision in the record of actions. It holds whether this works or not."""
    from confine.configuration import read_settings  # lazy: what matters is done
    from confine.records.actions import ActionLog

    log = ActionLog(paths, read_settings(paths)[0])
    log.add("decision", subject, mark.who, what, mark.why)
    log.close(NOTE_S)


def patterns_of(decisions: Decisions, numbers: "dict[str, int]") -> "list[str]":
    """The patterns of all interfaces that must be silent."""
    if ALL in decisions.stops:
        return [ports.pattern(None)]
    return [ports.pattern(numbers[name]) for name in sorted(decisions.stops) if name in numbers]


def left_cut(node: Node) -> "dict[str, str]":
    """{pattern of interfaces that are cut off though nobody decided so: what to release}."""
    now, numbers = node.book.now(), {ports.pattern(nr): name for name, nr in node.numbers.items()}
    wanted = patterns_of(now, node.numbers)
    left = [] if ALL in now.stops else [pattern for pattern in firewall.standing_cuts() if pattern not in wanted]
    return {pattern: spoken(numbers[pattern]) if pattern in numbers else "--all" for pattern in left}


def freeze(node: Node, name: str, frozen: bool) -> None:
    """Freeze or thaw one sliver now, without waiting for the daemon. Nothing to do if it does not run."""
    _write(node.group(name), cgroups.FREEZE, "1" if frozen else "0")


def tell(paths: Paths, verb: str = "look") -> bool:
    """Have the daemon look at the decisions now. False if it does not answer: it looks when it can."""
    try:
        ask(paths.control, verb, timeout=TELL_S)
    except ConfineError:
        return False
    return True


def _silence(node: Node, scope: str) -> "list[str]":
    """Cut the traffic off; by taking the interfaces down where nft cannot. What went wrong."""
    number = None if scope == ALL else node.numbers.get(scope)
    if scope != ALL and number is None:
        return []
    try:
        missing = [pattern for pattern in node.patterns(scope) if pattern not in firewall.standing_cuts()]
        if missing:
            firewall.cut(node.paths.share, missing)
    except StepError as error:
        left = ports.silence(ports.of(number))
        state = "still up: " + ", ".join(left) if left else "taken down instead"
        return ["the traffic could not be cut by nft, interfaces are {}: {}".format(state, error)]
    left = ports.silence(ports.unbridged(number))
    return ["interfaces are still up: " + ", ".join(left)] if left else []


def _still(node: Node, scope: str, kill: bool) -> "list[str]":
    """Freeze or end the processes. What went wrong."""
    try:
        _write(node.group(scope), cgroups.KILL if kill else cgroups.FREEZE, "1")
    except StepError as error:
        return [str(error)]
    return []


def _write(group: str, file: str, text: str) -> None:
    path = os.path.join(group, file)
    if os.path.exists(path):
        cgroups.write(path, text)


def _numbers(paths: Paths) -> "dict[str, int]":
    """{sliver name: number} as far as it is known: what the daemon keeps for this, else the journal."""
    found = {}
    directory = os.path.join(paths.run, FAST)
    for name in _entries(directory):
        words = (cgroups.read(os.path.join(directory, name)) or "").split()
        if parse_hostname(name) is not None and len(words) == 2 and words[1] == name and only(words[0], HEX_DIGITS):
            found[name] = int(words[0][:2], 16)
    return found or _booked(paths)


def _booked(paths: Paths) -> "dict[str, int]":
    """As the journal has it: for a node whose daemon has not run since the node started."""
    try:
        docs = durable.read_checked(os.path.join(paths.journal, BOOKINGS))
    except (OSError, ValueError):
        return {}
    found = {}
    for doc in docs if isinstance(docs, list) else []:
        name, number = (doc.get("name"), doc.get("nr")) if isinstance(doc, dict) else (None, None)
        if isinstance(name, str) and isinstance(number, int) and MIN_SLIVER_NR <= number <= MAX_SLIVER_NR:
            found[name] = number
    return found


def _entries(path: str) -> "list[str]":
    try:
        return os.listdir(path)
    except OSError:
        return []


def known_paths(run: str) -> Paths:
    """The node's paths as the last daemon used them; without one since the node started, as its settings say."""
    paths = Paths(run=run)
    try:
        paths.data = os.readlink(os.path.join(run, DATA))
    except OSError:
        from confine.configuration import read_settings  # lazy: takes time

        paths.data = read_settings(paths)[0].data_dir
    return paths


def prepare(paths: Paths, bookings: "Callable[[], dict[str, Booking]]") -> None:
    """Keep for each booked sliver a file "NUMBER NAME" under each of its names, where `confine stop` finds it at once.
    Writes nothing where nothing changed. OSError if it cannot.

    Slivers are booked side by side: one at a time looks what is booked and sees to the files, so that nobody takes away
    what was booked meanwhile.
    """
    with _preparing:
        _prepare(paths, bookings())


def _prepare(paths: Paths, bookings: "dict[str, Booking]") -> None:
    directory = os.path.join(paths.run, FAST)
    wanted = {}
    for name, booking in bookings.items():
        ids = parse_hostname(name)
        if ids is not None:
            text = "{:02x} {}\n".format(booking.nr, name)
            wanted.update({name: text, "{}@{}".format(*ids): text, str(ids[0]): text})
    os.makedirs(directory, mode=0o700, exist_ok=True)
    _link(os.path.join(paths.run, DATA), paths.data)
    for alias in set(_entries(directory)) - set(wanted):
        os.unlink(os.path.join(directory, alias))
    for alias, text in wanted.items():
        path = os.path.join(directory, alias)
        if (cgroups.read(path) or "") + "\n" == text:
            continue
        with open(path + "~", "w", encoding="ascii") as file:
            file.write(text)
        os.rename(path + "~", path)


def _link(path: str, target: str) -> None:
    try:
        if os.readlink(path) == target:
            return
        os.unlink(path)
    except FileNotFoundError:
        pass
    os.symlink(target, path)
