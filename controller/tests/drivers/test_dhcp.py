"""Addresses that DHCP servers give to slivers are learnt from what comes in at the uplink, and from nothing else."""

import os
import socket
import struct
import subprocess
import time

import pytest

from confine.drivers import dhcp
from confine.drivers.dhcp import Leases, listen, parse, parse_options

MAC, OTHER = "54:c0:00:12:03:02", "54:c0:00:12:04:02"
ADDRESS = "198.51.100.77"


def option(code, content):
    return bytes([code, len(content)]) + content


def ack(mac=MAC, address=ADDRESS, seconds=600, kind=5, server="198.51.100.1", ports=(67, 68), cookie=dhcp.COOKIE):
    """A DHCP server's answer, as it comes in."""
    body = struct.pack("!BBBB", 2, 1, 6, 0) + bytes(12) + socket.inet_aton(address) + bytes(8)
    body += bytes.fromhex(mac.replace(":", "")) + bytes(10) + bytes(192) + cookie + option(53, bytes([kind]))
    body += option(51, struct.pack("!I", seconds)) + option(54, socket.inet_aton(server)) + b"\xff"
    udp = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(server), b"\xff" * 4
    )
    return b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + b"\x08\x00" + header + udp


@pytest.fixture
def told():
    return []


@pytest.fixture
def leases(told, tmp_path):
    made = Leases(str(tmp_path / "leases"), lambda *lease: told.append(lease))
    made._ports = {MAC: "slv-03-02", OTHER: "slv-04-02"}
    made._own = ["198.51.100.5"]
    return made


def test_an_ack_gives_its_address_to_the_port_of_its_client(leases, told):
    leases.heard(ack())
    assert told == [("slv-03-02", ADDRESS, 600)]
    assert leases.now()["slv-03-02"].address == ADDRESS


@pytest.mark.parametrize(
    "frame",
    [
        ack(kind=2), ack(kind=6), ack(mac="54:c0:00:12:05:02"), ack(address="0.0.0.0"), ack(ports=(68, 67)),
        ack(cookie=b"abcd"), ack()[:200], ack()[:34], b"", b"\0" * 400,
    ],
    ids=["offer", "refusal", "stranger", "no address", "from a client", "no dhcp", "cut", "header", "empty", "zeros"],
)  # fmt: skip
def test_nothing_else_gives_an_address(leases, told, frame):
    leases.heard(frame)
    assert told == []


def test_a_server_that_answers_twice_only_makes_the_lease_longer(leases, told):
    leases.heard(ack(seconds=60))
    leases.heard(ack(seconds=600))
    assert told == [("slv-03-02", ADDRESS, 60), ("slv-03-02", ADDRESS, 600)]
    assert leases.now()["slv-03-02"].until > time.monotonic() + 300


@pytest.mark.parametrize("address,words", [("198.51.100.5", "the node's own"), (ADDRESS, "slv-04-02")])
def test_an_address_that_is_taken_is_not_let_through_and_named(leases, told, address, words):
    leases.heard(ack(mac=OTHER))
    del told[:]
    leases.heard(ack(address=address))
    assert told == []
    assert words in leases.problems["slv-03-02"]
    leases.heard(ack(address="198.51.100.78"))
    assert "slv-03-02" not in leases.problems


def test_a_lease_that_ended_is_nobodys(leases):
    leases.heard(ack(seconds=0))
    assert leases.now() == {}


def test_a_lease_without_end_is_learnt_anew_one_day():
    assert parse(ack(seconds=0xFFFFFFFF))[2] == dhcp.MAX_LEASE_S


def test_options_that_are_broken_off_end_the_list():
    assert parse_options(b"\0\x35\x01\x05\x33\x04\0\0") == {53: b"\x05"}
    assert parse_options(b"\x35") == {}


def test_a_daemon_started_anew_gives_back_what_was_leased_and_is_still_good(leases, told, tmp_path):
    leases.heard(ack(seconds=0))
    leases.heard(ack(mac=OTHER, address="198.51.100.78"))
    again = []
    anew = Leases(str(tmp_path / "leases"), lambda *lease: again.append(lease[:2]))
    anew.watch({MAC: "slv-03-02"}, [], [])
    assert again == []
    anew.watch({MAC: "slv-03-02", OTHER: "slv-04-02"}, [], [])
    assert again == [("slv-04-02", "198.51.100.78")]
    assert list(anew.now()) == ["slv-04-02"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": ["b"]}', b'{"a": ["b", "c", "d"]}'])
def test_a_damaged_file_of_leases_is_none(tmp_path, damage):
    (tmp_path / "leases").write_bytes(damage)
    assert dhcp.read_kept(str(tmp_path / "leases")) == {}


@pytest.mark.root
def test_the_kernel_passes_dhcp_answers_alone_and_the_watch_hears_them(told, tmp_path):
    name = f"dh{os.getpid() % 10**6}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", name + "p"], check=True)
    watch = Leases(str(tmp_path / "leases"), lambda *lease: told.append(lease))
    try:
        for end in (name, name + "p"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        watch.watch({MAC: "slv-03-02"}, [name], [])
        listening = listen(name)
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((name + "p", 0))
        deadline = time.monotonic() + 60
        while not told and time.monotonic() < deadline:
            sender.send(ack(ports=(68, 67)))
            sender.send(ack())
            time.sleep(0.05)
        assert told[0] == ("slv-03-02", ADDRESS, 600)
        listening.settimeout(10)
        assert parse(listening.recv(2048)) is not None, "what is no answer was passed first"
        listening.close()
        sender.close()
    finally:
        watch.close()
        subprocess.run(["ip", "link", "del", name], check=True)
    assert listen(name) is None
