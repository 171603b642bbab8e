"""The page of made-up corpora: finished or not, empty, hostile, large, and two side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from corpus_of_texts import write_texts

from cdgen.errors import StorageError, UsageError
from cdgen.page.parts import Page, Section
from cdgen.page.rendering import html_of
from cdgen.report import corpora as corpora_module
from cdgen.report.page import ReportConfig, make_page

HOSTILE = "</script><script>alert('&')</script> <b>| \u202e\u05d0 \x00 \x1b[31m {{ 7 * 7 }}"
ESCAPED = (
    "&lt;/script&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt; &lt;b&gt;| \\u202e\u05d0"
    " \\u0000 \\u001b[31m {{ 7 * 7 }}"
)
MOST_BYTES = 3_000_000


def page_of(*folders: Path, **more: Any) -> Page:
    return make_page(ReportConfig(folders, **more))


def section(page: Page, id: str) -> Section:
    return next(each for each in page.sections if each.id == id)


def rows_of(page: Page, id: str, table: int = 0) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in section(page, id).tables[table].rows}


def shown_texts(page: Page) -> list[str]:
    """Return the texts of the browser of samples, in order."""
    found = re.findall(r'<p class="sample".*?>(.*?)</p>', section(page, "samples").markup, re.S)
    return [unescape(text) for text in found]


def test_a_finished_corpus(tmp_path: Path) -> None:
    page = page_of(write_texts(tmp_path / "one"))
    assert "one holds 40 sequences of contrastive decoding, with 120 new tokens" in page.answer[0]
    size = rows_of(page, "size", 1)
    assert size["state"] == ["finished"] and size["sequences"] == ["40 of 40"]
    assert "new tokens per second, now" not in size
    assert "no rate" in section(page, "size").text[0]
    lengths = rows_of(page, "lengths")
    assert lengths["new tokens: mean"] == ["3.0"] and lengths["new tokens: median"] == ["3"]
    assert lengths["ended by length"] == ["20 (50.0 %)"]
    assert rows_of(page, "size")["BAD"] == ["dropout:0.5"]
    plan = rows_of(page, "plan", 1)
    assert plan["sampling.alpha"] == ["0.1"] and plan["good_sha256"] == ["c" * 64]
    assert len(shown_texts(page)) == 40
    assert [section.id for section in page.sections] == [
        *("size", "lengths", "plausible", "diversity", "quarantined", "strategies", "samples"),
        "plan",
    ]


def test_measures_are_those_of_cdgen_measure(tmp_path: Path) -> None:
    """Four words a text, of which the last one is new; the training text has half of them."""
    training = tmp_path / "training.txt"
    training.write_text("one two three\n")
    out = write_texts(tmp_path / "one", lambda i: f"one two three {i}")
    found = rows_of(page_of(out, training=[training]), "diversity")
    assert found["documents measured"] == ["40"]
    assert found["distinct-1"] == [f"{43 / 160:.3f}"] and found["novel 1-grams"] == ["0.250"]
    without = page_of(out)
    assert "novel 1-grams" not in rows_of(without, "diversity")
    assert any("Novelty is not measured" in text for text in section(without, "diversity").text)


def test_diversity_of_a_large_corpus_is_measured_on_some_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora_module, "MEASURED", 10)
    page = page_of(write_texts(tmp_path / "one"))
    assert rows_of(page, "diversity")["documents measured"] == ["10"]
    assert rows_of(page, "size", 1)["sequences"] == ["40 of 40"]


def test_histograms_count_every_row(tmp_path: Path) -> None:
    page = page_of(write_texts(tmp_path / "one"))
    lengths = section(page, "lengths").figures[0].svg
    assert lengths.count("<title>") == 7, "0 to 6 new tokens"
    assert "<title>0 to 0: 15 %</title>" in lengths
    assert section(page, "plausible").figures[0].svg.count("<rect") == 11


def test_a_corpus_without_a_mask_has_no_histogram_of_plausible_sets(tmp_path: Path) -> None:
    sampling = {"good_weight": 1.0, "bad_weight": 0.0, "alpha": 0.0, "temperature": 1.0}
    sampling |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    page = page_of(write_texts(tmp_path / "one", sampling=sampling, strategy="vanilla"))
    assert not section(page, "plausible").figures
    assert rows_of(page, "plausible")["plausible tokens, mean of all draws"] == ["all tokens"]
    assert "plausible tokens" not in page.answer[0]


# ---- unfinished, empty, damaged -----------------------------------------------------------------


def test_a_corpus_without_a_row(tmp_path: Path) -> None:
    page = page_of(write_texts(tmp_path / "one", ranges=0))
    assert page.answer == ["one has a plan, and no range of it is committed yet."]
    assert [each.id for each in page.sections] == ["size", "strategies", "samples", "plan"]
    assert "There is no row to show." in html_of(page)


def test_an_unfinished_corpus(tmp_path: Path) -> None:
    page = page_of(write_texts(tmp_path / "one", ranges=2))
    assert page.warnings[0] == "one: 2 of 5 ranges are committed."
    assert "16 sequences of contrastive decoding so far" in page.answer[0]
    assert rows_of(page, "size", 1)["state"] == ["unfinished: 2 of 5 ranges; workers at work: 0"]
    assert len(shown_texts(page)) == 16


def test_a_corpus_of_one_row(tmp_path: Path) -> None:
    page = page_of(write_texts(tmp_path / "one", ranges=1, range_size=1))
    assert rows_of(page, "size", 1)["sequences"] == ["1 of 40"]
    assert shown_texts(page) == ["text number 0"]
    html_of(page)


def test_a_corpus_of_quarantined_rows_only(tmp_path: Path) -> None:
    def nothing(row: Any) -> Any:
        fields = {"finish_reason": "quarantined", "new_tokens": 0, "tokens": row.tokens[:2]}
        return replace(row, **fields, mean_plausible=float("nan"))

    page = page_of(write_texts(tmp_path / "one", lambda i: "", change=nothing))
    table = section(page, "quarantined").tables[0]
    assert table.caption == "one: the first 20 of 40" and len(table.rows) == 20
    assert "one: 40 rows are quarantined." in page.warnings
    assert rows_of(page, "lengths")["new tokens: mean"] == ["0.0"]
    assert not section(page, "plausible").figures
    html_of(page)


def test_a_damaged_corpus_is_an_error(tmp_path: Path) -> None:
    out = write_texts(tmp_path / "one")
    path = next((out / "data").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="Restore the file"):
        page_of(out)


# ---- text that would be more than text ----------------------------------------------------------


def test_text_is_shown_as_text(tmp_path: Path) -> None:
    found = html_of(page_of(write_texts(tmp_path / HOSTILE[2:8], lambda i: HOSTILE)))
    assert found.count("alert") == found.count(ESCAPED) >= 40 + 10
    assert found.count("<script") == 1, "the page's own"


def test_halves_of_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON from elsewhere may hold them; cdgen's own files do not."""
    read = corpora_module.rows_so_far

    def rows(out: Path, columns: Any) -> Iterator[dict[str, Any]]:
        return ({**row, "text": "half \ud83d of a pair"} for row in read(out, columns))

    monkeypatch.setattr(corpora_module, "rows_so_far", rows)
    found = html_of(page_of(write_texts(tmp_path / "one", format="jsonl")))
    assert found.encode().count(b"half \\ud83d of a pair") >= 40


