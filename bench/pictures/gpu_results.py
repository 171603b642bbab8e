"""The rows of each benchmark that runs on a GPU, and of the counts of an emulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cdgen.bench.pictures.row import Row, Run, Spread, once

Result = Mapping[str, Any]

COUNTED = ("issue_us", "dram_us", "l2_us")
_COPY = "copy"  # a large copy, whose bandwidth is the roof


def sample_contrastive(run: Run, result: Result) -> Iterator[Row]:
    for found in result["settings"]:
        yield from _outcome(run, "sample_contrastive", found["setting"], found, result)


def decode_attention(run: Run, result: Result) -> Iterator[Row]:
    for found in result["settings"]:
        shape = (
            f"{found['models']} x {found['sequences']} sequences, {found['kv_heads']} KV heads,"
            f" {found['lengths']} lengths of {found['mean_context']}"
        )
        yield from _outcome(run, "decode_attention", shape, found, result)


def decoder_ops(run: Run, result: Result) -> Iterator[Row]:
    for found in result["ops"]:
        shape = f"{found['models']} x {result['sequences']} rows"
        yield from _outcome(run, found["op"], shape, found, result)


def _outcome(run: Run, op: str, shape: str, found: Result, result: Result) -> Iterator[Row]:
    """Yield the times of all contenders, and the bandwidth of the Triton kernel beside a copy's."""
    first = next((name for name in found["us"] if name != "triton"), "")
    for provider, us in found["us"].items():
        spread = Spread(*(us[name] for name in ("p20", "p50", "p80")))
        yield run.row(
            op,
            provider,
            spread,
            "us",
            shape=shape,
            dtype="bfloat16",
            baseline="" if provider == first else first,
            ratio=found["over_triton"].get(first) if provider == "triton" else None,
        )
    about: dict[str, Any] = {"shape": shape, "dtype": "bfloat16", "metric": "bandwidth"}
    own = found["us"]["triton"]
    bandwidths = Spread(*(found["bytes"] / own[name] / 1e3 for name in ("p80", "p50", "p20")))
    yield run.row(op, "triton", bandwidths, "GB/s", **about, baseline=_COPY)
    yield run.row(op, _COPY, once(result["copy_bandwidth_gb_per_s"]), "GB/s", **about)


def generate(run: Run, result: Result) -> Iterator[Row]:
    for name, found in result["steady"].items():
        if "tokens_per_s" in found:  # else it failed, and says how
            yield _rate(run, "cdgen", name, found["tokens_per_s"])


def transformers(run: Run, result: Result) -> Iterator[Row]:
    for name, found in result.items():
        if isinstance(found, int):
            yield _rate(run, "transformers", name, found)


def _rate(run: Run, provider: str, shape: str, tokens_per_s: int) -> Row:
    about: dict[str, Any] = {"shape": shape, "dtype": "bfloat16", "metric": "rate"}
    return run.row("generate", provider, once(tokens_per_s), "tokens/s", **about)


def counted(run: Run, result: Result) -> Iterator[Row]:
    """Yield lower bounds of times, which an emulator's counts give. Nothing was timed."""
    for found in result["rows"]:
        for bound in (bound for bound in COUNTED if bound in found):
            yield run.row(
                found["work"],
                f"emulator, {found['kernel'].strip('`')}",
                once(float(found[bound])),
                "us",
                shape=f"{found['pending_rows']} rows to finish" if "pending_rows" in found else "",
                dtype="",
                metric=f"{bound.removesuffix('_us')} bound",
            )
