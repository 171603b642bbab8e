"""The bound of a decode step against figures worked out elsewhere, and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shapes import paper_shape

from cdgen.bench.bounds.roofline import (
    STAGES,
    Bound,
    Part,
    activation_numbers,
    read_config,
    step_bound,
)
from cdgen.errors import ModelError

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "assets" / "demo-pair"

# Of an H200, which the figures below were worked out for.
BANDWIDTH, FLOPS = 4.3e12, 790e12


def thousands_per_second(good: Any, slots: int, context: int, **options: Any) -> float:
    """Return thousands of tokens per second of GOOD and a BAD of the same shape with a whole head
    product."""
    bound = step_bound(good, good, slots, context, plausible=good.vocab_size, **options)
    return 1e3 * slots / bound.microseconds(BANDWIDTH, FLOPS)


@pytest.mark.parametrize(
    ("slots", "kv_bytes", "expected"), [(1024, 2, 223), (1024, 1, 386), (128, 2, 191)]
)
def test_the_papers_pair(slots: int, kv_bytes: int, expected: float) -> None:
    found = thousands_per_second(paper_shape(), slots, 220, kv_bytes=kv_bytes)
    assert round(found) == expected


# (KV heads, vocabulary, slots, context): thousands of tokens per second with bf16 and fp8 caches.
TABLE = [
    (12, 16384, 1024, 256, 204, 371),
    (12, 16384, 1024, 512, 108, 204),
    (12, 16384, 4096, 256, 204, 371),
    (12, 50257, 1024, 256, 199, 354),
    (12, 50257, 1024, 1024, 55, 106),
    (4, 16384, 1024, 256, 522, 847),
    (4, 16384, 1024, 1024, 159, 296),
    (4, 50257, 1024, 512, 285, 489),
]


@pytest.mark.parametrize(("kv_heads", "vocab", "slots", "context", "bf16", "fp8"), TABLE)
def test_a_table_of_smaller_layers(
    kv_heads: int, vocab: int, slots: int, context: int, bf16: int, fp8: int
) -> None:
    good = paper_shape(intermediate_size=2048, num_key_value_heads=kv_heads, vocab_size=vocab)
    for kv_bytes, expected in ((2, bf16), (1, fp8)):
        found = thousands_per_second(good, slots, context, kv_bytes=kv_bytes)
        assert abs(found - expected) <= 0.51  # the table's own rounding


def test_parts_by_hand() -> None:
    tiny = paper_shape(
        num_hidden_layers=2,
        hidden_size=8,
        intermediate_size=10,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=100,
    )
    weights = 2 * (2 * 8 * 4 * (2 + 1) + 3 * 8 * 10)
    # norms 64; qkv 8 + 16, rotary 32, attention 16, out 16; gate and up 8 + 20, swiglu 20 + 10,
    # down 10 + 8.
    assert activation_numbers(tiny) == 2 * (64 + 24 + 32 + 16 + 16 + 28 + 30 + 18)
    bound = step_bound(tiny, tiny, 16, 5, dtype_bytes=2, kv_bytes=1, plausible=3)
    assert bound.parts == {
        "layer weights": Part(2 * 2 * weights, 2 * 2 * 16 * weights),
        "activations": Part(2 * 2 * 16 * activation_numbers(tiny), 0),
        "KV reads": Part(16 * 5 * 2 * (2 * 2 * 4), 16 * 2 * (4 * 2 * 2 * 4 * 5)),
        "KV writes": Part(16 * 2 * (2 * 2 * 4), 0),
        "GOOD's head": Part(2 * (800 + 16 * 100), 2 * 16 * 800),
        "BAD's head": Part(2 * 48 * 8, 2 * 16 * 3 * 8),
        "sampler": Part(2 * 16 * 100, 0),
    }


def test_a_mlp_without_a_gate_has_two_matrices() -> None:
    plain, gated = (step_bound(paper_shape(activation=a), None, 16, 8) for a in ("tanh", "silu"))
    one = 12 * 768 * 3072
    difference = gated.parts["layer weights"].bytes - plain.parts["layer weights"].bytes
    assert difference == 2 * one
    assert gated.parts["activations"].bytes - plain.parts["activations"].bytes == (
        2 * 16 * 12 * 2 * 3072  # the gate, written and read
    )


def test_every_part_is_in_one_stage() -> None:
    parts = step_bound(paper_shape(), paper_shape(), 64, 100).parts
    staged = [name for names in STAGES.values() for name in names]
    assert sorted(staged) == sorted(parts)


def test_a_stage_takes_the_larger_of_bytes_and_flops() -> None:
    nothing = dict.fromkeys((name for names in STAGES.values() for name in names), Part(0, 0))
    # Weights and activations overlap with the products, KV reads with neither.
    parts = nothing | {
        "layer weights": Part(30, 1000),
        "activations": Part(20, 0),
        "KV reads": Part(40, 1),
    }
    assert Bound(parts).microseconds(10, 1000) == pytest.approx(1e6 * (5 + 4))
    assert Bound(parts).microseconds(10, 100) == pytest.approx(1e6 * (10 + 4))


def test_what_makes_a_step_cheaper() -> None:
    def microseconds(bad: Any, **options: Any) -> float:
        return step_bound(paper_shape(), bad, 64, 100, **options).microseconds(BANDWIDTH, FLOPS)

    both = microseconds(paper_shape())
    assert microseconds(None) < microseconds(paper_shape(num_hidden_layers=6)) < both
    assert microseconds(paper_shape(), kv_bytes=1) < both
    assert microseconds(paper_shape(), shared_weights=True) < both
    assert microseconds(paper_shape(), plausible=100) > both


def test_without_bad_nothing_of_it_is_counted() -> None:
    alone, both = (
        step_bound(paper_shape(), None, 64, 100),
        step_bound(paper_shape(), paper_shape(), 64, 100),
    )
    assert alone.parts["BAD's head"] == Part(0, 0)
    for name in ("layer weights", "activations", "KV reads", "KV writes"):
        assert 2 * alone.parts[name].bytes == both.parts[name].bytes


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdgen.bench.bounds.roofline", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command(tmp_path: Path) -> None:
    size = ("--slots", "64", "--context", "100")
    done = run(
        "--good",
        str(DEMO / "good"),
        "--bad",
        "dropout:0.5",
        *size,
        "--kv-dtype",
        "float8_e4m3fn",
        "--bandwidth",
        "4300",
        "--tflops",
        "790",
    )
    assert done.returncode == 0, done.stderr
    good = read_config(DEMO / "good", 100)
    bound = step_bound(good, good, 64, 100, kv_bytes=1, shared_weights=True)
    expected = bound.microseconds(4.3e12, 790e12)
    last = f"{expected:.1f} us per step, {64e6 / expected:,.0f} tokens/s at most"
    assert done.stdout.splitlines()[-1] == last
    assert f"| KV reads | {bound.parts['KV reads'].bytes / 1e6:.1f} |" in done.stdout


@pytest.mark.parametrize(
    "rates", [(), ("--bandwidth", "4300"), ("--gpu", "h200", "--dtype", "float32")]
)
def test_a_command_without_both_rates_is_a_usage_error(rates: tuple[str, ...]) -> None:
    done = run("--good", str(DEMO / "good"), "--slots", "64", "--context", "100", *rates)
    assert done.returncode == 2
    assert "--bandwidth" in done.stderr and "Traceback" not in done.stderr


def test_models_that_the_lean_decoders_do_not_know_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ModelError, match=r"lean decoders compute.* got model_type 'mamba'"):
        read_config(tmp_path, 10)
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path / "nothing", 10)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path, 10)
