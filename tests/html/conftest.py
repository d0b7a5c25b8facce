"""A browser for the tests of pages: they look at it as its readers do, and nothing may leave it or go wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PATIENT_MS = 60_000
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "these tests need Chromium: tools/browser.sh installs it, or CHROMIUM names it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens a page from its text; fails at the end if there was an error in it, or a request left it."""
    amiss: list[str] = []
    contexts = []

    def open_page(html: str, *, width: int = 1280, dark: bool = False) -> Page:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        scheme = "dark" if dark else "light"
        contexts.append(chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENT_MS)
        page.on("console", lambda said: amiss.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: amiss.append(str(error)))
        inside = (file.as_uri(), "blob:", "data:")
        page.on("request", lambda asked: amiss.append(asked.url) if not asked.url.startswith(inside) else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not amiss
