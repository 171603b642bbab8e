"""Checkpoints that may become GOOD or BAD, and notes on those that may not."""

from __future__ import annotations

import json
import shutil

import pytest
from pair_runs import BASE, OTHER_TOKENIZER, WriteRun

from cdgen.train.checkpoints import MARKER
from cdgen.train.pair.selection import select_pair

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_unusable_checkpoints_are_noted(write_run: WriteRun) -> None:
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
def test_a_damaged_marker_is_noted(write_run: WriteRun, marker: str) -> None:
    run = write_run("base", {**BASE, 6: 2.0})
    (run / "checkpoints/checkpoint-6" / MARKER).write_text(marker)
    chosen = select_pair([run], 0.5)
    assert chosen.good.step == 4
    assert "checkpoint-6/complete.json" in chosen.notes[0]


def test_a_damaged_mixture_is_noted(write_run: WriteRun) -> None:
    run = write_run("base", BASE)
    for content in ("", "[]", '{"steps": []}', '{"steps": "x"}'):
        (run / "mixture.json").write_text(content)
        (note,) = select_pair([run], 0.5).notes
        assert note == f"{run}: mixture.json is damaged, so whether it is finished is not known"


def test_a_word_milestone_and_a_checkpoint_of_its_step_count_once(
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
    assert (chosen.bad.model.name, chosen.bad.loss) == ("chck_1M", 3.9)
