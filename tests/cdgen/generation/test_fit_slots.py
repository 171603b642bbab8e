"""The slots of a run: as many as the memory holds, and none that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.pair import open_pair
from cdgen.engine.memory import MemoryNeeds, plan_memory
from cdgen.errors import ModelError
from cdgen.generation import build_engine, fit_slots

pytestmark = pytest.mark.usefixtures("one_thread")


def plan_of(total: int) -> Any:
    """Return what counts of a plan of `total` sequences of 4 + 20 tokens on a GPU."""
    return SimpleNamespace(
        num_sequences=total,
        prompts=SimpleNamespace(prompt_tokens=4),
        max_new_tokens=20,
        dtype="bfloat16",
        kv_dtype="bfloat16",
        device_type="cuda",
        logprobs=False,
    )


def test_auto_slots_are_what_the_memory_holds(
    tiny_pair: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny pair has 2 + 1 layers of 2 KV heads of 8, 24 tokens, and 2 bytes a number."""
    pair = open_pair(tiny_pair.good, parse_bad(str(tiny_pair.bad)))

    def slots(total: int) -> int:
        return fit_slots.auto_slots(plan_of(total), pair)

    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: 80 * 2**30)
    assert slots(10**6) == 4096
    assert slots(100) == 112
    shapes = fit_slots.shapes_of(pair, 24)
    assert shapes is not None
    needs = MemoryNeeds(*shapes, capacity=24, dtype_bytes=2, kv_bytes=2)
    needed = sum(plan_memory(needs, 1024).values())
    capsys.readouterr()
    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: int(needed / 0.9) + 1)
    assert slots(10**6) == 1024
    said = capsys.readouterr().err
    assert "GiB (weights 0.00, kv 0.00, " in said and "for 1024 slots, 0." in said
    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: 2**20)
    with pytest.raises(ModelError, match="16 slots x 24 tokens need"):
        slots(100)


def test_a_window_leaves_room_for_more_slots(
    tiny_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of 24 tokens is GOOD's; BAD's has 3. Both run on GOOD's weights."""
    pair = open_pair(tiny_pair.good, parse_bad("window:3"))
    shapes = fit_slots.shapes_of(pair, 24)
    assert shapes is not None and shapes[0] == shapes[1]
    needs = MemoryNeeds(
        *shapes, capacity=24, dtype_bytes=2, kv_bytes=2, shared_weights=True, bad_window=3
    )
    needed = sum(plan_memory(needs, 1024).values())
    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: int(needed / 0.9) + 1)
    assert fit_slots.auto_slots(plan_of(10**6), pair) == 1024


@pytest.mark.parametrize(
    ("kv_dtype", "head"), [("float32", 8 * 4), ("bfloat16", 8 * 2), ("int8", 8 + 4)]
)
def test_slots_that_do_not_fit_are_refused_before_anything_is_loaded(
    kv_dtype: str,
    head: int,
    generate_200: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 slots x 24 tokens x 3 layers (2 + 1) x 2 heads of 8, keys and values; int8 has a scale of
    4 bytes per head."""
    needed = 16 * 24 * 3 * 2 * 2 * head
    flags = ("--slots", 16, "--kv-dtype", kv_dtype)
    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: needed)
    assert generate_200(tmp_path / "fits", *flags).code == 0
    monkeypatch.setattr(fit_slots, "free_bytes", lambda _: needed - 1)
    monkeypatch.setattr(build_engine, "load_tensors", None)
    ended = generate_200(tmp_path / "out", *flags)
    assert ended.code == 4
    assert "16 slots x 24 tokens need 0.00 GiB (kv 0.00), 0.00 GiB are free" in ended.err
    assert not (tmp_path / "out").exists()
