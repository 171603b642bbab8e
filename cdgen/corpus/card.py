"""The dataset card: README.md with the header that `datasets` and the Hub read."""

from __future__ import annotations

from typing import Any

from cdgen.corpus.manifest import Manifest
from cdgen.corpus.model_names import ModelName
from cdgen.corpus.plan import Plan
from cdgen.corpus.rows import Counts, columns_of
from cdgen.shown_text import as_code, in_markdown

_SIZES = {  # the Hub's words for fewer rows than the key
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
_CONTRAST = {
    "cd": "Tokens were drawn from the contrast of GOOD and BAD on GOOD's plausible set.",
    "plausible": "Tokens were drawn from GOOD on its plausible set, without the contrast.",
    "vanilla": "Tokens were drawn from GOOD alone.",
}

_BODY = """
# Synthetic corpus

Every text here was written by a language model, with cdgen {version}. {contrast}

| | |
|---|---|
{facts}

## Use

```python
from datasets import load_dataset

corpus = load_dataset("path/to/this/folder", split="train")
```

`text` and `tokens` begin with the prompt: the first `prompt_tokens` tokens, taken from a real
document. `finish_reason` is `eos`, `length` (cut at the limit) or `quarantined` (the models' logits
could not be sampled; leave these rows out of training). `mean_plausible` is the mean size of the
plausible set over the new tokens.{logprob}{origins}

`manifest.json` has the plan, the hash of every file and all counts; `cdgen verify` checks them.
The licences of both models and of the prompts apply: add yours to this card before you publish it.
"""
_ORIGINS = """

`prompts.jsonl` says for every `prompt_id` which document it is the beginning of: the file and the
row from 1 (in text and JSON lines, the line), and the row's own `id` if it has one."""
_LOGPROB = " `good_logprob` is GOOD's log-probability of the new tokens, in nats."


def render_card(manifest: Manifest) -> str:
    """Return README.md, a pure function of the manifest."""
    import yaml

    plan = manifest.plan
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True)
    body = _BODY.format(
        version=in_markdown(plan.cdgen_version),
        contrast=_CONTRAST[plan.strategy],
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(manifest).items()),
        logprob=_LOGPROB if plan.logprobs else "",
        origins=_ORIGINS if manifest.prompts else "",
    )
    return f"---\n{header}---\n{body}"


def _header(manifest: Manifest) -> dict[str, Any]:
    num_bytes = _memory_bytes(manifest.totals, manifest.plan)
    split = {"name": "train", "num_bytes": num_bytes, "num_examples": manifest.totals.rows}
    return {
        "annotations_creators": ["machine-generated"],
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "size_categories": [_size_category(manifest.totals.rows)],
        "tags": ["synthetic", "machine-generated", "contrastive-decoding", "cdgen"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*"}],
            }
        ],
        "dataset_info": {
            "features": _features(manifest.plan),
            "splits": [split],
            "download_size": sum(file.bytes for file in manifest.files),
            "dataset_size": num_bytes,
        },
    }


def _features(plan: Plan) -> list[dict[str, str]]:
    """Return the columns as `datasets` describes them."""
    return [
        {"name": name, "list" if name == "tokens" else "dtype": kind}
        for name, kind in columns_of(plan).items()
    ]


def _memory_bytes(counts: Counts, plan: Plan) -> int:
    """Return the size of the rows as Arrow arrays, with the offsets of the three string columns."""
    per_row = 2 * 8 + 2 * 4 + 3 * 4 + 4 * (2 if plan.logprobs else 1)
    reasons = sum(len(reason) * count for reason, count in counts.finish_reasons.items())
    return per_row * counts.rows + counts.text_bytes + 4 * counts.tokens + reasons


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES.items() if rows < limit), "n>1B")


def _facts(manifest: Manifest) -> dict[str, str]:
    plan, counts, sampling = manifest.plan, manifest.totals, manifest.plan.sampling
    reasons = (
        f"{count:,} {in_markdown(reason)}" for reason, count in counts.finish_reasons.items()
    )
    truncation = f"top-k {sampling.top_k}, top-p {sampling.top_p}, min-p {sampling.min_p}"
    names = manifest.models
    bad_name = names.bad if names else None
    source = f"source sha256 {as_code(plan.prompts.source_sha256)}"
    if sampling.masked_score is not None:
        truncation += f"; what they remove has the score {sampling.masked_score}, not none"
    return {
        "sequences": f"{counts.rows:,} ({', '.join(reasons)})",
        "tokens": f"{counts.tokens:,}, of which {counts.new_tokens:,} generated",
        "words": f"{counts.words:,}",
        "prompts": f"{plan.prompts.count:,} of at most {plan.prompts.prompt_tokens} tokens, "
        f"{plan.sequences_per_prompt} sequences each ({source})",
        "GOOD": _model(names.good if names else None, plan.good_sha256),
        "BAD": _model(bad_name, plan.bad) if plan.bad_is_checkpoint else as_code(plan.bad),
        "strategy": plan.strategy,
        "score": f"{sampling.good_weight} x GOOD - {sampling.bad_weight} x BAD",
        "plausibility threshold alpha": f"{sampling.alpha}",
        "temperature": f"{sampling.temperature}",
        "truncation": truncation,
        "at most": f"{plan.max_new_tokens} new tokens, on EOS {plan.on_eos}",
        "seed": f"{plan.seed}",
        "computed in": in_markdown(f"{plan.dtype} on {plan.device}"),
        "plan": f"sha256 {as_code(manifest.plan_sha256)}",
    }


def _model(name: ModelName | None, sha256: str) -> str:
    """Return a model's name, if it is known, and its hash, as the cell of a table."""
    hash = f"sha256 {as_code(sha256)}"
    return f"{as_code(str(name))}, {hash}" if name else hash
