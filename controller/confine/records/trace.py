"""Which slice, which people sent this packet at that time? Answered from the records alone; needs no daemon.

`matches` and `answers` are pure; `trace` reads the files and joins them. What an address may be: a sliver's own, the
node's own as the outside sees it (then the port tells the slivers apart), or the remote end's.
"""

import socket

from confine.records import actions, flows, moments, owners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings
    from confine.paths import Paths

    Row = list[Any]

SLACK_S = 5.0  # clocks of two machines agree so far; a packet may also come a little before its connection is seen
CERTAIN = "certain"  # a connection with this address and port was under way at that time
LIKELY = "likely"  # the same with something concluded: its end, the clock, one address only
POSSIBLE = "possible"  # known by address or in bulk only
ORDER = (CERTAIN, LIKELY, POSSIBLE)
MAX_FLOWS = 20  # shown for each sliver
INSIDE, OUTSIDE, REMOTE = "inside", "outside", "remote"
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "sctp": 132, "udplite": 136}


class Query:
    """address: canonical text. time: seconds since 1970. port, protocol: numbers, or None for any."""

    def __init__(self, address: str, time: float, port: "int | None" = None, protocol: "int | None" = None) -> None:
        self.address = canonical(address)
        self.time = time
        self.port = port
        self.protocol = protocol


def trace(
    paths: "Paths",
    settings: "Settings",
    address: str,
    time: float,
    port: "int | None" = None,
    protocol: "str | int | None" = None,
) -> "list[dict[str, Any]]":
    """Who had to do with `address` (and `port`) at `time`, the surest first; [] if nothing is known of it.

    Each: {"sliver", "key", "slice": {"id", "name", "uri"} or None, "node", "group", "people": [{"id", "name", "uri",
    "roles", "active"}], "people_since": seconds or None, "certainty": "certain" | "likely" | "possible", "why": text,
    "as": "inside" | "outside" | "remote", "flows": [at most MAX_FLOWS], "flows_found": count}.
    A flow: {"protocol", "direction", "inside", "inside_port", "remote", "remote_port", "outside", "outside_port",
    "begin", "end" or None, "packets_out", "bytes_out", "packets_back", "bytes_back", "certainty", "as", "why",
    "count"}.
    time: seconds since 1970. protocol: a name or a number. ValueError: the address or protocol is none.
    Let a running daemon write first (`FlowRecorder.flush`), or the last minutes are missing.
    """
    query = Query(address, time, port, protocol_number(protocol))
    log = actions.ActionLog(paths, settings)
    held = log.read(kind=owners.KIND)
    return answers(query, matching_flows(paths, settings, query), held)


def matching_flows(paths: "Paths", settings: "Settings", query: Query) -> "list[dict[str, Any]]":
    """All recorded flows that `query` may mean, each with its sliver."""
    kept = flows.store(paths, settings)
    clocks, sessions = moments.Clocks(), Sessions()
    for head in kept.heads():
        clocks.note(moments.Moment(head["t"], head["up"], head["boot"], head["sure"]))
        sessions.note(head)
    found: dict[Any, tuple[bool, dict[str, Any] | None]] = {}
    for head, batch in kept.batches(lambda head: _may_hold(head, query, clocks)):
        for name, rows in batch.items():
            for row in rows["flows"]:
                if matches(row, query) is not None:
                    flow = timed(name, row, head, query, clocks, sessions)
                    _keep(found, (head["boot"], name, *row[:9]), row[9] is not None, flow)
            for row in rows["groups"]:
                if group_matches(row, query) is not None:
                    flow = timed_group(name, row, head, query, clocks)
                    _keep(found, (head["boot"], name, *row[:9]), True, flow)
    return [flow for _, flow in found.values() if flow is not None]


class Sessions:
    """When each life of the recorder last wrote, and when the next of the same boot began to."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str], tuple[float, float]] = {}

    def note(self, head: "dict[str, Any]") -> None:
        """A frame's head."""
        key = (head["boot"], head["session"])
        first, last = self._spans.get(key, (head["up"], head["up"]))
        self._spans[key] = (min(first, head["up"]), max(last, head["up"]))

    def last(self, head: "dict[str, Any]") -> float:
        """Until when the recorder that wrote `head` is known to have listened, seconds since boot."""
        return self._spans[(head["boot"], head["session"])][1]

    def next(self, head: "dict[str, Any]") -> "float | None":
        """When the next recorder after it wrote first; it wrote all that was still open."""
        own = self._spans[(head["boot"], head["session"])][1]
        later = [span[0] for (boot, _), span in self._spans.items() if boot == head["boot"] and span[0] > own]
        return min(later, default=None)


