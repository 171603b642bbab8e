"""An experiment that trains in seconds: its recipe and its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

NAMES = ("Tom", "Lily", "Ben", "Sue", "Max", "Anna", "Jack", "Mia")
ANIMALS = ("cat", "dog", "hen", "cow", "pig", "fox", "owl", "bee")

BASE: dict[str, Any] = {
    "seed": 1,
    "vocab_size": 300,
    "block_size": 16,
    "sources": [
        {
            "name": "toys",
            "path": "toys.txt",
            "licence": "none",
            "split": "rows",
            "validation": 0.2,
            "prompts": 0.2,
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
        "steps": 12,
        "batch_blocks": 4,
        "micro_batch_blocks": 4,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "checkpoint_every": 4,
        "bf16": False,
        "compile": False,
    },
}
RECIPE: dict[str, Any] = {
    "name": "toy",
    "base": BASE,
    "good": "step:12",
    "corpora": {"prompt_tokens": 4, "num_sequences": 2, "max_new_tokens": 12},
    "arms": {
        "vanilla": {"strategy": "vanilla"},
        "cd": {"strategy": "cd", "bad": "step:4", "alpha": 0.1},
    },
    "mixture": {"ratios": [0.3]},
    "seeds": [1, 2],
    "evaluation": {"tasks": ["perplexity", "blimp_toys"]},
}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Write the recipe into `folder`, with other values for some of its fields."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
    return path


def base(**changes: Any) -> dict[str, Any]:
    """Return the section `base` with other values for some of its fields."""
    return {**BASE, **changes}


def write_text(folder: Path) -> Path:
    """Write the text that the recipe names, stories that differ in a name and an animal, and its
    task: sentences in the wrong order."""
    folder.mkdir(exist_ok=True)
    stories = (f"Once a {a} met {n}. {n} was happy with the {a}." for a in ANIMALS for n in NAMES)
    (folder / "toys.txt").write_text("\n".join(stories) + "\n")
    (folder / "blimp_toys").mkdir(exist_ok=True)
    pairs = (
        {"sentence_good": f"{n} was happy with the {a}.", "sentence_bad": f"happy {n} the {a} was."}
        for a, n in zip(ANIMALS, NAMES, strict=True)
    )
    items = folder / "blimp_toys/order.jsonl"
    items.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return folder
