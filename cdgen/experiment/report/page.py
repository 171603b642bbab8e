"""`cdgen report`: report.html, report.md, results.json and figures/ of an experiment, finished or
not.

Every number comes from the files of finished stages. What is missing is named.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdgen.experiment.checks import require_no_way_out
from cdgen.experiment.layout import Layout
from cdgen.experiment.record import Experiment, StageRecord, read_experiment, read_stages
from cdgen.experiment.report.corpora import Corpus, read_corpora
from cdgen.experiment.report.corpus_sections import corpus_sections, reading_warnings
from cdgen.experiment.report.evidence import Evidence, gather
from cdgen.experiment.report.record_sections import hashes, record_sections
from cdgen.experiment.report.score_sections import score_sections
from cdgen.experiment.report.verdict import verdict
from cdgen.packages import require_package
from cdgen.page.parts import Page
from cdgen.page.rendering import html_of, markdown_of
from cdgen.storage import canonical_json, make_folder, write_atomic

# A figure as a file of its own has a background; in the page it takes the page's.
_OWN_COLOURS = '<svg style="color:#1b1d21;background:#fff"'


@dataclass(frozen=True)
class _Found:
    """All that the folder of an experiment tells so far."""

    experiment: Experiment
    layout: Layout
    stages: dict[str, StageRecord]
    evidence: Evidence
    corpora: dict[str, Corpus]


def write_page(out: Path) -> Page:
    """Write the page of the experiment in `out`.

    Raises UsageError if there is none or a package is missing, StorageError for a damaged file.
    """
    for package in ("jinja2", "matplotlib", "scipy"):
        require_package(package, " to write the page of an experiment")
    require_no_way_out(Layout(out))
    found = _find(out)
    page = _page(found)
    make_folder(out / "figures")
    for section in page.sections:
        for figure in section.figures:
            svg = figure.svg.replace("<svg", _OWN_COLOURS, 1)
            write_atomic(out / "figures" / f"{figure.name}.svg", svg.encode())
    write_atomic(out / "results.json", canonical_json(_numbers(found, page)))
    write_atomic(out / "report.md", markdown_of(page).encode())
    # Last: `cdgen run` takes it as a sign that all are there.
    write_atomic(out / "report.html", html_of(page).encode())
    return page


def _find(out: Path) -> _Found:
    experiment, stages, layout = read_experiment(out), read_stages(out), Layout(out)
    evidence = gather(experiment.recipe, layout, stages)
    corpora = read_corpora(experiment.recipe, layout, stages)
    return _Found(experiment, layout, stages, evidence, corpora)


def _page(found: _Found) -> Page:
    recipe, evidence, corpora = found.experiment.recipe, found.evidence, found.corpora
    return Page(
        title=recipe.name,
        kind="Experiment of cdgen run: does synthetic text help?",
        answer=verdict(evidence),
        warnings=_warnings(found),
        sections=[
            *score_sections(recipe, evidence),
            *corpus_sections(recipe, corpora),
            *record_sections(
                found.experiment, found.layout, found.stages, corpora, evidence.methods
            ),
        ],
    )


def _warnings(found: _Found) -> list[str]:
    missing = [f"{name}: {why}." for name, why in found.evidence.missing.items()]
    arms = [arm for arm in found.experiment.recipe.arms if arm not in found.corpora]
    return [
        *reading_warnings(found.corpora),
        *(f"corpus {arm}: not finished." for arm in arms),
        *missing,
    ]


def _numbers(found: _Found, page: Page) -> dict[str, Any]:
    """Return the content of results.json."""
    evidence = found.evidence
    real = evidence.against_real
    return {
        **found.experiment.model_dump(mode="json"),
        "answer": " ".join(page.answer),
        "warnings": list(page.warnings),
        "missing_students": evidence.missing,
        "against_real_text": real.fields() if real else None,
        "against_vanilla": {f"{r:g}": of.fields() for r, of in evidence.against_vanilla.items()},
        "corpora": {arm: _corpus_numbers(corpus) for arm, corpus in found.corpora.items()},
        "stages": [stage.model_dump(mode="json") for stage in found.stages.values()],
        "sha256": hashes(found.layout, found.corpora, evidence.methods),
    }


def _corpus_numbers(corpus: Corpus) -> dict[str, Any]:
    fields = asdict(corpus)
    return {
        **{name: fields[name] for name in ("manifest_sha256", "seconds", "plausible", "measures")},
        "totals": corpus.manifest.totals.model_dump(mode="json"),
        "plan": corpus.manifest.plan.fields,
        "tokens_per_second": corpus.tokens_per_second,
        "readings": {f"{ratio:g}": times for ratio, times in corpus.readings.items()},
    }
