"""A node whose daemon is killed where a test says so, and the changes of a testbed in which every step occurs.

    for change in CHANGES: crashes.learn(change)                            # nothing is killed: what is usual
    crashes.bring_about(change, crashes.orders(kind, chance, 2, 1))         # killed before, within, during and after

A step changes what others see by system calls alone, so that a daemon killed right after one of them has left all that
it can leave, with two exceptions: calls that take long (to allocate a disk's blocks) end half way, and programs that
the step has started run on, or are killed with it (as by the kernel's OOM killer). For these the daemon is killed at
random times "during" the step as well, and the programs with it every other time.

**A step that is new** needs a change in which it occurs: add one to CHANGES. make() brings about what has the node take
the step, done() says when the node is as it should be again; docs/developer/testing.md has more.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confine import durable
from confine.core.steps import STEPS
from qemu import traces
from qemu.following import Following
from qemu.harness import NodeError, Snapshot, VirtualNode
from registry.testbed import ExampleRegistry

HERE = os.path.dirname(os.path.abspath(__file__))
HOME = "/root/crash"
CONVERGE_S = 300.0  # for hangs, not for slowness: a reboot on a busy machine is among it
SPARE_TIMES = 4  # a change may have to be made more often than there are orders
SETTLE_S = 90.0  # for hangs: the kernel and LXC finish what has been ended
OTHERS = ("1@1", "2@1", "4@1")
CONCERNED = "3@1"
FILES = "/srv/confine/slivers/000000000003_0001/"
FREEZE = "/sys/fs/cgroup/confine/000000000003_0001/cgroup.freeze"

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


@dataclass(frozen=True)
class Extent:
    """Of a kind of step: how many system calls that may change something, and how long it took."""

    calls: int
    ms: int

    def orders(self, kind: Kind, chance: random.Random, within: int, during: int) -> list[Order]:
        """To kill the daemon before and after a step of `kind`, after `within` of its calls, at `during` times."""
        calls = chance.sample(range(1, self.calls + 1), min(within, self.calls))
        times = sorted(chance.uniform(0, self.ms) for _ in range(during))
        points: list[Order] = [{"at": at} for at in ["before", *sorted(calls), "after"]]
        points += [{"at": f"{at:.1f} ms", "children": number % 2 == 0} for number, at in enumerate(times)]
        return [{"driver": kind[0], "verb": kind[1], **point} for point in points]


class CrashNode(Following):
    """A node that follows the example testbed, its daemon killed now and then. number: of changes so far."""

    def __init__(self, node: VirtualNode, registry: ExampleRegistry) -> None:
        super().__init__(node, registry)
        self.number = 0
        self.settle_s = SETTLE_S
        self.usual: dict[str, Counter[str]] = {}
        self.steps: dict[str, dict[Kind, Extent]] = {}

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

    def bring_about(self, change: Change, orders: list[Order] | None = None) -> None:
        """Make the change, and again until all `orders` are carried out, checking after each.

        A step that was complete when the daemon died is not done again: the orders left wait for the next time.
        """
        orders = orders or []
        self._put("orders", json.dumps(orders))
        for _ in range(len(orders) + SPARE_TIMES):
            for before in change.after:
                self._once(BY_NAME[before], "")
            self._once(change, "".join(f" {order['driver']} {order['verb']} {order['at']}," for order in orders))
            left = json.loads(self.node.read_file(HOME + "/orders"))
            if not left:
                return
        raise AssertionError(f"not reached in {len(orders) + SPARE_TIMES} times {change.name}: {left}")

    def go_back(self, change: Change) -> None:
        """Have every sliver started again after `change`."""
        if change.state != "started":
            self.bring_about(BY_NAME[WAY_BACK[change.state]])

    def learn(self, change: Change) -> None:
        """Make the change undisturbed: note which steps it takes, how many calls they make, and what there is then."""
        for before in change.after:
            self._once(BY_NAME[before], "")
        self._put("steps", "")
        self._once(change, "")
        kinds: dict[Kind, Extent] = {}
        for line in self.node.read_file(HOME + "/steps").decode().splitlines():
            driver, verb, _, calls, took = line.split()
            most = kinds.get((driver, verb), Extent(0, 0))
            kinds[(driver, verb)] = Extent(max(int(calls), most.calls), max(int(took), most.ms))
        self.steps[change.name] = kinds
        self.go_back(change)

    def _once(self, change: Change, killed: str) -> None:
        self.number += 1
        inits = self._inits()
        boot = self.node.boot_id()
        try:
            change.make(self)
            self.node.wait_for(change.name, lambda: self._is_done(change), CONVERGE_S)
            self._expect_traces(change.state)
            if self.node.boot_id() == boot:
                assert self._inits() == inits
        except (NodeError, AssertionError) as error:
            log = self.node.run(["tail", "-n", "60", "/run/confine/log"]).out
            done = self.node.run(["cat", HOME + "/done"]).out
            raise AssertionError(
                f"{change.name}, daemon killed:{killed}\n{error}\n-- killed so far\n{done}\n-- log\n{log}"
            )

    def _inits(self) -> dict[str, int]:
        """The other slivers' inits; they all run."""

        def found() -> dict[str, int] | None:
            pids = {one["id"]: one["init_pid"] for one in self.now()["slivers"] if one["id"] in OTHERS}
            return pids if len(pids) == len(OTHERS) and all(pids.values()) else None

        pids = self.node.wait_for("the other slivers run", found, CONVERGE_S)
        assert pids is not None
        return pids

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
        deadline = time.monotonic() + self.settle_s
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
        found: dict[str, Any] = durable.checked(json.loads(text))
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
    node.write("slivers/3", lambda doc: doc.update(properties={}))
    node.write("slices/3", lambda doc: doc.update(set_state="start"))


