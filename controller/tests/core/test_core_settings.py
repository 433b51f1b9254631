"""The node's own settings: names of existing image generators, defaults, and what becomes of mistakes."""

from core_world import messages, sliver_target

from confine.core import resources, settings

GENERATED = {
    "node": {
        ".type": "node",
        "id": "001b",
        "local_ifname": "eth0",
        "mac_prefix16": "54:c0",
        "priv_ipv4_prefix24": "192.168.157.0/24",
        "public_ipv4_avail": "0",
        "rd_public_ipv4_proto": "dhcp",
        "sl_public_ipv4_proto": "dhcp",
        "sl_public_ipv4_addrs": "",
        "rd_if_iso_parents": "eth1 eth2",
        "state": "prepared",
        "tinc_gateway": "server_2",
        "sync_node_admins": "0",
    },
    "registry": {
        ".type": "registry",
        "base_uri": "https://[fdc0:7246:b03f::2]/api/",
        "cert": "/etc/confine/registry-server.crt",
    },
    "testbed": {".type": "testbed", "mgmt_ipv6_prefix48": "fdc0:7246:b03f"},
}


def with_option(section: str, option: str, value: object) -> "dict[str, dict[str, object]]":
    """The generated settings with one option changed."""
    changed: "dict[str, dict[str, object]]" = {name: dict(options) for name, options in GENERATED.items()}
    changed.setdefault(section, {})[option] = value
    return changed


def test_settings_of_existing_image_generators_are_taken_without_a_problem() -> None:
    parsed, problems = settings.parse(GENERATED)  # type: ignore[arg-type]
    assert problems == []
    assert parsed.node_id == 0x1B
    assert parsed.priv_ipv4_prefix24 == "192.168.157"
    assert parsed.registry_uris == ["https://[fdc0:7246:b03f::2]/api/"]
    assert parsed.registry_cert == "/etc/confine/registry-server.crt"
    assert parsed.mgmt_ipv6_prefix48 == "fdc0:7246:b03f"
    assert parsed.sync_node_admins is False


def test_without_any_settings_the_defaults_stand_and_no_registry_is_read() -> None:
    parsed, problems = settings.parse({})
    assert problems == []
    assert parsed == settings.Settings()
    assert parsed.node_id is None and parsed.registry_uris == []
    assert parsed.interval_s == 60 and parsed.data_dir == "/srv/confine"
    assert parsed.priv_ipv6_prefix48 == "fdbd:e804:6aa9" and parsed.debug_ipv6_prefix48 == "fd5f:eee5:e6ad"
    assert parsed.sync_node_admins is True and parsed.plain_http is False


def test_a_slip_of_the_pen_serves_nothing_to_the_world_and_takes_no_network_from_its_owner() -> None:
    for section, option, value, attribute, closed in (
        ("api", "enabled", "off!", "api_enabled", False),
        ("api", "enabled", ["0"], "api_enabled", False),
        ("api", "enable", "0", "api_enabled", False),
        ("api", ".type", "apii", "api_enabled", False),
        ("apii", "enabled", "0", "api_enabled", False),
        ("api", "listen", "127.0.0.l", "api_listen", ["127.0.0.1"]),
        ("api", "listen", {}, "api_listen", ["127.0.0.1"]),
        ("api", "listn", "127.0.0.2", "api_listen", ["127.0.0.1"]),
        ("network", "manage", "noo", "network_manage", False),
        ("netwrk", "manage", "0", "network_manage", False),
    ):
        parsed, problems = settings.parse(with_option(section, option, value))
        assert getattr(parsed, attribute) == closed, (section, option, value)
        assert "Until it is corrected, " in problems[-1].message, (section, option, value)


def test_of_several_addresses_to_listen_on_those_that_are_good_count() -> None:
    parsed, problems = settings.parse(with_option("api", "listen", ["fd00::1", "nonsense"]))
    assert parsed.api_listen == ["fd00::1"] and [problem.member for problem in problems] == ["/api/listen"]


def test_an_unknown_word_beside_the_right_one_closes_nothing() -> None:
    wrong = with_option("api", "enabled", "1")
    wrong["api"].update({"enable": "0", "colour": "red", "listen": ""})
    wrong["apis"] = {}
    parsed, problems = settings.parse(wrong)
    assert parsed.api_enabled is True and parsed.api_listen == [] and len(problems) == 3


def test_two_settings_do_not_share_their_lists() -> None:
    one, other = settings.Settings(), settings.Settings()
    one.dns.append("192.0.2.1")
    assert other.dns == []


def test_an_option_that_cannot_be_used_is_named_and_its_default_stands() -> None:
    for section, option, value, attribute, default in (
        ("registry", "interval", "soon", "interval_s", 60),
        ("registry", "interval", "1", "interval_s", 60),
        ("registry", "interval", "-60", "interval_s", 60),
        ("registry", "interval", ["60"], "interval_s", 60),
        ("node", "mac_prefix16", "zz:00", "mac_prefix16", "54:c0"),
        ("node", "priv_ipv4_prefix24", "192.168.241.5", "priv_ipv4_prefix24", "192.168.241"),
        ("node", "data_dir", "srv/../x", "data_dir", "/srv/confine"),
        ("node", "data_dir", "/", "data_dir", "/srv/confine"),
        ("node", "local_ifname", "eth0; reboot", "local_ifname", None),
        ("node", "sync_node_admins", "maybe", "sync_node_admins", True),
        ("policy", "slice_share", "0", "slice_share_percent", 100),
        ("policy", "memory_total", "9" * 400, "memory_total_mib", None),
        ("sliver", "cpu_weight", "10001", "cpu_weight", 100),
        ("testbed", "mgmt_ipv6_prefix48", "10.0.0.0/8", "mgmt_ipv6_prefix48", None),
    ):
        parsed, problems = settings.parse(with_option(section, option, value))
        assert getattr(parsed, attribute) == default, option
        assert [problem.member for problem in problems] == ["/" + section + "/" + option], problems


