"""Experiments that cannot be, refused with everything that is wrong, before anything is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_experiment

from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.run import RunConfig, run_experiment, show_plan
from cdgen.storage import lock

STATED = {"training": 1e4, "generation": 1e4, "evaluation": 1e4, "machine": "of a test"}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Return the toy experiment, with other values for some fields of its recipe."""
    data = toy_experiment.write_text(tmp_path / "data")

    def make(only: str | None = None, **changes: Any) -> RunConfig:
        recipe = toy_experiment.write_recipe(tmp_path, rates=STATED, **changes)
        return RunConfig(recipe, data, tmp_path / "out", only)

    return make


def plan(config: RunConfig) -> list[str]:
    return list(show_plan(config))


def sources(*paths: str) -> list[dict[str, Any]]:
    source = toy_experiment.BASE["sources"][0]
    return [{**source, "name": path, "path": path} for path in paths]


def refused(config: RunConfig) -> str:
    """Return why a run is refused; it must leave no trace."""
    with pytest.raises(UsageError) as found:
        run_experiment(config)
    assert not config.out.exists()
    return str(found.value)


def test_everything_wrong_is_said_at_once(config: Callable[..., RunConfig]) -> None:
    said = refused(
        config(
            base=toy_experiment.base(bad_gap=0.3, sources=sources("toys.txt", "gone.txt")),
            good="step:8",
            arms={
                "early": {"strategy": "cd", "bad": "step:8"},
                "between": {"strategy": "cd", "bad": "step:5"},
                "small": {"strategy": "cd", "bad": "small:tiny"},
                "gap": {"strategy": "cd", "bad": "gap:0.3"},
                "whole": {"strategy": "cd", "bad": "layers:1"},
                "wide": {"strategy": "cd", "bad": "window:19"},
            },
            corpora={"prompt_tokens": 10, "max_new_tokens": 10},
            evaluation={"tasks": ["perplexity", "blimp_fast", "poetry"], "data": "."},
        )
    )
    for part in (
        "base.bad_gap: the arms decide that",
        "need a context of 20, but base.block_size is 16",
        "good: step:8 and bad: gap:0.3 do not go together",
        "arms.early: bad: step:8 is not earlier than GOOD, step 8",
        "arms.between: bad: step:5 is no checkpoint; they are every 4 steps up to 12",
        "arms.small: bad: small:tiny: expected a model of `smaller` (none)",
        "arms.whole: --bad layers:1: GOOD has one layer, so none can be left out",
        "arms.wide: --bad window:19: BAD would be GOOD",
        "gone.txt: no such file",
        "evaluation.tasks: --tasks poetry: unknown",
        "blimp_fast, poetry: no such folder",
    ):
        assert part in said


def test_good_by_loss_needs_a_gap(config: Callable[..., RunConfig]) -> None:
    assert "good: best is found together with a `bad: gap:G`" in refused(config(good="best"))


def test_an_empty_data_folder(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "data/toys.txt").unlink()
    assert "toys.txt: no such file; is --data right?" in refused(config())


def test_one_source_of_three_is_missing(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "data/toys.txt", tmp_path / "data/more.txt")
    three = sources("toys.txt", "gone.txt", "more.txt")
    said = refused(config(base=toy_experiment.base(sources=three)))
    assert "source gone.txt: cannot read" in said and "more.txt:" not in said


