"""What a person reads: the status table and the plan."""

import pytest

from confine import tables


def doc(**changes):
    sliver = {
        "id": "5@1", "slice_name": "mesh", "state": "started", "set_state": "start", "nr": 1,
        "address": "192.168.241.1", "limits": {"memory_mib": 32, "disk_mib": 64}, "errors": [], "progress": None,
        "usage": {"memory_bytes": 3 * 1048576, "cpu_usec": 1500000},
    }  # fmt: skip
    sliver.update(changes)
    return {
        "node": {"id": 1, "name": "tower", "state": "production", "set_state": "production", "errors": []},
        "registry": {"uris": ["https://registry/api/"], "last_read": 990.0, "error": None},
        "lent": {"memory_booked": 32, "memory_total": 512, "disk_booked": 64, "disk_total": 2048},
        "slivers": [sliver],
    }


def test_the_status_names_node_registry_and_each_sliver_with_its_use_and_limits():
    text = tables.status(doc(), colour=False, now=1000.0)
    assert "node 0001 tower  production" in text
    assert "registry https://registry/api/  read 10 s ago" in text
    row = [line for line in text.splitlines() if line.startswith("5@1")][0].split()
    assert row == ["5@1", "mesh", "started", "start", "01", "192.168.241.1", "3.0", "/", "32", "1.5", "64"]


def test_a_download_shows_how_far_it_is():
    progress = {"step": "cache fetch template", "done": 5 * 1048576, "total": 10 * 1048576}
    text = tables.status(doc(state="registered", progress=progress, usage=None), colour=False, now=0)
    assert "cache fetch template [#####.....]  50%" in text


def test_a_failed_sliver_says_why_in_its_line():
    errors = [{"member": "/template", "message": "sha256 is aa.., not bb.."}]
    text = tables.status(doc(state="fail_allocate", errors=errors), colour=False, now=0)
    assert "/template sha256 is aa.., not bb.." in text


def test_an_unreachable_registry_and_a_node_without_id_are_said_plainly():
    status = doc()
    status["registry"] = {"uris": [], "last_read": None, "error": "connection refused"}
    status["node"] = {"id": None, "name": None, "state": "debug", "errors": [{"member": "", "message": "no id"}]}
    text = tables.status(status, colour=False, now=0)
    for words in ("registry none set  read never", "connection refused", "node (no id)", "no id"):
        assert words in text


def test_without_slivers_the_status_says_so():
    status = doc()
    status["slivers"] = []
    assert "no slivers are asked for" in tables.status(status, colour=True, now=0)


@pytest.mark.parametrize("seconds,text", [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"),
                                          (200000, "2 d ago"), (-5, "0 s ago")])  # fmt: skip
def test_ages_are_in_the_largest_unit(seconds, text):
    assert tables.ago(0.0, float(seconds)) == text


def test_the_plan_lists_steps_with_their_reasons_and_what_is_waited_for():
    text = tables.plan({
        "node_steps": [{"driver": "links", "verb": "bridge", "why": "the bridge is not there"}],
        "slivers": {
            "a": {"key": "5@1", "under_way": None, "waiting": "",
                  "steps": [{"driver": "containers", "verb": "start", "why": "it is to run"}]},
            "b": {"key": "6@1", "under_way": None, "steps": [], "waiting": "no number is free"},
        },
    })  # fmt: skip
    assert "node  links bridge: the bridge is not there" in text
    assert "5@1  1. containers start: it is to run" in text
    assert "6@1  no number is free" in text


def test_a_plan_of_nothing_says_that_all_is_as_asked():
    assert tables.plan({"node_steps": [], "slivers": {}}) == "nothing to do: everything is as asked\n"


def test_a_stopped_sliver_shows_the_decision_in_its_line():
    text = tables.status(doc(state="deployed", stopped=True, decisions=["Stopped by ann at T: attack."]), False, 0.0)
    assert "deployed, stopped" in text and "Stopped by ann at T: attack." in text


