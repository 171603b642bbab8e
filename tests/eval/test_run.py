"""`cdgen eval` from the command line to the files it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_files import SAME, Run, document, predictions, scores_of, strict_json
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.eval.report.results import read_predictions

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_task_in_the_shape_of_lm_evaluation_harness(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    ended = run(llama, tasks=None)
    assert ended.code == 0, ended
    found = document(out)
    tasks = sorted(path.name for path in small_data.iterdir())
    for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert sorted(found[key]) == tasks, key
    assert found["config"]["model"] == "llama" and found["config"]["mode"] == "default"
    for task in tasks:
        fields = found["results"][task]
        assert fields["alias"] == task
        (*metrics,) = found["higher_is_better"][task]
        for metric in metrics:
            value, (low, high) = fields[f"{metric},none"], fields[f"{metric}_ci95,none"]
            assert low <= value <= high and fields[f"{metric}_stderr,none"] >= 0
            if metric == "acc":
                assert low >= 0 and high <= 1, "a fraction, not percent"
            assert found["higher_is_better"][task][metric] == ("perplexity" not in metric)
        rows = predictions(out, task)
        assert found["n-samples"][task] == {"original": len(rows), "effective": len(rows)}
        assert read_predictions(out, task) == rows
    assert found["group_subtasks"]["blimp_fast"] == ["blimp_fast_agreement", "blimp_fast_island"]
    parts = [found["results"][name] for name in found["group_subtasks"]["blimp_fast"]]
    macro = found["results"]["blimp_fast"]["acc,none"]
    assert np.mean([part["acc,none"] for part in parts]) == pytest.approx(macro)
    assert [part["alias"] for part in parts] == [" - agreement", " - island"]
    labels = found["configs"]["blimp_fast"]["labels"]
    assert set(labels["field"]) == {"morphology", "syntax/semantics"}
    assert set(labels["field"]["morphology"]) == {"value", "stderr", "low", "high"}


def test_predictions_come_in_file_order_with_full_precision(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    assert run(llama, tasks="blimp_fast,entity_tracking").code == 0
    lines = [
        json.loads(line)
        for name in ("agreement", "island")
        for line in (small_data / f"blimp_fast/{name}.jsonl").read_text().splitlines()
    ]
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(llama)

    def score(text: str) -> float:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            return -float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)

    rows = predictions(out, "blimp_fast")
    expected = [[score(line["sentence_good"]), score(line["sentence_bad"])] for line in lines]
    np.testing.assert_allclose([row["scores"] for row in rows], expected, rtol=0, atol=SAME)
    assert [row["uid"] for row in rows] == [line["UID"] for line in lines]
    assert [row["index"] for row in rows] == [*range(6), *range(6)]
    assert [row["choice"] for row in rows] == [int(bad > good) for good, bad in expected]
    assert all(set(row) == {"uid", "index", "scores", "choice"} for row in rows)
    assert {len(row["scores"]) for row in predictions(out, "entity_tracking")} == {3}


def test_predictions_lie_where_the_pipelines_collation_looks(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    assert run(llama, tasks=None).code == 0
    place = out / "babylm2025/zero_shot/causal"
    found = {str(path.parent.relative_to(place)) for path in place.rglob("predictions.json")}
    assert found == {
        "blimp/blimp_fast",
        "blimp/supplement_fast",
        "ewok/ewok_fast",
        "comps/comps",
        "entity_tracking/entity_tracking",
        "wug_adj/wug_adj_nominalization",
        "wug_past/wug_past_tense",
    }
    ewok = strict_json((place / "ewok/ewok_fast/predictions.json").read_text())
    rows = predictions(out, "ewok_fast")
    line = json.loads((small_data / "ewok_fast/all.jsonl").read_text().splitlines()[0])
    chosen = f" {line[('Target1', 'Target2')[rows[0]['choice']]]}"
    assert ewok["size"]["predictions"][0] == {"id": "size_0", "pred": chosen}
    assert [len(own["predictions"]) for own in ewok.values()] == [3, 3]


def test_the_same_run_twice_leaves_the_same_bytes(
    run: Run, llama: Path, tmp_path: Path, set_threads: Callable[[int], None]
) -> None:
    assert run(llama, out=tmp_path / "a", tasks=None).code == 0
    assert run(llama, out=tmp_path / "b", tasks=None).code == 0
    for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() == path.read_bytes()
    set_threads(2)
    assert run(llama, out=tmp_path / "c").code == 0
    np.testing.assert_allclose(scores_of(tmp_path / "c"), scores_of(tmp_path / "a"), atol=SAME)
