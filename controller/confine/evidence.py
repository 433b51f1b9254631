"""What a sliver was doing when it was stopped: console, processes, connections, counters. For `confine stop show`.

Gathered after the stop, from files of the kernel alone; nothing of it can hold the stop up. Bounded in size and time.
Kept in the journal; in memory where the disk is full.
"""

import os
import time

from confine import durable
from confine.core.decisions import ALL
from confine.drivers import cgroups, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.decisions import Mark
    from confine.paths import Paths
    from confine.stop import Node

DIRECTORY = "evidence"
ALL_S = 20.0  # for all slivers together
PROCESSES = 200
CONNECTIONS = 100  # for each sliver, and of each kind of socket
TRACKED_LINES = 20000
KEPT = 250  # slivers; the oldest evidence goes
CONSOLE = 8192
LINE = 300
GROUP_FILES = ("memory.current", "memory.events", "cpu.stat", "pids.current", "pids.events", "io.stat", "cgroup.events")
SOCKET_FILES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
COUNTERS = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
TRACKED = "/proc/net/nf_conntrack"


def keep(node: "Node", scope: str, mark: "Mark") -> "list[str]":
    """Gather and keep evidence about the sliver `scope`, or ALL that are here. What could not be kept."""
    faults = []
    deadline = time.monotonic() + ALL_S
    names = node.names if scope == ALL else [scope]
    tracked = _lines(TRACKED, TRACKED_LINES)
    for name in names:
        if not os.path.isdir(node.group(name)):
            continue
        if time.monotonic() > deadline:
            faults.append("no evidence was gathered about {} and what follows: it took too long".format(name))
            break
        doc = gather(node, name, tracked)
        doc["stop"] = mark.as_doc()
        faults += _save(node.paths, name, doc)
    return faults


def gather(node: "Node", name: str, tracked: "list[str]") -> "dict[str, Any]":
    """All that can be seen of the sliver `name` now."""
    group = node.group(name)
    pids = cgroups.processes(group)[:PROCESSES]
    init = cgroups.find_init(group)
    number = node.numbers.get(name)
    return {
        "name": name,
        "gathered": time.time(),
        "console": _end(node.paths.sliver(name, "console.log")),
        "processes": [_process(pid) for pid in pids],
        "sockets": {file: _lines("/proc/{}/net/{}".format(init, file)) for file in SOCKET_FILES} if init else {},
        "connections": _connections(tracked, _addresses(init)),
        "interfaces": {port: _counters(port) for port in (ports.of(number) if number is not None else [])},
        "cgroup": {file: cgroups.read(os.path.join(group, file)) for file in GROUP_FILES},
    }


def read(paths: "Paths", name: str) -> "dict[str, Any] | None":
    """What was kept about the sliver `name`; None if there is nothing (that can be read)."""
    for directory in (paths.journal, paths.run):
        try:
            doc = durable.read_json(os.path.join(directory, DIRECTORY, name + ".json"))
        except (OSError, ValueError):
            continue
        if isinstance(doc, dict):
            return doc
    return None


def _save(paths: "Paths", name: str, doc: "dict[str, Any]") -> "list[str]":
    reason = ""
    for directory in (paths.journal, paths.run):
        place = os.path.join(directory, DIRECTORY)
        try:
            durable.make_dir(place)
            durable.write_json(os.path.join(place, name + ".json"), doc)
            _forget_oldest(place)
            return ["evidence about {} is in memory only: {}".format(name, reason)] if reason else []
        except OSError as error:
            reason = "{}: {}".format(place, error.strerror)
    return ["evidence about {} could not be kept: {}".format(name, reason)]


def _forget_oldest(place: str) -> None:
    paths = sorted((entry.stat().st_mtime, entry.path) for entry in os.scandir(place))
    for _, path in paths[:-KEPT]:
        os.unlink(path)


def _process(pid: int) -> "dict[str, Any]":
    status = {}
    for line in (cgroups.read("/proc/{}/status".format(pid)) or "").splitlines():
        key, _, value = line.partition(":")
        if key in ("Name", "State", "PPid", "Uid", "VmRSS"):
            status[key] = value.split()[0] if value.split() else ""
    command = (cgroups.read("/proc/{}/cmdline".format(pid)) or "").replace("\0", " ").strip()
    return {"pid": pid, "command": (command or "[{}]".format(status.get("Name", "?")))[:LINE], **status}


def _addresses(init: "int | None") -> "list[str]":
    """The IPv4 addresses inside the sliver: local entries of its routing trie."""
    found, last = set(), ""
    for line in _lines("/proc/{}/net/fib_trie".format(init)) if init else []:
        words = line.split()
        if "host" in words and "LOCAL" in words and not last.startswith("127."):
            found.add(last)
        elif len(words) == 2 and words[0] in ("|--", "+--"):
            last = words[1]
    return sorted(found)


def _connections(tracked: "list[str]", addresses: "list[str]") -> "list[str]":
    """The node's tracked connections of these addresses."""
    marks = [end + address for address in addresses for end in ("src=", "dst=")]
    return [line for line in tracked if any(word in marks for word in line.split())][:CONNECTIONS]


def _counters(port: str) -> "dict[str, str | None]":
    """Seen from the node: rx is what the sliver sent."""
    return {name: cgroups.read("{}/{}/statistics/{}".format(ports.NETWORK, port, name)) for name in COUNTERS}


def _lines(path: str, most: int = CONNECTIONS) -> "list[str]":
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line.rstrip("\n")[:LINE] for line in file.readlines(most * LINE)][:most]
    except OSError:
        return []


def _end(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - CONSOLE))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
