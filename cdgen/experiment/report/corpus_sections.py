"""The sections of the page that show the corpora: their measures, and texts side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cdgen.experiment.costs import MANY_READINGS
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.report.corpora import Corpus
from cdgen.experiment.report.paper_figures import truncation_of
from cdgen.page.parts import Samples, Section, Table

_SHOWN = 700  # characters of a sample
_SETS = ("plausible_sets",)  # where the measures hold the sets of a sample of draws
_Cell = Callable[[Corpus], str]


def corpus_sections(recipe: RunRecipe, corpora: Mapping[str, Corpus]) -> list[Section]:
    """Return the sections of the finished corpora; none if there are none."""
    if not corpora:
        return []
    arms = list(corpora)
    rows = [[name, *map(cell, corpora.values())] for name, cell in _rows(recipe)]
    notes = [
        "distinct-n is measured on the first words of each corpus and falls as text gets longer:"
        " compare it only at the same number of words. Novelty is the share of n-grams that the"
        " training text lacks. Perplexity is GOOD's, of up to 1,000 of its own documents."
        " The rate includes the start of the command. Plausible tokens are those that a draw chose"
        " among before truncation: the mean is that of all draws; the rest, and where truncation"
        " removed a token, are of the draws of up to 100 sequences."
    ]
    table = Table(
        "The corpora", ["", *arms], [row for row in rows if any(c != "-" for c in row[1:])]
    )
    return [
        Section("corpora", "The synthetic corpora", notes, tables=[table]),
        Section(
            "samples",
            "The same prompts, arm by arm",
            [f"Every text begins with its prompt; long ones are cut after {_SHOWN:,} characters."],
            samples=_samples(corpora),
        ),
    ]


def reading_warnings(corpora: Mapping[str, Corpus]) -> list[str]:
    """Return a warning for every corpus that students read too often."""
    return [
        f"The corpus of {arm} was read {times:.1f} times over at {100 * ratio:g} %: after about"
        f" {MANY_READINGS} readings text teaches less. Write more of it, or take a smaller share."
        for arm, corpus in corpora.items()
        for ratio, times in corpus.readings.items()
        if times > MANY_READINGS
    ]


def _rows(recipe: RunRecipe) -> list[tuple[str, _Cell]]:
    """Return the rows of the table: the name of a measure, and how a corpus shows it."""
    return [
        ("strategy", lambda c: recipe.arms[c.arm].strategy),
        ("BAD", lambda c: recipe.arms[c.arm].bad or "-"),
        ("contrast strength", lambda c: f"{c.manifest.plan.sampling.bad_weight:g}"),
        ("alpha", lambda c: f"{c.manifest.plan.sampling.alpha:g}"),
        ("temperature", lambda c: f"{c.manifest.plan.sampling.temperature:g}"),
        ("truncation", lambda c: truncation_of(recipe.arms[c.arm])),
        ("sequences", lambda c: f"{c.manifest.totals.rows:,}"),
        ("new tokens", lambda c: f"{c.manifest.totals.new_tokens:,}"),
        ("words, prompts included", lambda c: f"{c.manifest.totals.words:,}"),
        ("new tokens per second", lambda c: _number(c.tokens_per_second, ",.0f")),
        ("plausible tokens: mean", lambda c: _number(c.plausible.get("mean"), ".1f")),
        ("plausible tokens: median", lambda c: _number(_in(c, *_SETS, "median"), ".0f")),
        ("plausible tokens: 99th percentile", lambda c: _number(_in(c, *_SETS, "p99"), ".0f")),
        ("plausible tokens: largest", lambda c: _number(_in(c, *_SETS, "largest"), ",.0f")),
        ("draws at which truncation removed a token", _truncated),
        ("ended by", _ended_by),
        *((f"distinct-{n}", _measured("distinct", str(n))) for n in (1, 2, 3)),
        ("words that distinct-n looks at", lambda c: _number(_in(c, "distinct_words"), ",.0f")),
        ("repeated 4-grams", _measured("repetition")),
        ("copies of other documents", _measured("duplicates")),
        *((f"novel {n}-grams", _measured("novelty", str(n))) for n in (3, 5, 7)),
        ("word perplexity under GOOD", _perplexity("word_perplexity")),
        ("token perplexity under GOOD", _perplexity("perplexity")),
        ("read by students, times over", _readings),
    ]


def _in(corpus: Corpus, *keys: str) -> Any:
    found: Any = corpus.measures
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _measured(*keys: str) -> _Cell:
    return lambda corpus: _number(_in(corpus, *keys), ".3f")


def _truncated(corpus: Corpus) -> str:
    share = _in(corpus, *_SETS, "truncated")
    return "-" if share is None else f"{100 * share:.2f} %"


def _perplexity(unit: str) -> _Cell:
    def cell(corpus: Corpus) -> str:
        found = _in(corpus, "judge", unit)
        if (
            found is None
            or _in(corpus, "judge", "model_sha256") != corpus.manifest.plan.good_sha256
        ):
            return "-"  # another model's perplexity is not GOOD's
        return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    return cell


def _ended_by(corpus: Corpus) -> str:
    reasons = corpus.manifest.totals.finish_reasons.items()
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons if count)


def _readings(corpus: Corpus) -> str:
    read = corpus.readings.items()
    return ", ".join(f"{times:.2f} at {100 * ratio:g} %" for ratio, times in read) or "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _samples(corpora: Mapping[str, Corpus]) -> list[Samples]:
    ids = sorted({number for corpus in corpora.values() for number in corpus.samples})
    return [
        Samples(
            f"Sequence {number:,}",
            {
                arm: _cut(corpus.samples[number])
                for arm, corpus in corpora.items()
                if number in corpus.samples
            },
        )
        for number in ids
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN].rstrip() + " ..."
