"""The tensors that a lean decoder takes: all of its own, in its shapes, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import CONTEXT, SLOTS, Saved, lean_logits, load_lean

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.errors import ModelError
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")


def missing_cases() -> Iterator[tuple[str, str]]:
    block = "model.layers.2"
    yield "llama", "model.embed_tokens.weight"
    yield "llama", "model.norm.weight"
    yield "llama", "lm_head.weight"
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield "llama", f"{block}.{norm}.weight"
    for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield "llama", f"{block}.self_attn.{projection}.weight"
    for projection in ("gate_proj", "up_proj", "down_proj"):
        yield "llama", f"{block}.mlp.{projection}.weight"
    for projection in ("q_proj", "k_proj", "v_proj"):
        yield "qwen2", f"{block}.self_attn.{projection}.bias"
    yield "llama-biases", f"{block}.self_attn.o_proj.bias"
    yield "qwen3", f"{block}.self_attn.q_norm.weight"
    yield "qwen3", f"{block}.self_attn.k_norm.weight"
    for tensor in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"):
        yield "gpt2", f"transformer.{tensor}"
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        for kind in ("weight", "bias"):
            yield "gpt2", f"transformer.h.2.{part}.{kind}"
    yield "gpt2-untied", "lm_head.weight"
    for tensor in ("embed_in.weight", "final_layer_norm.weight", "final_layer_norm.bias"):
        yield "neox", f"gpt_neox.{tensor}"
    attention, mlp = ("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h")
    parts = [f"attention.{part}" for part in attention] + [f"mlp.{part}" for part in mlp]
    for part in ("input_layernorm", "post_attention_layernorm", *parts):
        for kind in ("weight", "bias"):
            yield "neox", f"gpt_neox.layers.2.{part}.{kind}"
    yield "neox", "embed_out.weight"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of a checkpoint."""
    checkpoint = open_checkpoint(folder)
    return checkpoint.config, load_tensors(checkpoint, torch.float32)


def build(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Decoder:
    shape = lean_config(config, CONTEXT)
    assert shape is not None
    return Decoder(shape, [tensors], SLOTS, CONTEXT)


@pytest.mark.parametrize(("name", "tensor"), list(missing_cases()))
def test_a_missing_tensor_is_named(name: str, tensor: str, saved: Saved) -> None:
    config, tensors = read(saved(name))
    del tensors[tensor]
    with pytest.raises(ModelError, match=tensor):
        build(config, tensors)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama", "model.layers.3.mlp.up_proj.weight"),
        ("llama", "model.layers.0.self_attn.q_norm.weight"),
        ("llama", "model.layers.0.self_attn.sinks"),
        ("llama", "model.layers.0.self_attn.o_proj.bias"),
        ("llama", "score.weight"),
        ("gpt2", "transformer.h.3.ln_1.weight"),
        ("gpt2", "transformer.h.0.crossattention.c_attn.weight"),
        ("gpt2-untied", "lm_head.bias"),
        ("neox", "gpt_neox.layers.3.attention.dense.weight"),
        ("neox-no-bias", "gpt_neox.layers.0.attention.dense.bias"),
        ("neox", "embed_out.bias"),
    ],
)
def test_a_surplus_tensor_is_named(name: str, tensor: str, saved: Saved) -> None:
    config, tensors = read(saved(name))
    with pytest.raises(ModelError, match=tensor):
        build(config, tensors | {tensor: torch.ones(8)})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("neox", "gpt_neox.layers.0.attention.bias"),
        ("neox", "gpt_neox.layers.0.attention.masked_bias"),
    ],
)
def test_what_old_checkpoints_carry_is_passed_over(name: str, tensor: str, saved: Saved) -> None:
    config, tensors = read(saved(name))
    build(config, tensors | {tensor: torch.ones(4)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 80),
        ("vocab_size", 200),
        ("hidden_size", 64),
        ("intermediate_size", 64),
        ("num_key_value_heads", 1),
        ("num_attention_heads", 2),
        ("head_dim", 16),
    ],
)
def test_a_config_of_another_shape_is_refused(key: str, value: int, saved: Saved) -> None:
    """Kernels get addresses, so a wrong shape must not reach them."""
    config, tensors = read(saved("llama"))
    with pytest.raises(ModelError, match=r"model\.|lm_head"):
        build(config | {key: value}, tensors)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "vocab_size", 80),
        ("gpt2", "n_embd", 64),
        ("gpt2", "n_inner", 64),
        ("gpt2", "n_positions", 64),
        ("neox", "vocab_size", 80),
        ("neox", "hidden_size", 64),
        ("neox", "intermediate_size", 64),
    ],
)
def test_a_config_of_another_shape_is_refused_too(
    name: str, key: str, value: int, saved: Saved
) -> None:
    config, tensors = read(saved(name))
    with pytest.raises(ModelError, match=r"transformer\.|gpt_neox\."):
        build(config | {key: value}, tensors)


def test_a_norm_of_another_length_is_refused(saved: Saved) -> None:
    config, tensors = read(saved("llama"))
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        build(config, tensors | {"model.norm.weight": torch.ones(8)})


def test_a_bare_gpt2_is_that_of_transformers(saved: Saved) -> None:
    """Such a checkpoint lacks transformers' prefix and contains the causal masks of the first
    ones."""
    folder = saved("gpt2")
    config, tensors = read(folder)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for layer in range(3):
        bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT).bool()
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    bare["lm_head.weight"] = bare["wte.weight"].clone()
    tokens = torch.randint(96, (SLOTS, 5), generator=torch.Generator().manual_seed(2))
    expected = lean_logits(load_lean(folder), tokens)
    assert torch.equal(lean_logits(build(config, bare), tokens), expected)
