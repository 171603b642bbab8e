"""The plan of a run, from its settings, its models and its prompts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cdgen import __version__
from cdgen.checkpoints.pair import Pair, tokenizer_sha256
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Format, Plan, PromptPlan, SamplingPlan
from cdgen.corpus.row_files import require_writer
from cdgen.device import backend_name, choose_device, choose_dtypes, device_kind
from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig, SequenceConfig
from cdgen.generation.inputs import open_models, open_prompts, prompt_prefix

# Sequences per slot in a default range: about a minute of work. Slots stand empty at its end.
RANGE_SLOTS = {"cpu": 8, "cuda": 32}
# New tokens of a default range: with thousands of slots, two minutes of work that a kill may cost.
RANGE_TOKENS = 16 << 20


def plan_only(config: GenerateConfig) -> Plan:
    """Return the plan that `generate` would follow, without writing to `config.out`.

    Raises the same errors as `generate`.
    """
    require_writer(config.format)
    pair = open_models(config)
    with TemporaryDirectory() as scratch:
        return make_plan(config, pair, open_prompts(config, pair, Path(scratch)).plan)


def make_plan(config: GenerateConfig, pair: Pair, prompts: PromptPlan) -> Plan:
    """Return the plan of a run that writes a corpus, with every `auto` resolved. Raises
    UsageError."""
    plan = sequence_plan(config, pair, prompts, config.format)
    folder = CorpusFolder(config.out)
    begun = folder.plan if folder.has_plan else None
    slots, range_size = config.slots, config.range_size
    if begun:  # `auto` means the sizes of the plan that is there
        slots = begun.slots if slots == "auto" else slots
        range_size = begun.range_size if range_size == "auto" else range_size
    return with_sizes(plan, pair, slots, range_size)


def sequence_plan(config: SequenceConfig, pair: Pair, prompts: PromptPlan, format: Format) -> Plan:
    """Return the plan of a run, but for its slots and its range size, which are 1. Raises
    UsageError."""
    lean = _has_lean_decoders(config, pair)
    device = choose_device(config.device)
    dtype, kv_dtype = choose_dtypes(config.dtype, config.kv_dtype, device, lean)
    return Plan(
        cdgen_version=__version__,
        format=format,
        prompts=prompts,
        good_sha256=pair.good.sha256,
        prefix_token_ids=prompt_prefix(config, pair),
        tokenizer_sha256=tokenizer_sha256(pair.tokenizer),
        bad=pair.bad_source.plan_text(pair.bad.sha256 if pair.bad else None),
        sampling=_sampling(config),
        strategy=config.strategy,
        seed=config.seed,
        sequences_per_prompt=config.num_sequences,
        num_sequences=prompts.count * config.num_sequences,
        max_new_tokens=config.max_new_tokens,
        on_eos=config.on_eos,
        eos_token_ids=pair.eos_token_ids,
        vocab_size=pair.vocab_size,
        logprobs=config.logprobs,
        slots=1,
        range_size=1,
        dtype=dtype,
        kv_dtype=kv_dtype,
        device=device_kind(device, lean),
        decoder="lean" if lean else "transformers",
        backend=backend_name(device),
    )


def _has_lean_decoders(config: SequenceConfig, pair: Pair) -> bool:
    """Return whether the lean decoders cover GOOD and BAD.

    Raises UsageError if they do not while BAD is made of GOOD, which only they can compute, or if
    BAD would be GOOD.
    """
    from cdgen.generation.fit_slots import shapes_of

    source, tokens = pair.bad_source, config.prompt_tokens + config.max_new_tokens
    shapes = shapes_of(pair, tokens)
    if shapes is None and source.is_made_of_good:
        raise UsageError(
            f"--bad {source.plan_text(None)} needs a GOOD that the lean decoders cover, which this"
            f" {pair.good.config.get('model_type')} is not: give a checkpoint folder instead"
        )
    if shapes:
        source.require_weaker(shapes[0].num_hidden_layers, tokens)
    return shapes is not None


def _sampling(config: SequenceConfig) -> SamplingPlan:
    """Return the sampling parameters of a strategy.

    vanilla is ancestral sampling from GOOD; plausible keeps the mask and drops the contrast.
    """
    return SamplingPlan(
        good_weight=1.0,
        bad_weight=config.contrast if config.strategy == "cd" else 0.0,
        alpha=0.0 if config.strategy == "vanilla" else config.alpha,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        masked_score=config.masked_score,
    )


def with_sizes(
    plan: Plan, pair: Pair, slots: int | Literal["auto"], range_size: int | Literal["auto"]
) -> Plan:
    """Return `plan` with its slots and range size; `auto` means as many slots as fit into the
    device's memory, and about a minute of work."""
    from cdgen.generation.fit_slots import auto_slots

    if slots == "auto":
        slots = auto_slots(plan, pair)
    if range_size == "auto":
        range_size = default_range_size(plan.device_type, slots, plan.max_new_tokens)
    return plan.model_copy(update={"slots": slots, "range_size": range_size})


def default_range_size(device_type: str, slots: int, max_new_tokens: int) -> int:
    """Return the sequences of a range of `--range-size auto`, a multiple of the slots."""
    most = max(1, RANGE_TOKENS // (slots * max_new_tokens))
    return slots * min(RANGE_SLOTS[device_type], most)
