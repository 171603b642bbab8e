"""A recipe that trains in a second, its text, and small corpora of the bundled pair."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import yaml

from cdgen.cli.demo import ASSETS
from cdgen.train.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SpecialIds

SPECIALS = SpecialIds(PAD_ID, BOS_ID, EOS_ID)
RECIPE: dict[str, Any] = {
    "name": "toy",
    "seed": 0,
    "vocab_size": 300,
    "block_size": 16,
    "sources": [
        {
            "name": "toys",
            "path": "s.txt.xz",
            "licence": "none",
            "split": "endoftext",
            "validation": 0.2,
            "prompts": 0,
        }
    ],
    "model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "training": {
        "steps": 27,  # ends in the middle of an epoch
        "batch_blocks": 4,
        "micro_batch_blocks": 2,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "checkpoint_every": 9,
        "bf16": False,
        "compile": False,
    },
    "bad_gap": 0.1,
}


def write_toy(folder: Path) -> Path:
    """Write a recipe into `folder`, and its data: stories that differ in a name and an animal."""
    stories = [
        f"Once there was a {animal} called {name}. {name} was happy.\n<|endoftext|>"
        for animal in ("cat", "dog", "hen", "cow")
        for name in ("Tom", "Lily", "Ben", "Sue", "Max")
    ]
    with lzma.open(folder / "s.txt.xz", "wt") as file:
        file.write("\n".join(stories))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def generate_demo_corpus(out: Path, **fields: Any) -> Path:
    """Generate one sequence of the bundled pair for each of the 32 demonstration prompts."""
    from cdgen.generation.config import GenerateConfig
    from cdgen.generation.run import generate

    values: dict[str, Any] = {
        "good": ASSETS / "demo-pair/good",
        "bad": str(ASSETS / "demo-pair/bad"),
        "prompts": str(ASSETS / "demo-prompts.txt"),
        "out": out,
        "num_sequences": 1,
        "prompt_tokens": 6,
        **fields,
    }
    generate(GenerateConfig.model_validate(values))
    return out
