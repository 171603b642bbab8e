"""`custom_generate` of transformers with cdgen's sampler: reproducible draws, row by row."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cdgen.errors import UsageError
from cdgen.hf.padding import continuation, known_mask, text_model
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import RowStatus, SamplingParams

# What these do to scores, the sampler does to contrasted ones.
_IN_THE_SAMPLER = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
_NOT_RETURNED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


@torch.no_grad()
def contrastive_generate(
    model: PreTrainedModel,  # GOOD
    input_ids: torch.Tensor,  # [B, P] int64, padded on the left
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    bad_model: PreTrainedModel | None = None,
    contrast: float = 1.0,
    alpha: float = 0.1,
    seed: int = 0,
    sequence_ids: torch.Tensor | None = None,  # [B] int64
    vocab_size: int | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateDecoderOnlyOutput:
    """Draw from GOOD contrasted with BAD, as cdgen's own engine does. Not called by hand:

        model.generate(..., custom_generate=contrastive_generate, bad_model=bad, seed=0)

    Adds `bad_model`, `contrast`, `alpha`, `seed` (64 bits), `sequence_ids` (by default the number
    of the row) and `vocab_size` (token ids from here on are never drawn) to the arguments of
    `generate`. Its `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `num_return_sequences`
    and stopping criteria count; note that its own defaults are `do_sample=False` and `top_k=50`.
    Other logits processors act on GOOD's logits, before the plausible set is found. Without
    `bad_model`, GOOD alone is sampled within its plausible set.

    A draw depends on the logits of its row and on (seed, sequence id, position, token): not on
    torch's generator, the other rows, or padding. Logits are those of transformers, which round
    otherwise than cdgen's decoders: a token may differ where the two best keys nearly tie. Of the
    arguments of the model only `attention_mask` is read, and a streamer gets the prompts alone.

    Returns what `generate` does: tokens [B, T], prompts included. Raises UsageError for what it
    does not do, and if a row cannot be sampled because its logits are not finite; ValueError for
    padding that cannot be told from text, or that changes a model's logits.
    """
    _require_supported(generation_config, input_ids)
    processors = _without_truncation(logits_processor)
    params = _sampling_params(generation_config, contrast if bad_model else 0.0, alpha)
    rows, device = len(input_ids), input_ids.device
    ids = _sequence_ids(sequence_ids, rows, device)
    mask = known_mask(input_ids, model, model_kwargs.get("attention_mask"))
    good = continuation(text_model(model), mask)
    bad = continuation(text_model(bad_model), mask) if bad_model else None
    padding = generation_config.pad_token_id
    positions = input_ids.new_full((rows,), input_ids.shape[1]) if mask is None else mask.sum(1)
    tokens, unfinished = input_ids, torch.ones(rows, dtype=torch.bool, device=device)
    while bool(unfinished.any()):
        good_logits = _processed(processors, tokens, good.advance(tokens))
        bad_logits = None if bad is None else bad.advance(tokens).to(good_logits.dtype)
        out = sample_contrastive(
            good_logits,
            bad_logits,
            params,
            seed=seed,
            sequence_ids=ids,
            positions=positions,
            vocab_size=_drawn_tokens(vocab_size, good_logits, bad_logits),
        )
        _require_sampled(out.status[unfinished], ids[unfinished])
        drawn = out.tokens.clamp(min=0)  # of finished rows, which are not read, it may be -1
        if padding is not None:
            drawn = drawn.where(unfinished, padding)
        tokens, positions = torch.cat([tokens, drawn[:, None]], 1), positions + 1
        unfinished = unfinished & ~stopping_criteria(tokens, good_logits)
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=cast(torch.LongTensor, tokens))
    return tokens


def _require_supported(config: GenerationConfig, input_ids: torch.Tensor) -> None:
    if (config.num_beams or 1) > 1:
        raise UsageError(f"num_beams: expected 1, got {config.num_beams}")
    if not input_ids.shape[1]:
        raise UsageError("input_ids: expected at least one token in every row, got none")
    for name in _NOT_RETURNED:
        if getattr(config, name, False):
            raise UsageError(f"{name}: only the tokens are returned")


def _without_truncation(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Return the processors that act on GOOD's logits. Raises UsageError for a kind of truncation
    that the sampler does not have."""
    kept = LogitsProcessorList(p for p in processors if not isinstance(p, _IN_THE_SAMPLER))
    for processor in kept:
        if (name := type(processor).__name__).endswith("LogitsWarper"):
            raise UsageError(f"{name}: the sampler has temperature, top_k, top_p and min_p only")
    return kept


def _processed(
    processors: LogitsProcessorList,
    tokens: torch.Tensor,  # [B, T]
    logits: torch.Tensor,  # [B, V]
) -> torch.Tensor:  # [B, V]
    return processors(cast(torch.LongTensor, tokens), cast(torch.FloatTensor, logits))


def _sampling_params(config: GenerationConfig, contrast: float, alpha: float) -> SamplingParams:
    """Return the parameters of the draw. Raises ValueError if one is out of its range."""
    if not config.do_sample:
        return SamplingParams(bad_weight=contrast, alpha=alpha, temperature=0.0)
    return SamplingParams(
        bad_weight=contrast,
        alpha=alpha,
        temperature=1.0 if config.temperature is None else config.temperature,
        top_k=config.top_k or 0,
        top_p=1.0 if config.top_p is None else config.top_p,
        min_p=config.min_p or 0.0,
    )


def _sequence_ids(given: torch.Tensor | None, rows: int, device: torch.device) -> torch.Tensor:
    if given is None:
        return torch.arange(rows, device=device)
    ids = torch.as_tensor(given, device=device)
    if ids.shape != (rows,) or ids.dtype != torch.int64:
        raise UsageError(
            f"sequence_ids: expected [{rows}] int64, one per sequence,"
            f" got {list(ids.shape)} {ids.dtype}"
        )
    return ids


def _drawn_tokens(given: int | None, good: torch.Tensor, bad: torch.Tensor | None) -> int:
    """Return the number of tokens that may be drawn: those that both models have."""
    shared = good.shape[1] if bad is None else min(good.shape[1], bad.shape[1])
    return shared if given is None else min(given, shared)


def _require_sampled(status: torch.Tensor, ids: torch.Tensor) -> None:
    failed = status != RowStatus.OK
    if bool(failed.any()):
        reason = RowStatus(int(status[failed][0])).name.lower().replace("_", " ")
        raise UsageError(f"sequence {int(ids[failed][0])} cannot be sampled: {reason}")
