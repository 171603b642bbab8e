"""The lean decoders against transformers: logits, greedy text, what it covers, what moves a bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
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
from cdgen.errors import ModelError
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = 16
CONTEXT = 48
# Logits here have a standard deviation near 1 and reach 5: fp32 sums in another order differ by
# some 1e-6, a wrong angle, norm or bias by 0.1 and more.
ATOL = 2e-5

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


@pytest.fixture(scope="module")
def saved(save_random: Save, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of one of MODELS with random weights; it must not be changed."""

    @cache
    def save(name: str) -> Path:
        folder = save_random(MODELS[name], tmp_path_factory.mktemp("models") / name)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return save


def load_lean(folder: Path, slots: int = SLOTS, capacity: int = CONTEXT) -> Decoder:
    checkpoint = open_checkpoint(folder)
    shape = lean_config(checkpoint.config, capacity)
    assert shape is not None, "this model should not need transformers"
    return Decoder(shape, [load_tensors(checkpoint, torch.float32)], slots, capacity)


def load_oracle(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def lean_logits(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] -> [B, T, V]
    ids = torch.arange(len(tokens))
    steps = []
    for position in range(tokens.shape[1]):
        at = torch.full_like(ids, position)
        steps.append(decoder.logits(decoder.forward(tokens[:, position].contiguous(), at, ids)))
    return torch.stack(steps, dim=1)


@torch.inference_mode()
def lean_greedy(decoder: Decoder, first: torch.Tensor, count: int) -> torch.Tensor:  # [B, count]
    ids, tokens = torch.arange(len(first)), [first]
    for position in range(count - 1):
        hidden = decoder.forward(tokens[-1], torch.full_like(ids, position), ids)
        tokens.append(decoder.logits(hidden).argmax(-1))
    return torch.stack(tokens, dim=1)


@torch.inference_mode()
def oracle_greedy(model: Any, first: torch.Tensor, count: int) -> torch.Tensor:  # [B, count]
    tokens = first[:, None]
    for _ in range(count - 1):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


# ---- against transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, saved: Saved) -> None:
    folder = saved(name)
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = load_oracle(folder)(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(
        lean_logits(load_lean(folder), tokens), expected, atol=ATOL, rtol=0.0
    )


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name: str, saved: Saved) -> None:
    folder = saved(name)
    first = torch.arange(SLOTS)
    expected = oracle_greedy(load_oracle(folder), first, CONTEXT)
    assert lean_greedy(load_lean(folder), first, CONTEXT).tolist() == expected.tolist()


@pytest.mark.parametrize("which", ["good", "bad"])
def test_real_model_is_that_of_transformers(which: str, stories260k: Any) -> None:
    folder = getattr(stories260k, which)
    first = torch.tensor([1, *range(400, 400 + SLOTS - 1)])
    model = load_oracle(folder)
    expected = oracle_greedy(model, first, 60)
    assert lean_greedy(load_lean(folder, capacity=60), first, 60).tolist() == expected.tolist()
    with torch.inference_mode():
        torch.testing.assert_close(
            lean_logits(load_lean(folder, capacity=60), expected),
            model(expected).logits,
            atol=5e-5,  # these logits reach 20
            rtol=0.0,
        )


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("llama-theta", {"rope_theta": 99}),
        ("llama-theta", {"rope_theta": 99, "rope_scaling": None}),
        ("llama-linear", {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3.0}}),
        (
            "llama-llama3",
            {
                "rope_theta": 5000.0,
                "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
            },
        ),
        ("neox", {"rotary_emb_base": 500.0, "rotary_pct": 0.25}),
        ("neox-whole-heads", {"rotary_emb_base": 500.0, "rotary_pct": 1.0, "rope_scaling": None}),
    ],
    ids=["theta alone", "no scaling", "linear", "llama3", "neox", "neox, whole heads"],
)
def test_older_config_layout_means_the_same(
    name: str, older: dict[str, Any], saved: Saved, tmp_path: Path
) -> None:
    """Before transformers 5, config.json had rope_theta and rope_scaling side by side, and GPT-NeoX
    had names of its own."""
    folder = Path(shutil.copytree(saved(name), tmp_path / "model"))
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(2))
    newer = lean_logits(load_lean(folder), tokens)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config | older))
    assert torch.equal(lean_logits(load_lean(folder), tokens), newer)
    with torch.inference_mode():
        torch.testing.assert_close(load_oracle(folder)(tokens).logits, newer, atol=ATOL, rtol=0.0)


