"""`--compat babylm2025` scores every item of the real data as a plain scorer without cdgen's code
does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_scorer import PlainScorer

from cdgen.eval.run import EvalConfig, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

THOROUGH = pytest.mark.thorough
# float32 against float64, sums of up to a hundred log-probabilities.
SAME = 2e-4


def rows_of(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions/{task}.jsonl").open()]


def lines_of(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (file stem, line) in the order of the files' names."""
    paths = sorted(folder.glob("*.jsonl"))
    return [(path.stem, json.loads(line)) for path in paths for line in path.open()]


def require_same(rows: list[dict[str, Any]], expected: list[list[float]]) -> None:
    """Check scores and choices; choices may differ if the plain scorer's best two are a rounding
    error apart."""
    found = np.array([row["scores"] for row in rows])
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=SAME)
    for row, scores in zip(rows, expected, strict=True):
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of the largest
        if row["choice"] != best:
            assert abs(scores[row["choice"]] - scores[best]) < SAME, row
            assert scores.count(max(scores)) == 1, row


@pytest.mark.parametrize(
    ("model", "every"),  # one item in so many of each file; sub-tasks keep five or more
    [
        ("good", 8),
        pytest.param("bad", 8, marks=THOROUGH),
        pytest.param("good", 1, marks=THOROUGH),
        pytest.param("bad", 1, marks=THOROUGH),
    ],
)
def test_items_of_blimp_and_its_supplement(
    model: str, every: int, stories260k: Any, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, data = getattr(stories260k, model), tmp_path / "data"
    tasks = ["blimp_fast", "supplement_fast"]
    for path in (p for task in tasks for p in (unpacked("babylm2025_fast") / task).glob("*.jsonl")):
        lines = path.read_text().splitlines(keepends=True)[::every]
        assert len(lines) >= 5, path
        copy = data / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("".join(lines))
    config = EvalConfig(
        models=[folder], data=data, out=tmp_path / "out", tasks=tasks, compat="babylm2025"
    )
    assert not evaluate(config).failed
    plain = PlainScorer(folder)
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    for task in tasks:
        lines = lines_of(data / task)
        pairs = [(line["sentence_good"], line["sentence_bad"]) for _, line in lines]
        expected = [[plain.score(text, text) for text in pair] for pair in pairs]
        rows = rows_of(tmp_path / "out", task)
        assert [row["uid"] for row in rows] == [line.get("UID", stem) for stem, line in lines]
        require_same(rows, expected)
        by_uid: dict[str, list[int]] = {}
        for row, pair in zip(rows, pairs, strict=True):
            by_uid.setdefault(row["uid"], []).append(pair[row["choice"]] == pair[0])
        macro = np.mean([np.mean(right) for right in by_uid.values()])
        assert results[task]["acc,none"] == pytest.approx(macro, abs=1e-12)


@pytest.mark.thorough
def test_entity_tracking_scores_the_options_tokens_alone(
    stories260k: Any, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    """The data are the first item of every split and number of operations; prefixes end in a
    space."""
    source, data = unpacked("entity_tracking") / "entity_tracking", tmp_path / "data"
    (data / "entity_tracking").mkdir(parents=True)
    for path in source.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        per_ops: dict[int, list[str]] = {}
        for line in lines:
            per_ops.setdefault(json.loads(line)["numops"], []).append(line)
        kept = [line for _, mine in sorted(per_ops.items()) for line in mine[:1]]
        (data / "entity_tracking" / path.name).write_text("".join(kept))
    config = EvalConfig(
        models=[stories260k.good], data=data, out=tmp_path / "out", compat="babylm2025"
    )
    assert not evaluate(config).failed
    plain = PlainScorer(stories260k.good)
    lines = lines_of(data / "entity_tracking")
    expected = [
        [plain.score(line["input_prefix"] + option, option) for option in line["options"]]
        for _, line in lines
    ]
    rows = rows_of(tmp_path / "out", "entity_tracking")
    require_same(rows, expected)
    split_means = []
    for split in ("ambiref", "move_contents", "regular"):
        by_ops: dict[str, list[bool]] = {}
        for row in rows:
            if row["uid"].startswith(split):
                by_ops.setdefault(row["uid"], []).append(row["choice"] == 0)
        split_means.append(np.mean([np.mean(right) for right in by_ops.values()]))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"]["entity_tracking"]
    assert found["acc,none"] == pytest.approx(np.mean(split_means), abs=1e-12)
    # The model's context is 512 tokens; rotary positions run on, and the pipeline lets them.
    assert found["cut,none"] == 0
