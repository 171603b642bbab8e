"""A corpus of ten prompts and forty made-up sequences in five ranges, written without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.model_names import ModelNames
from cdgen.corpus.plan import Plan, PromptPlan
from cdgen.corpus.prompts import PromptSource, prepare_prompts
from cdgen.corpus.ranges import commit_range, pending_ranges
from cdgen.corpus.rows import Row
from cdgen.corpus.shard import Shard
from cdgen.storage import canonical_json

WORDS = ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "five", "six", "seven"]
WHOLE = Shard(0, 1)


def make_tokenizer() -> Tokenizer:
    """Return a tokenizer of WORDS, whose text has no space between two words."""
    vocab = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_plan(prompts: PromptPlan, **changes: Any) -> Plan:
    """Return a plan of four sequences per prompt, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "cdgen_version": "0.1.0",
        "prompts": prompts,
        "good_sha256": "c" * 64,
        "bad": "dropout:0.5",
        "sampling": {
            "good_weight": 1.0,
            "bad_weight": 1.0,
            "alpha": 0.1,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
        },
        "strategy": "cd",
        "seed": 0,
        "sequences_per_prompt": 4,
        "num_sequences": 4 * prompts.count,
        "max_new_tokens": 6,
        "on_eos": "stop",
        "eos_token_ids": [2],
        "vocab_size": 10,
        "logprobs": False,
        "slots": 16,
        "range_size": 8,
        "rows_per_file": 16,
        "dtype": "float32",
        "device": "cpu",
        "decoder": "lean",
        "backend": "cpu",
    }
    return Plan.model_validate(fields | changes)


def make_row(plan: Plan, sequence_id: int) -> Row:
    """Return a row of 0 to `max_new_tokens` new tokens, the same for the same arguments."""
    new_tokens = sequence_id * 5 % (plan.max_new_tokens + 1)
    tokens = [1, 3, *(3 + (sequence_id + i) % 7 for i in range(new_tokens))]
    reasons = ("eos", "length", "length", "quarantined")
    return Row(
        sequence_id=sequence_id,
        prompt_id=plan.prompt_id(sequence_id),
        text=" ".join(WORDS[token] for token in tokens[1:]),
        tokens=tokens,
        prompt_tokens=2,
        new_tokens=new_tokens,
        finish_reason=reasons[sequence_id % 4],
        mean_plausible=1 + sequence_id / 8,
        good_logprob=-sequence_id / 4 if plan.logprobs and new_tokens else None,
    )


def make_rows(plan: Plan, index: int) -> list[Row]:
    return [make_row(plan, sequence_id) for sequence_id in plan.sequence_ids(index)]


def begin(out: Path, names: ModelNames | None = None, **changes: Any) -> CorpusFolder:
    """Set up `out` for the plan with `changes`, by models of these names, or resume it, as `cdgen
    generate` does."""
    documents = out.parent / "prompts.txt"
    documents.write_text("one two three\n" * 10)
    folder = CorpusFolder(out)
    with folder.set_up():
        source = PromptSource(str(documents), make_tokenizer(), "0" * 64, (1,), 2)
        plan = make_plan(prepare_prompts(source, folder.prompts).plan, **changes)
        folder.open_plan(plan, names)
    assert folder.plan == plan
    return folder


def fill(folder: CorpusFolder) -> None:
    """Commit every range that is missing."""
    for index in pending_ranges(folder, WHOLE):
        commit_range(folder, index, make_rows(folder.plan, index))


def change_heartbeat(out: Path, shard: Shard, **changes: Any) -> None:
    """Change fields of the heartbeat of a worker."""
    path = CorpusFolder(out).heartbeat_path(shard)
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | changes))


def ended_process() -> int:
    """Return the number of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
