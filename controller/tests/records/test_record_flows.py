"""Which connections a sliver had: heard from the kernel, bounded whatever is sent, kept through restarts and cuts."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_world import FAR, NAME, NODE_ADDRESS, OTHER, Clock, message, packed, translated

from confine.records import conntrack, flow_store, flow_table
from confine.records.flow_store import FlowStore
from confine.records.flow_table import FlowTable
from confine.records.flows import packed as addresses_of

MIB = 1024 * 1024
# Heard on Linux 6.18 when a UDP packet went from 127.0.0.1:56829 to 127.0.0.1:5000.
CAPTURED = bytes.fromhex(
    "a0000000000100060000000000000000020000003400018014000180080001007f000001080002007f0000011c0002800500010011000000"
    "06000200ddfd000006000300138800003400028014000180080001007f000001080002007f0000011c0002800500010011000000060002001"
    "388000006000300ddfd000008000c0051dffa04080003000000000808000700000000010c001b0018e9b82fc550dad4"
)


def events(*messages):
    return [event for message in messages for event in conntrack.events(message)]


def table(**slivers):
    names = {packed("192.168.241.1"): NAME, packed("192.168.241.2"): OTHER, packed("fd00::5"): NAME}
    return FlowTable(names.get)


def noted(found, *messages, up=100.0, wall=None):
    for event in events(*messages):
        found.note(event, up, wall)
    return found


# ---- what the kernel says -----------------------------------------------------------------------------------------


def test_a_message_of_a_real_kernel_is_understood():
    (event,) = events(CAPTURED)
    assert not event.ended
    assert (event.out.src, event.out.sport, event.out.dport) == (b"\x7f\0\0\1", 56829, 5000)
    assert (event.back.sport, event.back.dport, event.out.protocol) == (5000, 56829, 17)


def test_a_message_cut_off_or_flipped_anywhere_raises_nothing():
    for cut in range(len(CAPTURED)):
        events(CAPTURED[:cut])
        for bit in range(8):
            events(CAPTURED[:cut] + bytes([CAPTURED[cut] ^ 1 << bit]) + CAPTURED[cut + 1 :])


@given(st.binary(max_size=200))
def test_any_datagram_is_borne(data):
    events(data, CAPTURED + data)


def test_the_end_of_a_listing_is_told():
    assert events(bytes.fromhex("1400000003000200010000000037000000000000")) == [None]


# ---- the table ----------------------------------------------------------------------------------------------------


def test_a_connection_has_its_addresses_before_and_after_translation_its_span_and_bytes():
    found = noted(table(), translated(), up=100.0)
    noted(found, translated(ended=True, counts=(5, 500, 4, 4000)), up=130.0)
    (row,) = found.take()[NAME]["flows"]
    assert row == [6, "out", "192.168.241.1", 40000, FAR, 80, NODE_ADDRESS, 50000, 100.0, 130.0, 5, 500, 4, 4000, True]
    assert found.take() == {}


def test_an_open_connection_is_written_once_and_again_when_it_ended_or_when_asked():
    found = noted(table(), translated())
    assert found.take()[NAME]["flows"][0][9] is None
    assert found.take() == {}
    found.say_again()
    assert found.take()[NAME]["flows"][0][9] is None
    noted(found, translated(ended=True), up=101.0)
    assert found.take()[NAME]["flows"][0][8:10] == [100.0, 101.0]


def test_a_connection_from_outside_to_a_sliver_is_its_own_too():
    inbound = message((FAR, NODE_ADDRESS, 6, 1234, 8080), ("192.168.241.1", FAR, 6, 80, 1234))
    (row,) = noted(table(), inbound).take()[NAME]["flows"]
    assert row[1:8] == ["in", "192.168.241.1", 80, FAR, 1234, NODE_ADDRESS, 8080]


def test_echo_requests_and_ipv6_are_recorded():
    ping = message(("192.168.241.1", FAR, 1, 77, 8 << 8), (FAR, NODE_ADDRESS, 1, 99, 0))
    six = message(("fd00::5", "2001:db8::9", 17, 5, 53), ("2001:db8::9", "2001:db8::1", 17, 53, 6), id=2)
    rows = noted(table(), ping, six).take()[NAME]["flows"]
    assert rows[0][:8] == [1, "out", "192.168.241.1", 77, FAR, 8 << 8, NODE_ADDRESS, 99]
    assert rows[1][2:8] == ["fd00::5", 5, "2001:db8::9", 53, "2001:db8::1", 6]


def test_traffic_that_is_no_slivers_is_not_recorded():
    assert noted(table(), CAPTURED, translated(inside="10.9.8.7")).take() == {}


def test_a_connection_that_began_before_it_was_heard_of_has_the_kernels_time():
    found = noted(table(), translated(began=1000.0), up=500.0, wall=1100.0)
    assert found.take()[NAME]["flows"][0][8] == 400.0
    found = noted(table(), translated(began=1000.0), up=50.0, wall=1100.0)  # the clock was set since
    assert found.take()[NAME]["flows"][0][8] == 50.0


def test_what_a_listing_does_not_show_any_more_has_ended_and_that_is_marked_as_concluded():
    found = noted(table(), translated(id=1), translated(id=2, sport=40001), up=100.0)
    found.take()
    found.begin_listing(200.0)
    noted(found, translated(id=2, sport=40001), up=200.0)
    found.end_listing(201.0)
    (row,) = found.take()[NAME]["flows"]
    assert (row[3], row[9], row[14]) == (40000, 201.0, False)
    assert found.open_flows() == 1


def flood(found, count, inside="192.168.241.1", ended=True):
    for number in range(count):
        far = "198.18.{}.{}".format(number // 250 % 250, number % 250)
        options = {
            "inside": inside,
            "far": far,
            "id": number,
            "sport": 1000 + number % 60000,
            "outside_port": number % 65536,
        }
        noted(found, translated(**options))
        if ended:
            noted(found, translated(ended=True, counts=(1, 100, 0, 0), **options), up=101.0)


@pytest.mark.parametrize("ended", [True, False])
def test_a_flood_of_one_sliver_is_bounded_counted_and_takes_nothing_from_another(ended):
    found = table()
    flood(found, 20000, ended=ended)
    noted(found, translated(inside="192.168.241.2", id=99999))
    assert found.open_flows() <= flow_table.OPEN_ALL // flow_table.OPEN_SHARE_OF + 1
    batch = found.take()
    assert len(batch[NAME]["flows"]) <= flow_table.ENDED_EACH
    assert len(batch[NAME]["groups"]) <= flow_table.GROUPS_EACH + 1
    assert len(batch[OTHER]["flows"]) == 1
    assert sum(row[6] for row in batch[NAME]["groups"]) == 20000 - len(batch[NAME]["flows"]) == found.coarse


def test_many_slivers_flooding_at_once_stay_within_the_table():
    names = {packed("192.168.241.{}".format(nr)): "s{}".format(nr) for nr in range(1, 126)}
    found = FlowTable(names.get)
    for nr in range(1, 126):
        flood(found, 300, "192.168.241.{}".format(nr), ended=False)
    assert found.open_flows() <= 2 * flow_table.OPEN_ALL
    assert len(found.take()) == 125


# ---- the files ----------------------------------------------------------------------------------------------------


def batch_of(name, first, count, large=False):
    rows = []
    for n in range(first, first + count):
        far = socket.inet_ntoa(os.urandom(4)) if large else FAR
        rows.append([6, "out", "192.168.241.1", n, far, 80, NODE_ADDRESS, n, float(n), n + 0.5, 1, 2, 3, 4, True])
    return {name: {"flows": rows, "groups": []}}


def kept(store):
    found = {}
    for _, batch in store.batches(lambda head: True):
        for name, rows in batch.items():
            found.setdefault(name, set()).update(row[3] for row in rows["flows"])
    return found


def test_what_was_written_is_read_by_another_process_also_after_it_was_sorted(tmp_path):
    clock = Clock()
    store = FlowStore(str(tmp_path), 2 * MIB, 90)
    begun = 0
    for first in range(0, 60000, 1000):
        begun += store.append(batch_of(NAME, first, 900, True), clock.on(600)(), "s")
        store.append(batch_of(OTHER, first, 10), clock(), "s")
    assert begun >= 2
    again = FlowStore(str(tmp_path), 2 * MIB, 90)
    assert os.listdir(tmp_path / "of")
    assert len(again.recent.numbers()) == 1
    assert kept(again)[OTHER] == {first + n for first in range(0, 60000, 1000) for n in range(10)}


@pytest.mark.slow
def test_a_sliver_that_fills_the_record_pushes_out_its_own_and_the_bound_holds(tmp_path):
    clock = Clock()
    store = FlowStore(str(tmp_path), MIB, 90)
    store.append(batch_of(OTHER, 1, 50), clock(), "s")
    for first in range(0, 120000, 1000):
        store.append(batch_of(NAME, first, 1000, True), clock.on(600)(), "s")
    assert store.size() <= MIB + MIB // 8
    found = kept(store)
    assert found[OTHER] == set(range(1, 51))
    assert 119999 in found[NAME]
    assert 0 not in found[NAME]


def test_a_power_cut_while_sorting_loses_nothing(tmp_path, monkeypatch):
    clock = Clock()
    store = FlowStore(str(tmp_path), 2 * MIB, 90)

    def cut(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.recent, "drop", cut)
    first = 0
    with pytest.raises(KeyboardInterrupt):
        while True:
            store.append(batch_of(NAME, first, 1000, True), clock(), "s")
            first += 1000
    again = FlowStore(str(tmp_path), 2 * MIB, 90)
    again.tidy(clock())
    assert kept(again)[NAME] == set(range(first + 1000))
    heads = [head for head in again.heads() if head["from"] is not None]
    assert len(heads) == len({(head["up"], head["first"]) for head in heads})


def test_one_damaged_byte_costs_at_most_one_batch_and_raises_nothing(tmp_path):
    clock = Clock()
    store = FlowStore(str(tmp_path / "good"), MIB, 90)
    for first in (0, 100, 200):
        store.append(batch_of(NAME, first, 3), clock(), "s")
    with open(store.recent.path(1), "rb") as file:
        data = file.read()
    for at in range(len(data)):
        broken = FlowStore(str(tmp_path / "bad"), MIB, 90)
        os.makedirs(broken.recent.directory, exist_ok=True)
        with open(broken.recent.path(1), "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        assert len(kept(broken)[NAME]) == 6
        assert broken.problems


@given(st.binary(max_size=100), st.binary(max_size=50))
def test_any_payload_is_borne(payload, packed_rows):
    flow_store.split(payload)
    flow_store.unpack(packed_rows)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=15) | st.dictionaries(st.sampled_from([NAME, "flows", "groups"]), inner),
        max_leaves=30,
    )
)
def test_rows_of_any_shape_are_left_out_unless_they_are_rows(value):
    import json
    import zlib

    for rows in flow_store.unpack(zlib.compress(json.dumps(value).encode())).values():
        assert all(len(row) == flow_store.FLOW_ROW for row in rows["flows"])


def test_addresses_that_are_none_are_left_out():
    assert addresses_of([(NAME, 1, ["192.168.241.1", "rubbish", "fd00::5"])]) == {
        packed("192.168.241.1"): NAME,
        packed("fd00::5"): NAME,
    }


# ---- a real kernel, in a network of its own -----------------------------------------------------------------------

SCENE = """
import os, socket, subprocess, sys, time
from confine.core.settings import Settings
from confine.paths import Paths
from confine.records.flows import FlowRecorder
from confine.records.trace import trace

