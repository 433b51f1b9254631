"""Whatever registry documents hold: the node goes on, keeps what runs, and says which member is wrong.

Through the real walk, checks, desired, plan and report, on top of a node where all slivers asked for run.
"""

import copy
import json
import random
from typing import Any

import pytest
from core_world import World

from confine.core import desired as desired_rules
from confine.core import report
from confine.core.documents import SCHEMAS
from confine.core.model import START, Desired
from confine.core.plan import Plan, plan
from confine.core.schema import check, printable
from confine.errors import RegistryError
from confine.registry import store
from confine.registry.state import differs, restored
from torture import corpus, mutate, seeds
from torture.corpus import TODAY, Seed

SHARE, ALL = 1000, 50_000  # of each of the two kinds of examples
# What takes something from a sliver.
DOWN = {"stop", "unmount", "undeploy", "remove", "release"}
# Of a sliver's documents, what may take it down: states, sequence numbers, the last day.
OF_SLIVER = ("set_state", "instance_sn")
OF_SLICE = ("set_state", "instance_sn", "expires_on")


class Node:
    """A node that did all that a healthy registry asked of it."""

    def __init__(self, seed: Seed) -> None:
        self.seed = seed
        self.world = World(
            memory=4000, disk=9000, node_id=seed.settings.node_id, registry_uris=seed.settings.registry_uris
        )
        self.world.settings.mgmt_ipv6_prefix48 = None
        # What the recorded slivers ask for.
        self.world.settings.public4_proto, self.world.settings.public6_prefix = "dhcp", "2001:db8:0:1"
        self.good = desired_rules.build({**seed.state, "date": TODAY}, self.world.settings)
        self.plan = self.world.settle(self.good)
        self.running = [sliver for sliver in self.good.slivers if sliver.target == START]
        assert self.running and all(self.world.observed.slivers[sliver.name].running for sliver in self.running)
        self.before = copy.deepcopy((self.world.observed, self.world.bookings))

    def round(self, state: dict[str, Any]) -> tuple[Desired, Plan]:
        """Desired and plan after the registry state `state`; the report is made, too."""
        asked = desired_rules.build({**state, "date": TODAY}, self.world.settings)
        world = self.world
        made = plan(asked, world.observed, world.bookings, {}, world.settings, world.now, world.boot_sn_done, [])
        docs = [report.node(asked, made, world.observed, world.bookings, world.settings)]
        for name in made.states:
            docs.append(report.sliver(name, asked, made, world.observed, world.bookings, world.settings))
        as_kept(docs)
        assert_told_well(docs)
        return asked, made

    def untouched(self) -> None:
        """Planning changes nothing by itself."""
        assert (self.world.observed, self.world.bookings) == self.before


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> "list[Node]":
    seeds_ = [corpus.example(str(tmp_path_factory.mktemp("files"))), corpus.recorded()]
    return [Node(seed) for seed in seeds_ if seed is not None]


def as_kept(value: Any) -> None:
    """Can be written to disk and sent, as durable.py and the sockets do."""
    json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def assert_told_well(docs: "list[dict[str, Any]]") -> None:
    """Errors are text that a terminal shows and nothing else."""
    for doc in docs:
        for error in doc["errors"]:
            assert printable(error["message"]) and printable(error["member"]), error
            assert error["message"]


def listed(state: "dict[str, Any]", sliver: Any) -> Any:
    """What the node's document says of the node as a whole, and of `sliver`."""
    node = state["node"]
    refs = [ref for ref in node["slivers"] if ref["uri"] == sliver.uri or ref["id"] == sliver.key]
    return node["set_state"], node["id"], bool(refs)


def asked_of(state: "dict[str, Any]", sliver: Any) -> Any:
    """States, sequence numbers and last day; None where the documents contradict the list or each other."""
    docs = state["docs"]
    own = docs.get(sliver.uri)
    if own is None or own["id"] != sliver.key or own["node"]["id"] not in (None, sliver.node_id):
        return None
    slice_ = docs.get(own["slice"]["uri"])
    if own["slice"]["uri"] in state["gone"]:
        unread = any(problem["member"] == "" for problem in state["problems"].get(sliver.uri, []))
        return None if unread else "slice gone"
    if slice_ is None or slice_["id"] != sliver.slice_id or "sliver_defaults" not in slice_:
        return None
    return (
        [own[name] for name in OF_SLIVER], [slice_[name] for name in OF_SLICE], slice_["sliver_defaults"]["set_state"],
    )  # fmt: skip