# ---- what it covers ----------------------------------------------------------------------------


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


# ---- a row depends on its own tokens alone -----------------------------------------------------


@torch.inference_mode()
def row_bits(
    decoder: Decoder, own: list[int], slot: int, first_step: int, neighbours: int
) -> tuple[torch.Tensor, torch.Tensor]:  # hidden [T, D], logits [T, V] of the row in `slot`
    """Feed `own` to `slot` from step `first_step` on, with the other slots at random positions."""
    generator = torch.Generator().manual_seed(neighbours)
    hidden, logits = [], []
    for step in range(first_step + len(own)):
        tokens = torch.randint(96, (decoder.slots,), generator=generator)
        positions = torch.randint(CONTEXT, (decoder.slots,), generator=generator)
        ids = torch.arange(decoder.slots) + 1000 * neighbours
        ids[slot] = 7
        if step >= first_step:
            tokens[slot], positions[slot] = own[step - first_step], step - first_step
        out = decoder.forward(tokens, positions, ids)
        if step >= first_step:
            hidden.append(out[slot].clone())
            logits.append(decoder.logits(out)[slot].clone())
    return torch.stack(hidden), torch.stack(logits)


@pytest.mark.parametrize(
    ("name", "slots", "dropout"),
    [
        ("llama-wide-heads", 16, 0.5),
        ("llama-wide-heads", 48, 0.0),
        ("llama-wide-heads", 64, 0.0),
        ("gpt2", 48, 0.0),
        ("neox", 48, 0.0),
    ],
)
def test_no_bit_of_a_row_depends_on_the_others(
    name: str, slots: int, dropout: float, saved: Saved
) -> None:
    decoder = load_lean(saved(name), slots)
    if dropout:
        decoder.drop_attention(dropout, seed=3)
    own = torch.randint(96, (12,), generator=torch.Generator().manual_seed(5)).tolist()
    hidden, logits = row_bits(decoder, own, slot=0, first_step=0, neighbours=0)
    for slot, first_step, neighbours in [(0, 0, 1), (1, 0, 2), (7, 1, 3), (slots - 1, 5, 4)]:
        again = row_bits(decoder, own, slot, first_step, neighbours)
        assert torch.equal(again[0], hidden), (slot, first_step)
        assert torch.equal(again[1], logits), (slot, first_step)


def test_a_second_thread_moves_no_bit(
    save_random: Save, set_threads: Callable[[int], None], tmp_path: Path
) -> None:
    """The model is wide enough that every op of a step is shared by both threads."""
    broad = SHAPE | {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64}
    folder = save_random(LlamaConfig(**broad), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    tokens = torch.randint(96, (64, 6), generator=torch.Generator().manual_seed(8))
    decoder = load_lean(folder, slots=64)
    alone = lean_logits(decoder, tokens)
    set_threads(2)
    assert torch.equal(lean_logits(decoder, tokens), alone)
    assert torch.equal(lean_logits(load_lean(folder, slots=64), tokens), alone)


def test_a_nan_row_touches_no_other_row(saved: Saved) -> None:
    folder = saved("llama")
    tokens = torch.randint(2, 96, (SLOTS, 10), generator=torch.Generator().manual_seed(6))
    clean = lean_logits(load_lean(folder), tokens)
    poisoned = load_lean(folder)
    poisoned.embedding = poisoned.embedding.clone()
    poisoned.embedding[1] = float("nan")
    tokens[3, 4] = 1
    logits = lean_logits(poisoned, tokens)
    assert logits[3, 4:].isnan().all()
    others = [row for row in range(SLOTS) if row != 3]
    assert torch.equal(logits[others], clean[others])
    # The same slots again: what the row left in its cache is never read.
    tokens[3] = 5
    logits = lean_logits(poisoned, tokens)
    assert not logits.isnan().any()
