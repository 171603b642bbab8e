"""`cdgen eval` from the command line to the files it leaves, and what it says on the way."""

from __future__ import annotations

import csv
import gc
import json
import math
import re
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.eval import run as run_module
from cdgen.eval.checkpoints import find_checkpoints
from cdgen.eval.report.results import ResultFolder, read_predictions
from cdgen.eval.run import EvalConfig, evaluate
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.tasks import tokenized
from cdgen.storage import lock

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., Any]
TASKS = "blimp_fast,ewok_fast"
# float32 against float64, sums of some 30 log-probabilities.
SAME = 1e-4


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results/out"


@pytest.fixture
def run(cdgen: Run, small_data: Path, out: Path) -> Run:
    """`cdgen eval` of these models; flags by keyword, None to leave one out."""

    def go(*models: Path, **flags: object) -> Any:
        given = {"data": small_data, "out": out, "tasks": TASKS, **flags}
        pairs = [(f"--{name}", value) for name, value in given.items() if value is not None]
        chosen = [x for model in models for x in ("--model", model)]
        return cdgen("eval", *chosen, *(x for pair in pairs for x in pair))

    return go


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(checkpoint, task) of every score that is computed from here on; clear it at will."""
    done: list[tuple[str, str]] = []
    add = ResultFolder.add

    def recording(self: ResultFolder, task: str, *others: Any) -> None:
        done.append((self.document["config"]["model"], task))
        add(self, task, *others)

    monkeypatch.setattr(ResultFolder, "add", recording)
    return done


def change_weights(folder: Path, name: str, change: Callable[[torch.Tensor], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def other(llama: Path, copy_of: Callable[..., Path]) -> Path:
    """A model that is not llama, with the same tokenizer."""
    folder = copy_of(llama, "other")
    change_weights(folder, "lm_head.weight", lambda w: w.neg_())
    return folder


@pytest.fixture
def broken(llama: Path, copy_of: Callable[..., Path]) -> Path:
    folder = copy_of(llama, "broken")
    change_weights(folder, "model.norm.weight", lambda w: w.fill_(math.nan))
    return folder


def strict_json(text: str) -> Any:
    """NaN and Infinity are no JSON, whatever Python writes."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def document(folder: Path) -> Any:
    return strict_json((folder / "results.json").read_text())


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    lines = (folder / f"predictions/{task}.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    return [strict_json(line) for line in lines]


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def score_of(folder: Path, task: str = "blimp_fast") -> list[list[float]]:
    return [row["scores"] for row in predictions(folder, task)]


# ---- what is written ---------------------------------------------------------------------------


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
        "blimp/blimp_fast", "blimp/supplement_fast", "ewok/ewok_fast", "comps/comps",
        "entity_tracking/entity_tracking", "wug_adj/wug_adj_nominalization",
        "wug_past/wug_past_tense",
    }  # fmt: skip
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
    np.testing.assert_allclose(score_of(tmp_path / "c"), score_of(tmp_path / "a"), atol=SAME)


# ---- modes -------------------------------------------------------------------------------------


@pytest.fixture
def tied_data(tmp_path: Path, write_jsonl: Callable[..., None]) -> Path:
    """Four pairs, of which two are the same sentence twice."""
    rows = [
        {"sentence_good": f"The {noun}.", "sentence_bad": f"The {other}."}
        for noun, other in (("cat", "cat"), ("dog", "cow"), ("pig", "pig"), ("cow", "dog"))
    ]
    write_jsonl(tmp_path / "tied/supplement_fast/a.jsonl", rows)
    return tmp_path / "tied"


@pytest.mark.parametrize(("compat", "right"), [("default", 2), ("babylm2025", 3), ("paper", 3)])
def test_ties(run: Run, llama: Path, out: Path, tied_data: Path, compat: str, right: int) -> None:
    """Of the second and fourth pair, one is right: they are each other's mirror image."""
    ended = run(llama, data=tied_data, tasks=None, compat=compat)
    found = document(out)["results"]["supplement_fast"]
    assert found["acc,none"] == right / 4
    assert found["ties,none"] == 2
    assert "2 ties" in ended.err


