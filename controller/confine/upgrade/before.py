"""What holds on the node now: looked at before a trial, and again in it, so that the gate can compare the two."""

import os
import socket

from confine.configuration import read_settings
from confine.control import ask
from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

API_S = 3.0


def look(paths: Paths) -> "dict[str, Any]":
    """node_id; problems: settings that cannot be used; addresses: {interface: ["4", "6"]}; routes: families with a
    default route; status: does the daemon answer; controller: its process; registry: was it read without an error;
    slivers: those started; api: is it served; overlay: the management overlay's address, and whether a peer is reached;
    None if it is off."""
    settings, problems = read_settings(paths)
    status = status_of(paths)
    return {
        "node_id": settings.node_id,
        "problems": len(problems),
        "addresses": addresses(),
        "routes": routes(),
        "status": status is not None,
        "controller": controller(paths),
        "registry": bool(status and status["registry"].get("last_read") and not status["registry"].get("error")),
        "overlay": overlay_of(status),
        "slivers": sorted(one["name"] for one in (status or {}).get("slivers", []) if one["state"] == "started"),
        "api": settings.api_enabled and serves(settings.api_port),
    }


def status_of(paths: Paths) -> "dict[str, Any] | None":
    """What the daemon says of the node; None if it does not answer."""
    try:
        found: "dict[str, Any]" = ask(paths.control, "status")
    except (ConfineError, OSError, ValueError):
        return None
    return found


def controller(paths: Paths) -> "int | None":
    """The process id of the daemon, as its lock has it."""
    try:
        with open(os.path.join(paths.run, "lock"), encoding="ascii") as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return None


def overlay_of(status: "dict[str, Any] | None") -> "dict[str, Any] | None":
    """The management overlay as the daemon reports it; None if it is not asked for or does not run."""
    found = (status or {}).get("overlay")
    if not found or not found["asked"] or not found["running"]:
        return None
    return {"address": found["address"], "reached": any(peer["reachable"] for peer in found["peers"])}


def addresses(proc: str = "/proc/net") -> "dict[str, list[str]]":
    """Families of the addresses that interfaces have, by interface: those that others can reach."""
    found: "dict[str, set[str]]" = {}
    for row in _rows(proc + "/if_inet6"):
        if len(row) == 6 and row[3] == "00" and row[5] != "lo":
            found.setdefault(row[5], set()).add("6")
    # Directly connected networks: an interface has an IPv4 address if and only if it has one of these.
    for row in _rows(proc + "/route")[1:]:
        if len(row) > 7 and row[2] == "00000000":
            found.setdefault(row[0], set()).add("4")
    # Those of slivers come and go with them.
    return {name: sorted(kinds) for name, kinds in sorted(found.items()) if not name.startswith("slv-")}


def routes(proc: str = "/proc/net") -> "list[str]":
    """The families that have a default route."""
    found = set()
    if any(len(row) > 7 and row[1] == row[7] == "00000000" for row in _rows(proc + "/route")[1:]):
        found.add("4")
    if any(len(row) == 10 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo"
           for row in _rows(proc + "/ipv6_route")):  # fmt: skip
        found.add("6")
    return sorted(found)


def serves(port: int) -> bool:
    """Does something on this node answer HTTP on `port`?"""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
                client.settimeout(API_S)
                client.connect((host, port))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return client.recv(5) == b"HTTP/"
        except OSError:
            continue
    return False


def _rows(path: str) -> "list[list[str]]":
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line.split() for line in file]
    except OSError:
        return []
