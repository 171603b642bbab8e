"""From a plan to an engine: devices, dtypes, and a device that is too small or fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.status import status
from cdgen.device import choose_device, choose_dtypes
from cdgen.engine.sequences import Request, Sequence
from cdgen.engine.slot_engine import SlotEngine
from cdgen.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- what auto means ---------------------------------------------------------------------------


def test_dtypes() -> None:
    assert choose_dtypes("auto", "auto", "cpu", True) == ("float32", "float32")
    assert choose_dtypes("auto", "auto", "cuda", True) == ("bfloat16", "bfloat16")
    assert choose_dtypes("float16", "auto", "cuda", False) == ("float16", "float16")
    for dtype, kv, device, says in [
        ("float16", "auto", "cpu", "--dtype float16: expected auto, float32 or bfloat16 on a CPU"),
        ("auto", "fp8", "cpu", "--kv-dtype fp8: expected auto, float32, bfloat16, int8 on a CPU"),
        ("auto", "int8", "cuda", "--kv-dtype int8: expected auto or fp8 on a GPU"),
        ("auto", "bfloat16", "cuda", "--kv-dtype bfloat16: expected auto or fp8 on a GPU"),
    ]:
        with pytest.raises(UsageError, match=says):
            choose_dtypes(dtype, kv, device, True)
    for dtype, kv, device in [
        ("bfloat16", "auto", "cpu"),
        ("auto", "int8", "cpu"),
        ("auto", "fp8", "cuda"),
    ]:
        with pytest.raises(UsageError, match="for models that run through transformers"):
            choose_dtypes(dtype, kv, device, False)


def test_a_cpu_has_any_cache_with_any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgen.device.has_bf16_products", lambda: True)
    for dtype in ("float32", "bfloat16"):
        assert choose_dtypes(dtype, "auto", "cpu", True) == (dtype, dtype)
        for kv in ("float32", "bfloat16", "int8"):
            assert choose_dtypes(dtype, kv, "cpu", True) == (dtype, kv)


def test_fp8_caches_need_a_gpu_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, refused in (((8, 6), True), ((8, 9), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=found: found)
        if not refused:
            assert choose_dtypes("auto", "fp8", "cuda", True)[1] == "float8_e4m3fn"
            continue
        with pytest.raises(UsageError, match="--kv-dtype fp8: needs a GPU of compute capability"):
            choose_dtypes("auto", "fp8", "cuda", True)


def test_bf16_needs_a_processor_with_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgen.device.has_bf16_products", lambda: False)
    with pytest.raises(UsageError, match="--dtype bfloat16: this processor has no bf16 products"):
        choose_dtypes("bfloat16", "auto", "cpu", True)
    assert choose_dtypes("auto", "bfloat16", "cpu", True) == ("float32", "bfloat16")


def test_fp8_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    assert choose_dtypes("auto", "fp8", "cuda", True) == ("bfloat16", "float8_e4m3fn")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    with pytest.raises(UsageError, match=r"compute capability 8\.9"):
        choose_dtypes("auto", "fp8", "cuda", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(generate_200: Callable[..., Any], tmp_path: Path) -> None:
    assert choose_device("auto") == "cpu"
    ended = generate_200(tmp_path / "out", "--device", "cuda")
    assert (ended.code, ended.err) == (
        2,
        "cdgen: --device cuda: PyTorch sees no CUDA device here\n",
    )


# ---- a device that is too small ----------------------------------------------------------------


def test_out_of_memory_halves_the_slots_and_says_so(
    generate_200: Callable[..., Any], tmp_path: Path, small_device: None
) -> None:
    ended = generate_200(tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "64 slots do not fit into the device: trying 32" in ended.err
    plan = CorpusFolder(tmp_path / "out").plan
    assert (plan.slots, plan.range_size) == (32, 8 * 32)
    assert generate_200(tmp_path / "out").code == 0  # the plan's slots, not 64 again


def test_out_of_memory_with_slots_that_were_asked_for(
    generate_200: Callable[..., Any], tmp_path: Path, small_device: None
) -> None:
    ended = generate_200(tmp_path / "out", "--slots", 48)
    assert ended.code == 4
    assert "48 slots do not fit into the device's memory" in ended.err
    assert not (tmp_path / "out").exists()


# ---- a device that fails in the middle ---------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_device_that_fails_costs_the_range_at_hand(
    generate_200: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    published: Callable[[Path], dict[str, bytes]],
    error: type[Exception],
) -> None:
    ranges = ("--range-size", 32)
    assert generate_200(tmp_path / "whole", *ranges).code == 0
    through, calls = SlotEngine.generate, []

    def failing(self: SlotEngine, requests: Iterator[Request]) -> Iterator[Sequence]:
        calls.append(0)
        for number, sequence in enumerate(through(self, requests)):
            if len(calls) == 3 and number == 5:
                raise error("CUDA error: unspecified launch failure")
            yield sequence

    with monkeypatch.context() as patched:
        patched.setattr(SlotEngine, "generate", failing)
        ended = generate_200(tmp_path / "failed", *ranges)
    assert ended.code == 75
    assert "Run the same command again to resume" in ended.err and "launch failure" in ended.err
    assert status(tmp_path / "failed").ranges_done == 2
    assert generate_200(tmp_path / "failed", *ranges).code == 0
    assert published(tmp_path / "failed") == published(tmp_path / "whole")
