"""Finished runs of tiny random models, for the choice of a pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GPT2Config, LlamaConfig

from cdgen.train.checkpoints import MARKER
from cdgen.train.data.tokenizer import for_transformers, train_tokenizer

WriteRun = Callable[..., Path]
BASE = {1: 5.0, 2: 4.0, 3: 3.6, 4: 3.0, 5: 3.9}
TOKENIZER = train_tokenizer(["once upon a time there was a fox"], 300)
OTHER_TOKENIZER = train_tokenizer(["a very different text about nothing"], 300)


def llama_config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )


def gpt2_config(layers: int) -> GPT2Config:
    """Return a config that no lean decoder covers."""
    return GPT2Config(
        vocab_size=300,
        n_embd=8,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        scale_attn_by_inverse_layer_idx=True,
    )


def write_finished_run(
    run: Path,
    losses: dict[int, float],  # by step
    save_random: Callable[..., Path],
    layers: int = 2,
    tokenizer: Any = TOKENIZER,
    gpt2: bool = False,
) -> Path:
    """Write a run with a checkpoint for every loss."""
    for step in losses:
        folder = run / "checkpoints" / f"checkpoint-{step}"
        config = (gpt2_config if gpt2 else llama_config)(layers)
        save_random(config, folder, seed=step)
        for_transformers(tokenizer, 64).save_pretrained(folder)
        (folder / MARKER).write_text(json.dumps({"step": step}))
    lines = [json.dumps({"step": s, "validation": {"all": v}}) for s, v in losses.items()]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "mixture.json").write_text(json.dumps({"steps": max(losses)}))
    return run
