"""`cdgen compare OUT`: every result below a folder in one table, without a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.eval.report.results import read_results
from cdgen.eval.report.tables import markdown


def results_below(out: Path) -> list[dict[str, Any]]:
    """Return every results.json in `out` and the folders below it, with the folder as the name of
    its model: checkpoints of several runs may be called alike. Raises UsageError if there is none,
    StorageError if one is damaged."""
    folders = sorted(path.parent for path in out.rglob("results.json") if _is_evaluation(path))
    if not folders:
        raise UsageError(f"{out}: expected results of cdgen eval in it or below (no results.json)")
    return [_named(read_results(folder), folder.relative_to(out)) for folder in folders]


def _is_evaluation(path: Path) -> bool:
    """Return whether `cdgen eval` wrote the file; an experiment has a results.json of its own."""
    return (path.parent / "predictions").is_dir()


def _named(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    name = document["config"]["model"] if folder == Path() else str(folder)
    return {**document, "config": {**document["config"], "model": name}}


def overview(documents: list[dict[str, Any]]) -> str:
    """Return a table for each mode of scoring, because scores of two modes do not compare."""
    modes = dict.fromkeys(document["config"]["mode"] for document in documents)
    tables = (markdown([d for d in documents if d["config"]["mode"] == mode]) for mode in modes)
    return "\n".join(tables)
