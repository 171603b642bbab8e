"""GOOD and BAD among finished runs: `cdgen train --select-pair`, and its pair file in use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_loop import RECIPE
from transformers import GPT2Config, LlamaConfig

from cdgen.checkpoints.pair_file import read_pair_file
from cdgen.errors import ModelError, UsageError
from cdgen.train.checkpoints import MARKER
from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import for_transformers, train_tokenizer
from cdgen.train.pair import Exported, checkpoint_losses, model_card
from cdgen.train.selection import DROPOUT, select_pair, write_pair_file

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
WriteRun = Callable[..., Path]
BASE = {1: 5.0, 2: 4.0, 3: 3.6, 4: 3.0, 5: 3.9}
TOKENIZER = train_tokenizer(["once upon a time there was a fox"], 300)
OTHER_TOKENIZER = train_tokenizer(["a very different text about nothing"], 300)


def llama_config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )


def gpt2_config(layers: int) -> GPT2Config:
    """Return a config that no lean decoder covers."""
    return GPT2Config(
        vocab_size=300,
        n_embd=8,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        scale_attn_by_inverse_layer_idx=True,
    )


@pytest.fixture
def write_run(tmp_path: Path, save_random: Callable[..., Path]) -> WriteRun:
    """Write a finished run with a checkpoint for every loss, of 1 or more layers."""

    def write(
        name: str,
        losses: dict[int, float],
        layers: int = 2,
        tokenizer: Any = TOKENIZER,
        gpt2: bool = False,
    ) -> Path:
        run = tmp_path / "runs" / name
        for step in losses:
            folder = run / "checkpoints" / f"checkpoint-{step}"
            config = (gpt2_config if gpt2 else llama_config)(layers)
            save_random(config, folder, seed=step)
            for_transformers(tokenizer, 64).save_pretrained(folder)
            (folder / MARKER).write_text(json.dumps({"step": step}))
        lines = [json.dumps({"step": s, "validation": {"all": v}}) for s, v in losses.items()]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (run / "mixture.json").write_text(json.dumps({"steps": max(losses)}))
        return run

    return write


def steps(candidates: Any) -> list[tuple[str, int]]:
    return [(candidate.run.name, candidate.step) for candidate in candidates]


# ---- who is chosen -----------------------------------------------------------------------------


def test_good_has_the_least_loss_and_bad_is_the_last_step_far_enough_behind(
    write_run: WriteRun,
) -> None:
    run = write_run("base", BASE)
    for gap, bad in [(0.5, 3), (0.6, 3), (0.61, 2), (1.0, 2), (1.5, 1)]:
        chosen = select_pair([run], gap)
        assert (chosen.good.step, chosen.good.loss, chosen.bad.step) == (4, 3.0, bad)
        # Step 5 comes after GOOD; it is no BAD, however high its loss.
        assert steps(chosen.early) == [("base", s) for s in (1, 2, 3) if s != bad]
    assert chosen.notes == ()


def test_smaller_runs_are_bads_and_runs_of_equal_size_only_rivals(write_run: WriteRun) -> None:
    base = write_run("base", BASE)
    seed = write_run("seed", {1: 4.8, 2: 3.2})
    small = write_run("small", {2: 4.5, 4: 3.5}, layers=1)
    chosen = select_pair([seed, small, base], 0.5)
    assert (chosen.good.run, chosen.good.step) == (base, 4)
    assert steps(chosen.small) == [("small", 2), ("small", 4)]
    assert chosen.small[0].parameters < chosen.good.parameters == chosen.bad.parameters
    # Where a small run is best, larger ones are no BAD of it.
    best = write_run("best", {1: 4.0, 2: 1.0}, layers=1)
    chosen = select_pair([base, best], 0.5)
    assert (chosen.good.run, steps(chosen.small)) == (best, [])


def test_parameters_are_counted(write_run: WriteRun) -> None:
    """Embedding and head have 300 x 8, the final norm 8; a layer has four 8 x 8, three of
    feed-forward, and two norms."""
    chosen = select_pair([write_run("base", BASE)], 0.5)
    assert chosen.good.parameters == 2 * 300 * 8 + 8 + 2 * (7 * 8 * 8 + 2 * 8)


def test_a_run_of_another_tokenizer_is_noted_and_left_out(write_run: WriteRun) -> None:
    base = write_run("base", BASE)
    other = write_run("other", {1: 2.0, 2: 1.0}, tokenizer=OTHER_TOKENIZER)
    chosen = select_pair([base, other], 0.5)
    assert chosen.good.run == base
    assert chosen.notes == (f"{other}: another tokenizer than {base}, so no pair with it",)
    assert select_pair([other, base], 0.5).good.run == other


def test_runs_on_other_splits_of_the_text_are_noted(write_run: WriteRun) -> None:
    base, seed = write_run("base", BASE), write_run("seed", {1: 4.9})
    for run, number in ((base, 1), (seed, 2)):
        (run / "recipe.json").write_text(json.dumps({"seed": number, "sources": []}))
    (note,) = select_pair([base, seed], 0.5).notes
    assert note == f"{seed}: other text held out than by {base}: losses compare roughly"
    (seed / "recipe.json").write_text(json.dumps({"seed": 2, "split_seed": 1, "sources": []}))
    assert select_pair([base, seed], 0.5).notes == ()


def test_checkpoints_that_are_of_no_use_are_noted(write_run: WriteRun) -> None:
    """Every one of them has a smaller loss than GOOD, or none."""
    run = write_run("base", {**BASE, 6: 2.0, 7: 1.9, 8: 1.8, 9: float("nan")})
    checkpoints = run / "checkpoints"
    (checkpoints / "checkpoint-6" / MARKER).unlink()
    (checkpoints / "checkpoint-7" / "tokenizer.json").unlink()
    weights = checkpoints / "checkpoint-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (run / "mixture.json").write_text(json.dumps({"steps": 10}))
    chosen = select_pair([run], 0.5)
    assert chosen.good.step == 4
    for note, says in zip(
        chosen.notes,
        ["cut short", "no tokenizer.json", "shorter than promised", "no finite", "at step 5 of 10"],
        strict=True,
    ):
        assert says in note


@pytest.mark.parametrize(
    "marker",
    [
        "[]",
        "{}",
        '{"step": "x"}',
        '{"step": []}',
        '{"step": 1e999}',
        '{"step": 6, "validation": 3}',
        '{"step": 6, "validation": {"all": "x"}}',
        '{"step": 6, "validation": {"all": null}}',
    ],
)
def test_a_marker_that_was_damaged_is_noted(write_run: WriteRun, marker: str) -> None:
    run = write_run("base", {**BASE, 6: 2.0})
    (run / "checkpoints/checkpoint-6" / MARKER).write_text(marker)
    chosen = select_pair([run], 0.5)
    assert chosen.good.step == 4
    assert "checkpoint-6/complete.json" in chosen.notes[0]


def test_a_mixture_that_was_damaged_is_noted(write_run: WriteRun) -> None:
    run = write_run("base", BASE)
    for content in ("", "[]", '{"steps": []}', '{"steps": "x"}'):
        (run / "mixture.json").write_text(content)
        (note,) = select_pair([run], 0.5).notes
        assert note == f"{run}: mixture.json is damaged, so whether it is finished is not known"


def test_milestones_of_words_count_once_with_a_checkpoint_of_their_step(
    write_run: WriteRun,
) -> None:
    run = write_run("base", BASE)
    checkpoints = run / "checkpoints"
    for milestone, step, loss in (("chck_1M", 3, 3.9), ("chck_2M", 4, 3.0)):
        folder = shutil.copytree(checkpoints / f"checkpoint-{step}", checkpoints / milestone)
        marker = {"step": step, "words": 1, "validation": {"all": loss}}
        (folder / MARKER).write_text(json.dumps(marker))
    shutil.rmtree(checkpoints / "checkpoint-3")
    chosen = select_pair([run], 0.9)
    assert chosen.good.folder.name == "checkpoint-4"
    assert (chosen.bad.folder.name, chosen.bad.loss) == ("chck_1M", 3.9)


def test_a_line_of_metrics_cut_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "validation": {"all": 3}}\n{"step": 2, "valid\n[]\n{"step": 3}\n'
        '{"step": 1, "validation": {"all": 2.5}}\n{"step": 1e999, "validation": {"all": 3}}\n'
        '{"step": 4, "validation": {"all": NaN}}\n{"step": 5, "validation": []}\n3\n'
    )
    assert checkpoint_losses(path) == {1: 2.5}


# ---- refusals ----------------------------------------------------------------------------------


def test_no_step_far_enough_behind_says_how_far_they_are(write_run: WriteRun) -> None:
    run = write_run("base", BASE)
    with pytest.raises(ModelError, match=r"is 2\.5 nats/token above it, at most 2\.0000: lower"):
        select_pair([run], 2.5)
    with pytest.raises(ModelError, match="above it: lower --gap"):
        select_pair([write_run("rising", {1: 1.0, 2: 2.0})], 0.5)


def test_what_is_no_run(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("base", BASE)
    with pytest.raises(UsageError, match=r"found no metrics\.jsonl"):
        select_pair([run, tmp_path], 0.5)
    with pytest.raises(UsageError, match="more than once"):
        select_pair([run, run.parent / "." / "base"], 0.5)
    for gap in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--gap: expected"):
            select_pair([run], gap)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ModelError, match="has no usable checkpoint"):
        select_pair([run], 0.5)


# ---- the file ----------------------------------------------------------------------------------


def test_the_file_names_both_and_the_alternatives(write_run: WriteRun, tmp_path: Path) -> None:
    runs = [write_run("base", BASE), write_run("small", {2: 4.5}, layers=1)]
    chosen = select_pair(runs, 0.5)
    out = tmp_path / "pairs" / "pair.yaml"
    write_pair_file(chosen, out)
    good, size = chosen.good.parameters, chosen.small[0].parameters
    base = "../runs/base/checkpoints/checkpoint-"
    assert yaml.safe_load(out.read_text()) == {
        "good": f"{base}4",
        "bad": f"{base}3",
        "alternatives": [
            {"bad": f"{base}1", "kind": "early", "step": 1, "parameters": good, "loss": 5.0},
            {"bad": f"{base}2", "kind": "early", "step": 2, "parameters": good, "loss": 4.0},
            {
                "bad": "../runs/small/checkpoints/checkpoint-2",
                "kind": "small",
                "step": 2,
                "parameters": size,
                "loss": 4.5,
            },
            {"bad": DROPOUT, "kind": "dropout", "step": 4, "parameters": good, "loss": None},
        ],
    }
    text = out.read_text()
    assert f"# GOOD, the least loss: step 4, {good:,} parameters, loss 3.0000" in text
    assert "# BAD, the last step at least 0.5 above it: step 3, loss 3.6000" in text
    before = text
    write_pair_file(chosen, out)
    assert out.read_text() == before
    assert read_pair_file(out).alternatives[-1].kind == "dropout"


def test_dropout_is_offered_only_where_generate_takes_it(write_run: WriteRun) -> None:
    chosen = select_pair([write_run("base", BASE, gpt2=True)], 0.5)
    assert not chosen.dropout
    assert DROPOUT not in chosen.table()


def test_another_file_is_not_written_over(write_run: WriteRun, tmp_path: Path) -> None:
    chosen = select_pair([write_run("base", BASE)], 0.5)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: demo\n")
    with pytest.raises(UsageError, match="expected a pair file"):
        write_pair_file(chosen, recipe)
    assert recipe.read_text() == "name: demo\n"
    with pytest.raises(UsageError, match="is a folder"):
        write_pair_file(chosen, tmp_path)


def test_the_card_says_what_the_recipe_says() -> None:
    other = {"model": "configs/gpt2.json", "tokenizer": "sentencepiece"}
    training = {**RECIPE["training"], "optimizer": "muon", "max_grad_norm": 0}
    recipe = Recipe.model_validate({**RECIPE, **other, "training": training})
    exported = Exported(9, 1234, {"toys": 2.0, "all": 2.0})
    card = model_card(recipe, exported, exported)
    for says in (
        "pair of small models",
        "- `configs/gpt2.json`, 1,234 parameters",
        "SentencePiece-style",
        "- Muon, learning rate",
        "gradients as is,",
        "| endoftext | no | 1 | 20 % | 0 % |",
    ):
        assert says in card
    assert "- Llama, 1,234 parameters, tied" in model_card(
        Recipe.model_validate(RECIPE), exported, exported
    )


# ---- the command -------------------------------------------------------------------------------


def test_the_command_and_what_it_wrote_in_use(
    cdgen: Command, write_run: WriteRun, tmp_path: Path
) -> None:
    base, small = write_run("base", BASE), write_run("small", {2: 4.5}, layers=1)
    out = tmp_path / "pair.yaml"
    ended = cdgen("train", "--select-pair", base, small, "--gap", 0.7, "--out", out)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    kinds = ["GOOD", "BAD", "early", "early", "small", "dropout"]
    assert [line[0] for line in lines[1:-1]] == kinds
    assert lines[2][1] == "2" and lines[2][3:] == ["4.0000", str(base / "checkpoints/checkpoint-2")]
    assert lines[-1][-2:] == ["--pair", str(out)]
    (tmp_path / "prompts.txt").write_text("once upon a time\n")
    flags = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "corpus")
    planned = cdgen(
        "generate", "--pair", out, *flags, "--max-new-tokens", 8, "--prompt-tokens", 4, "--dry-run"
    )
    assert planned.code == 0, planned.err
    assert len(json.loads(planned.out)["bad"]) == 64


def test_flags_that_do_not_go_together(cdgen: Command, tmp_path: Path) -> None:
    run, out = tmp_path / "run", ("--out", tmp_path / "out.yaml")
    for arguments, says in [
        (("--select-pair", run, "--config", "r.yaml"), "--config does not go with --select-pair"),
        (("--select-pair", run, "--data", "d"), "--data does not go with --select-pair"),
        (("--select-pair", run, "--budget", run), "--budget does not go with --select-pair"),
        (("--budget", run, "--gap", 0.5), "--gap does not go with --budget"),
        (("--budget", run), "--pair is missing"),
        ((run,), "RUN does not go with --config, only with --select-pair"),
        (("--gap", 0.5), "--gap does not go with --config, only with --select-pair"),
        ((), "--config is missing"),
        (("--config", "r.yaml"), "--data is missing"),
        (("--select-pair", run), "found no metrics.jsonl"),
    ]:
        ended = cdgen("train", *arguments, *out)
        assert (ended.code, ended.out) == (2, "")
        assert says in ended.err
    assert list(tmp_path.iterdir()) == []
