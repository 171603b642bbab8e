"""One contrastive draw on the GPU over batch and vocabulary sizes: the Triton kernels against the
eager reference, plain PyTorch, `torch.compile` of it, and FlashInfer's sampler, which reads the
logits of one model instead of two.

    python -m cdgen.bench.ops.bench_gpu_sample_contrastive --out DIR/gpu-sample-contrastive.json

The timed CUDA graphs are the ones whose draws were just compared with the reference's, row by row,
on the same inputs. A baseline that cannot run is skipped, and the result gives the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cdgen.bench.ops.bench_sample_contrastive import pytorch
from cdgen.bench.ops.gpu_sampling_workload import (
    MAIN,
    WIDTH,
    Inputs,
    Setting,
    check,
    draw,
    make_inputs,
    sweep,
)
from cdgen.bench.timing.gpu_timing import (
    COLUMNS,
    L2,
    Call,
    cells,
    command_line,
    copy_bandwidth,
    outcome,
    prepare,
    prepare_baselines,
    sets_that_fit,
)
from cdgen.kernels.sampling_params import SampleOutput

# Peak memory of the eager contenders, whose graphs exist at the same time. On the CPU the reference
# needs 63 bytes per logit and `pytorch` 37; the GPU's sort keeps a second copy of keys and indices.
EAGER_BYTES_PER_LOGIT = 160
# Each build takes half a minute of the baselines' time.
COMPILED = [Setting(*MAIN[0], truncation) for truncation in ("none", "top-p 0.95")]
BASELINES_S = 240.0  # from then on only the Triton kernels are timed: the whole run has 8 minutes


def baselines(setting: Setting, inputs: Inputs, free_bytes: int) -> dict[str, Call | str]:
    """Return the baselines by name; a string instead of a call says why one is left out."""
    params = setting.params

    def in_fp32(good: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        return pytorch(good.float(), bad.float(), params)

    def on_sets(fn: Callable[..., torch.Tensor]) -> Call:
        def call(i: int) -> torch.Tensor:
            bad = inputs.hidden[i] @ inputs.head[i].T if setting.heads else inputs.bad[i]
            return fn(inputs.good[i], bad)

        return call

    found: dict[str, Call | str] = {
        "reference": lambda i: draw(inputs, params, i, "reference"),
        "pytorch": on_sets(in_fp32),
        "flashinfer": flashinfer(setting, inputs),
        "torch.compile": f"compiled at {' and '.join(map(str, COMPILED))} only",
    }
    if setting in COMPILED:
        found["torch.compile"] = on_sets(torch.compile(in_fp32))
    if setting.rows * setting.vocab * EAGER_BYTES_PER_LOGIT > free_bytes:
        found |= {name: "skipped: memory" for name in ("reference", "pytorch", "torch.compile")}
    return found


def flashinfer(setting: Setting, inputs: Inputs) -> Call | str:
    """Return FlashInfer's sampler on GOOD's logits alone, with the same truncation. It has no
    plausibility mask, and it takes fp32, which is converted beforehand."""
    try:
        from flashinfer.sampling import sampling_from_logits, top_k_top_p_sampling_from_logits
    except ImportError as error:
        return f"not importable: {error}"
    logits = [good.float() for good in inputs.good]
    top_k, top_p = setting.params.top_k or setting.vocab, setting.params.top_p
    if setting.truncation == "none":
        return lambda i: sampling_from_logits(logits[i])
    return lambda i: top_k_top_p_sampling_from_logits(logits[i], top_k, top_p)


def traffic(setting: Setting, drawn: SampleOutput) -> int:
    """Return the least number of bytes that one draw must move."""
    from cdgen.kernels.gpu.sample_contrastive import sample_contrastive_bytes

    return sample_contrastive_bytes(
        setting.rows,
        setting.vocab,
        setting.dtype.itemsize,
        int(drawn.plausible.sum()),
        dense=setting.flat or setting.alpha == 0,
        width=WIDTH if setting.heads else 0,
        head_itemsize=setting.dtype.itemsize,
    )


def measure_setting(
    setting: Setting, bandwidth: float, l2: L2, with_baselines: bool
) -> dict[str, Any]:
    sets = sets_that_fit(setting.set_bytes)
    inputs = make_inputs(setting, sets, "cuda")
    triton = prepare(lambda i: draw(inputs, setting.params, i, "triton"), sets)
    drawn = triton.results
    check(drawn, inputs, setting.params)
    calls: dict[str, Call | str] = {"baselines": "skipped: time"}
    if with_baselines:
        torch.cuda.empty_cache()
        calls = baselines(setting, inputs, torch.cuda.mem_get_info()[0])
    others, skipped = prepare_baselines(calls, sets)

    def mean(field: str) -> float:
        return round(float(torch.stack([getattr(out, field) for out in drawn]).float().mean()), 1)

    return {
        "setting": str(setting),
        "rows": setting.rows,
        "vocab": setting.vocab,
        "mean_plausible": mean("plausible"),
        "mean_kept": mean("kept"),
        **outcome({"triton": triton, **others}, skipped, traffic(setting, drawn[0]), bandwidth, l2),
    }


def measure() -> Iterator[dict[str, Any]]:
    start, bandwidth, l2 = time.monotonic(), copy_bandwidth(), L2()
    found: list[dict[str, Any]] = []
    for setting in sweep():
        torch.cuda.empty_cache()
        in_time = time.monotonic() - start < BASELINES_S
        found.append(measure_setting(setting, bandwidth, l2, in_time))
        print("  ".join(map(str, summary(found[-1]))), flush=True)
        yield {
            "copy_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
            "bad_head_width": WIDTH,
            "seconds": round(time.monotonic() - start, 1),
            "settings": found,
        }


HEADINGS = ("setting", "plausible", *COLUMNS)


def summary(found: dict[str, Any]) -> tuple[object, ...]:
    """Return a row of the table, in the order of `HEADINGS`."""
    return found["setting"], found["mean_plausible"], *cells(found)


def main() -> None:
    command_line(
        __doc__.splitlines()[0],
        "gpu_sample_contrastive",
        measure,
        lambda result: [HEADINGS, *map(summary, result["settings"])],
    )


if __name__ == "__main__":
    main()
