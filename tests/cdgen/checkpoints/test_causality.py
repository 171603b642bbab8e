"""The probe finds every model whose logits depend on later tokens, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    RobertaConfig,
    RoFormerConfig,
    RwkvConfig,
)

from cdgen.checkpoints.causality import sees_the_future

pytestmark = pytest.mark.usefixtures("one_thread")


def shape(positions: int = 64) -> dict[str, int]:
    return {
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "pad_token_id": 1,
    }


def model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@DTYPES
@pytest.mark.parametrize("positions", [4, 64, 4096])
def test_causal_models_pass(dtype: torch.dtype, positions: int) -> None:
    """One sorts its tokens by expert, and one counts positions above 0."""
    few = {"num_key_value_heads": 1, "num_local_experts": 4}
    configs = [
        GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=positions),
        MixtralConfig(**shape(positions), **few),
        OPTConfig(**shape(positions), ffn_dim=24, word_embed_proj_dim=16),
        RobertaConfig(**shape(positions), is_decoder=True),
        MptConfig(vocab_size=48, d_model=16, n_layers=2, n_heads=2, max_seq_len=positions),
        MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=2),
        RwkvConfig(vocab_size=48, hidden_size=16, num_hidden_layers=2),  # knows no padding
    ]
    for config in configs:
        assert not sees_the_future(model(config, dtype)), config.model_type


@DTYPES
@pytest.mark.parametrize("positions", [4, 64])
def test_encoders_are_found(dtype: torch.dtype, positions: int) -> None:
    for config in (BertConfig(**shape(positions)), RobertaConfig(**shape(positions))):
        encoder = model(config, dtype)
        with torch.no_grad():  # as large as in a trained model
            for parameter in encoder.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
        assert sees_the_future(encoder), config.model_type


def test_a_freshly_initialised_encoder_is_found() -> None:
    """Its attention is weak: weights of 0.02."""
    assert sees_the_future(model(BertConfig(**shape())))


def test_a_decoder_that_leaks_is_found() -> None:
    """huggingface/transformers #48745."""
    leaky = model(RoFormerConfig(**shape(), is_decoder=True))
    tokens = torch.arange(8)[None]
    others = torch.cat([tokens[:, :7], tokens[:, :1]], 1)
    with torch.no_grad():
        change = (leaky(tokens).logits - leaky(others).logits)[:, :7].abs().max()
    assert sees_the_future(leaky) == bool(change > 1e-5)


def test_the_mode_of_a_model_is_left_as_it_was() -> None:
    gpt2 = model(GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2)).train()
    assert not sees_the_future(gpt2), "dropout is off while it is asked"
    assert gpt2.training


def test_a_model_with_nan_is_not_judged() -> None:
    gpt2 = model(GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2))
    with torch.no_grad():
        gpt2.transformer.ln_f.weight.fill_(torch.nan)
    assert not sees_the_future(gpt2)
