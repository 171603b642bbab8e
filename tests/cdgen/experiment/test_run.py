"""`cdgen run` on an experiment of seconds: failures, signals, and going on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_experiment

from cdgen.experiment.layout import Layout
from cdgen.experiment.record import read_stages

Run = Callable[..., Any]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
_TRAINING = {**toy_experiment.BASE["training"], "steps": 40_000, "checkpoint_every": 20}
LONG: dict[str, Any] = {  # an experiment that a test has to stop
    "base": toy_experiment.base(training=_TRAINING),
    "good": "step:40000",
    "arms": {"vanilla": {"strategy": "vanilla"}},
}


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the command that runs the toy experiment in tmp_path/out, with changes of its
    recipe."""
    data = toy_experiment.write_text(tmp_path / "data")

    def make(*flags: str, **changes: Any) -> list[str]:
        recipe = str(toy_experiment.write_recipe(tmp_path, **changes))
        paths = ["--data", str(data), "--out", str(tmp_path / "out")]
        return [sys.executable, "-m", "cdgen", "run", recipe, *paths, *flags]

    return make


@pytest.fixture
def run(
    command: Callable[..., list[str]],
    cdgen: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run the toy experiment from this process, which has imported what it needs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *flags, **changes: cdgen(*command(*flags, **changes)[3:])


@pytest.mark.thorough
def test_a_stage_that_fails_stops_only_those_that_need_it(run: Run, tmp_path: Path) -> None:
    """No checkpoint is 50 nats worse than GOOD; with a gap that exists, the same folder goes on."""
    layout = Layout(tmp_path / "out")

    def experiment(*flags: str, gap: str) -> Any:
        arms = {"vanilla": {"strategy": "vanilla"}, "cd": {"strategy": "cd", "bad": gap}}
        return run("--jobs", "2", *flags, good="best", seeds=[1], arms=arms)

    failed = experiment(gap="gap:50")
    assert failed.code == 4
    assert "pair-gap-50: FAILED (exit code 4)" in failed.err
    last = failed.err.splitlines()[-1]
    assert "1 of 14 stages failed (pair-gap-50); 10 that need them were not begun" in last
    assert "is 50 nats/token above it, at most 0." in last and "lower gap:50 in the recipe" in last
    states = {name: stage.state for name, stage in read_stages(layout.out).items()}
    assert states == {
        "base": "done",
        "tasks": "done",
        "pair-gap-50": "failed",
        "eval-baseline-seed1": "done",
    }
    early = experiment("--only", "corpus-cd", gap="gap:0.0001")
    assert early.code == 2 and "pair-gap-0.0001: needed first" in early.err
    again = experiment("--only", "pair", gap="gap:0.0001")
    assert again.code == 0 and again.out.startswith("done; ")
    stages = read_stages(layout.out)
    assert stages["pair-gap-0.0001"].state == "done" and stages["base"].attempts == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)]
)
def test_a_signal_stops_the_stages_at_work(
    command: Callable[..., list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    layout = Layout(tmp_path / "out")
    process = subprocess.Popen(command(**LONG), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (layout.base / "checkpoints/checkpoint-40/complete.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 75
    assert "Run the same command again to resume" in said.splitlines()[-1]
    assert read_stages(layout.out)["base"].state == "stopped"
    # It has ended: its folder is free, and its log says that it was interrupted.
    assert "interrupted" in layout.log("base").read_text().splitlines()[-1]


@pytest.mark.thorough
def test_a_stage_does_not_outlive_a_run_that_was_killed(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("prctl is Linux's")
    layout = Layout(tmp_path / "out")
    process = subprocess.Popen(command(**LONG), env=ENVIRONMENT)
    while not (layout.base / "checkpoints/checkpoint-40/complete.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    stage = children_of(process.pid)
    assert len(stage) == 1
    process.kill()
    process.wait()
    for _ in range(500):
        if not Path(f"/proc/{stage[0]}").exists() or state_of(stage[0]) == "Z":
            return
        time.sleep(0.02)
    os.kill(stage[0], signal.SIGKILL)
    pytest.fail("the stage went on")


def children_of(parent: int) -> list[int]:
    return [
        int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ]


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_dry_run_prints_a_script_and_runs_nothing(run: Run, tmp_path: Path) -> None:
    stated = {"training": 1000, "generation": 500, "evaluation": 2000, "machine": "of a test"}
    printed = run("--dry-run", rates=stated).out
    lines = [line for line in printed.splitlines() if line and not line.startswith("#")]
    assert [line.split()[:2] for line in lines[:4]] == [
        ["cdgen", "train"],
        ["cdgen", "run"],
        ["cdgen", "generate"],
        ["cdgen", "generate"],
    ]
    # 12 steps of 4 blocks of 16 tokens at 1,000 tokens/s, and 10 s to begin.
    assert "# base: 768 tokens, about 0:11" in printed
    # 12 of 64 documents or so are prompts, for 2 sequences of 16 tokens each.
    assert "(of a test)" in printed and "# left: about" in printed
    layout = Layout(tmp_path / "out")
    assert not layout.base.exists() and not layout.stages.exists()


@pytest.mark.thorough
def test_the_first_command_of_a_dry_run_works_as_it_is_printed(
    run: Run, cdgen: Callable[..., Any]
) -> None:
    first = next(line for line in run("--dry-run").out.splitlines() if line.startswith("cdgen"))
    assert cdgen(*first.split()[1:]).code == 0
    assert "# base: 768 tokens, done" in run("--dry-run").out
