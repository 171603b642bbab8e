"""The configurations that the lean decoders cover, and those that they leave to transformers."""

from __future__ import annotations

from typing import Any

import pytest
from random_models import CONTEXT, MODELS, SHAPE

from cdgen.errors import ModelError
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "opt"},
        {"model_type": "gemma2"},
        {"hidden_act": "gelu"},
        {"model_type": "mistral", "sliding_window": CONTEXT - 1},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": CONTEXT - 1},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "longrope", "factor": 2.0}},
    ],
    ids=lambda change: ", ".join(f"{key} {value}" for key, value in change.items()),
)
def test_what_the_lean_decoder_leaves_to_transformers(change: dict[str, Any]) -> None:
    llama = {**SHAPE, "model_type": "llama", "hidden_act": "silu"}
    assert lean_config(llama, CONTEXT) is not None
    assert lean_config(llama | change, CONTEXT) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"n_positions": CONTEXT - 1}),
        ("gpt2", {"n_head": 32}),  # heads of one dimension
        ("gpt2", {"n_embd": 34}),
        ("gpt2", {"n_embd": 1032, "n_head": 4}),  # heads of 258 dimensions
        ("neox", {"hidden_act": "relu"}),
        ("neox", {"num_attention_heads": 3}),
        ("neox", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}),
        ("neox", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
        ("neox", {"rope_parameters": {"partial_rotary_factor": 0.4}}),  # 3 of 8 dimensions
    ],
    ids=lambda value: value if isinstance(value, str) else str(value).strip("{}"),
)
def test_what_the_others_leave_to_transformers(name: str, change: dict[str, Any]) -> None:
    config = MODELS[name].to_dict()
    assert lean_config(config, CONTEXT) is not None
    assert lean_config(config | change, CONTEXT) is None


@pytest.mark.parametrize(
    "window",
    [
        {"model_type": "mistral", "sliding_window": CONTEXT},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8},
    ],
    ids=["as long as the context", "none", "switched off"],
)
def test_windows_that_cut_nothing_are_lean(window: dict[str, Any]) -> None:
    assert lean_config(SHAPE | window, CONTEXT) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": None}, "TypeError"),
        ({"intermediate_size": -3}, "intermediate_size: expected 1 or more, got -3"),
        ({"head_dim": "8"}, "head_dim: expected 1 or more, got '8'"),
        ({"num_key_value_heads": 3}, "heads cannot share 3 KV heads"),
        ({"rms_norm_eps": "small"}, "norm_eps: expected a number above 0, got 'small'"),
        ({"rope_theta": "1e4"}, "rope_theta: expected a number above 0"),
        ({"rope_parameters": 5}, "TypeError"),
        ({"rope_parameters": {"rope_type": "linear"}}, "KeyError 'factor'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor: expected a number"),
    ],
    ids=str,
)
def test_sizes_that_are_none_are_refused(change: dict[str, Any], said: str) -> None:
    llama = {**SHAPE, "model_type": "llama", "hidden_act": "silu"}
    with pytest.raises(ModelError, match=f"config.json does not describe a llama: .*{said}"):
        lean_config(llama | change, CONTEXT)


def test_a_size_that_is_missing_is_refused() -> None:
    llama = {**SHAPE, "model_type": "llama"}
    del llama["num_attention_heads"]
    with pytest.raises(ModelError, match="KeyError 'num_attention_heads'"):
        lean_config(llama, CONTEXT)
