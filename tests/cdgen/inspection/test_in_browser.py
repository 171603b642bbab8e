"""The page of an inspected text in Chromium: it obeys no text, loads nothing and is accessible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import serious_findings
from tiny_pair import PairFolders

from cdgen.inspection.inspected import inspect_text
from cdgen.inspection.page import write_page

pytestmark = pytest.mark.usefixtures("one_thread")

HOSTILE = "<img src=x onerror='document.title = 1'>"


@pytest.fixture(scope="module")
def page_file(tiny_pair: PairFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of a text whose name is hostile and whose tokens have every colour."""
    flags = {"good": tiny_pair.good, "bad": str(tiny_pair.bad)}
    found = inspect_text(" ".join(f"w{2 + 7 * i % 46}" for i in range(40)), flags)
    path = tmp_path_factory.mktemp("inspected") / "page.html"
    write_page(replace(found, subject=HOSTILE, notes=(HOSTILE,)), path)
    return path


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_the_page_is_accessible_and_needs_nothing(
    chromium: Any, page_file: Path, colours: str
) -> None:
    context = chromium.new_context(color_scheme=colours)
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: problems.append(r.url) if r.url != page_file.as_uri() else None)
    page.goto(page_file.as_uri())
    assert page.title() == f"{HOSTILE} - cdgen inspect"
    assert page.locator("h1").inner_text() == HOSTILE
    for level in ("good-1", "good-2", "bad-1", "bad-2"):
        assert page.locator(f".contrast .{level}").count()
    assert page.locator("tbody tr").count() > 40
    assert not serious_findings(page)
    assert not problems
    context.close()


def test_the_table_scrolls_within_a_narrow_page(chromium: Any, page_file: Path) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(page_file.as_uri())
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    context.close()
