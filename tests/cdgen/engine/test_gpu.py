"""The slot engine on a GPU: graphs, stacked models, two streams, prompts in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.engine.sequences import Limits, Request, Sequence
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.gpu

SEED, SLOTS, CAPACITY, VOCABULARY = 0x5EED_0000_0001, 64, 64, 48
STOPPING = Limits(20, (1,), True)
CD = SamplingParams(alpha=0.1)
REQUESTS = [
    Request(n + (n % 3 << 40), [0, *((7 * n + i) % 46 + 2 for i in range(n % 9))])
    for n in range(200)
]
CASES = ["twins", "dropout", "two shapes", "one model"]


def decoder(
    *folders: Path,
    device: str,
    dtype: torch.dtype = torch.float32,
    dropout: Dropout | None = None,
    kv_dtype: torch.dtype | None = None,
) -> Decoder:
    checkpoints = [open_checkpoint(folder) for folder in folders]
    shape = lean_config(checkpoints[0].config, CAPACITY)
    assert shape is not None
    tensors = [load_tensors(checkpoint, torch.float32) for checkpoint in checkpoints]
    return Decoder(
        shape,
        tensors,
        SLOTS,
        CAPACITY,
        device=torch.device(device),
        dtype=dtype,
        dropout=dropout,
        kv_dtype=kv_dtype,
    )


@pytest.fixture
def engine(tiny_pair: Any, tiny_twin: Path) -> Callable[..., SlotEngine]:
    """Return the engine of a case on a device, as generation/build_engine.py builds it there."""

    def make(case: str, device: str, **kinds: Any) -> SlotEngine:
        good, dropout = tiny_pair.good, Dropout(0.4, SEED)
        bad, params = None, CD
        if case == "one model":
            first, params = decoder(good, device=device, **kinds), SamplingParams(bad_weight=0.0)
        elif case == "two shapes":
            first = decoder(good, device=device, **kinds)
            bad = decoder(tiny_pair.bad, device=device, **kinds)
        elif case == "dropout":
            first = decoder(good, device=device, dropout=dropout, **kinds)
        else:
            first = decoder(good, tiny_twin, device=device, **kinds)
        return SlotEngine(
            first, bad, EngineSettings(params, STOPPING, SEED, VOCABULARY, logprobs=True)
        )

    return make


def by_id(sequences: Iterator[Sequence]) -> dict[int, Sequence]:
    found = list(sequences)
    table = {sequence.sequence_id: sequence for sequence in found}
    assert len(table) == len(found) == len(REQUESTS)
    return table


@pytest.mark.parametrize("case", CASES)
def test_a_graph_in_fp32_writes_what_the_cpu_writes(
    engine: Callable[..., SlotEngine], case: str
) -> None:
    """Logits round differently on the two devices: 1 sequence in 50 may differ at a near tie."""
    expected = by_id(engine(case, "cpu").generate(REQUESTS))
    found = by_id(engine(case, "cuda").generate(REQUESTS))
    parted = [i for i, s in expected.items() if s.tokens != found[i].tokens]
    assert len(parted) <= len(REQUESTS) // 50
    for i in expected.keys() - parted:
        assert found[i].finish_reason == expected[i].finish_reason
        assert found[i].good_logprob == pytest.approx(expected[i].good_logprob, abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_graphs_write_what_their_steps_write_one_by_one(
    engine: Callable[..., SlotEngine], case: str, dtype: torch.dtype
) -> None:
    """The bits are equal, also if the host does not lag and with other numbers of steps per
    graph."""
    expected = by_id(engine(case, "cuda", dtype=dtype).generate(REQUESTS))
    eager = engine(case, "cuda", dtype=dtype)
    eager.runner.prepare = lambda: None  # type: ignore[method-assign]
    assert by_id(eager.generate(REQUESTS)) == expected
    other = engine(case, "cuda", dtype=dtype)
    other = SlotEngine(
        other.good,
        other.bad,
        other.settings,
        steps=3,
        ahead=0,
    )
    assert by_id(other.generate(REQUESTS)) == expected


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_order_and_company_change_nothing(
    engine: Callable[..., SlotEngine], kv_dtype: torch.dtype
) -> None:
    if kv_dtype is torch.float8_e4m3fn and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    kinds = {"dtype": torch.bfloat16, "kv_dtype": kv_dtype}
    expected = by_id(engine("twins", "cuda", **kinds).generate(REQUESTS))
    again = engine("twins", "cuda", **kinds)
    assert by_id(again.generate(reversed(REQUESTS))) == expected
    for part in (REQUESTS[:70], REQUESTS[70:71]):  # one engine after the other, other company
        found = list(again.generate(part))
        assert all(s == expected[s.sequence_id] for s in found) and len(found) == len(part)


def test_shards_write_the_same_corpus(tiny_pair: Any, prompts: Path, tmp_path: Path) -> None:
    """The whole command writes files with equal hashes."""
    pytest.importorskip("pydantic")
    from cdgen.corpus.finalize import finalize
    from cdgen.generation.config import GenerateConfig
    from cdgen.generation.run import generate

    def run(out: Path, *shards: str) -> str:
        for shard in shards:
            values = {
                "good": tiny_pair.good, "bad": str(tiny_pair.bad), "prompts": str(prompts),
                "out": out, "num_sequences": 40, "max_new_tokens": 20, "prompt_tokens": 4,
                "range_size": 32, "shard": shard, "workers": 1, "device": "cuda",
                "format": "jsonl",
            }  # fmt: skip
            generate(GenerateConfig.model_validate(values))
        if len(shards) > 1:
            finalize(out)
        return (out / "manifest.json").read_text()

    assert run(tmp_path / "one", "0/1") == run(tmp_path / "three", "2/3", "0/3", "1/3")
