"""The pages in LuCI's own code: that of an unpacked OpenWrt, over the bridge, or that of a node.

LUCI_FILES=/path/to/rootfs/www pytest test/luci/test_genuine.py
LUCI=http://192.0.2.1 LUCI_PASSWORD=... pytest test/luci/test_genuine.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")

from playwright.sync_api import Page, expect

from luci.bridge import APP, TYPES, Bridge, menu
from luci.pages import OPEN_MS, browser

HERE = Path(__file__).parent
FILES, NODE = os.environ.get("LUCI_FILES"), os.environ.get("LUCI")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not FILES and not NODE, reason="neither LUCI_FILES nor LUCI names a genuine LuCI"),
]
PAGES = [page["name"] for page in menu()]
FORMS = ("lend", "options")
SECTIONS = ("node", "registry", "testbed", "overlay", "policy", "sliver", "network", "firewall", "upgrade")
EVIL = '<b class="evil">name</b>'
Answers = dict[str, Any]


class Genuine(Bridge):
    """Serves LuCI's own files beside the app's, and the page that LuCI's dispatcher would make."""

    def page(self, path: str) -> tuple[int, str, bytes]:
        if path.startswith("/cgi-bin/luci/admin/confine/"):
            return 200, TYPES[".html"], (HERE / "genuine.html").read_bytes()
        for root in (Path(FILES or "/nowhere"), APP / "htdocs"):
            file = root / path.lstrip("/")
            if ".." not in path and file.is_file():
                return 200, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes()
        return 404, "text/plain", b"not found"

    def _one(self, request: Any) -> dict[str, Any]:
        if isinstance(request, dict) and request.get("method") == "list":
            return {"jsonrpc": "2.0", "id": request.get("id"), "result": {}}
        return super()._one(request)


def answers() -> Answers:
    """Of confine.web, names in them hostile."""
    status = json.loads((HERE / "status.json").read_text())
    upgrade = json.loads((HERE / "upgrade.json").read_text())
    status["slivers"][0]["slice_name"] = EVIL
    found = [{"what": "time", "state": "ok", "said": EVIL, "todo": ""}]
    return {"status": status, "sliver": {**status["slivers"][0], "people": [{"name": EVIL}]}, "log": {"message": EVIL},
            "history": [], "settings": {"settings": {}, "problems": []}, "check": {"pending": True, "job": 1},
            "job": found, "upgrade_status": upgrade["status"], "upgrade_history": upgrade["history"]}  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture
def base():
    if NODE:
        yield NODE.rstrip("/")
        return
    methods = {name: lambda data, said=said: (0, {"ok": True, "result": said}) for name, said in answers().items()}
    methods["pause"] = lambda data: (0, {"ok": False, "error": EVIL})
    values = {name: {".type": name, ".name": name, ".anonymous": False} for name in SECTIONS}
    uci = {"get": lambda data: (0, {"values": values}), "changes": lambda data: (0, {"changes": {}})}
    rest = {"luci": {"getFeatures": lambda data: (0, {})}, "luci-rpc": {"getNetworkDevices": lambda data: (0, {})},
            "session": {"access": lambda data: (0, {"access": True})}}  # fmt: skip
    one = Genuine({"confine.web": methods, "uci": uci, **rest}, {"root": {"*": ["*"]}})
    yield one.url
    one.close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context()
    made = context.new_page()
    made.set_default_timeout(OPEN_MS)
    made.errors = []
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    yield made
    context.close()


def open_in_luci(page: Page, base: str, name: str) -> None:
    page.goto(f"{base}/cgi-bin/luci/admin/confine/{name}")
    if page.locator("#luci_password").count():
        page.fill("#luci_password", os.environ.get("LUCI_PASSWORD", ""))
        page.keyboard.press("Enter")
    page.wait_for_selector("#view h2")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_in_genuine_luci_and_takes_nothing_for_html(page, base, name):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    open_in_luci(page, base, name)
    assert page.errors == []
    assert "[object" not in page.locator("#view").inner_text()
    expect(page.locator("#view .evil")).to_have_count(0)
    assert [url for url in asked if not url.startswith((base, "data:"))] == []
    if name in FORMS:
        assert page.locator("#view .cbi-section-node").count() == page.locator("#view .cbi-section").count()


@pytest.mark.skipif(bool(NODE), reason="of a node nothing is changed")
def test_a_refusal_is_shown_in_genuine_luci_in_the_nodes_words(page, base):
    open_in_luci(page, base, "slivers")
    page.get_by_role("button", name="Pause").first.click()
    page.locator(".modal").get_by_role("button", name="Pause").click()
    expect(page.get_by_role("alert")).to_contain_text(EVIL)
    open_in_luci(page, base, "log")
    page.get_by_role("button", name="Check the set-up").click()
    expect(page.locator("#confine-check")).to_contain_text(EVIL)
    assert page.errors == []
