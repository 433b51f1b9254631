"""The bridge answers as genuine uhttpd and rpcd do; held against recordings where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luci.bridge import Bridge, granted, menu

RECORDINGS = Path(__file__).resolve().parents[3] / "shared/openwrt-capture/http"
# Recorded files whose request the bridge must answer in the same way: where only the envelope matters.
ALIKE = (
    "018-call-no-session", "019-call-empty-session", "020-call-bogus-session", "021-call-short-session",
    "022-call-session-number", "025-call-without-acl", "027-call-acl-method", "028-call-unknown-object",
    "029-call-unknown-object-anonymous", "030-call-unknown-method", "038-call-args-missing", "039-call-args-null",
    "037-call-args-array", "045-rpc-no-version", "046-rpc-version-1", "053-rpc-malformed", "055-rpc-empty-body",
    "069-body-65537",
)  # fmt: skip
ROOT, VIEWER = "<session-root>", "<session-viewer>"


@pytest.fixture
def bridge():
    board = {"board": lambda data: (0, {}), "info": lambda data: (0, {})}
    objects = {"system": board, "uci": {"get": lambda data: (0, {})}, "session": {}, "probe": {}}
    sessions = {ROOT: {"system": ["board", "info"], "uci": ["get"]}, VIEWER: {"system": ["board"], "probe": ["echo"]}}
    one = Bridge(objects, sessions)
    yield one
    one.close()


@pytest.mark.parametrize("name", ALIKE)
def test_it_answers_as_the_recorded_uhttpd(bridge, name):
    file = RECORDINGS / (name + ".json")
    if not file.exists():
        pytest.skip(f"the recording {name} is not here: ../shared/openwrt-capture")
    recorded = json.loads(file.read_text())
    request = recorded["request"]
    body = json.dumps(request["body"]) if "body" in request else request.get("body_text", "")
    if name.startswith("069"):
        body = "x" * 65537
    answer, expected = bridge.rpc(body.encode()), recorded["response"]["body"]
    assert answer.get("error") == expected.get("error")


def test_a_call_is_answered_with_its_status_and_data(bridge):
    call = {"jsonrpc": "2.0", "id": 7, "method": "call", "params": [ROOT, "system", "board", {}]}
    assert bridge.rpc(json.dumps(call).encode()) == {"jsonrpc": "2.0", "id": 7, "result": [0, {}]}
    assert [one["id"] for one in bridge.rpc(json.dumps([call, call]).encode())] == [7, 7]


def test_who_may_only_read_can_change_nothing():
    reader, writer = granted("luci-app-confine", writing=False), granted("luci-app-confine", writing=True)
    assert "status" in reader["confine.web"]
    for method in ("stop", "release", "pause", "reset", "setup", "refresh"):
        assert method not in reader["confine.web"]
        assert method in writer["confine.web"]
    assert "set" not in reader["uci"]


def test_every_entry_of_the_menu_has_its_page():
    views = Path(__file__).resolve().parents[2] / "package/luci-app-confine/htdocs/luci-static/resources/view/confine"
    assert [page["name"] for page in menu()] != []
    assert {page["name"] for page in menu()} == {file.stem for file in views.glob("*.js")}
