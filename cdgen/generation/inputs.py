"""The models and the prompts that a run reads, checked against its settings and each other."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.checkpoint import Checkpoint, read_json
from cdgen.checkpoints.origin import origin_of
from cdgen.checkpoints.pair import Pair, open_pair, tokenizer_sha256
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.corpus.prompts import PromptSource, PromptTable, prepare_prompts
from cdgen.errors import UsageError
from cdgen.generation.config import DocumentConfig, GenerateConfig, SequenceConfig


def open_models(config: SequenceConfig) -> Pair:
    """Open GOOD, and BAD if the strategy uses it.

    Raises ModelError if they do not fit together, UsageError if a sequence does not fit into their
    context.
    """
    bad = parse_bad(config.bad) if config.strategy == "cd" else BadSource("none")
    pair = open_with_notes(config.good, bad)
    require_context(config, pair)
    return pair


def open_with_notes(good: Path, bad: BadSource) -> Pair:
    """Open a pair and print what a user may not expect of it to stderr. Raises ModelError."""
    pair = open_pair(good, bad)
    for note in pair.notes:
        print(note, file=sys.stderr)
    return pair


def model_names(pair: Pair) -> ModelNames:
    bad = _name(pair.bad) if pair.bad else None
    return ModelNames(good=_name(pair.good), bad=bad)


def _name(model: Checkpoint) -> ModelName:
    return ModelName(**asdict(origin_of(model)))


def open_prompts(config: GenerateConfig, pair: Pair, folder: Path) -> PromptTable:
    """Return the prompt table in `folder`, and make it if it is not there.

    Raises the errors of `prepare_prompts`, and UsageError if a model has no row for a token of it.
    """
    table = prepare_prompts(prompt_source(config, pair), folder)
    _require_known_tokens(table, pair)
    return table


def prompt_source(config: DocumentConfig, pair: Pair) -> PromptSource:
    """Return what the prompts are made of. Raises UsageError if --bos cannot be followed."""
    return PromptSource(
        config.prompts,
        pair.tokenizer,
        tokenizer_sha256(pair.tokenizer),
        prompt_prefix(config, pair),
        config.prompt_tokens,
        config.text_column,
        add_bos_note(pair) if config.bos == "auto" else (),
    )


def prompt_prefix(config: SequenceConfig, pair: Pair) -> tuple[int, ...]:
    """Return the tokens before every document: what GOOD's tokenizer puts there, unless --bos says
    otherwise. Raises UsageError if --bos always finds no BOS."""
    own = pair.prefix_token_ids
    if config.bos == "auto":
        return own
    if config.bos == "never":
        return ()
    if pair.bos_token_id is None:
        raise UsageError("--bos always: GOOD names no bos_token; choose auto or never")
    return own if pair.bos_token_id in own else (pair.bos_token_id, *own)


def add_bos_note(pair: Pair) -> tuple[str, ...]:
    """Return a line if `add_bos_token` in GOOD's tokenizer_config.json is not what its
    tokenizer.json does; as in transformers, the latter counts."""
    path = pair.good.folder / "tokenizer_config.json"
    asked = read_json(path).get("add_bos_token") if path.is_file() else None
    puts = pair.bos_token_id in pair.prefix_token_ids
    if not isinstance(asked, bool) or asked == puts or pair.bos_token_id is None:
        return ()
    does = "puts BOS" if puts else "puts no BOS"
    return (f"add_bos_token is {str(asked).lower()}, but tokenizer.json {does} first: see --bos",)


def _require_known_tokens(table: PromptTable, pair: Pair) -> None:
    """Raise UsageError if a prompt holds a token for which one of the models has no row."""
    highest = max(pair.tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= pair.vocab_size:
        require_known_token(*table.largest_id(), pair)


def require_known_token(prompt: int, token: int, pair: Pair) -> None:
    """Raise UsageError if a model has no row for `token`, which is in prompt number `prompt`."""
    if token >= pair.vocab_size:
        who = "GOOD has" if pair.bad is None else "GOOD and BAD share"
        name = pair.tokenizer.id_to_token(token)
        raise UsageError(
            f"prompt {prompt} holds token {token}, {name!r:.40}, but {who} {pair.vocab_size}"
            " tokens: leave that document out, or take the token out of it"
        )


def require_context(config: SequenceConfig, pair: Pair) -> None:
    """Raise UsageError if the longest sequence does not fit into the context of the pair."""
    needed, context = config.prompt_tokens + config.max_new_tokens, pair.context_length
    if context is not None and needed > context:
        raise UsageError(
            f"--prompt-tokens {config.prompt_tokens} + --max-new-tokens {config.max_new_tokens}"
            f" = {needed} tokens, but the context of the pair is {context}: lower one of them"
        )