def _bound(properties: dict[str, str]) -> Callable[[CrashNode], None]:
    """The sliver asks for these properties: its bandwidth is among them or not."""
    return lambda node: node.write("slivers/3", lambda doc: doc.update(properties=properties))


def _is_bounded(there: bool) -> Callable[[CrashNode], bool]:
    """Whether the devices are there through which traffic goes that is bounded, and the sliver is at rest."""

    def seen(node: CrashNode) -> bool:
        found = node.node.sh("ls /sys/class/net; cat /sys/class/net/slv-03-00/ifalias").split()
        return ("shape-up" in found) is there and ("confine" in found) is there and _is_up(node)

    return seen


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
    _look(node)


def _node_is_whole(node: CrashNode) -> bool:
    found = node.node.sh("nft list tables; ip -4 addr show dev br-confine; ip -6 addr show dev br-confine")
    return "table inet confine" in found and ".126/25" in found and _is_up(node)


def _reboot(node: CrashNode) -> None:
    node.node.sh("cat /proc/sys/kernel/random/boot_id >" + HOME + "/boot")
    node.write("nodes/1", lambda doc: doc.update(boot_sn=node.number))


def _has_rebooted(node: CrashNode) -> bool:
    before = node.node.read_file(HOME + "/boot").decode().strip()
    return node.node.boot_id() != before and _is_up(node)


def _damage_documents(node: CrashNode) -> None:
    """A bad block below the documents of the sliver."""
    node.node.sh(f"for file in allocation deployment; do printf x | dd of={FILES}$file.json bs=1 seek=30 conv=notrunc; "
                 "done 2>/dev/null")  # fmt: skip
    _look(node)


def _documents_are_whole(node: CrashNode) -> bool:
    documents = [node.document(CONCERNED, name) for name in ("allocation", "deployment")]
    return all(documents) and documents[1]["keys_digest"] != "" and _is_up(node)


def _look(node: CrashNode) -> None:
    with contextlib.suppress(NodeError, ValueError, AssertionError):
        node.refresh()


SEEN = "/run/confine/overlay"
OVERLAY_ON, OVERLAY_OFF = "the overlay is made", "the overlay is switched off"


def _new_overlay(node: CrashNode) -> None:
    """All of the overlay is to be made."""
    node.node.sh("rm -rf /etc/tinc/confine; uci set confine.overlay=overlay; uci set confine.overlay.enabled=1; "
                 "uci set confine.testbed=testbed; uci set confine.testbed.mgmt_ipv6_prefix48=fd65:fc41:c50f::/48; "
                 "uci commit confine; /etc/init.d/confine reload || true")  # fmt: skip


def _no_overlay(node: CrashNode) -> None:
    """As the example node is by itself: outside of any management network."""
    node.node.sh("uci set confine.overlay=overlay; uci set confine.overlay.enabled=0; uci -q delete confine.testbed || "
                 "true; uci commit confine; /etc/init.d/confine reload || true")  # fmt: skip


def _peer_comes(node: CrashNode) -> None:
    node.node.write_file(f"/etc/tinc/confine/hosts/peer_{node.number}", "Address = 192.0.2.1\n")
    _look(node)