def test_a_misspelt_option_or_section_is_named_with_the_nearest_right_one() -> None:
    _, problems = settings.parse(with_option("policy", "memory_totl", "100"))
    assert "did you mean 'memory_total'?" in messages(problems)
    _, problems = settings.parse({"polcy": {".type": "polcy"}})
    assert "did you mean 'policy'?" in messages(problems)
    _, problems = settings.parse({"node": {".type": "registry", "id": "1"}})
    assert "config node 'node'" in messages(problems)


def test_an_unusable_entry_of_a_list_does_not_spoil_the_others() -> None:
    parsed, problems = settings.parse(
        with_option("sliver", "dns", ["192.0.2.1", "nonsense", "2001:db8::1", "192.0.2.1"])
    )
    assert parsed.dns == ["192.0.2.1", "2001:db8::1"]
    assert [problem.member for problem in problems] == ["/sliver/dns"]
    parsed, problems = settings.parse(with_option("policy", "accept_groups", "2 x 11"))
    assert parsed.accept_groups == [2, 11]
    assert len(problems) == 1


def test_who_is_accepted_is_nobody_by_mistake() -> None:
    asks = sliver_target(5, group_id=2)
    for option, value in (
        ("accept_groups", "x"),
        ("accept_slices", ["6", "five"]),
        ("accept_group", "7"),
        ("refuse_slices", [5]),
        ("refuse_slices", "5,6"),
        ("refuse_slice", "5"),
    ):
        parsed, problems = settings.parse(with_option("policy", option, value))
        assert resources.accepts(asks, parsed) is not None, option
        assert problems[0].member == "/policy/" + option
    parsed, _ = settings.parse({"policy": {".type": "polisy", "refuse_slices": "5"}})
    assert resources.accepts(asks, parsed) is not None
    parsed, _ = settings.parse(with_option("policy", "accept_groups", "2 x"))
    assert resources.accepts(asks, parsed) is None
    parsed, _ = settings.parse(with_option("policy", "memory_totl", "100"))
    assert resources.accepts(asks, parsed) is None


def test_an_unusable_node_id_leaves_the_node_without_one() -> None:
    for wrong in ("", "0", "0000", "fff1", "12345", "0x1b", "-1", "1_b", "xyz"):
        parsed, problems = settings.parse(with_option("node", "id", wrong))
        assert parsed.node_id is None, wrong
        assert [problem.member for problem in problems] == ["/node/id"]
    assert settings.parse(with_option("node", "id", "FFF0"))[0].node_id == 0xFFF0


def test_plain_http_is_used_only_when_the_settings_say_so() -> None:
    asked = with_option("registry", "base_uri", ["http://[fdc0:7246:b03f::2]/api", "https://r.example.org/api/"])
    parsed, problems = settings.parse(asked)
    assert parsed.registry_uris == ["https://r.example.org/api/"]
    assert "plain_http" in messages(problems)
    asked["registry"]["plain_http"] = "perhaps"
    assert settings.parse(asked)[0].registry_uris == ["https://r.example.org/api/"]
    asked["registry"]["plain_http"] = "1"
    parsed, problems = settings.parse(asked)
    assert parsed.registry_uris == ["http://[fdc0:7246:b03f::2]/api/", "https://r.example.org/api/"]
    assert problems == []


def test_an_unusable_certificate_path_switches_tls_registries_off() -> None:
    parsed, problems = settings.parse(with_option("registry", "cert", "registry.crt"))
    assert parsed.registry_cert is None and parsed.registry_uris == []
    assert [problem.member for problem in problems] == ["/registry/cert", "/registry/base_uri"]


def test_a_registry_must_be_a_usable_uri() -> None:
    for wrong in (
        "r.example.org",
        "ftp://r.example.org/",
        "https://",
        "https:///api",
        "https://r/\u00e4",
        "file://r",
        "file:/r",
    ):
        parsed, problems = settings.parse(with_option("registry", "base_uri", wrong))
        assert parsed.registry_uris == [] and len(problems) == 1, wrong
    assert settings.parse(with_option("registry", "base_uri", "file:///srv/docs"))[0].registry_uris == [
        "file:///srv/docs/"
    ]


def test_garbage_never_raises() -> None:
    for garbage in ({"node": None}, {"node": []}, {"node": {"id": None}}, {"node": {"id": {"a": 1}}}, {"": {}},
                    {"sliver": {"dns": {"a": 1}}}, {"sliver": {"dns": [None]}}, {"policy": {"": ""}}):  # fmt: skip
        parsed, problems = settings.parse(garbage)  # type: ignore[arg-type]
        assert problems, garbage
        assert parsed.node_id is None
