"""Whether an address on a link is already somebody's, asked on a real link between two namespaces."""

import os
import subprocess
import time

import pytest

from confine.drivers import probing

MAC = "54:c0:00:12:03:02"
FOUR, SIX = "192.0.2.9", "2001:db8::9"


def test_the_questions_are_those_of_the_standards():
    request = probing.arp_request(MAC, FOUR)
    assert request[28:32] == bytes(4), "a probe: it changes no station's table"
    assert request[38:42] == bytes([192, 0, 2, 9])
    question = probing.solicitation(MAC, SIX)
    assert question[:6] == bytes.fromhex("3333ff000009")
    pseudo = question[22:54] + len(question[54:]).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert probing.checksum(pseudo + question[54:]) == 0


@pytest.fixture
def link():
    """A link here whose other end, in a namespace, has both addresses; its name and the other end's address."""
    name, space = f"pb{os.getpid() % 10**6}", f"probing-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        run = ["ip", "-batch", "-"]
        commands = f"link add {name} type veth peer name eth0 netns {space}\nlink set {name} up\n"
        subprocess.run(run, input=commands.encode(), check=True)
        inside = f"link set eth0 up\naddr add {FOUR}/24 dev eth0\naddr add {SIX}/64 dev eth0 nodad\n"
        subprocess.run(["ip", "-n", space, "-batch", "-"], input=inside.encode(), check=True)
        shown = subprocess.run(["ip", "netns", "exec", space, "cat", "/sys/class/net/eth0/address"],
                               check=True, capture_output=True, text=True)  # fmt: skip
        yield name, shown.stdout.strip()
    finally:  # the kernel clears a namespace later, and the next test's link has the same name
        subprocess.run(["ip", "link", "del", name], check=False)
        subprocess.run(["ip", "netns", "del", space], check=False)


@pytest.mark.root
def test_who_has_an_address_is_found_and_free_ones_are_free(link):
    name, holder = link
    asked = {FOUR: MAC, SIX: MAC, "192.0.2.10": MAC, "2001:db8::10": MAC}
    deadline = time.monotonic() + 60
    found = {}
    while len(found) < 2 and time.monotonic() < deadline:
        found = probing.holders(name, asked)
    assert found == {FOUR: holder, SIX: holder}


@pytest.mark.root
def test_the_interfaces_own_answer_does_not_count(link):
    name, holder = link
    assert probing.holders(name, {FOUR: holder, SIX: holder}) == {}