def _pending(node: CrashNode, reached: bool) -> None:
    """A change is to be confirmed; a peer is reached, or none is for the time that is given."""
    before = {"before": {"hosts/peer_0": None}, "wish": "", "state": "pending", "at": 0}
    node.node.write_file("/etc/tinc/confine/hosts/gate", "Address = 192.0.2.1\n")
    node.node.write_file("/etc/tinc/confine/tinc.conf", "Name = node_1\nConnectTo = gate\n")
    node.node.write_file("/etc/tinc/confine/change.json", json.dumps({**before, "number": node.number}))
    core = "/usr/lib/confine/confine/core/"
    node.node.sh(f"sed -i 's/^UNDO_S = .*/UNDO_S = 1.0/' {core}overlay_change.py; rm -f {core}__pycache__/overlay_ch*; "
                 f"mkdir -p {SEEN}; {'echo up >' if reached else 'rm -f '}{SEEN}/gate")  # fmt: skip
    if not reached:
        node.node.sh("/etc/init.d/confine restart </dev/null >/dev/null 2>&1", timeout=60)
    _look(node)


def _overlay_is(running: bool) -> Callable[[CrashNode], bool]:
    def seen(node: CrashNode) -> bool:
        overlay = node.now()["overlay"]
        if overlay["running"]:
            pending = node.node.run(["grep", "-q", "pending", "/etc/tinc/confine/change.json"]).status == 0
            return running and overlay["interface"] and not pending and _is_up(node)
        return not running and _is_up(node)

    return seen


def _peer_is_known(node: CrashNode) -> bool:
    """tincd was told: what it was loaded with is as the files are."""
    plan = node.verb("plan")
    told = node.node.run(["find", "/run/confine/tinc.loaded", "-newer",
                          f"/etc/tinc/confine/hosts/peer_{node.number}"]).out  # fmt: skip
    return bool(told) and not plan["node_steps"] and _overlay_is(True)(node)


def _freeze_by_hand(text: str) -> Callable[[CrashNode], None]:
    """Somebody freezes or thaws the sliver without a decision."""

    def freeze(node: CrashNode) -> None:
        node.node.sh(f"echo {text} >{FREEZE}")
        _look(node)

    return freeze


def _decide(verb: str) -> Callable[[CrashNode], None]:
    """A person's decision; the command keeps it also while there is no daemon to tell."""

    def decide(node: CrashNode) -> None:
        node.node.run(["confine", verb, CONCERNED])  # it may be so already

    return decide


def _is_frozen(frozen: bool) -> Callable[[CrashNode], bool]:
    def seen(node: CrashNode) -> bool:
        found = [one for one in node.now()["slivers"] if one["id"] == CONCERNED]
        told = bool(found) and bool(found[0]["frozen"]) is frozen and not found[0]["progress"]
        return told and node.node.read_file(FREEZE).strip() == str(int(frozen)).encode()

    return seen


def _lend(*names: str) -> Callable[[CrashNode], None]:
    """The registry lists these direct interfaces."""
    return lambda node: node.write("nodes/1", lambda doc: doc.update(direct_ifaces=list(names)))


def _is_lent(*names: str) -> Callable[[CrashNode], bool]:
    def seen(node: CrashNode) -> bool:
        network = node.now()["node"].get("network") or {}
        confirmed = node.node.run(["grep", "-q", '"applied"\\|"written"', NETWORK_RECORD]).status != 0
        return network.get("state") == "as asked" and network["direct"] == list(names) and confirmed and _is_up(node)

    return seen


def _cut_off(node: CrashNode) -> None:
    """From when the network is changed next, no TCP leaves the node by its uplink."""
    node.node.write_file("/tmp/cut.nft", CUT)
    node.node.sh(
        "uci set confine.network=network; uci set confine.network.confirm=10; uci commit confine;"
        f"rm -f {NETWORK_RECORD};"
        f"(while ! grep -q written {NETWORK_RECORD}; do sleep 0.05; done; nft -f /tmp/cut.nft) >/dev/null 2>&1 &"
        "/etc/init.d/confine reload"
    )
    node.write("nodes/1", lambda doc: doc.update(direct_ifaces=[f"eth0.{node.number + 100}"]))


def _is_undone(node: CrashNode) -> bool:
    """The change was undone; then the way is opened again and nothing is lent any more."""
    known = json.loads(node.node.run(["cat", NETWORK_RECORD]).out or "{}")
    if known.get("state") == "undone" and f"eth0.{node.number + 100}" in str(known["wanted"]):
        node.node.write_file(HOME + "/undone", str(node.number))  # to look again makes the node forget it
        node.node.sh("nft delete table inet cut 2>/dev/null || true")
        node.write("nodes/1", lambda doc: doc.update(direct_ifaces=[]))
    gone = node.node.run(["nft", "list", "table", "inet", "cut"]).status != 0
    undone = node.node.run(["cat", HOME + "/undone"]).out == str(node.number)
    return undone and gone and _is_lent()(node)


