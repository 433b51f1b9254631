"""Stopping without the kernel's help: order of things, what is done when a part fails, what is kept prepared."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from confine import durable, evidence, stop
from confine.core.decisions import ALL, Decisions, Mark
from confine.core.model import Booking, Step
from confine.decisions import DecisionBook
from confine.drivers import firewall, ports
from confine.errors import ConfineError, StepError
from confine.journal import Journal
from confine.paths import Paths

NAME, OTHER = "000000000005_0001", "00000000000a_0001"
PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../package/confine-node/files")
SHARE = os.path.join(PACKAGE, "usr/lib/confine/share")


def bookings():
    return {NAME: Booking("5@1", NAME, 7, 64, 64), OTHER: Booking("10@1", OTHER, 0x7D, 64, 64)}


@pytest.fixture
def node(tmp_path):
    paths = Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"), cgroup=str(tmp_path / "cgroup"), share=SHARE)
    top = os.path.join(paths.cgroup, "confine")
    for path in (os.path.join(top, NAME), os.path.join(top, OTHER), top):
        os.makedirs(path, exist_ok=True)
        for file in ("cgroup.freeze", "cgroup.kill"):
            with open(os.path.join(path, file), "w") as handle:
                handle.write("0")
    stop.prepare(paths, bookings)
    return stop.Node(paths)


@pytest.fixture
def order(node, monkeypatch):
    """What is done, in order, instead of being done to this machine."""
    done = []
    monkeypatch.setattr(firewall, "standing_cuts", list)
    monkeypatch.setattr(firewall, "cut", lambda share, patterns: done.append(("cut", *patterns)))
    monkeypatch.setattr(firewall, "only_cut", lambda share, patterns: done.append(("only cut", *patterns)))
    monkeypatch.setattr(stop, "_write", lambda group, file, text: done.append((os.path.basename(group), file, text)))
    monkeypatch.setattr(evidence, "keep", lambda *_: done.append(("evidence",)) or [])
    change = DecisionBook.change
    monkeypatch.setattr(DecisionBook, "change", lambda *args: done.append(("decision",)) or change(*args))
    return done


def mark(**more):
    return Mark("ann", "now", "attack", **more)


def test_traffic_comes_first_then_processes_then_the_decision_then_evidence(node, order):
    assert stop.stop(node, NAME, mark(), False, lambda _: None) == 0
    assert order == [("cut", "slv-07-*"), (NAME, "cgroup.freeze", "1"), ("decision",), ("evidence",)]


def test_all_is_one_pattern_and_one_write_above_the_slivers(node, order):
    stop.stop(node, ALL, mark(kill=True), False, lambda _: None)
    assert order[:2] == [("cut", "slv-*"), ("confine", "cgroup.kill", "1")]


def test_what_the_program_began_is_done_again_after_the_decision(node, order):
    stop.stop(node, NAME, mark(), True, lambda _: None)
    assert order.index(("decision",)) < order.index(("cut", "slv-07-*"))


def test_where_nft_fails_the_interfaces_are_taken_down_and_the_rest_is_done(node, order, monkeypatch):
    def broken(share, patterns):
        raise StepError("nft is broken")

    monkeypatch.setattr(firewall, "cut", broken)
    monkeypatch.setattr(ports, "of", lambda nr: ["slv-07-00"])
    monkeypatch.setattr(ports, "silence", lambda names: order.append(("down", *names)) or [])
    said = []
    assert stop.stop(node, NAME, mark(), False, said.append) == 1
    assert order == [("down", "slv-07-00"), (NAME, "cgroup.freeze", "1"), ("decision",), ("evidence",)]
    assert "taken down instead: nft is broken" in said[-1]


def test_where_the_decision_cannot_be_kept_the_sliver_is_stopped_all_the_same_and_that_is_said(
    node, order, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DecisionBook, "change", full)
    said = []
    assert stop.stop(node, NAME, mark(), False, said.append) == 1
    assert order[:2] == [("cut", "slv-07-*"), (NAME, "cgroup.freeze", "1")]
    assert "not recorded" in said[-1]


def test_a_slice_without_a_sliver_here_can_be_stopped_beforehand(node, order):
    assert stop.stop(node, node.sliver("77"), mark(), False, lambda _: None) == 0
    assert DecisionBook(node.paths).of("00000000004d_0001").stop.why == "attack"
    assert not [entry for entry in order if entry[0] == "cut"]


def test_a_release_lets_go_only_what_nothing_else_holds(node, order):
    for scope in (NAME, OTHER):
        stop.stop(node, scope, mark(), False, lambda _: None)
    order.clear()
    assert stop.release(node, NAME, lambda _: None) == 0
    assert ("only cut", "slv-7d-*") in order
    assert (NAME, "cgroup.freeze", "0") in order and (OTHER, "cgroup.freeze", "0") not in order


def test_a_release_that_was_interrupted_is_made_good_by_another_one(node, order, monkeypatch):
    stop.stop(node, NAME, mark(), False, lambda _: None)

    def hangs(share, patterns):
        raise StepError("nft did not end within 30 s")

    with monkeypatch.context() as broken:
        broken.setattr(firewall, "only_cut", hangs)
        with pytest.raises(StepError):
            stop.release(node, NAME, lambda _: None)
    monkeypatch.setattr(firewall, "standing_cuts", lambda: ["slv-07-*"])
    assert stop.left_cut(stop.Node(node.paths)) == {"slv-07-*": "5@1"}
    order.clear()
    with pytest.raises(ConfineError, match="nothing to release; traffic and processes are as decided"):
        stop.release(node, NAME, lambda _: None)
    assert ("only cut",) in order and (NAME, "cgroup.freeze", "0") in order


def test_a_sliver_stopped_with_all_is_not_let_go_by_a_release_of_its_own(node, order):
    stop.stop(node, ALL, mark(), False, lambda _: None)
    order.clear()
    with pytest.raises(ConfineError, match="release --all"):
        stop.release(node, NAME, lambda _: None)
    assert order == [("decision",)]


def test_what_is_cut_off_by_decision_is_not_left_over(node, order, monkeypatch):
    monkeypatch.setattr(firewall, "standing_cuts", lambda: ["slv-07-*", "slv-7d-*", "slv-09-*"])
    stop.stop(node, NAME, mark(), False, lambda _: None)
    assert stop.left_cut(node) == {"slv-7d-*": "10@1", "slv-09-*": "--all"}
    stop.stop(node, ALL, mark(), False, lambda _: None)
    assert stop.left_cut(node) == {}


def test_a_paused_sliver_stays_frozen_when_all_are_released(node, order):
    node.book.change(lambda found: found.pause(NAME, mark()))
    stop.stop(node, ALL, mark(), False, lambda _: None)
    order.clear()
    stop.release(node, ALL, lambda _: None)
    assert ("only cut",) in order and ("confine", "cgroup.freeze", "0") in order
    assert (OTHER, "cgroup.freeze", "0") in order and (NAME, "cgroup.freeze", "0") not in order


def test_all_covers_every_interface_and_single_stops_their_own():
    found = Decisions({NAME: mark(), "00000000004d_0001": mark()})
    assert stop.patterns_of(found, {NAME: 7, OTHER: 9}) == ["slv-07-*"]
    found.stops[ALL] = mark()
    assert stop.patterns_of(found, {NAME: 7}) == ["slv-*"]


def test_numbers_are_known_without_a_daemon_from_its_files_or_the_journal(node):
    assert node.numbers == {NAME: 7, OTHER: 0x7D}
    shutil.rmtree(os.path.join(node.paths.run, stop.FAST))
    journal = Journal(node.paths)
    for booking in bookings().values():
        journal.book(Step("journal", "book", booking.name, "test", booking=booking))
    assert stop.Node(node.paths).numbers == {NAME: 7, OTHER: 0x7D}
    docs = [booking.as_doc() for booking in bookings().values()] + [3, {"name": 4}, {"name": "x", "nr": 500}]
    durable.write_checked(os.path.join(node.paths.journal, "bookings.json"), docs)
    assert stop.Node(node.paths).numbers == {NAME: 7, OTHER: 0x7D}


def test_nothing_is_written_where_nothing_changed_and_what_is_gone_goes(node):
    directory = os.path.join(node.paths.run, stop.FAST)
    before = {name: os.stat(os.path.join(directory, name)).st_ino for name in os.listdir(directory)}
    stop.prepare(node.paths, bookings)
    assert {name: os.stat(os.path.join(directory, name)).st_ino for name in os.listdir(directory)} == before
    assert sorted(before) == sorted([NAME, OTHER, "5", "5@1", "10", "10@1"])
    stop.prepare(node.paths, dict)
    assert os.listdir(directory) == []


def test_slivers_that_are_booked_side_by_side_are_all_prepared(node):
    """Each thread books one and prepares, as the crew's do: whoever is last leaves what is booked, and none fails."""
    booked, failed = {}, []
    ready = threading.Barrier(8)

    def book(number):
        name = f"{number:012x}_0001"
        ready.wait()
        for _ in range(20):
            booked[name] = Booking(f"{number}@1", name, number, 64, 64)
            try:
                stop.prepare(node.paths, lambda: dict(booked))
            except OSError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=book, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = set(os.listdir(os.path.join(node.paths.run, stop.FAST)))
    assert (failed, there) == ([], {text for number in range(1, 9)
                                    for text in (f"{number:012x}_0001", f"{number}@1", str(number))})  # fmt: skip


