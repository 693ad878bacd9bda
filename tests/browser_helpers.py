"""A Chromium for tests: one on the PATH, or the program that RESJAX_BROWSER names."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "headless-shell")
BROWSER = os.environ.get("RESJAX_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}, and no RESJAX_BROWSER"
    ),
]


@contextlib.contextmanager
def chromium():
    """The browser, driven by Playwright, which a file that calls this must not lack."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
