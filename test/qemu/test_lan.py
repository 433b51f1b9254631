"""The LAN of the several-node tests, without any node: what it passes, and to whom."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.lan import DOT1Q, IPV4, Frame, Lan, Namespace, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and tun")

BROADCAST = b"\xff" * 6
ONE, TWO, THREE = (bytes([2, 0, 0, 0, 0, number]) for number in (1, 2, 3))


class Plug:
    """The other end of a port, as QEMU has it."""

    def __init__(self, lan: Lan, name: str) -> None:
        spec = lan.port(name)
        self.socket = socket.socket(fileno=os.dup(int(spec.rpartition("=")[2])))
        self.socket.settimeout(5)

    def send(self, to: bytes, source: bytes, *tags: int, text: bytes = b"hello") -> None:
        head = b"".join(struct.pack("!HH", DOT1Q, tag) for tag in tags)
        self.socket.send(to + source + head + b"\x88\xb5" + text)

    def receive(self) -> bytes:
        return self.socket.recv(65536)

    def silent(self) -> bool:
        self.socket.settimeout(0.2)
        try:
            self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)
        return False


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with Lan(str(tmp_path / "lan.pcap")) as made:
        yield made


def test_frames_go_to_all_until_it_is_known_who_is_where_and_tags_stay(lan: Lan) -> None:
    one, two, three = (Plug(lan, name) for name in ("one", "two", "three"))
    one.send(TWO, ONE, 261)
    assert two.receive() == three.receive() == TWO + ONE + b"\x81\x00\x01\x05\x88\xb5hello"
    two.send(ONE, TWO, 261)
    assert one.receive()[:12] == ONE + TWO
    assert three.silent()
    one.send(TWO, ONE, 262)  # another VLAN: nothing is known of it
    assert three.receive()[14:16] == b"\x01\x06"


def test_a_pulled_cable_passes_nothing_either_way(lan: Lan) -> None:
    one, two = Plug(lan, "one"), Plug(lan, "two")
    lan.plug("two", False)
    one.send(BROADCAST, ONE)
    two.send(BROADCAST, TWO)
    assert two.silent() and one.silent()
    lan.plug("two", True)
    one.send(BROADCAST, ONE)
    assert two.receive()[6:12] == ONE


def test_two_namespaces_talk_and_what_they_say_is_recorded(lan: Lan, tmp_path: Path) -> None:
    with Namespace() as here, Namespace() as there:
        lan.attach(here, "lan", "10.5.0.1/24")
        lan.attach(there, "lan", "10.5.0.2/24")
        listening = there.call(lambda: socket.create_server(("10.5.0.2", 7)))
        with listening, here.call(lambda: socket.create_connection(("10.5.0.2", 7), 10)) as talking:
            assert listening.accept()[1][0] == "10.5.0.1"
            talking.sendall(b"x" * 5000)
    frames = wait_until("they were seen", lambda: lan.seen(lambda frame: frame.ends == ("10.5.0.1", "10.5.0.2")), 10)
    assert {frame.kind for frame in frames} == {IPV4} and {frame.ports[1] for frame in frames if frame.ports} == {7}
    assert os.path.getsize(tmp_path / "lan.pcap") >= 24


def test_a_frame_says_what_is_in_it_behind_any_number_of_tags() -> None:
    head = bytes.fromhex("ffffffffffff020000000001" + "88a80064" + "81000105" + "0800")
    inside = bytes.fromhex("4500001c00000000401100000a0000010a000002" + "1f900035" + "00080000")
    frame = Frame(0.0, "one", head + inside)
    assert frame.vlans == [100, 261] and frame.vlan == 100 and frame.kind == IPV4
    assert frame.ends == ("10.0.0.1", "10.0.0.2") and frame.ports == (8080, 53)
    assert Frame(0.0, "one", b"\xff" * 14).vlans == []
