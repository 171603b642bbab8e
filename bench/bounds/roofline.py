"""The least time that a decode step of a pair can take: bytes and FLOPs by part, from config.json.

    python -m cdgen.bench.bounds.roofline --good DIR --bad DIR --slots 1024 --context 220 --gpu h200

A step draws one token in every slot. Each stage below takes at least its bytes over the bandwidth
and at least its FLOPs over the rate of matrix products; stages run one after the other, so the
bound is the sum of the larger of the two. B slots, mean context T, n plausible tokens on average,
both models' layers in one batch:

| stage | part | bytes | FLOPs |
|---|---|---|---|
| layers | weights | every matrix once | 2 per weight and row |
| layers | activations | per row and layer, each op's input read and its result written | - |
| KV | reads | keys and values of T tokens per row | 4 H Dh T per row and layer |
| KV | writes | those of one token per row | - |
| GOOD's head | head | V D weights, B V logits written | 2 V D per row |
| GOOD's head | sampler | B V logits read | - |
| BAD's head | head | min(B n, V) rows of D | 2 n D per row |
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdgen.engine.memory import kv_bytes_per_token
from cdgen.errors import CdgenError, ModelError, UsageError

if TYPE_CHECKING:
    from cdgen.models.config import DecoderConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
# Bytes per second of a large copy, 16-bit FLOPs per second of a large product. For an H200 both are
# as reached: nine tenths and four fifths of its data sheet. An H100 SXM has the same compute, and
# memory of 3.35 TB/s instead of 4.8.
GPUS = {"h200": (4.30e12, 790e12), "h100": (3.00e12, 790e12)}
# Tokens with at least a tenth of the largest probability: 4.6 to 7.7 on average for a model of 135M
# parameters on three kinds of text.
MEAN_PLAUSIBLE = 6.0

# The parts of a stage overlap.
STAGES = {
    "layers": ("layer weights", "activations"),
    "KV reads": ("KV reads",),
    "KV writes": ("KV writes",),
    "GOOD's head": ("GOOD's head", "sampler"),
    "BAD's head": ("BAD's head",),
}


@dataclass(frozen=True)
class Part:
    bytes: float
    flops: float

    def __add__(self, other: Part) -> Part:
        return Part(self.bytes + other.bytes, self.flops + other.flops)

    def microseconds(self, bandwidth: float, flops_per_second: float) -> float:
        return 1e6 * max(self.bytes / bandwidth, self.flops / flops_per_second)


@dataclass(frozen=True)
class Bound:
    """The bytes and FLOPs of one step, by part."""

    parts: dict[str, Part]

    def stages(self) -> dict[str, Part]:
        return {
            stage: sum((self.parts[name] for name in names), Part(0, 0))
            for stage, names in STAGES.items()
        }

    def microseconds(
        self,
        bandwidth: float,  # bytes per second
        flops_per_second: float,
    ) -> float:
        return sum(s.microseconds(bandwidth, flops_per_second) for s in self.stages().values())


def activation_numbers(shape: DecoderConfig) -> int:
    """Return the numbers read and written per row and step. Norms read the residual stream and the
    addend, write both it and the normed row; each product reads its input and writes its output;
    rotary reads and writes queries, keys and values; attention reads queries and writes as much."""
    hidden, inner, query = shape.hidden_size, shape.intermediate_size, shape.query_size
    qkv = query + 2 * shape.kv_size
    gates = 2 if shape.activation == "silu" else 1
    norms = 2 * 4 * hidden
    attention = (hidden + qkv) + 2 * qkv + 2 * query + (query + hidden)
    mlp = (hidden + gates * inner) + (gates + 1) * inner
    return shape.num_hidden_layers * (norms + attention + mlp + inner + hidden)


def step_bound(
    good: DecoderConfig,
    bad: DecoderConfig | None,
    slots: int,
    context: float,  # mean number of keys that a row attends to
    *,
    dtype_bytes: int = 2,
    kv_bytes: int = 2,
    plausible: float = MEAN_PLAUSIBLE,  # mean size of the plausible set
    shared_weights: bool = False,  # BAD is GOOD under dropout
) -> Bound:
    """Return the bytes and FLOPs of one step by part. With `plausible` the vocabulary size, BAD's
    head is a whole product."""
    models = [good] if bad is None else [good, bad]
    weights = sum(m.layer_parameters for m in (models[:1] if shared_weights else models))
    products = 2 * slots * sum(m.layer_parameters for m in models)
    keys = slots * context
    scores = 4 * keys * sum(m.num_hidden_layers * m.query_size for m in models)
    cached = slots * sum(kv_bytes_per_token(m, kv_bytes) for m in models)
    logits = slots * good.vocab_size * dtype_bytes
    head = good.vocab_size * good.hidden_size
    bad_head = Part(0, 0)
    if bad is not None:
        rows = min(slots * plausible, bad.vocab_size)
        hidden = bad.hidden_size
        bad_head = Part(rows * hidden * dtype_bytes, 2 * slots * plausible * hidden)
    return Bound(
        {
            "layer weights": Part(weights * dtype_bytes, products),
            "activations": Part(slots * dtype_bytes * sum(map(activation_numbers, models)), 0),
            "KV reads": Part(cached * context, scores),
            "KV writes": Part(cached, 0),
            "GOOD's head": Part(head * dtype_bytes + logits, 2 * slots * head),
            "BAD's head": bad_head,
            "sampler": Part(logits, 0),
        }
    )


def read_config(folder: Path, context: float) -> DecoderConfig:
    """Read the shape of a model. Raises ModelError if the lean decoders do not cover it."""
    from cdgen.models.registry import lean_config

    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    shape = lean_config(config, int(context))
    if shape is None:
        raise ModelError(
            f"{folder}: expected a model that the lean decoders compute, with room for"
            f" {int(context)} tokens, got model_type {config.get('model_type')!r}"
        )
    return shape


def table(bound: Bound, slots: int, bandwidth: float, flops_per_second: float) -> str:
    total = bound.microseconds(bandwidth, flops_per_second)
    lines = ["| part | MB | GFLOP | us by bytes | us by FLOPs |", "|---|---|---|---|---|"]
    for name, part in bound.parts.items():
        by_bytes, by_flops = 1e6 * part.bytes / bandwidth, 1e6 * part.flops / flops_per_second
        lines.append(
            f"| {name} | {part.bytes / 1e6:.1f} | {part.flops / 1e9:.1f} | {by_bytes:.1f}"
            f" | {by_flops:.1f} |"
        )
    lines += ["", "| stage | at least us | share |", "|---|---|---|"]
    for name, stage in bound.stages().items():
        least = stage.microseconds(bandwidth, flops_per_second)
        lines.append(f"| {name} | {least:.1f} | {least / total:.1%} |")
    lines += ["", f"{total:.1f} us per step, {1e6 * slots / total:,.0f} tokens/s at most"]
    return "\n".join(lines)


def _rates(args: argparse.Namespace) -> tuple[float, float]:
    """Return bandwidth and FLOP rate. Raises UsageError unless a known GPU or both figures are
    given."""
    if args.gpu:
        if args.dtype == "float32":
            raise UsageError("--gpu: its FLOPs are those of 16 bits; give --bandwidth and --tflops")
        return GPUS[args.gpu]
    if args.bandwidth is None or args.tflops is None:
        raise UsageError("expected --gpu, or both --bandwidth (GB/s) and --tflops")
    return args.bandwidth * 1e9, args.tflops * 1e12


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--good", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bad", default="none", metavar="DIR|dropout:P|none")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=float, required=True, help="mean tokens in a row's cache")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--kv-dtype", choices=tuple(BYTES), help="of the KV caches; as --dtype")
    parser.add_argument("--plausible", type=float, default=MEAN_PLAUSIBLE, help="tokens on average")
    parser.add_argument("--gpu", choices=tuple(GPUS))
    parser.add_argument("--bandwidth", type=float, metavar="GB/s")
    parser.add_argument("--tflops", type=float)
    return parser.parse_args()


def main() -> int:
    try:
        print(_answer(_arguments()))
    except CdgenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _answer(args: argparse.Namespace) -> str:
    rates, good = _rates(args), read_config(args.good, args.context)
    dropped = args.bad.startswith("dropout:")
    bad = good if dropped else None
    if args.bad != "none" and not dropped:
        bad = read_config(Path(args.bad), args.context)
    bound = step_bound(
        good,
        bad,
        args.slots,
        args.context,
        dtype_bytes=BYTES[args.dtype],
        kv_bytes=BYTES[args.kv_dtype or args.dtype],
        plausible=args.plausible,
        shared_weights=dropped,
    )
    return table(bound, args.slots, *rates)


if __name__ == "__main__":
    sys.exit(main())
