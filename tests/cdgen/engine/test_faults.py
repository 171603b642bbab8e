"""What would stop, delay or mislead a run on a GPU and can be seen without one.

Tensors on "meta" stand for those on the device: they have shapes, dtypes and a place, so that what
mixes places, or asks for a value, shows.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.engine import slot_engine, slots
from cdgen.engine.paired import PairedModels
from cdgen.engine.sequences import Limits, Request, Sequence
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS, CAPACITY, VOCABULARY = 16, 64, 48
OPS = (
    "advance_slots",
    "decode_attention",
    "gelu",
    "layer_norm",
    "rms_norm",
    "rotary_to_cache",
    "sample_contrastive",
    "swiglu",
)


# ---- what waits for the device -----------------------------------------------------------------


class Waits(TorchDispatchMode):
    """A record of the ops for which the host would wait: those that ask for a value, that copy
    between places, or that write a Python number at indices, which PyTorch 2.11 copies first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        name = str(op)
        asks = "local_scalar" in name or "nonzero" in name
        copies = len({x.device.type for x in tensors}) > 1
        if asks or copies or ("index_put" in name and args[2].dim() == 0):
            self.found.append(name)
        return out


@pytest.fixture
def on_meta(
    monkeypatch: pytest.MonkeyPatch, tiny_pair: Any, tiny_twin: Path, tiny_others: dict[str, Path]
) -> Callable[[str], SlotEngine]:
    """Return the engine of a case as `cdgen.generation.build_engine` builds it on a GPU."""
    for name in OPS:
        monkeypatch.setattr(f"cdgen.kernels.{name}.choose_backend", lambda *_: "triton")

    def decoder(
        *folders: Path,
        kv_dtype: Any = None,
        dropout: Dropout | None = None,
        exit_layers: int | None = None,
    ) -> Decoder:
        checkpoints = [open_checkpoint(folder) for folder in folders]
        shape = lean_config(checkpoints[0].config, CAPACITY)
        assert shape is not None
        return Decoder(
            shape,
            [load_tensors(c, torch.float32) for c in checkpoints],
            SLOTS,
            CAPACITY,
            device=torch.device("meta"),
            dtype=torch.bfloat16,
            kv_dtype=kv_dtype,
            dropout=dropout,
            exit_layers=exit_layers,
        )

    def make(case: str) -> SlotEngine:
        good, params, bad = tiny_pair.good, SamplingParams(), None
        if case == "two shapes":
            first, bad = decoder(good), decoder(tiny_others["gpt_neox"])
        elif case == "every token plausible":
            first, bad = decoder(good), decoder(tiny_others["gpt2"])
            params = SamplingParams(alpha=0.0)
        elif case == "dropout":
            first = decoder(good, dropout=Dropout(0.4, 1 << 40))
        elif case == "early exit":
            first = decoder(good, exit_layers=1)
        elif case == "twins of GPT-2":
            first = decoder(tiny_others["gpt2"], tiny_others["gpt2"])
        else:
            first = decoder(good, tiny_twin, kv_dtype=torch.float8_e4m3fn)
        limits = Limits(20, (1,), True)
        return SlotEngine(
            first, bad, EngineSettings(params, limits, 0, VOCABULARY, logprobs=True), prefills=True
        )

    return make


CASES = [
    "twins, fp8",
    "twins of GPT-2",
    "two shapes",
    "every token plausible",
    "dropout",
    "early exit",
]


@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device(on_meta: Callable[[str], SlotEngine], case: str) -> None:
    """A step that waits could not be captured in a graph."""
    engine = on_meta(case)
    with torch.inference_mode(), Waits() as waits:
        engine.runner.run()
    assert waits.found == []


