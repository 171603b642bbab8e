"""`cdgen generate --bad layers:N`: BAD is GOOD stopped after its first N layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]


def write(cdgen: Command, good: Path, bad: object, prompts: Path, out: Path, *more: object) -> Any:
    flags = ("--prompt-tokens", 4, "--max-new-tokens", 24, "--num-sequences", 4, "--seed", 5)
    models = ("--good", good, "--bad", bad, "--prompts", prompts, "--out", out)
    return cdgen("generate", *models, *flags, *more)


def data_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


@pytest.mark.parametrize("alpha", [0.1, 0.0])
def test_the_corpus_is_that_of_the_shorter_model(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path, alpha: float
) -> None:
    """BAD of this pair is GOOD's first 4 of 5 layers, saved as a model of its own."""
    for name, bad in (("folders", stories260k.bad), ("exit", "layers:4")):
        ended = write(cdgen, stories260k.good, bad, prompts, tmp_path / name, "--alpha", alpha)
        assert ended.code == 0, ended.err
    assert data_of(tmp_path / "exit") == data_of(tmp_path / "folders")
    plan = json.loads((tmp_path / "exit/manifest.json").read_bytes())["plan"]
    assert plan["bad"] == "layers:4"
    assert "| BAD | `layers:4` |" in (tmp_path / "exit/README.md").read_text()


def test_another_number_of_layers_is_another_corpus(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path
) -> None:
    for layers in (1, 4):
        assert (
            write(cdgen, stories260k.good, f"layers:{layers}", prompts, tmp_path / str(layers)).code
            == 0
        )
    assert data_of(tmp_path / "1") != data_of(tmp_path / "4")
    ended = write(cdgen, stories260k.good, "layers:3", prompts, tmp_path / "4")
    assert ended.code == 3
    assert "layers:4" in ended.err and "layers:3" in ended.err


@pytest.mark.parametrize("layers", [5, 6, 1000])
def test_as_many_layers_as_good_has_are_refused(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path, layers: int
) -> None:
    ended = write(cdgen, stories260k.good, f"layers:{layers}", prompts, tmp_path / "out")
    assert ended.code == 2
    assert f"--bad layers:{layers}: expected 1 to 4 of GOOD's 5 layers" in ended.err
    assert not (tmp_path / "out").exists()


def test_threads_and_interruptions_change_no_byte(
    cdgen: Command,
    stories260k: Any,
    prompts: Path,
    tmp_path: Path,
    set_threads: Callable[[int], None],
) -> None:
    out = tmp_path / "whole"
    assert write(cdgen, stories260k.good, "layers:2", prompts, out).code == 0
    set_threads(2)
    for shard in ("0/2", "1/2"):
        ended = write(
            cdgen, stories260k.good, "layers:2", prompts, tmp_path / "shards", "--shard", shard
        )
        assert ended.code == 0, ended.err
    assert cdgen("finalize", tmp_path / "shards").code == 0
    assert data_of(tmp_path / "shards") == data_of(out)
