"""What slivers are told of name servers."""

from confine import machine
from confine.core.settings import Settings


def lines(monkeypatch, upstream, **settings):
    monkeypatch.setattr(machine, "_upstream_servers", lambda: upstream)
    return machine.resolver_lines(Settings(**settings)).splitlines()


def test_slivers_ask_the_servers_given_else_those_of_the_node_else_the_nodes_own_resolver(monkeypatch):
    given = ["192.0.2.1", "2001:db8::1"]
    assert lines(monkeypatch, ["192.0.2.9"], dns=given) == ["nameserver 192.0.2.1", "nameserver 2001:db8::1"]
    assert lines(monkeypatch, ["192.0.2.9"]) == ["nameserver 192.0.2.9"]
    assert lines(monkeypatch, []) == ["nameserver 192.168.241.126"]


def test_a_server_on_the_nodes_loopback_is_its_resolver_on_the_slivers_bridge(monkeypatch):
    for loopback in ("127.0.0.1", "127.0.0.53", "::1"):
        assert lines(monkeypatch, [loopback], priv_ipv4_prefix24="10.7.7") == ["nameserver 10.7.7.126"]


def test_no_more_servers_are_told_than_a_resolver_reads(monkeypatch):
    assert len(lines(monkeypatch, ["192.0.2.{}".format(number) for number in range(1, 6)])) == 3
