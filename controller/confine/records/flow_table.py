"""The slivers' connections under way, and those that ended since the last write. Pure and bounded.

A sliver has a share of the table. What it opens beyond its share is kept as groups (protocol and remote address, with
how many, when, and the range of outside ports), beyond GROUPS_EACH only as sums: a flood is recorded coarsely, costs
a bounded amount of memory, and takes nothing from the other slivers.

A row, as it is written:  [protocol, "out" or "in", inside address, port, remote address, port, outside address, port,
    first, last or None (still open), packets out, bytes out, packets back, bytes back (None: not counted), certain]
inside: as the sliver has it; outside: the same end as the remote one sees it, after translation. Of ICMP the inside
and outside ports are the identifier, the remote port is type·256 + code. first, last: seconds since boot. certain:
both moments were seen, not concluded.
A group:  [protocol, direction, remote address or None, outside address or None, lowest outside port, highest, count,
    first, last, bytes out, bytes back]
"""

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.records.conntrack import Event

OPEN_ALL = 8192
OPEN_SHARE_OF = 8  # up to so many slivers have equal shares of OPEN_ALL; with more slivers shares are smaller
OPEN_LEAST = 64
ENDED_EACH = 1024  # between two writes
GROUPS_EACH = 128
ICMP = (1, 58)
OUT, IN = "out", "in"


class Flow:
    """A connection of a sliver; see the module for the members."""

    __slots__ = (
        "certain",
        "counts",
        "direction",
        "first",
        "inside",
        "last",
        "outside",
        "protocol",
        "remote",
        "written",
    )

    def __init__(self, event: "Event", direction: str, first: float) -> None:
        out, back = event.out, event.back
        self.protocol = out.protocol
        self.direction = direction
        if direction == OUT:
            self.inside, self.remote = (out.src, out.sport), (back.src, back.sport)
            self.outside = (back.dst, back.dport)
        else:
            self.inside, self.remote = (back.src, back.sport), (out.src, out.sport)
            self.outside = (out.dst, out.dport)
        if self.protocol in ICMP:
            self.remote = (self.remote[0], out.dport)
            self.inside, self.outside = (self.inside[0], out.sport), (self.outside[0], back.sport)
        self.first = first
        self.last: float | None = None
        self.counts: tuple[int, int, int, int] | None = event.counts
        self.certain = True
        self.written = False

    def row(self) -> "list[Any]":
        """As it is written."""
        counts = self.counts or (None, None, None, None)
        return [
            self.protocol, self.direction,
            text(self.inside[0]), self.inside[1], text(self.remote[0]), self.remote[1],
            text(self.outside[0]), self.outside[1],
            round(self.first, 2), None if self.last is None else round(self.last, 2), *counts, self.certain,
        ]  # fmt: skip