def wait(what, condition):
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, what + ": " + repr(recorder.status())
        time.sleep(0.02)

# From another process, while this one is held: a recorder that keeps up would lose nothing, however small its buffer.
FLOOD = '''
import os, signal, socket
os.kill(os.getppid(), signal.SIGSTOP)
try:
    for number in range(300):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.bind(("10.66.0.1", 20000 + number))
            flood.sendto(b"x", ("10.66.0.9", 9000))
finally:
    os.kill(os.getppid(), signal.SIGCONT)
'''
rules = '''table inet t {
 chain out {
  type nat hook postrouting priority srcnat;
  ip saddr 10.66.0.1 udp dport 5000 snat to 10.66.0.9:7777
 }
 chain seen {
  type filter hook output priority 0;
  ct state new accept
 }
}'''
for line in ("link set lo up", "address add 10.66.0.1/24 dev lo", "address add 10.66.0.9/24 dev lo"):
    subprocess.run(["ip", *line.split()], check=True)
subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
paths, settings = Paths(data=sys.argv[1]), Settings()
recorder = FlowRecorder(paths, settings, lambda: [("000000000005_0001", 1, ["10.66.0.1"])])
before = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
before.bind(("10.66.0.1", 4001)); before.sendto(b"early", ("10.66.0.9", 6000))
recorder.start()
wait("the connection that was there is listed", lambda: recorder.status()["open"] == 1)
with open("/proc/sys/net/netfilter/nf_conntrack_acct") as file:
    assert file.read().strip() == "1"
later = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
later.bind(("10.66.0.1", 4002)); later.sendto(b"packet", ("10.66.0.9", 5000))
wait("the new one is heard", lambda: recorder.status()["open"] == 2)
assert recorder.flush(15), recorder.status()
now = time.time()
(answer,) = trace(paths, settings, "10.66.0.9", now, 7777, "udp")
assert answer["sliver"] == "000000000005_0001" and answer["as"] == "outside", answer
assert (answer["flows"][0]["inside"], answer["flows"][0]["inside_port"]) == ("10.66.0.1", 4002)
assert trace(paths, settings, "10.66.0.9", now, 7778, "udp") == []
assert trace(paths, settings, "10.66.0.9", now - 3600, 7777, "udp") == []
assert trace(paths, settings, "10.66.0.1", now, 4001, "udp")
subprocess.run([sys.executable, "-c", FLOOD], check=True)
wait("the flood is known in the end", lambda: recorder.status()["open"] >= 300)
assert recorder.close(15)
assert recorder.status()["overruns"] >= int(sys.argv[2]), recorder.status()
print("all is well")
"""


@pytest.mark.parametrize(("buffer", "overruns"), [(1024 * 1024, 0), (2304, 1)])
def test_a_real_kernels_connections_are_recorded_with_translation_also_after_events_were_lost(
    tmp_path, buffer, overruns
):
    if os.geteuid() != 0:
        pytest.skip("needs root: a network of its own")
    early = "from confine.records import flows\nflows.BUFFER = {}\nflows.LIST_AFTER_LOSS_S = 0.1\n".format(buffer)
    command = ["unshare", "--net", sys.executable, "-c", early + textwrap.dedent(SCENE), str(tmp_path), str(overruns)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=55, env={**os.environ, "PYTHONPATH": "controller"}
    )
    if "Protocol not supported" in done.stderr:
        pytest.skip("this kernel has no connection tracking")
    assert done.stdout == "all is well\n", done.stderr
