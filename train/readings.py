"""The readings of a word budget, collected from the records of runs.

Every run writes its own budget. A student's budget is complete only with the runs of the pair that
wrote its synthetic text: `experiment_budget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.checkpoint import open_checkpoint, read_json, reading
from cdgen.checkpoints.pair_file import resolve_pair
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.plan import Plan
from cdgen.errors import ModelError, UsageError
from cdgen.train.budget import Budget, Reading, Role, Text, write_budget
from cdgen.train.checkpoints import MARKER
from cdgen.train.data.synthetic import manifest_sha256
from cdgen.train.data.tokenizer import tokenizer_identity
from cdgen.train.pair.choice import choose_pair_of_run
from cdgen.train.record import Record, read_record


def write_run_budget(run: Path) -> None:
    """Write the budget of a finished run to its folder."""
    write_budget(run_budget(run), run)


def run_budget(run: Path) -> Budget:
    """Return the budget of a finished run: its tokenizer and its pair or its student."""
    gap = _record(run).bad_gap
    readings = tokenizer_readings(run)
    if gap is None:
        readings += model_readings(run, "student")
    else:
        steps = choose_pair_of_run(run, gap)
        readings += model_readings(run, "GOOD", steps.good)
        readings += model_readings(run, "BAD", steps.bad)
    return Budget(tuple(readings))


def budget_of_pairs(student: Path, pairs: Sequence[Path]) -> Budget:
    """Return `experiment_budget` for the models of pair files that share their GOOD."""
    if not pairs:
        raise UsageError("--pair is missing: name the pair file that wrote the student's corpora")
    chosen = [resolve_pair(path) for path in pairs]
    goods = {good.resolve() for good, _ in chosen}
    if len(goods) > 1:
        raise UsageError(f"--pair: expected files with one GOOD, got {', '.join(map(str, goods))}")
    return experiment_budget(chosen[0][0], [bad for _, bad in chosen], student)


def experiment_budget(good: Path, bads: Sequence[str], student: Path) -> Budget:
    """Return the budget of the run `student` on corpora of the checkpoint `good` and of `bads`,
    each named as for --bad.

    Raises UsageError if a run does not record what it read, or a corpus is of other models.
    """
    record = _record(student)
    mixed = record.synthetic.corpora if record.synthetic else ()
    models = {"none"} | {_identity(bad) for bad in bads}
    for corpus in mixed:
        if manifest_sha256(corpus.path) != record.manifests[corpus.name]:
            raise UsageError(f"{corpus.path}: not the corpus that {student} was trained on")
        plan = read_manifest(CorpusFolder(corpus.path)).plan
        _require_made_by(plan, corpus.path, open_checkpoint(good).sha256, models)
    readings = [*tokenizer_readings(_run_of(good))]
    readings += tokenizer_readings(student)
    readings += _checkpoint_readings(good, "GOOD")
    for bad in bads:
        readings += _checkpoint_readings(parse_bad(bad).folder or good, "BAD")
    readings += prompt_readings([corpus.path for corpus in mixed])
    return Budget((*dict.fromkeys(readings), *model_readings(student, "student")))


def model_readings(run: Path, role: Role, step: int | None = None) -> list[Reading]:
    """Return the readings of a model of `run`, at one step or the last."""
    mixture = _json(run / "mixture.json")
    texts, steps, readings = _texts(mixture, run), mixture["steps"], []
    for name, stream in mixture["streams"].items():
        if stream["sequences"]:
            # `epochs` is sequences / blocks, rounded: blocks are whole, so this is exact.
            blocks = round(stream["sequences"] / stream["epochs"])
            epochs = Fraction(stream["sequences"] * (step or steps), steps * blocks)
            read = _copies(_record(run), texts) if name == "real" else {texts[name]: 1}
            readings += [Reading(role, text, epochs * times) for text, times in read.items()]
    return readings


def tokenizer_readings(run: Path) -> list[Reading]:
    """Return the readings of the run's tokenizer. An existing one counts if it still is, file for
    file, that of a run of cdgen; of any other, nothing is known."""
    record = _record(run)
    if isinstance(record.tokenizer, Path):
        maker = _maker_of(record.tokenizer, record.tokenizer_sha256)
        return tokenizer_readings(maker) if maker else []
    copies = _copies(record, _texts(_json(run / "mixture.json"), run))
    return [Reading("tokenizer", text, Fraction(times)) for text, times in copies.items()]


def _maker_of(tokenizer: Path, sha256: str | None) -> Path | None:
    """Return the run in whose folder a tokenizer lies, as RUN/model or one level below."""
    if not (tokenizer / "tokenizer.json").is_file() or tokenizer_identity(tokenizer) != sha256:
        return None
    runs = tokenizer.resolve().parents[:2]
    return next((run for run in runs if (run / "mixture.json").is_file()), None)


def _copies(record: Record, texts: Mapping[str, Text]) -> dict[Text, int]:
    """Return how often an epoch of the real stream reads each text; two sources may hold the same
    text."""
    copies: dict[str, tuple[Text, int]] = {}
    for source in record.sources:
        text = texts[source.name]
        first, times = copies.get(text.sha256, (text, 0))
        copies[text.sha256] = first, times + source.repeat
    return dict(copies.values())


def prompt_readings(corpora: Sequence[Path]) -> list[Reading]:
    """Return the readings of the real text that begins synthetic sequences."""
    prompts = [read_manifest(CorpusFolder(corpus)).plan.prompts for corpus in corpora]
    plans = {plan.tokens_sha256: plan for plan in prompts}
    return [
        Reading("prompts", Text("prompts", sha256, plan.count * plan.prompt_tokens), Fraction(1))
        for sha256, plan in plans.items()
    ]


def _checkpoint_readings(checkpoint: Path, role: Role) -> list[Reading]:
    return model_readings(_run_of(checkpoint), role, _json(checkpoint / MARKER)["step"])


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.resolve().parent.parent  # RUN/checkpoints/checkpoint-N or RUN/pair/good


def _texts(mixture: Mapping[str, Any], run: Path) -> dict[str, Text]:
    """Return the texts that the run was trained on, by the names of sources and corpora."""
    try:
        return {name: Text(name, **facts) for name, facts in mixture["texts"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{run / 'mixture.json'} is of another version of cdgen: run the command of {run} again"
        ) from error


def _identity(bad: str) -> str:
    """Return a BAD as a plan names it."""
    source = parse_bad(bad)
    return source.plan_text(open_checkpoint(source.folder).sha256 if source.folder else None)


def _require_made_by(plan: Plan, corpus: Path, good: str, bads: set[str]) -> None:
    if plan.good_sha256 != good or plan.bad not in bads:
        role = "GOOD" if plan.good_sha256 != good else "BAD"
        raise UsageError(f"{corpus}: made with another {role}; name the one of its manifest.json")


def _record(run: Path) -> Record:
    if (record := read_record(run)) is None:
        raise UsageError(f"cannot read {run / 'recipe.json'}: expected a run of cdgen train")
    return record


def _json(path: Path) -> dict[str, Any]:
    try:
        with reading(path.parent):
            return read_json(path)
    except ModelError as error:  # here it means that another folder was given
        raise UsageError(f"expected a run of cdgen train: {error}") from error
