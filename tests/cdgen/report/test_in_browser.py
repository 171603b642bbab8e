"""The page in Chromium: search, filter, expand, the keyboard, colours, and accessibility."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import serious_findings
from corpus_of_texts import write_texts
from tiny_pair import PairFolders

from cdgen.report.page import ReportConfig, write_report

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LONG = " ".join(f"word{number}" for number in range(400))
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def coloured(
    two_corpora: list[Path],
    tiny_pair: PairFolders,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Write the page of two corpora with their models."""
    path = tmp_path_factory.mktemp("coloured") / "page.html"
    write_report(ReportConfig(two_corpora, good=tiny_pair.good, bad=str(tiny_pair.bad)), path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of one corpus of hostile, long, right-to-left and ordinary texts."""
    folder = tmp_path_factory.mktemp("plain")
    texts = {1: HOSTILE, 2: LONG, 3: "\u05e9\u05dc\u05d5\u05dd \x00"}
    out = write_texts(folder / "one", lambda i: texts.get(i, f"text number {i}"))
    write_report(ReportConfig([out]), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Open a page; nothing may be logged as an error, and nothing fetched, until the test ends."""
    problems: list[str] = []
    contexts = []

    def watch(page: Any) -> None:
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: None if r.url == page.url else problems.append(r.url))

    def open(path: Path, **settings: Any) -> Any:
        contexts.append(chromium.new_context(reduced_motion="reduce", **settings))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        watch(page)
        page.reload()
        return page

    yield open
    for context in contexts:
        context.close()
    assert [url for url in problems if not url.startswith("file:")] == []


def shown(page: Any) -> list[str]:
    """Return the titles of the samples that are to be seen."""
    titles = page.locator(".item:visible h3").all_inner_texts()
    return [title.split(" prompt")[0].strip() for title in titles]


def test_search_and_filters(open_page: Open, plain: Path) -> None:
    page = open_page(plain)
    assert page.locator("#found").inner_text() == "40 of 40 samples match, 10 are shown"
    page.get_by_label("Search").fill("NUMBER 17")
    assert shown(page) == ["Sequence 17"]
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('.item:not([hidden])').length === 10")
    page.get_by_label("Prompt").select_option("3")
    assert shown(page) == [f"Sequence {number}" for number in (12, 13, 14, 15)]
    page.get_by_label("Ended by").select_option("quarantined")
    assert shown(page) == ["Sequence 15"]
    page.get_by_label("Prompt").select_option("")
    page.get_by_label("New tokens from").fill("6")
    assert shown(page) == ["Sequence 11", "Sequence 39"]
    page.get_by_label("to", exact=True).fill("5")
    assert shown(page) == []
    assert page.locator("#found").inner_text() == "0 of 40 samples match, 0 are shown"


def test_more_samples(open_page: Open, plain: Path) -> None:
    page = open_page(plain)
    for count in (20, 30, 40):
        page.get_by_role("button", name="Show more").click()
        assert len(shown(page)) == count
    assert not page.locator("#more").is_visible()


def test_a_long_text_unfolds(open_page: Open, plain: Path) -> None:
    page = open_page(plain)
    page.get_by_label("Search").fill("word399")
    text = page.locator(".sample:visible")
    button = page.get_by_role("button", name="Show the whole text")
    folded = text.bounding_box()["height"]
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert text.bounding_box()["height"] > folded
    fold = page.get_by_role("button", name="Fold")
    assert fold.get_attribute("aria-expanded") == "true"
    fold.click()
    assert text.bounding_box()["height"] == folded
    page.get_by_label("Search").fill("number 17")
    assert not page.locator(".expand:visible").count(), "a short text has nothing to unfold"


def test_hostile_text_does_nothing(open_page: Open, plain: Path) -> None:
    page = open_page(plain)
    assert page.evaluate("window.hacked") is None
    page.get_by_label("Search").fill("onerror")
    assert page.locator(".sample:visible").inner_text() == HOSTILE


def test_without_a_script_everything_is_there(chromium: Any, plain: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(plain.as_uri())
    assert len(shown(page)) == 40
    assert not page.locator("form:visible, .expand:visible").count(), "no control that is dead"
    context.close()


def test_the_keyboard_reads_the_numbers(open_page: Open, coloured: Path) -> None:
    page = open_page(coloured)
    readout, text = page.locator("#readout"), page.locator(".sample.folded, .sample").first
    text.focus()
    page.keyboard.press("Home")
    assert readout.inner_text() == '"<s>", the first token'
    page.keyboard.press("ArrowRight")
    assert ", of the prompt" in readout.inner_text()
    page.keyboard.press("End")
    for words in ("difference", "log p GOOD", "rank", "plausible tokens", "CD draws"):
        assert words in readout.inner_text()
    assert text.locator(".here").count() == 1
    page.keyboard.press("Escape")
    assert not readout.is_visible()
    text.locator(".token").nth(7).hover()
    assert "entropy" in readout.inner_text()


def test_tab_reaches_every_control_once(open_page: Open, coloured: Path) -> None:
    """A text is one stop, however many tokens it has, and focus is visible."""
    page = open_page(coloured)
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
              const at = document.activeElement;
              const outline = getComputedStyle(at).outlineStyle;
              return [at.className || at.name || at.tagName, at.id, outline];
            }"""
        )
        stops.append(stop)
        if stop[1] == "text-1-1":
            break
    names = [name for name, _, _ in stops]
    assert names[0] == "skip"
    order = [names.index(name) for name in ("words", "prompt", "reason", "least", "most")]
    assert order == sorted(order)
    assert [id for _, id, _ in stops if id.startswith("text-")] == [
        *("text-0-0", "text-1-0", "text-0-1", "text-1-1")
    ]
    assert all(outline != "none" for _, _, outline in stops)


def test_colours_follow_the_system_and_the_choice(open_page: Open, plain: Path) -> None:
    page = open_page(plain, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_label("Colours").select_option("light")
    light = page.evaluate(background)
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(background) == dark != light


def test_a_phone_does_not_scroll_sideways(open_page: Open, coloured: Path) -> None:
    page = open_page(coloured, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(
    ("which", "scheme"), [("coloured", "light"), ("coloured", "dark"), ("plain", "light")]
)
def test_axe_finds_nothing_serious(
    open_page: Open, request: pytest.FixtureRequest, which: str, scheme: str
) -> None:
    page = open_page(request.getfixturevalue(which), color_scheme=scheme)
    page.locator(".sample").first.focus()
    page.keyboard.press("End")  # the numbers of a token are shown too
    assert serious_findings(page) == []
