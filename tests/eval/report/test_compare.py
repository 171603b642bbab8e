"""`cdgen compare` makes the table, the numbers and the figures from folders of `cdgen eval`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdgen.errors import StorageError, UsageError
from cdgen.eval.checkpoints import NamedCheckpoint
from cdgen.eval.modes import MODES
from cdgen.eval.report.compare import make_report, write_report
from cdgen.eval.report.methods import Method, parse_method, parse_select
from cdgen.eval.report.results import ResultFolder
from cdgen.eval.statistics.intervals import Estimate
from cdgen.eval.summary import Prediction, Summary, TaskResult

ITEMS = 400
POINT = Estimate(0.0, 0.0, 0.0, 0.0)


def blimp_rows(accuracy: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    right = rng.random(ITEMS) < accuracy
    return [
        {
            "uid": f"u{i % 4}",
            "index": i // 4,
            "scores": [0.0, -1.0 if r else 1.0],
            "choice": int(not r),
        }
        for i, r in enumerate(right)
    ]


def perplexity_rows(loss: float) -> list[Prediction]:
    noise = np.random.default_rng(0).normal(size=50)
    return [
        {
            "uid": "perplexity",
            "index": i,
            "scores": [-20 * (loss + 0.1 * x)],
            "tokens": 20,
            "words": 15,
            "bytes": 80,
        }
        for i, x in enumerate(noise)
    ]


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the folder that `cdgen eval` would leave of a checkpoint."""

    def write(
        name: str,
        accuracy: float = 0.6,
        loss: float = 2.0,
        seed: int = 0,
        mode: str = "default",
        data: str = "d",
        validation: float | None = None,
        step: int | None = None,
        tasks: Sequence[str] = ("blimp_fast", "perplexity"),
    ) -> Path:
        named = NamedCheckpoint(Path(name).name, tmp_path, step, validation)
        folder = ResultFolder.open(tmp_path / name, named, name, MODES[mode])
        rows = blimp_rows(accuracy, seed)
        value = float(np.mean([row["choice"] == 0 for row in rows]))
        right = Summary({"acc": Estimate(value, 0, 0, 1)}, ITEMS)
        likely = Summary({"perplexity": Estimate(float(np.exp(loss)), 0, 0, 0)}, 50)
        results = {
            "blimp_fast": TaskResult(rows, right, {}),
            "perplexity": TaskResult(perplexity_rows(loss), likely, {}),
        }
        for task in tasks:
            folder.add(task, data, results[task])
        return tmp_path / name

    return write


def test_names_and_seeds() -> None:
    assert parse_method("a/b/run") == Method("run", [Path("a/b/run")])
    assert parse_method("cd@0.3=x,y") == Method("cd@0.3", [Path("x"), Path("y")])
    method = parse_method("cd@0.3=x")
    assert (method.series, method.place) == ("cd", "0.3")
    assert parse_method("base=x").place is None
    for text in ("", "name=", "=,"):
        with pytest.raises(UsageError):
            parse_method(text)
    with pytest.raises(UsageError, match="validation, last, paper"):
        parse_select("best")


def test_the_numbers_are_the_last_file(
    evaluated: Callable[..., Path], written: list[str], tmp_path: Path
) -> None:
    """`cdgen run` takes them as a sign that the table and the figures are there."""
    methods = [Method(name, [evaluated(name)]) for name in ("one", "other")]
    written.clear()
    write_report(make_report(methods, None, None), tmp_path / "compared")
    assert {*written} == {"compare.md", "figures.png", "compare.json"}
    assert written[-1] == "compare.json"


