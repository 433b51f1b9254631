"""`confine check` says of each thing that can be wrong what it is and what to do."""

import os
import time

import pytest

from confine import check, check_machine, stop, tables
from confine.check_facts import FAIL, OK, WARN, Facts
from confine.core.model import Problem
from confine.core.settings import Settings
from confine.errors import RegistryError
from confine.paths import Paths
from confine.registry import transport

GOOD = {
    "proc/sys/kernel/osrelease": "6.12.1-cloud",
    "proc/sys/user/max_user_namespaces": "9000",
    "proc/sys/kernel/seccomp/actions_avail": "kill_process errno allow",
    "proc/filesystems": "nodev\toverlay\n\text4\n\tsquashfs",
    "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids",
}


def facts(tmp_path, files=None, problems=(), status=None, **settings):
    for path, text in {**GOOD, **(files or {})}.items():
        if text is not None:
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    settings.setdefault("node_id", 1)
    settings.setdefault("data_dir", str(tmp_path))
    return Facts(Paths(data=str(tmp_path)), Settings(**settings), list(problems), status, str(tmp_path))


def states(findings):
    return [finding.state for finding in findings]


def said(findings):
    return " ".join("{} {} {}".format(finding.what, finding.said, finding.todo) for finding in findings)


def status(**changes):
    doc = {
        "version": "1", "node": {"state": "production", "errors": []},
        "registry": {"last_read": time.time() - 5, "error": None}, "slivers": [],
    }  # fmt: skip
    doc.update(changes)
    return doc


def test_a_good_kernel_passes(tmp_path):
    assert states(check.kernel(facts(tmp_path))) == [OK]
    assert states(check.cgroups(facts(tmp_path))) == [OK]


@pytest.mark.parametrize("path,text,state,words", [
    ("proc/sys/kernel/osrelease", "5.15.9", WARN, "cannot id-map squashfs"),
    ("proc/sys/user/max_user_namespaces", "0", FAIL, "CONFIG_USER_NS"),
    ("proc/sys/user/max_user_namespaces", None, FAIL, "unprivileged"),
    ("proc/sys/kernel/seccomp/actions_avail", None, FAIL, "CONFIG_SECCOMP_FILTER"),
    ("proc/filesystems", "ext4 squashfs", FAIL, "kmod-fs-overlay"),
    ("proc/filesystems", "ext4 overlay", WARN, "kmod-fs-squashfs"),
])  # fmt: skip
def test_what_the_kernel_lacks_is_named_with_what_to_do(tmp_path, path, text, state, words):
    findings = check.kernel(facts(tmp_path, {path: text}))
    assert state in states(findings) and words in said(findings)


@pytest.mark.parametrize("text,state,words", [
    (None, FAIL, "mount -t cgroup2"), ("cpu io", FAIL, "no controller memory"), ("memory pids io", WARN, "CPU shares"),
])  # fmt: skip
def test_missing_cgroup_controllers_are_named(tmp_path, text, state, words):
    findings = check.cgroups(facts(tmp_path, {"sys/fs/cgroup/cgroup.controllers": text}))
    assert state in states(findings) and words in said(findings)


def test_missing_programs_are_named_with_their_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = check.tools(facts(tmp_path))
    assert "install nftables" in said(findings) and states(findings).count(FAIL) == len(check_machine.NEEDED_TOOLS)
    findings = check.nftables(facts(tmp_path))
    assert states(findings) == [FAIL] and "install nftables" in said(findings)


def test_what_an_interrupted_release_left_cut_off_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "left_cut", lambda node: {"slv-07-*": "5@1"})
    findings = check.firewall(facts(tmp_path, status=status(firewall={"ok": True, "since": None, "said": None})))
    assert states(findings) == [WARN] and "confine release 5@1" in said(findings)
    monkeypatch.setattr(stop, "left_cut", lambda node: {})
    findings = check.firewall(facts(tmp_path, status=status(firewall={"ok": True, "since": None, "said": None})))
    assert states(findings) == [OK]


def test_what_people_are_told_to_install_for_slivers_to_start_comes_with_the_package():
    feed = os.path.join(os.path.dirname(__file__), "../../package/confine-node/Makefile")
    with open(feed) as file:
        words = file.read().split()
    needed = {*check_machine.NEEDED_TOOLS.values(), *check_machine.WANTED_TOOLS.values(), "openssl-util"} - {"nftables"}
    needed |= {"nftables-json", "kmod-nft-bridge", "kmod-nft-connlimit", "kmod-nft-nat", "kmod-nf-conntrack-netlink"}
    assert sorted(name for name in needed if "+" + name not in words) == []


def test_a_kernel_that_cuts_off_but_does_not_count_connections_is_named(tmp_path, monkeypatch):
    nft = tmp_path / "bin/nft"
    nft.parent.mkdir()
    nft.write_text("#!/bin/sh\ntext=$(cat)\ncase $text in *'ct count over'*) echo No such file >&2; exit 1;; esac\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", str(nft.parent) + os.pathsep + os.environ["PATH"])
    findings = check.nftables(facts(tmp_path))
    assert states(findings) == [FAIL]
    assert "no sliver starts: No such file" in said(findings) and "kmod-nft-connlimit" in said(findings)


