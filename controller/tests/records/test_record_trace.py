"""Which slice, which people sent this packet at that time: answered from the files, as surely as they allow."""

import pytest
from core_world import BASE, settings
from hypothesis import given
from hypothesis import strategies as st
from record_world import FAR, NAME, NODE_ADDRESS, OTHER, Clock, bookings, packed, state, target, translated

from confine.paths import Paths
from confine.records import owners
from confine.records.actions import ActionLog
from confine.records.conntrack import events
from confine.records.flow_table import FlowTable
from confine.records.flows import store
from confine.records.trace import Query, answers, canonical, group_matches, matches, protocol_number, trace

SETTINGS = settings()
NAMES = {packed("192.168.241.1"): NAME, packed("192.168.241.2"): OTHER}


class Node:
    """A node whose records are written as time passes. Each `write` is what the recorder does every ten minutes."""

    def __init__(self, data):
        self.paths = Paths(data=data)
        self.clock = Clock()
        self.log = ActionLog(self.paths, SETTINGS, self.clock)
        self.keeper = owners.Owners(self.log, SETTINGS)
        self.kept = store(self.paths, SETTINGS)
        self.restart()

    def restart(self):
        """The daemon begins anew; what it did not write is lost."""
        self.table, self.session = FlowTable(NAMES.get), "s{}".format(self.clock.up)

    def reboot(self, sure=True, wall=None):
        self.clock.boot, self.clock.up, self.clock.sure = "c{:.0f}".format(self.clock.up), 10.0, sure
        self.clock.wall = self.clock.wall if wall is None else wall
        self.restart()

    def hold(self, found=None, slivers=None):
        self.keeper.look(found or state(), [target()], bookings() if slivers is None else slivers)
        assert self.log.flush(20)

    def send(self, **options):
        for event in events(translated(**options)):
            self.table.note(event, self.clock.up)

    def write(self):
        self.kept.append(self.table.take(), self.clock(), self.session)

    def trace(self, address=NODE_ADDRESS, time=None, port=50000, protocol=None):
        return trace(self.paths, SETTINGS, address, self.clock.wall if time is None else time, port, protocol)


@pytest.fixture
def node(tmp_path):
    made = Node(str(tmp_path))
    made.hold()
    yield made
    assert made.log.close(20)


def test_a_complaint_of_the_outside_finds_slice_group_and_people_for_certain(node):
    node.send()
    begin = node.clock.wall
    node.clock.on(30)
    node.send(ended=True, counts=(5, 500, 4, 4000))
    node.clock.on(600)
    node.write()
    (found,) = node.trace(time=begin + 15, protocol="tcp")
    assert (found["certainty"], found["as"], found["sliver"], found["key"]) == ("certain", "outside", NAME, "5@42")
    assert found["slice"] == {"id": 5, "name": "weather", "uri": BASE + "slices/5/"}
    assert found["group"]["name"] == "Students"
    assert found["node"]["name"] == "mill"
    people = [(person["name"], person["roles"], person["active"]) for person in found["people"]]
    assert people == [("ann", ["slice_admin"], True), ("bob", ["group_admin"], False)]
    (flow,) = found["flows"]
    assert (flow["inside"], flow["inside_port"], flow["remote"], flow["remote_port"]) == (
        "192.168.241.1",
        40000,
        FAR,
        80,
    )
    assert (flow["begin"], flow["end"], flow["bytes_out"]) == (begin, begin + 30, 500)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, True),
        ({"port": 50001}, False),
        ({"port": None}, True),
        ({"protocol": "udp"}, False),
        ({"protocol": 6}, True),
        ({"address": "192.168.241.1", "port": 40000}, True),
        ({"address": FAR, "port": 80}, True),
        ({"address": "198.51.100.10"}, False),
        ({"address": "::ffff:" + NODE_ADDRESS}, True),
        ({"before": 60}, False),
        ({"before": -60}, False),
    ],
)
def test_only_what_fits_address_port_protocol_and_time_is_found(node, query, found):
    node.clock.on(100)
    node.send()
    begin = node.clock.wall
    node.clock.on(10)
    node.send(ended=True)
    node.write()
    query = dict(query)
    assert bool(node.trace(time=begin + 5 - query.pop("before", 0), **query)) is found


def test_two_slivers_behind_one_address_are_told_apart_by_the_port(node):
    node.send()
    node.send(inside="192.168.241.2", outside_port=50001, id=2)
    node.write()
    assert [found["sliver"] for found in node.trace(port=50000)] == [NAME]
    assert [found["sliver"] for found in node.trace(port=50001)] == [OTHER]
    both = node.trace(port=None)
    assert {found["sliver"] for found in both} == {NAME, OTHER}
    assert {found["certainty"] for found in both} == {"likely"}


def test_people_are_those_of_that_time_not_of_now(node):
    node.send()
    node.write()
    then = node.clock.wall
    node.clock.on(1000)
    changed = state()
    changed["docs"][BASE + "groups/3/"]["user_roles"] = [{"user": {"uri": BASE + "users/2/"}, "is_slice_admin": True}]
    node.hold(changed)
    assert [person["name"] for person in node.trace(time=then)[0]["people"]] == ["ann", "bob"]
    assert [person["name"] for person in node.trace()[0]["people"]] == ["bob"]