def may_go_down(good: "dict[str, Any]", state: "dict[str, Any]", sliver: Any) -> bool:
    """Whether anything in `state` asks for less of `sliver` than `good` did. A contradiction does not."""
    if listed(state, sliver) != listed(good, sliver):
        return True
    asked = asked_of(state, sliver)
    return asked is not None and asked != asked_of(good, sliver)


def closure(node: Node, sliver: Any) -> "set[str]":
    """The documents that have to do with `sliver`."""
    docs = node.seed.state["docs"]
    own = docs[sliver.uri]
    slice_ = docs[own["slice"]["uri"]]
    groups = [slice_["group"]["uri"], node.seed.state["node"]["group"]["uri"]]
    users = [role["user"]["uri"] for group in groups for role in docs[group]["user_roles"]]
    templates = [ref["uri"] for ref in (own["template"], slice_["sliver_defaults"]["template"]) if ref is not None]
    shared = [node.seed.registry.base, node.seed.state["node"]["uri"]]
    return {sliver.uri, slice_["uri"], *groups, *users, *templates, *shared}


def taken_down(made: Plan, sliver: Any) -> "list[str]":
    return [step.verb for step in made.sliver_steps.get(sliver.name, []) if step.verb in DOWN]


def hold_together(node: Node, state: "dict[str, Any]", touched: "set[str]") -> "tuple[Desired, Plan]":
    """What must be so after any round; `touched`: the documents that are not as they were."""
    as_kept(state)
    assert restored(json.loads(json.dumps(state))) == state
    store.checksum(state)
    differs(state, node.seed.state)
    asked, made = node.round(state)
    for sliver in node.running:
        if not may_go_down(node.seed.state, state, sliver):
            assert not taken_down(made, sliver), (sliver.name, made.sliver_steps[sliver.name])
        if not closure(node, sliver) & touched:
            assert sliver.name not in made.sliver_steps
            assert made.states[sliver.name] == node.plan.states[sliver.name]
    for problems in state["problems"].values():
        for problem in problems:
            assert problem["message"] and printable(problem["message"]) and printable(problem["member"]), problem
    return asked, made


def read(node: Node, news: "dict[str, Any]") -> "dict[str, Any] | None":
    """The state after a round in which the registry serves `news`; None if it could not be read at all."""
    node.seed.registry.news = news
    try:
        return node.seed.round(node.seed.state)
    except RegistryError as error:
        assert node.seed.registry.base in news, error
        return None


def declared(seed: Seed, uri: str, path: "tuple[Any, ...]", garbage: Any) -> bool:
    """Whether garbage at `path` is where the node looks, and is not to be had there: a description may say anything."""
    kind = kind_of(seed, uri)
    value = seed.registry.documents[uri]
    if isinstance(value, list):
        return False
    clean = check(SCHEMAS[kind], garbage)[0]
    return check(SCHEMAS[kind], value)[0] != clean and not same_at(clean, garbage, path)


def at(value: Any, path: "tuple[Any, ...]") -> Any:
    """What `value` holds at `path`."""
    for step in path:
        value = value[step]
    return value


def same_at(clean: Any, other: Any, path: "tuple[Any, ...]") -> bool:
    """Whether the clean document holds what `other` does at `path`."""
    try:
        return bool(at(clean, path) == at(other, path))
    except (TypeError, KeyError, IndexError):
        return False


def kind_of(seed: Seed, uri: str) -> str:
    inner = uri[len(seed.registry.base) :]
    return inner.partition("/")[0][:-1] or "base"