def text(address: bytes) -> str:
    """A packed address as text."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


class FlowTable:
    """What FlowRecorder knows. `find`: the sliver that has a packed address, or None. Not thread-safe.

    coarse: how many connections were kept in groups or sums only, ever.
    """

    def __init__(self, find: "Callable[[bytes], str | None]") -> None:
        self._find = find
        self._open: dict[str, dict[Any, Flow]] = {}
        self._count = 0
        self._ended: dict[str, list[Flow]] = {}
        self._groups: dict[str, dict[Any, list[Any]]] = {}
        self._listed: set[Any] | None = None
        self._listing_since = 0.0
        self.coarse = 0

    def open_flows(self) -> int:
        """How many connections are under way."""
        return self._count

    def note(self, event: "Event", up: float, wall: "float | None" = None) -> None:
        """Take an event in. up: seconds since boot now. wall: seconds since 1970 now, to place the kernel's time stamps
        of connections that began before they were looked for."""
        name, direction = self._find(event.out.src), OUT
        if name is None:
            name, direction = self._find(event.back.src), IN
        if name is None:
            return
        out = event.out
        key = (event.id, out.protocol, out.src, out.sport, out.dst, out.dport)
        if self._listed is not None:
            self._listed.add(key)
        if event.ended:
            self._end(name, key, event, direction, _first(event, up, wall), up)
        elif key not in self._open.get(name, {}):
            self._begin(name, key, Flow(event, direction, _first(event, up, wall)))

    def begin_listing(self, up: float) -> None:
        """From now on, all connections there are will be noted (a dump)."""
        self._listed, self._listing_since = set(), up

    def end_listing(self, up: float) -> None:
        """All were noted: what was open before and was not among them has ended unseen."""
        listed, self._listed = self._listed, None
        if listed is None:
            return
        for name, flows in list(self._open.items()):
            unseen = [key for key, flow in flows.items() if key not in listed and flow.first < self._listing_since]
            for key in unseen:
                flow = self._take(name, key)
                if flow is not None:
                    flow.certain = False
                    self._ended_flow(name, flow, up)

    def say_again(self) -> None:
        """Have the open ones written once more: what held them is no longer appended to."""
        for flows in self._open.values():
            for flow in flows.values():
                flow.written = False

    def take(self) -> "dict[str, dict[str, list[Any]]]":
        """{sliver: {"flows": rows, "groups": rows}} of all that is not yet written; it counts as written then."""
        batch: dict[str, dict[str, list[Any]]] = {}
        for name in {*self._open, *self._ended, *self._groups}:
            fresh = [flow for flow in self._open.get(name, {}).values() if not flow.written]
            for flow in fresh:
                flow.written = True
            rows = [flow.row() for flow in [*self._ended.get(name, ()), *fresh]]
            groups = [_group_row(key, group) for key, group in self._groups.get(name, {}).items()]
            if rows or groups:
                batch[name] = {"flows": rows, "groups": groups}
        self._ended, self._groups = {}, {}
        return batch

    def waiting(self) -> int:
        """How many ended connections wait to be written."""
        return sum(map(len, self._ended.values()))

    # ---- parts --------------------------------------------------------------------------------------------------

    def _share(self) -> int:
        return max(OPEN_LEAST, OPEN_ALL // max(OPEN_SHARE_OF, len(self._open)))

    def _begin(self, name: str, key: "Any", flow: Flow) -> None:
        flows = self._open.setdefault(name, {})
        if len(flows) >= self._share() or self._count >= 2 * OPEN_ALL:
            self._group(name, flow, flow.first)
            return
        flows[key] = flow
        self._count += 1

    def _take(self, name: str, key: "Any") -> "Flow | None":
        flows = self._open.get(name, {})
        flow = flows.pop(key, None)
        if flow is not None:
            self._count -= 1
            if not flows:
                del self._open[name]
        return flow

    def _end(self, name: str, key: "Any", event: "Event", direction: str, first: float, up: float) -> None:
        flow = self._take(name, key)
        if flow is None:
            flow = Flow(event, direction, first)
            flow.certain = event.began is not None
            group = self._groups.get(name, {}).get(_group_key(flow))
            if group is not None:  # it was counted when it began
                _add_bytes(group, event.counts, up)
                return
        flow.counts = event.counts
        self._ended_flow(name, flow, up)

    def _ended_flow(self, name: str, flow: Flow, up: float) -> None:
        flow.last = up
        ended = self._ended.setdefault(name, [])
        if len(ended) < ENDED_EACH:
            ended.append(flow)
        else:
            self._group(name, flow, up)

    def _group(self, name: str, flow: Flow, up: float) -> None:
        self.coarse += 1
        groups = self._groups.setdefault(name, {})
        key = _group_key(flow)
        if key not in groups and len(groups) >= GROUPS_EACH:
            key = (flow.protocol, flow.direction, None, None)
        group = groups.get(key)
        if group is None:
            group = groups[key] = [flow.outside[1], flow.outside[1], 0, flow.first, up, 0, 0]
        group[0], group[1] = min(group[0], flow.outside[1]), max(group[1], flow.outside[1])
        group[2] += 1
        group[3] = min(group[3], flow.first)
        _add_bytes(group, flow.counts, up)


def _first(event: "Event", up: float, wall: "float | None") -> float:
    """When it began, in seconds since boot: by the kernel's stamp where that makes sense, else now."""
    if event.began is None or wall is None or not 0 <= wall - event.began <= up:
        return up
    return up - (wall - event.began)


def _group_key(flow: Flow) -> "tuple[int, str, bytes | None, bytes | None]":
    return (flow.protocol, flow.direction, flow.remote[0], flow.outside[0])


def _add_bytes(group: "list[Any]", counts: "tuple[int, int, int, int] | None", up: float) -> None:
    group[4] = max(group[4], up)
    if counts is not None:
        group[5] += counts[1]
        group[6] += counts[3]


def _group_row(key: "Any", group: "list[Any]") -> "list[Any]":
    protocol, direction, remote, outside = key
    low, high, count, first, last, there, back = group
    return [protocol, direction, None if remote is None else text(remote), None if outside is None else text(outside),
            low, high, count, round(first, 2), round(last, 2), there, back]  # fmt: skip