def test_options_that_cannot_be_used_and_a_missing_id_are_failures(tmp_path):
    findings = check.configuration(facts(tmp_path, problems=[Problem("/node/id", "'zz' is no id")], node_id=None))
    assert states(findings) == [FAIL, FAIL]
    assert "'zz' is no id" in said(findings) and "uci set confine.node.id" in said(findings)


def test_a_daemon_that_does_not_answer_and_what_it_says_of_the_node(tmp_path):
    assert states(check.daemon(facts(tmp_path))) == [FAIL]
    findings = check.daemon(facts(tmp_path, status=status(node={"state": "debug", "errors": [
        {"member": "", "message": "the firewall cannot be loaded"}]})))  # fmt: skip
    assert states(findings) == [OK, WARN] and "firewall" in said(findings)


def test_a_firewall_that_does_not_stand_is_a_failure_with_since_when_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "left_cut", lambda node: {})  # or it looks at this machine's own tables
    assert check.firewall(facts(tmp_path)) == []
    good = {"ok": True, "since": None, "said": None}
    assert states(check.firewall(facts(tmp_path, status=status(firewall=good)))) == [OK]
    bad = {"ok": False, "since": 1795176050.2, "said": "inet confine was changed by process 8546"}
    findings = check.firewall(facts(tmp_path, status=status(firewall=bad)))
    assert states(findings) == [FAIL]
    assert "since 2026-11-20 12:00:50 UTC" in said(findings) and "process 8546" in said(findings)


def test_a_registry_that_was_read_lately_is_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(transport.Transport, "get", lambda *_: pytest.fail("asked"))
    findings = check.registry(facts(tmp_path, status=status(), registry_uris=["https://registry.example/api/"]))
    assert states(findings) == [OK]


@pytest.mark.parametrize("error", ["the certificate of registry.example is not trusted", "connection refused"])
def test_a_registry_that_cannot_be_read_says_why(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise RegistryError(error)

    monkeypatch.setattr(transport.Transport, "get", refuse)
    findings = check.registry(facts(tmp_path, registry_uris=["https://registry.example/api/"]))
    assert states(findings) == [FAIL] and error in said(findings) and "registry.cert" in said(findings)


def test_without_an_address_the_registry_fails(tmp_path):
    assert states(check.registry(facts(tmp_path))) == [FAIL]


def test_data_that_is_missing_or_full_or_on_the_root_is_said(tmp_path):
    assert states(check.data(facts(tmp_path, data_dir=str(tmp_path / "absent")))) == [FAIL]
    findings = check.data(facts(tmp_path, disk_reserve_mib=1 << 30))
    assert WARN in states(findings) and "make room" in said(findings)


def test_limits_that_do_not_hold_are_a_failure_and_decisions_a_reminder(tmp_path):
    slivers = [
        {"id": "5@1", "init_pid": 9, "limits": {"held": False}, "decisions": ["Paused by ann."]},
        {"id": "6@1", "init_pid": 10, "limits": {"held": True}, "decisions": []},
    ]
    found = facts(tmp_path, status=status(slivers=slivers))
    assert states(check.limits(found)) == [FAIL] and "5@1" in said(check.limits(found))
    assert states(check.decided(found)) == [WARN]


def test_a_cache_that_cannot_be_listed_is_a_failure(tmp_path):
    os.makedirs(tmp_path / "cache")
    (tmp_path / "cache/objects").write_text("")
    assert states(check.cache(facts(tmp_path))) == [FAIL]


def test_a_check_that_breaks_is_told_and_the_others_go_on(tmp_path):
    def broken(_):
        raise ZeroDivisionError("oops")

    findings = check.run_checks(facts(tmp_path), (broken, check.cgroups))
    assert states(findings) == [WARN, OK] and "ZeroDivisionError" in said(findings)


def test_every_check_runs_on_any_machine(tmp_path):
    for finding in check.run_checks(facts(tmp_path), check.CHECKS):
        assert finding.state in (OK, WARN, FAIL) and "ould not be looked at" not in finding.said, finding.as_doc()


def test_what_to_do_stands_below_what_is_wrong(tmp_path):
    text = tables.check([finding.as_doc() for finding in check.registry(facts(tmp_path))], colour=False)
    assert text.splitlines()[0].startswith("fail  registry  no usable address")
    assert "-> uci add_list" in text.splitlines()[1]
    assert text.endswith("1 to put right\n")


def overlay_status(**members):
    peer = {"name": "server_1", "connect": True, "reachable": True, "said": None}
    doc = {"asked": True, "running": True, "address": "fd65::2", "published": True, "peers": [{**peer, **members}]}
    return status(overlay=doc)


def test_an_overlay_without_its_server_fails_and_names_it(tmp_path):
    assert states(check.overlay(facts(tmp_path, status=overlay_status()))) == [OK]
    assert check.overlay(facts(tmp_path, status=status())) == []
    findings = check.overlay(facts(tmp_path, status=overlay_status(reachable=False, said="no address of it answers")))
    assert states(findings) == [FAIL] and "server_1 no address of it answers" in said(findings)