def test_a_long_text_is_cut_by_its_bytes_in_the_page(tmp_path: Path) -> None:
    """A control character takes six bytes; none is cut in its middle."""
    (text, *_) = shown_texts(page_of(write_texts(tmp_path / "one", lambda i: "\x00" * 5_000)))
    assert text == "\\u0000" * 1_000 + " [cut]"


@pytest.mark.parametrize("text", ["<&" * 50_000, "\u2029" * 50_000, "\U0001f98a" * 50_000])
def test_a_page_stays_small(tmp_path: Path, text: str) -> None:
    folders = [write_texts(tmp_path / name, lambda i: text) for name in ("one", "two")]
    assert len(html_of(page_of(*folders)).encode()) < MOST_BYTES


def test_shown_rows_do_not_grow_with_the_corpus(tmp_path: Path) -> None:
    plan = {"sequences_per_prompt": 500, "num_sequences": 5_000, "range_size": 1_000}
    out = write_texts(tmp_path / "one", **plan)
    page = page_of(out)
    texts = shown_texts(page)
    assert len(texts) == 100
    assert texts[0] == "text number 0" and texts[-1] == "text number 4999", "evenly spaced"
    assert "100 of 5,000 rows of one, evenly spaced" in section(page, "samples").text[0]
    assert html_of(page) == html_of(page_of(out)), "the same corpus gives the same page"