def test_the_data_directory_is_known_to_the_command_line(node):
    assert stop.known_paths(node.paths.run).data == node.paths.data


# The program in front of Python.


@pytest.fixture
def program(node, tmp_path):
    """Runs the program `confine` with stand-ins for nft and Python; gives what was started and written."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in ("nft", "python3"):
        path = bin_dir / name
        path.write_text('#!/bin/sh\nfor word in {} "$@"; do printf "%s|" "$word"; done >>{}\necho >>{}\n'.format(
            name, tmp_path / "calls", tmp_path / "calls"))  # fmt: skip
        path.chmod(0o755)
    with open(os.path.join(PACKAGE, "usr/sbin/confine")) as file:
        text = file.read()
    places = (
        ("/run/confine", node.paths.run),
        ("/sys/fs/cgroup", node.paths.cgroup),
        ("/usr/lib/confine/share", SHARE),
    )
    for old, new in places:
        assert old in text
        text = text.replace(old, new)

    def run(*words):
        (tmp_path / "calls").write_text("")
        env = {"PATH": "{}:{}".format(bin_dir, os.environ["PATH"])}
        subprocess.run(["/bin/sh", "-c", text, "confine", *words], env=env, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    return run


def value(node, *parts):
    with open(os.path.join(node.paths.cgroup, "confine", *parts)) as file:
        return file.read().strip()


@pytest.mark.parametrize("words", [["5@1"], ["5"], [NAME], ["--why", "--all the same", "5@1"], ["5@1", "--why", "x"]])
def test_the_program_stops_one_sliver_before_python_starts(program, node, words):
    calls = program("stop", *words)
    assert calls[0].startswith('nft|-D|port="slv-07-*"|-f|') and calls[1].startswith("python3|")
    assert value(node, NAME, "cgroup.freeze") == "1"
    assert value(node, OTHER, "cgroup.freeze") == value(node, "cgroup.freeze") == "0"


def test_the_program_stops_all_by_one_write(program, node):
    assert program("stop", "--all", "--kill")[0].startswith('nft|-D|port="slv-*"|')
    assert value(node, "cgroup.kill") == "1" and value(node, "cgroup.freeze") == "0"


@pytest.mark.parametrize("words", [
    ["stop"], ["stop", "show"], ["stop", "--help"], ["stop", "5@1", "--al"], ["stop", "5@1", "10@1"],
    ["stop", "--all", "5@1"], ["stop", "../5@1"], ["stop", "5@1;reboot"], ["stop", "$(reboot)"], ["stop", "9@1"],
    ["stop", "--why"], ["stop", ""], ["stop", "5@1", "--why"], ["status"], ["release", "--all"],
])  # fmt: skip
def test_the_program_leaves_every_other_command_line_to_python(program, node, words):
    calls = program(*words)
    assert len(calls) == 1 and calls[0].startswith("python3|")
    assert value(node, NAME, "cgroup.freeze") == value(node, "cgroup.freeze") == "0"


@pytest.mark.parametrize("content", ["", "07", "zz " + NAME, "07 ../../x", '07" drop; ' + NAME, "07 $(reboot)"])
def test_a_damaged_file_of_the_daemon_stops_nothing_wrong(program, node, content):
    with open(os.path.join(node.paths.run, stop.FAST, "5@1"), "w") as file:
        file.write(content)
    assert len(program("stop", "5@1")) == 1
    assert value(node, NAME, "cgroup.freeze") == "0"


def test_the_rules_are_the_same_for_the_program_and_the_daemon():
    with open(os.path.join(SHARE, firewall.STOP_FILE)) as file:
        assert len(re.findall(r"\$port", file.read())) == 3  # one of them in the comment
    text = firewall.cut_text(SHARE, "slv-07-*")
    assert 'iifname "slv-07-*" drop' in text and 'oifname "slv-07-*" drop' in text


def test_a_cut_counts_only_if_it_stands_both_ways():
    listing = 'iifname "slv-07-*" drop\n  oifname "slv-07-*" drop\n iifname "slv-09-*" drop\n'
    assert firewall.parse_cuts(listing) == ["slv-07-*"]
    assert firewall.parse_cuts("") == []


# Evidence.


def test_evidence_that_the_disk_does_not_take_is_kept_in_memory_and_that_is_said(node, monkeypatch):
    real = evidence.durable.write_json

    def full(path, doc):
        if path.startswith(node.paths.data):
            raise OSError(28, "No space left on device")
        real(path, doc)

    monkeypatch.setattr(evidence.durable, "write_json", full)
    faults = evidence.keep(node, NAME, mark())
    assert "in memory only" in faults[0] and "No space left" in faults[0]
    assert evidence.read(node.paths, NAME)["stop"]["why"] == "attack"


def test_evidence_is_bounded_whatever_the_sliver_wrote(node, monkeypatch):
    os.makedirs(node.paths.sliver(NAME))
    with open(node.paths.sliver(NAME, "console.log"), "wb") as file:
        file.write(b"\xff\x00x" * 100000)
    monkeypatch.setattr(evidence.cgroups, "processes", lambda path: [os.getpid()] * 1000)
    found = evidence.gather(node, NAME, ["x" * 299] * evidence.CONNECTIONS)
    assert len(json.dumps(found)) < 512 * 1024


def test_gathering_evidence_about_many_ends_in_time(node, monkeypatch):
    monkeypatch.setattr(evidence, "ALL_S", -1.0)
    assert "took too long" in evidence.keep(node, ALL, mark())[0]


def test_connections_are_those_of_the_slivers_own_addresses():
    tracked = [
        "tcp src=192.168.241.7 dst=192.0.2.1 ...",
        "tcp src=192.168.241.70 dst=192.0.2.1",
        "udp dst=192.168.241.7",
    ]
    assert evidence._connections(tracked, ["192.168.241.7"]) == [tracked[0], tracked[2]]


def test_old_evidence_makes_room(node, monkeypatch):
    monkeypatch.setattr(evidence, "KEPT", 1)
    for name, moment in ((NAME, 100), (OTHER, 200)):
        evidence.keep(node, name, mark())
        os.utime(os.path.join(node.paths.journal, evidence.DIRECTORY, name + ".json"), (moment, moment))
    evidence.keep(node, OTHER, mark())
    assert evidence.read(node.paths, NAME) is None and evidence.read(node.paths, OTHER) is not None


def test_a_release_takes_interfaces_up_that_a_stop_without_nft_took_down(node, order, monkeypatch):
    monkeypatch.setattr(ports, "of", lambda nr: ["slv-{:02x}-00".format(nr)])
    monkeypatch.setattr(ports, "let_speak", lambda names: order.append(("up", *names)) or [])
    stop.stop(node, NAME, mark(), False, lambda _: None)
    stop.release(node, NAME, lambda _: None)
    assert ("up", "slv-07-00") in order and ("up", "slv-7d-00") not in order


@pytest.mark.root
def test_interfaces_are_silenced_and_let_speak_without_a_process():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    script = (
        "import subprocess, sys; from confine.drivers import ports\n"
        "subprocess.run(['ip', 'link', 'add', 'slv-07-00', 'type', 'veth', 'peer', 'name', 'other'], check=True)\n"
        "flags = lambda: int(open('/sys/class/net/slv-07-00/flags').read(), 16) & 1\n"
        "ports.NETWORK = '/sys/class/net'\n"
        "assert ports.let_speak(['slv-07-00']) == [] and flags() == 1\n"
        "assert ports.silence(['slv-07-00', 'slv-08-00']) == [] and flags() == 0\n"
    )
    command = ["unshare", "-nm", "sh", "-c", 'mount -t sysfs none /sys && exec "$0" -c "$1"', sys.executable, script]
    env = {**os.environ, "PYTHONPATH": os.path.join(PACKAGE, "../../../controller")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if "'veth'" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("this machine makes no veth interfaces: " + done.stderr.strip()[-100:])
    assert done.returncode == 0, done.stderr