def test_wug_by_mode(run: Run, llama: Path, tmp_path: Path) -> None:
    for compat, metric in (("default", "spearman"), ("babylm2025", "spearman"), ("paper", "acc")):
        folder = tmp_path / compat
        assert run(llama, out=folder, tasks="wug_past_tense", compat=compat).code == 0
        assert list(document(folder)["higher_is_better"]["wug_past_tense"]) == [metric]
    first = [row["choice"] == 0 for row in predictions(tmp_path / "paper", "wug_past_tense")]
    results = document(tmp_path / "paper")["results"]["wug_past_tense"]
    assert results["acc,none"] == np.mean(first)


def test_perplexity_is_the_same_in_every_mode(run: Run, llama: Path, tmp_path: Path) -> None:
    """One document is longer than the context: it comes in windows, whatever items may do."""
    found = []
    for compat in ("default", "babylm2025", "paper"):
        assert run(llama, out=tmp_path / compat, tasks="perplexity", compat=compat).code == 0
        found.append(document(tmp_path / compat)["results"]["perplexity"])
    assert found[0]["cut,none"] == 0
    assert found[1] == found[2] == found[0]


def test_the_first_token_without_bos(run: Run, without_bos: Path, llama: Path, out: Path) -> None:
    """Scored by default, as with a BOS; left out by the pipeline."""
    assert run(without_bos).code == 0
    default = score_of(out)
    assert document(out)["config"]["prefix_token_ids"] == [1]
    assert run(llama).code == 0
    assert score_of(out) == default
    assert run(without_bos, compat="babylm2025").code == 0
    assert document(out)["config"]["prefix_token_ids"] == []
    assert (np.array(score_of(out)) > default).all()


@pytest.fixture
def long_data(tmp_path: Path, write_jsonl: Callable[..., None]) -> Path:
    """A pair whose first sentence is longer than the small models' 64 tokens, and a short one."""
    rows = [
        {"sentence_good": "It ran and " * 30 + "stopped.", "sentence_bad": "It ran."},
        {"sentence_good": "It ran.", "sentence_bad": "It run."},
    ]
    write_jsonl(tmp_path / "long/supplement_fast/a.jsonl", rows)
    return tmp_path / "long"


