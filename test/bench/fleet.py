"""`make fleet`: what 10 000 nodes' polling costs a registry.

Requests and bytes of a round are measured with real clients at the example registry and at a static web host, on
this machine's loopback; the load of many nodes over time is simulated with the client's own intervals, jitter and
back-off. CLIENTS=N and NODES=N say how many of each, SEED=N repeats a simulation.
"""

from __future__ import annotations

import os
import platform
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
if __name__ == "__main__":
    sys.path[:0] = [os.path.join(TOP, "test"), TOP, os.path.join(TOP, "controller")]

from bench import fleet_measured  # noqa: E402  # after the path is set
from bench.fleet_measured import Cost  # noqa: E402
from bench.fleet_simulated import USUAL_S, Load, Rules, mean, peak, simulate, within  # noqa: E402

CLIENTS = 100
NODES = 10_000
OUTAGE_S = 1800


def costs(found: dict[str, dict[str, Cost]]) -> list[str]:
    """The table of what a round costs a node."""
    lines = [f"{'a node, a round':<18}{'':<24}{'requests':>10}{'received':>12}{'sent':>10}"]
    for registry, kinds in found.items():
        for kind, cost in kinds.items():
            lines.append(f"{registry:<18}{kind:<24}{cost.requests:>10.1f}{cost.received:>10.0f} B{cost.sent:>8.0f} B")
    return lines


def loads(nodes: int, walk: int, seed: int) -> list[str]:
    """The table of the load that `nodes` put on a registry whose walk takes `walk` requests."""
    lines = [f"{nodes} nodes, each {USUAL_S:.0f} s, started in the same second:"]
    for what, rules in (
        ("walk, no jitter, no first pause", Rules(nodes, jitter=0.0, walk=walk, with_index=False, first_pause=False)),
        ("walk, jitter", Rules(nodes, walk=walk, with_index=False)),
        ("index, no jitter, no first pause", Rules(nodes, jitter=0.0, walk=walk, first_pause=False)),
        ("index, jitter", Rules(nodes, walk=walk)),
    ):
        load = simulate(rules, 3600, None, seed)
        lines.append(row(what + ", first minute", load.between(0, 60)))
        lines.append(row(what + ", second half hour", load.between(1800, 3600)))
    return lines


def row(what: str, requests: list[int]) -> str:
    """A line of the table: peak and mean."""
    usual = mean(requests)
    ratio = f"{peak(requests) / usual:6.1f} x" if usual else ""
    return f"  {what:<34}{peak(requests):>9} /s peak{usual:>10.1f} /s mean{ratio:>11}"


def outages(nodes: int, walk: int, seed: int) -> list[str]:
    """The table of what an outage of half an hour does."""
    begin, end = 1800, 1800 + OUTAGE_S
    lines = [f"an outage of {OUTAGE_S // 60} min (with index, and jitter):"]
    for what, rules in (
        ("no back-off", Rules(nodes, walk=walk, backs_off=False)),
        ("back-off", Rules(nodes, walk=walk)),
    ):
        load = simulate(rules, end + 1800, (begin, end), seed)
        lines.append(row(what + ", last 10 min of it", load.between(end - 600, end)))
        lines.append(row(what + ", 15 min after it", load.between(end, end + 900)))
        lines.append(again(load, nodes))
    return lines


def again(load: Load, nodes: int) -> str:
    """When the nodes had read the registry again."""
    half, most, last = (within(load.read_again, share) for share in (0.5, 0.99, 1.0))
    read = len(load.read_again)
    return f"    read again: {read} of {nodes}, half within {half:.0f} s, 99 % within {most:.0f} s, all {last:.0f} s"


def main() -> int:
    """Measure, simulate, print."""
    begun = time.monotonic()
    clients, nodes = int(os.environ.get("CLIENTS") or CLIENTS), int(os.environ.get("NODES") or NODES)
    seed = int(os.environ.get("SEED") or 1)
    print(f"fleet: {clients} real clients on the loopback, {nodes} simulated nodes, SEED={seed}; "
          f"Python {platform.python_version()}, {os.cpu_count()} processors\n")  # fmt: skip
    found = fleet_measured.all_kinds(clients)
    walk = round(found["registry, walk"]["nothing changed"].requests)
    for lines in (costs(found), loads(nodes, walk, seed), outages(nodes, walk, seed)):
        print("\n".join(lines) + "\n", flush=True)
    print(f"took {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