@pytest.mark.thorough
def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    plan = {"sequences_per_prompt": 10_000, "num_sequences": 100_000, "range_size": 10_000}
    page = page_of(write_texts(tmp_path / "one", **plan))
    assert rows_of(page, "size", 1)["sequences"] == ["100,000 of 100,000"]
    assert rows_of(page, "diversity")["documents measured"] == ["20,000"]
    assert len(html_of(page).encode()) < MOST_BYTES


# ---- two corpora --------------------------------------------------------------------------------


def test_two_corpora_have_a_column_each(tmp_path: Path) -> None:
    one = write_texts(tmp_path / "one", lambda i: f"first {i}")
    two = write_texts(tmp_path / "two", lambda i: f"second {i}", seed=1)
    page = page_of(one, two)
    for each in page.sections:
        for table in each.tables:
            if each.id != "quarantined":
                assert list(table.head) == ["", "one", "two"]
    assert page.answer[-1] == "Their plans differ in seed."
    assert rows_of(page, "plan", 1) == {"seed": ["0", "1"]}
    texts = shown_texts(page)
    assert texts[:4] == ["first 0", "second 0", "first 1", "second 1"] and len(texts) == 80


def test_samples_are_paired_by_prompt(tmp_path: Path) -> None:
    """The second corpus has two sequences per prompt, the first one four."""
    one = write_texts(tmp_path / "one")
    plan = {"sequences_per_prompt": 2, "num_sequences": 20}
    two = write_texts(tmp_path / "two", lambda i: f"of prompt {i // 2}", **plan)
    page = page_of(one, two)
    for index in range(0, 80, 2):
        text, other = shown_texts(page)[index : index + 2]
        assert other == f"of prompt {int(text.split()[-1]) // 4}"


def test_a_partner_that_is_not_written_yet(tmp_path: Path) -> None:
    one, two = write_texts(tmp_path / "one"), write_texts(tmp_path / "two", ranges=1)
    page = page_of(one, two)
    assert len(shown_texts(page)) == 40 + 8
    assert section(page, "samples").markup.count("has no row of this prompt yet") == 32


def test_a_corpus_beside_itself(tmp_path: Path) -> None:
    out = write_texts(tmp_path / "one")
    page = page_of(out, out)
    assert list(section(page, "size").tables[0].head) == ["", str(out), f"{out} again"]
    assert "Their plans agree." in page.answer


def test_other_prompts_are_not_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write_texts(tmp_path / "one"), write_texts(tmp_path / "two")
    monkeypatch.setattr(corpora_module, "have_same_prompts", lambda one, other: False)
    monkeypatch.setattr("cdgen.report.browser.have_same_prompts", lambda one, other: False)
    page = page_of(one, two)
    assert len(shown_texts(page)) == 80
    assert "continues other prompts" in section(page, "samples").text[0]


# ---- the command --------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, cdgen: Callable[..., Any]) -> None:
    one, two = write_texts(tmp_path / "one"), write_texts(tmp_path / "two")
    ended = cdgen("report", one)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == str(one / "report.html")
    assert (one / "report.html").read_text().startswith("<!doctype html>")
    elsewhere = tmp_path / "pages/both.html"
    assert cdgen("report", one, two, "--out", elsewhere).code == 0
    assert "one and two" in elsewhere.read_text()


def test_what_the_command_refuses(tmp_path: Path, cdgen: Callable[..., Any]) -> None:
    one = write_texts(tmp_path / "one")
    assert cdgen("report", tmp_path / "nothing").code == 2
    assert cdgen("report", one, tmp_path / "nothing").code == 2
    refused = cdgen("report", one, "--pair", "pair.yaml", "--good", "good")
    assert refused.code == 2 and "--pair names GOOD and BAD" in refused.err
    with pytest.raises(UsageError, match="no such file"):
        page_of(one, training=[tmp_path / "nothing.txt"])
