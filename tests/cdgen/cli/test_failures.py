"""What a user reads when something fails that nobody foresaw: what it is, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdgen.corpus.status import status
from cdgen.models.decoder import Decoder

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
RANGES = ("--range-size", 64)


@pytest.fixture
def failing_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let a forward pass of the second range do something first."""

    def plan(fails: Callable[[], object]) -> None:
        through, calls = Decoder.forward, [0]

        def forward(self: Decoder, *arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == 60:  # of two models; a range takes up to 24 steps
                fails()
            return through(self, *arguments)

        monkeypatch.setattr(Decoder, "forward", forward)

    return plan


def too_much_for_torch() -> object:
    return torch.empty(1 << 60, dtype=torch.uint8)


def too_much_for_numpy() -> object:
    return np.empty(1 << 60, dtype=np.uint8)


@pytest.mark.parametrize("fails", [too_much_for_torch, too_much_for_numpy], ids=["torch", "numpy"])
def test_no_memory_in_a_forward_pass(
    generate_200: Command,
    tmp_path: Path,
    failing_forward: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[], object],
) -> None:
    """The allocator itself fails here; a tebibyte of tebibytes is too much for any machine."""
    failing_forward(fails)
    ended = generate_200(tmp_path / "out", *RANGES)
    assert ended.code == 75
    (line,) = ended.err.splitlines()
    assert line.startswith("cdgen: out of memory: ") and "llocat" in line
    assert "committed ranges are kept" in line and "fewer --slots" in line
    assert 0 < status(tmp_path / "out").ranges_done < 4
    monkeypatch.undo()
    assert generate_200(tmp_path / "out", *RANGES).code == 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
        MemoryError("std::bad_alloc"),
    ],
    ids=["torch", "native"],
)
def test_no_memory_while_models_are_loaded(
    generate_200: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("cdgen.generation.build_engine.load_tensors", fails)
    ended = generate_200(tmp_path / "out", "--slots", 16)
    assert ended.code == 4
    (line,) = ended.err.splitlines()
    assert "16 slots do not fit into the device's memory" in line and "give fewer --slots" in line
    assert not (tmp_path / "out").exists()


def test_no_memory_anywhere_else(
    cdgen: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(out: Path) -> None:
        too_much_for_numpy()

    monkeypatch.setattr("cdgen.corpus.verify.find_problems", fails)
    ended = cdgen("verify", tmp_path)
    assert ended.code == 75
    first, second = ended.err.splitlines()
    assert first.startswith("cdgen: out of memory: ")
    assert "End other programs" in second and "run the same command again" in second


def test_an_unforeseen_error_in_a_forward_pass(
    generate_200: Command, tmp_path: Path, failing_forward: Callable[..., None]
) -> None:
    def fails() -> None:
        raise RuntimeError("mat1 and mat2 shapes\ncannot be multiplied")

    failing_forward(fails)
    ended = generate_200(tmp_path / "out", *RANGES)
    assert ended.code == 1
    first, second = ended.err.splitlines()
    expected = "cdgen: unexpected RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert first == expected
    assert "Please report it" in second and "cdgen --debug" in second and "doctor" in second


def test_its_traceback_is_for_debug(
    cdgen: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(out: Path) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("cdgen.corpus.verify.find_problems", fails)
    assert "Traceback" not in cdgen("verify", tmp_path).err
    assert "Traceback" in cdgen("--debug", "verify", tmp_path).err


def test_nan_in_one_forward_pass(
    generate_200: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flips in memory: the rows that it reaches are lost, and it is told what to do."""
    through, calls = Decoder.logits, [0]

    def logits(self: Decoder, *arguments: Any) -> Any:
        out = through(self, *arguments)
        calls[0] += 1
        if calls[0] == 3:  # most of these rows, whose prompts have two tokens, are alive
            out[4:12, 3] = torch.nan
        return out

    monkeypatch.setattr(Decoder, "logits", logits)
    ended = generate_200(tmp_path / "out", *RANGES)
    assert ended.code == 6
    (line,) = ended.err.splitlines()
    assert re.match(r"cdgen: [1-8] of 200 sequences could not be sampled \(NaN or infinite", line)
    assert "finish_reason=quarantined" in line and "check the checkpoints" in line
    assert "raise --max-quarantined" in line


def test_the_demo_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cdgen.cli import app, demo

    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    assert app.run(lambda: demo.main(tmp_path / "out")) == 2
    expected = f"cdgen: {tmp_path}/demo-pair is missing: run the demo from a checkout of cdgen\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize("given", ["--config", "--data"])
def test_training_without_text_or_without_a_recipe(
    cdgen: Command, tmp_path: Path, given: str
) -> None:
    (missing,) = {"--config", "--data"} - {given}
    ended = cdgen("train", given, tmp_path, "--out", tmp_path / "out")
    assert ended.code == 2
    assert f"{missing} is missing: give it, or choose a pair with --select-pair" in ended.err
