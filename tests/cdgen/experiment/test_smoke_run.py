"""recipes/smoke-run.yaml on the real text it names: every stage, killed once and resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cdgen.experiment.layout import Layout, students_of
from cdgen.experiment.record import read_experiment, read_stages

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes/smoke-run.yaml"
# About two minutes for each run on two cores that are free; the tests beside it cover the parts.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.thorough]


def start(data: Path, out: Path) -> subprocess.Popen[bytes]:
    command = ["run", str(RECIPE), "--data", str(data), "--out", str(out), "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "cdgen", *command],
        # One thread in every stage: the sums of training keep one order.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def whole(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke-run") / "whole"
    assert start(data_folder, out).wait() == 0
    return out


def test_every_stage_leaves_what_the_next_needs(whole: Path) -> None:
    recipe, layout = read_experiment(whole).recipe, Layout(whole)
    assert all(stage.state == "done" for stage in read_stages(whole).values())
    methods = json.loads((layout.compare / "compare.json").read_bytes())["methods"]
    assert methods == {"baseline": 2, "vanilla@0.3": 2, "cd@0.3": 2}
    for student in students_of(recipe):
        assert {*scores(layout, whole)[student.name]} >= {*recipe.evaluation.tasks}
    for arm in recipe.arms:
        measured = json.loads(layout.measure(arm).read_bytes())
        assert measured["documents"] > 200 and measured["novelty"] and measured["judge"]
    assert "<html" in (whole / "report.html").read_text()
    lines = (whole / "report.md").read_text().splitlines()
    for student in ("baseline-seed1", "vanilla-0.3-seed1", "cd-0.3-seed1"):
        (budget,) = [line for line in lines if line.startswith(f"| {student} |")]
        assert budget.count("| holds ") == 2, "the words of the pair are counted"


def scores(layout: Layout, out: Path) -> dict[str, Any]:
    """Return the scores of every student."""
    return {
        student.name: json.loads((layout.scores(student) / "results.json").read_bytes())["results"]
        for student in students_of(read_experiment(out).recipe)
    }


def test_a_run_killed_and_resumed_ends_with_the_same_corpora_and_scores(
    whole: Path, data_folder: Path, tmp_path: Path
) -> None:
    out, seconds = tmp_path / "killed", sum(s.seconds for s in read_stages(whole).values())
    process = start(data_folder, out)
    time.sleep(random.uniform(0.05, 0.45) * seconds)  # the stages ran two at a time
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(data_folder, out).wait() == 0
    for arm in read_experiment(whole).recipe.arms:
        files = [sorted(Layout(o).corpus(arm).glob("data/*")) for o in (whole, out)]
        assert files[0] and [f.name for f in files[0]] == [f.name for f in files[1]]
        assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    assert scores(Layout(out), out) == scores(Layout(whole), whole)
    before = read_stages(out)
    assert start(data_folder, out).wait() == 0
    assert read_stages(out) == before  # nothing was left to do
