"""The job script of the documentation, run by a shell as Slurm would run its tasks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "docs/slurm-array.sh"


def task(number: int, path: str, **variables: object) -> subprocess.Popen[str]:
    """Start one task of an array of two, with programs from the folders of `path`."""
    slurm = {
        "SLURM_ARRAY_JOB_ID": 7,
        "SLURM_ARRAY_TASK_ID": number,
        "SLURM_ARRAY_TASK_COUNT": 2,
        "OMP_NUM_THREADS": 1,
    }
    environment = {name: str(value) for name, value in (slurm | variables).items()}
    return subprocess.Popen(
        ["bash", str(SCRIPT)],
        env=os.environ | environment | {"PATH": f"{path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_two_tasks_write_the_corpus_of_one_process(
    cdgen: Any,
    tiny_pair: Any,
    prompts: Path,
    tmp_path: Path,
    published: Callable[[Path], dict[str, bytes]],
) -> None:
    """The script has no flags for sizes: `cdgen` is a program here that adds them."""
    sizes = "--max-new-tokens 8 --num-sequences 8 --prompt-tokens 4 --range-size 16"
    program = tmp_path / "cdgen"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cdgen "$@" {sizes}\n')
    program.chmod(0o755)
    variables = {"GOOD": tiny_pair.good, "BAD": tiny_pair.bad, "PROMPTS": prompts}
    out, whole = tmp_path / "out", tmp_path / "whole"
    for number in (1, 0):
        started = task(number, str(tmp_path), OUT=out, **variables)
        said = started.communicate()
        assert started.returncode == 0, said
        assert f"shard {number}/2 is done" in said[0]
    assert cdgen("finalize", out).code == 0
    models = ("--good", tiny_pair.good, "--bad", tiny_pair.bad, "--prompts", prompts)
    ended = cdgen("generate", *models, *sizes.split(), "--out", whole)
    assert ended.code == 0, ended
    assert published(out) == published(whole)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_task_that_is_stopped_queues_again(tmp_path: Path, number: signal.Signals) -> None:
    """`cdgen` is a program here that takes its time to stop; `scontrol` tells how it was called."""
    begun = tmp_path / "begun"
    programs = {
        "cdgen": f"trap 'sleep 0.3; exit 75' USR1\ntouch {begun}\nwhile :; do sleep 0.05; done",
        "scontrol": 'echo scontrol "$@"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    started = task(1, str(tmp_path), GOOD="g", BAD="b", PROMPTS="p", OUT="o")
    while not begun.exists():
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(number)
    out, err = started.communicate()
    assert (started.returncode, out, err) == (75, "scontrol requeue 7_1\n", "")
