"""A text whose tokens are inspected, with the settings of `cdgen generate`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.pair import Pair, open_pair
from cdgen.corpus.first_tokens import first_tokens
from cdgen.corpus.plan import Plan, PromptPlan
from cdgen.engine.memory import SLOT_MULTIPLE
from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.inputs import prompt_prefix
from cdgen.generation.new_plan import make_plan
from cdgen.inspection.positions import TokenSequence
from cdgen.inspection.strategies import Strategies
from cdgen.settings import validated

_SEQUENCE = 0  # whose noise a text gets: the first of a corpus


@dataclass(frozen=True)
class InspectedText:
    """A text and its models."""

    sequence: TokenSequence
    plan: Plan  # of a corpus that would hold the text
    pair: Pair
    strategies: Strategies


def open_text(text: str, flags: Mapping[str, Any]) -> InspectedText:
    """Open the models that `flags` name, and tokenize the text as `cdgen generate` does prompts.

    Raises UsageError for bad flags, or a text that is too short or too long, ModelError for models
    that cannot be used.
    """
    config = text_config(flags)
    pair = open_pair(config.good, parse_bad(config.bad))
    tokens = _tokens(text, config, pair)
    plan = text_plan(config, pair, len(tokens))
    return InspectedText(TokenSequence(_SEQUENCE, tokens), plan, pair, Strategies.of_plan(plan))


def text_config(flags: Mapping[str, Any]) -> GenerateConfig:
    """Return the settings of a corpus of one sequence that is never written. Raises UsageError."""
    given = {name: value for name, value in flags.items() if value is not None}
    if "good" not in given:
        raise UsageError("--good is missing: give the checkpoint folder of GOOD, or --pair")
    has_bad = given.get("bad", "none") != "none"
    fixed: dict[str, Any] = {
        "strategy": "cd" if has_bad else "plausible",
        "prompts": "",
        "out": Path(os.devnull),
        "num_sequences": 1,
        "max_new_tokens": 1,
        "slots": SLOT_MULTIPLE,
        "range_size": 1,
    }
    return validated(GenerateConfig, given | fixed)


def text_plan(config: GenerateConfig, pair: Pair, length: int) -> Plan:
    """Return the plan of a corpus whose only sequence has `length` tokens: a prompt, and one more.
    Raises UsageError if BAD would be GOOD or the device cannot run the models."""
    prompts = PromptPlan(source_sha256="", tokens_sha256="", count=1, prompt_tokens=length - 1)
    return make_plan(config.model_copy(update={"prompt_tokens": length - 1}), pair, prompts)


def _tokens(text: str, config: GenerateConfig, pair: Pair) -> list[int]:
    prefix, most = prompt_prefix(config, pair), pair.context_length or len(text)
    # One token more than fits shows that a text is too long.
    tokens = next(first_tokens([text], pair.tokenizer, prefix, most + len(prefix) + 1))
    if pair.context_length is not None and len(tokens) > pair.context_length:
        raise UsageError(
            f"the text is longer than the context of the pair, {pair.context_length} tokens: give"
            " less of it"
        )
    if len(tokens) < 2:
        raise UsageError("the text has no token that follows another: give more of it")
    if (highest := max(tokens)) >= pair.vocab_size:
        raise UsageError(
            f"the text holds token {highest}, {pair.tokenizer.id_to_token(highest)!r:.40}, but the"
            f" models have {pair.vocab_size}: take it out"
        )
    return tokens
