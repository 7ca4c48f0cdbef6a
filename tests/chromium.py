"""Headless Chromium for the tests of pages: the fixture `browser`, or `launched` with arguments of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
WAIT_MS = 60_000  # a busy machine starts a tab in seconds

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on PATH")


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """A browser of playwright's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    sync_api.expect.set_options(timeout=WAIT_MS)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *arguments], timeout=WAIT_MS
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium
