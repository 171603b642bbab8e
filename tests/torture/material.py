"""What the commands of the campaign work on: a tiny pair, prompts, recipes, and what undisturbed
commands make of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import toy_experiment
import toy_run
import yaml
from commands import Change, fork_stages, in_a_fork, run, unchanged
from tiny_pair import PairFolders, save_tiny_pair

from cdgen.corpus.plan import Plan
from cdgen.generation import new_plan

RANGE_SIZE = 16
RANGES = 3
ROWS_PER_FILE = 32  # the first file has two ranges, the second one
FORMATS = ("parquet", "jsonl")
TRAINED = ("*.safetensors", "*.npy", "budget.json", "mixture.json", "validation.jsonl")
EXPERIMENT = (
    *("*.safetensors", "corpora/*/data/*", "measures/*.json"),
    *("predictions/*.jsonl", "eval/*/results.*", "eval/*/subtasks.md", "eval/*/curve.csv"),
    *("compare/compare.*", "compare/figures.png"),
)
TASKS: dict[str, list[dict[str, str]]] = {
    "blimp_words/order.jsonl": [
        {"sentence_good": f"w{n} w{n + 1} w3", "sentence_bad": f"w{n + 1} w{n}"}
        for n in range(5, 21)
    ],
    "perplexity/words.jsonl": [{"text": f"w{n} w9 w{n + 2}"} for n in range(5, 13)],
}
PAGE = ("report.html", "report.md", "figures/*.svg")  # with times in them


@dataclass(frozen=True)
class Expected:
    """The files of an undisturbed command. Of a training run and of an experiment, those with a
    time, a rate or a path in them do not count, or need only be there."""

    names: tuple[str, ...]  # patterns
    there: tuple[str, ...]  # patterns of files whose content does not count
    sha256: dict[str, str]

    @classmethod
    def of(
        cls, out: Path, names: tuple[str, ...] = ("*",), there: tuple[str, ...] = ()
    ) -> Expected:
        """Read the files of `out`, except locks and heartbeats."""
        found = {}
        for path in sorted(out.rglob("*")):
            passing = path.name.endswith(".lock") or path.parent.name == "heartbeats"
            if passing or not path.is_file():
                continue
            if any(map(path.match, names)):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(out))] = digest
            elif any(map(path.match, there)):
                found[str(path.relative_to(out))] = "there"
        return cls(names, there, found)

    def differences(self, out: Path) -> list[str]:
        """Return the files of `out` that are missing, surplus or of other bytes."""
        found = Expected.of(out, self.names, self.there).sha256
        names = {*found, *self.sha256}
        return sorted(name for name in names if found.get(name) != self.sha256.get(name))


class Material:
    """The folder of a campaign, and the commands that it tries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "said.txt"
        self.pair = PairFolders(folder / "models/good", folder / "models/bad")
        in_a_fork(lambda: save_tiny_pair(folder / "models"))
        self.prompts = folder / "prompts.txt"
        self.prompts.write_text("w3 w4 w5\nw20 w21\n")
        self._numbers = itertools.count()
        new_plan.Plan = partial(Plan, rows_per_file=ROWS_PER_FILE)  # type: ignore[misc]

    def fresh(self) -> Path:
        """Return the path of a new OUT."""
        return self.folder / f"out-{next(self._numbers)}"

    # ---- commands ------------------------------------------------------------------------------

    def generate(self, out: Path, format: str, *more: str) -> list[str]:
        """Return the command that writes three ranges, and then two files, of 48 sequences."""
        pair = ("--good", str(self.pair.good), "--bad", str(self.pair.bad))
        sizes = ("--num-sequences", "24", "--prompt-tokens", "4", "--max-new-tokens", "6")
        work = ("--slots", "16", "--range-size", str(RANGE_SIZE), "--logprobs")
        paths = ("--prompts", str(self.prompts), "--out", str(out))
        return ["generate", *pair, *paths, *sizes, *work, "--format", format, *more]

    def finalize(self, out: Path) -> list[str]:
        return ["finalize", str(out)]

    def train(self, out: Path, exports: Literal["pair", "model"] = "pair") -> list[str]:
        """Return the command that trains a model in 27 steps, and exports a pair or a student."""
        data = self.folder / exports
        if not data.exists():
            data.mkdir()
            gap = toy_run.RECIPE["bad_gap"] if exports == "pair" else None
            toy_run.write_toy(data).write_text(yaml.safe_dump({**toy_run.RECIPE, "bad_gap": gap}))
        paths = ("--config", str(data / "recipe.yaml"), "--data", str(data), "--out", str(out))
        return ["train", *paths]

    def experiment(self, out: Path) -> list[str]:
        """Return the command of an experiment of one corpus and two students."""
        data = self.folder / "experiment"
        if not data.exists():
            toy_experiment.write_text(data)
            arms = {"cd": toy_experiment.RECIPE["arms"]["cd"]}
            toy_experiment.write_recipe(data, arms=arms, seeds=[1])
        return ["run", str(data / "recipe.yaml"), "--data", str(data), "--out", str(out)]

    def evaluate(self, out: Path, *models: Path) -> list[str]:
        """Return the command that scores the models on two tasks."""
        data = self.folder / "tasks"
        if not data.exists():
            for name, rows in TASKS.items():
                file = data / name
                file.parent.mkdir(parents=True)
                file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return [
            "eval",
            *(argument for model in models for argument in ("--model", str(model))),
            *("--data", str(data), "--tasks", "blimp_words,perplexity", "--out", str(out)),
        ]

    # ---- what they make ------------------------------------------------------------------------

    def make(self, command: Sequence[str], change: Change = unchanged) -> None:
        """Run a command that must succeed."""
        if code := run(command, self.said, change):
            raise RuntimeError(f"{shlex.join(command)} ended with {code}: {self.said.read_text()}")

    def _expected(self, command: Sequence[str], out: Path, *names: str) -> Expected:
        self.make(command, fork_stages)
        return Expected.of(out, names or ("*",))

    @cached_property
    def corpora(self) -> dict[str, Expected]:
        """The files of an undisturbed corpus, by format."""
        outs = {format: self.fresh() for format in FORMATS}
        return {f: self._expected(self.generate(out, f), out) for f, out in outs.items()}

    @cached_property
    def trained(self) -> Expected:
        return self._trained("pair")

    @cached_property
    def student(self) -> Expected:
        return self._trained("model")

    def _trained(self, exports: Literal["pair", "model"]) -> Expected:
        out = self.fresh()
        return self._expected(self.train(out, exports), out, *TRAINED)

    @cached_property
    def experimented(self) -> Expected:
        out = self.fresh()
        self.make(self.experiment(out), fork_stages)
        return Expected.of(out, EXPERIMENT, PAGE)

    @cached_property
    def unfinished(self) -> dict[str, Path]:
        """A corpus whose ranges are all committed and not merged yet, by format."""
        made = {format: self.fresh() for format in FORMATS}
        for format, out in made.items():
            for shard in ("0/2", "1/2"):
                self.make(self.generate(out, format, "--shard", shard))
        return made
