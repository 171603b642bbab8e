"""lm-evaluation-harness scores BLiMP the same on the same local data, item by item."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdgen.eval.run import EvalConfig, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

UIDS = ("anaphor_gender_agreement", "principle_A_case_1", "wh_island")


def harness(model: Path, files: list[Path]) -> dict[str, list[tuple[float, float]]]:
    """Return lm-evaluation-harness' log-likelihoods of both sentences, by file stem."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = [
        {
            "task": path.stem,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_target": 0,
            "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        }
        for path in files
    ]
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=50),
        tasks=tasks,
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    return {
        path.stem: [
            tuple(response[0] for response in sample["filtered_resps"])
            for sample in sorted(found["samples"][path.stem], key=lambda s: s["doc_id"])
        ]
        for path in files
    }


def test_blimp(
    stories260k: Any,
    unpacked: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data/blimp_fast"
    folder.mkdir(parents=True)
    for uid in UIDS:
        source = unpacked("babylm2025_fast") / f"blimp_fast/{uid}.jsonl"
        (folder / source.name).write_text(source.read_text())
    config = EvalConfig(models=[stories260k.good], data=tmp_path / "data", out=tmp_path / "out")
    assert not evaluate(config).failed
    rows = [json.loads(line) for line in (tmp_path / "out/predictions/blimp_fast.jsonl").open()]
    theirs = harness(stories260k.good, [folder / f"{uid}.jsonl" for uid in UIDS])
    right = {}
    for stem, scores in theirs.items():
        mine = [row for row in rows if row["uid"].lower() == stem.lower()]
        assert len(mine) == len(scores) == 200
        for row, pair in zip(mine, scores, strict=True):
            assert row["scores"] == pytest.approx(pair, abs=2e-3)
        right[stem] = sum(good > bad for good, bad in scores) / len(scores)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"]["blimp_fast"]
    assert found["acc,none"] == pytest.approx(sum(right.values()) / len(right), abs=1e-12)
