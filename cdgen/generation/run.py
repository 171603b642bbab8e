"""`cdgen generate`: from two checkpoints and some prompts to a finished corpus."""

from __future__ import annotations

import time
from dataclasses import replace

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.row_files import require_writer
from cdgen.corpus.rows import NOTHING
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import status
from cdgen.errors import QuarantineError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.one_process import Outcome, write_shard
from cdgen.generation.ray.cluster import connected
from cdgen.generation.ray.driver import write_by_ray
from cdgen.generation.signals import StopSignals
from cdgen.generation.workers import run_workers, worker_count


def generate(config: GenerateConfig, shows_progress: bool = True) -> Outcome:
    """Write the corpus of `config`, or resume the one in `config.out`.

    Finalizes it once every range is committed, unless this call made one shard of several. Raises
    the errors of cdgen/errors.py; ranges committed before one are kept.
    """
    require_writer(config.format)
    workers = 0 if config.ray is not None else worker_count(config)
    with connected(config.ray), StopSignals(config.grace) as signals:
        if config.ray is not None:
            outcome = write_by_ray(config, signals, shows_progress)
        elif workers > 1:
            outcome = _by_workers(config, workers, signals)
        else:
            outcome = write_shard(config, signals, shows_progress)
        if Shard.parse(config.shard).count == 1:
            finalize(config.out)
            outcome = replace(outcome, finalized=True)
    _require_few_quarantined(config)
    return outcome


def _by_workers(config: GenerateConfig, workers: int, signals: StopSignals) -> Outcome:
    folder = CorpusFolder(config.out)
    before = status(config.out).counts if folder.has_plan else NOTHING
    began = time.monotonic()
    run_workers(config, workers, signals)
    seconds = time.monotonic() - began
    after = status(config.out).counts
    sequences, tokens = after.rows - before.rows, after.new_tokens - before.new_tokens
    return Outcome(folder.plan, sequences, tokens, seconds)


def _require_few_quarantined(config: GenerateConfig) -> None:
    counts = status(config.out).counts
    found = counts.finish_reasons.get("quarantined", 0)
    if found > config.max_quarantined:
        raise QuarantineError(
            f"{found} of {counts.rows} sequences could not be sampled (NaN or infinite logits);"
            f" allowed: {config.max_quarantined}. They are kept, marked"
            " finish_reason=quarantined; check the checkpoints, or raise --max-quarantined."
        )
