"""recipes/smoke.yaml on the real text it names: the loss falls, a killed run ends the same."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/smoke.yaml"
# 75 to 95 s for each run on one core that is free; the tests of train/ cover its parts in seconds.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.thorough]


def start(data: Path, out: Path) -> subprocess.Popen[bytes]:
    paths = ["--config", str(RECIPE), "--data", str(data), "--out", str(out)]
    # One thread: the other core has tests of its own, and sums keep one order.
    return subprocess.Popen(
        [sys.executable, "-m", "cdgen.train", *paths],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def whole(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke") / "whole"
    assert start(data_folder, out).wait() == 0
    return out


def test_the_loss_falls(whole: Path) -> None:
    entries = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    held_out = [entry["validation"]["all"] for entry in entries if "validation" in entry]
    # The first is a mean over seven steps of warm-up, close to that of guessing; 5.15 to 5.19 and
    # 4.98 at the end, when this was written.
    assert losses[0] == pytest.approx(math.log(2048), abs=0.3)
    assert np.mean(losses[-5:]) < 5.4
    assert len(held_out) == 4 and held_out == sorted(held_out, reverse=True)
    assert held_out[-1] < 5.2


def test_a_checkpoint_reloads_in_plain_transformers(whole: Path) -> None:
    """Its losses on the held-out blocks equal those that training recorded."""
    folder = whole / "checkpoints/checkpoint-300"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size == 2048
    entries = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    noted = next(e["validation"] for e in entries if e["step"] == 300 and "validation" in e)
    (facts,) = whole.glob("tokens/*/facts.json")
    file, _ = json.loads(facts.read_text())["sha256"]["tinystories"]
    blocks = torch.from_numpy(np.load(facts.with_name(file)).astype(np.int64))
    assert (blocks[:-1] >= 0).all()  # so only the last one is not a plain row of tokens
    with torch.inference_mode():
        losses = [model(input_ids=b, labels=b).loss.item() for b in blocks[:-1].split(1)]
        last = blocks[-1:][blocks[-1:] >= 0][None]
        losses.append(model(input_ids=last, labels=last).loss.item())
    weights = [127.0] * (len(blocks) - 1) + [float(last.shape[1] - 1)]
    assert np.average(losses, weights=weights) == pytest.approx(noted["tinystories"], rel=1e-6)


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    whole: Path, data_folder: Path, tmp_path: Path
) -> None:
    out, process = tmp_path / "killed", start(data_folder, tmp_path / "killed")
    while not (out / "checkpoints/checkpoint-75/complete.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(random.uniform(0, 5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(data_folder, out).wait() == 0
    for name in ("checkpoints/checkpoint-300", "pair/good", "pair/bad"):
        weights = [run / name / "model.safetensors" for run in (whole, out)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), name
