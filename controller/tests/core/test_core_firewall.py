"""The node's tables as text, and the changes of them for one sliver."""

from core_world import settings

from confine.core import firewall, interfaces
from confine.core.firewall import Port
from confine.core.settings import parse

MGMT = "fd65:fc41:c50f"


def port(nr: int = 1, ii: int = 0, kind: str = "private", dhcp: bool = False) -> Port:
    name, mac = "slv-0{}-0{}".format(nr, ii), "54:c0:00:12:0{}:0{}".format(nr, ii)
    return Port(name, kind, nr, mac, ["192.168.241." + str(nr)], ["fdbd:e804:6aa9:0:1000::" + str(nr)], dhcp)


def lines(text: str) -> "list[str]":
    return text.splitlines()


def rules(text: str) -> "list[str]":
    """Without what belongs to single slivers."""
    return [line for line in lines(text) if "element" not in line]


def test_rules_are_the_same_for_any_number_of_slivers() -> None:
    none = firewall.render(settings(mgmt_ipv6_prefix48=MGMT))
    many = firewall.render(settings(mgmt_ipv6_prefix48=MGMT), [port(nr, ii) for nr in range(1, 8) for ii in range(4)])
    assert rules(none) == rules(many)
    assert len(lines(many)) - len(lines(none)) < 20


def test_older_tables_of_ours_are_replaced_in_the_same_transaction() -> None:
    assert firewall.render(settings()).startswith(
        "table inet confine\ndelete table inet confine\ntable bridge confine\ndelete table bridge confine\n"
    )


def test_a_port_may_speak_by_its_own_addresses_and_the_link_local_one_of_its_mac() -> None:
    found = firewall.elements([port()])
    assert found["bridge", "macs"] == ["slv-01-00 . 54:c0:00:12:01:00"]
    assert found["bridge", "ipv4"] == ["slv-01-00 . 192.168.241.1"]
    assert sorted(found["bridge", "ipv6"]) == ["slv-01-00 . fdbd:e804:6aa9:0:1000::1",
                                               "slv-01-00 . fe80::56c0:ff:fe12:100"]  # fmt: skip
    assert "slv-01-00 . 0xfdbde8046aa900001000000000000001" in found["bridge", "targets"]
    assert found["bridge", "lladdrs"] == ["slv-01-00 . 0x54c000120100"]


def test_a_mark_says_whose_a_frame_is() -> None:
    for kind in firewall.KINDS:
        for nr in (1, 125):
            assert firewall.of_mark(firewall.mark(kind, nr)) == (kind, nr)
    assert firewall.of_mark(0) is None
    assert firewall.of_mark(0x7F000000) is None


def test_a_change_names_only_what_changes() -> None:
    before, after = port(), port()
    after.ipv4 = ["192.168.241.9"]
    assert lines(firewall.change([before], [after])) == [
        "delete element bridge confine ipv4 { slv-01-00 . 192.168.241.1 }",
        "add element bridge confine ipv4 { slv-01-00 . 192.168.241.9 }",
    ]
    assert firewall.change([before], [before]) == ""
    added = lines(firewall.change([], [before]).replace("add ", "delete "))
    assert lines(firewall.change([before], []))[: len(added)] == added


def test_what_was_counted_of_a_port_goes_with_it() -> None:
    gone = lines(firewall.change([port()], []))
    for name in ("bridge confine spoofed_by { slv-01-00 }", "inet confine connections { 0x1010000 }"):
        assert gone.index("add element " + name) + 1 == gone.index("delete element " + name)


def test_only_ports_that_ask_by_dhcp_may_ask_for_an_address() -> None:
    assert ("bridge", "asking") not in firewall.elements([port(kind="public4")])
    assert firewall.elements([port(kind="public4", dhcp=True)])["bridge", "asking"] == ["slv-01-00"]


def test_an_isolated_interface_needs_nothing_here() -> None:
    isolated = interfaces.SliverInterface("x", 5, 3, 2, "iso0", "isolated", "slv-03-02")
    private = interfaces.SliverInterface("x", 5, 3, 0, "eth0", "private", "slv-03-00")
    private.mac, private.ipv4, private.ipv6 = "54:c0:00:12:03:00", ["192.168.241.3/25"], ["fdbd::5/64"]
    assert firewall.ports_of([private, isolated]) == [
        Port("slv-03-00", "private", 3, "54:c0:00:12:03:00", ["192.168.241.3"], ["fdbd::5"])
    ]


def test_a_lease_is_renewed_by_being_taken_out_and_put_in_again() -> None:
    assert lines(firewall.lease_lines("slv-01-02", "10.0.0.2", 60, ["10.0.0.1"])) == [
        "add element bridge confine leases { slv-01-02 . 10.0.0.2 }",
        "delete element bridge confine leases { slv-01-02 . 10.0.0.2 }",
        "add element bridge confine leases { slv-01-02 . 10.0.0.1 }",
        "delete element bridge confine leases { slv-01-02 . 10.0.0.1 }",
        "add element bridge confine leases { slv-01-02 . 10.0.0.2 timeout 60s }",
    ]
    assert "timeout" not in firewall.lease_lines("slv-01-02", "10.0.0.2", 0)