def garbage_somewhere(node: Node, dice: random.Random) -> None:
    """Values that are good nowhere, or members that are missing, in one document: what runs stays, and it is said."""
    seed = node.seed
    uri = dice.choice(seed.uris)
    document = seed.registry.documents[uri]
    if dice.randrange(6) == 0:
        path = dice.choice(mutate.places(document))
        if isinstance(path[-1], int):
            return  # one entry less in a list is a change that can be asked for
        bad, left_out = mutate.without(document, path), True
    else:
        bad, path = mutate.garbled(document, dice)
        left_out = isinstance(at(bad, path), dict)  # an object with members nobody knows, and without those known
    state = read(node, {uri: bad})
    if state is None:
        return
    asked, made = hold_together(node, state, {uri})
    for sliver in node.running:
        assert sliver.name in [target.name for target in asked.slivers]
        assert not taken_down(made, sliver), (path, made.sliver_steps[sliver.name])
    assert not [step for step in made.node_steps if step.verb == "reboot"]
    node.untouched()
    if not left_out and declared(seed, uri, path, bad):
        problems = state["problems"].get(uri, [])
        assert problems, (uri, path)
        first = str(path[0]).replace("~", "~0").replace("/", "~1")
        named = any(("/" + first) in problem["member"] + problem["message"] for problem in problems)
        assert named or "nested deeper" in problems[0]["message"] or "more than" in problems[0]["message"], problems
    seed.registry.news = {}
    if dice.randrange(8) == 0:
        mended = seed.round({**state, "revisions": {}})
        assert mended["docs"] == seed.state["docs"] and mended["problems"] == {}
        assert node.round(mended)[1].sliver_steps == {}


def anything_anywhere(node: Node, dice: random.Random) -> None:
    """Documents changed at random, as values or as bytes: only a change that may take a sliver down does."""
    seed = node.seed
    news: dict[str, Any] = {}
    for uri in dice.sample(seed.uris, dice.choice([1, 1, 2, 4])):
        document = seed.registry.documents[uri]
        if dice.randrange(12) == 0:
            news[uri] = corpus.GONE
        elif dice.randrange(4) == 0:
            news[uri] = mutate.damaged(mutate.encoded(document), dice)
        else:
            news[uri] = mutate.changed(document, dice, seed.values)
    state = read(node, news)
    if state is not None:
        hold_together(node, state, set(news))
        node.untouched()
        if list(news.values()) == [corpus.GONE] and kind_of(seed, next(iter(news))) != "slice":
            for member in ("base", "node", "docs"):
                assert state[member] == seed.state[member]


def mixed_up(node: Node, dice: random.Random) -> None:
    """The node's list of slivers with ids and URIs of one another: what is mentioned in any way stays."""
    seed = node.seed
    uri = seed.state["node"]["uri"]
    document = copy.deepcopy(seed.registry.documents[uri])
    refs = document["slivers"]
    for _ in range(dice.randint(1, 3)):
        one, other, member = dice.choice(refs), dice.choice(refs), dice.choice(["id", "uri"])
        if dice.randrange(2):
            one[member] = other[member]
        elif dice.randrange(4):
            one[member], other[member] = other[member], one[member]
        else:
            one["id"] = f"{dice.randint(1, 5)}@{dice.randint(1, 3)}"
    state = read(node, {uri: document})
    assert state is not None
    hold_together(node, state, {uri})
    node.untouched()


def denied(node: Node, dice: random.Random) -> None:
    """Slivers are listed and their own documents are not there, nor, now and then, their slices: all that runs stays,
    and it is said."""
    seed = node.seed
    slivers = [uri for uri in seed.uris if kind_of(seed, uri) == "sliver"]
    news: dict[str, Any] = dict.fromkeys(dice.sample(slivers, dice.randint(1, len(slivers))), corpus.GONE)
    if dice.randrange(2):
        news.update({seed.state["docs"][uri]["slice"]["uri"]: corpus.GONE for uri in list(news)})
    state = read(node, news)
    assert state is not None
    asked, made = hold_together(node, state, set(news))
    assert [target.name for target in asked.slivers] == [target.name for target in node.good.slivers]
    for sliver in asked.slivers:
        assert not taken_down(made, sliver), (sliver.name, made.sliver_steps[sliver.name])
        assert sliver.uri not in news or sliver.problems
    node.untouched()


KINDS = {"denied": denied, "garbage": garbage_somewhere, "anything": anything_anywhere, "mixed up": mixed_up}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bad_documents_harm_nothing_that_runs_and_are_named(nodes: "list[Node]", kind: str) -> None:
    tried(nodes, kind, SHARE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_very_many_bad_documents_harm_nothing_that_runs_and_are_named(nodes: "list[Node]", kind: str) -> None:
    tried(nodes, kind, ALL)


def tried(nodes: "list[Node]", kind: str, count: int) -> None:
    for number in seeds.numbers(count):
        with seeds.example("documents " + kind, number) as dice:
            KINDS[kind](nodes[number % len(nodes)], dice)
