"""Models of transformers are loaded whole and without running code, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import add_code, edit_config, edit_tensors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    LlamaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PhiConfig,
)

from cdgen.checkpoints.pretrained import (
    load_causal_lm,
    load_pretrained_tokenizer,
    load_sequence_classifier,
    read_config,
)
from cdgen.errors import Interrupted, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, WORDS = 16, 32
_SHAPE = {
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
    "phi": PhiConfig(**_SHAPE),
    "opt": OPTConfig(**_SHAPE, ffn_dim=24, word_embed_proj_dim=WIDTH),
    "bloom": BloomConfig(vocab_size=WORDS, hidden_size=WIDTH, n_layer=2, n_head=2),
    "llama": LlamaConfig(**_SHAPE),
    "tied": LlamaConfig(**_SHAPE, tie_word_embeddings=True),
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


@pytest.fixture(scope="module")
def saved(
    save_random: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the folder of one of CONFIGS with random weights; it must not be changed."""
    folder = tmp_path_factory.mktemp("models")

    def save(name: str) -> Path:
        if not (folder / name).exists():
            save_random(CONFIGS[name], folder / name)
        return folder / name

    return save


@pytest.fixture
def changed(saved: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a model with its tensors edited."""

    def change(name: str, edit: Callable[[Tensors], Tensors]) -> Path:
        folder = Path(shutil.copytree(saved(name), tmp_path / name))
        edit_tensors(folder, edit)
        return folder

    return change


def refusal(folder: Path, load: Callable[..., object] = load_causal_lm) -> str:
    argument = torch.float32 if load is load_causal_lm else 2
    with pytest.raises(ModelError) as caught:
        load(folder, argument)
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)
    return str(caught.value)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


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
    assert f"(missing: {tensor})" in refusal(changed(name, without(tensor)))


def test_names_of_torch_compile_are_missing_and_surplus(changed: Callable[..., Path]) -> None:
    folder = changed("opt", lambda tensors: {f"_orig_mod.{n}": t for n, t in tensors.items()})
    message = refusal(folder)
    assert "missing: lm_head.weight, " in message or "missing: model.decoder." in message
    assert "; surplus: " in message and "_orig_mod." in message and " more" in message


def test_a_surplus_tensor_is_named(changed: Callable[..., Path]) -> None:
    extra = {"model.layers.2.mlp.up_proj.weight": torch.ones(24, WIDTH)}
    message = refusal(changed("llama", lambda tensors: tensors | extra))
    assert "(surplus: model.layers.2.mlp.up_proj.weight)" in message


def test_a_tensor_of_another_shape_is_named(changed: Callable[..., Path]) -> None:
    norm = {"model.norm.weight": torch.ones(WIDTH + 1)}
    message = refusal(changed("llama", lambda tensors: tensors | norm))
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
    message = refusal(folder)
    assert f"config.json ties {HEAD} to {EMBEDDING}, but the checkpoint holds" in message
    edit_config(folder, tie_word_embeddings=False)
    model = load_causal_lm(folder, torch.float32)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight + 1)


# ---- a classifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "bloom", "opt"])
def test_only_the_head_of_a_classifier_is_new(saved: Callable[[str], Path], name: str) -> None:
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = load_sequence_classifier(saved(name), 3)
        heads.append(model.score.weight)
        assert model.score.weight.shape == (3, WIDTH)
    language_model = load_causal_lm(saved(name), torch.float32).base_model.state_dict()
    for key, tensor in model.base_model.state_dict().items():
        assert torch.equal(tensor, language_model[key]), key
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_classifier_of_a_checkpoint_that_is_not_whole(changed: Callable[..., Path]) -> None:
    folder = changed("llama", without("model.norm.weight"))
    assert "(missing: model.norm.weight)" in refusal(folder, load_sequence_classifier)
    extra = {"model.norm.weight": torch.ones(WIDTH), "model.layers.2.x": torch.ones(1)}
    edit_tensors(folder, lambda tensors: tensors | extra)
    assert "(surplus: model.layers.2.x)" in refusal(folder, load_sequence_classifier)


# ---- no code, no question, no other file -------------------------------------------------------


def test_code_beside_a_model_that_transformers_has_is_not_run(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    folder = Path(shutil.copytree(saved("phi"), tmp_path / "phi"))
    ran = add_code(folder)
    assert load_causal_lm(folder, torch.float32).config.model_type == "phi"
    assert not ran.exists()
    edit_config(folder, model_type="their_own")
    for load in (load_causal_lm, load_sequence_classifier):
        assert "transformers cannot load" in refusal(folder, load)
    with pytest.raises(ModelError):
        load_pretrained_tokenizer(folder)
    assert not ran.exists()


def test_a_config_cannot_name_another_weight_file_or_kernel(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "llama"))
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    edit_tensors(folder, lambda tensors: tensors | {"model.norm.weight": torch.zeros(WIDTH)})
    edit_config(
        folder,
        transformers_weights="other.safetensors",
        _attn_implementation="kernels-community/flash-attn2",
        return_dict=False,
    )
    model = load_causal_lm(folder, torch.float32)
    assert not model.model.norm.weight.any(), "the file that was checked"
    assert model.config._attn_implementation == "sdpa"
    assert model(torch.arange(4)[None]).logits.shape == (1, 4, WORDS)
    model.save_pretrained(tmp_path / "again")
    assert "transformers_weights" not in json.loads((tmp_path / "again/config.json").read_text())


def test_an_adapter_beside_the_weights_is_out_of_sight(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would load it if peft were installed."""
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "llama"))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    seen = []
    through = AutoModelForCausalLM.from_pretrained

    def look(path: Path, **options: Any) -> Any:
        seen.extend(sorted(file.name for file in path.iterdir()))
        return through(path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", look)
    model = load_causal_lm(folder, torch.float32)
    assert seen == sorted(path.name for path in saved("llama").iterdir())
    expected = load_causal_lm(saved("llama"), torch.float32)
    assert torch.equal(model.lm_head.weight, expected.lm_head.weight)


# ---- other refusals ----------------------------------------------------------------------------


def test_a_model_that_is_not_causal(save_random: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_random(BertConfig(**_SHAPE), tmp_path / "bert")
    extra = {"bert.pooler.dense.weight": torch.ones(WIDTH, WIDTH)}  # as of a published one
    edit_tensors(folder, lambda tensors: tensors | extra)
    assert "bert is not causal here" in refusal(folder)
    edit_tensors(folder, lambda t: {name: x for name, x in t.items() if name not in extra})
    edit_config(folder, is_decoder=True)
    assert load_causal_lm(folder, torch.float32)


def test_a_package_that_is_not_installed_is_named(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Mamba3 requires the causal-conv9 library: pip install causal-conv9")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    message = refusal(saved("llama"))
    assert "needs a package that is not installed" in message and "causal-conv9" in message


def test_a_signal_is_not_a_fault_of_the_model(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted("stopped by a signal")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", interrupt)
    with pytest.raises(Interrupted):
        load_causal_lm(saved("llama"), torch.float32)


@pytest.mark.parametrize(
    "fields",
    [{"model_type": "t5"}, {"model_type": "none"}, {"num_attention_heads": "two"}],
    ids=["no causal class", "unknown", "not a number"],
)
def test_configs_that_do_not_fit(
    saved: Callable[[str], Path], tmp_path: Path, fields: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "llama"))
    edit_config(folder, **fields)
    assert "transformers cannot load" in refusal(folder)


def test_read_config_of_a_file(saved: Callable[[str], Path]) -> None:
    assert read_config(saved("phi") / "config.json").model_type == "phi"