def last_tokens_log_prob(folder: Path, text: str, count: int | None) -> float:
    """Of all but the first of the last `count` tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    ids = ids[:, -count:] if count else ids
    with torch.inference_mode():
        return -float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)


@pytest.mark.parametrize(
    ("kind", "compat", "longest"),
    [
        ("llama", "default", 64), ("gpt2", "default", 64),
        # The pipeline cuts nothing: rotary positions run on. Learned ones cannot.
        ("llama", "babylm2025", None), ("gpt2", "babylm2025", 64),
    ],
)  # fmt: skip
def test_a_text_longer_than_the_context(
    run: Run, architecture: Callable[[str], Path], out: Path, long_data: Path, kind: str,
    compat: str, longest: int | None,
) -> None:  # fmt: skip
    folder = architecture(kind)
    ended = run(folder, data=long_data, tasks=None, compat=compat)
    assert ended.code == 0
    assert document(out)["results"]["supplement_fast"]["cut,none"] == (1 if longest else 0)
    assert ("1 texts cut to the context length" in ended.err) == bool(longest)
    text = json.loads((long_data / "supplement_fast/a.jsonl").read_text().splitlines()[0])
    expected = last_tokens_log_prob(folder, text["sentence_good"], longest)
    assert score_of(out, "supplement_fast")[0][0] == pytest.approx(expected, abs=1e-3)


# ---- many checkpoints --------------------------------------------------------------------------


@pytest.fixture
def training_run(llama: Path, tmp_path: Path) -> Path:
    """Three checkpoints as `cdgen train` leaves them; step 9 was validated twice."""
    folder = tmp_path / "a run"
    for step in (9, 10, 100):
        copy = Path(shutil.copytree(llama, folder / f"checkpoints/checkpoint-{step}"))
        change_weights(copy, "lm_head.weight", partial(torch.Tensor.mul_, other=1 + step / 100))
    losses = [(9, 5.0), (9, 4.5), (10, 4.0), (100, 3.5)]
    lines = [{"step": step, "validation": {"all": loss, "wiki": 9.0}} for step, loss in losses]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_training_run_becomes_a_curve(run: Run, training_run: Path, out: Path) -> None:
    ended = run(training_run)
    assert ended.code == 0
    names = ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert sorted(path.parent.name for path in out.glob("*/results.json")) == sorted(names)
    assert not (out / "results.json").exists()
    lines = curve(out)
    assert [(line["model"], line["step"], line["validation_loss"]) for line in lines] == [
        (name, step, loss)
        for name, step, loss in zip(names, ("9", "10", "100"), ("4.5", "4.0", "3.5"), strict=True)
        for _ in range(2)
    ]
    assert [line["task"] for line in lines[:2]] == ["blimp_fast", "ewok_fast"]
    for line in lines:
        fields = document(out / line["model"])["results"][line["task"]]
        assert float(line["value"]) == fields[f"{line['metric']},none"]
        assert float(line["stderr"]) == fields[f"{line['metric']}_stderr,none"]
        assert [float(line["low"]), float(line["high"])] == fields["acc_ci95,none"]
    config = document(out / "checkpoint-10")["config"]
    assert (config["step"], config["validation_loss"]) == (10, 4.0)
    assert f"| task | metric | {' | '.join(names)} |" in ended.out


def test_steps_and_losses_of_trainers_own_state(run: Run, llama: Path, out: Path) -> None:
    parent = out.parent.parent / "hub"
    for name in ("chck_2M", "chck_1M", "chck_10M"):
        shutil.copytree(llama, parent / name)
    log = [{"step": 1_000_000, "loss": 9.0}, {"step": 1_000_000, "eval_loss": 2.5}]
    state = {"log_history": [*log, {"step": 500, "eval_loss": 7.0}]}
    (parent / "chck_1M/trainer_state.json").write_text(json.dumps(state))
    assert run(parent, tasks="blimp_fast").code == 0
    assert [(line["model"], line["step"], line["validation_loss"]) for line in curve(out)] == [
        ("chck_1M", "1000000", "2.5"), ("chck_2M", "2000000", ""), ("chck_10M", "10000000", ""),
    ]  # fmt: skip


def test_metrics_whose_last_line_was_cut_short(run: Run, training_run: Path, out: Path) -> None:
    """By a kill in the middle of training; the other lines are whole."""
    path = training_run / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    ended = run(training_run, tasks="blimp_fast")
    assert ended.code == 0, ended.err
    assert [line["validation_loss"] for line in curve(out)] == ["4.5", "4.0", ""]


def test_tasks_are_tokenized_once_per_tokenizer(
    run: Run, llama: Path, other: Path, without_bos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    load_task = tokenized.load_task

    def counting(name: str, *others: Any) -> Any:
        asked.append(name)
        return load_task(name, *others)

    monkeypatch.setattr(tokenized, "load_task", counting)
    assert run(llama, other, without_bos).code == 0
    assert asked == ["blimp_fast", "ewok_fast"] * 2


def test_one_model_at_a_time_is_in_memory(
    run: Run, llama: Path, other: Path, broken: Path, copy_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """A checkpoint that cannot be scored is let go as well."""
    second = copy_of(broken, "broken-too")
    change_weights(second, "lm_head.weight", lambda w: w.neg_())
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Watched(Scorer):
        def __init__(self, *others: Any) -> None:
            nonlocal most
            super().__init__(*others)
            alive.append(weakref.ref(self.model))
            most = max(most, sum(model() is not None for model in alive))

    monkeypatch.setattr(run_module, "Scorer", Watched)
    gc.disable()  # a model holds cycles: that it is gone must not be chance
    request.addfinalizer(gc.enable)
    assert run(llama, other).code == 0
    assert (len(alive), most) == (2, 1)
    assert run(broken, second, llama, out=broken.parent / "elsewhere").code == 4
    assert (len(alive), most) == (5, 1)


def test_models_of_one_name_are_told_apart(run: Run, llama: Path, other: Path, out: Path) -> None:
    """`good` of two experiments; and a third folder whose own name joins theirs."""
    base = other.parent / "models"
    first = Path(shutil.copytree(llama, base / "a/good"))
    second = Path(shutil.copytree(other, base / "b/good"))
    third = Path(shutil.copytree(other, base / "a-good"))
    change_weights(third, "lm_head.weight", lambda w: w.mul_(3))
    assert run(first, second, third, tasks="blimp_fast").code == 0
    folders = sorted(path.parent for path in out.glob("*/results.json"))
    assert len(folders) == 3
    assert len({str(score_of(folder)) for folder in folders}) == 3
    assert len({document(folder)["config"]["model_sha256"] for folder in folders}) == 3
    assert len({line["model"] for line in curve(out)}) == 3


@settings(max_examples=200, deadline=None)
@given(st.sets(st.lists(st.sampled_from(["a", "b", "a-b", "b-a", "a-b-a"]), min_size=1, max_size=3)
    .map(lambda parts: Path("/models", *parts)), min_size=1, max_size=8))  # fmt: skip
def test_no_two_folders_share_a_name(folders: set[Path]) -> None:
    names = [named.name for named in find_checkpoints(sorted(folders))]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)


def test_a_training_run_that_has_grown(run: Run, training_run: Path, out: Path) -> None:
    """One checkpoint has its results in the folder itself; beside those of several they would
    speak for the run in `cdgen compare`."""
    later = [training_run / f"checkpoints/checkpoint-{step}" for step in (10, 100)]
    for folder in later:
        folder.rename(training_run / folder.name[-3:])
    assert run(training_run, tasks="blimp_fast").code == 0
    assert document(out)["config"]["step"] == 9
    for folder in later:
        (training_run / folder.name[-3:]).rename(folder)
    assert run(training_run, tasks="blimp_fast").code == 0
    assert len(curve(out)) == 3
    assert not (out / "results.json").exists()
    assert not (out / "predictions").exists() and not (out / "babylm2025").exists()


def test_more_folders_than_one_behind_a_flag(
    cdgen: Run, llama: Path, other: Path, small_data: Path, out: Path
) -> None:
    """As the shell expands `--model runs/*`."""
    flags = ("--data", small_data, "--out", out, "--tasks", "blimp_fast")
    assert cdgen("eval", "--model", llama, other, *flags).code == 0
    assert [line["model"] for line in curve(out)] == ["llama", "other"]


# ---- running it again --------------------------------------------------------------------------


def test_again_computes_nothing(
    run: Run, llama: Path, other: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(llama, other).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def refuse(*_: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(run_module, "Scorer", refuse)
    ended = run(llama, other)
    assert ended.code == 0 and "2 of 2 tasks scored before" in ended.err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_moved_model_is_the_same_model(
    run: Run, llama: Path, copy_of: Callable[..., Path], scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    assert run(copy_of(llama, "moved")).code == 0
    assert scored == []


def test_a_further_task_is_added(run: Run, llama: Path, out: Path, scored: list[Any]) -> None:
    run(llama, tasks="blimp_fast")
    run(llama, tasks="ewok_fast")
    assert scored == [("llama", "blimp_fast"), ("llama", "ewok_fast")]
    assert {"blimp_fast", "ewok_fast"} <= set(document(out)["results"])
    assert [line["task"] for line in curve(out)] == ["blimp_fast", "ewok_fast"]


@pytest.mark.parametrize("part", ["weights", "config.json", "tokenizer.json"])
def test_a_changed_model_is_scored_again_and_alone(
    run: Run, llama: Path, other: Path, out: Path, scored: list[Any], part: str
) -> None:
    run(llama, other)
    scored.clear()
    before = score_of(out / "other")
    if part == "weights":
        change_weights(other, "lm_head.weight", lambda w: w.mul_(2))
    elif part == "config.json":
        config = json.loads((other / part).read_text())
        (other / part).write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    else:
        text = (other / part).read_text()
        (other / part).write_text(
            text.replace('"add_prefix_space": false', '"add_prefix_space": true')
        )
    assert run(llama, other).code == 0
    assert scored == [("other", "blimp_fast"), ("other", "ewok_fast")]
    assert score_of(out / "other") != before


def test_a_changed_line_of_data_scores_its_task_again(
    run: Run, llama: Path, out: Path, small_data: Path, scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    path = small_data / "blimp_fast/island.jsonl"
    path.write_text(path.read_text().replace("The cow sleeps", "The old cow sleeps"))
    before = document(out)["results"]["ewok_fast"]
    assert run(llama).code == 0
    assert scored == [("llama", "blimp_fast")]
    assert document(out)["results"]["ewok_fast"] == before


def test_a_renamed_file_of_data_scores_its_task_again(
    run: Run, llama: Path, out: Path, small_data: Path, scored: list[Any]
) -> None:
    """A supplement's sub-tasks are its files."""
    run(llama, tasks="supplement_fast")
    scored.clear()
    path = small_data / "supplement_fast/answers.jsonl"
    path.rename(path.with_name("turns.jsonl"))
    assert run(llama, tasks="supplement_fast").code == 0
    assert scored == [("llama", "supplement_fast")]
    assert document(out)["group_subtasks"]["supplement_fast"] == ["supplement_fast_turns"]