def test_one_sliver_is_shown_with_interfaces_decisions_and_errors():
    found = doc()["slivers"][0]
    found.update(name="000000000005_0001", template={"name": "Debian", "type": "debian"}, init_pid=77, paused=True,
                 interfaces=[{"type": "private", "name": "priv", "mac_addr": "54:c0:00:01:05:00", "ipv4_addr": "a/25",
                              "ipv6_addr": None},
                             {"type": "isolated", "name": "iso0", "vlan_tag": 0x123, "parent_name": "eth1"}],
                 bandwidth={"egress": {"kbit": 2000, "held": True}, "ingress": {"kbit": None, "held": None}},
                 decisions=["Paused by ann."],
                 errors=[{"member": "/template", "message": "is gone"}])  # fmt: skip
    text = tables.sliver(found)
    for words in ("000000000005_0001", "Debian (debian)", "started, paused", "54:c0:00:01:05:00  a/25",
                  "isolated  VLAN 0x123 of eth1", "2000 kbit/s at most, held", "Paused by ann.",
                  "/template is gone"):  # fmt: skip
        assert words in text


def test_evidence_is_shown_without_what_would_confuse_a_terminal():
    found = {"processes": [{"pid": 7, "State": "D", "command": "evil\x1b[2J"}], "connections": [], "sockets": {},
             "console": "hello\x1b]0;title\x07", "interfaces": {"slv-01-00": {"rx_bytes": "5"}},
             "cgroup": {"pids.current": "3"}}  # fmt: skip
    stops = {"all": {"who": "ann", "when": "T", "why": "fire", "kill": False}}
    text = tables.stops({"stops": stops, "evidence": {"x": found, "y": None}}, whole=True)
    assert "\x1b" not in text and "\x07" not in text
    for words in ("all stopped by ann at T: fire (frozen)", "7 D evil", "hello", "rx_bytes=5", "y  no evidence",
                  "x  1 process, 0 connections, 1 line of console"):  # fmt: skip
        assert words in text
    assert tables.stops({"stops": {}, "evidence": {}}, False) == "nothing is stopped\n"


def test_a_trace_names_slice_people_and_flows():
    answer = {
        "certainty": "certain", "key": "5@1", "sliver": "n", "slice": {"name": "mesh"}, "why": "",
        "people": [{"name": "Ann", "roles": ["researcher"]}],
        "flows": [{"begin": 0.0, "protocol": 6, "inside": "192.168.241.5", "inside_port": 4000, "remote": "192.0.2.1",
                   "remote_port": 80, "bytes_out": 12}],
    }  # fmt: skip
    text = tables.traced([answer])
    for words in ("certain: sliver 5@1 of slice mesh", "Ann  researcher",
                  "00:00:00 tcp 192.168.241.5:4000 - 192.0.2.1:80, 12 bytes out\n"):  # fmt: skip
        assert words in text
    answer["flows"][0].update(bytes_out=None, protocol=99)
    assert "00:00:00 protocol 99 192.168.241.5:4000 - 192.0.2.1:80\n" in tables.traced([answer])
    assert "nothing is recorded" in tables.traced([])


PEER = {"name": "server_1", "connect": True, "reachable": True, "since": 940.0, "last_seen": 1000.0,
        "addresses": ["10.1.0.2 655"], "at": "10.1.0.2 655", "said": None}  # fmt: skip
OVERLAY = {"asked": True, "running": True, "interface": True, "name": "node_18", "address": "fd65:fc41:c50f:12::2",
           "pubkey": "-----BEGIN PUBLIC KEY-----", "published": False, "peers": [PEER]}  # fmt: skip


def test_the_overlay_shows_key_peers_and_what_to_do_with_the_key():
    text = tables.overlay(OVERLAY, colour=False, now=1000.0)
    assert "overlay node_18  fd65:fc41:c50f:12::2  tincd runs" in text
    assert "server_1  reachable  1 min ago  10.1.0.2 655" in text
    assert "BEGIN PUBLIC KEY" in text and "confine overlay --publish" in text
    away = {**PEER, "reachable": False, "at": None, "said": "no address of it answers"}
    assert "server_1  away" in tables.overlay({**OVERLAY, "peers": [away]}, colour=False, now=1000.0)
    assert "no overlay is asked for" in tables.overlay({**OVERLAY, "asked": False}, colour=False)


def test_the_status_says_whom_the_overlay_reaches():
    text = tables.status({**doc(), "overlay": OVERLAY}, colour=False, now=1000.0)
    assert "overlay fd65:fc41:c50f:12::2  reaches server_1" in text
    assert "overlay" not in tables.status({**doc(), "overlay": {**OVERLAY, "asked": False}}, colour=False, now=1000.0)
