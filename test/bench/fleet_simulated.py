"""Many nodes' polling as a discrete simulation, by the client's own decisions: intervals, jitter, back-off, rounds.

Pure but for the random numbers of the modules it uses, which a seed fixes.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from confine import reader
from confine.core.settings import Settings
from confine.registry import client, index
from confine.registry.sources import Source

USUAL_S = float(Settings().interval_s)


@dataclass(frozen=True)
class Rules:
    """How the nodes behave. jitter: of the interval; None: the client's own. backs_off: after failures.

    walk: requests of a round that reads everything. with_index: whether the registry offers the index.
    """

    nodes: int = 10_000
    interval: float = USUAL_S
    jitter: float | None = None
    backs_off: bool = True
    walk: int = 21
    with_index: bool = True
    started_within: float = 1.0  # s: all nodes start in this time, as after a power cut of the whole valley
    first_pause: bool = True  # whether they wait before they first read, as the client does


@dataclass
class Load:
    """requests: per second, from the beginning on. served, failed: rounds. read_again: when each node had its first
    round after an outage, seconds from its end."""

    requests: list[int]
    served: int = 0
    failed: int = 0
    read_again: list[float] = field(default_factory=list)

    def between(self, begin: float, end: float) -> list[int]:
        """Requests in each second from `begin` to `end`."""
        return self.requests[int(begin) : int(end)]


class Node:
    """One node at one address; `Address` is the client's own, with its back-off."""

    def __init__(self) -> None:
        self.address = client.Address(Source())
        self.rounds = 0
        self.cut_off = False

    def round_costs(self, rules: Rules) -> int:
        """Requests of its next round at a registry in health where nothing changed."""
        number = self.rounds
        self.rounds += 1
        if not rules.with_index:
            return rules.walk
        if number == 0:
            return rules.walk  # the Link is not known yet
        if number == 1 or number % index.WALK_EVERY == 0:
            return rules.walk + 1  # nothing is held that the index speaks of
        return 1


def simulate(rules: Rules, seconds: int, outage: tuple[float, float] | None = None, seed: int = 1) -> Load:
    """The load on the registry in `seconds`. outage: (begin, end) of a time in which no node reaches it."""
    random.seed(seed)
    load = Load([0] * (seconds + 1))
    jitter = reader.JITTER if rules.jitter is None else rules.jitter
    nodes = [Node() for _ in range(rules.nodes)]
    wait = reader.first_pause if rules.first_pause else lambda interval: 0.0
    due = [(random.uniform(0, rules.started_within) + wait(rules.interval), number) for number in range(rules.nodes)]
    heapq.heapify(due)
    while due and due[0][0] < seconds:
        now, number = due[0]
        down = outage is not None and outage[0] <= now < outage[1]
        load.requests[int(now)] += asked(nodes[number], rules, now, down, load, outage)
        pause = rules.interval * random.uniform(1 - jitter, 1 + jitter)
        heapq.heapreplace(due, (now + pause, number))
    return load


def asked(node: Node, rules: Rules, now: float, down: bool, load: Load, outage: tuple[float, float] | None) -> int:
    """What `node` asks for when its reader wakes at `now`."""
    if rules.backs_off and now < node.address.retry_at:
        return 0
    if down:
        node.address.failed("it is down", now)
        node.cut_off = True
        load.failed += 1
        return 2 if rules.with_index and node.rounds > 1 else 1  # the index, and the base document
    node.address.answered()
    load.served += 1
    if node.cut_off and outage is not None:
        node.cut_off = False
        load.read_again.append(now - outage[1])
    return node.round_costs(rules)


def peak(requests: list[int]) -> int:
    """The most in a second."""
    return max(requests, default=0)


def mean(requests: list[int]) -> float:
    """The mean per second."""
    return sum(requests) / len(requests) if requests else 0.0


def within(times: list[float], share: float) -> float:
    """The time within which `share` of `times` lie."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
