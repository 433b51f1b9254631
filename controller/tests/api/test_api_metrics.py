"""The figures, read as Prometheus reads them."""

import gzip
import re
from pathlib import Path

import pytest
from api_world import EVIL, Api, FakeNode

from confine.api import metrics
from confine.api.figures import Machine

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def parsed(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels. Holds the text against the rules of the format on the way."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    family, kinds, said = "", {}, set()
    assert text.endswith(b"\n")
    for line in text.decode().splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in said, f"{family} comes in two pieces"
            said.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and kind in ("counter", "gauge")
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == family and (kinds[family] == "counter") == family.endswith("_total"), line
            key = match[1], frozenset(LABEL.findall(match[2] or ""))
            assert key not in found, line
            found[key] = float(match[3])
    return found


def value(samples: dict, name: str, /, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_a_scrape_says_how_the_node_and_its_slivers_are(api: Api) -> None:
    api.get("node/")
    answer = api.get("metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(answer.body)
    assert value(found, "confine_info", version="1.2", node="42", name="mill") == 1
    assert value(found, "confine_node_state", state="production") == 1
    assert value(found, "confine_node_state", state="safe") == 0
    assert value(found, "confine_rounds_total") == 7 and value(found, "confine_registry_failing") == 0
    assert 5 <= value(found, "confine_registry_age_seconds") < 60
    assert value(found, "confine_slivers", state="started") == 2
    assert value(found, "confine_booked_bytes", resource="memory") == 100 * 1024 * 1024
    assert value(found, "confine_api_requests_total", status="200") >= 1
    sliver = {"sliver": "5@42"}
    assert value(found, "confine_sliver_cpu_seconds_total", **sliver) == 2.5
    assert value(found, "confine_sliver_memory_limit_bytes", **sliver) == 50 * 1024 * 1024
    assert value(found, "confine_sliver_disk_allocated_bytes", **sliver) == 100 * 1024 * 1024
    hits = [value(found, "confine_sliver_limit_hits_total", limit=limit, **sliver)
            for limit in ("memory_killed", "memory", "processes")]  # fmt: skip
    assert hits == [1, 2, 4]


def test_what_the_firewall_dropped_is_counted_for_each_sliver_by_reason(
    api: Api, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.change(lambda doc: doc.update(firewall={"ok": False, "since": 1.0, "said": "x"}))
    monkeypatch.setattr(Machine, "drops", lambda self: {(1, "spoofed"): 4, (99, "flooded"): 7})
    found = parsed(api.get("metrics").body)
    name = "confine_sliver_network_refused_packets_total"
    assert value(found, "confine_firewall_in_order") == 0
    assert value(found, name, sliver="5@42", reason="spoofed") == 4
    assert value(found, name, sliver="5@42", reason="flooded") == 0


def test_what_is_not_recorded_can_be_seen(api: Api, node: FakeNode) -> None:
    flows = {"open": 3, "events": 40, "overruns": 2, "coarse": 5, "lost_batches": 1, "error": "no", "problems": ["a"]}
    actions = {"waiting": 7, "lost": 8, "error": None, "problems": []}
    node.change(lambda doc: doc.update(records={"flows": flows, "actions": actions}))
    found = parsed(api.get("metrics").body)
    assert value(found, "confine_flow_overruns_total") == 2
    assert value(found, "confine_flow_coarse_total") == 5
    assert value(found, "confine_flow_lost_batches_total") == 1
    assert value(found, "confine_actions_lost_total") == 8
    failing = [value(found, "confine_record_failing", record=record) for record in ("flows", "actions")]
    assert failing == [1, 0]
    assert value(found, "confine_record_damages", record="flows") == 1


def test_the_machines_figures_are_there(api: Api) -> None:
    found = parsed(api.get("metrics", accept_encoding="identity").body)
    assert value(found, "confine_node_memory_bytes", kind="total") > value(
        found, "confine_node_memory_bytes", kind="available"
    )
    assert value(found, "confine_node_cpu_seconds_total", mode="idle") > 0
    assert value(found, "confine_node_disk_bytes", kind="free") > 0
    assert value(found, "confine_daemon_memory_bytes") > 1_000_000
    assert value(found, "confine_daemon_descriptors") > 3 and value(found, "confine_daemon_threads") >= 2


def test_a_scrape_is_compressed_if_that_is_accepted(api: Api) -> None:
    assert parsed(gzip.decompress(api.get("metrics", accept_encoding="gzip").body))


def test_names_from_the_registry_cannot_break_the_format(api: Api, node: FakeNode) -> None:
    name = EVIL + '\n"} 1\nconfine_fake 1 \\'
    node.change(lambda doc: (doc["node"].update(name=name), doc["slivers"][0].update(slice_name=name)))
    found = parsed(api.get("metrics").body)
    assert not any(family == "confine_fake" for family, _ in found)


def test_what_a_sliver_receives_is_what_the_node_sends_it(node: FakeNode, tmp_path: Path) -> None:
    counters = {"slv-01-00": (10, 20), "slv-02-00": (1, 2), "eth0": (300, 400), "lo": (5, 5)}
    for device, (received, sent) in counters.items():
        directory = tmp_path / "class/net" / device / "statistics"
        directory.mkdir(parents=True)
        (directory / "rx_bytes").write_text(f"{received}\n")
        (directory / "tx_bytes").write_text(f"{sent}\n")
    machine = Machine(str(tmp_path), str(tmp_path), sys=str(tmp_path))
    found = parsed(metrics.render(node.doc, machine, {"requests": {}, "connections": 0, "dropped": 0}, 0.0))
    name = "confine_sliver_network_{}_bytes_total"
    assert value(found, name.format("receive"), sliver="5@42", interface="00") == 20
    assert value(found, name.format("transmit"), sliver="5@42", interface="00") == 10
    assert value(found, "confine_node_network_receive_bytes_total", device="eth0") == 300
    assert not any(("device", device) in labels for _, labels in found for device in ("lo", "slv-01-00"))


def test_what_cannot_be_read_is_left_out(node: FakeNode, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for sliver in node.doc["slivers"]:
        sliver.update(usage=None, nr=None, limits={})
    node.doc["registry"]["last_read"] = None
    machine = Machine(nowhere, nowhere, sys=nowhere, proc=nowhere)
    found = parsed(metrics.render(node.doc, machine, {"requests": {}, "connections": 0, "dropped": 0}, 0.0))
    names = {name for name, _ in found}
    assert "confine_registry_age_seconds" not in names and "confine_sliver_memory_bytes" not in names
    assert "confine_node_memory_bytes" not in names and "confine_slivers" in names


def test_every_family_is_described_and_named_by_its_unit() -> None:
    for name, (kind, words) in metrics.FAMILIES.items():
        assert re.fullmatch("confine_[a-z_]+", name) and (kind == "counter") == name.endswith("_total")
        assert words.endswith(".") and "\n" not in words


def test_the_overlays_peers_are_told_one_by_one() -> None:
    samples = metrics.Samples()
    peers = [{"name": "server_1", "reachable": True, "last_seen": 1000.0},
             {"name": "server_2", "reachable": False, "last_seen": None}]  # fmt: skip
    metrics._overlay(samples, {"asked": True, "running": True, "interface": True, "peers": peers}, 1000.0)
    found = parsed(samples.text())
    assert value(found, "confine_overlay_up") == 1
    assert value(found, "confine_overlay_peer_reachable", peer="server_2") == 0
    assert value(found, "confine_overlay_peer_seen_seconds", peer="server_1") == 0
    assert ("confine_overlay_peer_seen_seconds", frozenset({("peer", "server_2")})) not in found