def matches(row: "Row", query: Query) -> "str | None":
    """As what the flow's addresses have the one that is asked for: inside, outside, remote; None: not at all."""
    if query.protocol is not None and row[0] != query.protocol:
        return None
    for role, at in ((INSIDE, 2), (OUTSIDE, 6), (REMOTE, 4)):
        if row[at] == query.address and query.port in (None, row[at + 1]):
            return role
    return None


def group_matches(row: "Row", query: Query) -> "str | None":
    """The same for a group of flows: outside or remote, by the span of outside ports."""
    protocol, _, remote, outside, low, high = row[:6]
    if query.protocol is not None and protocol != query.protocol:
        return None
    if outside in (query.address, None) and (query.port is None or low <= query.port <= high):
        return OUTSIDE
    return REMOTE if remote == query.address else None


def timed(
    name: str, row: "Row", head: "dict[str, Any]", query: Query, clocks: moments.Clocks, sessions: Sessions
) -> "dict[str, Any] | None":
    """A matching row as a flow with certainty; None: it was not under way at the time asked for."""
    begin, sure = _wall(clocks, head, row[8])
    doubts = [] if row[14] else ["its beginning or end was concluded, not seen"]
    end = None
    if row[9] is not None:
        end = _wall(clocks, head, row[9])[0]
        over = end
    else:
        until = sessions.next(head)
        over = float("inf") if until is None else _wall(clocks, head, until)[0]
        if query.time > _wall(clocks, head, sessions.last(head))[0] + SLACK_S:
            doubts.append("it was open when last looked at, its end is not known")
    if not begin - SLACK_S <= query.time <= over + SLACK_S:
        return None
    if not sure:
        doubts.append("the node's clock was not confirmed")
    role = str(matches(row, query))
    if query.port is None and role != INSIDE:
        doubts.append("no port was given: others may share the address")
    return _flow(name, row, role, begin, end, doubts)


def timed_group(
    name: str, row: "Row", head: "dict[str, Any]", query: Query, clocks: moments.Clocks
) -> "dict[str, Any] | None":
    """The same for a group: never more than possible."""
    begin, end = _wall(clocks, head, row[7])[0], _wall(clocks, head, row[8])[0]
    if not begin - SLACK_S <= query.time <= end + SLACK_S:
        return None
    protocol, direction, remote, outside, low, high, count = row[:7]
    why = "one of {} connections kept as a group: outside ports {} to {}".format(count, low, high)
    return {
        "sliver": name, "protocol": protocol, "direction": direction, "inside": None, "inside_port": None,
        "remote": remote, "remote_port": None, "outside": outside, "outside_port": None, "begin": begin, "end": end,
        "packets_out": None, "bytes_out": row[9], "packets_back": None, "bytes_back": row[10],
        "certainty": POSSIBLE, "as": group_matches(row, query), "why": why, "count": count,
    }  # fmt: skip