def test_subtasks_that_are_gone_leave_the_results(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    run(llama)
    (small_data / "blimp_fast/island.jsonl").unlink()
    assert run(llama).code == 0
    found = document(out)
    assert "blimp_fast_island" not in found["results"]
    assert found["group_subtasks"]["blimp_fast"] == ["blimp_fast_agreement"]


def test_another_mode_scores_everything_again(
    run: Run, llama: Path, out: Path, scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    assert run(llama, compat="paper", tasks="blimp_fast").code == 0
    assert scored == [("llama", "blimp_fast")]
    assert document(out)["config"]["mode"] == "paper"
    assert "ewok_fast" not in document(out)["results"], "scores of two modes never stand together"


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_predictions_that_are_not_those_of_the_score(
    run: Run, llama: Path, out: Path, scored: list[Any], damage: str
) -> None:
    run(llama)
    scored.clear()
    path = out / "predictions/ewok_fast.jsonl"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content.replace(b"-", b"-1", 1) if damage == "changed" else content[:-9])
    assert run(llama).code == 0
    assert scored == [("llama", "ewok_fast")]
    assert path.read_bytes() == content


def test_another_model_in_the_same_folder_leaves_nothing_of_the_first(
    run: Run, llama: Path, other: Path, out: Path
) -> None:
    """Two models called `good`, one after the other: neither scores nor predictions mix."""
    first = Path(shutil.copytree(llama, out.parent / "a/good"))
    second = Path(shutil.copytree(other, out.parent / "b/good"))
    run(first)
    assert run(second, tasks="ewok_fast").code == 0
    found = document(out)
    assert [task for task in found["results"] if task in TASKS.split(",")] == ["ewok_fast"]
    assert [line["task"] for line in curve(out)] == ["ewok_fast"]
    assert [path.name for path in (out / "predictions").iterdir()] == ["ewok_fast.jsonl"]
    collated = [path.parent.name for path in (out / "babylm2025").rglob("predictions.json")]
    assert collated == ["ewok_fast"], "a collation would hand in predictions of both"


def test_an_interrupted_run_keeps_the_tasks_it_finished(
    llama: Path, small_data: Path, out: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["blimp_fast", "comps", "ewok_fast"]
    config = EvalConfig(models=[llama], data=small_data, out=out, tasks=names)
    calls = []

    def interrupted(self: Scorer, *others: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return span_sums(self, *others)

    span_sums = Scorer.span_sums
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scorer, "span_sums", interrupted)
        evaluate(config)
    assert list(document(out)["configs"]) == ["blimp_fast"]
    evaluate(config)
    assert [task for _, task in scored] == names
    assert list(document(out)["configs"]) == names


# ---- bad input: the data -----------------------------------------------------------------------


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def test_a_malformed_line_stops_its_task_alone(
    run: Run, llama: Path, other: Path, out: Path, small_data: Path
) -> None:
    path = small_data / "blimp_fast/agreement.jsonl"
    append(path, '{"sentence_good": "Half')
    ended = run(llama, other)
    assert ended.code == 2, ended
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cdgen: ")]
    assert f"{path}, line 7: " in line
    for name in ("llama", "other"):
        assert "ewok_fast" in document(out / name)["results"]
        assert "blimp_fast" not in document(out / name)["results"]
    assert "| ewok_fast | acc |" in ended.out and "blimp_fast" not in ended.out


def test_a_line_that_became_malformed_takes_the_old_score_along(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    """It was the score of other data; beside new ones it would pass for theirs."""
    run(llama)
    append(small_data / "blimp_fast/agreement.jsonl", "[]")
    ended = run(llama)
    assert ended.code == 2
    assert "blimp_fast" not in document(out)["results"]
    assert "blimp_fast" not in ended.out


def test_a_malformed_reading_file_and_perplexity_text(
    run: Run, llama: Path, small_data: Path, out: Path
) -> None:
    (small_data / "reading").mkdir()
    (small_data / "reading/reading_data.csv").write_text("item,word\nThe,cat\n")
    (small_data / "perplexity/more.jsonl").write_text('{"text": 5}\n')
    ended = run(llama, tasks="reading,perplexity,ewok_fast")
    assert ended.code == 2
    assert "reading_data.csv, line 2" in ended.err
    assert "more.jsonl, line 1" in ended.err
    assert list(document(out)["configs"]) == ["ewok_fast"]


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_scores_that_cannot_be_computed_are_never_zero(
    run: Run, llama: Path, small_data: Path, out: Path, write_jsonl: Callable[..., None]
) -> None:
    """A correlation with people who all said the same; the perplexity of one document."""
    rows = [{"sentences": f"a {i}\tb {i}", "ratio": 0.5} for i in range(5)]
    write_jsonl(small_data / "wug_past_tense/wug_past_tense.jsonl", rows)
    (small_data / "perplexity/text.txt").write_text("A single document of some words.\n")
    ended = run(llama, tasks="wug_past_tense,perplexity,ewok_fast")
    assert "ewok_fast" in document(out)["results"]
    assert "wug_past_tense" not in document(out)["results"]
    assert "cdgen: wug_past_tense: " in ended.err
    assert ended.code == 2
    for inside in ("strata", "statistic"):
        assert inside not in ended.err, "said in the words of the code, not of the data"


def test_folders_without_items(run: Run, llama: Path, small_data: Path) -> None:
    for task in ("perplexity", "comps", "reading"):
        shutil.rmtree(small_data / task, ignore_errors=True)
        (small_data / task).mkdir()
    ended = run(llama, tasks="perplexity,comps,reading,ewok_fast")
    assert ended.code == 2
    for task in ("perplexity", "comps", "reading"):
        (line,) = [x for x in ended.err.splitlines() if x.startswith(f"cdgen: {task}: ")]
        assert str(small_data / task) in line
    assert "--prompts" not in ended.err, "this command has no such flag"


@pytest.mark.parametrize("name", ["ewok_full", "reading", "perplexity2"])
def test_a_task_without_data_or_that_nobody_knows(
    run: Run, llama: Path, out: Path, small_data: Path, name: str
) -> None:
    ended = run(llama, tasks=f"{TASKS},{name}")
    if name == "perplexity2":
        assert ended.code == 2 and name in ended.err and "blimp*" in ended.err
        assert not out.exists()
        return
    assert ended.code == 0
    assert f"skipped {name}: {small_data / name} is not there" in ended.out
    assert name not in document(out)["results"] and f"| {name} |" not in ended.out
    assert len(curve(out)) == 2


def test_nothing_to_score_at_all(run: Run, llama: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/pictures").mkdir(parents=True)
    for flags in (
        {"data": tmp_path / "empty", "tasks": None},
        {"data": tmp_path / "empty"},
        {"data": tmp_path / "nowhere", "tasks": None},
        {"data": tmp_path / "nowhere"},
    ):
        ended = run(llama, **flags)
        assert ended.code == 2 and str(flags["data"]) in ended.err
        assert len(ended.err.splitlines()) == 1 and ended.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"compat": "babylm2024"}, "'default', 'babylm2025' or 'paper'"),
        ({"device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"data": None}, "--data"),
        ({"out": None}, "--out"),
    ],
)
def test_flags_that_make_no_sense(
    run: Run, llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch, flags: Any, says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = run(llama, **flags)
    assert ended.code == 2 and says in ended.err, ended
    assert ended.err.startswith("cdgen: ") and len(ended.err.splitlines()) == 1
    assert not out.exists()


# ---- bad input: the models ---------------------------------------------------------------------


def test_a_checkpoint_with_nan_weights_is_invalid(
    run: Run, llama: Path, broken: Path, out: Path
) -> None:
    """Not scored by ties; and the others are scored."""
    for _ in range(2):  # again, there is still no score
        ended = run(broken, llama)
        assert ended.code == 4, ended
        assert "broken" in ended.err and "NaN" in ended.err
        assert set(document(out / "llama")["configs"]) == {"blimp_fast", "ewok_fast"}
        assert document(out / "broken")["results"] == {}
        assert "NaN" in document(out / "broken")["config"]["invalid"]
        assert list((out / "broken/predictions").iterdir()) == []
        assert {line["model"] for line in curve(out)} == {"llama"}


def test_nan_that_only_one_task_meets(
    run: Run, llama: Path, copy_of: Callable[..., Path], out: Path, small_data: Path
) -> None:
    """A token of the second task is broken: the checkpoint is, so the first's score goes too."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids = {
        task: set(tokenizer("\n".join(p.read_text() for p in (small_data / task).iterdir()))[0].ids)
        for task in TASKS.split(",")
    }
    (token,) = tokenizer(" large", add_special_tokens=False)["input_ids"]
    assert token in ids["ewok_fast"] - ids["blimp_fast"]
    folder = copy_of(llama, "broken")
    change_weights(folder, "model.embed_tokens.weight", lambda w: w[token].fill_(math.nan))
    ended = run(folder)
    assert ended.code == 4 and "NaN" in ended.err
    assert document(out)["results"] == {}
    assert curve(out) == []


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors", "all"])
def test_a_checkpoint_that_is_not_whole(
    run: Run, llama: Path, other: Path, out: Path, missing: str
) -> None:
    if missing == "all":
        shutil.rmtree(other)
    else:
        (other / missing).unlink()
    ended = run(other, llama)
    assert ended.code == 4, ended
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cdgen: ")]
    assert str(other) in line
    if missing == "tokenizer.json":
        assert "has no tokenizer.json" in line and "save_pretrained" in line
    if missing != "config.json":  # such a folder may as well be a misspelt run of training
        assert set(document(out / "llama")["configs"]) == {"blimp_fast", "ewok_fast"}


def test_the_same_folder_twice(run: Run, llama: Path, out: Path) -> None:
    ended = run(llama, llama / "../llama")
    assert ended.code == 2 and "given more than once" in ended.err
    assert not out.exists()


# ---- the folder of results ---------------------------------------------------------------------


def test_two_runs_do_not_write_at_once(run: Run, llama: Path, out: Path) -> None:
    out.mkdir(parents=True)
    with lock(out / ".lock", "held by the test"):
        ended = run(llama)
    assert ended.code != 0 and "another cdgen eval" in ended.err
    assert not (out / "results.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"results": {}}'])
def test_a_foreign_results_file_is_left_alone(
    run: Run, llama: Path, out: Path, content: str
) -> None:
    out.mkdir(parents=True)
    (out / "results.json").write_text(content)
    ended = run(llama)
    assert ended.code == 5 and str(out / "results.json") in ended.err
    assert (out / "results.json").read_text() == content


# ---- what is said ------------------------------------------------------------------------------


def test_a_line_per_checkpoint_and_task_and_a_table(run: Run, llama: Path, other: Path) -> None:
    ended = run(llama, other, tasks="blimp_fast,perplexity,wug_past_tense")
    assert ended.code == 0
    number = r"-?\d+\.\d{4}"
    assert re.fullmatch(
        rf"""llama \(1/2\)
  blimp_fast  acc {number} \[{number}, {number}\]
  perplexity  perplexity [^\n]*
  wug_past_tense  spearman {number} \[{number}, {number}\]
other \(2/2\)
  blimp_fast  acc [^\n]*
  perplexity  perplexity [^\n]*
  wug_past_tense  [^\n]*
""",
        ended.err,
    ), ended.err
    table = ended.out.splitlines()
    assert table[0] == "| task | metric | llama | other |"
    assert [line.split(" | ")[:2] for line in table[2:7]] == [
        ["| blimp_fast", "acc"],
        ["| perplexity", "byte_perplexity"],
        ["| perplexity", "perplexity"],
        ["| perplexity", "word_perplexity"],
        ["| wug_past_tense", "spearman"],
    ]
    assert "Mode: default." in ended.out


def test_the_table_is_in_percent_but_for_perplexities(run: Run, llama: Path, out: Path) -> None:
    ended = run(llama, tasks="comps,perplexity")
    assert (out / "results.md").read_text() == ended.out
    results = document(out)["results"]
    value, (low, high) = (results["comps"][f"acc{end},none"] for end in ("", "_ci95"))
    cell = f"{100 * value:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    assert f"| comps | acc | {cell} |" in ended.out
    assert f"| perplexity | {results['perplexity']['perplexity,none']:.2f} (" in ended.out


def test_on_a_terminal(run: Run, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ended = run(llama)
    assert ended.code == 0
    assert "llama (1/1)" in ended.err and "ewok_fast  acc" in ended.err


def test_a_call_that_scores_nothing_leaves_the_tables(run: Run, llama: Path, out: Path) -> None:
    assert run(llama, tasks="blimp_fast").code == 0
    before = {name: (out / name).read_bytes() for name in ("results.md", "curve.csv")}
    ended = run(llama.parent / "nowhere", tasks="blimp_fast")
    assert ended.code == 4 and "no such folder" in ended.err
    assert before == {name: (out / name).read_bytes() for name in before}
