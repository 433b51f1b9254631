"""The original registry's recorded answers, step by step, on the day they were recorded: what the node makes of it."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from confine.core import desired
from confine.core import settings as core_settings
from confine.core.model import DEPLOY, REGISTER, START, Desired
from confine.core.settings import Settings
from confine.paths import Paths
from confine.registry import store
from confine.registry.client import Registry
from registry.faults import Replayed
from registry.replay import CAPTURE, Recording

pytestmark = pytest.mark.skipif(
    not os.path.exists(os.path.join(CAPTURE, "index.json")),
    reason="the recorded answers of the original registry (../shared/registry-capture) are not here",
)

CAPTURE_DAY = "2026-11-20"

# key: (effective target, sliver's instance_sn, slice's instance_sn, template's file, disk in MiB)
FIRST: dict[str, Any] = {
    "5@27": (DEPLOY, 2, 1, "openwrt-aa-x86.tgz", 700),
    "18@27": (START, 0, 0, "openwrt-aa-x86.tgz", 512),
    "27@27": (REGISTER, 0, 0, "openwrt-aa-x86.tgz", 256),
    "44@27": (DEPLOY, 0, 12, "debian7-amd64.tar.gz", 256),
    "70000@27": (REGISTER, 1, 0, "debian7-amd64.tar.gz", 256),
}
NEW_OPENWRT, NEW_DEBIAN = "openwrt-new.tar.gz", "debian7-amd64-r2.tar.gz"
# step: what it changes in the slivers asked for; None: the sliver is to be removed.
CHANGES: dict[str, dict[str, Any]] = {
    "00-initial": FIRST,
    "01-slice-start": {"5@27": (START, 2, 1, "openwrt-aa-x86.tgz", 700)},
    "02-sliver-update": {"5@27": (START, 3, 1, "openwrt-aa-x86.tgz", 700)},
    "03-slice-reset": {"18@27": (START, 0, 1, "openwrt-aa-x86.tgz", 512)},
    "05-sliver-deleted": {"70000@27": None},
    "06-sliver-isolated": {"70000@27": (DEPLOY, 0, 0, "debian7-amd64.tar.gz", 256)},
    "07-slice-register": {"18@27": (REGISTER, 0, 1, "openwrt-aa-x86.tgz", 512)},
    "10-template-image": {
        "5@27": (START, 3, 1, NEW_OPENWRT, 700),
        "18@27": (REGISTER, 0, 1, NEW_OPENWRT, 512),
        "27@27": (REGISTER, 0, 0, NEW_OPENWRT, 256),
        "44@27": (DEPLOY, 0, 12, NEW_DEBIAN, 256),
        "70000@27": (DEPLOY, 0, 0, NEW_DEBIAN, 256),
    },
    "11-resources-lowered": {
        "27@27": (REGISTER, 0, 0, NEW_OPENWRT, 100),
        "44@27": (DEPLOY, 0, 12, NEW_DEBIAN, 100),
        "70000@27": (DEPLOY, 0, 0, NEW_DEBIAN, 100),
    },
    "12a-slice-deleted": {"5@27": None},
    "12b-slice-expired": {"44@27": None},
}


def settings_of_node_27(uri: str) -> Settings:
    settings, problems = core_settings.parse(
        {
            "node": {".type": "node", "id": "001b"},
            "registry": {".type": "registry", "base_uri": [uri], "plain_http": "1"},
            "testbed": {".type": "testbed", "mgmt_ipv6_prefix48": "fdc0:7246:b03f::/48"},
        }
    )
    assert problems == []
    return settings


class Steps:
    """The recording played to the end: the state and what is desired after each step."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.states: dict[str, Any] = {}
        self.desired: dict[str, Desired] = {}
        self.changed: dict[str, bool] = {}
        self.asked: dict[str, list[str]] = {}

    def play(self) -> None:
        with Replayed(self.recording.answer) as server:
            self.base = server.base
            settings = settings_of_node_27(server.base)
            registry = Registry(settings, Paths())
            state = None
            for step in self.recording.steps:
                self.recording.step, self.recording.asked = step, []
                state, changed = registry.refresh(state, time.monotonic() + 20)
                again, changed_again = registry.refresh(state, time.monotonic() + 20)
                assert not changed_again, step
                assert again["docs"] == state["docs"], step
                self.states[step], self.changed[step] = state, changed
                self.asked[step] = self.recording.asked
                self.desired[step] = desired.build({**state, "date": CAPTURE_DAY}, settings)
            registry.close()


@pytest.fixture(scope="module")
def steps() -> Iterator[Steps]:
    played = Steps()
    played.play()
    yield played


def test_every_document_of_the_original_is_usable_without_a_problem(steps: Steps) -> None:
    for step, state in steps.states.items():
        assert (step, state["problems"], state["gone"]) == (step, {}, [])


