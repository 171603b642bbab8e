"""GLUE as a task of `cdgen eval` has parts, their mean, and predictions for collation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_parts_that_have_both_files(
    cdgen: Callable[..., Any],
    llama: Path,
    tmp_path: Path,
    write_jsonl: Callable[[Path, list[dict[str, Any]]], None],
) -> None:
    data, out = tmp_path / "data/glue_filtered", tmp_path / "out"
    pairs = [
        {"sentence1": f"It ran {i}.", "sentence2": "It ran.", "label": i % 2} for i in range(8)
    ]
    for part, size in (("rte", 6), ("mrpc", 3)):
        write_jsonl(data / f"{part}.train.jsonl", pairs)
        write_jsonl(data / f"{part}.valid.jsonl", pairs[:size])
    write_jsonl(data / "qqp.valid.jsonl", pairs)  # without a file to train on
    flags = ("--model", llama, "--data", data.parent, "--out", out)
    assert cdgen("eval", *flags).code == 2  # fine-tuning must be asked for
    ended = cdgen("eval", *flags, "--tasks", "glue_filtered")
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in (out / "predictions/glue_filtered.jsonl").open()]
    assert {row["uid"] for row in rows} == {"rte", "mrpc"}
    right = {
        part: np.mean([row["choice"] == row["label"] for row in rows if row["uid"] == part])
        for part in ("rte", "mrpc")
    }
    found = json.loads((out / "results.json").read_text())["results"]
    assert found["glue_filtered"]["acc,none"] == pytest.approx(np.mean(list(right.values())))
    assert "mrpc_f1,none" in found["glue_filtered"]
    for part, size in (("rte", 6), ("mrpc", 3)):
        assert found[f"glue_filtered_{part}"]["acc,none"] == pytest.approx(right[part])
        assert found[f"glue_filtered_{part}"]["items,none"] == size
        path = out / f"babylm2025/finetune/{part}/predictions.json"
        entries = json.loads(path.read_text())[part]["predictions"]
        choices = [row["choice"] for row in rows if row["uid"] == part]
        assert entries == [{"id": f"{part}_{i}", "pred": c} for i, c in enumerate(choices)]


def test_a_folder_without_a_pair_of_files(
    cdgen: Callable[..., Any], llama: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data/glue_filtered"
    data.mkdir(parents=True)
    (data / "rte.train.jsonl").touch()
    flags = ("--model", llama, "--data", data.parent, "--out", tmp_path / "out")
    ended = cdgen("eval", *flags, "--tasks", "glue_filtered")
    assert ended.code == 2
    assert f"{data}: expected PART.train.jsonl and PART.valid.jsonl, found no pair" in ended.err
