"""The folder of results of one checkpoint: results.json, the predictions, and a copy of them in the
form that the BabyLM pipeline collates.

A result is valid for the bytes that it was computed from: its key hashes weights, tokenizer, task
data and mode. A task without a result of the right key is scored again, and results of another
checkpoint or mode are dropped from the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen import __version__
from cdgen.contained import is_inner_path, is_plain_name
from cdgen.errors import StorageError
from cdgen.eval.checkpoints import NamedCheckpoint
from cdgen.eval.modes import Mode
from cdgen.eval.summary import (
    LOWER_IS_BETTER,
    Prediction,
    Summary,
    TaskResult,
    label_fields,
    metric_fields,
)
from cdgen.storage import (
    canonical_json,
    make_folder,
    remove_file,
    sha256_of,
    sync_folder,
    write_atomic,
)

SCORING = 1  # raise it when the same model and data would get other scores

# The fields of results.json that lm-evaluation-harness keys by task, besides "results".
_BY_TASK = ("configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks")


@dataclass
class ResultFolder:
    """The results of one checkpoint in one mode, as they are on disk."""

    folder: Path
    identity: dict[str, Any]  # the checkpoint, the mode and the version of the scoring
    document: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, named: NamedCheckpoint, sha256: str, mode: Mode) -> ResultFolder:
        """Open `folder`, dropping results that are not this checkpoint's in this mode."""
        identity = {"model_sha256": sha256, "mode": mode.name, "scoring": SCORING}
        document = read_results(folder) if (folder / "results.json").exists() else {}
        known = document.get("config", {})
        if document and any(known.get(key) != value for key, value in identity.items()):
            print(
                f"{folder}: dropping the results of {known['model']} ({known['mode']}): the"
                " weights, tokenizer or mode have changed",
                file=sys.stderr,
            )
            _remove_scores(folder, document)
            document = {}
        document["config"] = {
            **document.get("config", {}),
            **identity,
            "model": named.name,
            "step": named.step,
            "validation_loss": named.validation_loss,
            "dtype": "float32",
        }
        document["config"].pop("invalid", None)  # the checkpoint may have been repaired
        document["cdgen_version"] = __version__
        for name in ("results", *_BY_TASK):
            document.setdefault(name, {})
        make_folder(folder / "predictions")
        return cls(folder, identity, document)

    def key(self, data_sha256: str) -> str:
        return hashlib.sha256(canonical_json({**self.identity, "data": data_sha256})).hexdigest()

    def has(self, task: str, data_sha256: str) -> bool:
        """Return whether the task has a result, and its predictions are those it came from."""
        config = self.document["configs"].get(task, {})
        predictions = self.folder / "predictions" / f"{task}.jsonl"
        return (
            config.get("key") == self.key(data_sha256)
            and predictions.exists()
            and sha256_of(predictions) == config["predictions_sha256"]
        )

    def add(self, task: str, data_sha256: str, result: TaskResult) -> None:
        """Write a task's result, in place of an earlier one."""
        for place, content in result.collated.items():
            self._collate(place, content)
        self.drop(task)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in result.predictions)
        path = self.folder / "predictions" / f"{task}.jsonl"
        written = write_atomic(path, "".join(lines).encode())
        summary = result.summary
        self.document["configs"][task] = {
            "task": task,
            "key": self.key(data_sha256),
            "data_sha256": data_sha256,
            "predictions_sha256": written.sha256,
            "labels": label_fields(summary.labels),
            **({"kind": result.kind} if result.kind else {}),
        }
        self.document["versions"][task] = SCORING
        self.document["n-shot"][task] = 0
        better = {name: name not in LOWER_IS_BETTER for name in summary.metrics}
        self.document["higher_is_better"][task] = better
        self.document["n-samples"][task] = {"original": summary.items, "effective": summary.items}
        self._add_results(task, summary)
        self.save()

    def _add_results(self, task: str, summary: Summary) -> None:
        results = self.document["results"]
        results[task] = {
            "alias": task,
            **metric_fields(summary.metrics),
            **{f"{name},none": value for name, value in summary.extra.items()},
            "ties,none": summary.ties,
            "cut,none": summary.cut,
        }
        if summary.parts:
            metric = next(iter(summary.metrics))
            names = {part: f"{task}_{part}" for part in summary.parts}
            for part, (estimate, items) in summary.parts.items():
                fields = metric_fields({metric: estimate})
                results[names[part]] = {"alias": f" - {part}", **fields, "items,none": items}
            self.document["group_subtasks"][task] = sorted(names.values())

    def invalidate(self, reason: str) -> None:
        """Remove all scores of a checkpoint that cannot be scored, and note the reason."""
        _remove_scores(self.folder, self.document)
        for name in ("results", *_BY_TASK):
            self.document[name] = {}
        self.document["config"]["invalid"] = reason
        self.save()

    def drop(self, task: str) -> None:
        """Take a task's scores out of the document; `save` writes it."""
        for part in self.document["group_subtasks"].get(task, ()):
            self.document["results"].pop(part, None)
        for name in ("results", *_BY_TASK):
            self.document[name].pop(task, None)

    def _collate(self, place: str, predictions: dict[str, Any]) -> None:
        """Write predictions.json to `place`, its folder below the pipeline's
        results/MODEL/REVISION/."""
        path = self.folder / "babylm2025" / place / "predictions.json"
        make_folder(path.parent)
        write_atomic(path, json.dumps(predictions, ensure_ascii=False).encode())
        self.document["collated"] = sorted({*self.document.get("collated", ()), place})

    def save(self) -> None:
        write_atomic(self.folder / "results.json", canonical_json(self.document))


def _remove_scores(folder: Path, document: dict[str, Any]) -> None:
    """Delete the predictions listed in `document`; keep all other files."""
    for task in document.get("configs", {}):
        remove_file(folder / "predictions" / f"{task}.jsonl")
    for place in document.get("collated", ()):
        remove_file(folder / "babylm2025" / place / "predictions.json")


def make_room(out: Path) -> None:
    """Move the results of a lone checkpoint, which are in `out` itself, to a folder below `out`:
    beside those of several checkpoints they would pass for the run's."""
    if not (out / "results.json").exists():
        return
    target = out / read_results(out)["config"]["model"]
    make_folder(target)
    for name in ("predictions", "babylm2025", "results.json"):
        if (out / name).exists() and not (target / name).exists():
            (out / name).rename(target / name)
            # At once: if power fails, results.json must not have moved without its predictions.
            sync_folder(target)
            sync_folder(out)
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def read_results(folder: Path) -> dict[str, Any]:
    """Return the content of results.json. Raises StorageError if it is missing or damaged, or if a
    name in it, by which files are moved and deleted, is a path."""
    path = folder / "results.json"
    try:
        document = json.loads(path.read_bytes())
        config = document["config"]
        assert isinstance(config["model_sha256"], str) and is_plain_name(config["model"])
        assert all(map(is_plain_name, document["configs"]))
        assert all(map(is_inner_path, document.get("collated", ())))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise StorageError(
            f"{path} is damaged or not from cdgen eval: move it away, or name another --out"
        ) from error
    return dict(document)


def read_predictions(folder: Path, task: str) -> list[Prediction]:
    """Return the predictions behind a result. Raises StorageError unless it came from them."""
    path = folder / "predictions" / f"{task}.jsonl"
    expected = read_results(folder)["configs"][task]["predictions_sha256"]
    if not path.exists() or sha256_of(path) != expected:
        raise StorageError(f"{path} is missing or was changed: run cdgen eval again")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