NETWORK_RECORD = "/etc/confine/network-change.json"
CUT = """table inet cut {
	chain out {
		type filter hook output priority 0
		oifname "eth0" meta l4proto tcp drop
	}
}
"""
REBOOT = "the node reboots"
# What brings the concerned sliver back up from a state that is not "started".
WAY_BACK = {
    "registered": "the sliver is brought up",
    "paused": "the sliver is resumed",
    "bounded": "the sliver is unbounded",
    "lent": "the VLAN is lent no more",
}
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
    Change(OVERLAY_ON, _new_overlay, _overlay_is(True), "overlay", (OVERLAY_OFF,)),
    Change(OVERLAY_OFF, _no_overlay, _overlay_is(False), after=(OVERLAY_ON,)),
    Change("a peer of the overlay comes", _peer_comes, _peer_is_known, "overlay", (OVERLAY_ON,)),
    Change(
        "the overlay's change holds", lambda node: _pending(node, True), _overlay_is(True), "overlay", (OVERLAY_ON,)
    ),
    Change(
        "the overlay's change cuts off", lambda node: _pending(node, False), _overlay_is(True), "overlay", (OVERLAY_ON,)
    ),
    Change("the sliver is paused", _decide("pause"), _is_frozen(True), "paused", ("the sliver is resumed",)),
    Change(
        "somebody thaws the paused sliver", _freeze_by_hand("0"), _is_frozen(True), "paused", ("the sliver is paused",)
    ),
    Change("the sliver is resumed", _decide("resume"), _is_frozen(False), after=("the sliver is paused",)),
    Change("somebody freezes the sliver", _freeze_by_hand("1"), _is_frozen(False)),
    Change(
        "the sliver's bandwidth is bounded",
        _bound({"egress_kbit": "4000"}),
        _is_bounded(True),
        "bounded",
        ("the sliver is unbounded",),
    ),
    Change("the sliver is unbounded", _bound({}), _is_bounded(False), after=("the sliver's bandwidth is bounded",)),
    Change(
        "the bounded sliver is removed",
        _remove,
        lambda node: node.is_settled(CONCERNED, "registered"),
        "registered",
        ("the sliver is brought up", "the sliver's bandwidth is bounded"),
    ),
    Change("documents of the sliver are damaged", _damage_documents, _documents_are_whole),
    Change("bridge and firewall are damaged", _damage_node, _node_is_whole),
    Change("a VLAN is lent", _lend("eth0.7"), _is_lent("eth0.7"), "lent", ("the VLAN is lent no more",)),
    Change("the VLAN is lent no more", _lend(), _is_lent(), after=("a VLAN is lent",)),
    Change("a change of the network cuts the node off", _cut_off, _is_undone),
    Change(REBOOT, _reboot, _has_rebooted),
)
BY_NAME = {change.name: change for change in CHANGES}
WAY_BACK["overlay"] = OVERLAY_OFF


class Lab:
    """Lends the crash node, learnt once; after a test that failed, a new one."""

    def __init__(self, settled: Snapshot, registry: ExampleRegistry, changes: Sequence[Change]) -> None:
        """changes: those that the node is to learn."""
        self._settled = settled
        self._registry = registry
        self._changes = changes
        self._stack = contextlib.ExitStack()
        self._node: CrashNode | None = None
        self._learnt: tuple[dict[str, dict[Kind, Extent]], dict[str, Counter[str]]] | None = None

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
            for change in self._changes:
                if change.name != REBOOT:  # takes long: only if a step is looked for that nothing else reaches
                    node.learn(change)
            self._learnt = (node.steps, node.usual)
        else:
            node.steps, node.usual = self._learnt
        return node

    def cheapest(self, node: CrashNode, kind: Kind) -> Change:
        """The change with the fewest steps among those in which a step of `kind` occurs; a reboot if nothing else."""
        found = self._reaching(node, kind)
        if not found and REBOOT not in node.steps:
            node.learn(BY_NAME[REBOOT])
            found = self._reaching(node, kind)
        assert found, (
            f"no change in test/qemu/crashing.py takes the step {kind[0]} {kind[1]} ({STEPS[kind][1]}): add one to "
            "CHANGES whose make() has the node take it, so that killing the daemon at this step is tested"
        )
        return min(found, key=lambda change: (change.name == REBOOT, len(node.steps[change.name])))

    def kinds(self, node: CrashNode, change: Change) -> list[Kind]:
        """The kinds of steps that `change` is the cheapest for."""
        reached = [kind for kind in STEPS if self._reaching(node, kind)]
        return [kind for kind in reached if self.cheapest(node, kind) is change]

    def _reaching(self, node: CrashNode, kind: Kind) -> list[Change]:
        return [change for change in CHANGES if kind in node.steps.get(change.name, {})]
