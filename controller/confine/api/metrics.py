"""The node's figures as Prometheus text (exposition format 0.0.4). Pure but for the `Machine` it is given.

Names end in their unit; counters in _total. `sliver` is the registry's id, SLICE@NODE. From a sliver's view:
receive is what reached it.
"""

from confine.api.figures import MOST_DEVICES, OF_SLIVERS, SLIVER_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from confine.api.figures import Machine

MIB = 1024 * 1024
NETWORK_STATES = ("as asked", "changing", "undone", "broken", "by hand")
NODE_STATES = ("debug", "failure", "safe", "production")

# name: (type, help)
FAMILIES = {
    "confine_info": ("gauge", "The node and its software."),
    "confine_node_state": ("gauge", "1 for the state the node is in."),
    "confine_node_errors": ("gauge", "Entries of the node's errors."),
    "confine_rounds_total": ("counter", "Rounds of planning since the daemon started."),
    "confine_registry_age_seconds": ("gauge", "Time since the registry was last read without error."),
    "confine_firewall_in_order": ("gauge", "1 if the node's own nftables tables stand as they were put up."),
    "confine_registry_failing": ("gauge", "1 if the registry could not be read the last time."),
    "confine_overlay_up": ("gauge", "1 if the overlay's daemon runs and its interface is as it should be."),
    "confine_overlay_peer_reachable": ("gauge", "1 for a peer of the overlay that is reached."),
    "confine_overlay_peer_seen_seconds": ("gauge", "Time since a peer was last reached."),
    "confine_network_state": ("gauge", "1 for how the node's own network stands."),
    "confine_clock_confirmed": ("gauge", "1 for who confirms the node's time: ntp, registry or none."),
    "confine_clock_error_seconds": ("gauge", "The largest error of the node's time, by NTP's own reckoning."),
    "confine_lent_bytes": ("gauge", "What the node lends to slivers in all."),
    "confine_booked_bytes": ("gauge", "What of it is booked."),
    "confine_slivers": ("gauge", "Slivers by state."),
    "confine_upgrade_info": ("gauge", "The slot and the version that run."),
    "confine_upgrade_state": ("gauge", "1 for what upgrades are at."),
    "confine_upgrade_offered": ("gauge", "1 if a version is offered that does not run; its label says which."),
    "confine_upgrade_problems": ("gauge", "What the last look at the mirrors ran into."),
    "confine_node_cpu_seconds_total": ("counter", "Time the node's processors spent, by mode."),
    "confine_node_memory_bytes": ("gauge", "The node's memory."),
    "confine_node_disk_bytes": ("gauge", "The node's data partition."),
    "confine_node_load": ("gauge", "Load averages."),
    "confine_node_uptime_seconds": ("gauge", "Time since the node started."),
    "confine_node_network_receive_bytes_total": ("counter", "Bytes received, by device."),
    "confine_node_network_transmit_bytes_total": ("counter", "Bytes sent, by device."),
    "confine_daemon_memory_bytes": ("gauge", "Resident memory of the daemon."),
    "confine_daemon_cpu_seconds_total": ("counter", "Processor time of the daemon."),
    "confine_daemon_descriptors": ("gauge", "Open descriptors of the daemon."),
    "confine_daemon_threads": ("gauge", "Threads of the daemon."),
    "confine_record_failing": ("gauge", "1 if what should be recorded is not: actions, flows or figures."),
    "confine_record_damages": ("gauge", "Damages found in a record since the daemon started."),
    "confine_actions_waiting": ("gauge", "Actions not yet on the disk."),
    "confine_actions_lost_total": ("counter", "Actions that the disk did not take for too long."),
    "confine_flows_open": ("gauge", "Connections of slivers under way."),
    "confine_flow_events_total": ("counter", "Beginnings and ends of connections that the kernel told of."),
    "confine_flow_overruns_total": ("counter", "Times the kernel dropped some of them: all connections were listed."),
    "confine_flow_coarse_total": ("counter", "Connections kept only in groups, because they were too many."),
    "confine_flow_lost_batches_total": ("counter", "Batches of connections that the disk did not take."),
    "confine_api_requests_total": ("counter", "Requests answered by this API, by status."),
    "confine_api_connections": ("gauge", "Connections to this API."),
    "confine_api_dropped_total": ("counter", "Connections cut because they were late, idle or too many."),
    "confine_sliver_info": ("gauge", "A sliver, its slice and its number on the node."),
    "confine_sliver_state": ("gauge", "1 for the state the sliver is in."),
    "confine_sliver_errors": ("gauge", "Entries of the sliver's errors."),
    "confine_sliver_limits_held": ("gauge", "1 if the limits read back from the kernel are those asked for."),
    "confine_sliver_cpu_seconds_total": ("counter", "Processor time used."),
    "confine_sliver_cpu_throttled_seconds_total": ("counter", "Time held back by the CPU limit."),
    "confine_sliver_memory_bytes": ("gauge", "Memory used."),
    "confine_sliver_memory_peak_bytes": ("gauge", "Most memory used since it was started."),
    "confine_sliver_memory_limit_bytes": ("gauge", "Memory limit."),
    "confine_sliver_processes": ("gauge", "Processes and threads."),
    "confine_sliver_processes_limit": ("gauge", "Limit of processes and threads."),
    "confine_sliver_disk_allocated_bytes": ("gauge", "Disk set aside."),
    "confine_sliver_disk_used_bytes": ("gauge", "Disk used within it."),
    "confine_sliver_disk_read_bytes_total": ("counter", "Bytes read from its disk and template."),
    "confine_sliver_disk_written_bytes_total": ("counter", "Bytes written to its disk."),
    "confine_sliver_network_receive_bytes_total": ("counter", "Bytes that reached the sliver, by interface."),
    "confine_sliver_network_transmit_bytes_total": ("counter", "Bytes that the sliver sent, by interface."),
    "confine_sliver_network_receive_packets_total": ("counter", "Packets that reached the sliver, by interface."),
    "confine_sliver_network_transmit_packets_total": ("counter", "Packets that the sliver sent, by interface."),
    "confine_sliver_network_refused_packets_total": (
        "counter",
        "Packets of the sliver that the firewall dropped since it was put up: spoofed, refused, flooded.",
    ),
    "confine_sliver_bandwidth_bits_per_second": ("gauge", "Bound of what the sliver sends or gets."),
    "confine_sliver_bandwidth_held": ("gauge", "1 if the bound read back from the kernel is the one asked for."),
    "confine_sliver_bandwidth_bytes_total": ("counter", "Bytes that passed under the bound."),
    "confine_sliver_bandwidth_dropped_packets_total": ("counter", "Packets that found the queue full."),
    "confine_sliver_limit_hits_total": ("counter", "How often the sliver ran into a limit since it was started."),
}