def answers(query: Query, found: "list[dict[str, Any]]", held: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    """One answer for each sliver: from the flows `found` and the "sliver" entries `held` of the actions. Pure."""
    flows_of: dict[str, list[dict[str, Any]]] = {}
    for flow in found:
        flows_of.setdefault(flow["sliver"], []).append(flow)
    result = [_answer(name, query, own, held) for name, own in flows_of.items()]
    for name in holders(query, held):
        if name not in flows_of:
            result.append(_answer(name, query, [], held))
    return sorted(result, key=lambda answer: (ORDER.index(answer["certainty"]), answer["sliver"]))


def holders(query: Query, held: "list[dict[str, Any]]") -> "list[str]":
    """The slivers that had the address as their own at that time."""
    names = []
    for name in {entry["subject"] for entry in held}:
        entry = in_force(name, query.time, held)
        if entry and entry["what"] == owners.HELD and query.address in _addresses(entry):
            names.append(name)
    return names


def in_force(name: str, time: float, held: "list[dict[str, Any]]") -> "dict[str, Any] | None":
    """The entry that said whose the sliver `name` was at `time`: the last before it."""
    before = [entry for entry in held if entry["subject"] == name and entry["time"] <= time + SLACK_S]
    return max(before, key=lambda entry: float(entry["time"]), default=None)


def _answer(name: str, query: Query, own: "list[dict[str, Any]]", held: "list[dict[str, Any]]") -> "dict[str, Any]":
    own = sorted(own, key=lambda flow: (ORDER.index(flow["certainty"]), flow["begin"]))
    entry, known = in_force(name, query.time, held), True
    if entry is None:
        later = [found for found in held if found["subject"] == name]
        entry, known = min(later, key=lambda found: float(found["time"]), default=None), False
    more = (entry or {}).get("more") or {}
    certainty = own[0]["certainty"] if own else POSSIBLE
    reasons = [own[0]["why"]] if own else ["the address was the sliver's, no connection of that time is recorded"]
    if entry is None:
        reasons.append("whose the sliver was is no longer recorded")
    elif not known:
        reasons.append("whose it was is only recorded from later on")
        certainty = LIKELY if certainty == CERTAIN else certainty
    return {
        "sliver": name,
        "key": more.get("key"),
        "slice": more.get("slice"),
        "node": more.get("node"),
        "group": more.get("group"),
        "people": more.get("people") or [],
        "people_since": entry["time"] if entry and known else None,
        "certainty": certainty,
        "why": "; ".join(reason for reason in reasons if reason),
        "as": own[0]["as"] if own else INSIDE,
        "flows": own[:MAX_FLOWS],
        "flows_found": len(own),
    }


def canonical(address: str) -> str:
    """The address as the records have it; ValueError if it is none. IPv4 within IPv6 is the IPv4 address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise ValueError("{!r} is not an IPv4 or IPv6 address".format(address))
    if len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff":
        family, packed = socket.AF_INET, packed[12:]
    return socket.inet_ntop(family, packed)


def protocol_number(protocol: "str | int | None") -> "int | None":
    """The number of a protocol given by name or number; ValueError if it is neither."""
    if protocol is None or isinstance(protocol, int):
        return protocol
    if protocol.lower() in PROTOCOLS:
        return PROTOCOLS[protocol.lower()]
    if protocol.isascii() and protocol.isdigit() and int(protocol) < 256:
        return int(protocol)
    raise ValueError("protocol {!r} is not known: {} or a number".format(protocol, ", ".join(sorted(PROTOCOLS))))


def _may_hold(head: "dict[str, Any]", query: Query, clocks: moments.Clocks) -> bool:
    """Whether a frame may say anything of the time asked for: all that do not begin later. One that ends before may
    hold the end of what an earlier one has as open."""
    begin, sure = _wall(clocks, head, head["first"])
    return not sure or begin - SLACK_S <= query.time


def _wall(clocks: moments.Clocks, head: "dict[str, Any]", up: float) -> "tuple[float, bool]":
    return clocks.wall(head["boot"], up) or (head["t"] - head["up"] + up, head["sure"])


def _keep(
    found: "dict[Any, tuple[bool, dict[str, Any] | None]]", key: "Any", ended: bool, flow: "dict[str, Any] | None"
) -> None:
    """Of what is said of one connection the word that it ended counts, wherever it stands."""
    if key not in found or ended:
        found[key] = (ended, flow)


def _addresses(entry: "dict[str, Any]") -> "list[str]":
    listed = (entry.get("more") or {}).get("addresses")
    return listed if isinstance(listed, list) else []


def _flow(name: str, row: "Row", role: str, begin: float, end: "float | None", doubts: "list[str]") -> "dict[str, Any]":
    return {
        "sliver": name, "protocol": row[0], "direction": row[1], "inside": row[2], "inside_port": row[3],
        "remote": row[4], "remote_port": row[5], "outside": row[6], "outside_port": row[7],
        "begin": begin, "end": end,
        "packets_out": row[10], "bytes_out": row[11], "packets_back": row[12], "bytes_back": row[13],
        "certainty": LIKELY if doubts else CERTAIN, "as": role, "why": "; ".join(doubts), "count": 1,
    }  # fmt: skip
