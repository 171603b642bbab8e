"""The sections of the page that let another repeat it: words, hours, commands and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdgen.checkpoints.pair_file import resolve_pair
from cdgen.eval.report.methods import Method
from cdgen.eval.report.results import read_results
from cdgen.experiment.layout import Layout, Student, result_files, students_of
from cdgen.experiment.record import Experiment, StageRecord
from cdgen.experiment.report.corpora import Corpus
from cdgen.experiment.stages import Plan
from cdgen.page.parts import Section, Table
from cdgen.progress import duration
from cdgen.storage import sha256_of
from cdgen.train.budget import Budget
from cdgen.train.readings import experiment_budget, run_budget


def record_sections(
    experiment: Experiment,
    layout: Layout,
    stages: Mapping[str, StageRecord],
    corpora: Mapping[str, Corpus],
    methods: Sequence[Method],
) -> list[Section]:
    """Return the word budget, the cost, the commands and the hashes, of what is there."""
    budget = _budget_table(experiment, layout)
    rows = [[name, sha256] for name, sha256 in hashes(layout, corpora, methods).items()]
    sections = [Section("words", "Word budget", tables=[budget])] if budget.rows else []
    if stages:
        sections += [
            Section("cost", "Cost", tables=[_cost_table(stages)]),
            Section(
                "commands",
                "How to repeat it",
                [
                    f"Begun with cdgen {experiment.cdgen_version}, data in {experiment.data}."
                    " The commands, in their order:",
                    *(f"Corpora were written on {machine}." for machine in machines(corpora)),
                ],
                commands=[stage.command for stage in stages.values()],
                tables=[Table("Hashes", ["", "sha256"], rows, is_long=True)],
            ),
        ]
    return sections


def _first_students(experiment: Experiment) -> list[Student]:
    """Return a student of each method; those of other seeds read the same words."""
    first: dict[str, Student] = {}
    for student in students_of(experiment.recipe):
        first.setdefault(student.method, student)
    return list(first.values())


def _budget_table(experiment: Experiment, layout: Layout) -> Table:
    rows = []
    for student in _first_students(experiment):
        run = layout.student(student, experiment.recipe.base.seed)
        if not (run / "budget.json").is_file():
            continue
        budget = _budget_of(student, run, experiment, layout).fields()
        read = sum(r["words_read"] for r in budget["readings"] if r["reader"] == "student")
        rows.append(
            [
                student.name,
                f"{budget['source_words']:,}",
                f"{budget['synthetic_words']:,}",
                f"{read:,}",
                *(_rule(budget["rules"], track) for track in ("strict-small", "strict")),
            ]
        )
    head = ["student", "words of real text", "words of synthetic text", "words read"]
    head += ["BabyLM strict-small", "BabyLM strict"]
    return Table("What a model of each method reads, its pair and prompts included", head, rows)


def _budget_of(student: Student, run: Path, experiment: Experiment, layout: Layout) -> Budget:
    """Return the budget of a student, with the pair that wrote its text."""
    if not student.ratio:
        return run_budget(run)
    plan = Plan(experiment.recipe, experiment.data, layout, again=())
    flags, _ = plan.models_of(experiment.recipe.arms[student.arm])
    named = dict(zip(flags[::2], flags[1::2], strict=True))
    pair = resolve_pair(Path(named["--pair"])) if "--pair" in named else (None, None)
    good, bad = named.get("--good", pair[0]), named.get("--bad", pair[1])
    return experiment_budget(Path(str(good)), [] if bad == "none" else [str(bad)], run)


def _rule(rules: Mapping[str, Any], track: str) -> str:
    broken = rules[track]["broken"]
    return f"does not hold: {'; '.join(broken)}" if broken else "holds"


def _cost_table(stages: Mapping[str, StageRecord]) -> Table:
    kinds: dict[str, list[StageRecord]] = {}
    for name, stage in stages.items():
        kinds.setdefault(name.partition("-")[0], []).append(stage)
    rows = [
        [kind, str(len(own)), duration(sum(stage.seconds for stage in own))]
        for kind, own in kinds.items()
    ]
    rows.append(["all", str(len(stages)), duration(sum(s.seconds for s in stages.values()))])
    caption = "Hours:minutes:seconds by kind of stage; stages side by side count in full"
    return Table(caption, ["", "stages", "time"], rows)


def hashes(
    layout: Layout, corpora: Mapping[str, Corpus], methods: Sequence[Method]
) -> dict[str, str]:
    """Return the sha256 of everything that decides the numbers, of what is there."""
    found = {"recipe.json": sha256_of(layout.recipe)}
    mixture = layout.base / "mixture.json"
    texts = json.loads(mixture.read_bytes())["texts"] if mixture.is_file() else {}
    found |= {f"training text {name}": text["sha256"] for name, text in texts.items()}
    for arm, corpus in corpora.items():
        plan = corpus.manifest.plan
        found |= {"tokenizer": plan.tokenizer_sha256, "GOOD": plan.good_sha256}
        found |= {f"BAD of {arm}": plan.bad, f"corpus {arm}, manifest": corpus.manifest_sha256}
    for folder in (folder for method in methods for folder in method.runs):
        for path in result_files(folder):
            document = read_results(path.parent)
            own = {task: of["data_sha256"] for task, of in document["configs"].items()}
            found |= {f"task {task}": sha256 for task, sha256 in own.items()}
            config = document["config"]
            found[f"{folder.name}, {config['model']}"] = config["model_sha256"]
    return found


def machines(corpora: Mapping[str, Corpus]) -> list[str]:
    """Return the devices and libraries with which the corpora were written."""
    found: dict[str, None] = {}
    for corpus in corpora.values():
        plan = corpus.manifest.plan
        libraries = ", ".join(f"{name} {version}" for name, version in plan.libraries.items())
        found[f"{plan.device}, {plan.dtype}; {libraries}"] = None
    return list(found)
