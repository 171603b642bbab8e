"""The plan of a run, from its settings, the pair and the prompts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from cdgen import __version__
from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import Pair, open_pair, tokenizer_sha256
from cdgen.corpus.files import require_writer
from cdgen.corpus.folder import (
    has_plan,
    read_plan,
)
from cdgen.corpus.plan import Plan, SamplingPlan
from cdgen.corpus.prompts import PromptTable, prepare_prompts
from cdgen.device import backend_name, choose_device, choose_dtypes, device_kind
from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig

# Sequences per slot in a default range: a minute's work or so. At its end slots stand empty.
RANGE_SLOTS = {"cpu": 8, "cuda": 32}


def plan_only(config: GenerateConfig) -> Plan:
    """The plan that `generate` would follow; writes nothing to `config.out`. Raises as it does."""
    require_writer(config.format)
    pair = open_pair(config.good, bad_source(config))
    require_context(config, pair)
    with TemporaryDirectory() as scratch:
        table = prepare_prompts(
            config.prompts, pair.tokenizer, pair.bos_token_id, config.prompt_tokens, Path(scratch)
        )
        return make_plan(config, pair, table)


def make_plan(config: GenerateConfig, pair: Pair, table: PromptTable) -> Plan:
    """`auto` is what a plan that is there has; else slots that the device's memory holds."""
    from cdgen.generation.build_engine import auto_slots, shapes_of

    total = len(table) * config.num_sequences
    lean = shapes_of(pair, config.prompt_tokens + config.max_new_tokens) is not None
    if not lean and pair.bad_source.kind == "dropout":
        raise UsageError(
            "--bad dropout:P needs a GOOD that the lean decoders cover, which this"
            f" {pair.good.config.get('model_type')} is not: give a checkpoint folder instead"
        )
    _require_known_tokens(table, pair)
    device = choose_device(config.device)
    dtype, kv_dtype = choose_dtypes(config.dtype, config.kv_dtype, device, lean)
    begun = read_plan(config.out) if has_plan(config.out) else None
    slots, range_size = config.slots, config.range_size
    if slots == "auto":
        slots = begun.slots if begun else auto_slots(
            total, pair, config.prompt_tokens, config.max_new_tokens, dtype, kv_dtype, device
        )  # fmt: skip
    if range_size == "auto":
        range_size = begun.range_size if begun else slots * RANGE_SLOTS[device]
    return Plan(
        cdgen_version=__version__,
        format=config.format,
        prompts=table.plan,
        good_sha256=pair.good.sha256,
        tokenizer_sha256=tokenizer_sha256(pair.tokenizer),
        bad=pair.bad_source.plan_text(pair.bad.sha256 if pair.bad else None),
        sampling=_sampling(config),
        strategy=config.strategy,
        seed=config.seed,
        sequences_per_prompt=config.num_sequences,
        num_sequences=total,
        max_new_tokens=config.max_new_tokens,
        on_eos=config.on_eos,
        eos_token_ids=pair.eos_token_ids,
        vocab_size=pair.vocab_size,
        logprobs=config.logprobs,
        slots=slots,
        range_size=range_size,
        dtype=dtype,
        kv_dtype=kv_dtype,
        device=device_kind(device, lean),
        decoder="lean" if lean else "transformers",
        backend=backend_name(device),
    )


def _sampling(config: GenerateConfig) -> SamplingPlan:
    """vanilla is ancestral sampling from GOOD; plausible keeps the mask and drops the contrast."""
    return SamplingPlan(
        good_weight=1.0,
        bad_weight=config.contrast if config.strategy == "cd" else 0.0,
        alpha=0.0 if config.strategy == "vanilla" else config.alpha,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
    )


def bad_source(config: GenerateConfig) -> BadSource:
    """BAD is not even opened where the strategy does not use it."""
    return parse_bad(config.bad) if config.strategy == "cd" else BadSource("none")


def require_context(config: GenerateConfig, pair: Pair) -> None:
    needed, context = config.prompt_tokens + config.max_new_tokens, pair.context_length
    if context is not None and needed > context:
        raise UsageError(
            f"--prompt-tokens {config.prompt_tokens} + --max-new-tokens {config.max_new_tokens}"
            f" = {needed} tokens, but the context of the pair is {context}: lower one of them"
        )


def _require_known_tokens(table: PromptTable, pair: Pair) -> None:
    """A tokenizer may know more ids than BAD has rows; prompts must not use them."""
    known = max(pair.tokenizer.get_vocab(with_added_tokens=True).values()) < pair.vocab_size
    if known:
        return
    prompt, token = table.largest_id()
    if token >= pair.vocab_size:
        raise UsageError(
            f"prompt {prompt} holds token {token}, but GOOD and BAD share {pair.vocab_size} tokens:"
            " leave that document out"
        )
