"""The rules as text and under the real nft, and the kernel's count of changes."""

import os
import shutil
import struct
import subprocess
import sys

import pytest

from confine.core.settings import Settings
from confine.drivers import firewall
from confine.errors import StepError

SETTINGS = Settings(node_id=0x12, mgmt_ipv6_prefix48="fd65:fc41:c50f")


def test_the_inet_table_reads_as_expected():
    assert """\
	chain forward {
		type filter hook forward priority filter - 1; policy accept;
		iifname "br-confine" jump from_slivers
		oifname "br-confine" ct state established,related accept
		oifname "br-confine" drop
	}
	chain from_slivers {
		oifname "br-confine" drop
		ip saddr != 192.168.241.0/25 drop
		ip6 saddr != fdbd:e804:6aa9::/64 drop
		ip6 daddr fd65:fc41:c50f::/48 drop
	}
""" in firewall.render(SETTINGS)


def test_older_tables_of_ours_are_replaced_in_the_same_transaction():
    assert firewall.render(SETTINGS).startswith(
        "table inet confine\ndelete table inet confine\ntable bridge confine\ndelete table bridge confine\n"
    )


def test_addresses_are_translated_towards_everything_but_the_bridge():
    text = firewall.render(Settings(node_id=1, priv_ipv4_prefix24="10.9.8", priv_ipv6_prefix48="fd00:1:2"))
    assert 'oifname != "br-confine" ip saddr 10.9.8.0/25 masquerade' in text
    assert 'oifname != "br-confine" ip6 saddr fd00:1:2::/64 masquerade' in text


def test_every_port_may_send_from_its_own_addresses_only():
    text = firewall.render(SETTINGS)
    assert "slv-01-00 . 54:c0:00:12:01:00" in text
    assert "slv-7d-00 . 192.168.241.125" in text
    assert text.count("slv-") == 2 * 125


def test_a_node_without_an_id_has_no_slivers_addresses_to_check():
    assert "slv-" not in firewall.render(Settings())


def test_without_a_management_network_nothing_is_said_of_one():
    assert "ip6 daddr" not in firewall.render(Settings(node_id=1))


def message(kind, *attributes):
    body = struct.pack("=BBH", 0, 0, 0)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def test_the_generation_is_found_among_the_attributes():
    answer = message(0xA0F, (3, b"nft\0"), (1, struct.pack(">I", 77)), (2, struct.pack(">I", 5)))
    assert firewall.parse_generation(answer) == 77


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 19,
        message(2, (1, struct.pack(">I", 77))),  # an error
        message(0xA0F),
        message(0xA0F, (1, b"")),
        message(0xA0F, (1, b""), (2, struct.pack(">I", 5))),
        message(0xA0F, (1, struct.pack(">I", 77)))[:-2],
        struct.pack("=IHHII", 400, 0xA0F, 0, 1, 0) + bytes(8),  # attributes of length 0
    ],
)
def test_an_answer_that_says_no_generation_gives_none(answer):
    assert firewall.parse_generation(answer) is None


SCRIPT = """
import subprocess
from confine.core.settings import Settings
from confine.drivers import firewall
driver = firewall.Firewall(Settings(node_id=0x12))
assert not driver.ok()
driver.install(None)
assert driver.ok()
before = firewall.generation()
driver.install(None)
assert firewall.generation() > before and driver.ok()
subprocess.run(["nft", "flush", "chain", "inet", "confine", "to_node"], check=True)
assert not driver.ok()
driver.install(None)
assert driver.ok()
"""


@pytest.mark.root
def test_real_nft_takes_the_rules_and_a_change_of_them_is_noticed():
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nft")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    for words in ("Operation not supported", "No such file or directory", "Protocol not supported"):
        if words in done.stderr:
            pytest.skip("this kernel lacks a part of nftables: " + done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr


def test_rules_that_nft_refuses_are_a_failed_step_with_its_words():
    if shutil.which("nft") is None:
        pytest.skip("needs nft")
    with pytest.raises(StepError, match="nft -f - failed"):
        firewall._nft(["-f", "-"], b"table inet x { chain {\n")
