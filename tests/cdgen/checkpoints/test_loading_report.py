"""A checkpoint is loaded whole or not at all, and tied tensors are one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_folders import edit_config, edit_tensors
from loading_models import CONFIGS, WIDTH, WORDS, load_refusal, without
from transformers import AutoModelForCausalLM

from cdgen.checkpoints.pretrained import load_causal_lm

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- whole or not at all -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_whole_checkpoint_is_loaded_as_transformers_loads_it(
    saved: Callable[[str], Path], name: str
) -> None:
    tokens = torch.arange(WORDS)[None]
    expected = AutoModelForCausalLM.from_pretrained(saved(name), dtype=torch.float32).eval()
    with torch.no_grad():
        found = load_causal_lm(saved(name), torch.float32)(tokens).logits
        assert torch.equal(found, expected(tokens).logits)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("phi", "lm_head.weight"), ("phi", "lm_head.bias"), ("llama", "model.norm.weight")],
)
def test_a_missing_tensor_is_named(changed: Callable[..., Path], name: str, tensor: str) -> None:
    assert f"(missing: {tensor})" in load_refusal(changed(name, without(tensor)))


def test_names_of_torch_compile_are_missing_and_surplus(changed: Callable[..., Path]) -> None:
    folder = changed("opt", lambda tensors: {f"_orig_mod.{n}": t for n, t in tensors.items()})
    message = load_refusal(folder)
    assert "missing: lm_head.weight, " in message or "missing: model.decoder." in message
    assert "; surplus: " in message and "_orig_mod." in message and " more" in message


def test_a_surplus_tensor_is_named(changed: Callable[..., Path]) -> None:
    extra = {"model.layers.2.mlp.up_proj.weight": torch.ones(24, WIDTH)}
    message = load_refusal(changed("llama", lambda tensors: tensors | extra))
    assert "(surplus: model.layers.2.mlp.up_proj.weight)" in message


def test_a_tensor_of_another_shape_is_named(changed: Callable[..., Path]) -> None:
    norm = {"model.norm.weight": torch.ones(WIDTH + 1)}
    message = load_refusal(changed("llama", lambda tensors: tensors | norm))
    assert "of another shape: model.norm.weight ([17], not [16])" in message


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("gpt2", "transformer.h.0.attn"),
        ("gptj", "transformer.h.0.attn"),
        ("gpt_neo", "transformer.h.0.attn.attention"),
        ("gpt-1", "transformer.h.0.attn"),
    ],
)
def test_masks_of_old_checkpoints_are_passed_over(
    changed: Callable[..., Path], name: str, block: str
) -> None:
    masks = {
        f"{block}.bias": torch.ones(1, 1, 64, 64),
        f"{block}.masked_bias": torch.tensor(-1e4),
        f"{block}.causal_mask": torch.ones(1, 1, 64, 64),
    }
    assert load_causal_lm(changed(name, lambda tensors: tensors | masks), torch.float32)


def test_angles_of_old_checkpoints_are_passed_over(changed: Callable[..., Path]) -> None:
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert load_causal_lm(changed("llama", lambda tensors: tensors | angles), torch.float32)


# ---- tied tensors ------------------------------------------------------------------------------

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def test_a_tied_head_may_be_left_out_or_saved_again(
    changed: Callable[..., Path], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = load_causal_lm(saved("tied"), torch.float32).lm_head.weight
    again = changed("tied", lambda tensors: tensors | {HEAD: tensors[EMBEDDING].clone()})
    model = load_causal_lm(again, torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, expected)
    edit_tensors(again, without(EMBEDDING))  # the head alone stands for both
    assert torch.equal(load_causal_lm(again, torch.float32).lm_head.weight, expected)


def test_a_tied_head_of_other_values_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed("tied", lambda tensors: tensors | {HEAD: tensors[EMBEDDING] + 1})
    message = load_refusal(folder)
    assert f"config.json ties {HEAD} to {EMBEDDING}, but the checkpoint holds" in message
    edit_config(folder, tie_word_embeddings=False)
    model = load_causal_lm(folder, torch.float32)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight + 1)
