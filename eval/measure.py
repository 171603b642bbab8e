"""`cdgen measure`: how diverse, repetitive, novel and likely the text of a corpus is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from cdgen.checkpoints.checkpoint import Checkpoint, open_checkpoint
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.reader import evenly_spaced
from cdgen.errors import UsageError
from cdgen.eval.corpus_measures import continuations_of, documents_of, measure
from cdgen.eval.modes import MODES
from cdgen.eval.plausible_sets import plausible_sets
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.tasks.perplexity import Perplexity
from cdgen.eval.tasks.tokenized import new_encoder

JUDGED = 1000  # documents that the judge reads, evenly spaced over the corpus


def measure_corpus(
    corpus: Path,
    training: Sequence[Path],
    judge: Path | None,
    device: str,
    text_column: str = "text",
    bad: str | None = None,
) -> dict[str, Any]:
    """Return all measures of the text, ready for JSON.

    Novelty is counted against the text in `training`. `judge` is a model that had no part in the
    corpus, or its own GOOD: then its plausible sets are measured too, and with `bad`, the corpus's
    BAD, how often top-p and min-p act. Raises UsageError, ModelError, StorageError.
    """
    checkpoint = open_checkpoint(judge) if judge else None  # fails before the long part
    for note in checkpoint.notes if checkpoint else ():
        print(note, file=sys.stderr)
    if bad is not None and not _is_good_of(checkpoint, corpus):
        raise UsageError("--bad: only where --judge is the GOOD that wrote the corpus")
    texts = partial(documents_of, text_column=text_column)
    reference = chain.from_iterable(map(texts, training)) if training else None
    found = asdict(measure(texts(corpus), reference))
    if CorpusFolder(corpus).has_plan:
        lengths, reasons = continuations_of(corpus)
        found |= {"new_tokens": asdict(lengths), "finish_reasons": reasons}
    if checkpoint:
        if found["documents"] < 2:
            raise UsageError(f"--judge: expected two or more documents in {corpus}, found one")
        again = texts(corpus, say=False)
        judged = _evenly_spaced(again, found["documents"])
        found["judge"] = {
            "model_sha256": checkpoint.sha256,
            "documents": len(judged),
            **_perplexity(judged, checkpoint.folder, checkpoint.config, device),
        }
    if checkpoint and judge and _is_good_of(checkpoint, corpus):
        sets = plausible_sets(corpus, judge, bad, device)
        found["plausible_sets"] = asdict(sets) if sets else None
    return found


def _is_good_of(checkpoint: Checkpoint | None, corpus: Path) -> bool:
    folder = CorpusFolder(corpus)
    written = folder.plan.good_sha256 if folder.has_plan else None
    return checkpoint is not None and checkpoint.sha256 == written


def _evenly_spaced(texts: Iterable[str], count: int) -> list[str]:
    """Return JUDGED of `count` documents."""
    wanted = evenly_spaced(count, JUDGED)
    return [text for index, text in enumerate(texts) if index in wanted]


def _perplexity(
    texts: list[str], folder: Path, config: dict[str, Any], device: str
) -> dict[str, Any]:
    mode = MODES["default"]
    task, scorer = Perplexity.of(texts, new_encoder(folder, config, mode)), Scorer(folder, device)
    metrics = task.summary(task.predict(scorer.span_sums), mode).metrics
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def summary_lines(found: dict[str, Any]) -> list[str]:
    """Return the measures as lines for people."""
    shown = {
        "documents": f"{found['documents']:,}, {100 * found['duplicates']:.2f} % of them copies",
        "words": f"{found['words']:,}, {_lengths(found['document_words'])} a document",
        f"distinct-n of {found['distinct_words']:,} words": _by_n(found["distinct"]),
        "diversity": _share(found["diversity"]),
        "repeated 4-grams": _share(found["repetition"]),
        "compression": f"{found['compression']:.2f}",
    }
    if found["novelty"]:
        shown[f"n-grams not in {found['reference_words']:,} words"] = _by_n(found["novelty"])
    if "new_tokens" in found:
        shown["new tokens"] = _lengths(found["new_tokens"])
        reasons = found["finish_reasons"].items()
        shown["ended by"] = ", ".join(f"{reason} {number:,}" for reason, number in reasons)
    if "judge" in found:
        judge = found["judge"]
        low, value, high = (judge["word_perplexity"][k] for k in ("low", "value", "high"))
        shown[f"word perplexity of {judge['documents']:,} documents"] = (
            f"{value:.1f} ({low:.1f} to {high:.1f}); per token {judge['perplexity']['value']:.2f}"
        )
    if sets := found.get("plausible_sets"):
        shown[f"plausible tokens, at {sets['tokens']:,} draws"] = (
            f"mean {sets['mean']:.1f}, median {sets['median']:.0f}, p99 {sets['p99']:.0f}, largest"
            f" {sets['largest']:,}"
        )
        shown["truncation removed a token at"] = _percent(sets["truncated"])
    return [f"{name:36} {value}" for name, value in shown.items()]


def _by_n(shares: dict[int, float | None]) -> str:
    return "  ".join(f"{n}: {_share(share)}" for n, share in shares.items())


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def _percent(share: float | None) -> str:
    return "? (name BAD with --bad)" if share is None else f"{100 * share:.2f} % of these draws"


def _lengths(lengths: dict[str, float]) -> str:
    return f"mean {lengths['mean']:.1f}, median {lengths['median']:.0f}, p95 {lengths['p95']:.0f}"
