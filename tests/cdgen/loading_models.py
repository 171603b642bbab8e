"""Tiny random models of several architectures, to test how transformers' models are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    LlamaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PhiConfig,
)

from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.errors import ModelError

WIDTH, WORDS = 16, 32
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, Any] = {
    "phi": PhiConfig(**SHAPE),
    "opt": OPTConfig(**SHAPE, ffn_dim=24, word_embed_proj_dim=WIDTH),
    "bloom": BloomConfig(vocab_size=WORDS, hidden_size=WIDTH, n_layer=2, n_head=2),
    "llama": LlamaConfig(**SHAPE),
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=WORDS, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64),
    "gptj": GPTJConfig(
        vocab_size=WORDS, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, rotary_dim=4
    ),
    "gpt_neo": GPTNeoConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    ),
    "gpt-1": OpenAIGPTConfig(vocab_size=WORDS, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64),
}
Tensors = dict[str, torch.Tensor]


def load_refusal(folder: Path, load: Callable[..., object] = load_causal_lm) -> str:
    argument = torch.float32 if load is load_causal_lm else 2
    with pytest.raises(ModelError) as caught:
        load(folder, argument)
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)
    return str(caught.value)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}
