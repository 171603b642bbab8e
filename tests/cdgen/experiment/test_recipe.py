"""Recipes of experiments: what they say, and what is refused before anything is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import toy_experiment
import yaml

from cdgen.errors import UsageError
from cdgen.experiment.layout import Layout, students_of
from cdgen.experiment.load import load_run_recipe
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.stages import Plan, shown_command
from cdgen.experiment.student_recipes import base_recipe, student_recipe
from cdgen.train.config import load_recipe

ROOT = Path(__file__).resolve().parents[3]


def load(folder: Path, **changes: Any) -> RunRecipe:
    path = toy_experiment.write_recipe(folder, **changes)
    return load_run_recipe(path, folder, Layout(folder / "out"))[0]


def cd(**fields: Any) -> dict[str, Any]:
    return {"arms": {"cd": {"strategy": "cd", "bad": "step:4", **fields}}}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"arm": {}}, "arm: Extra inputs are not permitted"),
        ({"mixture": {"ratios": [0.3, 1.3]}}, r"expected shares above 0 and below 1, got \[1.3\]"),
        ({"mixture": {"ratios": [0.0]}}, "expected shares above 0"),
        ({"mixture": {"ratios": [0.3, 0.3]}}, "each ratio once"),
        ({"mixture": {"ratios": [0.05], "rounding": "paper"}}, r"makes 0 of \[0.05\]"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "each seed once"),
        (cd(bad="early"), "bad: early: expected step:N"),
        (cd(bad="gap:0"), "expected gap:G with nats per token above 0"),
        (cd(bad="dropout:2"), "expected dropout:P with P between 0 and 1"),
        (cd(contrast=1.0, beta=0.5), "two forms of one number"),
        ({"arms": {"x": {"strategy": "cd"}}}, "strategy cd needs `bad`"),
        ({"arms": {"x": {"strategy": "vanilla", "bad": "step:4"}}}, "only for strategy cd"),
        ({"arms": {"x": {"strategy": "vanilla", "alpha": 0.1}}}, "has no plausible set"),
        ({"arms": {"baseline": {"strategy": "vanilla"}}}, "every experiment has"),
        ({"arms": {"a/b": {"strategy": "vanilla"}}}, "expected names of letters"),
        ({"good": "last"}, "expected step:N"),
        ({"good": [4]}, "expected step:N"),
        ({"base": 3}, "base: "),
        ({"base": "gone.yaml"}, "cannot read .*gone.yaml"),
        (
            {"paper": True, "mixture": {"ratios": [0.3], "rounding": "exact"}},
            "paper: true does not go together with mixture.rounding: exact",
        ),
        ({"paper": True, "evaluation": []}, "evaluation: "),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        load(tmp_path, **changes)


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        load(tmp_path, mixture={"ratios": [2]}, seeds=[-1], **cd(bad="early"))
    for name in ("mixture.ratios", "seeds.0", "arms.cd.bad"):
        assert name in str(refused.value)


def test_a_student_differs_from_the_base_in_mixture_and_seed_only(tmp_path: Path) -> None:
    recipe, layout = load(tmp_path), Layout(tmp_path / "out")
    for student in students_of(recipe):
        made = student_recipe(recipe, student, layout).model_dump()
        plain = base_recipe(recipe).model_dump()
        differing = {name for name in plain if plain[name] != made[name]}
        # The tokenizer is the one that the base run has trained.
        expected = {"name", "tokenizer"}
        expected |= {"seed"} if student.seed != recipe.base.seed else set()
        expected |= {"synthetic"} if student.ratio else set()
        assert differing == expected
        assert made["split_seed"] == 1 and str(made["tokenizer"]).endswith("out/base/model")


def test_the_baseline_of_the_base_seed_is_the_base_run(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    runs = {s.name: layout.student(s, base_seed=1) for s in students_of(load(tmp_path))}
    assert runs["baseline-seed1"] == layout.base
    assert [*runs] == [
        *("baseline-seed1", "baseline-seed2", "vanilla-0.3-seed1", "vanilla-0.3-seed2"),
        *("cd-0.3-seed1", "cd-0.3-seed2"),
    ]
    assert len({*runs.values()}) == len(runs)


def test_ratios_are_rounded_as_in_the_paper_only_if_asked_for(tmp_path: Path) -> None:
    """int(16 r) / 16: 30 % is 25 %, 40 % is 37.5 %."""
    for rounding, expected in (("exact", [0.3, 0.4]), ("paper", [0.25, 0.375])):
        mixture = {"ratios": [0.3, 0.4], "rounding": rounding}
        recipe = load(tmp_path, mixture=mixture, seeds=[1])
        mixed = [s for s in students_of(recipe) if s.arm == "cd"]
        made = [student_recipe(recipe, student, Layout(tmp_path)) for student in mixed]
        assert [m.synthetic.ratio for m in made if m.synthetic] == expected


def test_paper_is_the_papers_choices(tmp_path: Path) -> None:
    recipe = load(tmp_path, paper=True)
    assert (recipe.corpora.on_eos, recipe.corpora.masked_score) == ("continue", -20.0)
    assert (recipe.mixture.rounding, recipe.mixture.false_ends) == ("paper", True)
    assert (recipe.evaluation.checkpoint, recipe.evaluation.compat) == ("paper", "paper")
    assert "--on-eos continue --masked-score -20.0" in corpus_command(recipe, tmp_path)
    assert "--masked-score" not in corpus_command(load(tmp_path), tmp_path)


def corpus_command(recipe: RunRecipe, folder: Path) -> str:
    plan = Plan(recipe, folder, Layout(folder / "out"), again=())
    return next(shown_command(stage) for stage in plan.stages() if stage.kind == "corpus")


def test_base_may_be_the_file_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"name": "own", **toy_experiment.BASE}))
    assert load(tmp_path, base="base.yaml").base == load_recipe(tmp_path / "base.yaml")


def run_recipes() -> list[Path]:
    texts = {path: path.read_text() for path in sorted((ROOT / "recipes").glob("*.yaml"))}
    return [path for path, text in texts.items() if re.search(r"^arms:", text, re.MULTILINE)]


@pytest.mark.parametrize("path", run_recipes(), ids=lambda path: path.stem)
def test_a_recipe_that_comes_along_loads_under_the_name_of_its_file(path: Path) -> None:
    recipe, _ = load_run_recipe(path, ROOT, Layout(ROOT / "out"))
    assert recipe.name == path.stem
    assert f"cdgen run recipes/{path.name}" in path.read_text()