def test_prefixes_within_others_are_left_out() -> None:
    assert firewall.outermost(["10.1.0.0/16", "10.0.0.0/8", "192.168.1.1", "192.168.1.0/24"]) == [
        "10.0.0.0/8", "192.168.1.0/24",
    ]  # fmt: skip
    assert firewall.outermost(["fd00::/8", "fd12::/16", "fe00::/16"]) == ["fd00::/8", "fe00::/16"]
    assert firewall.outermost(["0.0.0.0/0", "10.0.0.0/8"]) == ["0.0.0.0/0"]


def test_what_the_member_excludes_is_in_both_tables() -> None:
    text = firewall.render(settings(firewall_exclude=["10.0.0.0/8", "fd99::/16"]))
    assert text.count("elements = { 10.0.0.0/8 }") == text.count("elements = { fd99::/16 }") == 2


def test_dns_and_api_are_open_only_where_the_member_wants() -> None:
    values = {"mgmt_ipv6_prefix48": MGMT}
    assert "dport 53 accept" in firewall.render(settings(**values))
    assert "tcp dport 8443 accept" in firewall.render(settings(**values))
    assert "dport 53" not in firewall.render(settings(firewall_dns=False, **values))
    assert "dport 8443" not in firewall.render(settings(firewall_api=False, **values))
    assert "dport 8443" not in firewall.render(settings())


def test_options_of_the_firewall_that_cannot_be_used_are_named_and_the_rest_holds() -> None:
    options = {".type": "firewall", "exclude": "10.0.0.0/8 192.0.2.7",
               "protocols": "tcp carrier-pigeon", "udp_ports": "53 5353"}  # fmt: skip
    found, problems = parse({"firewall": options})
    assert found.firewall_exclude == ["10.0.0.0/8", "192.0.2.7"]
    assert found.firewall_protocols == ["tcp"]
    assert found.firewall_udp_ports == [53]
    assert found.firewall_tcp_ports == [22, 23, 80, 443, 655, 665]
    assert len(problems) == 2


def test_a_network_to_exclude_may_be_written_with_the_address_of_a_host_in_it() -> None:
    words = "192.168.1.1/24 192.168.1.0/24 10.1.2.3/12 fd00:1:2::7/33 fd12::ff/128 192.0.2.7 192.0.2.9/32 1.2.3.4/0"
    found, problems = parse({"firewall": {".type": "firewall", "exclude": words}})
    assert problems == []
    assert found.firewall_exclude == [
        "192.168.1.0/24", "10.0.0.0/12", "fd00:1::/33", "fd12::ff/128", "192.0.2.7", "192.0.2.9/32", "0.0.0.0/0",
    ]  # fmt: skip


def test_while_an_excluded_prefix_cannot_be_read_slivers_reach_nothing() -> None:
    for options in (
        {".type": "firewall", "exclude": "10.0.0.0/8 192.168.1.0/33"},
        {".type": "firewall", "exclude": ["192.168.1"]},
        {".type": "firewall", "exclude": 5},
        {".type": "firewal", "exclude": "10.0.0.0/8"},
    ):
        found, problems = parse({"firewall": options})
        text = firewall.render(found)
        assert text.count("elements = { 0.0.0.0/0 }") == text.count("elements = { ::/0 }") == 2, options
        assert "slivers reach nothing" in problems[-1].message


def test_a_listing_says_what_was_let_through() -> None:
    listing = [
        {"metainfo": {}},
        {"map": {"name": "marks", "elem": [["slv-01-00", 0x1010000], ["slv-02-02", 0x3020000], ["x", 5]]}},
        {"set": {"name": "macs", "elem": [{"concat": ["slv-01-00", "54:c0:00:12:01:00"]},
                                          {"concat": ["slv-02-02", "54:c0:00:12:02:02"]}]}},
        {"set": {"name": "ipv4", "elem": [{"concat": ["slv-01-00", "192.168.241.1"]}]}},
        {"set": {"name": "ipv6", "elem": [{"concat": ["slv-01-00", "fe80::56c0:ff:fe12:100"]},
                                          {"concat": ["slv-01-00", "fdbd::1"]}]}},
        {"set": {"name": "asking", "elem": ["slv-02-02"]}},
        {"set": {"name": "leases", "elem": [{"elem": {"val": {"concat": ["slv-02-02", "10.0.0.2"]}, "expires": 77}}]}},
        {"chain": {"name": "x"}},
    ]  # fmt: skip
    ports, leases = firewall.read(listing)
    assert ports == [
        Port("slv-01-00", "private", 1, "54:c0:00:12:01:00", ["192.168.241.1"], ["fdbd::1"]),
        Port("slv-02-02", "public4", 2, "54:c0:00:12:02:02", [], [], True),
    ]
    assert leases == {("slv-02-02", "10.0.0.2"): 77}
    assert firewall.read([]) == ([], {})
