"""What an experiment knows of the corpus of each arm."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import Manifest, read_manifest
from cdgen.corpus.reader import corpus_rows, evenly_spaced
from cdgen.experiment.layout import Layout, students_of
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.record import StageRecord
from cdgen.storage import sha256_of

SAMPLES = 3


@dataclass(frozen=True)
class Corpus:
    """A finished corpus."""

    arm: str
    manifest: Manifest
    manifest_sha256: str
    seconds: float | None  # of its stage, start-up included
    plausible: dict[str, float]  # the mean size over all tokens; percentiles of the rows' means
    samples: dict[int, str]  # texts by sequence_id
    measures: dict[str, Any] | None = None  # of `cdgen measure`
    readings: dict[float, float] = field(default_factory=dict)  # times over, by ratio

    @property
    def tokens_per_second(self) -> float | None:
        return self.manifest.totals.new_tokens / self.seconds if self.seconds else None


def read_corpora(
    recipe: RunRecipe, layout: Layout, stages: dict[str, StageRecord]
) -> dict[str, Corpus]:
    """Return the corpora that are finished, by arm. Raises StorageError for a damaged one."""
    readings = _readings(recipe, layout)
    found = {}
    for arm in recipe.arms:
        folder = CorpusFolder(layout.corpus(arm))
        if not folder.is_finalized:
            continue
        manifest = read_manifest(folder)
        stage = stages.get(f"corpus-{arm}")
        plausible, samples = _rows(folder, manifest)
        found[arm] = Corpus(
            arm,
            manifest,
            sha256_of(folder.manifest_file),
            stage.seconds if stage and stage.state == "done" else None,
            plausible,
            samples,
            _json(layout.measure(arm)),
            readings.get(arm, {}),
        )
    return found


def _rows(folder: CorpusFolder, manifest: Manifest) -> tuple[dict[str, float], dict[int, str]]:
    """Read a corpus once: how large its plausible sets were, and the text of some rows.

    All corpora of an experiment continue the same prompts, so rows of one number begin alike.
    """
    count = manifest.plan.num_sequences
    wanted = evenly_spaced(count, SAMPLES)
    means = np.empty(count)
    tokens = np.empty(count)
    samples = {}
    columns = ["sequence_id", "text", "new_tokens", "mean_plausible"]
    for index, row in enumerate(corpus_rows(folder.out, columns)):
        means[index], tokens[index] = row["mean_plausible"], row["new_tokens"]
        if row["sequence_id"] in wanted:
            samples[row["sequence_id"]] = row["text"]
    drawn = tokens > 0
    if not drawn.any():
        return {}, samples
    low, median, high = np.percentile(means[drawn], [5, 50, 95])
    mean = float(means[drawn] @ tokens[drawn] / tokens[drawn].sum())
    sizes = {"mean": mean, "p5": float(low), "median": float(median), "p95": float(high)}
    return sizes, samples


def _readings(recipe: RunRecipe, layout: Layout) -> dict[str, dict[float, float]]:
    """Return how often students read their corpus, by arm and ratio; all seeds read it alike."""
    found: dict[str, dict[float, float]] = {}
    for student in students_of(recipe):
        run = layout.student(student, recipe.base.seed)
        streams = (_json(run / "mixture.json") or {}).get("streams", {})
        for name, stream in streams.items():
            if name != "real" and student.ratio:
                found.setdefault(student.arm, {})[student.ratio] = stream["epochs"]
    return found


def _json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_bytes())) if path.is_file() else None
