"""The pages in a real browser, against answers that never change: what they show when something is missing or refused.

Against the daemon of a virtual node they are opened in test/qemu/test_luci.py.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

if "BROWSER" not in os.environ:  # `make test` has installed it: there its absence is a failure
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")

from playwright.sync_api import expect

from luci.bridge import APP, Bridge, granted, menu
from luci.pages import OPEN_MS, browser, open_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
expect.set_options(timeout=OPEN_MS)
STATUS = json.loads((Path(__file__).parent / "status.json").read_text())
UPGRADE = json.loads((Path(__file__).parent / "upgrade.json").read_text())
DEFAULTS = Path(__file__).resolve().parents[2] / "files/etc/uci-defaults/50-confine"
PAGES = [page["name"] for page in menu()]
FORMS = ("lend", "options")
# Those that every node's configuration has, whatever made it.
SECTIONS = re.search(r"^for section in (.*); do$", DEFAULTS.read_text(), re.MULTILINE)[1].split()
POLL_MS = 15_000  # longer than any page waits until it asks again
EVIL = '<b class="evil">name</b>'
CHANGING = granted("luci-app-confine", writing=True)["confine.web"]


def answer(result):
    return lambda data: (0, {"ok": True, "result": result})


def refuse(text):
    return lambda data: (0, {"ok": False, "error": text})


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture
def page(chromium):
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def bridge():
    STATUS["time"] = time.time()
    STATUS["registry"]["last_read"] = time.time() - 5
    methods = {"status": answer(STATUS), "sliver": answer(STATUS["slivers"][0]), "log": answer({"message": "a line"}),
               "settings": answer({"settings": {}, "problems": []}), "upgrade_history": answer(UPGRADE["history"]),
               "upgrade_status": answer(UPGRADE["status"]), "history": answer([])}  # fmt: skip
    uci = {"get": lambda data: (0, {"values": {section: {} for section in SECTIONS}})}
    sessions = {"root": {"*": ["*"]}, "viewer": granted("luci-app-confine", writing=False)}
    one = Bridge(
        {"confine.web": methods, "uci": uci, "luci-rpc": {"getNetworkDevices": lambda data: (0, {})}}, sessions
    )
    yield one
    one.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(chromium, bridge, name):
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    open_page(page, bridge.url, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


@pytest.mark.parametrize("name", ["overview", "slivers", "network", "log"])
def test_a_page_says_that_the_daemon_is_down_and_what_to_do(page, bridge, name):
    down = refuse("the daemon does not answer: is it running? /etc/init.d/confine start")
    bridge.objects["confine.web"].update(status=down, log=down)
    open_page(page, bridge.url, name)
    expect(page.locator("#view")).to_contain_text("/etc/init.d/confine start")


def test_a_page_says_that_the_node_is_not_on_the_bus(page, bridge):
    del bridge.objects["confine.web"]
    open_page(page, bridge.url, "overview")
    expect(page.get_by_role("alert")).to_contain_text("its process on ubus does not run")


def test_who_may_not_change_anything_is_told_so_by_the_node(page, bridge):
    open_page(page, bridge.url, "slivers", session="viewer")
    page.get_by_role("button", name="Release all").click()
    expect(page.get_by_role("alert")).to_contain_text("Access denied")


@pytest.mark.parametrize(("name", "button"), [("join", "Join"), ("upgrade", "Check now")])
def test_whoever_may_only_look_neither_joins_nor_upgrades(page, bridge, name, button):
    changed = []

    def change(data):
        changed.append(data)
        return 0, {"ok": True, "result": []}

    bridge.objects["confine.web"].update(setup=change, upgrade_check=change, upgrade_history=answer([]),
                                         upgrade_status=answer({"state": "idle", "slots": {}}))  # fmt: skip
    open_page(page, bridge.url, name, session="viewer")
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="denied")).not_to_have_count(0)
    assert changed == []


def test_everything_on_the_overview_is_shown_with_less_than_60_kib(page, bridge):
    got = []
    page.on("response", lambda response: got.append(response))
    open_page(page, bridge.url, "overview")
    expect(page.get_by_role("meter").first).to_be_visible()
    # LuCI's own parts are there before this page is opened, and so are what stands in for them here.
    ours = [one for one in got if "/standin/" not in one.url and one.request.resource_type != "document"]
    sizes = {one.url.removeprefix(bridge.url): len(one.body()) for one in ours}
    assert {"/luci-static/resources/view/confine/overview.js", "/luci-static/resources/confine/node.js"} <= set(sizes)
    assert any(path.startswith("/ubus") for path in sizes)
    assert sum(sizes.values()) <= 60 * 1024, sizes
    assert all(request.partition(" ")[2].startswith("/") for request in bridge.requests)


def test_the_cpu_bar_ends_where_the_nodes_processors_do(page, bridge):
    sliver = {**STATUS["slivers"][0], "limits": {**STATUS["slivers"][0]["limits"], "cpu_percent": None}}
    bridge.objects["confine.web"]["status"] = answer(
        {**STATUS, "node": {**STATUS["node"], "cpus": 4}, "slivers": [sliver]}
    )
    open_page(page, bridge.url, "overview")
    expect(page.get_by_role("meter", name="CPU")).to_have_attribute("aria-valuemax", "400")


def test_the_members_token_goes_to_the_node_only_when_it_joins_and_is_never_shown(page, bridge):
    asked = []
    found = [{"what": "overlay key", "state": "ok", "said": "the registry has it", "todo": ""}]
    bridge.objects["confine.web"]["setup"] = lambda data: (asked.append(data), answer(found)(data))[1]
    open_page(page, bridge.url, "join")
    secret = page.get_by_label("Member’s token")
    expect(secret).to_have_attribute("type", "password")
    secret.fill("0123456789abcdef")
    page.get_by_role("button", name="Look whether it works").click()
    expect(page.get_by_role("alert")).to_contain_text("it can join")
    page.get_by_role("button", name="Join", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("It has joined")
    assert [(data["check"], data["publish"]) for data in asked] == [(True, ""), (False, "0123456789abcdef")]
    assert "0123456789abcdef" not in page.locator("body").inner_text()


def test_the_nodes_keys_are_shown_as_they_are_to_be_entered(page, bridge):
    pem = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"
    found = [{"what": "overlay key", "state": "ok", "said": "\n" + pem + "\n", "todo": ""}]
    bridge.objects["confine.web"]["setup"] = answer(found)
    open_page(page, bridge.url, "join")
    page.get_by_role("button", name="Show the node’s keys").click()
    expect(page.locator("#confine-found pre")).to_have_text(pem)


def test_what_takes_the_node_long_is_begun_once_and_its_end_asked_for_until_it_is_there(page, bridge):
    found = [{"what": "overlay key", "state": "ok", "said": "\nthe key\n", "todo": ""}]
    asked, ends, pending = [], [], {"pending": True, "job": 4}
    bridge.objects["confine.web"]["setup"] = lambda data: (asked.append(data), answer(pending)(data))[1]
    bridge.objects["confine.web"]["job"] = lambda data: (
        ends.append(data), answer(found if len(ends) > 2 else pending)(data)
    )[1]  # fmt: skip
    open_page(page, bridge.url, "join")
    page.get_by_role("button", name="Show the node’s keys").click()
    expect(page.locator("#confine-found pre")).to_have_text("the key")
    assert [one["show"] for one in asked] == [True]
    assert ends == [{"job": 4}] * 3


def test_an_upgrade_that_failed_after_it_was_begun_says_why(page, bridge):
    bridge.objects["confine.web"]["upgrade_install"] = answer({"pending": True, "job": 1})
    bridge.objects["confine.web"]["job"] = refuse("the disk is full while staging")
    open_page(page, bridge.url, "upgrade")
    page.get_by_role("button", name="Install").click()
    expect(page.get_by_role("alert")).to_contain_text("the disk is full while staging")


def test_two_browsers_at_once_neither_undo_each_other_nor_hide_what_happened(chromium, bridge):
    stored = {"policy": {"slice_share": "50", "disk_reserve": "128"}, "sliver": {}, "node": {}}
    paused = []

    def pause(data):
        if paused:
            return 0, {"ok": False, "error": "sliver 1@1 is paused already: since just now, by ann"}
        paused.append(data)
        return 0, {"ok": True, "result": {}}

    bridge.objects["confine.web"]["pause"] = pause
    bridge.objects["uci"] = {
        "get": lambda data: (0, {"values": {name: dict(values) for name, values in stored.items()}}),
        "set": lambda data: (stored[data["section"]].update(data["values"]), (0, None))[1],
        "apply": lambda data: (0, None), "confirm": lambda data: (0, None),
    }  # fmt: skip
    one, other = (chromium.new_context() for _ in range(2))
    pages = [context.new_page() for context in (one, other)]
    for page in pages:
        open_page(page, bridge.url, "lend")
    for page, label, value in zip(
        pages, ("At most for one slice", "Disk kept for the node itself"), ("40", "256"), strict=True
    ):
        page.get_by_label(label).fill(value)
        page.get_by_role("button", name="Save & Apply").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
    assert stored["policy"] == {"slice_share": "40", "disk_reserve": "256"}
    for page in pages:
        open_page(page, bridge.url, "slivers")
        page.get_by_role("button", name="Pause").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(pages[1].get_by_role("alert")).to_contain_text("paused already")
    assert len(paused) == 1
    one.close()
    other.close()


def hostile(doc):
    """`doc` with every text in it turned into HTML that would be seen if it became a part of the page."""
    if isinstance(doc, dict):
        return {name: hostile(value) for name, value in doc.items()}
    if isinstance(doc, list):
        return [hostile(one) for one in doc]
    return EVIL if isinstance(doc, str) or doc is None else doc


@pytest.mark.parametrize("name", PAGES)
def test_no_text_from_outside_becomes_a_part_of_a_page(page, bridge, name):
    sliver = {**STATUS["slivers"][0], "errors": [{"member": "", "message": ""}], "people": [{"name": ""}]}
    found = [{"what": "name", "state": state, "said": said, "todo": "x"} for state, said in (("ok", ""), ("fail", "x"))]
    said = {"status": {**STATUS, "overlay": {"peers": [], "error": ""}}, "sliver": sliver, "log": {"message": ""},
            "upgrade_status": UPGRADE["status"], "upgrade_history": UPGRADE["history"], "check": found, "setup": found,
            "history": [{"time": 0, "time_sure": True, "what": "", "who": "", "why": "", "more": None}],
            "settings": {"settings": {}, "problems": [{"member": "", "message": ""}]}}  # fmt: skip
    bridge.objects["confine.web"] = {method: answer(hostile(doc)) for method, doc in said.items()}
    bridge.objects["confine.web"].update({method: refuse(EVIL) for method in CHANGING})
    for more in ("", "#1@1") if name == "slivers" else ("",):
        open_page(page, bridge.url, name, hash=more)
        for button in page.locator("#view button").all():
            if not button.is_enabled() or (name in FORMS and button.inner_text() == "Reset"):
                continue
            button.click()
            for inner in page.locator("[role=dialog] button").all()[1:]:
                inner.click()
                expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator("body")).to_contain_text(EVIL)
        expect(page.locator(".evil")).to_have_count(0)


def test_the_dialog_is_reached_and_left_with_the_keyboard(page, bridge):
    asked = []
    bridge.objects["confine.web"]["pause"] = lambda data: (asked.append(data), (0, {"ok": True, "result": {}}))[1]
    open_page(page, bridge.url, "slivers")
    page.get_by_role("button", name="Pause").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Reason (kept and shown)")).to_be_focused()
    page.keyboard.type("night")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == [{"sliver": STATUS["slivers"][0]["id"], "why": "night"}]


NAMELESS = """[...document.querySelectorAll('#view input, #view select, #view textarea, #view button, #view a')]
  .filter(one => one.type !== 'hidden' && !one.textContent.trim() && !one.ariaLabel
    && !(one.labels && one.labels.length) && !document.getElementById(one.getAttribute('aria-labelledby')))
  .map(one => one.outerHTML)"""
UNREACHED = """[...document.querySelectorAll('#view input, #view select, #view textarea, #view button, #view a')]
  .filter(one => one.tabIndex < 0 || (one.tagName === 'A' && !one.hasAttribute('href'))).map(one => one.outerHTML)"""


@pytest.mark.parametrize("name", PAGES)
def test_whatever_can_be_used_has_a_name_for_a_screen_reader_and_is_reached_by_the_tab_key(page, bridge, name):
    slots = {"a": {"whole": True, "version": "1.0"}, "b": {"whole": True, "version": "0.9"}}
    upgrade = {"state": "trial", "running": "b", "confirmed": "a", "slots": slots, "offered": {"version": "1.1"}}
    bridge.objects["confine.web"].update(upgrade_status=answer(upgrade), upgrade_history=answer([]))
    open_page(page, bridge.url, name)
    expect(page.locator("#view h2")).to_have_count(1)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(UNREACHED) == []
    assert page.evaluate("document.querySelectorAll('#view [role=meter]:not([aria-label])').length") == 0


@pytest.mark.parametrize("language", ["ca", "es"])
def test_every_text_is_translated(language):
    po = (APP / "po" / language / "confine.po").read_text()
    told = dict(re.findall(r'^msgid "(.*)"\nmsgstr "(.*)"$', po, re.MULTILINE))
    template = (APP / "po/templates/confine.pot").read_text()
    listed = set(re.findall(r'^msgid "(.+)"$', template, re.MULTILINE))
    assert texts() == listed
    assert {text for text in listed if not told.get(text)} == set()
    for text in listed:
        assert sorted(re.findall(r"%[sd]", text)) == sorted(re.findall(r"%[sd]", told[text])), text


def texts():
    """Every text of the pages and the menu that people read."""
    found = {page["title"] for page in menu()} | {"Testbed"}
    for file in APP.rglob("*.js"):
        found |= {match.replace("\\'", "'") for match in re.findall(r"_\('((?:[^'\\]|\\.)*)'\)", file.read_text())}
    return found


@pytest.mark.parametrize("name", PAGES)
def test_nothing_on_a_page_is_an_object_that_was_meant_to_be_an_element(page, bridge, name):
    open_page(page, bridge.url, name)
    expect(page.locator("#view h2")).to_have_count(1)
    assert "[object" not in page.locator("body").inner_text()


def test_the_upgrade_page_shows_both_slots_what_failed_and_offers_what_can_be_done(page, bridge):
    open_page(page, bridge.url, "upgrade")
    rows = page.locator("#confine-slots tr:not(.table-titles)")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("2.0")
    expect(rows.nth(1)).to_contain_text("runs now, confirmed")
    expect(page.locator("#confine-history")).to_contain_text("the registry was not reached within 600 s")
    expect(page.get_by_role("button", name="Start the other slot on trial")).to_be_enabled()
    expect(page.get_by_role("button", name="Confirm")).to_be_disabled()
    expect(page.get_by_role("button", name="Go back")).to_be_disabled()  # slot a was never confirmed


def test_a_trial_can_be_confirmed_and_a_slot_that_was_confirmed_once_gone_back_to(page, bridge):
    slots = UPGRADE["status"]["slots"]
    was = {**slots["slots"], "a": {**slots["slots"]["a"], "starts": "3"}}
    once = {**UPGRADE["status"], "slots": {**slots, "slots": was}}
    bridge.objects["confine.web"]["upgrade_status"] = answer(once)
    open_page(page, bridge.url, "upgrade")
    expect(page.get_by_role("button", name="Go back")).to_be_enabled()
    trial = {**once, "state": "trial", "running": "a", "slots": {**slots, "running": "a", "trial": True}}
    bridge.objects["confine.web"]["upgrade_status"] = answer(trial)
    open_page(page, bridge.url, "upgrade")
    expect(page.get_by_role("button", name="Confirm")).to_be_enabled()
    expect(page.get_by_role("button", name="Go back")).to_be_disabled()


def test_without_a_running_or_a_readable_slot_the_page_still_shows_what_there_is(page, bridge):
    slots = {**UPGRADE["status"]["slots"], "running": None, "confirmed": None, "copies": [None, None], "started": None}
    lost = {**UPGRADE["status"], "running": None, "confirmed": None, "version": None, "slots": slots}
    for doc in (lost, {**lost, "slots": {}, "state": "unavailable", "reason": "this disk has no slots"}):
        bridge.objects["confine.web"]["upgrade_status"] = answer(doc)
        open_page(page, bridge.url, "upgrade")
        expect(page.locator("#confine-history")).to_contain_text("the registry was not reached within 600 s")
    expect(page.locator("#confine-upgrade-state")).to_contain_text("this disk has no slots")


@pytest.mark.parametrize("name", FORMS)
def test_each_section_of_a_form_is_in_the_configuration_that_every_node_begins_with(page, bridge, name):
    open_page(page, bridge.url, name)
    for section in page.locator("fieldset").all():
        assert section.locator("input, select, [role=group]").count() > 0, section.inner_text()


def test_what_a_button_did_is_said_and_shown_at_once(page, bridge):
    bridge.objects["confine.web"]["upgrade_check"] = answer(UPGRADE["status"])
    bridge.objects["confine.web"]["upgrade_status"] = answer({**UPGRADE["status"], "offered": None, "reason": ""})
    open_page(page, bridge.url, "upgrade")
    assert "3.0" not in page.locator("#view").inner_text()
    bridge.objects["confine.web"]["upgrade_status"] = answer(UPGRADE["status"])
    page.get_by_role("button", name="Check now").click()
    expect(page.get_by_role("status")).to_contain_text("Done.")
    expect(page.locator("#view")).to_contain_text("Version 3.0 is offered")


def test_who_goes_by_keyboard_stays_where_they_are_when_the_page_is_shown_anew(page, bridge):
    page.clock.install()
    open_page(page, bridge.url, "slivers")
    button = page.get_by_role("button", name="Stop now").nth(1)
    button.focus()
    reset = page.get_by_role("button", name="Reset").nth(1).element_handle()
    slivers = [STATUS["slivers"][0], {**STATUS["slivers"][1], "address": "192.168.241.99/25"}]
    bridge.objects["confine.web"]["status"] = answer({**STATUS, "slivers": slivers})
    page.clock.fast_forward(POLL_MS)
    expect(page.locator("#confine-slivers")).to_contain_text("192.168.241.99")
    expect(button).to_be_focused()
    assert reset.evaluate("button => button.isConnected")


def test_a_button_never_acts_on_another_sliver_than_its_row_shows(page, bridge):
    asked = []
    page.clock.install()
    bridge.objects["confine.web"]["stop"] = lambda data: (asked.append(data["sliver"]), answer({})(data))[1]
    open_page(page, bridge.url, "slivers")
    bridge.objects["confine.web"]["status"] = answer({**STATUS, "slivers": STATUS["slivers"][1:]})
    page.clock.fast_forward(POLL_MS)
    expect(page.locator("#confine-slivers tr")).to_have_count(2)
    page.get_by_role("button", name="Stop now").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop now").click()
    expect(page.get_by_role("status")).to_be_visible()
    assert asked == [STATUS["slivers"][1]["id"]]


def test_what_was_refused_on_saving_is_not_applied(page, bridge):
    applied = []
    bridge.objects["uci"].update(set=lambda data: (0, None), apply=lambda data: (applied.append(data), (0, None))[1])
    problems = iter([[], [{"member": "/policy/slice_share", "message": "must be less"}]])
    bridge.objects["confine.web"]["settings"] = lambda data: answer({"settings": {}, "problems": next(problems)})(data)
    open_page(page, bridge.url, "lend")
    page.get_by_role("button", name="Save & Apply").click()
    expect(page.get_by_role("alert")).to_contain_text("must be less")
    expect(page.get_by_role("button", name="Save & Apply")).to_be_enabled()
    assert applied == []


def test_a_sliver_is_shown_with_what_was_done_with_it(page, bridge):
    record = {"time": 1, "time_sure": True, "what": "pause", "who": "ann", "why": "too loud", "more": None}
    bridge.objects["confine.web"]["history"] = answer([record])
    open_page(page, bridge.url, "slivers", hash="#1@1")
    expect(page.locator("#confine-actions")).to_contain_text("too loud")
