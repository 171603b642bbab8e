"""Models of a recipe: the Llama it describes, or any config of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from toy_run import RECIPE, SPECIALS, write_toy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from cdgen.errors import PlanMismatch, UsageError
from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import SpecialIds
from cdgen.train.loop import train_recipe
from cdgen.train.model import new_model

pytestmark = pytest.mark.usefixtures("one_thread")


def gpt2(folder: Path, **changes: Any) -> Path:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **changes)
    config.save_pretrained(folder)
    return folder


def recipe(model: Path | dict[str, Any]) -> dict[str, Any]:
    named = str(model) if isinstance(model, Path) else model
    training = {**RECIPE["training"], "steps": 4, "checkpoint_every": 2}
    return {**RECIPE, "model": named, "training": training, "bad_gap": None}


def test_a_llama_has_the_shape_and_the_seed_of_the_recipe() -> None:
    model = new_model(Recipe.model_validate(RECIPE), SPECIALS)
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings == RECIPE["block_size"]
    assert model.lm_head.weight is model.get_input_embeddings().weight
    again = new_model(Recipe.model_validate(RECIPE), SPECIALS)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    untied = {**RECIPE["model"], "tie_word_embeddings": False}  # type: ignore[dict-item]
    model = new_model(Recipe.model_validate({**RECIPE, "model": untied}), SPECIALS)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert model.dtype == torch.float32


@pytest.mark.parametrize("named", ["folder", "file"])
def test_any_config_gets_the_recipes_vocabulary(tmp_path: Path, named: str) -> None:
    folder = gpt2(tmp_path, dtype="bfloat16")
    path = folder if named == "folder" else folder / "config.json"
    model = new_model(Recipe.model_validate(recipe(path)), SpecialIds(pad=3, bos=1, eos=2))
    assert isinstance(model, GPT2LMHeadModel)
    assert model.dtype == torch.float32
    config = model.config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (
        300,
        3,
        1,
        2,
    )


def test_a_gpt2_trains_resumes_and_reloads(tmp_path: Path) -> None:
    """It has dropout, so a resume needs the random state as well."""
    path, run = write_toy(tmp_path), tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe(gpt2(tmp_path / "gpt2"))))
    train_recipe(path, tmp_path, run)
    before = (run / "model/model.safetensors").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert isinstance(model, GPT2LMHeadModel) and model.config.resid_pdrop == 0.1
    assert len(AutoTokenizer.from_pretrained(run / "checkpoints/checkpoint-2")) <= 300
    (run / "checkpoints/checkpoint-4/complete.json").unlink()
    train_recipe(path, tmp_path, run)
    assert (run / "model/model.safetensors").read_bytes() == before
    gpt2(tmp_path / "gpt2", resid_pdrop=0.0)  # the same path, another model
    with pytest.raises(PlanMismatch, match="another recipe"):
        train_recipe(path, tmp_path, run)


def test_unusable_configs_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            new_model(Recipe.model_validate(recipe(path)), SPECIALS)

    refused(tmp_path / "none", "expected a config.json or its folder, found neither")
    config = gpt2(tmp_path / "gpt2") / "config.json"
    for text in ("{", "{}", json.dumps({"model_type": "no such thing"})):
        config.write_text(text)
        refused(config, "no config of transformers")
    config.write_text(json.dumps({"model_type": "gpt2", "n_positions": 8}))
    refused(config, "8 positions, but block_size is 16")
    config.write_text(json.dumps({"model_type": "t5"}))
    refused(config, "expected a causal language model")
    encoder = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    encoder.save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "bert sees the tokens that it is to predict")
    encoder.is_decoder = True
    encoder.save_pretrained(tmp_path / "bert")
    assert new_model(Recipe.model_validate(recipe(tmp_path / "bert")), SPECIALS)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_type": "their_own", "auto_map": {"AutoConfig": "custom.Custom"}}, "is never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config: gptq"),
    ],
    ids=["code", "quantized"],
)
def test_a_config_that_no_model_can_be_made_of_is_refused_before_text_is_read(
    cdgen: Callable[..., Any], tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    folder = gpt2(tmp_path / "theirs")
    (folder / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path, config = write_toy(tmp_path), folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    path.write_text(yaml.safe_dump(recipe(folder)))
    ended = cdgen("train", "--config", path, "--data", tmp_path, "--out", tmp_path / "run")
    assert ended.code == 4 and says in ended.err, ended
    assert not (tmp_path / "run/tokens").exists() and not (tmp_path / "ran").exists()


def test_code_beside_a_config_of_transformers_is_not_run(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "theirs")
    (folder / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = folder / "config.json"
    kinds = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "custom.Custom")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": kinds}))
    assert isinstance(new_model(Recipe.model_validate(recipe(folder)), SPECIALS), GPT2LMHeadModel)
    assert not (tmp_path / "ran").exists()


def test_the_recipe_chooses_the_attention() -> None:
    def model(**changes: Any) -> PreTrainedModel:
        training = {**RECIPE["training"], **changes}
        return new_model(Recipe.model_validate({**RECIPE, "training": training}), SPECIALS)

    tokens = torch.arange(16)[None]
    with torch.no_grad():
        logits = [model(attention=kind)(tokens).logits for kind in ("sdpa", "eager")]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)  # sums in another order
    assert model(attention="eager").config._attn_implementation == "eager"
    with pytest.raises(ValidationError, match="flash_attention_2 computes in bfloat16"):
        model(attention="flash_attention_2")
    if find_spec("flash_attn") is None:
        with pytest.raises(UsageError, match="attention: flash_attention_2 cannot run here"):
            model(attention="flash_attention_2", bf16=True)
