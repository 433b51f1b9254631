"""Opens pages in headless Chromium: those of the bridge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
OPEN_MS = 60_000


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield made
        finally:
            made.close()


def open_page(page: Page, base: str, name: str, session: str = "root", more: str = "", hash: str = "") -> None:
    """Open the page `name`, and wait until it shows what it has. AssertionError with the page's own errors."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(OPEN_MS)
    page.goto(f"{base}/{name}?session={session}{more}{hash}")
    page.wait_for_selector(f"body[data-page={name}], [role=alert]")
    assert not errors, errors


def picture(page: Page, name: str) -> None:
    """Keep a picture of the page in the directory that PICTURES names, if it names one."""
    place = os.environ.get("PICTURES")
    if place:
        page.screenshot(path=os.path.join(place, name + ".png"), full_page=True)
