"""The pages of LuCI, in a real browser, against the daemon of a virtual node."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from hashlib import sha256

import pytest

if "BROWSER" not in os.environ:  # `make test` has installed it: there its absence is a failure
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")

from playwright.sync_api import Browser, Page, expect

from confine.bus import rules
from luci.bridge import Bridge, granted
from luci.pages import OPEN_MS, browser, open_page, picture
from luci.remote import Remote
from qemu.following import FOLLOW_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
expect.set_options(timeout=OPEN_MS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture
def bridge(following: Following) -> Iterator[Bridge]:
    remote = Remote(following.node)
    sessions = {"root": {"*": ["*"]}, "viewer": granted("luci-app-confine", writing=False)}
    one = Bridge(remote.objects([*rules.methods(), rules.JOB]), sessions)
    yield one
    one.close()
    remote.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


def test_the_pages_show_state_slivers_against_limits_and_what_goes_where(page: Page, bridge: Bridge) -> None:
    open_page(page, bridge.url, "overview")
    expect(page.locator("#confine-state")).to_have_text("production")
    expect(page.locator("#confine-slivers tr:not(.table-titles)")).to_have_count(4)
    expect(page.get_by_role("meter", name="Memory", exact=True).first).to_have_attribute(
        "aria-valuetext", re.compile(r"^[\d.]+ / \d+ MiB$")
    )
    picture(page, "overview")
    open_page(page, bridge.url, "network")
    expect(page.locator("#confine-interfaces")).to_contain_text("192.168.241.1/25")
    expect(page.get_by_role("img")).to_contain_text("192.168.241.126")
    picture(page, "network")
    open_page(page, bridge.url, "log")
    expect(page.get_by_role("log")).to_contain_text("controller started")
    page.get_by_role("button", name="Check the set-up").click()
    expect(page.locator("#confine-check")).to_contain_text("configuration")
    picture(page, "log")


def test_a_sliver_is_paused_with_a_reason_and_goes_on(page: Page, bridge: Bridge, following: Following) -> None:
    open_page(page, bridge.url, "slivers")
    page.get_by_role("link", name="1@1").click()
    picture(page, "sliver")
    page.locator("#confine-sliver").get_by_role("button", name="Pause").click()
    page.get_by_label("Reason (kept and shown)").fill("too loud")
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("#confine-sliver")).to_contain_text("too loud")
    following.node.wait_for("it is frozen", lambda: following.sliver("1@1")["frozen"], FOLLOW_S)
    page.get_by_role("button", name="Resume").click()
    following.node.wait_for("it goes on", lambda: not following.sliver("1@1")["frozen"], FOLLOW_S)


def test_a_form_shows_the_daemons_own_words_and_saves_only_what_it_can_use(
    page: Page, bridge: Bridge, following: Following
) -> None:
    open_page(page, bridge.url, "lend")
    page.get_by_label("At most for one slice (%)").fill("400")
    page.get_by_role("button", name="Save & Apply").click()
    expect(page.get_by_role("alert")).to_contain_text("must be a whole number from 1 to 100")
    assert "400" not in following.node.must(["uci", "show", "confine"])
    page.get_by_label("At most for one slice (%)").fill("40")
    page.get_by_role("button", name="Save & Apply").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert following.node.must(["uci", "get", "confine.policy.slice_share"]).strip() == "40"
    picture(page, "lend")


def test_a_member_joins_on_one_page_and_is_told_what_is_wrong(page: Page, bridge: Bridge, following: Following) -> None:
    pem = following.node.must(["cat", following.node.must(["uci", "get", "confine.registry.cert"]).strip()])
    pin = sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    open_page(page, bridge.url, "join")
    page.get_by_label("Registry").fill(following.node.must(["uci", "get", "confine.registry.base_uri"]).strip())
    page.get_by_label("Fingerprint").fill(pin)
    page.get_by_label("Node id").fill("0ff0")
    page.get_by_role("button", name="Look whether it works").click()
    expect(page.locator("#confine-found")).to_contain_text("the registry knows no node 0ff0")
    picture(page, "join")
    page.get_by_label("Node id").fill("0001")
    page.get_by_role("button", name="Join", exact=True).click()
    expect(page.locator("#confine-found")).to_contain_text("It has joined")
    assert pin[:16] in following.node.must(["uci", "get", "confine.registry.cert"])
    following.wait_state("1@1", "started")
