"""The plan of a run, from its settings, the pair and the prompts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from cdgen import __version__
from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import Pair, open_pair, tokenizer_sha256
from cdgen.corpus.files import require_writer
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Plan, SamplingPlan
from cdgen.corpus.prompts import PromptSource, PromptTable, prepare_prompts
from cdgen.device import backend_name, choose_device, choose_dtypes, device_kind
from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig

# Sequences per slot in a default range: about a minute of work. Slots stand empty at its end.
RANGE_SLOTS = {"cpu": 8, "cuda": 32}


def plan_only(config: GenerateConfig) -> Plan:
    """Return the plan that `generate` would follow. Writes nothing to `config.out`; raises the same
    errors."""
    require_writer(config.format)
    pair = open_pair(config.good, bad_source(config))
    require_context(config, pair)
    with TemporaryDirectory() as scratch:
        table = prepare_prompts(prompt_source(config, pair), Path(scratch))
        return make_plan(config, pair, table)


def prompt_source(config: GenerateConfig, pair: Pair) -> PromptSource:
    return PromptSource(
        config.prompts,
        pair.tokenizer,
        tokenizer_sha256(pair.tokenizer),
        pair.bos_token_id,
        config.prompt_tokens,
    )


def make_plan(config: GenerateConfig, pair: Pair, table: PromptTable) -> Plan:
    """Return the plan of a run. `auto` slots and range sizes are those of the plan that config.out
    has already, or else what fits the device's memory. Raises UsageError."""
    from cdgen.generation.build_engine import auto_slots, shapes_of

    lean = shapes_of(pair, config.prompt_tokens + config.max_new_tokens) is not None
    if not lean and pair.bad_source.kind == "dropout":
        raise UsageError(
            "--bad dropout:P needs a GOOD that the lean decoders cover, which this"
            f" {pair.good.config.get('model_type')} is not: give a checkpoint folder instead"
        )
    _require_known_tokens(table, pair)
    device = choose_device(config.device)
    dtype, kv_dtype = choose_dtypes(config.dtype, config.kv_dtype, device, lean)
    plan = Plan(
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
        num_sequences=len(table) * config.num_sequences,
        max_new_tokens=config.max_new_tokens,
        on_eos=config.on_eos,
        eos_token_ids=pair.eos_token_ids,
        vocab_size=pair.vocab_size,
        logprobs=config.logprobs,
        slots=1,  # chosen below, like the range size
        range_size=1,
        dtype=dtype,
        kv_dtype=kv_dtype,
        device=device_kind(device, lean),
        decoder="lean" if lean else "transformers",
        backend=backend_name(device),
    )
    folder = CorpusFolder(config.out)
    begun = folder.plan if folder.has_plan else None
    slots, range_size = config.slots, config.range_size
    if slots == "auto":
        slots = begun.slots if begun else auto_slots(plan, pair)
    if range_size == "auto":
        range_size = begun.range_size if begun else slots * RANGE_SLOTS[device]
    return plan.model_copy(update={"slots": slots, "range_size": range_size})


def _sampling(config: GenerateConfig) -> SamplingPlan:
    """Return the parameters of a strategy: vanilla is ancestral sampling from GOOD, plausible keeps
    the mask and drops the contrast."""
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
    """Return the BAD of a run: none, and so never opened, unless the strategy uses it."""
    return parse_bad(config.bad) if config.strategy == "cd" else BadSource("none")


def require_context(config: GenerateConfig, pair: Pair) -> None:
    """Raise UsageError unless prompt and continuation fit into the context of both models."""
    needed, context = config.prompt_tokens + config.max_new_tokens, pair.context_length
    if context is not None and needed > context:
        raise UsageError(
            f"--prompt-tokens {config.prompt_tokens} + --max-new-tokens {config.max_new_tokens}"
            f" = {needed} tokens, but the context of the pair is {context}: lower one of them"
        )


def _require_known_tokens(table: PromptTable, pair: Pair) -> None:
    """Raise UsageError if a prompt holds a token for which one of the models has no row."""
    known = max(pair.tokenizer.get_vocab(with_added_tokens=True).values()) < pair.vocab_size
    if known:
        return
    prompt, token = table.largest_id()
    if token >= pair.vocab_size:
        raise UsageError(
            f"prompt {prompt} holds token {token}, but GOOD and BAD share {pair.vocab_size} tokens:"
            " leave that document out"
        )
