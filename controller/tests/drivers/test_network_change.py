"""Changing the node's network with the real libuci: what a cut at any point leaves, and what is never touched."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

uci_binding = pytest.importorskip("uci", reason="libuci's binding was not built: make build/stamp/uci")

from confine import durable, undo_network  # noqa: E402
from confine.core import network_change  # noqa: E402
from confine.core.model import Step  # noqa: E402
from confine.core.settings import Settings  # noqa: E402
from confine.drivers import network, rtnetlink, uci  # noqa: E402
from confine.drivers.witnesses import Witnesses  # noqa: E402
from confine.errors import SettingsError, StepError  # noqa: E402
from confine.paths import Paths  # noqa: E402

NETWORK = """
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	list ipaddr '127.0.0.1/8'

# the member's own words
config device
	option name 'br-lan'
	option type 'bridge'
	list ports 'eth0'

config interface 'lan'
	option device 'br-lan'
	option proto 'static'
	list ipaddr '192.168.1.1/24'
	option note 'it''s "mine" \\ and `odd`'

config interface 'confine_debug'
	option device 'br-lan'
	option proto 'none'
"""
FIREWALL = """
config defaults
	option input 'REJECT'

config zone
	option name 'lan'
	list network 'lan'
"""
WANTED = {
    "network": {
        "confine_debug": None,
        "confine_internal": {
            ".type": "interface", "device": "lo", "proto": "static", "ip6addr": ["fd00::1/64", "fd00::2/64"],
        },
    },
    "firewall": {"confine_internal": {".type": "zone", "name": "confine_internal"}},
}  # fmt: skip


class Cut(BaseException):
    """The power went."""


class Reader:
    """Reads no registry."""

    def __init__(self):
        self.read_at = 1.0
        self.error = None
        self.asked = 0

    def refresh(self):
        self.asked += 1


class Node:
    """A node's files in a directory of the test's own; `reloads`: what was to be reloaded."""

    def __init__(self, tmp_path, monkeypatch):
        self.paths = Paths(etc=str(tmp_path / "confine"), uci=str(tmp_path / "config"))
        os.mkdir(self.paths.uci)
        for name, text in (("network", NETWORK), ("firewall", FIREWALL)):
            with open(os.path.join(self.paths.uci, name), "w") as file:
                file.write(text)
        self.reloads = []
        self.reader = Reader()
        self.lost = []
        monkeypatch.setattr(network, "reload_followers", lambda changed: self.reloads.append(sorted(changed)))
        self.driver = self.again()
        self.theirs = self.members()

    def again(self):
        """The driver of a new life of the daemon."""
        driver = network.Network(self.paths, Settings(node_id=1, registry_uris=["https://r.example/"]), self.reader)
        driver._witnesses.before = lambda: {"IPv4": True}
        driver._witnesses.lost = lambda before: self.lost
        return driver

    def sections(self, package):
        return uci.load(package, self.paths.uci)

    def members(self):
        """All sections that are not ours, in their order."""
        return {
            package: [(name, section) for name, section in self.sections(package).items() if name[:8] != "confine_"]
            for package in ("network", "firewall")
        }

    def ours(self):
        return {
            package: {name: section for name, section in self.sections(package).items() if name[:8] == "confine_"}
            for package in ("network", "firewall")
        }

    def configure(self):
        step = Step("network", "configure", "node", "Test.")
        step.target = WANTED
        self.driver.configure(step)

    def undo(self, why="Test."):
        self.driver.undo(Step("network", "undo", "node", why))


@pytest.fixture
def node(tmp_path, monkeypatch):
    return Node(tmp_path, monkeypatch)


AFTER = {
    "network": {"confine_internal": WANTED["network"]["confine_internal"]},
    "firewall": WANTED["firewall"],
}


def test_a_change_is_written_applied_and_confirmed_and_the_members_sections_keep_their_meaning(node):
    before = node.ours()
    node.configure()
    assert node.ours() == AFTER and node.members() == node.theirs
    assert node.reloads == [["firewall", "network"]]
    assert node.driver.record()["state"] == "applied" and node.driver.changing()
    assert 40 < node.driver.observe().remaining_s <= 45
    node.driver.confirm(None)
    assert node.driver.record() is None and not node.driver.changing()
    assert before != AFTER


def test_undoing_puts_our_sections_back_and_keeps_what_a_person_changed_meanwhile(node):
    before = node.ours()
    node.configure()
    uci.change("network", {"guest": {".type": "interface", "proto": "none"}}, node.paths.uci)
    node.undo("No default gateway answers.")
    assert node.ours() == before
    assert node.sections("network")["guest"]["proto"] == "none"
    record = node.driver.record()
    assert (record["state"], record["reason"], record["cut"]) == ("undone", "No default gateway answers.", 0)
    assert not node.driver.observe().retry
    node.driver.forget()
    assert node.driver.record() is None


def test_what_a_person_has_not_committed_is_neither_used_nor_committed(node, tmp_path):
    delta = tmp_path / "delta"
    delta.mkdir()
    handle = uci_binding.Uci(confdir=node.paths.uci, savedir=str(delta))
    handle.set("network", "lan", "proto", "dhcp")
    handle.save("network")
    node.configure()
    assert node.sections("network")["lan"]["proto"] == "static"
    assert "proto" in (delta / "network").read_text()


def test_a_file_with_a_syntax_error_is_kept_reported_and_nothing_is_written(node):
    path = os.path.join(node.paths.uci, "network")
    broken = NETWORK + "config interface 'x\n"
    with open(path, "w") as file:
        file.write(broken)
    found = node.driver.observe()
    assert list(found.facts.broken) == ["network"] and "malformed" in found.facts.broken["network"]
    with pytest.raises(StepError):
        node.configure()
    with open(path) as file:
        assert file.read() == broken
    assert "confine_internal" not in node.sections("firewall")


def test_unchanged_files_are_not_parsed_again(node, monkeypatch):
    node.driver.observe()
    monkeypatch.setattr(uci, "load", lambda *_: pytest.fail("parsed again"))
    node.driver.observe()


def test_observing_writes_nothing(node):
    def stamps():
        return {
            os.path.join(top, name): os.stat(os.path.join(top, name)).st_mtime_ns
            for top, _, names in os.walk(os.path.dirname(node.paths.uci))
            for name in names
        }

    before = stamps()
    node.driver.observe()
    assert stamps() == before


# Crash points: each durable act of a change is a point before which and after which the power may go.


class Points:
    """Counts durable acts, and cuts the power at number `cut`: before it, or (half) after it."""

    def __init__(self, monkeypatch, cut, after):
        self.count, self.cut, self.after = 0, cut, after
        for module, name in ((durable, "write_json"), (durable, "remove"), (uci, "change")):
            self.wrap(monkeypatch, module, name)
        real = network.reload_followers
        monkeypatch.setattr(network, "reload_followers", lambda changed: self.act(lambda: real(changed)))

    def wrap(self, monkeypatch, module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *words: self.act(lambda: real(*words)))

    def act(self, do):
        self.count += 1
        if self.count == self.cut and not self.after:
            raise Cut
        do()
        if self.count == self.cut:
            raise Cut


def change(node, end):
    node.configure()
    if end == "confirm":
        node.driver.confirm(None)
    else:
        node.undo()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("end", ["confirm", "undo"])
def test_after_a_power_cut_at_any_point_the_network_is_as_before_or_as_confirmed(tmp_path, monkeypatch, end, after):
    total = 6 if end == "confirm" else 9
    for cut in range(1, total + 1):
        where = tmp_path / str(cut)
        where.mkdir()
        with monkeypatch.context() as patch:
            node = Node(where, patch)
            before = node.ours()
            Points(patch, cut, after)
            with pytest.raises(Cut):
                change(node, end)
        with monkeypatch.context() as patch:
            confirmed = end == "confirm" and cut == total and after
            assert undo_network.main(node.paths) == 0
            assert node.ours() == (AFTER if confirmed else before), f"cut {cut}"
            assert node.members() == node.theirs
            # Cut off once by chance: the same change is tried again at once.
            patch.setattr(network, "boot_id", lambda: "another")
            patch.setattr(network, "reload_followers", lambda changed: None)
            node.driver = node.again()
            record = node.driver.record()
            if record is not None and not (end == "undo" and cut == total and after):
                assert record["state"] == "undone" and node.driver.observe().retry, f"cut {cut}"
            node.configure()
            node.driver.confirm(None)
            assert node.ours() == AFTER and node.driver.record() is None
    with monkeypatch.context() as patch:
        node = Node(tmp_path, patch)
        counter = Points(patch, total + 1, after)
        change(node, end)
        assert counter.count == total, "there is a point that is not cut at"


def test_a_change_that_is_cut_off_again_and_again_is_left_for_later(node, monkeypatch):
    for times in (1, 2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(network, "reload_followers", lambda changed: (_ for _ in ()).throw(Cut()))
            with pytest.raises(Cut):
                node.configure()
        assert undo_network.main(node.paths) == 0
        assert node.driver.observe().retry is (times <= network_change.MOST_CUTS)


def test_a_daemon_killed_in_the_middle_undoes_in_its_next_life(node, monkeypatch):
    before = node.ours()
    with monkeypatch.context() as patch:
        patch.setattr(network, "reload_followers", lambda changed: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            node.configure()
    node.driver = node.again()
    found = node.driver.observe()
    assert found.change["state"] == "written"
    node.undo()
    assert node.ours() == before and node.driver.observe().retry


SOUND = {"state": "applied", "boot": "", "at": 0, "when": 0, "wanted": {}, "before": {}, "reason": "", "cut": 0}
ODD = [{"previous": {"passwd": {}}}, {"previous": {"network": []}}, {"previous": {"network": {"confine_a": {}}}}]
RECORDS = ["", "{", "[]", '{"state": "applied"}', '{"state": "odd"}', "\0" * 100,
           *(json.dumps({**SOUND, **odd}) for odd in ODD)]  # fmt: skip


@pytest.mark.parametrize("text", RECORDS)
def test_a_record_that_cannot_be_used_stops_nothing(node, text):
    os.mkdir(node.paths.etc)
    with open(os.path.join(node.paths.etc, network.RECORD), "w") as file:
        file.write(text)
    assert node.driver.observe().change is None
    assert undo_network.main(node.paths) == 0
    node.configure()
    node.driver.confirm(None)


def test_a_file_that_is_gone_does_not_keep_the_others_from_being_undone(node):
    before = node.ours()["network"]
    node.configure()
    os.unlink(os.path.join(node.paths.uci, "firewall"))
    node.undo()
    found = node.sections("network")
    assert {name: section for name, section in found.items() if name[:8] == "confine_"} == before
    assert node.driver.record()["state"] == "undone"


def test_a_full_disk_leaves_the_file_as_it_was(node, monkeypatch):
    class Full(uci_binding.Uci):
        def commit(self, config):
            raise uci_binding.UciException

    monkeypatch.setattr(uci_binding, "Uci", Full)
    path = Path(node.paths.uci) / "network"
    before = path.read_text()
    with pytest.raises(SettingsError, match="cannot be written"):
        uci.change("network", WANTED["network"], node.paths.uci)
    assert path.read_text() == before


# What answers: more of it in test_witnesses.py


def alone(monkeypatch):
    """There is nobody on any link."""
    monkeypatch.setattr(rtnetlink, "default_routes", list)
    monkeypatch.setattr(rtnetlink, "neighbours", dict)


def test_the_registry_has_to_be_read_again_where_it_was_read_before(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch)
    alone(monkeypatch)
    asked = Witnesses(node.paths, Settings(node_id=1, registry_uris=["https://r.example/"]), node.reader)
    node.reader.read_at = time.monotonic()
    before = asked.before()
    assert before["registry"]
    asked.forget()
    node.reader.error = "timed out"
    assert asked.lost(before) == ["it was not asked yet"]
    assert asked.lost(before) == ["the registry is not read (timed out)"] and node.reader.asked == 1
    node.reader.read_at = time.monotonic() + 1
    assert asked.lost(before) == []


def test_a_registry_that_was_not_read_before_does_not_count(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch)
    alone(monkeypatch)
    asked = Witnesses(node.paths, Settings(node_id=1, registry_uris=["https://r.example/"]), node.reader)
    node.reader.error = "no route"
    assert not asked.before()["registry"]


def test_the_kernel_is_asked_without_a_process(monkeypatch):
    monkeypatch.setattr(network.subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert ("lo", "127.0.0.1/8") in rtnetlink.addresses()
    assert "lo" in network.devices()
    assert all(len(route) == 3 for route in rtnetlink.default_routes())
    rtnetlink.ask("nosuch0", "192.0.2.1")
    assert isinstance(rtnetlink.neighbours(), dict)


def test_nothing_to_reload_is_reloaded_and_the_network_by_its_script_without_ubus(monkeypatch):
    ran = []
    monkeypatch.setattr(network, "_run", ran.append)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    network.reload_followers({"network": {}})
    assert ran == [["/etc/init.d/network", "reload"]]
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/ubus")
    ran.clear()
    network.reload_followers({"firewall": {}, "dhcp": {}, "network": {}})
    assert ran[0] == ["ubus", "call", "network", "reload"]
