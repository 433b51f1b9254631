"""Every formula of the node API's addressing table, and the bounds of its numbers."""

from core_world import raised

from confine.core import addressing

MGMT = "fdc0:7246:b03f"
PRIV = "fdbd:e804:6aa9"
DEBUG = "fd5f:eee5:e6ad"


def test_formulas_give_the_addresses_of_the_table() -> None:
    for got, expected in (
        (addressing.node_management_ipv6(MGMT, 27), "fdc0:7246:b03f:1b::2"),
        (addressing.server_management_ipv6(MGMT, 2), "fdc0:7246:b03f::2"),
        (addressing.host_management_ipv6(MGMT, 3), "fdc0:7246:b03f:0:2000::3"),
        (addressing.sliver_management_ipv6(MGMT, 27, 5, 1), "fdc0:7246:b03f:1b:1001::5"),
        (addressing.sliver_management_ipv6(MGMT, 27, 70000, 1), "fdc0:7246:b03f:1b:1001:0:1:1170"),
        (addressing.sliver_debug_ipv6(DEBUG, 0x1234, 18, 4), "fd5f:eee5:e6ad:1234:1004::12"),
        (addressing.node_debug_ipv6(DEBUG, 27), "fd5f:eee5:e6ad:1b::2"),
        (addressing.sliver_private_ipv6(PRIV, 5, 0), "fdbd:e804:6aa9:0:1000::5"),
        (addressing.sliver_private_ipv6(PRIV, 0xFFFFFFFFFFFF, 255), "fdbd:e804:6aa9:0:10ff:ffff:ffff:ffff"),
        (addressing.gateway_ipv6(PRIV), "fdbd:e804:6aa9::1"),
        (addressing.recovery_ipv6(PRIV), "fdbd:e804:6aa9:1::2"),
        (addressing.recovery_unique_ipv6(PRIV, "00:16:3e:01:02:03"), "fdbd:e804:6aa9:2:216:3eff:fe01:203"),
        (addressing.sliver_private_ipv4("192.168.241", 125), "192.168.241.125"),
        (addressing.gateway_ipv4("192.168.241"), "192.168.241.126"),
        (addressing.recovery_ipv4("192.168.241"), "192.168.241.130"),
        (addressing.mac("54:c0", 0x1234, 1, 2), "54:c0:12:34:01:02"),
        (addressing.mac("54:C0", 27, 0x7D, 255), "54:c0:00:1b:7d:ff"),
        (addressing.veth(0x1A, 5), "slv-1a-05"),
        (addressing.hostname(70000, 27), "000000011170_001b"),
        (addressing.id_base(1), 0x1010000),
        (addressing.id_base(125), 0x17D0000),
    ):
        assert got == expected, (got, expected)


def test_id_ranges_of_slivers_do_not_overlap() -> None:
    bases = [addressing.id_base(nr) for nr in range(1, 126)]
    for one, other in zip(bases, bases[1:]):  # noqa: B905  # MicroPython's zip takes no keywords
        assert other - one == addressing.IDS_PER_SLIVER


def test_host_side_names_fit_an_interface_name() -> None:
    assert max(len(addressing.veth(nr, ii)) for nr in (1, 125) for ii in (0, 255)) <= 15


def test_numbers_out_of_range_are_refused_with_their_value() -> None:
    for call in (
        lambda: addressing.node_hex(0),
        lambda: addressing.node_hex(0xFFF1),
        lambda: addressing.node_hex(True),
        lambda: addressing.slice_hex(0),
        lambda: addressing.slice_hex(1 << 48),
        lambda: addressing.id_base(0),
        lambda: addressing.id_base(126),
        lambda: addressing.veth(1, 256),
        lambda: addressing.mac("54:c0", 27, 126, 0),
        lambda: addressing.sliver_private_ipv4("10.0.0", 126),
    ):
        assert "is not in" in raised(call)


def test_only_exact_host_names_are_sliver_names() -> None:
    assert addressing.parse_hostname("000000011170_001b") == (70000, 27)
    for wrong in (
        "",
        "lost+found",
        "0_1",
        "000000011170-001b",
        "00000001117G_001b",
        "000000011170_001B",
        "000000000000_001b",
        "000000011170_0000",
        "000000011170_ffff",
        "../0000011170_001b",
        None,
        5,
    ):
        assert addressing.parse_hostname(wrong) is None, wrong


def test_ipv6_text_is_canonical() -> None:
    for given, canonical in (
        ("::", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("1:0:2:0:3:0:4:0", "1:0:2:0:3:0:4:0"),
        ("1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"),
        ("0:0:1::", "0:0:1::"),
    ):
        assert addressing.format_ipv6(addressing.parse_ipv6(given)) == canonical, given


def test_what_is_no_address_is_refused() -> None:
    for wrong in (
        "",
        ":",
        ":::",
        "1:2:3",
        "1::2::3",
        "1:2:3:4:5:6:7:8:9",
        "12345::",
        "g::",
        "fe80::1%eth0",
        "1:2:3:4:5:6:7::8",
    ):
        raised(lambda: addressing.parse_ipv6(wrong))  # noqa: B023  # called at once
    for wrong in ("", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.-4", "a.b.c.d", "1.2.3.4.5"):
        raised(lambda: addressing.parse_ipv4(wrong))  # noqa: B023  # called at once


def test_prefixes_are_taken_in_their_usual_forms_only() -> None:
    for given in ("fdbd:e804:6aa9::/48", "fdbd:e804:6aa9::", "fdbd:e804:6aa9"):
        assert addressing.parse_prefix48(given) == PRIV
    assert addressing.parse_prefix48("fd00:0:1") == "fd00:0:1"
    for wrong in ("", "fdbd:e804:6aa9::/64", "fdbd:e804:6aa9:1::/48", "fdbd:e804:6aa9::1", "::/48", "ff02:1:2", "x"):
        raised(lambda: addressing.parse_prefix48(wrong))  # noqa: B023  # called at once
    assert addressing.parse_prefix24("192.168.241") == addressing.parse_prefix24("192.168.241.0/24") == "192.168.241"
    for wrong in ("192.168.241.1/24", "192.168", "192.168.241.0", "0.1.2", "224.0.0", "127.0.0", "1.2.3.0/25", ".0/24"):
        raised(lambda: addressing.parse_prefix24(wrong))  # noqa: B023  # called at once
    assert "multicast" in raised(lambda: addressing.parse_mac_prefix16("01:00"))
    for wrong in ("54", "54:c0:00", "5g:c0", "54-c0", "154:c0"):
        raised(lambda: addressing.parse_mac_prefix16(wrong))  # noqa: B023  # called at once
