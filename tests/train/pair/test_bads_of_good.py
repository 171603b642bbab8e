"""BADs made of GOOD, and their losses on the text that GOOD's run holds out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_run import write_toy
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.errors import UsageError
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config
from cdgen.train.config import load_recipe
from cdgen.train.data.training_data import build_training_data
from cdgen.train.loop import train_recipe
from cdgen.train.pair import bads_of_good
from cdgen.train.pair.bads_of_good import excess_loss, held_out_sample
from cdgen.train.pair.selection import select_pair
from cdgen.train.validation import validation_losses

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 1}
SHAPE: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
MODELS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "gpt2": GPT2Config(**COMMON, n_embd=32, n_layer=4, n_head=4, n_positions=64),
    "neox": GPTNeoXConfig(**SHAPE),
}
LENGTH = 24


def some_blocks() -> np.ndarray:  # [13, LENGTH]: some tokens are read and not taught
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 96, (13, LENGTH), dtype=np.int32)
    blocks[2, 5], blocks[12, -6:] = ~blocks[2, 5], ~blocks[12, -6:]
    return blocks


@pytest.fixture(scope="module")
def folder_of(
    save_random: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    def save(name: str) -> Path:
        folder = save_random(MODELS[name], tmp_path_factory.mktemp(name), head_scale=2.0)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return save


def excess_of(folder: Path, bad: str) -> float:
    checkpoint = open_checkpoint(folder)
    shape = lean_config(checkpoint.config, LENGTH)
    assert shape is not None
    return excess_loss(
        shape, load_tensors(checkpoint, torch.float32), parse_bad(bad), some_blocks()
    )


# ---- the loss is that of what `cdgen generate` computes ----------------------------------------


@torch.inference_mode()
def stepwise_excess(folder: Path, bad: str) -> float:
    """Return what `excess_loss` does, from the decoder's own steps and log-probabilities."""
    checkpoint, source, blocks = open_checkpoint(folder), parse_bad(bad), some_blocks()
    shape = lean_config(checkpoint.config, LENGTH)
    assert shape is not None
    decoder = Decoder(
        shape,
        [load_tensors(checkpoint, torch.float32)],
        16,
        LENGTH,
        dropout=Dropout(source.dropout, 0) if source.dropout else None,
        window=source.window or None,
        exit_layers=source.layers or None,
    )
    ids, tokens = torch.arange(16), torch.zeros(16, LENGTH, dtype=torch.int64)
    tokens[:13] = torch.from_numpy(np.where(blocks < 0, ~blocks, blocks))
    sums, count = [0.0, 0.0], 0
    for t in range(LENGTH - 1):
        hidden = decoder.forward(tokens[:, t].contiguous(), torch.full_like(ids, t), ids)
        for role, half in enumerate(hidden.chunk(2)):
            log_probs = decoder.logits(half).double().log_softmax(-1)
            for row in np.flatnonzero(blocks[:, t + 1] >= 0):
                sums[role] -= float(log_probs[row, tokens[row, t + 1]])
        count += int((blocks[:, t + 1] >= 0).sum())
    return (sums[1] - sums[0]) / count


@pytest.mark.parametrize("bad", ["layers:1", "layers:3", "window:1", "window:5", "dropout:0.5"])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_the_decoders_steps(
    name: str, bad: str, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(name)
    found = excess_of(folder, bad)
    assert abs(found) > 0.01
    assert found == pytest.approx(stepwise_excess(folder, bad), abs=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_transformers(name: str, folder_of: Callable[[str], Path]) -> None:
    """The model without its last layers; and all layers under a band mask."""
    folder = folder_of(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    good = validation_losses(model, {"text": some_blocks()})["all"]
    forward = model.forward
    band = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().triu(-4)[None, None]
    model.forward = lambda **inputs: forward(**inputs, attention_mask=band)
    windowed = validation_losses(model, {"text": some_blocks()})["all"]
    assert excess_of(folder, "window:5") == pytest.approx(windowed - good, abs=1e-5)
    model.forward = forward
    del (model.base_model.h if name == "gpt2" else model.base_model.layers)[3:]
    stopped = validation_losses(model, {"text": some_blocks()})["all"]
    assert excess_of(folder, "layers:3") == pytest.approx(stopped - good, abs=1e-5)


# ---- of a run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    train_recipe(write_toy(folder), folder, folder / "run")
    return folder / "run"


def test_the_sample_is_spread_over_the_held_out_text(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(run.parent / "recipe.yaml")
    held_out = build_training_data(recipe, run.parent).validation["toys"]
    assert len(held_out) > 4
    assert np.array_equal(held_out_sample(run), held_out)
    monkeypatch.setattr(bads_of_good, "_SAMPLED_TOKENS", 40)  # two blocks of 16
    sample = held_out_sample(run)
    assert 1 <= len(sample) <= 2
    assert np.array_equal(sample, held_out[:: -(-held_out.size // 40)])


def test_losses_stand_beside_those_of_checkpoints(run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(run.parent / "recipe.yaml")
    chosen = select_pair([run], 0.1)
    found = {row.model: row.loss for row in chosen.others if row.kind not in ("early", "small")}
    assert list(found) == ["window:1", "window:4", "dropout:0.5"]  # one layer only
    model = AutoModelForCausalLM.from_pretrained(chosen.good.folder, dtype=torch.float32)
    held_out = build_training_data(recipe, run.parent).validation
    good = validation_losses(model, held_out)["all"]
    assert chosen.good.loss == pytest.approx(good, abs=1e-4)
    forward, band = model.forward, torch.ones(16, 16, dtype=torch.bool).tril().triu(-3)[None, None]
    model.forward = lambda **inputs: forward(**inputs, attention_mask=band)
    assert found["window:4"] == pytest.approx(validation_losses(model, held_out)["all"], abs=1e-4)
    assert "window:4" in chosen.table() and f"{found['window:4']:.4f}" in chosen.table()


def test_a_bad_of_good_is_chosen_by_name(run: Path, tmp_path: Path, cdgen: Any) -> None:
    out = tmp_path / "pair.yaml"
    ended = cdgen("train", "--select-pair", run, "--bad", "window:02", "--out", out)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    assert (lines[2][0], lines[2][-1]) == ("BAD", "window:2")
    assert [line[0] for line in lines[3:-1]].count("window") == 2
    text = out.read_text()
    assert "\nbad: window:2\n" in text and "# BAD, made of GOOD: step " in text
    (tmp_path / "prompts.txt").write_text("Once there was\n")
    flags = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "corpus")
    sizes = ("--max-new-tokens", 8, "--prompt-tokens", 4)
    assert cdgen("generate", "--pair", out, *flags, *sizes).code == 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("checkpoints", "--bad checkpoints: expected layers:N, window:N or dropout:P"),
        ("none", "--bad none: expected layers:N, window:N or dropout:P"),
        ("layers:1", "--bad layers:1: GOOD has one layer, so none can be left out"),
        ("window:15", "--bad window:15: BAD would be GOOD"),
        ("window:x", "expected window:N with N of 1 or more"),
    ],
)
def test_what_cannot_be_made_of_good_is_refused(run: Path, bad: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        select_pair([run], 0.1, bad)


def test_without_its_token_files_a_run_has_no_losses(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    shutil.rmtree(copy / "tokens")
    chosen = select_pair([copy], 0.1, "window:3")
    assert (chosen.bad.loss, chosen.bad.shown_loss) == (None, "-")
