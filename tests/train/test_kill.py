"""Killed at any moment, a run ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from toy_run import RECIPE, write_toy

from cdgen.train.loop import train_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.thorough
def test_a_run_killed_by_sigkill_ends_with_the_same_weights(tmp_path: Path) -> None:
    """On a CPU in float32, the weights are equal to the bit."""
    recipe, run = write_toy(tmp_path), tmp_path / "killed"
    changed = {"steps": 120, "checkpoint_every": 4, "micro_batch_blocks": 4}
    training = {**RECIPE["training"], **changed}
    recipe.write_text(yaml.safe_dump({**RECIPE, "bad_gap": None, "training": training}))
    train_recipe(recipe, tmp_path, tmp_path / "whole")
    paths = ["--config", str(recipe), "--data", str(tmp_path), "--out", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cdgen.train", *paths], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    step, later = 4 * random.randint(1, 20), random.uniform(0, 0.05)
    while not (run / f"checkpoints/checkpoint-{step}").exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not (run / "model").exists()
    train_recipe(recipe, tmp_path, run)
    weights = [out / "model/model.safetensors" for out in (tmp_path / "whole", run)]
    assert weights[0].read_bytes() == weights[1].read_bytes(), f"killed {later} s after step {step}"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
