"""`cdgen report` of a corpus, or of two side by side: one HTML file with everything in it.

Every number comes from the files of the corpus, or is computed from them here; what cannot be is
said to be not measured. Whatever the size of the corpora, the page has a few hundred rows of them
at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.differences import flat
from cdgen.packages import require_package
from cdgen.page.parts import Page, Section
from cdgen.page.rendering import html_of
from cdgen.report.browser import (
    browser_script,
    browser_section,
    browser_style,
    items_of,
    within_budget,
)
from cdgen.report.contrast import measure_contrast
from cdgen.report.corpora import Corpus, read_corpora
from cdgen.report.diversity import diversity_section
from cdgen.report.row_sections import length_section, plausible_section, quarantine_section
from cdgen.report.settings_sections import plan_section, size_section
from cdgen.report.strategies import agreement_sentences, strategy_section
from cdgen.storage import make_folder, write_atomic

_STRATEGIES = {
    "cd": "contrastive decoding",
    "plausible": "plausible-only sampling",
    "vanilla": "vanilla sampling",
}


@dataclass(frozen=True)
class ReportConfig:
    """What a page is made of."""

    corpora: Sequence[Path]  # one or two folders
    training: Sequence[Path] = ()  # text against which novelty is counted
    good: Path | None = None  # where the models are, if the corpora do not say it
    bad: str | None = None


def write_report(config: ReportConfig, path: Path) -> Page:
    """Write the page of the corpora to `path`.

    Raises UsageError for a folder without a corpus or a package that is missing, StorageError for a
    damaged corpus.
    """
    require_package("jinja2", " to write a page")
    page = make_page(config)
    make_folder(path.parent)
    write_atomic(path, html_of(page).encode())
    return page


def make_page(config: ReportConfig) -> Page:
    """Read the corpora and return their page."""
    corpora = read_corpora(config.corpora, config.training)
    items = items_of(corpora)
    contrast = measure_contrast(
        corpora, within_budget(items, len(corpora)), config.good, config.bad
    )
    names = [corpus.name for corpus in corpora]
    # Who names a model wants it read.
    unmeasured = contrast.problem_lines() if config.good or config.bad else []
    return Page(
        title=" and ".join(names),
        kind="Corpora of cdgen, side by side" if len(corpora) > 1 else "Corpus of cdgen",
        answer=[*_summary(corpora), *agreement_sentences(contrast.sums)],
        warnings=[*_warnings(corpora), *unmeasured],
        sections=[
            *_number_sections(corpora),
            strategy_section(names, contrast.sums, contrast.problem_lines()),
            browser_section(corpora, items, contrast),
            plan_section(corpora),
        ],
        answer_title="In short",
        styles=[browser_style()],
        scripts=[browser_script()],
    )


def _number_sections(corpora: Sequence[Corpus]) -> list[Section]:
    """Return the sections that need no model; with no row, there is only one."""
    sections = [size_section(corpora)]
    if any(corpus.reading.rows for corpus in corpora):
        measured = (length_section, plausible_section, diversity_section)
        sections += [section(corpora) for section in measured]
    if quarantined := quarantine_section(corpora):
        sections.append(quarantined)
    return sections


def _summary(corpora: Sequence[Corpus]) -> list[str]:
    sentences = [_sentence(corpus) for corpus in corpora]
    if len(corpora) == 2:
        one, other = (flat(corpus.plan.fields) for corpus in corpora)
        differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        names = ", ".join(differing[:8]) + (" and more" if len(differing) > 8 else "")
        sentences.append(f"Their plans differ in {names}." if differing else "Their plans agree.")
    return sentences


def _sentence(corpus: Corpus) -> str:
    reading = corpus.reading
    if not reading.rows:
        return f"{corpus.name} has a plan, and no range of it is committed yet."
    state = "" if corpus.status.finalized else " so far"
    sets = reading.mean_plausible if corpus.is_masked else None
    chosen = f", each drawn among {sets:.1f} plausible tokens on average" if sets else ""
    return (
        f"{corpus.name} holds {reading.rows:,} sequences of {_STRATEGIES[corpus.plan.strategy]}"
        f"{state}, with {reading.new_tokens:,} new tokens{chosen}."
    )


def _warnings(corpora: Sequence[Corpus]) -> list[str]:
    found = []
    for corpus in corpora:
        if not corpus.status.finalized:
            done, total = corpus.status.ranges_done, corpus.status.ranges_total
            found.append(f"{corpus.name}: {done:,} of {total:,} ranges are committed.")
        if count := corpus.reading.reasons["quarantined"]:
            found.append(f"{corpus.name}: {count:,} rows are quarantined.")
    return found
