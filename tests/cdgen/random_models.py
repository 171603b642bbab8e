"""Small random models of every architecture that has a lean decoder, and their logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

SLOTS = 16
CONTEXT = 48

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5000.0,
}
GPT2: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
NEOX: dict[str, Any] = {key: SHAPE[key] for key in SHAPE if key != "num_key_value_heads"}


def rotary(partial: float, theta: float = 500.0, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial}
    return {"rope_parameters": rope | more}


MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "llama-mha": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
    "llama-one-kv-head": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
    "llama-tied": LlamaConfig(**SHAPE | {"tie_word_embeddings": True}),
    "llama-biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama-wide-heads": LlamaConfig(**SHAPE, head_dim=24),
    "llama-theta": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 99}),
    "llama-linear": LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "llama-llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama-eps": LlamaConfig(**SHAPE, rms_norm_eps=0.1),
    "mistral": MistralConfig(**SHAPE, head_dim=8, sliding_window=None),
    "mistral-window-of-capacity": MistralConfig(**SHAPE, head_dim=8, sliding_window=CONTEXT),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gpt2": GPT2Config(**GPT2),
    "gpt2-untied": GPT2Config(**GPT2, tie_word_embeddings=False),
    "gpt2-longer-table": GPT2Config(**GPT2 | {"n_positions": CONTEXT + 9}),
    "gpt2-inner": GPT2Config(**GPT2, n_inner=56, activation_function="gelu"),
    "gpt2-wide-heads": GPT2Config(**GPT2 | {"n_embd": 128, "n_head": 2}),
    "gpt2-eps": GPT2Config(**GPT2, layer_norm_epsilon=0.1, activation_function="gelu_fast"),
    "neox": GPTNeoXConfig(**NEOX, **rotary(0.25)),
    "neox-sequential": GPTNeoXConfig(**NEOX, **rotary(0.25), use_parallel_residual=False),
    "neox-whole-heads": GPTNeoXConfig(**NEOX, **rotary(1.0), hidden_act="gelu_new"),
    "neox-half-heads": GPTNeoXConfig(**NEOX, **rotary(0.5), hidden_act="gelu_pytorch_tanh"),
    "neox-tied": GPTNeoXConfig(**NEOX | {"tie_word_embeddings": True}, **rotary(0.25)),
    "neox-no-bias": GPTNeoXConfig(**NEOX, **rotary(0.25), attention_bias=False),
    "neox-eps": GPTNeoXConfig(**NEOX, **rotary(0.25), layer_norm_eps=0.1),
    "neox-wide-heads": GPTNeoXConfig(
        **NEOX | {"hidden_size": 128, "num_attention_heads": 2}, **rotary(0.25)
    ),
    "neox-odd-part": GPTNeoXConfig(  # 6 of 20 dimensions turn
        **NEOX | {"hidden_size": 80}, **rotary(0.3)
    ),
    "neox-linear": GPTNeoXConfig(**NEOX, **rotary(0.5, rope_type="linear", factor=3.0)),
}
Save = Callable[..., Path]
Saved = Callable[[str], Path]


def load_lean(folder: Path, slots: int = SLOTS, capacity: int = CONTEXT, **kinds: Any) -> Decoder:
    checkpoint = open_checkpoint(folder)
    shape = lean_config(checkpoint.config, capacity)
    assert shape is not None, "this model should not need transformers"
    tensors = load_tensors(checkpoint, torch.float32)
    return Decoder(shape, [tensors], slots, capacity, **kinds)


@torch.inference_mode()
def lean_logits(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] -> [B, T, V]
    ids = torch.arange(len(tokens))
    steps = []
    for position in range(tokens.shape[1]):
        at = torch.full_like(ids, position)
        steps.append(decoder.logits(decoder.forward(tokens[:, position].contiguous(), at, ids)))
    return torch.stack(steps, dim=1)
