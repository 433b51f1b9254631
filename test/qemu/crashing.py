"""A node whose daemon is killed where a test says so, and the changes of a testbed in which every step occurs.

    for change in CHANGES: crashes.bring_about(change)                            # nothing is killed: what is usual
    crashes.bring_about(change, crashes.orders(("storage", "format"), [1, 7]))    # killed before, within (twice), after

After each change the node has to be as asked, and nothing may be there that is not there on a node which came to the
same state undisturbed. The init script's supervisor brings the daemon back; only its pause between two is taken out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from qemu import traces
from qemu.following import Following
from qemu.harness import NodeError, Snapshot, VirtualNode
from registry.testbed import ExampleRegistry

HERE = os.path.dirname(os.path.abspath(__file__))
HOME = "/root/crash"
CONVERGE_S = 300.0  # for hangs, not for slowness: a reboot on a busy machine is among it
SETTLE_S = 15.0  # for the kernel and LXC to finish what has been ended
OTHERS = ("1@1", "2@1")
CONCERNED = "3@1"

Kind = tuple[str, str]
Order = dict[str, Any]


def new_seed() -> int:
    """The seed of this run: SEED in the environment repeats an earlier one. Printed, so that one can."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}", flush=True)
    return seed


def restore_documents(registry: ExampleRegistry) -> None:
    """Have the example testbed as it is in the source tree."""
    original = os.path.join(os.path.dirname(registry.documents), "original")
    shutil.rmtree(registry.documents)
    shutil.copytree(original, registry.documents)


