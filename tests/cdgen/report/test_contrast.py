"""The colours and the agreement of the strategies, on corpora of the tiny pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_pair import PairFolders

from cdgen.corpus.reader import corpus_rows
from cdgen.inspection.positions import DrawnTokens, Position
from cdgen.inspection.reader import SequenceReader
from cdgen.page.parts import Page, Section
from cdgen.report import browser
from cdgen.report.page import ReportConfig, make_page
from cdgen.report.strategies import StrategySums, strategy_section

pytestmark = pytest.mark.usefixtures("one_thread")


def page_of(corpora: list[Path], pair: PairFolders | None) -> Page:
    good, bad = (pair.good, str(pair.bad)) if pair else (None, None)
    return make_page(ReportConfig(corpora, good=good, bad=bad))


def section(page: Page, id: str) -> Section:
    return next(each for each in page.sections if each.id == id)


def tokens_of(page: Page) -> dict[str, Any]:
    markup = section(page, "samples").markup
    text = markup.partition('<script type="application/json" id="tokens">')[2]
    return dict(json.loads(text.partition("</script>")[0]))


def test_a_corpus_draws_its_own_tokens_again(
    two_corpora: list[Path], tiny_pair: PairFolders
) -> None:
    page = page_of(two_corpora, tiny_pair)
    (table,) = section(page, "strategies").tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["the corpus's own token drawn again"] == ["100.0 %", "100.0 %"]
    drawn = [sum(r["new_tokens"] for r in corpus_rows(c, ["new_tokens"])) for c in two_corpora]
    assert rows["drawn tokens"] == [f"{count:,}" for count in drawn]
    assert all(0 < float(value) < 20 for value in rows["KL(CD || vanilla), nats"])
    assert all(0 < float(value[:-2]) < 100 for value in rows["agreement of CD and vanilla"])


def test_every_shown_token_has_its_numbers(two_corpora: list[Path], tiny_pair: PairFolders) -> None:
    found = tokens_of(page_of(two_corpora, tiny_pair))
    assert len(found["texts"]) == 80
    columns = ["sequence_id", "tokens", "prompt_tokens"]
    for number, corpus in enumerate(two_corpora):
        for row in corpus_rows(corpus, columns):
            numbers = found["texts"][f"{number}-{row['sequence_id']}"]
            assert numbers["prompt"] == row["prompt_tokens"]
            pieces = [found["pieces"][piece] for piece in numbers["piece"]]
            assert pieces[0] == "<s>" and len(pieces) == len(row["tokens"])
            lengths = {len(column) for name, column in numbers.items() if name != "prompt"}
            assert lengths == {len(pieces)}
            assert numbers["good"][0] is None and None not in numbers["good"][1:]


def test_a_corpus_without_its_models_says_so(two_corpora: list[Path]) -> None:
    """It knows them by the names of their folders, which are elsewhere."""
    page = page_of(two_corpora, None)
    (one, other) = section(page, "strategies").text
    assert one.startswith("cd: not measured: ") and "--good" in one
    assert other.startswith("vanilla: not measured: ")
    assert 'id="tokens"' not in section(page, "samples").markup


def test_other_models_are_not_used(two_corpora: list[Path], tiny_twin: Path) -> None:
    page = make_page(ReportConfig(two_corpora[:1], good=tiny_twin, bad="layers:1"))
    (why,) = section(page, "strategies").text
    assert "was written by other models" in why
    assert why in page.warnings, "who names a model wants it read"


def test_vanilla_needs_a_bad_to_be_contrasted(
    two_corpora: list[Path], tiny_pair: PairFolders
) -> None:
    page = make_page(ReportConfig(two_corpora[1:], good=tiny_pair.good))
    assert "no --bad is given" in section(page, "strategies").text[0]


def test_models_are_left_out_on_request(two_corpora: list[Path], tiny_pair: PairFolders) -> None:
    page = make_page(ReportConfig(two_corpora, good=tiny_pair.good, bad="none"))
    assert len(section(page, "strategies").text) == 2
    assert "--bad none asks for no model" in section(page, "strategies").text[0]


def test_numbers_that_are_not_finite_are_left_out(
    two_corpora: list[Path], tiny_pair: PairFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose weights are broken: JSON has no NaN, and the page no place for it."""
    read = SequenceReader.positions

    def broken(reader: SequenceReader, sequences: Any) -> Any:
        nothing = DrawnTokens(None, None, None)
        changes = {"good_logprob": float("nan"), "entropy": float("inf"), "drawn": nothing}
        found = read(reader, sequences)
        return [[replace(record, **changes) for record in records] for records in found]

    monkeypatch.setattr(SequenceReader, "positions", broken)
    page = page_of(two_corpora[:1], tiny_pair)
    found = tokens_of(page)
    numbers = next(iter(found["texts"].values()))
    assert {*numbers["good"], *numbers["difference"], *numbers["entropy"]} == {None}
    assert {found["pieces"][piece] for piece in numbers["vanilla"][1:]} == {"?"}
    (table,) = section(page, "strategies").tables
    assert page.answer[-1].endswith("on average."), "nothing is said of an agreement"
    assert dict((row[0], row[1]) for row in table.rows)["agreement of CD and vanilla"] == "-"


def test_only_so_many_tokens_are_read(
    two_corpora: list[Path], tiny_pair: PairFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "TOKENS", 200)
    page = page_of(two_corpora, tiny_pair)
    texts = tokens_of(page)["texts"]
    assert 0 < sum(len(numbers["piece"]) for numbers in texts.values()) <= 200
    assert {key[0] for key in texts} == {"0", "1"}, "pairs are coloured together"
    assert f"first {len(texts)} texts" in section(page, "samples").text[1]


def test_a_sample_beyond_the_limit_is_not_read(
    two_corpora: list[Path], tiny_pair: PairFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "TOKENS", 3)
    page = page_of(two_corpora[:1], tiny_pair)
    assert "its first sample alone has more than" in section(page, "strategies").text[0]


def test_agreement_counts_what_both_could_draw() -> None:
    def record(drawn: DrawnTokens) -> Position:
        return Position(1, 5, -1.0, -2.0, 3, True, 1, 1.0, drawn)

    sums = StrategySums("vanilla")
    sums.add([record(DrawnTokens(5, 5, 6)), record(DrawnTokens(5, 6, None))])
    (table,) = strategy_section(["one"], {"one": sums}, []).tables
    rows = {row[0]: row[1] for row in table.rows}
    assert rows["the corpus's own token drawn again"] == "100.0 %"
    assert rows["agreement of plausible-only and vanilla"] == "50.0 %"
    assert rows["agreement of CD and vanilla"] == "0.0 %"
    assert rows["KL(CD || vanilla), nats"] == "-"


def test_the_command_takes_a_pair_file(
    two_corpora: list[Path], tiny_pair: PairFolders, tmp_path: Path, cdgen: Callable[..., Any]
) -> None:
    path = tmp_path / "page.html"
    models = ("--good", tiny_pair.good, "--bad", tiny_pair.bad)
    ended = cdgen("report", *two_corpora, *models, "--out", path)
    assert ended.code == 0 and "GOOD and BAD read 40 samples" in ended.err
    assert 'id="tokens"' in path.read_text()