def test_a_large_difference_is_found_and_none_is_not(evaluated: Callable[..., Path]) -> None:
    base, equal = evaluated("base", 0.5, seed=1), evaluated("equal", 0.5, seed=1)
    better = evaluated("better", 0.8, 1.5, seed=2)
    methods = [Method(path.name, [path]) for path in (base, equal, better)]
    report = make_report(methods, None, "validation")
    against = report.comparison.against_baseline
    assert against["equal"].tasks["blimp_fast acc"].difference.value == 0
    assert against["equal"].tasks["blimp_fast acc"].p == 1
    found = against["better"].tasks["blimp_fast acc"]
    expected = np.mean([r["choice"] == 0 for r in blimp_rows(0.8, 2)]) - np.mean(
        [r["choice"] == 0 for r in blimp_rows(0.5, 1)]
    )
    assert found.difference.value == pytest.approx(expected, abs=1e-12)
    assert found.p_holm < 0.05
    lower = against["better"].tasks["perplexity perplexity"]
    assert lower.difference.value < 0 and lower.relative is not None and lower.relative > 0
    # mu_dREL averages over the tasks but perplexity: here over BLiMP alone.
    mean = against["better"].mean_relative
    assert mean.value == pytest.approx(found.relative)
    assert report.averaged == [("blimp_fast", "acc")]


def test_the_table_says_what_it_compares(evaluated: Callable[..., Path]) -> None:
    base, better = evaluated("base", 0.5, seed=1), evaluated("better", 0.8, 1.5, seed=2)
    text = make_report([Method("base", [base]), Method("cd", [better])], None, "last").markdown()
    head, _, first, second = text.splitlines()[:4]
    assert head == "| method | seeds | blimp_fast | perplexity | mu_dREL % |"
    assert first.startswith("| base | 1 | ") and first.endswith("| - |")
    assert re.match(r"\| cd \| 1 \| 79\.75 \(\d\.\d\d\) \+51\.9 %\* \| 4\.54 ", second)
    assert "another seed may differ by more" in text


def test_seeds_are_averaged_and_their_noise_is_named(evaluated: Callable[..., Path]) -> None:
    base = [evaluated(f"b{i}", 0.5 + 0.02 * i, seed=i) for i in range(3)]
    other = [evaluated(f"o{i}", 0.6 + 0.02 * i, seed=9 + i) for i in range(3)]
    report = make_report([Method("base", base), Method("cd", other)], None, "validation")
    means = [
        np.mean([r["choice"] == 0 for r in blimp_rows(0.6 + 0.02 * i, 9 + i)]) for i in range(3)
    ]
    assert report.comparison.scores["cd"]["blimp_fast acc"].value == pytest.approx(np.mean(means))
    assert report.comparison.against_baseline["cd"].covers_training
    assert "seed noise" in report.markdown()


