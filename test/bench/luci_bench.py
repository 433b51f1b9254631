"""LuCI's first page of the node, opened cold in a headless browser: how long until all figures are there, what is sent.

    python3 test/bench/luci_bench.py

The node's answers are kept ones and LuCI's own parts a stand-in's, so that it is the page that is measured: what the
browser, the bridge and the page cost, over loopback, without the daemon's time (see the figures of the API).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "test"), ROOT, os.path.join(ROOT, "controller")]

from bench.table import Figure, missing  # noqa: E402  # after the path is set

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

NAMES = ("overview",)
ROUNDS = 5
LIMIT_MS, LIMIT_KIB = 1000, 60
METERS = "[role=meter]"


def figures(wanted: set[str], versions: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`."""
    if not wanted & set(NAMES):
        return
    try:
        import playwright.sync_api  # noqa: F401  # its absence is what is asked for
    except ImportError:
        yield missing("Overview page, cold", "playwright is not installed: make setup")
        return
    times, sizes = _opened(versions)
    best = min(times)
    yield Figure(f"Overview page, cold, to all figures shown (loopback; best of {ROUNDS})", f"{best:.0f} ms",
                 to_reach=f"<= {LIMIT_MS} ms", reached=best <= LIMIT_MS)  # fmt: skip
    kib = max(sizes) / 1024
    yield Figure("sent for it: the page's own parts and the node's answers, not packed", f"{kib:.1f} KiB",
                 to_reach=f"<= {LIMIT_KIB} KiB", reached=kib <= LIMIT_KIB)  # fmt: skip


def _opened(versions: dict[str, str]) -> tuple[list[float], list[int]]:
    """Milliseconds from the navigation to the last bar, and bytes, of each time that the page was opened anew."""
    from luci.bridge import Bridge
    from luci.pages import browser, open_page

    with open(os.path.join(ROOT, "test", "luci", "status.json"), encoding="utf-8") as file:
        status = json.load(file)
    status["time"] = time.time()
    bars = 3 * len(status["slivers"])
    bridge = Bridge({"confine.web": {"status": lambda data: (0, {"ok": True, "result": status})}},
                    {"root": {"*": ["*"]}})  # fmt: skip
    times, sizes = [], []
    try:
        with browser() as chromium:
            versions["Chromium"] = chromium.version
            for _ in range(ROUNDS):
                context = chromium.new_context()
                page = context.new_page()
                sent = _listen(page)
                open_page(page, bridge.url, "overview")
                page.wait_for_function(f"document.querySelectorAll('{METERS}').length >= {bars}")
                times.append(float(page.evaluate("performance.now()")))
                sizes.append(sum(_size(one) for one in sent))
                context.close()
    finally:
        bridge.close()
    return times, sizes


def _listen(page: Page) -> list[Response]:
    found: list[Response] = []
    page.on("response", lambda one: found.append(one))
    return found


def _size(response: Response) -> int:
    """Bytes. LuCI's own parts are there before this page is opened, and so are those that stand in for them here."""
    if "/standin/" in response.url or response.request.resource_type == "document":
        return 0
    return int(response.headers.get("content-length", 0))


if __name__ == "__main__":
    for figure in figures(set(NAMES), {}):
        print(figure)
