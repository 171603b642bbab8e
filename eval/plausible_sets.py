"""How large GOOD's plausible sets are along a corpus, and how often truncation removed a token.

GOOD reads rows of the corpus again, and so does BAD if its logits matter: top-p and min-p act on
the contrast's scores, but top-k acts wherever more than k tokens are plausible. Every token of a
continuation was drawn from the set that GOOD's logits give before it, up to the rounding of the
dtype in which it was generated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Plan
from cdgen.corpus.reader import evenly_spaced, rows_so_far
from cdgen.errors import UsageError
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import SamplingParams

ROWS = 100  # evenly spaced over the corpus


@dataclass(frozen=True)
class PlausibleSets:
    rows: int
    tokens: int  # drawn ones, at which the sets were computed
    mean: float
    median: float
    p99: float
    largest: int
    # Share of the tokens at which top-k, top-p or min-p removed a plausible token; None if that
    # depends on a BAD that was not given, or that drops attention at random.
    truncated: float | None


def plausible_sets(corpus: Path, good: Path, bad: str | None, device: str) -> PlausibleSets | None:
    """Compute the sets of the corpus's plan on a sample of its rows; None if no token was drawn.

    `good` must be the corpus's GOOD and `bad`, as in `--bad`, its BAD: raises UsageError otherwise.
    """
    plan = CorpusFolder(corpus).plan
    if open_checkpoint(good).sha256 != plan.good_sha256:
        raise UsageError(f"{good}: not the GOOD that wrote {corpus}")
    source = _bad_of(plan, bad, corpus)
    sampled = SamplingParams(**plan.sampling.model_dump())
    models = [load_causal_lm(good, torch.float32, device)]
    params, known = sampled, True
    if not _needs_bad(sampled):
        params = replace(sampled, bad_weight=0.0)
    elif source:
        models.append(_load_bad(good, source, device))
    else:
        params, known = replace(sampled, bad_weight=0.0), False
    rows = _sampled_rows(corpus, plan)
    found = [_sets_of(row, models, params, plan.vocab_size) for row in rows]
    sizes, kept = (np.concatenate([each[i] for each in found] or [np.empty(0)]) for i in (0, 1))
    if not len(sizes):
        return None
    median, p99 = np.percentile(sizes, [50, 99])
    return PlausibleSets(
        rows=len(rows),
        tokens=len(sizes),
        mean=float(sizes.mean()),
        median=float(median),
        p99=float(p99),
        largest=int(sizes.max()),
        truncated=float((kept < sizes).mean()) if known else None,
    )


def _needs_bad(params: SamplingParams) -> bool:
    return params.bad_weight > 0 and (params.top_p < 1 or params.min_p > 0)


def _bad_of(plan: Plan, bad: str | None, corpus: Path) -> BadSource | None:
    """Return the corpus's BAD; None if it was not given or cannot be computed again."""
    if bad is None:
        return None
    source = parse_bad(bad)
    sha256 = open_checkpoint(source.folder).sha256 if source.folder else None
    if source.plan_text(sha256) != plan.bad:
        raise UsageError(f"--bad {bad}: not the BAD that wrote {corpus}, which is {plan.bad}")
    return source if source.kind in ("folder", "layers") else None


def _load_bad(good: Path, source: BadSource, device: str) -> Any:
    model = load_causal_lm(source.folder or good, torch.float32, device)
    if source.layers:
        base = model.base_model
        name = next(name for name in ("layers", "h") if hasattr(base, name))
        setattr(base, name, getattr(base, name)[: source.layers])
    return model


def _sampled_rows(corpus: Path, plan: Plan) -> list[dict[str, Any]]:
    wanted = evenly_spaced(plan.num_sequences, ROWS)
    rows = rows_so_far(corpus, ["sequence_id", "tokens", "prompt_tokens", "new_tokens"])
    return [row for row in rows if row["sequence_id"] in wanted and row["new_tokens"]]


@torch.inference_mode()
def _sets_of(
    row: dict[str, Any], models: list[Any], params: SamplingParams, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:  # [new_tokens] int32 each
    """Return the size of the plausible set before each drawn token, and how much of it is kept."""
    tokens = torch.tensor([row["tokens"]], device=models[0].device)
    before = slice(row["prompt_tokens"] - 1, tokens.shape[1] - 1)  # positions that predict a draw
    logits = [
        model(input_ids=tokens).logits[0, before, :vocab_size].float().contiguous()
        for model in models
    ]
    places = torch.arange(len(logits[0]), device=tokens.device)
    out = sample_contrastive(
        logits[0],
        logits[1] if len(logits) > 1 else None,
        params,
        seed=0,
        sequence_ids=torch.zeros_like(places),
        positions=places,
    )
    return out.plausible.cpu().numpy(), out.kept.cpu().numpy()