def test_the_checkpoint_of_least_validation_loss_speaks_for_a_run(
    evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    """The one that is best on the items never does, unless the paper's rule is asked for."""
    for step, (accuracy, validation) in enumerate([(0.5, 2.0), (0.7, 1.0), (0.9, 3.0)], 1):
        about: dict[str, Any] = {"seed": step, "validation": validation, "step": step}
        for run, mode in (("run", "default"), ("papers", "paper")):
            evaluated(f"{run}/checkpoint-{step}", accuracy, mode=mode, **about)
    bases = {
        mode: evaluated(f"base-{mode}", 0.5, seed=1, mode=mode) for mode in ("default", "paper")
    }
    for run, mode, select, step in (
        ("run", "default", None, 2),
        ("run", "default", "validation", 2),
        ("run", "default", "last", 3),
        ("run", "default", "paper", 3),
        ("papers", "paper", None, 3),
        ("papers", "paper", "validation", 2),
    ):
        methods = [Method("base", [bases[mode]]), Method("run", [tmp_path / run])]
        report = make_report(methods, None, parse_select(select) if select else None)
        expected = np.mean([r["choice"] == 0 for r in blimp_rows([0.5, 0.7, 0.9][step - 1], step)])
        assert report.comparison.scores["run"]["blimp_fast acc"].value == pytest.approx(expected)


def test_runs_that_do_not_belong_together(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    base = Method("base", [evaluated("base")])
    for wrong, says in (
        (Method("mode", [evaluated("mode", mode="babylm2025")]), "--compat"),
        (Method("data", [evaluated("data", data="other")]), "different data"),
        (Method("base", [evaluated("again")]), "different names"),
        (Method("gone", [tmp_path / "gone"]), "no results.json"),
    ):
        with pytest.raises(UsageError, match=says):
            make_report([base, wrong], None, "validation")
    with pytest.raises(UsageError, match="two or more"):
        make_report([base], None, "validation")
    other = Method("other", [evaluated("other")])
    with pytest.raises(UsageError, match="--baseline"):
        make_report([base, other], "nobody", "validation")
    evaluated("run/checkpoint-1")
    evaluated("run/checkpoint-2")
    with pytest.raises(UsageError, match="validation_loss"):
        make_report([base, Method("run", [tmp_path / "run"])], None, "validation")


def test_runs_without_a_task_in_common(evaluated: Callable[..., Path]) -> None:
    methods = [
        Method("base", [evaluated("base", tasks=("blimp_fast",))]),
        Method("other", [evaluated("other", tasks=("perplexity",))]),
    ]
    with pytest.raises(UsageError, match="the runs have no task in common"):
        make_report(methods, None, "validation")


def test_changed_predictions_are_noticed(evaluated: Callable[..., Path]) -> None:
    base, other = evaluated("base"), evaluated("other", seed=3)
    path = other / "predictions/blimp_fast.jsonl"
    path.write_text(path.read_text().replace('"choice": 1', '"choice": 0', 1))
    with pytest.raises(StorageError, match="changed"):
        make_report([Method("base", [base]), Method("other", [other])], None, "validation")


def test_a_score_that_some_run_lacks_is_left_out_and_named(
    evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    base, other = evaluated("base"), evaluated("other")
    named = NamedCheckpoint("other", other, None, None)
    folder = ResultFolder.open(other, named, "other", MODES["default"])
    folder.drop("perplexity")
    folder.save()
    report = make_report([Method("base", [base]), Method("other", [other])], None, "validation")
    assert report.columns == [("blimp_fast", "acc")]
    assert "Left out" in report.markdown()


def test_command_line(
    cdgen: Callable[..., Any], evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    base = evaluated("base", 0.5, seed=1)
    runs = [f"cd@{x}={evaluated(f'cd{x}', 0.5 + x, 2 - x, seed=2)}" for x in (0.1, 0.3)]
    ended = cdgen("compare", base, *runs, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out == (tmp_path / "out/compare.md").read_text()
    numbers = json.loads((tmp_path / "out/compare.json").read_text())
    assert set(numbers["against_baseline"]) == {"cd@0.1", "cd@0.3"}
    assert (tmp_path / "out/figures.png").read_bytes().startswith(b"\x89PNG")
    as_json = cdgen("compare", base, *runs, "--json")
    assert json.loads(as_json.out) == numbers
    for more in (["--baseline", "base"], ["--out", tmp_path / "alone"]):
        refused = cdgen("compare", base, *more)
        assert refused.code == 2 and refused.err.startswith("cdgen: RUN...")


def test_every_result_below_a_folder(
    cdgen: Callable[..., Any], evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (42, 43):
        evaluated(f"eval/base-{seed}/step-9", 0.5, seed=seed)
    evaluated("eval/paper", 0.6, mode="paper")
    (tmp_path / "eval/results.json").write_text("{}")  # of an experiment, say
    shown = cdgen("compare", tmp_path / "eval")
    assert shown.code == 0, shown.err
    tables = shown.out.split("\n\n")
    assert tables[0].splitlines()[0] == "| task | metric | base-42/step-9 | base-43/step-9 |"
    assert "| task | metric | paper |" in shown.out
    assert "Mode: default." in shown.out and "Mode: paper." in shown.out
    found = json.loads(cdgen("compare", tmp_path / "eval", "--json").out)
    assert [one["config"]["model"] for one in found] == [
        *("base-42/step-9", "base-43/step-9", "paper")
    ]
    nothing = cdgen("compare", tmp_path / "nowhere")
    assert nothing.code == 2 and "expected results of cdgen eval" in nothing.err


def test_points_of_the_figures(evaluated: Callable[..., Path]) -> None:
    """The figures draw the numbers of compare.json in percent; better is up."""
    from cdgen.eval.report.figures import _places, panels_of

    base, better = evaluated("base", 0.5, seed=1), evaluated("better", 0.8, 1.5, seed=2)
    report = make_report([Method("base", [base]), Method("cd@1", [better])], None, "validation")
    mean = report.comparison.against_baseline["cd@1"].mean_relative
    assert mean is not None
    (tasks,), (perplexity,) = panels_of(report).values()
    assert tasks == ("cd", "1", 100 * mean.value, 100 * mean.low, 100 * mean.high)
    assert perplexity.value == pytest.approx(100 * (1 - np.exp(1.5 - 2.0)), rel=1e-6)
    assert perplexity.low < perplexity.value < perplexity.high
    assert _places(["0.3", "0.1"]) == [0.3, 0.1]
    assert _places(["k=50", "vanilla", "k=50"]) == [0.0, 1.0, 0.0]


def test_figures_as_svg_take_the_colour_of_their_page(evaluated: Callable[..., Path]) -> None:
    """They keep their text as text, carry no date, and the same numbers give the same bytes."""
    from cdgen.eval.report.figures import draw, panels_of

    base, better = evaluated("base", 0.5, seed=1), evaluated("better", 0.8, 1.5, seed=2)
    report = make_report([Method("base", [base]), Method("cd@1", [better])], None, "validation")
    one, other = (draw(panels_of(report), "svg", "share") for _ in range(2))
    assert one == other
    text = one.decode()
    assert ">share</text>" in text and "currentColor" in text
    assert "dc:date" not in text and "#010203" not in text


@pytest.mark.thorough
def test_a_clear_difference_stays_one_among_many_methods(evaluated: Callable[..., Path]) -> None:
    """With 1,000 draws the smallest p-value is 0.001, and 60 methods would make it 0.06."""
    base, better = evaluated("base", 0.5, seed=1), evaluated("better", 0.95, 1.0, seed=2)
    methods = [Method("base", [base]), Method("better", [better])]
    methods += [Method(f"same{i}", [base]) for i in range(60)]
    against = make_report(methods, None, "validation").comparison.against_baseline
    mean = against["better"].mean_relative
    assert mean is not None and mean.p_holm < 0.05


def test_series_at_one_place_stand_together() -> None:
    from matplotlib.figure import Figure

    from cdgen.eval.report.figures import Point, _panel

    axis = Figure().subplots()
    _panel(
        axis, "title", [Point(name, "0.3", 1.0, 0.0, 2.0) for name in ("cd", "vanilla")], "black"
    )
    places = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    low, high = axis.get_xlim()
    assert len(set(places)) == 2, "and do not hide each other"
    assert all(0.4 < (place - low) / (high - low) < 0.6 for place in places)


def test_perplexity_alone_is_compared(evaluated: Callable[..., Path]) -> None:
    """A language without minimal pairs has no other score, so no mean relative change."""
    base, better = evaluated("base"), evaluated("better", loss=1.5)
    for folder in (base, better):
        named = NamedCheckpoint(folder.name, folder, None, None)
        results = ResultFolder.open(folder, named, folder.name, MODES["default"])
        results.drop("blimp_fast")
        results.save()
    methods = [Method("base", [base]), Method("better", [better])]
    report = make_report(methods, None, "validation")
    against = report.comparison.against_baseline["better"]
    assert against.mean_relative is None
    assert against.tasks["perplexity perplexity"].relative == pytest.approx(1 - np.exp(-0.5))
    assert "there is none" in report.markdown()
