"""What the benchmark of decode attention counts and checks beside what it times, small."""

from __future__ import annotations

import pytest
import torch

from cdgen.bench.ops import bench_decode_attention
from cdgen.bench.ops.bench_decode_attention import CACHES, measure_cache, random_cache
from cdgen.kernels.decode_attention import decode_attention

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("LAYERS", 2), ("ROWS", 16), ("HEADS", 2), ("CAPACITY", 260)):
        monkeypatch.setattr(bench_decode_attention, name, size)


@pytest.mark.parametrize("dtype", CACHES, ids=str)
def test_bytes_are_those_of_the_entries_that_are_read(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that moves a millisecond a look, every call takes one."""
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) * 1e-3)
    found = measure_cache(dtype, torch.float32, rounds=3)
    lengths = torch.linspace(20, 260, 16).long()
    bytes_read = 2 * 2 * 2 * 64 * dtype.itemsize * int(lengths.sum())
    assert found["ms"] == 1.0 and found["of_plain_read"] == 1.0
    assert found["gb_per_s"] == found["plain_read_gb_per_s"] == round(bytes_read / 1e6, 1)


def test_a_kernel_that_computes_something_else_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(*args: object, backend: str | None = None, **more: object) -> torch.Tensor:
        out = decode_attention(*args, backend=backend, **more)  # type: ignore[arg-type]
        return out if backend == "reference" else 1.01 * out

    monkeypatch.setattr(bench_decode_attention, "decode_attention", wrong)
    with pytest.raises(AssertionError, match="not close"):
        measure_cache(torch.float32, torch.float32, rounds=1)


def test_only_int8_has_scales() -> None:
    for dtype in CACHES:
        layer = random_cache(dtype, torch.Generator().manual_seed(0))
        assert layer["keys"].dtype is layer["values"].dtype is dtype
        assert (layer["scales"] is None) is (dtype is not torch.int8)
