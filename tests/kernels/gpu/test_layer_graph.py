"""The ops of a decoder layer under torch.compile."""

from __future__ import annotations

import pytest
import torch
from layer_cases import normal_on
from rotary_cases import ROWS, problem

from cdgen.kernels.rms_norm import rms_norm
from cdgen.kernels.rotary_to_cache import rotary_to_cache
from cdgen.kernels.swiglu import swiglu


def test_compiles_into_one_graph(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled graph has the same results and the same in-place effects as eager calls."""
    # Called for CPU tensors only; the compiler cannot trace how it reads Triton's settings.
    monkeypatch.setattr("cdgen.kernels.dispatch.interpreting", lambda: True)
    weight = normal_on(device, torch.float32, 256, seed=2)

    def layer(
        x: torch.Tensor, delta: torch.Tensor, rotary: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        qkv = rms_norm(x, delta, weight, 1e-6, backend="triton")
        query = rotary_to_cache(**(rotary | {"qkv": qkv}), backend="triton")
        return swiglu(query.flatten(1), backend="triton") + x[:, :64]

    results = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        x, delta = (normal_on(device, torch.float32, ROWS, 256, seed=seed) for seed in (0, 1))
        rotary = problem(device, 4, 2, 32)
        results.append((call(x, delta, rotary), x, rotary["keys"], rotary["values"]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
