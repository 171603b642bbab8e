"""Models of transformers are loaded whole and without running code, or refused by name."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import pytest
import torch
from checkpoint_folders import add_code, edit_config, edit_tensors
from loading_models import SHAPE, WIDTH, WORDS, load_refusal, without
from transformers import AutoModelForCausalLM, BertConfig

from cdgen.checkpoints.pretrained import (
    load_causal_lm,
    load_pretrained_tokenizer,
    load_sequence_classifier,
    read_config,
)
from cdgen.errors import Interrupted, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")


ROOMS = ("cdgen", "train", "eval", "bench")


def is_load(node: ast.AST) -> TypeGuard[ast.Call]:
    loads = ("from_pretrained", "from_config")
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in loads


# ---- a classifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "bloom", "opt"])
def test_only_the_head_of_a_classifier_is_new(saved: Callable[[str], Path], name: str) -> None:
    folder, heads = saved(name), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = load_sequence_classifier(folder, 3)
        heads.append(model.score.weight)
        assert model.score.weight.shape == (3, WIDTH)
    language_model = load_causal_lm(folder, torch.float32).base_model.state_dict()
    for key, tensor in model.base_model.state_dict().items():
        assert torch.equal(tensor, language_model[key]), key
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_classifier_of_a_checkpoint_that_is_not_whole(changed: Callable[..., Path]) -> None:
    folder = changed("llama", without("model.norm.weight"))
    assert "(missing: model.norm.weight)" in load_refusal(folder, load_sequence_classifier)
    extra = {"model.norm.weight": torch.ones(WIDTH), "model.layers.2.x": torch.ones(1)}
    edit_tensors(folder, lambda tensors: tensors | extra)
    assert "(surplus: model.layers.2.x)" in load_refusal(folder, load_sequence_classifier)


def test_a_classifier_of_an_encoder(save_random: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_random(BertConfig(**SHAPE), tmp_path / "bert")
    message = load_refusal(folder, load_sequence_classifier)
    assert "transformers has no classifier of the last token for bert" in message


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
        assert "transformers cannot load" in load_refusal(folder, load)
    with pytest.raises(ModelError):
        load_pretrained_tokenizer(folder)
    assert not ran.exists()


def test_every_load_by_way_of_transformers_refuses_code() -> None:
    """Here by `_LOCAL_DATA`, elsewhere in so many words."""
    root, found = Path(__file__).resolve().parents[3], 0
    for path in (p for room in ROOMS for p in (root / room).rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if is_load(node))
        for call in calls:
            given = {k.arg or ast.unparse(k.value) for k in call.keywords}
            assert {"trust_remote_code", "_LOCAL_DATA"} & given, f"{path}:{call.lineno}"
            found += 1
    assert found > 7


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
    edit_config(folder, _attn_implementation="eager")
    assert load_causal_lm(folder, torch.float32).config._attn_implementation == "eager"
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
    folder = save_random(BertConfig(**SHAPE), tmp_path / "bert")
    extra = {"bert.pooler.dense.weight": torch.ones(WIDTH, WIDTH)}  # as of a published one
    edit_tensors(folder, lambda tensors: tensors | extra)
    assert "bert is not causal here" in load_refusal(folder)
    edit_tensors(folder, lambda t: {name: x for name, x in t.items() if name not in extra})
    edit_config(folder, is_decoder=True)
    assert load_causal_lm(folder, torch.float32)


def test_a_package_that_is_not_installed_is_named(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Mamba3 requires the causal-conv9 library: pip install causal-conv9")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    message = load_refusal(saved("llama"))
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
    assert "transformers cannot load" in load_refusal(folder)


def test_no_room_is_made_for_a_model_that_its_files_do_not_hold(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers makes room for missing tensors before it reports them."""
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "llama"))
    edit_config(folder, num_hidden_layers=2000, intermediate_size=1 << 20)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("room would have been made")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    message = load_refusal(folder)
    assert "config.json describes a model of" in message and "its weight files have" in message


def test_read_config_of_a_file(saved: Callable[[str], Path]) -> None:
    assert read_config(saved("phi") / "config.json").model_type == "phi"