def test_an_open_connection_is_found_long_after_it_began(node):
    node.send()
    node.write()
    node.clock.on(86400 * 3)
    (found,) = node.trace()
    assert found["certainty"] == "likely"
    assert "its end is not known" in found["why"]


def test_an_end_that_was_written_ends_it_wherever_it_stands(node):
    node.send()
    node.write()
    node.clock.on(60)
    node.send(ended=True)
    node.write()
    node.clock.on(600)
    assert node.trace() == []
    assert node.trace(time=node.clock.wall - 630)[0]["certainty"] == "certain"


def test_what_was_open_when_the_daemon_was_killed_ends_with_what_the_next_one_writes(node):
    node.send()
    node.write()
    node.clock.on(60)
    node.restart()
    node.send(inside="192.168.241.2", outside_port=50001, id=2)
    node.write()
    node.clock.on(60)
    assert node.trace() == []
    assert node.trace(time=node.clock.wall - 90)


def test_after_a_reboot_without_a_clock_records_of_before_keep_their_time(node):
    node.send()
    node.write()
    then = node.clock.wall
    node.reboot(sure=False, wall=5000.0)
    node.send(outside_port=51000)
    node.write()
    (found,) = node.trace(time=5000.0, port=51000)
    assert (found["certainty"], "clock was not confirmed" in found["why"]) == ("likely", True)
    node.clock.on(10)
    node.clock.wall, node.clock.sure = then + 1000, True
    node.send(outside_port=51001, id=2)
    node.write()
    assert node.trace(time=5000.0, port=51000) == []
    assert node.trace(time=then + 995, port=51000)
    assert node.trace(time=then)[0]["certainty"] == "certain"


def test_without_a_recorded_connection_the_address_alone_is_a_possible_answer(node):
    (found,) = node.trace("192.168.241.1", port=None)
    assert (found["certainty"], found["sliver"], found["flows_found"]) == ("possible", NAME, 0)
    node.clock.on(100)
    node.hold(slivers={})
    node.clock.on(100)
    assert node.trace("192.168.241.1", port=None) == []
    assert node.trace("192.168.241.1", node.clock.wall - 150, None)


def test_a_connection_of_a_sliver_nobody_is_known_for_says_so(node):
    node.send(inside="192.168.241.2")
    node.write()
    (found,) = node.trace()
    assert (found["sliver"], found["slice"], found["people"]) == (OTHER, None, [])
    assert "no longer recorded" in found["why"]


def test_a_flood_that_was_kept_in_bulk_is_a_possible_answer(node):
    for number in range(3000):
        node.send(id=number, sport=number, outside_port=10000 + number)
    node.write()
    (found,) = node.trace(port=12999)
    assert (found["certainty"], found["flows"][0]["count"]) == ("possible", 3000 - 1024)
    assert node.trace(port=9999) == []


def test_a_node_without_records_knows_nothing_and_writes_nothing(tmp_path):
    assert trace(Paths(data=str(tmp_path)), SETTINGS, FAR, 1e9) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["", "x", "1.2.3", "1.2.3.4.5", "::1::", "1.2.3.4\0", "node.example"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="is not an IPv4 or IPv6 address"):
        canonical(address)


@pytest.mark.parametrize("protocol", ["", "http", "-1", "256", "²"])
def test_what_is_no_protocol_is_refused(protocol):
    with pytest.raises(ValueError, match="is not known"):
        protocol_number(protocol)


ADDRESSES = st.sampled_from(["192.168.241.1", FAR, NODE_ADDRESS])
PORTS = st.integers(0, 5)
ROW = st.tuples(st.sampled_from([6, 17]), st.just("out"), ADDRESSES, PORTS, ADDRESSES, PORTS, ADDRESSES, PORTS)


@given(ROW, ADDRESSES, st.none() | PORTS, st.sampled_from([None, 6, 17]))
def test_a_flow_matches_exactly_if_one_of_its_ends_has_address_and_port(row, address, port, protocol):
    query = Query(address, 0, port, protocol)
    ends = [(row[2], row[3]), (row[4], row[5]), (row[6], row[7])]
    fits = any(end == (address, port if port is not None else end[1]) for end in ends)
    assert (matches(list(row), query) is not None) == (fits and protocol in (None, row[0]))


@given(st.none() | ADDRESSES, st.none() | ADDRESSES, PORTS, PORTS, ADDRESSES, st.none() | PORTS)
def test_a_group_never_excludes_a_connection_it_may_contain(remote, outside, low, high, address, port):
    row = [6, "out", remote, outside, min(low, high), max(low, high), 9, 0.0, 1.0, 0, 0]
    found = group_matches(row, Query(address, 0, port))
    if outside in (None, address) and (port is None or min(low, high) <= port <= max(low, high)):
        assert found == "outside"
    if remote == address:
        assert found is not None


def test_answers_come_surest_first():
    flow = {"sliver": NAME, "certainty": "possible", "begin": 1.0, "why": "", "as": "outside"}
    sure = {**flow, "sliver": OTHER, "certainty": "likely"}
    assert [found["sliver"] for found in answers(Query(FAR, 5), [flow, sure], [])] == [OTHER, NAME]
