"""A real browser for the tests of the page: Chromium of the system, driven by playwright; skipped where it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window.

    Not for the whole session: while playwright runs, this thread has a running event loop, and others need their own.
    """
    api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    program = os.environ.get("DRAGOMAN_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("the browser tests need Chromium: install it, or set DRAGOMAN_CHROMIUM to its path")
    with api.sync_playwright() as playwright:
        # Its own sandbox needs rights that containers do not give.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile, as on a desktop, in English."""
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()