def test_ten_documents(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    text = tmp_path / "data/toys.txt"
    text.write_text("".join(f"Document {n} is short.\n" for n in range(10)))
    few = [{**source, "validation": 0.02, "prompts": 0.02} for source in sources("toys.txt")]
    said = refused(config(base=toy_experiment.base(sources=few)))
    assert "none of its 10 documents or works falls to" in said and "more text" in said


def test_too_little_is_held_out_for_perplexity(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Without this check, training ends before it shows that one document has no interval."""
    few = [{**source, "validation": 0.02} for source in sources("toys.txt")]
    short = {"base": toy_experiment.base(sources=few)}
    said = refused(config(**short, evaluation={"tasks": ["perplexity"]}))
    assert "perplexity needs 5 held-out documents" in said and "the text has 2" in said
    (tmp_path / "data/perplexity").mkdir()  # text of its own to measure it on
    plan(config(**short, evaluation={"tasks": ["perplexity"]}))


def test_no_prompts(config: Callable[..., RunConfig]) -> None:
    none = [{**source, "prompts": 0} for source in sources("toys.txt")]
    assert "none has a share of `prompts`" in refused(
        config(base=toy_experiment.base(sources=none))
    )


def test_a_corpus_read_too_often_is_warned_of(
    config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    plan(config())
    assert "warning" not in capsys.readouterr().err
    training = {**toy_experiment.BASE["training"], "steps": 600}
    plan(config(base=toy_experiment.base(training=training), good="step:600"))
    said = capsys.readouterr().err
    assert "(ratio 0.3) times over" in said and "raise corpora.num_sequences" in said
    assert "BabyLM's rules allow 10" in said


def test_the_disk_is_too_small(
    config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(
        StorageError, match=r"too small: about .* for the \d+ stages .* 0\.0 MB free"
    ):
        run_experiment(config())
    assert not config().out.exists()


def test_two_runs_in_one_folder(config: Callable[..., RunConfig]) -> None:
    out = config().out
    out.mkdir()
    with lock(Layout(out).lock):
        for _ in range(2):  # the first refusal must not free the folder
            with pytest.raises(StorageError, match="another cdgen run is at work"):
                run_experiment(config())


def test_a_folder_of_something_else(config: Callable[..., RunConfig]) -> None:
    out = config().out
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(PlanMismatch, match=r"it holds thesis\.tex"):
        run_experiment(config())
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_folder_of_another_recipe(config: Callable[..., RunConfig]) -> None:
    """What has begun must stay as it was; what has not may change, and more may be asked for."""
    plan(config())
    plan(config(base=toy_experiment.base(vocab_size=310)))  # nothing has begun
    plan(config())
    layout = Layout(config().out)
    layout.base.mkdir()
    layout.corpus("cd").mkdir(parents=True)
    with pytest.raises(PlanMismatch, match=r"base\.vocab_size: was 300, now 310"):
        plan(config(base=toy_experiment.base(vocab_size=310)))
    cd = {"strategy": "cd", "bad": "step:4", "alpha": 0.2}
    with pytest.raises(PlanMismatch, match=r"arms\.cd\.alpha: was 0\.1, now 0\.2"):
        plan(config(arms={"cd": cd}))
    with pytest.raises(PlanMismatch, match=r"\(corpus-cd\)"):  # it could come back as another
        plan(config(arms={"vanilla": {"strategy": "vanilla"}}))
    arms = {**toy_experiment.RECIPE["arms"], "cd2": cd}
    layout.tasks.mkdir()
    with pytest.raises(PlanMismatch, match=r"evaluation\.compat: was default, now paper"):
        plan(config(evaluation={"tasks": ["perplexity"], "compat": "paper"}))
    more = {"seeds": [1, 2, 3], "mixture": {"ratios": [0.3, 0.5]}, "arms": arms}
    assert any("student-cd2-0.5-seed3" in line for line in plan(config(**more)))


def test_text_that_changed_after_the_base_run(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    plan(config())
    run = Layout(config().out).base
    run.mkdir()
    (run / "recipe.json").write_text('{"source_sha256": {"toys": "0"}}')
    with pytest.raises(PlanMismatch, match="the text of toys is not that of the base run"):
        plan(config())


@pytest.mark.parametrize(
    "only, said",
    [
        ("poem", "no such stage; expected a kind (base, tasks, corpus, student, measure, eval"),
        ("corpus", "base: needed first, and not done"),
    ],
)
def test_a_stage_that_cannot_be_run(config: Callable[..., RunConfig], only: str, said: str) -> None:
    assert said in refused(config(only))