@pytest.mark.parametrize("case", CASES)
def test_no_admission_waits_for_the_device(
    on_meta: Callable[[str], SlotEngine], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences are admitted between launches, while one is running."""
    engine, waits = on_meta(case), Waits()

    def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
        return torch.empty_like(x, device=device)  # by way of pinned memory, without a wait

    for module in (slots, slot_engine):
        monkeypatch.setattr(module, "to_device", to_device)
    with torch.inference_mode(), waits:
        engine._refill(iter([Request(n, [2] * (1 + n % 5)) for n in range(SLOTS)]))
    assert [name for name in waits.found if "empty_like" not in name] == []


class Launches(TorchDispatchMode):
    """A record of the ops that launch a kernel: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not op.is_view:
            self.ops.append(op.name().partition(".")[0])
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES)
def test_one_launch_follows_the_draw(on_meta: Callable[[str], SlotEngine], case: str) -> None:
    engine = on_meta(case)
    engine.slots.settings = replace(engine.settings, logprobs=False)
    with torch.inference_mode(), Launches() as launches:
        engine.runner.run()
    one_step = launches.ops[: len(launches.ops) // len(engine.runner.records[0])]
    assert one_step[-2:] == ["cdgen::sample_contrastive", "cdgen::advance_slots"]


def test_launches_of_a_step_of_two_stacked_llamas(on_meta: Callable[[str], SlotEngine]) -> None:
    """Nine a layer and nine more: 117 of 12 layers, as docs/kernels.md has it."""
    engine = on_meta("twins, fp8")
    engine.slots.settings = replace(engine.settings, logprobs=False)
    with torch.inference_mode(), Launches() as launches:
        engine.slots.step(*(records[0] for records in engine.runner.records))
    layers, found = engine.good.config.num_hidden_layers, Counter(launches.ops)
    assert found == {
        "aten::bmm": 4 * layers,
        "aten::linear": 1,  # GOOD's head
        "cdgen::rms_norm": 2 * layers + 1,
        **{f"cdgen::{op}": layers for op in ("rotary_to_cache", "decode_attention", "swiglu")},
        "cdgen::sample_contrastive": 1,
        "cdgen::advance_slots": 1,
        "aten::add": 3,
        "aten::mul": 1,
        "aten::embedding": 1,
    }
    assert sum(found.values()) == 9 * layers + 9


# ---- streams -----------------------------------------------------------------------------------


def test_a_step_that_fails_joins_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the end of a capture raises that work is unjoined, and an out-of-memory error is
    not recognised, so slots are not halved."""
    waited: list[object] = []
    here = SimpleNamespace(wait_stream=waited.append)
    beside = SimpleNamespace(wait_stream=lambda stream: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: beside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: here)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())

    def fails(*_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model: Any = SimpleNamespace(device=torch.device("cuda"), forward=fails)
    settings = EngineSettings(SamplingParams(), Limits(1, (), False), 0, VOCABULARY)
    pair = PairedModels(model, model, settings)
    with pytest.raises(torch.OutOfMemoryError):
        pair.hidden(*(torch.zeros(1, dtype=torch.int64) for _ in range(3)))
    assert waited == [beside]


# ---- through the command -----------------------------------------------------------------------


@pytest.fixture
def small_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make prompts of more than 32 slots run out of memory, but not the steps."""
    make = SlotEngine.__post_init__

    def construct(self: SlotEngine) -> None:
        self.prefills = True
        make(self)

    def prefill(decoder: Decoder, *_: Any) -> None:
        if decoder.slots > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(SlotEngine, "__post_init__", construct)
    monkeypatch.setattr("cdgen.engine.slot_engine.prefill", prefill)


def test_slots_whose_prompts_do_not_fit_are_halved(
    generate_200: Callable[..., Any], tmp_path: Path, small_prefill: None
) -> None:
    ended = generate_200(tmp_path / "out")
    assert "64 slots do not fit into the device: trying 32" in ended.err


def test_a_run_with_halved_slots_resumes_by_the_same_command(
    generate_200: Callable[..., Any], tmp_path: Path, small_device: None
) -> None:
    command = (tmp_path / "out", "--range-size", 64)
    assert generate_200(*command).code == 0
    assert generate_200(*command).code == 0


@pytest.mark.parametrize(
    "message",
    [
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
    ],
)
def test_a_gpu_that_triton_or_cublas_finds_lost_costs_the_range_at_hand(
    generate_200: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    """Triton and cuBLAS both raise RuntimeError; prefilling calls them between graphs."""
    through = SlotEngine.generate

    def failing(self: SlotEngine, requests: Iterator[Request]) -> Iterator[Sequence]:
        yield next(through(self, requests))
        raise RuntimeError(message)

    monkeypatch.setattr(SlotEngine, "generate", failing)
    assert generate_200(tmp_path / "out").code == 75


@pytest.mark.thorough
def test_workers_on_the_cpu_where_gpus_are_hidden(
    generate_200: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    flags = ("--device", "cpu", "--workers", 2, "--range-size", 16)
    assert generate_200(tmp_path / "out", *flags).code == 0


# ---- a machine with a GPU and no build ----------------------------------------------------------

_UNBUILT = """
import sys
class NotThere:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name == "cdgen.kernels._cpu" else self.finder.find_spec(name, path)
sys.meta_path[:] = [NotThere(finder) for finder in sys.meta_path]
import cdgen.engine.slot_engine
"""


def test_the_engine_imports_where_the_native_kernels_are_not_built() -> None:
    run = subprocess.run([sys.executable, "-c", _UNBUILT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
