"""`cdgen generate`: from two checkpoints and some prompts to a corpus on disk.

Read from the top of `generate`: the pair, the prompts, the plan, then range after range.
"""

from __future__ import annotations

import time
from dataclasses import replace

from cdgen.corpus.files import require_writer
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import (
    has_plan,
    read_plan,
)
from cdgen.corpus.rows import NOTHING
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import status as corpus_status
from cdgen.errors import QuarantineError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.one_process import Outcome, write_shard
from cdgen.generation.signals import StopSignals
from cdgen.generation.workers import run_workers, worker_count


def generate(config: GenerateConfig, shows_progress: bool = True) -> Outcome:
    """Write the corpus of `config`, or go on with the one in `config.out`.

    Finalizes it once every range is there, unless this call made one shard of several. Raises the
    errors of cdgen/errors.py; ranges committed before one are kept.
    """
    require_writer(config.format)
    workers = worker_count(config)
    with StopSignals() as signals:
        if workers > 1:
            outcome = _by_workers(config, workers, signals)
        else:
            outcome = write_shard(config, signals, shows_progress)
        if Shard.parse(config.shard).count == 1:
            finalize(config.out)
            outcome = replace(outcome, finalized=True)
    _require_few_quarantined(config)
    return outcome


def _by_workers(config: GenerateConfig, workers: int, signals: StopSignals) -> Outcome:
    before = corpus_status(config.out).counts if has_plan(config.out) else NOTHING
    began = time.monotonic()
    run_workers(config, workers, signals)
    seconds = time.monotonic() - began
    after = corpus_status(config.out).counts
    return Outcome(
        read_plan(config.out),
        after.rows - before.rows,
        after.new_tokens - before.new_tokens,
        seconds,
    )


def _require_few_quarantined(config: GenerateConfig) -> None:
    counts = corpus_status(config.out).counts
    found = counts.finish_reasons.get("quarantined", 0)
    if found > config.max_quarantined:
        raise QuarantineError(
            f"{found} of {counts.rows} sequences could not be sampled (NaN or infinite logits);"
            f" allowed: {config.max_quarantined}. They are kept, marked"
            " finish_reason=quarantined; check the checkpoints, or raise --max-quarantined."
        )
