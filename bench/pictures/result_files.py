"""The rows of every file in a folder of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdgen.bench.pictures import cpu_results, gpu_results
from cdgen.bench.pictures.row import Row, Run, run_of, with_ratios
from cdgen.errors import UsageError

# The reader of each benchmark, by the name that its file records.
READERS: dict[str, Callable[[Run, Mapping[str, Any]], Iterator[Row]]] = {
    "sample_contrastive": cpu_results.sample_contrastive,
    "decode-attention": cpu_results.decode_attention,
    "generate": cpu_results.generate,
    "bad-kinds": cpu_results.bad_kinds,
    "number-formats": cpu_results.number_formats,
    "engines": cpu_results.engines,
    "eval": cpu_results.evaluation,
    "startup": cpu_results.startup,
    "train": cpu_results.train,
    "kv_dtype": cpu_results.kv_dtype,
    "scale": cpu_results.scale,
    "gpu_sample_contrastive": gpu_results.sample_contrastive,
    "gpu_decode_attention": gpu_results.decode_attention,
    "gpu_decoder_ops": gpu_results.decoder_ops,
    "gpu-generate": gpu_results.generate,
    "gpu-transformers": gpu_results.transformers,
}


def read_folder(folder: Path) -> list[Row]:
    """Return the rows of all files. Raises UsageError if there are none, or one has no reader."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UsageError(f"{folder}: expected files of benchmarks, found none")
    return [row for path in paths for row in read_file(path)]


def read_file(path: Path) -> list[Row]:
    document = json.loads(path.read_text())
    if "counted_not_timed" in document:
        capability = document["compute_capability"]
        hardware = f"compute capability {capability}, emulated"
        run = Run(path.name, hardware, f"triton {document['triton']}", "")
        return list(gpu_results.counted(run, document))
    if "benchmark" in document:
        return _rows(path.name, document)
    return [row for name, each in document.items() for row in _rows(f"{path.name}: {name}", each)]


def _rows(file: str, document: Mapping[str, Any]) -> list[Row]:
    reader = READERS.get(document["benchmark"])
    if reader is None:
        raise UsageError(f"{file}: no reader for the benchmark {document['benchmark']!r}")
    run = run_of(file, document["environment"])
    return with_ratios(list(reader(run, document["result"])))
