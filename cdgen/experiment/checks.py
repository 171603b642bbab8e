"""What is wrong with an experiment, found before anything is trained, and all of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.contained import links_below, require_contained
from cdgen.differences import differences
from cdgen.errors import PlanMismatch, UsageError
from cdgen.experiment.bad_choice import parse_bad_choice
from cdgen.experiment.costs import MANY_READINGS, Cost, read_tokens, times_read
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import Arm, Evaluation, RunRecipe
from cdgen.experiment.stages import Plan, Stage
from cdgen.experiment.tasks import PERPLEXITY, task_problems, tasks_are_there
from cdgen.experiment.text import TOKENS_PER_WORD, Text
from cdgen.storage import require_space
from cdgen.train.config import ModelShape, Recipe
from cdgen.train.data.sources import source_sha256

_MANY_EPOCHS = 10  # of the real text
_FEWEST_DOCUMENTS = 5
_NAMED = ("corpus", "smaller")  # stages of what a recipe names freely
_JUDGING = ("tasks", "measure", "eval", "compare", "report")  # stages that decide no weight
_SHOWN = 5


def recipe_problems(recipe: RunRecipe) -> list[str]:
    """Return what does not fit together in a recipe."""
    return [*_base_problems(recipe), *_good_problems(recipe), *_arm_problems(recipe)]


def _base_problems(recipe: RunRecipe) -> Iterator[str]:
    base, corpora = recipe.base, recipe.corpora
    for name in ("bad_gap", "synthetic"):
        if getattr(base, name) is not None:
            yield f"base.{name}: the arms decide that; take it out"
    needed = corpora.prompt_tokens + corpora.max_new_tokens
    if needed > base.block_size:
        yield (
            f"corpora: {corpora.prompt_tokens} prompt tokens and {corpora.max_new_tokens} new ones"
            f" need a context of {needed}, but base.block_size is {base.block_size}; lower the"
            " former or raise the latter"
        )
    if not any(source.prompts for source in base.sources):
        yield "base.sources: none has a share of `prompts`, so no corpus can be begun"


def _good_problems(recipe: RunRecipe) -> Iterator[str]:
    bads = [parse_bad_choice(arm.bad) for arm in recipe.arms.values() if arm.bad]
    by_gap = [bad for bad in bads if bad.kind == "gap"]
    if isinstance(recipe.good, int):
        yield from _step_problems(recipe.base, recipe.good, "good")
        if by_gap:
            yield (
                f"good: step:{recipe.good} and bad: gap:{by_gap[0].value} do not go together: a gap"
                " counts from the best checkpoint; write good: best, or name BAD by its step"
            )
    elif not by_gap:
        yield (
            "good: best is found together with a `bad: gap:G`, and no arm has one; write"
            f" good: step:{recipe.base.training.steps} or another checkpoint"
        )


def _arm_problems(recipe: RunRecipe) -> Iterator[str]:
    for name, arm in recipe.arms.items():
        for problem in _bad_problems(recipe, arm):
            yield f"arms.{name}: {problem}"


def _bad_problems(recipe: RunRecipe, arm: Arm) -> Iterator[str]:
    if arm.bad is None:
        return
    bad = parse_bad_choice(arm.bad)
    if bad.kind == "small" and bad.value not in recipe.smaller:
        known = ", ".join(recipe.smaller) or "none"
        yield f"bad: {arm.bad}: expected a model of `smaller` ({known})"
    shape, corpora = recipe.base.model, recipe.corpora
    if bad.kind == "of_good" and isinstance(shape, ModelShape):
        tokens = corpora.prompt_tokens + corpora.max_new_tokens
        try:
            parse_bad(bad.value).require_weaker(shape.num_hidden_layers, tokens)
        except UsageError as error:
            yield str(error)
    if bad.kind == "step":
        yield from _step_problems(recipe.base, bad.step, "bad")
        if isinstance(recipe.good, int) and bad.step >= recipe.good:
            yield f"bad: {arm.bad} is not earlier than GOOD, step {recipe.good}"


def _step_problems(base: Recipe, step: int, what: str) -> Iterator[str]:
    every, last = base.training.checkpoint_every, base.training.steps
    if step % every or step > last:
        yield (f"{what}: step:{step} is no checkpoint; they are every {every} steps up to {last}")


def require_no_way_out(layout: Layout) -> None:
    """Raise StorageError if something in the folder leads out of it, but for the evaluation data,
    which are linked and only read."""

    def is_data(link: Path) -> bool:
        return link.parent == layout.tasks and not link.name.startswith(".")  # as temporaries do

    require_contained(layout.out, (p for p in links_below(layout.out) if not is_data(p)))


def require_usable(recipe: RunRecipe, data: Path, layout: Layout, text: Text) -> None:
    """Raise UsageError with everything that is wrong."""
    problems = [*recipe_problems(recipe), *(text.problems or _text_problems(recipe, data, text))]
    if not tasks_are_there(recipe.evaluation, layout):
        problems += task_problems(recipe.evaluation, data)
    if problems:
        head = [f"{len(problems)} problems:"] if len(problems) > 1 else []
        raise UsageError("\n  ".join([*head, *problems]))


def _text_problems(recipe: RunRecipe, data: Path, text: Text) -> Iterator[str]:
    own = (data / recipe.evaluation.data / PERPLEXITY).is_dir()
    if PERPLEXITY in recipe.evaluation.tasks and not own and text.held_out < _FEWEST_DOCUMENTS:
        yield (
            f"evaluation.tasks: perplexity needs {_FEWEST_DOCUMENTS} held-out documents for an"
            f" interval that means something, and the text has {text.held_out}: raise `validation`"
            " of the sources, divide them into shorter documents, or add text"
        )


def warnings(recipe: RunRecipe, text: Text) -> Iterator[str]:
    """Yield what is allowed but unwise."""
    ratios = sorted({r for arm in recipe.arms.values() for r in recipe.ratios_of(arm)})
    times = {ratio: times_read(recipe, ratio, text) for ratio in ratios}
    if often := [f"{t:.1f} (ratio {r:g})" for r, t in times.items() if t > MANY_READINGS]:
        yield (
            f"a corpus is read {', '.join(often)} times over, or more; above {MANY_READINGS},"
            " repeated text adds little (Muennighoff et al. 2023): raise corpora.num_sequences or"
            " corpora.max_new_tokens"
        )
    epoch = text.words * TOKENS_PER_WORD
    if (epochs := read_tokens(recipe.base) / max(1.0, epoch)) > _MANY_EPOCHS:
        yield (
            f"the text, {text.words:,} words, is read about {epochs:.0f} times over; BabyLM's rules"
            f" allow {_MANY_EPOCHS}: lower base.training.steps or add text"
        )


def require_disk(out: Path, stages: Iterable[Stage], costs: Mapping[str, Cost]) -> None:
    """Raise StorageError if the disk is too small for what is left to do."""
    left = [stage for stage in stages if not stage.is_done()]
    needed = sum(max(0, costs[s.name].bytes - _bytes_in(s.place)) for s in left)
    advice = ", raise base.training.checkpoint_every, or name an --out on another disk"
    require_space(out, needed, f"the {len(left)} stages that are left", advice)


def _bytes_in(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def require_same_experiment(stages: Sequence[Stage], recipe: RunRecipe, before: Plan) -> None:
    """Raise PlanMismatch if a stage that has begun would now be another one. `before` is the plan
    of the recipe in the folder.

    Arms, ratios, seeds and tasks may be added at any time.
    """
    earlier = {s.name: s for s in before.stages() if s.kind not in _JUDGING and s.place.exists()}
    now = {stage.name: stage for stage in stages}
    changed = [
        name
        for name, old in earlier.items()
        if (new := now.get(name)) and (old.command, old.recipe) != (new.command, new.recipe)
    ]
    # Seeds and ratios may come back as they were; an arm might come back as another one.
    changed += [name for name, s in earlier.items() if s.kind in _NAMED and name not in now]
    if before.layout.tasks.exists() and _judgement(before.recipe) != _judgement(recipe):
        changed.append("evaluation")
    if changed:
        found = differences(before.recipe.model_dump(mode="json"), recipe.model_dump(mode="json"))
        found.sort(key=lambda text: "(absent)" in text)  # most of what was added is allowed
        raise PlanMismatch(
            f"{before.layout.out} holds an experiment of another recipe; what has begun would be"
            f" another ({', '.join(changed[:_SHOWN])}): {'; '.join(found[:_SHOWN])}. Use the"
            " earlier recipe to go on, or name another --out"
        )


def _judgement(recipe: RunRecipe) -> Evaluation:
    """Return how scores come about, whatever the tasks."""
    return recipe.evaluation.model_copy(update={"tasks": ()})


def require_empty(out: Path) -> None:
    """Raise PlanMismatch if a folder without an experiment holds anything."""
    if foreign := sorted({path.name for path in out.iterdir()} - {Layout(out).lock.name}):
        raise PlanMismatch(
            f"--out {out} is not empty (it holds {foreign[0]}) and has no experiment in it: choose"
            " an empty or a new folder"
        )


def require_same_text(base: Recipe, data: Path, layout: Layout) -> None:
    """Raise PlanMismatch if the text has changed since the base run began, before a student is
    trained on other text than its baseline."""
    record = layout.base / "recipe.json"
    if not record.is_file():
        return
    before = json.loads(record.read_bytes())["source_sha256"]
    now = {source.name: source_sha256(source, data) for source in base.sources}
    if changed := [name for name in now if before.get(name) != now[name]]:
        raise PlanMismatch(
            f"--data {data}: the text of {', '.join(changed)} is not that of the base run in"
            f" {layout.base}: put it back, or begin again in another --out"
        )