# member of a sliver's usage (limits.py): (family, factor)
USAGE = {
    "cpu_usec": ("confine_sliver_cpu_seconds_total", 1e-6),
    "cpu_throttled_usec": ("confine_sliver_cpu_throttled_seconds_total", 1e-6),
    "memory_bytes": ("confine_sliver_memory_bytes", 1),
    "memory_peak_bytes": ("confine_sliver_memory_peak_bytes", 1),
    "pids": ("confine_sliver_processes", 1),
    "read_bytes": ("confine_sliver_disk_read_bytes_total", 1),
    "write_bytes": ("confine_sliver_disk_written_bytes_total", 1),
}
REFUSALS = ("spoofed", "refused", "flooded")
HITS = {"oom_kills": "memory_killed", "memory_full": "memory", "pids_refused": "processes"}

# "record member" of the records' status: family
RECORDED = {
    "actions waiting": "confine_actions_waiting",
    "actions lost": "confine_actions_lost_total",
    "flows open": "confine_flows_open",
    "flows events": "confine_flow_events_total",
    "flows overruns": "confine_flow_overruns_total",
    "flows coarse": "confine_flow_coarse_total",
    "flows lost_batches": "confine_flow_lost_batches_total",
}


class Samples:
    """Samples gathered by family, written out in the order of FAMILIES."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, family: str, value: "float | None", **labels: "object") -> None:
        """One sample; a value of None is not known and left out."""
        if value is None or family not in FAMILIES:
            return
        inner = ",".join(f'{name}="{_label(str(text))}"' for name, text in labels.items())
        number = repr(round(value, 6)) if isinstance(value, float) else str(int(value))
        self._lines.setdefault(family, []).append(f"{family}{'{' + inner + '}' if inner else ''} {number}\n")

    def text(self) -> bytes:
        """All of it, in the exposition format."""
        parts = []
        for family, (kind, words) in FAMILIES.items():
            if family in self._lines:
                parts.append(f"# HELP {family} {words}\n# TYPE {family} {kind}\n")
                parts.extend(self._lines[family])
        return "".join(parts).encode("utf-8", "replace")


def render(status: "dict[str, Any]", machine: "Machine", served: "dict[str, Any]", now: float) -> bytes:
    """served: {"requests": {status: count}, "connections": int, "dropped": int} of the API itself. now: wall clock."""
    samples = Samples()
    _node(samples, status, now)
    _records(samples, status.get("records") or {})
    _machine(samples, machine)
    for code, count in sorted(served["requests"].items()):
        samples.add("confine_api_requests_total", count, status=code)
    samples.add("confine_api_connections", served["connections"])
    samples.add("confine_api_dropped_total", served["dropped"])
    ports, drops = machine.devices(), machine.drops()
    for shown in status["slivers"]:
        for reason in REFUSALS if shown.get("nr") is not None else ():
            count = drops.get((shown["nr"], reason), 0)
            samples.add("confine_sliver_network_refused_packets_total", count, sliver=shown["id"], reason=reason)
        _sliver(samples, shown)
        _sliver_limits(samples, shown)
        _sliver_bandwidth(samples, shown)
        _sliver_machine(samples, shown, machine, ports)
    return samples.text()


def _node(samples: Samples, status: "dict[str, Any]", now: float) -> None:
    node, registry, lent = status["node"], status["registry"], status["lent"]
    samples.add("confine_info", 1, version=status["version"], node=node.get("id"), name=node.get("name") or "")
    for state in NODE_STATES:
        samples.add("confine_node_state", int(node.get("state") == state), state=state)
    samples.add("confine_node_errors", len(node.get("errors") or []))
    samples.add("confine_rounds_total", status["round"])
    stands = (node.get("network") or {}).get("state")
    for state in NETWORK_STATES if stands is not None else ():
        samples.add("confine_network_state", int(stands == state), state=state)
    if "firewall" in status:
        samples.add("confine_firewall_in_order", int(status["firewall"]["ok"]))
    clock = node.get("clock") or {}
    for by in ("ntp", "registry", "none") if clock else ():
        samples.add("confine_clock_confirmed", int((clock["confirmed"] or "none") == by), by=by)
    error = clock.get("error_ms")
    samples.add("confine_clock_error_seconds", error / 1000 if error is not None else None)
    read = registry.get("last_read")
    samples.add("confine_registry_age_seconds", max(0.0, float(now - read)) if read is not None else None)
    samples.add("confine_registry_failing", int(registry.get("error") is not None))
    _overlay(samples, status.get("overlay") or {}, now)
    for resource in ("memory", "disk"):
        samples.add("confine_lent_bytes", lent[resource + "_total"] * MIB, resource=resource)
        samples.add("confine_booked_bytes", lent[resource + "_booked"] * MIB, resource=resource)
    _upgrade(samples, status.get("upgrade"))
    states: dict[str, int] = {}
    for sliver in status["slivers"]:
        states[sliver["state"]] = states.get(sliver["state"], 0) + 1
    for state, count in sorted(states.items()):
        samples.add("confine_slivers", count, state=state)


def _records(samples: Samples, records: "dict[str, dict[str, Any]]") -> None:
    for name, found in records.items():
        samples.add("confine_record_failing", int(found.get("error") is not None), record=name)
        samples.add("confine_record_damages", len(found.get("problems") or []), record=name)
    for member, family in RECORDED.items():
        record, _, figure = member.partition(" ")
        samples.add(family, (records.get(record) or {}).get(figure))


def _overlay(samples: Samples, overlay: "dict[str, Any]", now: float) -> None:
    if not overlay.get("asked"):
        return
    samples.add("confine_overlay_up", int(overlay["running"] and overlay["interface"]))
    for peer in overlay["peers"]:
        samples.add("confine_overlay_peer_reachable", int(peer["reachable"]), peer=peer["name"])
        seen = peer["last_seen"]
        age = max(0.0, float(now - seen)) if seen is not None else None
        samples.add("confine_overlay_peer_seen_seconds", age, peer=peer["name"])


def _upgrade(samples: Samples, shown: "dict[str, Any] | None") -> None:
    if shown is None:
        return
    version, offered = shown.get("version"), (shown.get("offered") or {}).get("version")
    samples.add("confine_upgrade_info", 1, slot=shown.get("running") or "", version=version or "")
    samples.add("confine_upgrade_state", 1, state=shown["state"])
    samples.add("confine_upgrade_offered", int(offered is not None and offered != version), version=offered or "")
    samples.add("confine_upgrade_problems", len(shown.get("problems") or []))


def _machine(samples: Samples, machine: "Machine") -> None:
    for mode, seconds in machine.cpu_seconds().items():
        samples.add("confine_node_cpu_seconds_total", seconds, mode=mode)
    for kind, count in machine.memory_bytes().items():
        samples.add("confine_node_memory_bytes", count, kind=kind)
    for kind, count in machine.disk_bytes().items():
        samples.add("confine_node_disk_bytes", count, kind=kind)
    for minutes, load in zip(("1", "5", "15"), machine.load(), strict=False):
        samples.add("confine_node_load", load, minutes=minutes)
    samples.add("confine_node_uptime_seconds", machine.uptime())
    for device in [name for name in machine.devices() if not name.startswith(OF_SLIVERS)][:MOST_DEVICES]:
        counted = machine.counters(device)
        samples.add("confine_node_network_receive_bytes_total", counted.get("rx_bytes"), device=device)
        samples.add("confine_node_network_transmit_bytes_total", counted.get("tx_bytes"), device=device)
    own = machine.own()
    samples.add("confine_daemon_cpu_seconds_total", own.get("cpu"))
    for name in ("memory_bytes", "descriptors", "threads"):
        held = own.get(name.split("_", 1)[0])
        samples.add("confine_daemon_" + name, int(held) if held is not None else None)


def _sliver(samples: Samples, shown: "dict[str, Any]") -> None:
    key = shown["id"]
    number = shown.get("nr")
    samples.add(
        "confine_sliver_info", 1, sliver=key, name=shown.get("name") or "", slice_name=shown.get("slice_name") or "",
        nr="" if number is None else number,
    )  # fmt: skip
    samples.add("confine_sliver_state", 1, sliver=key, state=shown.get("state"))
    samples.add("confine_sliver_errors", len(shown.get("errors") or []), sliver=key)
    usage = shown.get("usage") or {}
    for member, (family, factor) in USAGE.items():
        value = usage.get(member)
        samples.add(family, value * factor if value is not None else None, sliver=key)
    for member, limit in HITS.items():
        samples.add("confine_sliver_limit_hits_total", usage.get(member), sliver=key, limit=limit)


def _sliver_limits(samples: Samples, shown: "dict[str, Any]") -> None:
    key, limits = shown["id"], shown.get("limits") or {}
    held, memory = limits.get("held"), limits.get("memory_mib")
    samples.add("confine_sliver_limits_held", int(held) if held is not None else None, sliver=key)
    samples.add("confine_sliver_memory_limit_bytes", memory * MIB if memory is not None else None, sliver=key)
    samples.add("confine_sliver_processes_limit", limits.get("pids"), sliver=key)
    for entry in shown.get("resources") or []:
        if entry.get("name") == "disk" and entry.get("alloc") is not None:
            samples.add("confine_sliver_disk_allocated_bytes", entry["alloc"] * MIB, sliver=key)


def _sliver_bandwidth(samples: Samples, shown: "dict[str, Any]") -> None:
    key, usage = shown["id"], shown.get("usage") or {}
    for direction, bound in (shown.get("bandwidth") or {}).items():
        kbit, held = bound["kbit"], bound["held"]
        labels = {"sliver": key, "direction": direction}
        samples.add("confine_sliver_bandwidth_bits_per_second", kbit * 1000 if kbit else None, **labels)
        samples.add("confine_sliver_bandwidth_held", int(held) if held is not None else None, **labels)
        samples.add("confine_sliver_bandwidth_bytes_total", usage.get(direction + "_bytes"), **labels)
        samples.add("confine_sliver_bandwidth_dropped_packets_total", usage.get(direction + "_drops"), **labels)


def _sliver_machine(samples: Samples, shown: "dict[str, Any]", machine: "Machine", ports: "Iterable[str]") -> None:
    key, number = shown["id"], shown.get("nr")
    disk = machine.sliver_disk_bytes(shown["name"]) if shown.get("name") else {}
    if disk:
        samples.add("confine_sliver_disk_used_bytes", disk["total"] - disk["free"], sliver=key)
    if number is None:
        return
    mine = f"{SLIVER_PORT}{number:02x}-"
    for port in [port for port in ports if port.startswith(mine)]:
        counted, interface = machine.counters(port), port[len(mine) :]
        for unit in ("bytes", "packets"):  # what the node sends into the port, the sliver receives
            for family, member in (("receive", "tx_"), ("transmit", "rx_")):
                samples.add(
                    f"confine_sliver_network_{family}_{unit}_total", counted.get(member + unit),
                    sliver=key, interface=interface,
                )  # fmt: skip


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
