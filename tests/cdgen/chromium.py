"""Pages in Chromium, where it is installed, and what axe-core finds in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def running_chromium() -> Iterator[Any]:
    """Start Chromium; skip the test where it or Playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(_BROWSERS)}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs rights that a container lacks, and the pages are the tests' own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def serious_findings(page: Any) -> list[dict[str, Any]]:
    """Return what axe-core calls serious or critical in a page; it must have looked at colours."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")
    found = axe.Axe().run(page).response
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    return [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
