"""Results files as the GPU benchmarks write them, with made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "processor": "some processor",
    "threads": 2,
    "kernels": "avx2",
    "gpu": {"name": "some GPU"},
    "versions": {"torch": "2.13.0"},
    "commit": "abc",
}
_TIMES = {
    "triton": {"p20": 9.0, "p50": 10.0, "p80": 11.0, "how": "graph", "samples": 5},
    "reference": {"p20": 190.0, "p50": 200.0, "p80": 210.0, "how": "graph", "samples": 5},
}
_OUTCOME = {"bytes": 20_000, "us": _TIMES, "over_triton": {"reference": 19.5}, "skipped": {}}
_SAMPLER = {"setting": "1024 x 50257", **_OUTCOME}
_ATTENTION = {
    "sequences": 1024,
    "models": 2,
    "kv_heads": 12,
    "mean_context": 220.0,
    "lengths": "equal",
    **_OUTCOME,
}
RESULTS: dict[str, dict[str, Any]] = {
    "gpu_sample_contrastive": {"copy_bandwidth_gb_per_s": 4.0, "settings": [_SAMPLER]},
    "gpu_decode_attention": {"copy_bandwidth_gb_per_s": 4.0, "settings": [_ATTENTION]},
    "gpu_decoder_ops": {
        "copy_bandwidth_gb_per_s": 4.0,
        "sequences": 1024,
        "ops": [{"op": "gelu", "models": 1, **_OUTCOME}],
    },
    "gpu-generate": {"steady": {"contrast": {"tokens_per_s": 100}, "fp8": {"failed": "no"}}},
    "eval": {"device": "cuda", "zero_shot": {"seconds": 60.0, "peak_mb": 900}},
    "gpu-transformers": {"generate, 64 rows": 5, "generate_batch": {"failed": "no"}},
}


def write(folder: Path, benchmark: str, result: dict[str, Any]) -> None:
    document = {"benchmark": benchmark, "environment": ENVIRONMENT, "result": result}
    name = benchmark.replace("gpu_", "gpu-").replace("_", "-")
    (folder / f"{name}.json").write_text(json.dumps(document))


def write_all(folder: Path) -> None:
    for benchmark, result in RESULTS.items():
        write(folder, benchmark, result)