class CrashNode(Following):
    """A node that follows the example testbed, its daemon killed now and then. number: of changes so far."""

    def __init__(self, node: VirtualNode, registry: ExampleRegistry) -> None:
        super().__init__(node, registry)
        self.number = 0
        self.usual: dict[str, Counter[str]] = {}
        self.steps: dict[str, dict[Kind, int]] = {}

    def prepare(self) -> None:
        """Have the daemon carry the killer, and come back without a pause."""
        with open(os.path.join(HERE, "crash_drive.py")) as file:
            self.node.write_file("/usr/lib/confine/sitecustomize.py", file.read())
        self.node.must(["sed", "-i", "s/respawn 3600 5/respawn 3600 0/", "/etc/init.d/confine"])
        assert "respawn 3600 0" in self.node.read_file("/etc/init.d/confine").decode()
        self.node.sh("mkdir -p " + HOME + "; /etc/init.d/confine restart", timeout=60)
        self.node.wait_for("the daemon is back", lambda: self.now()["round"] > 0, CONVERGE_S)
        # All run: what is deployed without running is not mounted again after a reboot.
        self.set("slices/4", set_state="start")
        self.wait_state("4@1", "started", CONVERGE_S)
        self.wait_as_asked(CONVERGE_S)
        self.usual["started"] = traces.gather(self.node)

    def now(self) -> dict[str, Any]:
        """The daemon's status; NodeError while there is no daemon, however it is gone."""
        try:
            return self.status()
        except (ValueError, AssertionError) as error:
            raise NodeError(f"the daemon gives no status: {error}")

    def write(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the document `name` and tell nobody."""
        with contextlib.suppress(NodeError, ValueError, AssertionError):
            self.edit(name, change)

    def orders(self, kind: Kind, within: Iterable[int]) -> list[Order]:
        """To kill the daemon before, after each of the calls `within`, and after a step of `kind`."""
        points = ["before", *sorted(within), "after"]
        return [{"driver": kind[0], "verb": kind[1], "at": point} for point in points]

    def bring_about(self, change: Change, orders: list[Order] | None = None, limit: int = 8) -> None:
        """Make the change, and again until all `orders` are carried out (at most `limit` times), checking after each.

        A step that was complete when the daemon died is not done again: the orders left wait for the next time.
        """
        self._put("orders", json.dumps(orders or []))
        for _ in range(limit):
            for before in change.after:
                self._once(BY_NAME[before], "")
            self._once(change, "".join(f" {order['driver']} {order['verb']} {order['at']}," for order in orders or []))
            left = json.loads(self.node.read_file(HOME + "/orders"))
            if not left:
                return
        raise AssertionError(f"not reached in {limit} times {change.name}: {left}")

    def learn(self, change: Change) -> None:
        """Make the change undisturbed: note which steps it takes, how many calls they make, and what there is then."""
        self._put("steps", "")
        self._once(change, "")
        kinds: dict[Kind, int] = {}
        for line in self.node.read_file(HOME + "/steps").decode().splitlines():
            driver, verb, _, calls = line.split()
            kinds[(driver, verb)] = max(int(calls), kinds.get((driver, verb), 0))
        self.steps[change.name] = kinds

    def _once(self, change: Change, killed: str) -> None:
        self.number += 1
        inits = {key: (self.sliver(key) or {})["init_pid"] for key in OTHERS}
        boot = self.node.boot_id()
        try:
            change.make(self)
            self.node.wait_for(change.name, lambda: self._is_done(change), CONVERGE_S)
            self._expect_traces(change.state)
            if self.node.boot_id() == boot:
                assert {key: (self.sliver(key) or {})["init_pid"] for key in OTHERS} == inits
        except (NodeError, AssertionError) as error:
            log = self.node.run(["tail", "-n", "60", "/run/confine/log"]).out
            done = self.node.run(["cat", HOME + "/done"]).out
            raise AssertionError(
                f"{change.name}, daemon killed:{killed}\n{error}\n-- killed so far\n{done}\n-- log\n{log}"
            )

    def _is_done(self, change: Change) -> bool:
        """Whether the change has come about. A daemon that dies while it answers says nothing usable."""
        try:
            return change.done(self)
        except (AssertionError, KeyError, ValueError):
            return False

    def _expect_traces(self, state: str) -> None:
        """Wait until nothing is there but what is usual in `state`."""
        if state not in self.usual:
            time.sleep(1)
            self.usual[state] = traces.gather(self.node)
        deadline = time.monotonic() + SETTLE_S
        while True:
            wrong = traces.difference(self.usual[state], traces.gather(self.node))
            if not wrong:
                return
            assert time.monotonic() < deadline, f"not as on an undisturbed node, {state}:\n" + "\n".join(wrong)
            time.sleep(0.5)

    def _put(self, name: str, text: str) -> None:
        self.node.write_file(f"{HOME}/{name}", text)

    def document(self, key: str, name: str) -> dict[str, Any]:
        """A sliver's allocation.json or deployment.json in the node."""
        sliver = self.sliver(key)
        assert sliver is not None
        text = self.node.read_file(f"/srv/confine/slivers/{sliver['name']}/{name}.json")
        found: dict[str, Any] = json.loads(text)["content"]
        return found

    def is_settled(self, key: str, state: str) -> bool:
        """Whether the sliver is in `state` and nothing is under way."""
        sliver = [one for one in self.now()["slivers"] if one["id"] == key]
        return bool(sliver) and sliver[0]["state"] == state and not sliver[0]["progress"]


@dataclass(frozen=True)
class Change:
    """Something that a testbed or its node goes through.

    make, done: set it off, and whether it has come about. state: as which undisturbed node the node is then.
    after: changes that come first.
    """

    name: str
    make: Callable[[CrashNode], None]
    done: Callable[[CrashNode], bool]
    state: str = "started"
    after: tuple[str, ...] = ()


def _remove(node: CrashNode) -> None:
    node.write("slices/3", lambda doc: doc.update(set_state="register"))


def _bring_up(node: CrashNode) -> None:
    """As new: its template and data have to be fetched again."""
    node.node.sh("cd /srv/confine/cache; for file in objects/* trees/*; do case $(grep -l ${file#*/} "
                 "/srv/confine/slivers/*/allocation.json | wc -l) in 0) rm -rf $file;; esac; done")  # fmt: skip
    node.write("slices/3", lambda doc: doc.update(set_state="start"))


def _is_up(node: CrashNode) -> bool:
    return node.is_settled(CONCERNED, "started") and all(node.is_settled(key, "started") for key in OTHERS)


def _renew_slice(node: CrashNode) -> None:
    node.write("slices/3", lambda doc: doc.update(instance_sn=node.number))


def _renew_sliver(node: CrashNode) -> None:
    node.write("slivers/3", lambda doc: doc.update(instance_sn=node.number))


def _serial(name: str, member: str) -> Callable[[CrashNode], bool]:
    return lambda node: node.document(CONCERNED, name)[member] == node.number and _is_up(node)


def _key(number: int) -> str:
    return f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEosDgOklv3QE/d9QwhfambnWhJMnYw7ng4cdX41ar90 number-{number}"


def _add_key(node: CrashNode) -> None:
    node.write("users/2", lambda doc: doc.update(auth_tokens=[_key(node.number)]))


def _key_is_in(node: CrashNode) -> bool:
    keys = node.node.sh("cat /run/confine/mounts/slivers/*/root/root/.ssh/authorized_keys "
                        "/run/confine/mounts/slivers/*/root/etc/dropbear/authorized_keys")  # fmt: skip
    return f"number-{node.number}\n" in keys and f"number-{node.number - 1}\n" not in keys and _is_up(node)


def _damage_node(node: CrashNode) -> None:
    """Somebody takes away what the node itself needs."""
    node.node.sh("nft delete table inet confine; ip addr flush dev br-confine scope global")
    with contextlib.suppress(NodeError, ValueError, AssertionError):
        node.refresh()


def _node_is_whole(node: CrashNode) -> bool:
    found = node.node.sh("nft list tables; ip -4 addr show dev br-confine; ip -6 addr show dev br-confine")
    return "table inet confine" in found and ".126/25" in found and _is_up(node)


def _reboot(node: CrashNode) -> None:
    node.node.sh("cat /proc/sys/kernel/random/boot_id >" + HOME + "/boot")
    node.write("nodes/1", lambda doc: doc.update(boot_sn=node.number))


def _has_rebooted(node: CrashNode) -> bool:
    before = node.node.read_file(HOME + "/boot").decode().strip()
    return node.node.boot_id() != before and _is_up(node)


def _decide(verb: str) -> Callable[[CrashNode], None]:
    """A person's decision; the command keeps it also while there is no daemon to tell."""

    def decide(node: CrashNode) -> None:
        node.node.must(["confine", verb, CONCERNED])

    return decide


def _is_frozen(frozen: bool) -> Callable[[CrashNode], bool]:
    def seen(node: CrashNode) -> bool:
        found = [one for one in node.now()["slivers"] if one["id"] == CONCERNED]
        return bool(found) and bool(found[0]["frozen"]) is frozen and not found[0]["progress"]

    return seen


REBOOT = "the node reboots"
# What brings the concerned sliver back up from a state that is not "started".
WAY_BACK = {"registered": "the sliver is brought up", "paused": "the sliver is resumed"}
CHANGES = (
    Change(
        "the sliver is removed",
        _remove,
        lambda node: node.is_settled(CONCERNED, "registered"),
        "registered",
        ("the sliver is brought up",),
    ),
    Change("the sliver is brought up", _bring_up, _is_up, after=("the sliver is removed",)),
    Change("the slice is reset", _renew_slice, _serial("deployment", "slice_instance_sn")),
    Change("the sliver is renewed", _renew_sliver, _serial("allocation", "sliver_instance_sn")),
    Change("keys change", _add_key, _key_is_in),
    Change("the sliver is paused", _decide("pause"), _is_frozen(True), "paused", ("the sliver is resumed",)),
    Change("the sliver is resumed", _decide("resume"), _is_frozen(False), after=("the sliver is paused",)),
    Change("bridge and firewall are damaged", _damage_node, _node_is_whole),
    Change(REBOOT, _reboot, _has_rebooted),
)
BY_NAME = {change.name: change for change in CHANGES}


class Lab:
    """Lends the crash node, learnt once; after a test that failed, a new one."""

    def __init__(self, settled: Snapshot, registry: ExampleRegistry) -> None:
        self._settled = settled
        self._registry = registry
        self._stack = contextlib.ExitStack()
        self._node: CrashNode | None = None
        self._learnt: tuple[dict[str, dict[Kind, int]], dict[str, Counter[str]]] | None = None

    @contextlib.contextmanager
    def lend(self) -> Iterator[CrashNode]:
        """The node with every sliver started."""
        node, self._node = self._node or self._make(), None
        yield node
        self._node = node  # not after a failure

    def close(self) -> None:
        self._stack.close()

    def _make(self) -> CrashNode:
        self.close()
        restore_documents(self._registry)
        node = CrashNode(self._stack.enter_context(VirtualNode.from_snapshot(self._settled)), self._registry)
        node.prepare()
        if self._learnt is None:
            for change in CHANGES:
                if change.name != REBOOT:  # takes long: only if a step is looked for that nothing else reaches
                    node.learn(change)
            self._learnt = (node.steps, node.usual)
        else:
            node.steps, node.usual = self._learnt
        return node

    def cheapest(self, node: CrashNode, kind: Kind) -> Change:
        """The change with the fewest steps among those in which a step of `kind` occurs."""
        if not any(kind in kinds for kinds in node.steps.values()) and REBOOT not in node.steps:
            node.learn(BY_NAME[REBOOT])
        reaching = [change for change in CHANGES if kind in node.steps.get(change.name, {})]
        assert reaching, f"no change in crashing.CHANGES takes the step {kind[0]} {kind[1]}: add one that does"
        return min(reaching, key=lambda change: len(node.steps[change.name]))
