"""Training throughput of `cdgen train`: tokens per second and model FLOP utilisation.

    python -m cdgen.bench.end_to_end.bench_train --out OUT/cpu-train.json       # the smoke shape
    python -m cdgen.bench.end_to_end.bench_train --paper-size --out OUT/gpu-train.json  # on a GPU

--paper-size is the base model of Ulm et al. 2025 (12 layers, width 768; 113M parameters without the
embeddings) at 256 blocks of 1,024 tokens. The text is random words, because speed does not depend
on their meaning. The first third of the steps is warm-up (compilation, caches) and not counted.

FLOPs of a token: 6 per parameter of a matrix product, the head included, and 12 L D T / 2 for
causal attention over T tokens (Chowdhery et al. 2022, appendix B, halved by the mask).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from cdgen.bench.timing.environment import write_result

# Dense bf16 tensor-core peak of an H100 or H200 SXM, according to NVIDIA's data sheet.
PEAK = {"cuda": 989e12}

SMALL: dict[str, Any] = {
    "vocab_size": 2048, "block_size": 128,
    "model": {
        "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "training": {"steps": 60, "batch_blocks": 16, "micro_batch_blocks": 16},
}  # fmt: skip
PAPER: dict[str, Any] = {
    "vocab_size": 32000, "block_size": 1024,
    "model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 12, "tie_word_embeddings": False,
    },
    "training": {"steps": 60, "batch_blocks": 256, "micro_batch_blocks": 32},
}  # fmt: skip


def recipe(shape: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    training = {
        **shape["training"], "learning_rate": 1e-3, "warmup_steps": 10, "weight_decay": 0.1,
        "max_grad_norm": 1.0, "checkpoint_every": shape["training"]["steps"], "bf16": on_gpu,
        "compile": on_gpu,
    }  # fmt: skip
    source = {"name": "words", "path": "words.txt", "licence": "none", "split": "rows"}
    return {"name": "bench", "seed": 0, "sources": [source], **shape, "training": training}


def write_words(path: Path, words: int) -> None:
    """Write documents of 200 random words, from a vocabulary of 60,000 under Zipf's law."""
    rng = random.Random(0)
    lexicon = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(60_000)]
    weights = [1 / (rank + 10) for rank in range(len(lexicon))]
    with path.open("w") as file:
        for _ in range(words // 200):
            file.write(" ".join(rng.choices(lexicon, weights, k=200)) + "\n")


def flops_per_token(shape: dict[str, Any]) -> float:
    model, length = shape["model"], shape["block_size"]
    width, layers, inner = (
        model[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    shared = model["num_key_value_heads"] / model["num_attention_heads"]
    layer = width * width * (2 + 2 * shared) + 3 * width * inner
    return 6 * (layers * layer + shape["vocab_size"] * width) + 12 * layers * width * length / 2


def measure(shape: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_words(folder / "words.txt", 2_000_000 if shape is PAPER else 200_000)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(shape, device == "cuda")))
        command = [
            sys.executable,
            "-m",
            "cdgen.train",
            "--config",
            str(folder / "recipe.yaml"),
            "--data",
            scratch,
            "--out",
            str(folder / "run"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
        rates = [
            line["tokens_per_second"]
            for line in lines
            if "tokens_per_second" in line and line["step"] > shape["training"]["steps"] / 3
        ]
    rate = statistics.median(rates)
    work = rate * flops_per_token(shape)
    return {
        "device": device,
        "shape": shape,
        "tokens_per_second": round(rate),
        "all_tokens_per_second": [round(r) for r in rates],
        "tflops": round(work / 1e12, 3),
        "mfu": round(work / PEAK[device], 3) if device in PEAK else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper-size", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    write_result("train", measure(PAPER if args.paper_size else SMALL), args.out)


if __name__ == "__main__":
    main()
