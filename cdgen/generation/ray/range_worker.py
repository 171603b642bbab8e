"""A worker of a Ray cluster: holds the loaded pair on its node and makes one range after another.

It reads neither OUT nor the prompts: the prompts of a range come with the call, and its rows go
back as the bytes of its file. The models are read at their path if they lie there, with the same
content, and otherwise come through the object store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.checkpoint import Checkpoint
from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan, PromptPlan, as_recorded
from cdgen.corpus.ranges import EncodedRange, encode_range
from cdgen.device import device_faults
from cdgen.engine.sequences import StepReport
from cdgen.errors import ModelError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.finished_rows import FinishedRows
from cdgen.generation.inputs import open_models
from cdgen.generation.new_plan import make_plan
from cdgen.generation.threads import useful_threads


@dataclass(frozen=True)
class Order:
    """What a worker is to load, and how."""

    config: GenerateConfig  # with absolute paths of the models
    prompts: PromptPlan
    good_sha256: str
    bad_sha256: str | None
    plan: Plan | None  # None: the worker makes it
    threads: int


@dataclass(frozen=True)
class ModelFiles:
    """The files of both models, each by its name as an object of the store."""

    good: Mapping[str, Any]
    bad: Mapping[str, Any] | None


@dataclass(frozen=True)
class Drawn:
    """What a worker has drawn since it was started."""

    tokens: int = 0
    plausible: int = 0  # plausible tokens, summed over all tokens drawn


class RangeWorker:
    """The actor. `drawn` answers in a thread of its own while `write` computes."""

    def __init__(self) -> None:
        self._drawn = Drawn()

    def load(self, order: Order, files: ModelFiles | None) -> Plan | None:
        """Load the pair and return the plan that this node would follow.

        Returns None, and loads nothing, if the models do not lie here as they do at the driver and
        no `files` were given. The engine is ready if the plan is the one asked for, or was asked
        for by nobody yet. Raises the errors of `generate`.
        """
        import torch

        torch.set_num_threads(order.threads)
        with TemporaryDirectory(prefix="cdgen-models-") if files else nullcontext() as scratch:
            config = order.config
            if files and scratch:
                config = _unpacked(config, files, Path(scratch))
            try:
                pair = open_models(config)
            except ModelError:
                if files:
                    raise
                return None
            if not files and _hashes(pair) != (order.good_sha256, order.bad_sha256):
                return None
            return self._build(order, config, pair)

    def _build(self, order: Order, config: GenerateConfig, pair: Pair) -> Plan:
        from cdgen.generation.build_engine import fitting_engine, make_engine

        plan = make_plan(config, pair, order.prompts)
        if order.plan is None:
            may_shrink, ranges_too = config.slots == "auto", config.range_size == "auto"
            plan, self.engine = fitting_engine(plan, pair, may_shrink, ranges_too)
        elif (plan := as_recorded(plan, order.plan)) == order.plan:
            self.engine = make_engine(plan, pair)
        self.plan, self.threads = plan, order.threads
        self.finished = FinishedRows(plan, pair)
        return plan

    def write(self, index: int, prompts: Sequence[list[int]]) -> tuple[EncodedRange, Drawn]:
        """Make range `index`, whose `prompts` begin with that of its first sequence."""
        import torch

        torch.set_num_threads(self.threads)  # of this thread, which may not be the one that loaded
        plan = self.plan
        ids = plan.sequence_ids(index)
        first = plan.prompt_id(ids.start)
        self.engine.on_step = self._step
        with device_faults(), useful_threads(self.engine):
            rows = [*self.finished.rows(self.engine, ids, lambda id_: prompts[id_ - first])]
        return encode_range(plan, index, rows), self._drawn

    def _step(self, report: StepReport) -> None:
        before = self._drawn  # replaced as a whole: `drawn` reads it from another thread
        self._drawn = Drawn(before.tokens + report.drawn, before.plausible + report.plausible)

    def drawn(self) -> Drawn:
        return self._drawn


def _hashes(pair: Pair) -> tuple[str, str | None]:
    return pair.good.sha256, pair.bad.sha256 if pair.bad else None


def model_files(model: Checkpoint) -> list[Path]:
    """Return the files of a checkpoint that a worker needs."""
    weights = {info.file for info in model.tensors.values()}
    return sorted({*weights, *model.folder.glob("*.json")})


def stored_files(pair: Pair) -> ModelFiles:
    """Put the files of both models into the object store, each from the page cache."""
    import ray

    def stored(model: Checkpoint) -> dict[str, Any]:
        return {path.name: ray.put(_content(path)) for path in model_files(model)}

    return ModelFiles(stored(pair.good), stored(pair.bad) if pair.bad else None)


def _content(path: Path) -> np.ndarray:
    if not path.stat().st_size:  # which cannot be mapped
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r"))


def _unpacked(config: GenerateConfig, files: ModelFiles, folder: Path) -> GenerateConfig:
    """Write the files into `folder` and return the settings that name them there."""
    import ray

    places: dict[str, Any] = {}
    for name, content in (("good", files.good), ("bad", files.bad)):
        if content is not None:
            place = folder / name
            place.mkdir()
            for file, stored in content.items():
                (place / file).write_bytes(ray.get(stored))
            places[name] = place if name == "good" else str(place)
    return config.model_copy(update=places)


def with_absolute_models(config: GenerateConfig) -> GenerateConfig:
    """Return the settings with the models' folders as they are called on any node."""
    places: dict[str, Any] = {"good": config.good.absolute()}
    if config.strategy == "cd" and (folder := parse_bad(config.bad).folder) is not None:
        places["bad"] = str(folder.absolute())
    return config.model_copy(update=places)
