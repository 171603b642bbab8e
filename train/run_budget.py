"""What runs read, from what they recorded: the readings of a `Budget`.

Every run writes its own budget; that of a student tells the whole story only together with the
runs of the pair that wrote its synthetic text: `experiment_budget`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cdgen.checkpoint import open_checkpoint
from cdgen.config import located_pair
from cdgen.corpus import read_manifest
from cdgen.errors import UsageError
from cdgen.pair import parse_bad
from cdgen.plan import Plan
from cdgen.storage import record_checksum
from cdgen.train.budget import Budget, Reading, Role, Text, write_budget
from cdgen.train.checkpoints import MARKER
from cdgen.train.pair import checkpoint_losses, choose_pair
from cdgen.train.synthetic import manifest_sha256

TOKENIZERS = ("byte-level", "sentencepiece")  # the kinds that a recipe has made
_NOT_TEXT = {"name", "licence", "repeat"}  # of a source: they do not change what it says


def write_run_budget(run: Path, words: Mapping[str, int]) -> None:
    """Of a finished run: its tokenizer and its pair or its student. `words` has the source words
    of every stream's training part, a document counted once."""
    gap = _json(run / "recipe.json")["bad_gap"]
    readings = tokenizer_readings(run, words)
    if gap is None:
        readings += model_readings(run, "student", words)
    else:
        good, bad = choose_pair(checkpoint_losses(run / "metrics.jsonl"), gap)
        readings += model_readings(run, "GOOD", words, good)
        readings += model_readings(run, "BAD", words, bad)
    write_budget(Budget(tuple(readings)), run)


def budget_of_pairs(student: Path, pairs: Sequence[Path]) -> Budget:
    """`experiment_budget` with the models of pair files, which share their GOOD."""
    if not pairs:
        raise UsageError("--pair is missing: name the pair file that wrote the student's corpora")
    chosen = [located_pair(path) for path in pairs]
    goods = {good.resolve() for good, _ in chosen}
    if len(goods) > 1:
        raise UsageError(f"--pair: expected files with one GOOD, got {', '.join(map(str, goods))}")
    return experiment_budget(chosen[0][0], [bad for _, bad in chosen], student)


def experiment_budget(good: Path, bads: Sequence[str], student: Path) -> Budget:
    """Of the run `student`, on corpora of the checkpoint `good` and of `bads` as --bad names them.

    Raises UsageError where a run has no budget of its own, or a corpus is of other models.
    """
    recipe, words = _json(student / "recipe.json"), _words(student)
    mixing = recipe["synthetic"] or {"corpora": []}
    corpora = [Path(corpus["path"]) for corpus in mixing["corpora"]]
    models = {"none"} | {_identity(bad) for bad in bads}
    for corpus, recorded in zip(corpora, recipe["manifests"].values(), strict=True):
        if manifest_sha256(corpus) != recorded:
            raise UsageError(f"{corpus}: not the corpus that {student} was trained on")
        _require_made_by(read_manifest(corpus).plan, corpus, open_checkpoint(good).sha256, models)
    readings = [*tokenizer_readings(_run_of(good), _words(_run_of(good)))]
    readings += tokenizer_readings(student, words)
    readings += _checkpoint_readings(good, "GOOD")
    for bad in bads:
        readings += _checkpoint_readings(parse_bad(bad).folder or good, "BAD")
    readings += prompt_readings(corpora)
    return Budget((*dict.fromkeys(readings), *model_readings(student, "student", words)))


def model_readings(
    run: Path, role: Role, words: Mapping[str, int], step: int | None = None
) -> list[Reading]:
    """Of a model of `run`: that of a step, or the last."""
    recipe, mixture = _json(run / "recipe.json"), _json(run / "mixture.json")
    texts, steps = _texts(recipe, words), mixture["steps"]
    readings = []
    for name, stream in mixture["streams"].items():
        if stream["sequences"]:
            # `epochs` is sequences / blocks, rounded: blocks are whole, so this is exact.
            blocks = round(stream["sequences"] / stream["epochs"])
            epochs = Fraction(stream["sequences"] * (step or steps), steps * blocks)
            copies = 1 if texts[name].synthetic else _copies(recipe)
            readings.append(Reading(role, texts[name], epochs * copies))
    return readings


def tokenizer_readings(run: Path, words: Mapping[str, int]) -> list[Reading]:
    """Of the tokenizer that was made with `run`; none where the recipe names an existing one."""
    recipe = _json(run / "recipe.json")
    if recipe["tokenizer"] not in TOKENIZERS:
        return []
    return [Reading("tokenizer", _texts(recipe, words)["real"], Fraction(_copies(recipe)))]


def prompt_readings(corpora: Sequence[Path]) -> list[Reading]:
    """Of the real text that begins the sequences of synthetic corpora."""
    plans = {plan.tokens_sha256: plan for plan in (read_manifest(c).plan.prompts for c in corpora)}
    return [
        Reading("prompts", Text("prompts", sha256, plan.count * plan.prompt_tokens), Fraction(1))
        for sha256, plan in plans.items()
    ]


def _checkpoint_readings(checkpoint: Path, role: Role) -> list[Reading]:
    run = _run_of(checkpoint)
    return model_readings(run, role, _words(run), _json(checkpoint / MARKER)["step"])


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.resolve().parent.parent  # RUN/checkpoints/checkpoint-N or RUN/pair/good


def _words(run: Path) -> dict[str, int]:
    """Of every stream, as the run's own budget has them."""
    return {reading["text"]: reading["words"] for reading in _json(run / "budget.json")["readings"]}


def _identity(bad: str) -> str:
    """As a plan has it."""
    source = parse_bad(bad)
    if source.folder:
        return open_checkpoint(source.folder).sha256
    return f"dropout:{source.dropout}" if source.kind == "dropout" else "none"


def _require_made_by(plan: Plan, corpus: Path, good: str, bads: set[str]) -> None:
    if plan.good_sha256 != good or plan.bad not in bads:
        role = "GOOD" if plan.good_sha256 != good else "BAD"
        raise UsageError(f"{corpus}: made with another {role}; name the one of its manifest.json")


def _texts(recipe: Mapping[str, Any], words: Mapping[str, int]) -> dict[str, Text]:
    sources = [
        {key: value for key, value in source.items() if key not in _NOT_TEXT}
        for source in recipe["sources"]
    ]
    identity = record_checksum({"sources": sources, "seed": recipe["seed"]})
    texts = {"real": Text("real", identity, words["real"])}
    for name, manifest in recipe["manifests"].items():
        texts[name] = Text(name, manifest, words[name], synthetic=True)
    return texts


def _copies(recipe: Mapping[str, Any]) -> int:
    """How often an epoch of the real stream reads the source that it repeats most."""
    return max(int(source.get("repeat", 1)) for source in recipe["sources"])


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path} ({error}): expected a run of cdgen train") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