def test_after_each_step_exactly_the_slivers_the_registry_asks_for_are_desired_as_it_asks(steps: Steps) -> None:
    expected: dict[str, Any] = {}
    for step in steps.recording.steps:
        expected.update(CHANGES.get(step, {}))
        expected = {key: value for key, value in expected.items() if value is not None}
        found = {}
        for sliver in steps.desired[step].slivers:
            assert sliver.template is not None
            file = sliver.template.uri.rpartition("/")[2]
            found[sliver.key] = (
                sliver.target, sliver.sliver_instance_sn, sliver.slice_instance_sn, file, sliver.limits.disk_mib
            )  # fmt: skip
        assert (step, found) == (step, expected)
        assert steps.desired[step].complete
        assert not any(sliver.blocked for sliver in steps.desired[step].slivers)


def test_the_nodes_state_and_boot_number_follow_the_registry(steps: Steps) -> None:
    for step in steps.recording.steps:
        node = steps.desired[step].node
        assert node is not None
        assert node.set_state == ("production" if step == "08a-node-production" else "safe"), step
        assert node.boot_sn == (4 if step < "04" else 5), step


def node_keys(steps: Steps, step: str) -> list[str]:
    node = steps.desired[step].node
    assert node is not None
    return sorted(key.split(" ")[0] + " " + key.split(" ")[-1] for key in node.keys)


def test_keys_of_the_nodes_admins_follow_the_registry(steps: Steps) -> None:
    old, kept = "ssh-rsa node-admin@example.net", "ecdsa-sha2-nistp256 node-admin@example.net"
    assert node_keys(steps, "00-initial") == sorted([old, kept])
    assert node_keys(steps, "09a-key-added") == sorted([old, kept, "ssh-ed25519 new-key@example.net"])
    assert node_keys(steps, "09b-key-removed") == sorted([kept, "ssh-ed25519 new-key@example.net"])


def test_keys_of_a_deactivated_user_are_taken_out_of_the_slivers(steps: Steps) -> None:
    def owners(step: str) -> set[str]:
        slivers = {sliver.key: sliver for sliver in steps.desired[step].slivers}
        return {key.split(" ")[-1] for key in slivers["44@27"].keys}

    assert "slice-admin@example.net" in owners("09b-key-removed")
    assert "slice-admin@example.net" not in owners("09c-user-inactive")
    assert "user3@example.net" in owners("09c-user-inactive")


def test_certificates_and_keys_of_inactive_users_are_never_let_in(steps: Steps) -> None:
    for step, found in steps.desired.items():
        keys = [key for sliver in found.slivers for key in sliver.keys]
        assert all(key.startswith(("ssh-", "ecdsa-")) and "\n" not in key and "\r" not in key for key in keys), step
        assert not any(key.endswith("user1@example.net") for key in keys), step


def test_every_step_is_seen_as_a_change_and_only_what_the_node_needs_is_asked_for(steps: Steps) -> None:
    assert all(steps.changed.values())
    allowed = ("/api/nodes/27/", "/api/servers/", "/api/hosts/")
    for step, asked in steps.asked.items():
        assert not any(path.startswith("/api/hosts/3") or path == "/api/nodes/" for path in asked), step
        assert all(path in asked for path in allowed), step
        assert len(asked) <= 2 * 25, step


def test_the_tag_of_a_slice_goes_when_the_slice_is_only_registered(steps: Steps) -> None:
    def tag(step: str, key: str) -> int | None:
        tags = [sliver.vlan_tag for sliver in steps.desired[step].slivers if sliver.key == key]
        assert len(tags) == 1
        return tags[0]

    assert tag("03-slice-reset", "18@27") == 256
    assert tag("07-slice-register", "18@27") is None
    assert tag("00-initial", "70000@27") == 257


def test_islands_and_servers_are_known_in_all_their_forms(steps: Steps) -> None:
    state = steps.states["00-initial"]
    docs = state["docs"]
    assert state["node"]["tinc"]["addresses"][0]["island"]["uri"] == steps.base + "islands/1/"
    assert docs[steps.base + "islands/1/"]["name"] == "North island"
    assert docs[steps.base + "servers/2/"]["api"][1]["island"] == {"uri": None, "id": 1}
    assert docs[steps.base + "servers/5/"]["tinc"] is None


def test_the_state_after_the_last_step_survives_the_disk(steps: Steps, tmp_path: Any) -> None:
    paths = Paths(data=str(tmp_path))
    state = steps.states["12b-slice-expired"]
    store.save(paths, state)
    assert store.load(paths) == (state, None)


def test_a_slice_past_its_last_day_is_removed_by_confirmed_time_alone(steps: Steps) -> None:
    state = steps.states["00-initial"]
    settings = settings_of_node_27(steps.base)
    for date, kept in ((CAPTURE_DAY, True), (None, True), ("2106-02-07", False)):
        found = desired.build({**state, "date": date}, settings)
        assert any(sliver.key == "44@27" for sliver in found.slivers) == kept, date
