"""Which weights decay, and Muon beside AdamW as one optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_run import RECIPE, SPECIALS, write_toy
from transformers import GPT2Config, GPT2LMHeadModel

from cdgen.train.config import Recipe
from cdgen.train.loop import train_recipe
from cdgen.train.model import new_model
from cdgen.train.optimizer import MuonWithAdamW, decayed_names, hidden_matrices, new_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe(tied: bool = True, **training: Any) -> Recipe:
    shape = {**RECIPE["model"], "tie_word_embeddings": tied}  # type: ignore[dict-item]
    values = {"model": shape, "training": {**RECIPE["training"], **training}}
    return Recipe.model_validate({**RECIPE, **values})


def test_matrices_decay_and_norms_and_embeddings_do_not() -> None:
    model = new_model(recipe(), SPECIALS)
    decayed = decayed_names(model, "matrices")
    assert {name.split(".")[-2] for name in decayed} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    untied = new_model(recipe(tied=False), SPECIALS)
    assert decayed_names(untied, "matrices") - decayed == {"lm_head.weight"}


def test_by_the_papers_rule_all_of_a_llama_decays() -> None:
    model = new_model(recipe(decay="paper", beta2=0.999), SPECIALS)
    assert decayed_names(model, "paper") == {name for name, _ in model.named_parameters()}
    optimizer = new_optimizer(model, recipe(decay="paper", beta2=0.999).training)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_biases_and_position_embeddings_do_not_decay() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    decayed = decayed_names(model, "matrices")
    assert not any("bias" in name or "ln_" in name or "wpe" in name for name in decayed)
    assert "transformer.h.0.mlp.c_fc.weight" in decayed
    assert "transformer.wpe.weight" in decayed_names(model, "paper")


def test_every_weight_is_in_one_group() -> None:
    for tied in (True, False):
        for optimizer in ("adamw", "muon"):
            wanted = recipe(tied, optimizer=optimizer)
            model = new_model(wanted, SPECIALS)
            groups = new_optimizer(model, wanted.training).param_groups
            inside = [id(p) for group in groups for p in group["params"]]
            assert sorted(inside) == sorted(id(p) for p in model.parameters())


def _steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        tokens = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(seed))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    wanted = recipe(tied=False, optimizer="muon")
    model = new_model(wanted, SPECIALS)
    matrices = hidden_matrices(model)
    assert len(matrices) == 7 and not any("embed" in n or "head" in n for n in matrices)
    reference = copy.deepcopy(model)
    optimizer = new_optimizer(model, wanted.training)
    assert isinstance(optimizer, MuonWithAdamW)
    _steps(model, optimizer, range(3))
    named = dict(reference.named_parameters())
    muon = torch.optim.Muon(
        [named[n] for n in named if n in matrices],
        lr=0.02,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [
        {"params": [named["lm_head.weight"]], "weight_decay": 0.1},
        {
            "params": [p for n, p in named.items() if "norm" in n or "embed" in n],
            "weight_decay": 0.0,
        },
    ]
    adamw = torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.95))
    for seed in range(3):
        tokens = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(seed))
        reference(input_ids=tokens, labels=tokens).loss.backward()
        for one in (muon, adamw):
            one.step()
        reference.zero_grad()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, named[name])


def test_a_schedule_reaches_both_parts_after_a_reload_too() -> None:
    wanted = recipe(optimizer="muon")
    model = new_model(wanted, SPECIALS)
    optimizer = new_optimizer(model, wanted.training)
    _steps(model, optimizer, range(2))
    other = copy.deepcopy(model)
    reloaded = new_optimizer(other, wanted.training)
    reloaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, trained in ((optimizer, model), (reloaded, other)):
        for group in one.param_groups:
            group["lr"] = 0.001
        _steps(trained, one, range(2, 4))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    before = [p.clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    _steps(model, optimizer, range(4, 5))
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_a_run_with_muon_learns_and_resumes_exactly(tmp_path: Path) -> None:
    path, run = write_toy(tmp_path), tmp_path / "run"
    changed = {**RECIPE["training"], "optimizer": "muon"}
    path.write_text(yaml.safe_dump({**RECIPE, "training": changed, "bad_gap": None}))
    train_recipe(path, tmp_path, run)
    weights = run / "model/model.safetensors"
    before = weights.read_bytes()
    for step in (18, 27):
        (run / f"checkpoints/checkpoint-{step}/complete.json").unlink()
    train_recipe(path, tmp_path, run)
    assert weights.read_bytes() == before
