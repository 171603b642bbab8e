"""Two processes under torchrun take the steps of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_run import RECIPE, write_toy

from cdgen.errors import UsageError
from cdgen.train.config import Training
from cdgen.train.loop import train_recipe
from cdgen.train.trainer import gradient_accumulation_steps

pytestmark = pytest.mark.usefixtures("one_thread")
# The command for each run folder in turn: to start Python, twice, takes longer than both runs.
COMMANDS = """
import sys
from cdgen.train.__main__ import main
recipe, data, *runs = sys.argv[1:]
for run in runs:
    sys.argv[1:] = ["--config", recipe, "--data", data, "--out", run]
    main()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three runs: by one process, by two, and with the second half resumed by two."""
    folder = tmp_path_factory.mktemp("runs")
    recipe, script = write_toy(folder), folder / "script.py"
    changed = {"steps": 8, "checkpoint_every": 4, "micro_batch_blocks": 1}
    training = {**RECIPE["training"], **changed}
    recipe.write_text(yaml.safe_dump({**RECIPE, "bad_gap": None, "training": training}))
    train_recipe(recipe, folder, folder / "one")
    shutil.copytree(folder / "one", folder / "resumed")
    shutil.rmtree(folder / "resumed/model")
    shutil.rmtree(folder / "resumed/checkpoints/checkpoint-8")
    script.write_text(COMMANDS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    paths = [str(path) for path in (script, recipe, folder, folder / "two", folder / "resumed")]
    subprocess.run(
        [*torchrun, "--nproc_per_node", "2", *paths],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["two", "resumed"])
def test_two_processes_take_the_steps_of_one(runs: Path, name: str) -> None:
    one, two = (
        load_file(runs / run / "checkpoints/checkpoint-8/model.safetensors")
        for run in ("one", name)
    )
    for key in one:  # gradients are averaged in another order, and Adam divides by small ones
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-4)
    assert _losses(runs / name) == pytest.approx(_losses(runs / "one"), rel=1e-4)
    assert (runs / name / "model/tokenizer.json").is_file()


def _losses(run: Path) -> dict[int, float]:
    """Return the losses of every step; only one process writes them, so each occurs once."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == list(range(1, 9))
    return dict(losses)


def test_a_step_that_the_processes_cannot_share_is_refused() -> None:
    training = Training.model_validate({**RECIPE["training"], "batch_blocks": 12})
    assert [gradient_accumulation_steps(training, n) for n in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UsageError, match="2 x 4, got 12"):
        gradient_accumulation_steps(training, 4)
