"""`cdgen train --select-pair`: GOOD and BAD among finished runs, and the pair file in use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pair_runs import BASE, WriteRun

from cdgen.checkpoints.pair_file import read_pair_file
from cdgen.errors import ModelError, UsageError
from cdgen.train.pair.selection import Selection, select_pair, write_pair_file

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]


def steps(chosen: Selection, kind: str) -> list[tuple[str, int]]:
    """Return the run and step of the checkpoints of one kind."""
    return [(row.model.parts[-3], row.step) for row in chosen.others if row.kind == kind]


# ---- who is chosen -----------------------------------------------------------------------------


def test_good_has_the_least_loss_and_bad_is_the_last_step_far_enough_behind(
    write_run: WriteRun,
) -> None:
    run = write_run("base", BASE)
    for gap, bad in [(0.5, 3), (0.6, 3), (0.61, 2), (1.0, 2), (1.5, 1)]:
        chosen = select_pair([run], gap)
        assert (chosen.good.step, chosen.good.loss, chosen.bad.step) == (4, 3.0, bad)
        # Step 5 comes after GOOD; it is no BAD, however high its loss.
        assert steps(chosen, "early") == [("base", s) for s in (1, 2, 3) if s != bad]
    assert chosen.notes == ()


def test_smaller_runs_are_bads_and_runs_of_equal_size_only_rivals(write_run: WriteRun) -> None:
    base = write_run("base", BASE)
    seed = write_run("seed", {1: 4.8, 2: 3.2})
    small = write_run("small", {2: 4.5, 4: 3.5}, layers=1)
    chosen = select_pair([seed, small, base], 0.5)
    assert (chosen.good.run, chosen.good.step) == (base, 4)
    assert steps(chosen, "small") == [("small", 2), ("small", 4)]
    smallest = next(row for row in chosen.others if row.kind == "small")
    assert smallest.parameters < chosen.good.parameters == chosen.bad.parameters
    # Where a small run is best, larger ones are no BAD of it.
    best = write_run("best", {1: 4.0, 2: 1.0}, layers=1)
    chosen = select_pair([base, best], 0.5)
    assert (chosen.good.run, steps(chosen, "small")) == (best, [])


# ---- refusals ----------------------------------------------------------------------------------


def test_no_step_far_enough_behind_says_how_far_they_are(write_run: WriteRun) -> None:
    run = write_run("base", BASE)
    with pytest.raises(ModelError, match=r"is 2\.5 nats/token above it, at most 2\.0000: lower"):
        select_pair([run], 2.5)
    with pytest.raises(ModelError, match="above it: lower --gap"):
        select_pair([write_run("rising", {1: 1.0, 2: 2.0})], 0.5)


def test_folders_without_a_run_and_gaps_that_are_not_positive_are_refused(
    write_run: WriteRun, tmp_path: Path
) -> None:
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
    good, size = chosen.good.parameters, chosen.others[2].parameters
    of_good = {"step": 4, "parameters": good, "loss": None}  # no held-out text is kept
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
            {"bad": "layers:1", "kind": "layers", **of_good},
            *({"bad": f"window:{n}", "kind": "window", **of_good} for n in (1, 4, 16)),
            {"bad": "dropout:0.5", "kind": "dropout", **of_good},
        ],
    }
    text = out.read_text()
    assert f"# GOOD, the least loss: step 4, {good:,} parameters, loss 3.0000" in text
    assert "# BAD, the last step at least 0.5 above it: step 3, loss 3.6000" in text
    before = text
    write_pair_file(chosen, out)
    assert out.read_text() == before
    assert read_pair_file(out).alternatives[-1].kind == "dropout"


def test_a_bad_of_good_is_offered_only_where_generate_takes_it(write_run: WriteRun) -> None:
    run = write_run("base", BASE, gpt2=True)
    assert ":" not in select_pair([run], 0.5).table().replace(str(run), "")
    with pytest.raises(UsageError, match="window:4 needs a GOOD that the lean decoders cover"):
        select_pair([run], 0.5, "window:4")


def test_another_file_is_not_overwritten(write_run: WriteRun, tmp_path: Path) -> None:
    chosen = select_pair([write_run("base", BASE)], 0.5)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: demo\n")
    with pytest.raises(UsageError, match="expected a pair file"):
        write_pair_file(chosen, recipe)
    assert recipe.read_text() == "name: demo\n"
    with pytest.raises(UsageError, match="is a folder"):
        write_pair_file(chosen, tmp_path)


# ---- the command -------------------------------------------------------------------------------


def test_generate_takes_the_pair_file_that_the_command_wrote(
    cdgen: Command, write_run: WriteRun, tmp_path: Path
) -> None:
    base, small = write_run("base", BASE), write_run("small", {2: 4.5}, layers=1)
    out = tmp_path / "pair.yaml"
    ended = cdgen("train", "--select-pair", base, small, "--gap", 0.7, "--out", out)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    kinds = ["GOOD", "BAD", "early", "early", "small", "layers", *["window"] * 3, "dropout"]
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


def test_flags_that_do_not_go_together_are_refused(cdgen: Command, tmp_path: Path) -> None:
    run, out = tmp_path / "run", ("--out", tmp_path / "out.yaml")
    for arguments, says in [
        (("--select-pair", run, "--config", "r.yaml"), "--config does not go with --select-pair"),
        (("--select-pair", run, "--data", "d"), "--data does not go with --select-pair"),
        (("--select-pair", run, "--budget", run), "--budget does not go with --select-pair"),
        (("--budget", run, "--gap", 0.5), "--gap does not go with --budget"),
        (("--budget", run), "--pair is missing"),
        ((run,), "RUN does not go with --config, only with --select-pair"),
        (("--bad", "layers:1"), "--bad does not go with --config, only with --select-pair"),
        (("--gap", 0.5), "--gap does not go with --config, only with --select-pair"),
        ((), "--config is missing"),
        (("--config", "r.yaml"), "--data is missing"),
        (("--select-pair", run), "found no metrics.jsonl"),
    ]:
        ended = cdgen("train", *arguments, *out)
        assert (ended.code, ended.out) == (2, "")
        assert says in ended.err
    assert list(tmp_path.iterdir()) == []
