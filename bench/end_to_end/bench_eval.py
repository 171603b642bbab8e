"""`cdgen eval` as a whole process against a plain scorer, in one run.

    python -m cdgen.bench.end_to_end.bench_eval --model MODEL --data DATA --out OUT/cpu-eval.json
    python -m cdgen.bench.end_to_end.bench_eval --model MODEL --data DATA --paper-size --device cuda

MODEL is a small checkpoint; DATA is a folder with blimp_filtered, supplement_filtered and,
optionally, entity_tracking. The plain scorer does what the BabyLM 2025 pipeline does: padded
batches of 64 in file order, one forward pass per member of a pair, a full log-softmax. It is timed
on every STRIDE-th item, and its time for all items is extrapolated. With --paper-size, a random
Llama of the paper's base shape (162M parameters) with MODEL's tokenizer is timed instead, on all
zero-shot tasks in DATA and without a baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cdgen.bench.timing.environment import write_result

BATCH = 64
PAIRS = ("blimp_filtered", "supplement_filtered")
# The plain scorer takes every n-th item: enough for its rate, in a few minutes.
STRIDE = {"pairs": 8, "entity_tracking": 40}


def run_cdgen(
    models: list[Path], data: Path, tasks: tuple[str, ...], device: str = "cpu"
) -> dict[str, Any]:
    """Run one process and return its seconds from start to exit, its peak memory and the first
    model's scores. If `tasks` is empty, it runs all zero-shot tasks."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        command = [
            sys.executable,
            "-m",
            "cdgen",
            "eval",
            "--data",
            str(data),
            "--tasks",
            ",".join(tasks),
            "--out",
            str(out),
            "--device",
            device,
            "--model",
            *map(str, models),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"{' '.join(command)}: ended with status {status}")
        first = min(out.rglob("results.json"))
        document = json.loads(first.read_text())
    scores = {name: document["results"][name] for name in document["configs"]}
    return {
        "seconds": round(seconds, 1),
        "peak_mb": used.ru_maxrss // 1000,
        "scores": {
            name: {key: score[key] for key in score if key.endswith(",none") and "_" not in key}
            for name, score in scores.items()
        },
    }


def candidates(data: Path, task: str) -> Iterator[list[tuple[str, int]]]:
    """Yield the candidates of each item, each with the index of the first character that counts."""
    for path in sorted((data / task).glob("*.jsonl")):
        for row in map(json.loads, path.open()):
            if "options" in row:
                prefix = row["input_prefix"]
                yield [(prefix + option, len(prefix)) for option in row["options"]]
            else:
                yield [(row["sentence_good"], 0), (row["sentence_bad"], 0)]


@torch.inference_mode()
def plain_scores(model: Any, tokenizer: Any, texts: list[tuple[str, int]]) -> torch.Tensor:  # [b]
    batch = tokenizer(
        [text for text, _ in texts], return_tensors="pt", padding=True, return_offsets_mapping=True
    )
    counts = batch["offset_mapping"][..., 1] > torch.tensor([start for _, start in texts])[:, None]
    mask = batch["attention_mask"]
    log_probs = model(input_ids=batch["input_ids"], attention_mask=mask).logits.log_softmax(-1)
    target = log_probs[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (target * (counts & mask.bool())[:, 1:]).sum(1)


def run_plain(
    model_folder: Path, data: Path, tasks: tuple[str, ...], stride: int
) -> dict[str, Any]:
    """Time the plain scorer on every `stride`-th item, without start-up, and extrapolate to all."""
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(
        model_folder, padding_side="right", trust_remote_code=False
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    items = [item for task in tasks for item in candidates(data, task)][::stride]
    start, right = time.perf_counter(), 0
    for begin in range(0, len(items), BATCH):
        batch = items[begin : begin + BATCH]
        columns = [[item[i] for item in batch if i < len(item)] for i in range(len(batch[0]))]
        scores = [plain_scores(model, tokenizer, column) for column in columns]
        right += int((torch.stack(scores).argmax(0) == 0).sum())
    seconds = time.perf_counter() - start
    return {
        "items": len(items),
        "seconds": round(seconds, 1),
        "seconds_for_all": round(seconds * stride, 1),
        "acc_of_these": round(right / len(items), 4),
    }


def measure_paper_size(model: Path, data: Path, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=2048,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model / name, folder)
        return {"device": device, "zero_shot": run_cdgen([Path(folder)], data, (), device)}


def measure(model: Path, data: Path, repeats: int) -> dict[str, Any]:
    groups = {"pairs": PAIRS, "entity_tracking": ("entity_tracking",)}
    here = {name: g for name, g in groups.items() if all((data / task).is_dir() for task in g)}
    found: dict[str, Any] = {}
    # This comes first, while this process is small: a child's peak memory starts at its parent's.
    if (data / "blimp_fast").is_dir():
        found["checkpoints"] = measure_checkpoints(model, data)
    runs = {n: [run_cdgen([model], data, g) for _ in range(repeats)] for n, g in here.items()}
    for name, tasks in here.items():
        best = min(runs[name], key=lambda run: run["seconds"])
        plain = run_plain(model, data, tasks, STRIDE[name])
        found[name] = {
            "cdgen": best,
            "cdgen_all_s": [run["seconds"] for run in runs[name]],
            "plain": plain,
            "ratio": round(plain["seconds_for_all"] / best["seconds"], 1),
        }
    return found


def measure_checkpoints(model: Path, data: Path) -> dict[str, Any]:
    """Run a process with one checkpoint and one with eight, to price each further checkpoint."""
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(shutil.copytree(model, Path(scratch) / f"chck_{i}M")) for i in range(1, 9)]
        runs = {str(count): run_cdgen(copies[:count], data, ("blimp_fast",)) for count in (1, 8)}
    return {count: {key: run[key] for key in ("seconds", "peak_mb")} for count, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--paper-size", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.paper_size:
        result = measure_paper_size(args.model, args.data, args.device)
    else:
        result = measure(args.model, args.data, args.repeats)
    write_result("eval", result, args.out)


if __name__ == "__main__":
    main()
